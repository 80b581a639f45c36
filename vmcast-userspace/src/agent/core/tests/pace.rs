//! A VMR that falls silent, noticed by the pace of its streams.

use super::*;

/// One VMR is known, and a stream comes from it that ends when it dies.
fn with_one_that_falls_silent() -> Bed {
    let mut bed = Bed::new();
    bed.offer(&[0]);
    bed.run(LATER);
    bed.join(GROUP);
    bed.flow(Duration::from_secs(10));
    bed.vmrs[0].alive = false;
    bed
}

#[test]
fn a_vmr_that_was_restarted_is_noticed_by_the_pace_of_the_stream() {
    // proves E3
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.flow(Duration::from_secs(10));
    bed.restart(0);
    bed.flow(Duration::from_millis(700));
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    assert!(!bed.events.contains(&Event::Silent(bed.candidate(0))));
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
    assert!(bed.vmrs[1..].iter().all(|vmr| vmr.memberships.is_empty()));
}

#[test]
fn a_vmr_that_was_restarted_before_anything_flowed_is_asked_again_after_three_seconds_of_silence() {
    // proves E3
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.run(Duration::from_millis(100));
    bed.restart(0);
    bed.run(Duration::from_millis(3700));
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
    assert!(bed.events.contains(&Event::Silent(bed.candidate(0))));
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
    assert!(bed.vmrs[1..].iter().all(|vmr| vmr.memberships.is_empty()));
}

#[test]
fn a_vmr_that_dies_under_a_stream_is_replaced_within_a_second() {
    // proves A7, E3
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.flow(Duration::from_secs(10));
    bed.vmrs[0].alive = false;
    bed.flow(Duration::from_millis(600));
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint), "it was given time to answer");
    let before = bed.data.len();
    bed.flow(Duration::from_millis(400));
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint));
    assert!(bed.data.len() > before, "the stream flows again 1 s after the death");
    let downs = bed.events.iter().filter(|event| matches!(event, Event::Down(..))).count();
    assert_eq!(downs, 1);
    assert!(bed.vmrs[2].memberships.is_empty());
}

#[test]
fn a_second_vmr_that_is_dead_too_holds_a_stream_up_two_seconds_more() {
    // proves A7, E3
    let mut bed = Bed::attached();
    bed.offer(&[0, 1, 2]);
    bed.join(GROUP);
    bed.flow(Duration::from_secs(10));
    bed.vmrs[0].alive = false;
    bed.vmrs[1].alive = false;
    bed.flow(Duration::from_secs(8));
    assert_eq!(bed.core.state().0, UpstreamState::Up);
    assert_eq!(bed.current(), Some(bed.vmrs[2].endpoint));
    assert_eq!(bed.wanted_at(2, GROUP), Some(&Filter::any()));
}

#[test]
fn a_source_that_pauses_moves_no_stream_and_is_asked_for_ever_more_rarely() {
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.flow(Duration::from_secs(10));
    let requests = |bed: &Bed| bed.core.gateway_counters().expect("a tunnel").requests;
    let before = requests(&bed);
    for _ in 0..6 {
        bed.run(Duration::from_secs(100));
        bed.join(GROUP);
    }
    let asked = bed.events.iter().filter(|event| matches!(event, Event::Silent(_))).count();
    assert!((8..=10).contains(&asked), "{asked} times in ten minutes");
    // The handshakes of every 30 s come on top.
    assert!(requests(&bed) - before <= 10 + 22, "{}", requests(&bed) - before);
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
    assert!(!bed.events.iter().any(|event| matches!(event, Event::Down(..))));
    assert_eq!(bed.vmrs[0].tunnels, 1);
    let before = bed.data.len();
    bed.flow(LATER);
    assert!(bed.data.len() > before, "and flows again when the source does");
}

#[test]
fn the_only_vmr_is_not_given_up_early_and_its_death_is_still_said_once() {
    let mut bed = with_one_that_falls_silent();
    bed.flow(Duration::from_secs(8));
    assert_eq!(bed.core.state().0, UpstreamState::Up, "nobody else could do better");
    bed.flow(Duration::from_secs(60));
    let downs = bed.events.iter().filter(|event| matches!(event, Event::Down(..))).count();
    assert_eq!((bed.core.state().0, downs), (UpstreamState::Down, 1));
    let silences = bed.events.iter().filter(|event| matches!(event, Event::Silent(_))).count();
    assert_eq!(silences, 1, "to ask again would start the repetitions over");
    bed.restart(0);
    bed.flow(MAX_RETRANSMISSION + LATER);
    assert_eq!(bed.core.state().0, UpstreamState::Up);
    assert_eq!(bed.wanted_at(0, GROUP), Some(&Filter::any()));
}

// proves A6: the VMR has another address, which whoever names it knows
#[test]
fn the_only_vmr_is_followed_to_another_address_as_soon_as_it_is_named_there() {
    let mut bed = with_one_that_falls_silent();
    bed.flow(LATER);
    let unanswered =
        |bed: &Bed| bed.events.iter().filter(|event| matches!(event, Event::Unanswered(_))).count();
    assert_eq!(unanswered(&bed), 1, "{:?}", bed.events);
    bed.offer(&[1]);
    let before = bed.data.len();
    bed.flow(Duration::from_millis(200));
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint));
    assert!(bed.data.len() > before);
    assert_eq!(bed.wanted_at(1, GROUP), Some(&Filter::any()));
    assert!(bed.vmrs[2].memberships.is_empty());
}

#[test]
fn an_only_vmr_that_answered_after_all_is_not_left_for_another_that_is_named() {
    let mut bed = with_one_that_falls_silent();
    bed.flow(LATER);
    assert!(bed.events.iter().any(|event| matches!(event, Event::Unanswered(_))));
    bed.vmrs[0].alive = true;
    bed.flow(Duration::from_secs(8));
    bed.offer(&[1, 0]);
    bed.flow(LATER);
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
    assert!(bed.vmrs[1].memberships.is_empty());
}

#[test]
fn nothing_is_looked_after_while_nothing_is_wanted() {
    let mut bed = Bed::attached();
    bed.join(GROUP);
    bed.flow(LATER);
    bed.leave(GROUP);
    bed.run(Duration::from_secs(100));
    assert!(!bed.events.iter().any(|event| matches!(event, Event::Silent(_))));
    assert_eq!(bed.core.watch.next(), None);
}

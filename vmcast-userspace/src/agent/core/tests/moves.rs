//! Moves from one VMR to another under a stream.

use super::*;

impl Bed {
    /// A numbered stream flows from both of the first VMRs where it was asked for; the second is so many packets
    /// ahead, or behind.
    fn flow_numbered(&mut self, numbers: std::ops::Range<i32>, ahead: i32) {
        let end = numbers.end;
        for number in numbers {
            for (index, number) in [(0, number), (1, number + ahead)] {
                let vmr = &self.vmrs[index];
                let asked = vmr.alive && vmr.memberships.contains_key(&GROUP.into());
                if asked && (0..end).contains(&number) {
                    let endpoint = vmr.endpoint.to_string();
                    self.send(&endpoint, SOURCE, GROUP, &number.to_be_bytes());
                }
            }
            self.run(Duration::from_millis(10));
        }
    }

    fn drain_vmrs(&mut self, vmrs: &[usize]) {
        let ids = vmrs.iter().map(|index| id(*index)).collect();
        self.input(Input::Draining(ids));
    }

    /// An agent at the first of two VMRs that the admin has named.
    fn named() -> Self {
        let mut bed = Self::new();
        let named = |index| Candidate { id: Some(id(index)), ..bed.candidate(index) };
        let candidates = vec![named(0), named(1)];
        bed.input(Input::Candidates(candidates));
        bed.run(Duration::from_secs(1));
        bed.join(GROUP);
        bed
    }

    fn numbers(&self) -> Vec<i32> {
        let number = |packet: &Vec<u8>| i32::from_be_bytes(*packet.last_chunk().expect("a number"));
        self.data.iter().map(number).collect()
    }
}

fn id(index: usize) -> NodeId {
    format!("v{index}").parse().expect("an id")
}

#[test]
fn an_agent_leaves_a_vmr_that_goes_without_losing_or_doubling_a_packet_or_changing_their_order() {
    // proves A7, E3
    for ahead in [-20, -3, -1, 0, 1, 3, 20] {
        let mut bed = Bed::named();
        bed.flow_numbered(0..100, ahead);
        bed.drain_vmrs(&[0]);
        bed.flow_numbered(100..400, ahead);
        assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint), "ahead {ahead}");
        assert!(bed.vmrs[0].memberships.is_empty(), "the VMR that goes has no member");
        let last = bed.numbers().last().copied().expect("packets") + 1;
        assert!(last >= 380, "ahead {ahead}: the stream flows on to {last}");
        assert_eq!(bed.numbers(), (0..last).collect::<Vec<_>>(), "ahead {ahead}");
        let left = bed.events.iter().filter(|event| matches!(event, Event::Left(_))).count();
        let downs = bed.events.iter().filter(|event| matches!(event, Event::Down(..))).count();
        assert_eq!((left, downs), (1, 0));
        assert!(bed.vmrs[2].memberships.is_empty() && bed.vmrs[2].tunnels == 0);
    }
}

#[test]
fn an_agent_stays_at_a_vmr_that_goes_until_another_one_answers() {
    // proves A7, E3
    let mut bed = Bed::named();
    bed.vmrs[1].alive = false;
    bed.flow_numbered(0..100, 0);
    bed.drain_vmrs(&[0]);
    bed.flow_numbered(100..2_000, 0);
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
    assert_eq!(bed.numbers(), (0..2_000).collect::<Vec<_>>());
    bed.restart(1);
    bed.flow_numbered(2_000..20_000, 0);
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint), "the other one is tried again");
    assert_eq!(bed.numbers(), (0..20_000).collect::<Vec<_>>());
}

#[test]
fn a_vmr_that_dies_while_it_is_left_interrupts_nothing_that_comes_from_the_other() {
    // proves A7, E3
    let mut bed = Bed::named();
    bed.flow_numbered(0..100, 0);
    bed.drain_vmrs(&[0]);
    bed.vmrs[0].alive = false;
    bed.flow_numbered(100..200, 0);
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint));
    let numbers = bed.numbers();
    assert!(numbers.is_sorted_by(|one, next| one < next), "in order, each once");
    assert_eq!(numbers.last(), Some(&199));
}

/// A VMR as somebody has named it.
fn by(bed: &Bed, index: usize, stands_in: Option<StandIn>) -> Candidate {
    Candidate { id: stands_in.is_none().then(|| id(index)), stands_in, ..bed.candidate(index) }
}

#[test]
fn the_fallback_is_left_for_the_nearest_that_an_admin_names_without_losing_or_doubling_a_packet() {
    // proves A2, A7
    let fallback = Some(StandIn::Fallback);
    // Whether the admin names the fallback, too, further down.
    for others in [&[1][..], &[1, 0], &[1, 2]] {
        let mut bed = Bed::new();
        let candidates = vec![by(&bed, 0, fallback), by(&bed, 2, fallback)];
        bed.input(Input::Candidates(candidates));
        bed.run(Duration::from_secs(1));
        bed.join(GROUP);
        bed.flow_numbered(0..100, 0);
        // The order of those that stand in moves nobody.
        let candidates = vec![by(&bed, 2, fallback), by(&bed, 0, fallback)];
        bed.input(Input::Candidates(candidates));
        bed.flow_numbered(100..200, 0);
        assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
        let candidates = others.iter().map(|index| by(&bed, *index, None)).collect();
        bed.input(Input::Candidates(candidates));
        bed.flow_numbered(200..400, 0);
        assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint), "{others:?}");
        assert_eq!(bed.core.upstream().map(|(candidate, _)| candidate.stands_in), Some(None));
        assert!(bed.vmrs[0].memberships.is_empty() && bed.vmrs[2].tunnels == 0);
        assert_eq!(bed.numbers(), (0..400).collect::<Vec<_>>(), "{others:?}");
    }
}

#[test]
fn a_vmr_that_was_named_before_stays_while_an_admin_names_it_and_else_is_left() {
    // proves A2, A7
    for (named, then) in [(vec![1, 0], 0), (vec![1, 2], 1), (vec![], 0)] {
        let mut bed = Bed::new();
        let kept = |index| Candidate { id: Some(id(index)), ..by(&bed, index, Some(StandIn::Kept)) };
        let candidates = vec![kept(0), kept(1)];
        bed.input(Input::Candidates(candidates));
        bed.run(Duration::from_secs(1));
        bed.join(GROUP);
        bed.flow_numbered(0..100, 0);
        let candidates: Vec<_> = named.iter().map(|index| by(&bed, *index, None)).collect();
        bed.input(Input::Candidates(candidates));
        bed.flow_numbered(100..400, 0);
        assert_eq!(bed.current(), Some(bed.vmrs[then].endpoint), "{named:?}");
        let stands_in = bed.core.upstream().and_then(|(candidate, _)| candidate.stands_in);
        assert_eq!(stands_in.is_some(), named.is_empty(), "of an empty list nothing is known");
        assert_eq!(bed.numbers(), (0..400).collect::<Vec<_>>(), "{named:?}");
    }
}

#[test]
fn where_nothing_flows_a_vmr_that_goes_is_left_at_once_and_what_is_joined_meanwhile_goes_along() {
    // proves A7
    let mut bed = Bed::named();
    bed.drain_vmrs(&[0]);
    bed.report(3, OTHER_GROUP, &[SOURCE]);
    bed.run(Duration::from_secs(1));
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint));
    assert_eq!(bed.wanted_at(1, OTHER_GROUP), Some(&include(SOURCE)));
    assert!(bed.vmrs[0].memberships.is_empty());
    // One that is back in service is a VMR like others.
    bed.drain_vmrs(&[]);
    bed.vmrs[1].alive = false;
    bed.run(Duration::from_secs(60));
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
}

// proves A2: a fallback may be an address where many relays answer, and a VMR that an admin names is none
#[test]
fn a_fallback_is_asked_for_the_nearest_relay_and_what_an_admin_names_is_not() {
    use vmcast_wire::amt::Message;
    let cases = [
        (true, Some(StandIn::Fallback), true),
        (true, Some(StandIn::Kept), false),
        (true, None, false),
        (false, None, true),
    ];
    for (only_fallback, stands_in, asks) in cases {
        let mut bed = Bed::new();
        bed.core.discover(only_fallback);
        let candidate = Candidate { stands_in, ..bed.candidate(0) };
        bed.core.handle_input(bed.now, Input::Candidates(vec![candidate.clone()]));
        let mut said = Vec::new();
        while let Some(output) = bed.core.poll_output() {
            if let Output::ToTunnel { remote, bytes } = output {
                assert_eq!(remote, candidate.endpoint);
                said.push(matches!(Message::parse(&bytes), Ok(Message::RelayDiscovery { .. })));
            }
        }
        assert_eq!(said, [asks], "{stands_in:?}");
    }
}

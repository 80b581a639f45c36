//! Why joins are refused.

use super::*;

// proves D4: what does not come is asked for, and its reason is shown as long as it holds and the host wants the group
#[test]
fn what_does_not_come_is_asked_for_and_a_refusal_is_shown_until_it_ends() {
    let (group, other) = (IpAddr::from(GROUP), IpAddr::from(OTHER_GROUP));
    let mut bed = Bed::new();
    let named = Candidate { id: Some("core".parse().expect("an id")), ..bed.candidate(0) };
    bed.join(GROUP);
    assert_eq!(bed.core.missing(bed.now), None, "there is no VMR");
    bed.input(Input::Candidates(vec![named]));
    bed.run(Duration::from_secs(1));
    let missing = |bed: &Bed| {
        let question = bed.core.missing(bed.now).expect("a VMR that an admin has named");
        assert_eq!((question.vmr.as_str(), question.tunnel), ("core", at(AGENT)));
        Vec::from_iter(question.missing)
    };
    assert_eq!(missing(&bed), [group]);
    bed.flow(Duration::from_secs(1));
    assert!(missing(&bed).is_empty(), "it comes");
    // Of two sources one does.
    bed.report(5, OTHER_GROUP, &[SOURCE, OTHER_SOURCE]);
    bed.run(Duration::from_secs(1));
    bed.send("192.0.2.1:2268", SOURCE, OTHER_GROUP, b"one");
    assert_eq!(missing(&bed), [other]);
    bed.send("192.0.2.1:2268", OTHER_SOURCE, OTHER_GROUP, b"the other");
    assert!(missing(&bed).is_empty());
    bed.run(Duration::from_secs(6));
    assert_eq!(missing(&bed), [other, group], "nothing comes any more");

    bed.events.clear();
    let refusal = |reason: &str| {
        RefusedGroups::from([(other, reason.to_owned()), ([239, 9, 9, 9].into(), "x".to_owned())])
    };
    for _ in 0..2 {
        bed.input(Input::Refused(refusal("a rule")));
    }
    assert_eq!(bed.core.refused_groups().collect::<Vec<_>>(), [(other, "a rule")], "of what is wanted");
    bed.input(Input::Refused(refusal("another rule")));
    bed.input(Input::Refused(RefusedGroups::new()));
    assert_eq!(
        bed.events,
        [
            Event::Refused(other, "a rule".to_owned()),
            Event::Refused(other, "another rule".to_owned()),
            Event::NoLongerRefused(other)
        ]
    );
    assert_eq!(bed.core.refusals_told(), 2);
    bed.input(Input::Refused(refusal("a rule")));
    bed.leave(OTHER_GROUP);
    bed.report(6, OTHER_GROUP, &[SOURCE, OTHER_SOURCE]);
    assert_eq!(bed.core.refused_groups().count(), 0, "it is left");
}

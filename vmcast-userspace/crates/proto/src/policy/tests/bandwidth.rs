//! Limits of bandwidth.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::*;
use crate::policy::{Bandwidth, Limited};

const MEGABIT: u64 = 1_000_000;

/// Members and streams by virtual time.
struct Bed {
    policy: Policy,
    bandwidth: Bandwidth,
    now: Instant,
    bytes: BTreeMap<(u8, u8), u64>,
    has: BTreeMap<(u32, u8), Filter>,
}

fn group(last: u8) -> IpAddr {
    [239, 1, 1, last].into()
}

impl Bed {
    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn new(rules: Vec<Rule>) -> Self {
        let (now, bytes, has) = (Instant::now(), BTreeMap::new(), BTreeMap::new());
        Self { policy: policy(rules), bandwidth: Bandwidth::default(), now, bytes, has }
    }

    /// Streams, by group and source, send so many bits per second for a time.
    fn flow(&mut self, seconds: u64, streams: &[(u8, u8, u64)]) {
        for _ in 0..=seconds {
            for &(of, source, bits) in streams {
                let bytes = self.bytes.entry((of, source)).or_default();
                self.bandwidth.note(self.now, group(of), Some(host(source)), *bytes);
                *bytes += bits / 8;
            }
            self.now += Duration::from_secs(1);
        }
    }

    fn join(&mut self, member: u32, of: u8, wanted: Filter) -> Option<Reason> {
        let subject = Some(IpAddr::from([10, 5, 1, member as u8]));
        let allowed = self.policy.receive(subject, group(of), &wanted, 0).filter;
        let parts = self.policy.limited(subject, group(of), &allowed);
        let had = self.has.remove(&(member, of)).unwrap_or_default();
        let (given, refused) = self.bandwidth.admit(member, group(of), &had, allowed, parts);
        assert!(refused.is_some() || given == wanted);
        self.has.insert((member, of), given);
        refused
    }

    fn any(&mut self, member: u32, of: u8) -> Option<Reason> {
        self.join(member, of, Filter::any())
    }
}

fn limited(megabits: u64, declared: u64) -> Rule {
    Rule {
        max_bits: Some(megabits * MEGABIT),
        stream_bits: Some(declared * MEGABIT),
        ..rule(4, Effect::Allow)
    }
}

const FULL: Option<Reason> = Some(Reason::TooMuchBandwidth { rule: 4, limit: 10 * MEGABIT });

// proves D4: limits of bandwidth, judged at the join
#[test]
fn a_join_beyond_the_limit_is_refused_until_there_is_room() {
    let mut bed = Bed::new(vec![limited(10, 0)]);
    bed.flow(3, &[(1, 1, 6 * MEGABIT), (2, 1, 6 * MEGABIT), (3, 1, 4 * MEGABIT)]);
    assert_eq!(bed.any(1, 1), None);
    assert_eq!(bed.any(1, 2), FULL);
    assert_eq!(bed.any(1, 3), None, "exactly the limit is within");
    assert_eq!(bed.any(2, 2), None, "a neighbour has a limit of its own");
    assert_eq!(bed.bandwidth.used(1), 10 * MEGABIT);
    assert_eq!(bed.join(1, 1, Filter::none()), None);
    assert_eq!(bed.any(1, 2), None, "one is left, and there is room");
    bed.bandwidth.gone(1);
    assert_eq!(bed.bandwidth.used(1), 0);
}

#[test]
fn what_flows_is_not_cut_although_it_takes_more_or_another_policy_comes() {
    let mut bed = Bed::new(vec![limited(10, 0)]);
    bed.flow(3, &[(1, 1, MEGABIT)]);
    assert_eq!(bed.any(1, 1), None);
    bed.flow(60, &[(1, 1, 20 * MEGABIT), (2, 1, MEGABIT)]);
    assert_eq!((bed.any(1, 1), bed.any(1, 2)), (None, FULL), "it leaves no room");
    bed.policy = policy(vec![limited(5, 0)]);
    assert_eq!(bed.any(1, 1), None);
    assert_eq!(bed.any(1, 3), Some(Reason::TooMuchBandwidth { rule: 4, limit: 5 * MEGABIT }));
}

#[test]
fn a_stream_that_was_not_measured_takes_what_the_rule_declares() {
    let mut bed = Bed::new(vec![limited(10, 4)]);
    assert_eq!((bed.any(1, 1), bed.any(1, 2), bed.any(1, 3)), (None, None, FULL));
    // Measured it takes less; silent for minutes it takes the same, and then counts as declared again.
    bed.flow(30, &[(1, 1, MEGABIT)]);
    assert_eq!(bed.any(1, 3), None);
    assert_eq!(bed.bandwidth.used(1), 9 * MEGABIT);
    bed.now += Duration::from_secs(300);
    bed.flow(1, &[(9, 9, 0)]);
    assert_eq!(bed.bandwidth.used(1), 9 * MEGABIT);
    bed.now += Duration::from_secs(400);
    bed.flow(1, &[(9, 9, 0)]);
    assert_eq!(bed.bandwidth.used(1), 12 * MEGABIT);
}

#[test]
fn a_source_that_gets_a_stream_of_its_own_is_counted_once() {
    let mut bed = Bed::new(vec![limited(10, 7)]);
    for second in 0..3 {
        bed.bandwidth.note(bed.now, group(1), None, second * 6 * MEGABIT / 8);
        bed.now += Duration::from_secs(1);
    }
    assert_eq!(bed.any(1, 1), None);
    assert_eq!(bed.bandwidth.used(1), 6 * MEGABIT);
    for second in 0..3 {
        bed.bandwidth.note(bed.now, group(1), None, 2 * 6 * MEGABIT / 8);
        bed.bandwidth.note(bed.now, group(1), Some(host(1)), second * 5 * MEGABIT / 8);
        bed.now += Duration::from_secs(1);
    }
    assert_eq!(bed.bandwidth.used(1), 5 * MEGABIT);
}

#[test]
fn of_several_sources_those_come_for_which_there_is_room() {
    let mut bed = Bed::new(vec![limited(10, 0)]);
    bed.flow(3, &[(1, 1, 6 * MEGABIT), (1, 2, 6 * MEGABIT), (1, 3, 3 * MEGABIT)]);
    let three = Filter::Include([host(1), host(2), host(3)].into());
    assert_eq!(bed.join(1, 1, three.clone()), FULL);
    let given = |bed: &Bed| bed.has[&(1, 1)].clone();
    assert_eq!(given(&bed), Filter::Include([host(1), host(3)].into()));
    assert_eq!(bed.join(1, 1, three), FULL, "again the same");
    assert_eq!(given(&bed), Filter::Include([host(1), host(3)].into()));
    assert_eq!(bed.any(2, 1), FULL, "all of them are beyond it");
    assert!(bed.has[&(2, 1)].is_none());
    assert_eq!(bed.join(3, 1, Filter::Exclude([host(1)].into())), None, "without one they are not");
}

proptest! {
    // Compared with sums made afresh of everything that was admitted: nobody is admitted beyond his limit, nobody is
    // refused within it, and what he had he keeps.
    #[test]
    fn admission_is_as_a_naive_model_says(
        steps in proptest::collection::vec((0u32..3, 0u8..5, any::<bool>(), 0u8..4), 1..60),
        rates in proptest::collection::vec(0u64..8, 5 * 4),
        declared in 0u64..4,
    ) {
        let mut bed = Bed::new(vec![limited(10, declared)]);
        // A rate of 0 is that of a stream which nobody has measured.
        let rate = |of: u8, source: u8| rates[usize::from(of) * 4 + usize::from(source)];
        let streams: Vec<_> = (0..5)
            .flat_map(|of| (0..4).map(move |source| (of, source)))
            .filter(|(of, source)| rate(*of, *source) > 0)
            .map(|(of, source)| (of, source, rate(of, source) * MEGABIT))
            .collect();
        bed.flow(1, &streams);
        let takes = |of: u8, filter: &Filter| match filter {
            Filter::Include(sources) => (0..4)
                .filter(|source| sources.contains(&host(*source)))
                .map(|source| if rate(of, source) > 0 { rate(of, source) } else { declared })
                .sum::<u64>(),
            Filter::Exclude(_) => match (0..4).map(|source| rate(of, source)).sum() {
                0 => declared,
                sum => sum,
            },
        };
        for (member, of, any, sources) in steps {
            let wanted = if any {
                Filter::any()
            } else {
                Filter::Include((0..sources).map(host).collect())
            };
            let others = |has: &BTreeMap<(u32, u8), Filter>| {
                has.iter().filter(|((m, g), _)| *m == member && *g != of).map(|((_, g), has)| takes(*g, has)).sum::<u64>()
            };
            let before = bed.has.get(&(member, of)).cloned().unwrap_or_default();
            let refused = bed.join(member, of, wanted.clone());
            let (used, given) = (others(&bed.has), bed.has[&(member, of)].clone());
            prop_assert_eq!(bed.bandwidth.used(member), (used + takes(of, &given)) * MEGABIT);
            for source in (0..4).map(host).filter(|source| wanted.wants(*source)) {
                let kept = before.wants(source) && (!any || before == Filter::any());
                prop_assert!(!kept || given.wants(source));
            }
            match (&given, any) {
                _ if given == wanted => prop_assert!(refused.is_none()),
                (_, true) => prop_assert!(used + takes(of, &wanted) > 10 && given.is_none()),
                (Filter::Include(has), false) => {
                    for source in (0..sources).filter(|source| !has.contains(&host(*source))) {
                        let alone = takes(of, &Filter::Include([host(source)].into()));
                        prop_assert!(used + takes(of, &given) + alone > 10, "{source} had room");
                    }
                }
                (Filter::Exclude(_), false) => prop_assert!(false),
            }
            let news = !given.is_none() && given != before;
            let kept = Filter::Include((0..4).map(host).filter(|s| given.wants(*s) && before.wants(*s)).collect());
            if news && kept.is_none() {
                prop_assert!(used + takes(of, &given) <= 10, "beyond the limit");
            }
        }
    }
}

#[test]
fn a_limit_for_some_sources_holds_for_whoever_asks_for_all() {
    let of_one = Rule { source: prefix("192.0.2.1/32"), ..limited(10, 4) };
    let policy = policy(vec![of_one, rule(5, Effect::Allow)]);
    let parts = |filter: &Filter| policy.limited(Some([10, 5, 1, 2].into()), group(1), filter);
    let part = |source| Limited { source, rule: 4, limit: 10 * MEGABIT, declared: 4 * MEGABIT };
    assert_eq!(parts(&Filter::any()), [part(None)]);
    assert_eq!(parts(&Filter::Exclude([host(1)].into())), []);
    assert_eq!(parts(&Filter::Include([host(1), host(2)].into())), [part(Some(host(1)))]);
    assert!(policy.limits_bandwidth());
}

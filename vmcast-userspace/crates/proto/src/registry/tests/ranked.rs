//! The ranked list beside a cached answer.

use std::{collections::BTreeSet, time::Duration};

use super::*;

/// VMRs whose addresses are alike to the requesters' in the order of their names.
const VMRS: [&str; 4] = ["203.0.113.1:2268", "203.0.112.1:2268", "203.0.128.1:2268", "192.0.2.1:2268"];

struct Bed(Registry<MemoryStore>);

fn measured(vmr: usize, hops: u8) -> Measurement {
    let endpoint = VMRS[vmr].parse().expect("an endpoint");
    Measurement { vmr: id(&format!("v{vmr}")), endpoint, hops, rtt: Duration::from_millis(7) }
}

impl Bed {
    /// The VMRs and two agents of one network prefix.
    fn new() -> Self {
        let mut bed = Self(Registry::new(Config::default(), MemoryStore::default()));
        for (vmr, endpoint) in VMRS.into_iter().enumerate() {
            bed.register(T0, vmr, endpoint, Load::default());
        }
        bed.agents(T0);
        bed
    }

    fn agents(&mut self, now: UnixMillis) {
        for (name, seen) in [("a", "203.0.113.5"), ("b", "203.0.113.6")] {
            self.0.register(now, ip(seen), registration(name, Role::Agent, &[])).expect("registered");
        }
    }

    fn register(&mut self, now: UnixMillis, vmr: usize, endpoint: &str, load: Load) {
        let mut vmr = registration(&format!("v{vmr}"), Role::Vmr { rank: 0 }, &[endpoint]);
        vmr.about.load = load;
        self.0.register(now, ip(VMRS[0].split(':').next().expect("an address")), vmr).expect("registered");
    }

    /// `a` reports; the nearest is the last in the order of addresses.
    fn report(&mut self, now: UnixMillis, arrived: &[usize]) {
        let report = Report {
            node: id("a"),
            seen: ip("203.0.113.5"),
            claimed: vec![],
            chosen: measured(3, 1),
            measurements: vec![measured(3, 1), measured(0, 9), measured(2, 2), measured(1, 4)],
            arrived: arrived.iter().map(|vmr| measured(*vmr, 5)).collect(),
        };
        self.0.report(now, &report).expect("taken");
    }

    /// What `b` is told: whether from the cache of its prefix, and whom in which order.
    fn told(&mut self, now: UnixMillis, others: usize, excluded: &[&str]) -> (bool, Vec<String>) {
        let query = Query {
            node: id("b"),
            seen: ip("203.0.113.6"),
            claimed: vec![],
            excluded: excluded.iter().map(|name| id(name)).collect::<BTreeSet<_>>(),
            current: None,
            after: None,
            limit: None,
            others,
        };
        let answer = self.0.nearest(now, &query).expect("an answer");
        let names = answer.vmrs.iter().chain(&answer.others).map(|vmr| vmr.id().to_string()).collect();
        (answer.kind == AnswerKind::CachedPrefix, names)
    }

    /// Whom the list of the cache names behind the nearest.
    fn shown(&self, now: UnixMillis) -> Vec<Vec<String>> {
        let others = |entry: &CacheEntry| entry.others.iter().map(|other| other.vmr.to_string()).collect();
        self.0.cache(now, None, 9).iter().map(others).collect()
    }
}

// proves A4
#[test]
fn whoever_is_answered_from_the_cache_holds_the_measured_order() {
    let mut bed = Bed::new();
    assert_eq!(bed.told(T0, 8, &[]), (false, names(&["v0", "v1", "v2", "v3"])), "by addresses, unmeasured");
    bed.report(T0, &[]);
    assert_eq!(bed.told(T0, 8, &[]), (true, names(&["v3", "v2", "v1", "v0"])));
    assert_eq!(bed.told(T0, 2, &[]), (true, names(&["v3", "v2", "v1"])));
    assert_eq!(bed.told(T0, 0, &[]), (true, names(&["v3"])));
    assert_eq!(bed.told(T0, 8, &["v1"]), (true, names(&["v3", "v2", "v0"])), "one that it found dead");
    assert_eq!(bed.shown(T0), [names(&["v2", "v1", "v0"]), names(&["v2", "v1", "v0"])]);
}

// proves A5
#[test]
fn an_order_of_arrival_is_kept_though_hops_say_otherwise() {
    let mut bed = Bed::new();
    bed.report(T0, &[3, 1, 0, 1, 2]);
    assert_eq!(bed.told(T0, 8, &[]), (true, names(&["v3", "v1", "v0", "v2"])));
}

#[test]
fn who_was_not_measured_is_named_behind_those_who_were() {
    let mut bed = Bed::new();
    bed.report(T0, &[3, 2]);
    assert_eq!(bed.told(T0, 8, &[]), (true, names(&["v3", "v2", "v0", "v1"])));
}

#[test]
fn of_many_measurements_the_nearest_are_kept_and_none_that_cannot_be_true() {
    let mut bed = Bed::new();
    let arrived: Vec<_> =
        (0..9).map(|n| Measurement { vmr: id(&format!("w{n}")), ..measured(0, n) }).collect();
    for (n, vmr) in arrived.iter().enumerate() {
        let endpoint = format!("198.51.100.{n}:2268");
        let vmr = registration(vmr.vmr.as_str(), Role::Vmr { rank: 0 }, &[&endpoint]);
        bed.0.register(T0, ip("198.51.100.1"), vmr).expect("registered");
    }
    let at_own = |n: usize| {
        let endpoint = format!("198.51.100.{n}:2268").parse().expect("an endpoint");
        Measurement { endpoint, ..arrived[n].clone() }
    };
    // The first is said to be where another one is, and two are none.
    let arrived = vec![
        arrived[0].clone(),
        Measurement { vmr: id("a"), ..measured(0, 1) },
        Measurement { vmr: id("nobody"), ..measured(0, 1) },
        at_own(8),
        measured(3, 1),
        at_own(7),
        at_own(1),
        at_own(2),
        at_own(3),
    ];
    let (chosen, node, seen) = (measured(3, 1), id("a"), ip("203.0.113.5"));
    bed.0
        .report(T0, &Report { node, seen, claimed: vec![], chosen, measurements: vec![], arrived })
        .expect("taken");
    assert_eq!(bed.shown(T0)[0], names(&["w8", "w7", "w1", "w2"]));

    let arrived = vec![measured(3, 1); Config::default().max_measurements + 1];
    let (chosen, node, seen) = (measured(3, 1), id("a"), ip("203.0.113.5"));
    let flood = Report { node, seen, claimed: vec![], chosen, measurements: vec![], arrived };
    let Err(Error::Refused(refused)) = bed.0.report(T0, &flood) else { panic!("taken") };
    assert_eq!(refused.reason(), RefusalReason::TooManyMeasurements);
}

#[test]
fn one_that_goes_drains_or_is_busy_leaves_the_order_and_one_that_moves_ends_it() {
    let mut bed = Bed::new();
    bed.report(T0, &[]);
    bed.0.deregister(T0, &id("v2")).expect("gone");
    assert_eq!(bed.told(T0, 8, &[]), (true, names(&["v3", "v1", "v0"])));
    assert_eq!(bed.shown(T0)[0], names(&["v1", "v0"]));
    bed.register(T0, 1, VMRS[1], Load { connections: 99, capacity: 100 });
    assert_eq!(bed.told(T0, 8, &[]), (true, names(&["v3", "v0"])));
    bed.register(T0, 1, VMRS[1], Load::default());
    bed.0.drain(T0, &id("v1"), true).expect("drained");
    assert_eq!(bed.told(T0, 8, &[]), (true, names(&["v3", "v0"])));
    assert_eq!(bed.shown(T0)[0], names(&["v0"]));
    bed.register(T0, 0, "203.0.113.9:2268", Load::default());
    assert_eq!(bed.told(T0, 8, &[]), (false, names(&["v0", "v3"])));
    assert!(bed.shown(T0).is_empty());
}

// proves A4
#[test]
fn one_whose_lease_ended_is_not_named_before_anybody_swept_up() {
    let mut bed = Bed::new();
    bed.report(T0, &[]);
    for vmr in [0, 1, 3] {
        bed.register(seconds(50), vmr, VMRS[vmr], Load::default());
    }
    bed.agents(seconds(50));
    assert_eq!(bed.told(seconds(61), 8, &[]), (true, names(&["v3", "v1", "v0"])));
}

fn names(of: &[&str]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

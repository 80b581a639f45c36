//! The rules one by one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::*;

type Outcome<T> = Result<T, Error<std::convert::Infallible>>;

const LEASE: u64 = 60;

struct Bed(Registry<MemoryStore>);

impl Bed {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        Self(Registry::new(config, MemoryStore::default()))
    }

    fn vmr(&mut self, now: UnixMillis, name: &str, rank: u32, endpoint: &str) -> Outcome<Lease> {
        let seen = endpoint.rsplit_once(':').expect("a port").0;
        self.0.register(now, ip(seen), registration(name, Role::Vmr { rank }, &[endpoint]))
    }

    fn agent(&mut self, now: UnixMillis, name: &str, seen: &str) {
        self.0.register(now, ip(seen), registration(name, Role::Agent, &[])).expect("registered");
    }

    /// Two VMRs, `v0` at the source and `v1` below it, and an agent.
    fn small() -> Self {
        let mut bed = Self::new();
        bed.vmr(T0, "v0", 0, "192.0.2.1:2268").expect("registered");
        bed.vmr(T0, "v1", 1, "198.51.100.1:2268").expect("registered");
        bed.agent(T0, "a", "203.0.113.5");
        bed
    }

    fn ask(&mut self, now: UnixMillis, name: &str, seen: &str) -> Outcome<(AnswerKind, Vec<String>)> {
        self.ask_without(now, name, seen, &[])
    }

    fn ask_without(
        &mut self,
        now: UnixMillis,
        name: &str,
        seen: &str,
        excluded: &[&str],
    ) -> Outcome<(AnswerKind, Vec<String>)> {
        let excluded: BTreeSet<_> = excluded.iter().map(|name| id(name)).collect();
        let query = Query {
            node: id(name),
            seen: ip(seen),
            claimed: vec![],
            excluded,
            current: None,
            after: None,
            limit: None,
            others: 0,
        };
        let answer = self.0.nearest(now, &query)?;
        self.0.forget(&answer.untrue)?;
        Ok((answer.kind, answer.vmrs.iter().map(|vmr| vmr.id().to_string()).collect()))
    }

    fn report(
        &mut self,
        now: UnixMillis,
        from: (&str, &str),
        vmr: (&str, &str),
        hops: u8,
    ) -> Outcome<Reported> {
        let chosen = measurement(vmr, hops);
        let (node, seen) = (id(from.0), ip(from.1));
        let measurements = vec![chosen.clone()];
        self.0.report(now, &Report { node, seen, claimed: vec![], chosen, measurements, arrived: vec![] })
    }

    fn refused(&self, reason: RefusalReason) -> u64 {
        self.0.counters().refusals.of(reason)
    }
}

fn measurement((vmr, endpoint): (&str, &str), hops: u8) -> Measurement {
    let endpoint = endpoint.parse().expect("an endpoint");
    Measurement { vmr: id(vmr), endpoint, hops, rtt: Duration::from_millis(7) }
}

const V0: (&str, &str) = ("v0", "192.0.2.1:2268");
const V1: (&str, &str) = ("v1", "198.51.100.1:2268");
const A: (&str, &str) = ("a", "203.0.113.5");

fn refusal<T: std::fmt::Debug>(outcome: Outcome<T>) -> Refusal {
    match outcome {
        Err(Error::Refused(refusal)) => refusal,
        Err(Error::Store(never)) => match never {},
        Ok(granted) => panic!("granted: {granted:?}"),
    }
}

fn answer(kind: AnswerKind, vmrs: &[&str]) -> (AnswerKind, Vec<String>) {
    (kind, vmrs.iter().map(ToString::to_string).collect())
}

// proves A2
#[test]
fn a_lease_that_is_not_renewed_ends_at_its_time_and_not_before() {
    let mut bed = Bed::small();
    assert_eq!(bed.0.nodes(seconds(LEASE - 1), None, 10).len(), 3);
    bed.vmr(seconds(30), "v0", 0, V0.1).expect("renewed");

    let left = bed.0.nodes(seconds(LEASE), None, 10);
    assert_eq!(left.iter().map(NodeRecord::id).collect::<Vec<_>>(), [&id("v0")], "no sweep is needed");
    assert_eq!(bed.0.expire(seconds(LEASE)).expect("expire"), [id("a"), id("v1")]);
    assert_eq!(bed.0.expire(seconds(LEASE)).expect("expire"), []);
    assert_eq!(bed.0.counters().expirations, 2);
    assert_eq!(bed.0.expire(seconds(30 + LEASE)).expect("expire"), [id("v0")]);
}

// proves A2
#[test]
fn a_renewal_keeps_the_start_and_a_return_after_expiry_does_not() {
    let mut bed = Bed::new();
    let outcome = |lease: Lease| lease.outcome;
    assert_eq!(bed.vmr(T0, "v0", 0, V0.1).map(outcome).expect("granted"), Registered::New);
    assert_eq!(bed.vmr(seconds(20), "v0", 0, V0.1).map(outcome).expect("granted"), Registered::Renewed);
    assert_eq!(bed.0.nodes(seconds(20), None, 1)[0].registered, T0);
    assert_eq!(bed.vmr(seconds(80), "v0", 0, V0.1).map(outcome).expect("granted"), Registered::New);
    assert_eq!(bed.0.nodes(seconds(80), None, 1)[0].registered, seconds(80));
    let counters = bed.0.counters();
    assert_eq!((counters.registrations, counters.renewals, counters.moves), (2, 1, 0));
}

#[test]
fn an_endpoint_of_a_live_vmr_is_refused_to_another_id_until_the_lease_has_run_out() {
    let mut bed = Bed::small();
    let refused = refusal(bed.vmr(seconds(59), "thief", 0, V0.1));
    let endpoint = V0.1.parse().expect("an endpoint");
    assert_eq!(refused, Refusal::Duplicate { endpoint, holder: id("v0") });
    assert!(refused.to_string().contains("192.0.2.1:2268") && refused.to_string().contains("v0"));
    assert_eq!(bed.refused(RefusalReason::Duplicate), 1);
    assert_eq!(bed.0.nodes(seconds(59), None, 9).len(), 3, "nothing changed");

    bed.vmr(seconds(60), "heir", 0, V0.1).expect("taken over");
    assert_eq!(bed.0.counters().takeovers, 1);
    let nodes = bed.0.nodes(seconds(60), None, 9);
    assert_eq!(nodes.iter().map(NodeRecord::id).collect::<Vec<_>>(), [&id("heir")]);
}

#[test]
fn the_same_address_with_another_port_is_another_endpoint() {
    let mut bed = Bed::small();
    bed.vmr(T0, "beside", 0, "192.0.2.1:2269").expect("registered");
}

#[test]
fn agents_behind_different_nats_may_have_the_same_private_endpoint_but_not_behind_one() {
    let mut bed = Bed::new();
    let at = |name: &str| registration(name, Role::Agent, &["192.168.1.2:2268"]);
    bed.0.register(T0, ip("203.0.113.1"), at("home-1")).expect("registered");
    bed.0.register(T0, ip("203.0.113.2"), at("home-2")).expect("registered");
    let refused = refusal(bed.0.register(T0, ip("203.0.113.2"), at("copy")));
    assert!(matches!(refused, Refusal::Duplicate { holder, .. } if holder == id("home-2")));
}

#[test]
fn unusable_registrations_are_refused_with_their_reason() {
    let mut bed = Bed::with(Config { max_endpoints: 2, ..Config::default() });
    let vmr = Role::Vmr { rank: 0 };
    let mut refused = |role, endpoints: &[&str]| {
        refusal(bed.0.register(T0, ip("192.0.2.9"), registration("n", role, endpoints))).reason()
    };
    assert_eq!(refused(vmr, &[]), RefusalReason::NoEndpoint);
    let three = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"];
    assert_eq!(refused(vmr, &three), RefusalReason::TooManyEndpoints);
    for endpoint in
        ["192.0.2.1:0", "0.0.0.0:2268", "[::]:2268", "232.1.1.1:2268", "255.255.255.255:1", "[ff02::1]:1"]
    {
        assert_eq!(refused(Role::Agent, &[endpoint]), RefusalReason::UnusableEndpoint, "{endpoint}");
    }
    assert_eq!(bed.0.nodes(T0, None, 9), []);
    assert_eq!(bed.0.counters().refusals.iter().map(|(_, n)| n).sum::<u64>(), 8);
}

#[test]
fn endpoints_are_kept_once_each_and_mapped_addresses_are_ipv4() {
    let mut bed = Bed::new();
    let endpoints = ["192.0.2.1:2268", "[::ffff:192.0.2.1]:2268", "[2001:db8::1]:2268"];
    bed.0
        .register(T0, ip("::ffff:192.0.2.1"), registration("v", Role::Vmr { rank: 0 }, &endpoints))
        .expect("registered");
    let record = bed.0.nodes(T0, None, 1).remove(0);
    assert_eq!(record.seen, ip("192.0.2.1"));
    let kept: Vec<_> = record.registration.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(kept, ["192.0.2.1:2268", "[2001:db8::1]:2268"]);
}

#[test]
fn a_full_registry_refuses_newcomers_but_renews_and_makes_room_of_the_expired() {
    let mut bed = Bed::with(Config { max_nodes: 2, ..Config::default() });
    bed.agent(T0, "a", "192.0.2.1");
    bed.agent(seconds(30), "b", "192.0.2.2");
    let c = registration("c", Role::Agent, &[]);
    assert_eq!(refusal(bed.0.register(seconds(59), ip("192.0.2.3"), c.clone())), Refusal::Full { limit: 2 });
    bed.agent(seconds(59), "b", "192.0.2.2");
    bed.0.register(seconds(60), ip("192.0.2.3"), c).expect("a has expired");
    assert_eq!(bed.refused(RefusalReason::Full), 1);
}

#[test]
fn ids_and_names_are_checked() {
    assert_eq!("".parse::<NodeId>(), Err(NodeIdError::Empty));
    assert_eq!("a".repeat(65).parse::<NodeId>(), Err(NodeIdError::TooLong(65)));
    assert_eq!("a b".parse::<NodeId>(), Err(NodeIdError::Character { character: ' ', offset: 1 }));
    assert_eq!("é".parse::<NodeId>(), Err(NodeIdError::Character { character: 'é', offset: 0 }));
    assert_eq!(id("vmr-1_a.b:c").as_str(), "vmr-1_a.b:c");
    assert_eq!("x\u{1b}[2J".parse::<Label>(), Err(LabelError::Control(1)));
    assert_eq!("a".repeat(65).parse::<Label>(), Err(LabelError::TooLong(65)));
    assert_eq!("Kölner Straße".parse::<Label>().expect("a label").as_str(), "Kölner Straße");
}

// proves A3
#[test]
fn on_a_miss_an_agent_gets_every_live_vmr_and_no_agent() {
    let mut bed = Bed::small();
    assert_eq!(bed.ask(T0, "a", A.1).expect("answer"), answer(AnswerKind::All, &["v0", "v1"]));
    bed.agent(seconds(30), "a", A.1);
    bed.vmr(seconds(30), "v1", 1, V1.1).expect("renewed");
    assert_eq!(bed.ask(seconds(60), "a", A.1).expect("answer"), answer(AnswerKind::All, &["v1"]));
}

// proves A3
#[test]
fn a_vmr_gets_only_vmrs_above_it_and_never_itself() {
    let mut bed = Bed::small();
    bed.vmr(T0, "v1b", 1, "198.51.100.2:2268").expect("registered");
    bed.vmr(T0, "v2", 2, "198.51.100.3:2268").expect("registered");
    assert_eq!(bed.ask(T0, "v0", "192.0.2.1").expect("answer"), answer(AnswerKind::All, &[]));
    assert_eq!(bed.ask(T0, "v1", "198.51.100.1").expect("answer"), answer(AnswerKind::All, &["v0"]));
    let all = answer(AnswerKind::All, &["v1b", "v1", "v0"]);
    assert_eq!(bed.ask(T0, "v2", "198.51.100.3").expect("answer"), all);
}

#[test]
fn who_is_not_registered_is_told_so() {
    let mut bed = Bed::small();
    assert_eq!(refusal(bed.ask(T0, "nobody", A.1)), Refusal::NotRegistered(id("nobody")));
    assert_eq!(refusal(bed.ask(seconds(60), "a", A.1)), Refusal::NotRegistered(id("a")));
    assert_eq!(refusal(bed.report(seconds(60), A, V0, 3)), Refusal::NotRegistered(id("a")));
    assert_eq!(bed.refused(RefusalReason::NotRegistered), 3);
}

// proves A4
#[test]
fn after_a_report_the_address_and_then_its_prefix_get_one_vmr_and_a_stranger_gets_all() {
    let mut bed = Bed::small();
    let reported = bed.report(T0, A, V1, 3).expect("taken");
    assert_eq!(reported.prefix, Some("203.0.113.0/24".parse().expect("a prefix")));
    assert_eq!(bed.ask(T0, "a", A.1).expect("answer"), answer(AnswerKind::CachedAddress, &["v1"]));

    bed.agent(T0, "neighbour", "203.0.113.200");
    let by_prefix = bed.ask(T0, "neighbour", "203.0.113.200").expect("answer");
    assert_eq!(by_prefix, answer(AnswerKind::CachedPrefix, &["v1"]));
    bed.agent(T0, "stranger", "203.0.114.5");
    let all = bed.ask(T0, "stranger", "203.0.114.5").expect("answer");
    assert_eq!(all, answer(AnswerKind::All, &["v0", "v1"]));
    let counters = bed.0.counters();
    assert_eq!(
        (counters.nearest_cached_address, counters.nearest_cached_prefix, counters.nearest_all),
        (1, 1, 1)
    );
}

// proves A3
#[test]
fn the_exact_address_wins_over_the_prefix() {
    let mut bed = Bed::small();
    bed.agent(T0, "b", "203.0.113.6");
    bed.report(T0, A, V1, 3).expect("taken");
    let reported = bed.report(T0, ("b", "203.0.113.6"), V0, 4).expect("taken");
    assert_eq!(reported.prefix, None, "the prefix keeps the nearer one");
    assert_eq!(bed.ask(T0, "b", "203.0.113.6").expect("answer"), answer(AnswerKind::CachedAddress, &["v0"]));
    bed.agent(T0, "c", "203.0.113.7");
    assert_eq!(bed.ask(T0, "c", "203.0.113.7").expect("answer"), answer(AnswerKind::CachedPrefix, &["v1"]));
    assert_eq!(bed.0.counters().prefix_kept, 1);
}

// proves A4
#[test]
fn the_prefix_follows_a_nearer_report_the_same_vmr_and_its_own_reporter() {
    let mut bed = Bed::small();
    let b = ("b", "203.0.113.6");
    bed.agent(T0, b.0, b.1);
    let set = |outcome: Outcome<Reported>| outcome.expect("taken").prefix.is_some();
    assert!(set(bed.report(T0, A, V1, 3)));
    assert!(!set(bed.report(T0, b, V0, 3)), "equally far is not nearer");
    assert!(set(bed.report(T0, b, V0, 2)), "nearer");
    assert!(set(bed.report(T0, A, V0, 5)), "the same VMR, measured later");
    assert!(set(bed.report(T0, A, V1, 9)), "its own reporter measured again");
}

#[test]
fn ipv6_requesters_share_a_prefix_of_56_bits() {
    let mut bed = Bed::small();
    for (name, seen) in [("x", "2001:db8:1:100::1"), ("y", "2001:db8:1:1ff::1"), ("z", "2001:db8:1:200::1")] {
        bed.agent(T0, name, seen);
    }
    bed.report(T0, ("x", "2001:db8:1:100::1"), V1, 3).expect("taken");
    let kind = |outcome: Outcome<(AnswerKind, Vec<String>)>| outcome.expect("answer").0;
    assert_eq!(kind(bed.ask(T0, "y", "2001:db8:1:1ff::1")), AnswerKind::CachedPrefix);
    assert_eq!(kind(bed.ask(T0, "z", "2001:db8:1:200::1")), AnswerKind::All);
}

// proves A3
#[test]
fn agents_and_vmrs_of_each_rank_in_one_prefix_do_not_spoil_each_others_answers() {
    let mut bed = Bed::small();
    bed.vmr(T0, "v2", 2, "203.0.113.2:2268").expect("registered");
    bed.report(T0, A, ("v2", "203.0.113.2:2268"), 1).expect("taken");
    let all = answer(AnswerKind::All, &["v0", "v1"]);
    assert_eq!(bed.ask(T0, "v2", "203.0.113.2").expect("answer"), all, "the agents' entry names v2 itself");
    bed.report(T0, ("v2", "203.0.113.2"), V1, 2).expect("taken");
    assert_eq!(bed.ask(T0, "v2", "203.0.113.2").expect("answer"), answer(AnswerKind::CachedAddress, &["v1"]));
    assert_eq!(bed.ask(T0, "a", A.1).expect("answer"), answer(AnswerKind::CachedAddress, &["v2"]));
}

#[test]
fn an_entry_that_names_a_vmr_that_sank_below_the_requester_is_removed() {
    let mut bed = Bed::new();
    bed.vmr(T0, "v0", 0, V0.1).expect("registered");
    // The store of a registry whose last process stopped between two rules.
    let mut store = bed.0.into_store();
    let mut stale = conformance::entry(Scope::Vmrs(1), "198.51.100.1/32", "sunk", u64::MAX);
    stale.nearest.endpoint = "192.0.2.7:2268".parse().expect("an endpoint");
    let mut own = conformance::entry(Scope::Vmrs(1), "198.51.100.0/24", "v1", u64::MAX);
    own.nearest.endpoint = V1.1.parse().expect("an endpoint");
    store.commit(&[Change::PutEntry(stale), Change::PutEntry(own)]).expect("commit");

    let vmr =
        |name: &str, endpoint: &str| conformance::node(name, Role::Vmr { rank: 1 }, &[endpoint], u64::MAX);
    let changes = [Change::PutNode(vmr("v1", V1.1)), Change::PutNode(vmr("sunk", "192.0.2.7:2268"))];
    store.commit(&changes).expect("commit");
    bed.0 = Registry::new(Config::default(), store);

    let all = answer(AnswerKind::All, &["v0"]);
    assert_eq!(bed.ask(T0, "v1", "198.51.100.1").expect("answer"), all, "neither the sunk nor itself");
    assert_eq!(bed.0.counters().stale_entries, 2);
    assert_eq!(bed.0.cache(T0, None, 9), []);
}

// proves A4
#[test]
fn a_vmr_that_comes_has_everybody_measure_again_and_one_that_renews_or_an_agent_does_not() {
    let mut bed = Bed::small();
    bed.report(T0, ("a", A.1), V1, 2).expect("taken");
    let cached = answer(AnswerKind::CachedAddress, &["v1"]);
    bed.vmr(T0, "v1", 1, V1.1).expect("renewed");
    bed.agent(T0, "b", "203.0.113.6");
    assert_eq!(bed.ask(T0, "a", A.1).expect("answer"), cached);
    bed.vmr(T0, "nearer", 2, "203.0.113.1:2268").expect("registered");
    let all = answer(AnswerKind::All, &["nearer", "v0", "v1"]);
    let (kind, mut names) = bed.ask(T0, "a", A.1).expect("answer");
    names.sort();
    assert_eq!((kind, names), all);
}

// proves A5
#[test]
fn where_probes_decide_the_prefix_has_whom_they_found_and_not_who_is_fewer_hops_away() {
    let of_prefix = |by_probes: bool| {
        let mut bed = Bed::small();
        bed.agent(T0, "b", "203.0.113.6");
        for (from, vmr, hops, rtt) in [(("a", A.1), V1, 5, 10), (("b", "203.0.113.6"), V0, 3, 60)] {
            let chosen = Measurement { rtt: Duration::from_millis(rtt), ..measurement(vmr, hops) };
            let measurements = vec![chosen.clone()];
            let arrived = if by_probes { measurements.clone() } else { vec![] };
            let (node, seen) = (id(from.0), ip(from.1));
            let report = Report { node, seen, claimed: vec![], chosen, measurements, arrived };
            bed.0.report(T0, &report).expect("taken");
        }
        bed.agent(T0, "c", "203.0.113.7");
        bed.ask(T0, "c", "203.0.113.7").expect("answer")
    };
    assert_eq!(of_prefix(true), answer(AnswerKind::CachedPrefix, &["v1"]));
    assert_eq!(of_prefix(false), answer(AnswerKind::CachedPrefix, &["v0"]));
}

// proves A4
#[test]
fn a_vmr_that_is_started_again_and_again_does_not_keep_the_cache_empty() {
    let mut bed = Bed::small();
    let mut emptied = 0;
    for second in 0..600 {
        let now = seconds(second);
        bed.vmr(now, "v0", 0, "192.0.2.1:2268").expect("renewed");
        bed.vmr(now, "v1", 1, V1.1).expect("renewed");
        bed.agent(now, "a", A.1);
        if bed.0.cache(now, None, 9).is_empty() {
            bed.report(now, ("a", A.1), V1, 2).expect("taken");
        }
        bed.0.deregister(now, &id("v2")).expect("deregistered");
        bed.vmr(now, "v2", 1, "203.0.113.1:2268").expect("registered");
        bed.0.expire(now).expect("expired");
        emptied += u32::from(bed.0.cache(now, None, 9).is_empty());
    }
    assert_eq!(emptied, 4 + 9, "four at once, and one each minute");
    // The last one is made up for.
    let mut later = 600;
    while !bed.0.cache(seconds(later), None, 9).is_empty() {
        later += 1;
        bed.vmr(seconds(later), "v1", 1, V1.1).expect("renewed");
        bed.0.expire(seconds(later)).expect("expired");
    }
    assert!(later <= 600 + 60, "{later}");
}

#[test]
fn a_move_drops_the_entries_that_name_the_vmr_and_a_renewal_does_not() {
    for (rank, endpoints, dropped) in [
        (1, vec![V1.1], false),
        (1, vec![V1.1, "198.51.100.9:2268"], true),
        (1, vec!["198.51.100.9:2268"], true),
        (2, vec![V1.1], true),
    ] {
        let mut bed = Bed::small();
        bed.report(T0, A, V1, 3).expect("taken");
        let moved = registration("v1", Role::Vmr { rank }, &endpoints);
        bed.0.register(seconds(1), ip("198.51.100.1"), moved).expect("granted");
        assert_eq!(bed.0.cache(seconds(1), None, 9).is_empty(), dropped, "{rank} {endpoints:?}");
        assert_eq!(bed.0.counters().moves, u64::from(dropped));
    }
}

#[test]
fn deregistration_and_expiry_drop_the_entries_that_name_the_vmr() {
    let mut bed = Bed::small();
    bed.report(T0, A, V1, 3).expect("taken");
    assert!(bed.0.deregister(T0, &id("v1")).expect("deregistered"));
    assert!(!bed.0.deregister(T0, &id("v1")).expect("deregistered"), "twice is not an error");
    assert_eq!(bed.0.cache(T0, None, 9), []);
    assert_eq!(bed.ask(T0, "a", A.1).expect("answer"), answer(AnswerKind::All, &["v0"]));

    bed.report(T0, A, V0, 3).expect("taken");
    bed.agent(seconds(59), "a", A.1);
    assert_eq!(bed.ask(seconds(60), "a", A.1).expect("answer"), answer(AnswerKind::All, &[]));
    assert_eq!(bed.0.expire(seconds(60)).expect("expire"), [id("v0")]);
    assert_eq!(bed.0.cache(seconds(60), None, 9), []);
}

#[test]
fn an_entry_lives_as_long_as_configured() {
    let mut bed = Bed::with(Config { entry_lifetime: Duration::from_secs(10), ..Config::default() });
    bed.vmr(T0, "v0", 0, V0.1).expect("registered");
    bed.agent(T0, "a", A.1);
    bed.report(T0, A, V0, 3).expect("taken");
    assert_eq!(bed.ask(seconds(9), "a", A.1).expect("answer").0, AnswerKind::CachedAddress);
    assert_eq!(bed.ask(seconds(10), "a", A.1).expect("answer").0, AnswerKind::All);
    assert_eq!(bed.0.counters().stale_entries, 2);
}

#[test]
fn an_excluded_vmr_is_in_no_answer_and_its_entry_stays_for_the_others() {
    let mut bed = Bed::small();
    bed.report(T0, A, V1, 3).expect("taken");
    let without = bed.ask_without(T0, "a", A.1, &["v1"]).expect("answer");
    assert_eq!(without, answer(AnswerKind::All, &["v0"]));
    bed.agent(T0, "b", "203.0.113.6");
    assert_eq!(bed.ask(T0, "b", "203.0.113.6").expect("answer"), answer(AnswerKind::CachedPrefix, &["v1"]));
}

#[test]
fn a_cached_answer_has_the_measured_endpoint_first() {
    let mut bed = Bed::new();
    let endpoints = ["192.0.2.1:2268", "192.0.2.2:2268", "192.0.2.3:2268"];
    let vmr = registration("v", Role::Vmr { rank: 0 }, &endpoints);
    bed.0.register(T0, ip("192.0.2.1"), vmr).expect("registered");
    bed.agent(T0, "a", A.1);
    bed.report(T0, A, ("v", endpoints[2]), 3).expect("taken");
    let query = Query {
        node: id("a"),
        seen: ip(A.1),
        claimed: vec![],
        excluded: BTreeSet::new(),
        current: None,
        after: None,
        limit: None,
        others: 0,
    };
    let vmr = bed.0.nearest(T0, &query).expect("answer").vmrs.remove(0);
    let given: Vec<_> = vmr.registration.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(given, [endpoints[2], endpoints[0], endpoints[1]]);
}

#[test]
fn reports_that_cannot_be_true_are_refused_and_change_nothing() {
    let mut bed = Bed::small();
    assert_eq!(refusal(bed.report(T0, A, ("v9", V0.1), 3)), Refusal::NotEligible(id("v9")));
    assert_eq!(refusal(bed.report(T0, ("v1", "198.51.100.1"), V1, 0)), Refusal::NotEligible(id("v1")));
    assert_eq!(refusal(bed.report(T0, ("v0", "192.0.2.1"), V1, 2)), Refusal::NotEligible(id("v1")));
    let foreign = refusal(bed.report(T0, A, ("v0", V1.1), 3));
    assert_eq!(foreign.reason(), RefusalReason::ForeignEndpoint);

    let report = |measurements| Report {
        node: id("a"),
        seen: ip(A.1),
        claimed: vec![],
        chosen: measurement(V0, 3),
        measurements,
        arrived: vec![],
    };
    let contradiction = report(vec![measurement(V0, 3), measurement(V1, 2)]);
    let refused = refusal(bed.0.report(T0, &contradiction));
    assert_eq!(refused, Refusal::NotNearest { chosen: id("v0"), nearer: id("v1") });
    let flood = report(vec![measurement(V0, 3); Config::default().max_measurements + 1]);
    assert_eq!(refusal(bed.0.report(T0, &flood)).reason(), RefusalReason::TooManyMeasurements);
    assert_eq!(bed.0.cache(T0, None, 9), []);
    assert_eq!(bed.0.counters().reports, 0);
}

#[test]
fn a_full_cache_refuses_new_keys_replaces_old_ones_and_makes_room_of_the_expired() {
    let entry_lifetime = Duration::from_secs(40);
    let mut bed = Bed::with(Config { max_entries: 2, entry_lifetime, ..Config::default() });
    bed.vmr(T0, "v0", 0, V0.1).expect("registered");
    bed.agent(T0, "a", A.1);
    bed.agent(T0, "b", "198.51.100.5");
    bed.report(T0, A, V0, 3).expect("taken");
    bed.report(T0, A, V0, 4).expect("replaced");
    let b = ("b", "198.51.100.5");
    assert_eq!(refusal(bed.report(seconds(39), b, V0, 3)), Refusal::CacheFull { limit: 2 });
    bed.report(seconds(40), b, V0, 3).expect("the others have expired");
}

#[test]
fn a_requester_is_cached_where_its_request_came_from_unless_it_shares_the_servers_host() {
    let claimed = [ip("192.168.1.2"), ip("198.51.100.7")];
    for (seen, claimed, expected) in [
        ("203.0.113.9", &claimed[..], "203.0.113.9"),
        ("198.51.100.7", &claimed[..], "198.51.100.7"),
        ("::ffff:203.0.113.9", &claimed[..], "203.0.113.9"),
        ("127.0.0.1", &claimed[..], "192.168.1.2"),
        ("::1", &claimed[..], "192.168.1.2"),
        ("127.0.0.1", &[], "127.0.0.1"),
        ("127.0.0.1", &[ip("127.0.0.1"), ip("192.0.2.1")][..], "127.0.0.1"),
        ("127.0.0.1", &[ip("192.0.2.1"), ip("127.0.0.1")][..], "127.0.0.1"),
    ] {
        assert_eq!(location(ip(seen), claimed), ip(expected), "{seen} {claimed:?}");
    }
}

#[test]
fn prefixes_are_masked_written_and_read() {
    let prefix = |address, length| Prefix::new(ip(address), length);
    for (address, length, text) in [
        ("192.0.2.255", 24, "192.0.2.0/24"),
        ("192.0.2.255", 32, "192.0.2.255/32"),
        ("192.0.2.255", 0, "0.0.0.0/0"),
        ("::ffff:192.0.2.255", 25, "192.0.2.128/25"),
        ("2001:db8:1:1ff::1", 56, "2001:db8:1:100::/56"),
        ("2001:db8::1", 0, "::/0"),
    ] {
        let made = prefix(address, length).expect("a prefix");
        assert_eq!(made.to_string(), text);
        assert_eq!(text.parse(), Ok(made));
    }
    assert!(prefix("192.0.2.1", 33).is_err() && prefix("2001:db8::1", 129).is_err());
    for text in ["", "192.0.2.0", "192.0.2.0/x", "x/24", "192.0.2.0/24/1", "192.0.2.0/256"] {
        assert!(text.parse::<Prefix>().is_err(), "{text:?}");
    }
}

#[test]
fn keys_are_written_and_read() {
    for scope in [Scope::Agents, Scope::Vmrs(0), Scope::Vmrs(u32::MAX)] {
        let key = CacheKey { scope, prefix: "192.0.2.0/24".parse().expect("a prefix") };
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    for text in ["", "0", "x@192.0.2.0/24", "-1@192.0.2.0/24", "4294967297@192.0.2.0/24", "0@192.0.2.0"] {
        assert!(text.parse::<CacheKey>().is_err(), "{text:?}");
    }
}

#[test]
fn lists_come_in_pages_without_the_expired() {
    let mut bed = Bed::new();
    for n in 0..10u64 {
        bed.agent(seconds(if n % 3 == 0 { 30 } else { 0 }), &format!("n{n}"), "192.0.2.1");
    }
    let now = seconds(60);
    let first = bed.0.nodes(now, None, 3);
    assert_eq!(first.iter().map(|node| node.id().as_str()).collect::<Vec<_>>(), ["n0", "n3", "n6"]);
    let second = bed.0.nodes(now, Some(first[2].id()), 3);
    assert_eq!(second.iter().map(|node| node.id().as_str()).collect::<Vec<_>>(), ["n9"]);
}

#[test]
fn the_memory_store_keeps_the_contract() {
    conformance::run(MemoryStore::default);
}

#[test]
fn reasons_are_numbered_without_gap() {
    for (index, reason) in RefusalReason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index, "{}", reason.label());
    }
}

fn page(
    bed: &mut Bed,
    name: &str,
    seen: &str,
    after: Option<Place>,
    limit: usize,
) -> (Vec<String>, Option<Place>) {
    let query = Query {
        node: id(name),
        seen: ip(seen),
        claimed: vec![],
        excluded: BTreeSet::new(),
        current: None,
        after,
        limit: Some(limit),
        others: 0,
    };
    let answer = bed.0.nearest(T0, &query).expect("an answer");
    (answer.vmrs.iter().map(|vmr| vmr.id().to_string()).collect(), answer.next)
}

// proves A3
#[test]
fn on_a_miss_all_vmrs_come_in_pages_and_the_nearest_prefixes_first() {
    let mut bed = Bed::new();
    for (name, endpoint) in [
        ("d", "10.0.0.1:2268"),
        ("c", "203.0.112.9:2268"),
        ("b", "203.0.113.9:2268"),
        ("f", "[2001:db8::1]:2268"),
        ("e", "203.0.113.9:2269"),
    ] {
        let registration = registration(name, Role::Vmr { rank: 0 }, &[endpoint]);
        bed.0.register(T0, ip("192.0.2.1"), registration).expect("registered");
    }
    bed.agent(T0, A.0, A.1);
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let (mut vmrs, next) = page(&mut bed, A.0, A.1, after, 2);
        assert!(vmrs.len() <= 2);
        found.append(&mut vmrs);
        let Some(next) = next else { break };
        // As it travels.
        after = Some(next.to_string().parse().expect("a place"));
        // One that has been named goes: the others are still named once each.
        if found.len() == 2 {
            bed.0.deregister(T0, &id("b")).expect("gone");
        }
    }
    assert_eq!(found, ["b", "e", "c", "d", "f"]);
    for text in ["", "7", "x@a", "7@", "300@a", "7@a b"] {
        assert!(text.parse::<Place>().is_err(), "{text}");
    }
}

fn load(bed: &mut Bed, now: UnixMillis, connections: u32) {
    let mut registration = registration("v1", Role::Vmr { rank: 1 }, &[V1.1]);
    registration.about.load = Load { connections, capacity: 100 };
    let lease = bed.0.register(now, ip("198.51.100.1"), registration).expect("renewed");
    assert_eq!(lease.outcome, Registered::Renewed);
}

// proves A3
#[test]
fn a_busy_vmr_is_passed_over_but_for_those_it_serves_and_comes_back_when_it_has_room() {
    let mut bed = Bed::small();
    bed.report(T0, A, V1, 3).expect("taken");
    load(&mut bed, T0, 95);
    assert_eq!(bed.ask(T0, A.0, A.1).expect("answer"), answer(AnswerKind::All, &["v0"]));
    let query = Query {
        node: id(A.0),
        seen: ip(A.1),
        claimed: vec![],
        excluded: BTreeSet::new(),
        current: Some(id("v1")),
        after: None,
        limit: None,
        others: 0,
    };
    let mine = bed.0.nearest(T0, &Query { others: 3, ..query.clone() }).expect("answer");
    assert_eq!((mine.kind, mine.vmrs[0].id()), (AnswerKind::CachedAddress, &id("v1")));
    assert_eq!(mine.others.iter().map(NodeRecord::id).collect::<Vec<_>>(), [&id("v0")], "where else to go");
    assert_eq!(bed.0.nearest(T0, &query).expect("answer").others, [], "only who asks is told");
    load(&mut bed, T0, 94);
    assert_eq!(bed.ask(T0, A.0, A.1).expect("answer"), answer(AnswerKind::CachedAddress, &["v1"]));
    assert!(bed.0.counters().overloaded > 0);
}

// proves A3
#[test]
fn a_drained_vmr_is_given_to_nobody_until_it_is_taken_back_or_starts_anew() {
    let mut bed = Bed::small();
    bed.report(T0, A, V1, 3).expect("taken");
    assert!(bed.0.drain(T0, &id("v1"), true).expect("drained"));
    assert!(!bed.0.drain(T0, &id("v1"), true).expect("so already"));
    assert_eq!(bed.ask(T0, A.0, A.1).expect("answer"), answer(AnswerKind::All, &["v0"]));
    assert!(matches!(refusal(bed.report(T0, A, V1, 1)), Refusal::NotEligible(_)));
    let renewed = bed.vmr(seconds(20), "v1", 1, V1.1).expect("renewed");
    assert!(renewed.draining, "it is told with each renewal");
    bed.report(T0, A, V0, 5).expect("taken");
    assert!(bed.0.drain(seconds(20), &id("v1"), false).expect("back"));
    assert_eq!(
        bed.ask(seconds(20), A.0, A.1).expect("answer"),
        answer(AnswerKind::All, &["v0", "v1"]),
        "it may be nearer than what was measured meanwhile"
    );

    bed.0.drain(seconds(20), &id("v1"), true).expect("drained");
    assert!(!bed.vmr(seconds(20 + LEASE), "v1", 1, V1.1).expect("registered").draining);
    bed.agent(seconds(80), A.0, A.1);
    assert!(matches!(refusal(bed.0.drain(seconds(80), &id("a"), true)), Refusal::NoVmr(_)));
    assert!(matches!(refusal(bed.0.drain(seconds(80), &id("x"), true)), Refusal::NotRegistered(_)));
    assert_eq!(bed.0.counters().drains, 2);
}

#[test]
fn lists_about_a_node_have_limits() {
    let mut bed = Bed::new();
    let mut large = registration("v0", Role::Vmr { rank: 0 }, &[V0.1]);
    large.about.capabilities =
        (0..=About::MAX_CAPABILITIES).map(|n| n.to_string().parse().expect("a name")).collect();
    let refused = refusal(bed.0.register(T0, ip("192.0.2.1"), large));
    assert!(matches!(refused, Refusal::TooMuch { what: "capabilities", given: 65, limit: 64 }), "{refused}");
    assert_eq!(bed.refused(RefusalReason::TooMuch), 1);
}

// proves D4: those at one address are found among all nodes, as long as they are there
#[test]
fn nodes_are_found_by_where_their_tunnels_begin() {
    let own = |text: &str| OwnTunnel {
        vmr: "v".parse().unwrap(),
        tunnel: text.parse().unwrap(),
        nonce: 1,
        response_mac: [1; 6],
    };
    let mut store = MemoryStore::default();
    let mut put = |name: &str, tunnels: &[&str]| {
        let mut node = conformance::node(name, Role::Agent, &[], 9);
        Arc::make_mut(&mut node.registration).about.own_tunnels =
            tunnels.iter().map(|text| own(text)).collect();
        store.commit(&[Change::PutNode(node)]).unwrap();
        let at = |address: &str| -> Vec<String> {
            let nodes = store.at_tunnels_from(address.parse().unwrap());
            nodes.map(|node| node.id().to_string()).collect()
        };
        (at("192.0.2.1"), at("2001:db8::1"))
    };
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(put("b", &["192.0.2.1:1"]), (names(&["b"]), names(&[])));
    assert_eq!(put("a", &["192.0.2.1:2", "192.0.2.1:3"]), (names(&["a", "b"]), names(&[])));
    assert_eq!(put("c", &["192.0.2.2:1"]), (names(&["a", "b"]), names(&[])));
    assert_eq!(put("b", &["[2001:db8::1]:1"]), (names(&["a"]), names(&["b"])));
    assert_eq!(put("a", &[]), (names(&[]), names(&["b"])));
    store.commit(&[Change::RemoveNode("b".parse().unwrap())]).unwrap();
    assert_eq!(store.at_tunnels_from("2001:db8::1".parse().unwrap()).count(), 0);
}

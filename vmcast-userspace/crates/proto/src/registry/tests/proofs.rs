//! Who is given, and who may have an endpoint, by what return probes found.

use super::*;

type Outcome<T> = Result<T, Error<std::convert::Infallible>>;

const FOUR: &str = "192.0.2.1:2268";
const SIX: &str = "[2001:db8::1]:2268";
const LEASE: u64 = 60;

struct Bed(Registry<MemoryStore>);

impl Bed {
    fn new() -> Self {
        let config = Config { return_probe: true, ..Config::default() };
        let mut bed = Self(Registry::new(config, MemoryStore::default()));
        bed.0.register(T0, ip("203.0.113.5"), registration("agent", Role::Agent, &[])).expect("registered");
        bed
    }

    fn vmr(&mut self, now: UnixMillis, name: &str, endpoints: &[&str]) -> Outcome<Lease> {
        self.0.register(now, ip("192.0.2.9"), registration(name, Role::Vmr { rank: 0 }, endpoints))
    }

    fn found(&mut self, now: UnixMillis, name: &str, found: &[(&str, Found)]) {
        let found: Vec<_> =
            found.iter().map(|(text, found)| (text.parse().expect("an endpoint"), *found)).collect();
        self.0.note_found(now, &id(name), &found).expect("a live VMR");
    }

    fn query() -> Query {
        Query {
            node: id("agent"),
            seen: ip("203.0.113.5"),
            claimed: vec![],
            excluded: [].into(),
            current: None,
            after: None,
            limit: None,
            others: 0,
        }
    }

    /// Who is given to the agent, and by what.
    fn given(&mut self, now: UnixMillis) -> Vec<(String, Vec<String>)> {
        self.0.register(now, ip("203.0.113.5"), registration("agent", Role::Agent, &[])).expect("renewed");
        let answer = self.0.nearest(now, &Self::query()).expect("registered");
        self.0.forget(&answer.untrue).expect("memory");
        let shown = |vmr: &NodeRecord| {
            let endpoints = vmr.registration.endpoints.iter().map(ToString::to_string).collect();
            (vmr.id().to_string(), endpoints)
        };
        answer.vmrs.iter().map(shown).collect()
    }

    fn state(&self, name: &str, endpoint: &str) -> Option<Found> {
        let node = self.0.rows().node(&id(name)).expect("it is there");
        node.found(&endpoint.parse().expect("an endpoint"))
    }

    fn report(&mut self, now: UnixMillis, vmr: &str, endpoint: &str) -> Outcome<Reported> {
        let chosen = Measurement {
            vmr: id(vmr),
            endpoint: endpoint.parse().expect("an endpoint"),
            hops: 1,
            rtt: std::time::Duration::from_millis(1),
        };
        let (node, seen) = (id("agent"), ip("203.0.113.5"));
        self.0.report(
            now,
            &Report { node, seen, claimed: vec![], chosen, measurements: vec![], arrived: vec![] },
        )
    }
}

fn one(name: &str, endpoints: &[&str]) -> Vec<(String, Vec<String>)> {
    vec![(name.to_owned(), endpoints.iter().map(ToString::to_string).collect())]
}

// proves A2: nobody is given a VMR that was not found at its address
#[test]
fn a_vmr_is_given_by_the_endpoints_at_which_it_was_found() {
    let mut bed = Bed::new();
    bed.vmr(T0, "v", &[FOUR, SIX]).expect("registered");
    assert_eq!(bed.state("v", FOUR), Some(Found::Awaited));
    assert_eq!(bed.given(T0), []);
    assert_eq!((bed.0.counters().unproved, bed.0.eligible(T0, &id("agent")).expect("live")), (1, vec![]));
    assert!(bed.report(T0, "v", FOUR).is_err(), "nobody can have measured it");

    bed.found(seconds(1), "v", &[(SIX, Found::Proved), (FOUR, Found::Silent)]);
    assert_eq!(bed.given(seconds(1)), one("v", &[SIX]));
    assert_eq!(bed.0.eligible(seconds(1), &id("agent")).expect("live"), [id("v")]);
    assert!(bed.report(seconds(1), "v", FOUR).is_err());
    bed.report(seconds(1), "v", SIX).expect("taken");
    bed.found(seconds(2), "v", &[(FOUR, Found::Proved)]);
    assert_eq!(bed.given(seconds(2)), one("v", &[SIX, FOUR]), "from the cache, the measured one first");

    // A renewal keeps what was proved; a silent probe too; one that somebody else answers does not.
    bed.vmr(seconds(20), "v", &[FOUR, SIX]).expect("renewed");
    bed.found(seconds(21), "v", &[(FOUR, Found::Silent), (SIX, Found::Mute)]);
    assert_eq!((bed.state("v", FOUR), bed.state("v", SIX)), (Some(Found::Proved), Some(Found::Proved)));
    bed.found(seconds(22), "v", &[(SIX, Found::Foreign)]);
    assert_eq!(bed.given(seconds(22)), one("v", &[FOUR]), "the entry that named the other is not used");
    assert_eq!(bed.0.counters().stale_entries, 2, "of the address and of the prefix");
    bed.found(seconds(23), "v", &[(FOUR, Found::Foreign)]);
    assert_eq!(bed.given(seconds(23)), []);
    let counters = bed.0.counters();
    let numbers = (counters.proofs, counters.proofs_silent, counters.proofs_foreign, counters.proofs_mute);
    assert_eq!(numbers, (2, 2, 2, 1));
}

// proves A2
#[test]
fn a_move_is_proved_anew_and_so_is_a_start() {
    let mut bed = Bed::new();
    bed.vmr(T0, "v", &[FOUR]).expect("registered");
    bed.found(T0, "v", &[(FOUR, Found::Proved), ("192.0.2.77:1", Found::Proved)]);
    assert_eq!(bed.state("v", "192.0.2.77:1"), None, "it has no such endpoint");
    bed.vmr(seconds(5), "v", &[SIX, FOUR]).expect("moved");
    assert_eq!((bed.state("v", SIX), bed.state("v", FOUR)), (Some(Found::Awaited), Some(Found::Proved)));
    assert!(bed.0.awaits_probe(&bed.0.live_vmr(seconds(5), &id("v")).expect("live")));
    assert_eq!(bed.given(seconds(5)), one("v", &[FOUR]));
    bed.vmr(seconds(6), "v", &[SIX]).expect("moved");
    assert_eq!(bed.given(seconds(6)), []);
    bed.found(seconds(6), "v", &[(SIX, Found::Proved)]);
    assert_eq!(bed.given(seconds(6)), one("v", &[SIX]));
    assert!(!bed.0.awaits_probe(&bed.0.live_vmr(seconds(6), &id("v")).expect("live")));

    let later = seconds(6 + LEASE);
    assert!(bed.0.note_found(later, &id("v"), &[]).is_err(), "its lease is over");
    bed.vmr(later, "v", &[SIX]).expect("registered anew");
    assert_eq!(bed.given(later), []);
}

// proves A2: a lie keeps nobody from an address that is his
#[test]
fn an_endpoint_goes_to_who_comes_when_its_holder_was_not_found_there() {
    for found in [Found::Silent, Found::Foreign, Found::Mute] {
        let mut bed = Bed::new();
        bed.vmr(T0, "liar", &[FOUR]).expect("registered");
        assert!(bed.vmr(seconds(1), "v", &[FOUR]).is_err(), "nobody knows yet who lies");
        bed.found(seconds(2), "liar", &[(FOUR, found)]);
        bed.vmr(seconds(3), "v", &[FOUR]).expect("registered");
        assert_eq!(bed.0.rows().node(&id("liar")), None);
        assert_eq!((bed.0.counters().evictions, bed.0.counters().takeovers), (1, 0));
        assert!(bed.vmr(seconds(3), "liar", &[FOUR]).is_err(), "it has its time to be found");
        bed.found(seconds(4), "v", &[(FOUR, Found::Proved)]);
        assert!(bed.vmr(seconds(4 + 15), "liar", &[FOUR]).is_err());
        assert_eq!(bed.given(seconds(19)), one("v", &[FOUR]));
    }
    // One that never lets itself be probed holds an endpoint for a short time.
    let mut bed = Bed::new();
    bed.vmr(T0, "liar", &[FOUR]).expect("registered");
    assert!(bed.vmr(seconds(14), "v", &[FOUR]).is_err());
    bed.vmr(seconds(10), "liar", &[FOUR]).expect("renewed, which lengthens nothing");
    bed.vmr(seconds(15), "v", &[FOUR]).expect("registered");
}

#[test]
fn where_nobody_probes_all_are_given_and_nothing_is_kept() {
    let mut bed = Bed(Registry::new(Config::default(), MemoryStore::default()));
    bed.vmr(T0, "v", &[FOUR]).expect("registered");
    assert_eq!((bed.state("v", FOUR), bed.given(T0)), (None, one("v", &[FOUR])));
    assert!(!bed.0.awaits_probe(&bed.0.live_vmr(T0, &id("v")).expect("live")));
    assert!(bed.vmr(seconds(30), "w", &[FOUR]).is_err(), "two cannot have one endpoint");
}

//! What every [`Store`] must do, as one suite that each of them runs in its tests.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    About, CacheEntry, CacheKey, Change, Expected, Found, Label, Load, Measurement, NodeId, NodeRecord,
    OwnTunnel, Prefix, Proof, RecordKind, RecordWrite, Registration, Role, Rows as _, Scope, Store,
    TunnelEnd, TunnelKind, UnixMillis,
};

/// A case's name and what it does with a store that is new and empty.
type Case<S> = (&'static str, fn(S));

fn cases<S: Store>() -> [Case<S>; 18] {
    [
        ("an empty store has nothing", empty),
        ("a node comes back as it was put", node_round_trip),
        ("all that a node says of itself comes back", about_round_trip),
        ("putting a node again replaces it and its endpoints", node_replaced),
        ("removing a node removes its endpoints and is idempotent", node_removed),
        ("nodes come in order and in pages", node_pages),
        ("only VMRs are listed as VMRs", only_vmrs),
        ("two nodes may hold one endpoint", shared_endpoint),
        ("a node expires at its time and not before", expired_nodes),
        ("a cache entry comes back as it was put and is replaced by its key", entry_round_trip),
        ("keys of another scope, length or family are other keys", entry_keys),
        ("cache entries come in order and in pages", entry_pages),
        ("entries are removed by key, by the VMR they name and by their end", entry_removal),
        ("changes are made in their order", order_of_changes),
        ("the largest numbers are kept", extremes),
        ("a record comes back as it was put, and only of its kind and key", record_round_trip),
        ("records are changed all or none, if what is expected is there", records_expected),
        ("records come in order, by prefix and in pages, and their changes are counted", record_pages),
    ]
}

/// Runs every case on a store of its own.
///
/// # Panics
/// If the store breaks the contract; the message names the case.
pub fn run<S: Store>(mut make: impl FnMut() -> S) {
    for (name, case) in cases::<S>() {
        println!("case: {name}");
        case(make());
    }
}

/// A node of the suite.
///
/// # Panics
/// Never with an id that is one.
#[must_use]
pub fn node(id: &str, role: Role, endpoints: &[&str], expires: u64) -> NodeRecord {
    NodeRecord {
        registration: Arc::new(Registration {
            id: id.parse().expect("a node id"),
            role,
            endpoints: endpoints.iter().map(|text| text.parse().expect("an endpoint")).collect(),
            name: "π by name".parse().expect("a name"),
            software: Label::default(),
            about: About::default(),
        }),
        seen: "2001:db8::7".parse().expect("an address"),
        registered: UnixMillis(5),
        expires: UnixMillis(expires),
        draining: false,
        proofs: BTreeMap::new(),
    }
}

/// A cache entry of the suite.
///
/// # Panics
/// Never with a prefix and an id that are ones.
#[must_use]
pub fn entry(scope: Scope, prefix: &str, vmr: &str, expires: u64) -> CacheEntry {
    CacheEntry {
        key: CacheKey { scope, prefix: prefix.parse().expect("a prefix") },
        nearest: Measurement {
            vmr: vmr.parse().expect("a node id"),
            endpoint: "[2001:db8::1]:2268".parse().expect("an endpoint"),
            hops: 255,
            rtt: Duration::from_micros(123_456),
        },
        others: [("far", 7), ("farther", 0)]
            .map(|(vmr, hops)| Measurement {
                vmr: id(vmr),
                endpoint: endpoint("192.0.2.9:2268"),
                hops,
                rtt: Duration::from_micros(u32::MAX.into()),
            })
            .into(),
        reporter: id("reporter"),
        learned: UnixMillis(1),
        expires: UnixMillis(expires),
    }
}

const VMR: Role = Role::Vmr { rank: 1 };

fn id(text: &str) -> NodeId {
    text.parse().expect("a node id")
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

fn commit<S: Store>(store: &mut S, changes: &[Change]) {
    store.commit(changes).expect("commit");
    store.flush().expect("flush");
}

fn ids(records: &[NodeRecord]) -> Vec<&str> {
    records.iter().map(|record| record.id().as_str()).collect()
}

fn empty<S: Store>(mut store: S) {
    commit(&mut store, &[]);
    assert_eq!(store.rows().node(&id("a")), None);
    assert_eq!(store.rows().nodes(None, 10), []);
    assert_eq!(store.rows().vmrs(), []);
    assert_eq!(store.rows().holders(endpoint("192.0.2.1:2268")), []);
    assert_eq!(store.rows().expired_nodes(UnixMillis(u64::MAX)), []);
    assert_eq!(store.rows().entries(None, 10), []);
    assert_eq!((store.rows().node_count(), store.rows().entry_count()), (0, 0));
}

fn node_round_trip<S: Store>(mut store: S) {
    let vmr = node("vmr.one", VMR, &["192.0.2.1:2268", "[2001:db8::1]:2268", "192.0.2.1:2269"], 9);
    let agent = node("agent", Role::Agent, &[], 10);
    commit(&mut store, &[Change::PutNode(vmr.clone()), Change::PutNode(agent.clone())]);
    assert_eq!(store.rows().node(vmr.id()), Some(vmr.clone()), "endpoints keep their order");
    assert_eq!(store.rows().node(agent.id()), Some(agent));
    assert_eq!((store.rows().node_count(), store.rows().vmr_count()), (2, 1));
    assert_eq!(store.rows().holders(endpoint("[2001:db8::1]:2268")), [vmr]);
    assert_eq!(store.rows().holders(endpoint("[2001:db8::1]:2269")), []);
}

fn about_round_trip<S: Store>(mut store: S) {
    let mut vmr = node("vmr", VMR, &["192.0.2.1:2268"], 9);
    vmr.draining = true;
    let proof = |found, since| Proof { found, since: UnixMillis(since) };
    vmr.proofs = [Found::Awaited, Found::Proved, Found::Silent, Found::Foreign, Found::Mute]
        .into_iter()
        .zip(1..)
        .map(|(found, port)| (([192, 0, 2, 1], port).into(), proof(found, u64::from(port))))
        .collect();
    Arc::make_mut(&mut vmr.registration).about = About {
        capabilities: ["quic", "of another version"].map(|name| name.parse().expect("a name")).into(),
        tunnel_ends: [(TunnelKind::Gre, "192.0.2.1:0"), (TunnelKind::Quic, "[2001:db8::1]:443")]
            .map(|(kind, text)| TunnelEnd { kind, endpoint: endpoint(text) })
            .into(),
        source_prefixes: ["10.1.0.0/16", "2001:db8::/32"].map(|text| text.parse().expect("a prefix")).into(),
        load: Load { connections: u32::MAX - 1, capacity: u32::MAX },
        own_tunnels: ["198.51.100.1:1", "[2001:db8::9]:2"]
            .map(|text| OwnTunnel {
                vmr: node("above", VMR, &[], 1).id().clone(),
                tunnel: endpoint(text),
                nonce: u32::MAX - 1,
                response_mac: [0, 1, 2, 0xfd, 0xfe, 0xff],
            })
            .into(),
    };
    commit(&mut store, &[Change::PutNode(vmr.clone())]);
    assert_eq!(store.rows().node(vmr.id()), Some(vmr.clone()));
    vmr.draining = false;
    vmr.proofs.clear();
    Arc::make_mut(&mut vmr.registration).about = About::default();
    commit(&mut store, &[Change::PutNode(vmr.clone())]);
    assert_eq!(store.rows().vmrs(), [vmr]);
}

fn node_replaced<S: Store>(mut store: S) {
    let before = node("a", VMR, &["192.0.2.1:2268"], 9);
    let after = node("a", Role::Agent, &["192.0.2.2:2268"], 12);
    commit(&mut store, &[Change::PutNode(before)]);
    commit(&mut store, &[Change::PutNode(after.clone())]);
    assert_eq!(store.rows().nodes(None, 10), std::slice::from_ref(&after));
    assert_eq!(store.rows().holders(endpoint("192.0.2.1:2268")), []);
    assert_eq!(store.rows().holders(endpoint("192.0.2.2:2268")), [after]);
}

fn node_removed<S: Store>(mut store: S) {
    let kept = node("b", VMR, &["192.0.2.2:2268"], 9);
    commit(
        &mut store,
        &[Change::PutNode(node("a", VMR, &["192.0.2.1:2268"], 9)), Change::PutNode(kept.clone())],
    );
    for _ in 0..2 {
        commit(&mut store, &[Change::RemoveNode(id("a"))]);
        assert_eq!(store.rows().nodes(None, 10), std::slice::from_ref(&kept));
        assert_eq!(store.rows().holders(endpoint("192.0.2.1:2268")), []);
    }
}

fn node_pages<S: Store>(mut store: S) {
    for name in ["b", "a", "D", "c", "a-1"] {
        commit(&mut store, &[Change::PutNode(node(name, Role::Agent, &[], 9))]);
    }
    let first = store.rows().nodes(None, 2);
    assert_eq!(ids(&first), ["D", "a"]);
    let second = store.rows().nodes(Some(first[1].id()), 2);
    assert_eq!(ids(&second), ["a-1", "b"]);
    assert_eq!(ids(&store.rows().nodes(Some(second[1].id()), 2)), ["c"]);
    assert_eq!(ids(&store.rows().nodes(Some(&id("aa")), 9)), ["b", "c"], "after an id that is absent");
}

fn only_vmrs<S: Store>(mut store: S) {
    for (name, role) in
        [("b", Role::Vmr { rank: 0 }), ("c", Role::Agent), ("a", Role::Vmr { rank: u32::MAX })]
    {
        commit(&mut store, &[Change::PutNode(node(name, role, &[], 9))]);
    }
    let vmrs = store.rows().vmrs();
    assert_eq!(ids(&vmrs), ["a", "b"]);
    assert_eq!(vmrs[0].rank(), Some(u32::MAX));
}

fn shared_endpoint<S: Store>(mut store: S) {
    for name in ["b", "a"] {
        commit(&mut store, &[Change::PutNode(node(name, Role::Agent, &["10.0.0.2:2268"], 9))]);
    }
    assert_eq!(ids(&store.rows().holders(endpoint("10.0.0.2:2268"))), ["a", "b"]);
}

fn expired_nodes<S: Store>(mut store: S) {
    for (name, expires) in [("b", 10), ("a", 10), ("c", 11)] {
        commit(&mut store, &[Change::PutNode(node(name, VMR, &[], expires))]);
    }
    assert_eq!(store.rows().expired_nodes(UnixMillis(9)), []);
    assert_eq!(store.rows().expired_nodes(UnixMillis(10)), [id("a"), id("b")]);
}

fn entry_round_trip<S: Store>(mut store: S) {
    let old = entry(Scope::Agents, "192.0.2.0/24", "a", 9);
    let new = entry(Scope::Agents, "192.0.2.0/24", "b", 8);
    commit(&mut store, &[Change::PutEntry(old.clone())]);
    assert_eq!(store.rows().entry(&old.key), Some(old));
    commit(&mut store, &[Change::PutEntry(new.clone())]);
    assert_eq!(store.rows().entry(&new.key), Some(new));
    assert_eq!(store.rows().entry_count(), 1);
}

fn entry_keys<S: Store>(mut store: S) {
    let all = [
        entry(Scope::Agents, "192.0.2.0/24", "a", 9),
        entry(Scope::Agents, "192.0.2.0/32", "b", 9),
        entry(Scope::Vmrs(0), "192.0.2.0/24", "c", 9),
        entry(Scope::Vmrs(u32::MAX), "192.0.2.0/24", "d", 9),
        entry(Scope::Agents, "c000:200::/24", "e", 9),
    ];
    for one in &all {
        commit(&mut store, &[Change::PutEntry(one.clone())]);
    }
    for one in all {
        assert_eq!(store.rows().entry(&one.key), Some(one));
    }
    let absent = CacheKey { scope: Scope::Vmrs(1), prefix: Prefix::of_address([192, 0, 2, 0].into()) };
    assert_eq!(store.rows().entry(&absent), None);
}

fn entry_pages<S: Store>(mut store: S) {
    let prefixes = ["203.0.113.0/24", "192.0.2.9/32", "2001:db8::/56", "192.0.2.0/24", "0.0.0.0/0"];
    let mut keys = Vec::new();
    for scope in [Scope::Vmrs(2), Scope::Agents] {
        for prefix in prefixes {
            let one = entry(scope, prefix, "a", 9);
            keys.push(one.key);
            commit(&mut store, &[Change::PutEntry(one)]);
        }
    }
    keys.sort();
    let mut found = Vec::new();
    loop {
        let page = store.rows().entries(found.last(), 3);
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        found.extend(page.into_iter().map(|entry| entry.key));
    }
    assert_eq!(found, keys);
}

fn entry_removal<S: Store>(mut store: S) {
    let by_key = entry(Scope::Agents, "192.0.2.0/24", "a", 20);
    let by_name = entry(Scope::Agents, "198.51.100.0/24", "b", 20);
    let by_end = entry(Scope::Agents, "203.0.113.0/24", "c", 10);
    let kept = entry(Scope::Vmrs(1), "203.0.113.0/24", "c", 11);
    for one in [&by_key, &by_name, &by_end, &kept] {
        commit(&mut store, &[Change::PutEntry(one.clone())]);
    }
    for _ in 0..2 {
        commit(&mut store, &[Change::RemoveEntry(by_key.key)]);
        assert_eq!(store.rows().entry_count(), 3);
    }
    commit(&mut store, &[Change::RemoveEntriesNaming(id("b"))]);
    assert_eq!(store.rows().entry(&by_name.key), None);
    commit(&mut store, &[Change::RemoveEntriesExpired(UnixMillis(10))]);
    assert_eq!(store.rows().entries(None, 10), [kept]);
}

fn order_of_changes<S: Store>(mut store: S) {
    let mine = entry(Scope::Agents, "192.0.2.0/24", "a", 20);
    commit(
        &mut store,
        &[
            Change::PutEntry(mine.clone()),
            Change::RemoveEntriesNaming(id("a")),
            Change::PutNode(node("a", VMR, &["192.0.2.1:2268"], 9)),
            Change::RemoveNode(id("a")),
            Change::PutNode(node("a", VMR, &["192.0.2.3:2268"], 9)),
        ],
    );
    assert_eq!(store.rows().entry(&mine.key), None);
    assert_eq!(store.rows().node_count(), 1);
    assert_eq!(ids(&store.rows().holders(endpoint("192.0.2.3:2268"))), ["a"]);
}

fn extremes<S: Store>(mut store: S) {
    let longest = "x".repeat(NodeId::MAX_LEN);
    let record = node(&longest, Role::Vmr { rank: u32::MAX }, &["[ffff::ffff]:65535"], i64::MAX as u64);
    let mut cached = entry(Scope::Vmrs(u32::MAX), "ffff::/128", &longest, i64::MAX as u64);
    cached.nearest.rtt = Duration::from_micros(u32::MAX.into());
    commit(&mut store, &[Change::PutNode(record.clone()), Change::PutEntry(cached.clone())]);
    assert_eq!(store.rows().node(record.id()), Some(record));
    assert_eq!(store.rows().entry(&cached.key), Some(cached));
}

fn write(kind: RecordKind, key: &str, value: Option<&[u8]>) -> RecordWrite {
    RecordWrite { kind, key: key.to_owned(), value: value.map(Into::into) }
}

fn put<S: Store>(store: &mut S, writes: &[RecordWrite]) {
    assert!(store.commit_records(&[], writes).expect("commit"), "nothing was expected");
}

fn record_round_trip<S: Store>(mut store: S) {
    let all: Vec<u8> = (0..=255).collect();
    put(&mut store, &[write(RecordKind::Token, "a", Some(&all)), write(RecordKind::Policy, "a", Some(b""))]);
    assert_eq!(store.rows().record(RecordKind::Token, "a"), Some(all));
    assert_eq!(store.rows().record(RecordKind::Policy, "a"), Some(Vec::new()));
    for (kind, key) in [(RecordKind::Token, "b"), (RecordKind::Token, ""), (RecordKind::Authority, "a")] {
        assert_eq!(store.rows().record(kind, key), None, "{kind:?} {key}");
    }
    put(&mut store, &[write(RecordKind::Token, "a", Some(b"2"))]);
    assert_eq!(store.rows().record(RecordKind::Token, "a"), Some(b"2".to_vec()));
    for _ in 0..2 {
        put(&mut store, &[write(RecordKind::Token, "a", None)]);
        assert_eq!(store.rows().record(RecordKind::Token, "a"), None);
    }
    assert_eq!((store.rows().node_count(), store.rows().entry_count()), (0, 0));
}

fn records_expected<S: Store>(mut store: S) {
    let expect = |key: &str, value: Option<&[u8]>| Expected {
        kind: RecordKind::Token,
        key: key.to_owned(),
        value: value.map(Into::into),
    };
    let both = [write(RecordKind::Token, "a", Some(b"1")), write(RecordKind::Certificate, "x/1", Some(b"1"))];
    let mut commit = |expected: &[Expected], writes: &[RecordWrite]| {
        store.commit_records(expected, writes).expect("commit")
    };
    assert!(!commit(&[expect("a", Some(b"0"))], &both), "it is not there");
    assert!(commit(&[expect("a", None), expect("b", None)], &both), "neither is");
    assert!(!commit(&[expect("a", None)], &both), "it is there");
    let next = [write(RecordKind::Token, "a", Some(b"2")), write(RecordKind::Certificate, "x/1", None)];
    assert!(!commit(&[expect("a", Some(b"1")), expect("b", Some(b""))], &next), "one of two is not");
    assert!(commit(&[expect("a", Some(b"1"))], &next));
    assert!(!commit(&[expect("a", Some(b"1"))], &next), "it was another one's turn");
    assert_eq!(store.rows().record(RecordKind::Token, "a"), Some(b"2".to_vec()));
    assert_eq!(store.rows().record(RecordKind::Certificate, "x/1"), None);
}

fn record_pages<S: Store>(mut store: S) {
    let (before, other) = (
        store.rows().record_changes(RecordKind::Certificate),
        store.rows().record_changes(RecordKind::Token),
    );
    let keys = ["a/1", "a/2", "a/3", "a-/1", "b/1"];
    put(&mut store, &keys.map(|key| write(RecordKind::Certificate, key, Some(key.as_bytes()))));
    assert!(store.rows().record_changes(RecordKind::Certificate) > before, "a change is counted");
    assert_eq!(store.rows().record_changes(RecordKind::Token), other, "of its kind alone");
    let page = |prefix: &str, after: &str, limit: usize| {
        let page = store.rows().records(RecordKind::Certificate, prefix, after, limit);
        page.into_iter()
            .map(|(key, value)| {
                assert_eq!(key.as_bytes(), value);
                key
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(page("", "", 9), ["a-/1", "a/1", "a/2", "a/3", "b/1"]);
    assert_eq!(page("a/", "", 2), ["a/1", "a/2"]);
    assert_eq!(page("a/", "a/2", 2), ["a/3"]);
    assert_eq!(page("a/", "a/3", 2), [""; 0]);
    assert_eq!(page("a/", "b", 2), [""; 0]);
    assert_eq!(page("", "a/2", 1), ["a/3"]);
}

//! One registry of several admins.

use std::{net::IpAddr, sync::Arc};

use libtest_mimic::{Failed, Trial};
use tokio::runtime::Runtime;
use vmcast::admin::{EtcdError, EtcdSettings, EtcdStore, SqliteStore, migrate};
use vmcast_proto::registry::{
    Change, Config, Error, NodeId, NodeRecord, RecordKind, RecordWrite, RefusalReason, Registration,
    Registry, Role, Rows as _, Scope, Store as _, conformance,
};

use crate::{
    Outcome,
    cluster::{Cluster, now, until},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the store keeps the contract", contract),
        trial("what one admin writes the other reads, and of two writes of a row one wins", two_admins),
        trial("an endpoint that two VMRs ask for at two admins is one's", one_endpoint),
        trial("more changes than one transaction takes are made", many),
        trial("a registry moves from its file", migration),
    ]
}

const SEEN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn vmr(id: &str, endpoints: &[&str]) -> NodeRecord {
    conformance::node(id, Role::Vmr { rank: 1 }, endpoints, now().0 + 60_000)
}

/// What a node says of itself.
fn registered(store: &EtcdStore, id: &NodeId) -> Option<Arc<Registration>> {
    store.rows().node(id).map(|node| node.registration)
}

fn known(store: &EtcdStore, id: &str) -> bool {
    id.parse().is_ok_and(|id| store.rows().node(&id).is_some())
}

// proves A2: every store does the same
fn contract(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let mut number = 0;
    conformance::run(|| {
        number += 1;
        let settings = EtcdSettings { prefix: format!("/{number}/"), ..cluster.settings() };
        cluster.open_with(runtime, settings).expect("a store")
    });
    Ok(())
}

fn two_admins(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let (mut one, mut two) = (cluster.open(runtime)?, cluster.open(runtime)?);
    one.commit(&[Change::PutNode(vmr("v", &["192.0.2.1:2268"]))])?;
    one.commit(&[Change::PutEntry(conformance::entry(Scope::Agents, "10.0.0.0/8", "v", u64::MAX))])?;
    until("the other admin knows it", || known(&two, "v") && two.rows().entry_count() == 1)?;

    // Both write at the same time, most often on what the other has just changed.
    let mut conflicts = 0;
    for round in 0..50 {
        let write = |store: &mut EtcdStore, name: &str| {
            let mut record = vmr("v", &["192.0.2.1:2268"]);
            Arc::make_mut(&mut record.registration).name = format!("{name}{round}").parse().expect("a name");
            store.commit(&[Change::PutNode(record)])
        };
        let outcomes = std::thread::scope(|scope| {
            let first = scope.spawn(|| write(&mut one, "one"));
            let second = scope.spawn(|| write(&mut two, "two"));
            [first.join().expect("no panic"), second.join().expect("no panic")]
        });
        for outcome in &outcomes {
            match outcome {
                Ok(()) => {}
                Err(EtcdError::Conflict) => conflicts += 1,
                Err(error) => return Err(error.to_string().into()),
            }
        }
        if outcomes.iter().all(Result::is_err) {
            return Err("both lost".into());
        }
    }
    println!("{conflicts} of 100 writes met another's");
    let id = "v".parse().expect("an id");
    until("both know the same", || {
        let [one, two] = [&one, &two].map(|store| registered(store, &id));
        one == two && one.is_some()
    })?;

    // A third that comes later reads what they wrote.
    let late = cluster.open(runtime)?;
    let same = registered(&late, &id) == registered(&one, &id);
    if !same {
        return Err("a store that is opened later reads something else".into());
    }
    one.commit(&[Change::RemoveNode(id), Change::RemoveAllEntries])?;
    until("both know that it is gone", || {
        [&two, &late].iter().all(|store| !known(store, "v") && store.rows().entry_count() == 0)
    })
}

fn one_endpoint(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    for round in 0..20 {
        let mut admins =
            [0, 1].map(|_| cluster.open(runtime).map(|store| Registry::new(Config::default(), store)));
        let [one, two] = &mut admins;
        let (one, two) = (one.as_mut().map_err(|_| "no store")?, two.as_mut().map_err(|_| "no store")?);
        let endpoint = format!("198.51.100.{round}:2268");
        let register = |admin: &mut Registry<EtcdStore>, id: String| {
            admin.register(now(), SEEN, vmr(&id, &[&endpoint]).registration).map(|_| ())
        };
        let outcomes = std::thread::scope(|scope| {
            let first = scope.spawn(|| register(one, format!("a{round}")));
            let second = scope.spawn(|| register(two, format!("b{round}")));
            [first.join().expect("no panic"), second.join().expect("no panic")]
        });
        let granted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        if granted != 1 {
            return Err(format!("{granted} VMRs were given {endpoint}").into());
        }
        for refusal in outcomes.into_iter().filter_map(Result::err) {
            match refusal {
                Error::Refused(refusal) if refusal.reason() == RefusalReason::Duplicate => {}
                Error::Store(EtcdError::Conflict) => {}
                other => return Err(other.to_string().into()),
            }
        }
    }
    Ok(())
}

fn many(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let mut store = cluster.open(runtime)?;
    let nodes = (0..350).map(|n| vmr(&format!("v{n}"), &[&format!("198.18.{}.{}:1", n / 250, n % 250)]));
    let entries = (0..350).map(|n| {
        conformance::entry(Scope::Agents, &format!("10.{}.{}.0/24", n / 250, n % 250), "v7", u64::MAX)
    });
    store.commit(&nodes.map(Change::PutNode).chain(entries.map(Change::PutEntry)).collect::<Vec<_>>())?;
    let counts = |store: &EtcdStore| (store.rows().vmr_count(), store.rows().entry_count());
    let other = cluster.open(runtime)?;
    if (counts(&store), counts(&other)) != ((350, 350), (350, 350)) {
        return Err(format!("there are {:?} and {:?}", counts(&store), counts(&other)).into());
    }
    store.commit(&[Change::RemoveEntriesNaming("v7".parse().expect("an id"))])?;
    let all = store.rows().nodes(None, 1000);
    store.commit(&all.iter().map(|node| Change::RemoveNode(node.id().clone())).collect::<Vec<_>>())?;
    until("nothing is left", || counts(&other) == (0, 0))
}

fn migration(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("admin.db");
    let mut file = SqliteStore::open(&path)?;
    let nodes: Vec<NodeRecord> =
        (0..250).map(|n| vmr(&format!("v{n:03}"), &[&format!("198.18.0.{n}:1")])).collect();
    let entries: Vec<_> = (0..130)
        .map(|n| conformance::entry(Scope::Vmrs(n), "2001:db8::/56", "v001", now().0 + 1_000_000))
        .collect();
    let records = (0..120).map(|n| RecordWrite {
        kind: RecordKind::Certificate,
        key: format!("n/{n:03}"),
        value: Some(vec![n]),
    });
    file.commit_records(&[], &records.collect::<Vec<_>>())?;
    let put = nodes.iter().cloned().map(Change::PutNode).chain(entries.iter().cloned().map(Change::PutEntry));
    file.commit(&put.collect::<Vec<_>>())?;
    file.flush()?;

    let in_use = runtime.block_on(migrate(&path, cluster.settings(), false)).expect_err("it is in use");
    if !in_use.to_string().contains("in use") {
        return Err(format!("of a file in use it says: {in_use}").into());
    }
    drop(file);
    let copied = runtime.block_on(migrate(&path, cluster.settings(), false))?;
    let store = cluster.open(runtime)?;
    let rows = store.rows();
    let said = |nodes: Vec<NodeRecord>| nodes.into_iter().map(|node| node.registration).collect::<Vec<_>>();
    let same = said(rows.nodes(None, 1000)) == said(nodes) && rows.entries(None, 1000).len() == entries.len();
    let same = same && rows.records(RecordKind::Certificate, "n/", "", 1000).len() == 120;
    if (copied.nodes, copied.entries, copied.records, same) != (250, 130, 120, true) {
        return Err(format!("copied: {copied:?}, the same: {same}").into());
    }
    let again = runtime.block_on(migrate(&path, cluster.settings(), false)).expect_err("it is not empty");
    if !again.to_string().contains("250 nodes and 120 records already") {
        return Err(format!("of an etcd with a registry it says: {again}").into());
    }
    runtime.block_on(migrate(&path, cluster.settings(), true))?;
    let gone = directory.path().join("none.db");
    runtime.block_on(migrate(&gone, cluster.settings(), true)).expect_err("there is no file");
    if gone.exists() {
        return Err(Failed::from("it has made a file that was to be read"));
    }
    until("the store that was open knows the same", || store.rows().node_count() == 250)?;
    Ok(())
}

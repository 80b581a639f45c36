//! Members that die, and the whole etcd.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use tokio::runtime::Runtime;
use vmcast::admin::{EtcdSettings, EtcdStore};
use vmcast_proto::registry::{
    Change, Config, NodeRecord, Registry, Role, Rows as _, Store as _, conformance,
};

use crate::{
    Outcome,
    cluster::{Cluster, now, until},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "the leader of three dies during registrations, and none that was granted is lost",
            leader_dies,
        ),
        trial(
            "all three die during registrations, and one that starts afterwards knows all that was granted",
            all_die,
        ),
        trial("in an outage what is known is answered, does not expire, and nothing is granted", outage),
        trial("a history that is gone is read anew", compacted),
    ]
}

/// A test that waits longer than this hangs.
const HANG: Duration = Duration::from_secs(60);

/// Registers without a pause, and remembers what was granted.
fn register(admin: &mut Registry<EtcdStore>, number: usize, granted: &mut Vec<String>) -> bool {
    let id = format!("n{number}");
    let record = conformance::node(&id, Role::Agent, &[], 0);
    let outcome = admin.register(now(), [192, 0, 2, 1].into(), record.registration);
    if outcome.is_ok() {
        granted.push(id);
    }
    outcome.is_ok()
}

/// Registers so many while all members live.
fn first_hundred(admin: &mut Registry<EtcdStore>) -> Result<Vec<String>, Failed> {
    let mut granted = Vec::new();
    for number in 0..100 {
        if !register(admin, number, &mut granted) {
            return Err("a registration was refused while all three live".into());
        }
    }
    Ok(granted)
}

// proves D2: no single node's failure stops the admin
fn leader_dies(runtime: &Runtime) -> Outcome {
    let mut cluster = Cluster::start(3)?;
    let mut admin = Registry::new(Config::default(), cluster.open(runtime)?);
    let mut granted = first_hundred(&mut admin)?;
    let leader = cluster.leader()?;
    // It dies in the middle of them.
    let mut members = std::mem::take(&mut cluster.members);
    let (kill, told) = std::sync::mpsc::channel();
    let killer = std::thread::spawn(move || {
        // A test that has failed before says nothing.
        if told.recv().is_ok() {
            members[leader].take().expect("it lives").kill().expect("killed");
        }
        members
    });
    let (mut before, mut after, mut refused) = (granted.len(), 0, 0);
    let begin = now();
    for number in 100.. {
        if number == 150 {
            kill.send(()).map_err(|_| "the killer is gone")?;
        }
        let was_dead = killer.is_finished();
        let is_granted = register(&mut admin, number, &mut granted);
        refused += usize::from(!is_granted);
        if was_dead {
            after += usize::from(is_granted);
        } else {
            before = granted.len();
        }
        if after >= 400 {
            break;
        }
        if now() > begin.after(HANG) {
            return Err(format!("{after} were granted after the leader's death, {refused} refused").into());
        }
    }
    cluster.members = killer.join().map_err(|_| "the killer panicked")?;
    println!("{before} were granted before the leader was dead, {after} after, {refused} refused");
    if before < 150 {
        return Err(format!("{before} were granted before the leader was dead").into());
    }
    let new = cluster.leader()?;
    if new == leader {
        return Err("the dead one still leads".into());
    }
    let fresh = cluster.open(runtime)?;
    for id in &granted {
        let node = fresh.rows().node(&id.parse().expect("an id"));
        if node.is_none() {
            return Err(format!("{id} was granted and is lost").into());
        }
    }
    cluster.revive_all()
}

// proves D2: nothing that was granted is lost, whatever dies
fn all_die(runtime: &Runtime) -> Outcome {
    let mut cluster = Cluster::start(3)?;
    let mut admin = Registry::new(Config::default(), cluster.open(runtime)?);
    let mut granted = first_hundred(&mut admin)?;
    // They die one right after the other while it goes on.
    let mut members = std::mem::take(&mut cluster.members);
    let (kill, told) = std::sync::mpsc::channel();
    let killer = std::thread::spawn(move || {
        // A test that has failed before says nothing.
        if told.recv().is_ok() {
            for member in &mut members {
                member.take().expect("it lives").kill().expect("killed");
            }
        }
        members
    });
    let (mut refused, begin) = (0, now());
    for number in 100.. {
        if number == 150 {
            kill.send(()).map_err(|_| "the killer is gone")?;
        }
        let were_dead = killer.is_finished();
        let is_granted = register(&mut admin, number, &mut granted);
        refused += usize::from(!is_granted);
        if were_dead && is_granted {
            return Err(format!("n{number} was granted and nobody was there to keep it").into());
        }
        if were_dead && refused >= 3 && admin.is_stale() {
            break;
        }
        if now() > begin.after(HANG) {
            return Err(format!("with all dead {refused} were refused; stale: {}", admin.is_stale()).into());
        }
    }
    cluster.members = killer.join().map_err(|_| "the killer panicked")?;
    println!("{} were granted, {refused} refused", granted.len());
    if granted.len() < 150 {
        return Err(format!("{} were granted before they died", granted.len()).into());
    }
    let known =
        |admin: &Registry<EtcdStore>, id: &String| admin.rows().node(&id.parse().expect("an id")).is_some();
    if let Some(id) = granted.iter().find(|id| !known(&admin, id)) {
        return Err(format!("{id} was granted and is not answered in the outage").into());
    }

    // One that has seen nothing of it.
    cluster.revive_all()?;
    let fresh = Registry::new(Config::default(), cluster.open(runtime)?);
    if fresh.is_stale() {
        return Err("one that has just read everything is stale".into());
    }
    if let Some(id) = granted.iter().find(|id| !known(&fresh, id)) {
        return Err(format!("{id} was granted and is lost").into());
    }
    until("who was there finds etcd again", || !admin.is_stale())?;
    until("it grants again", || register(&mut admin, usize::MAX, &mut granted))?;
    until("and the other hears of it", || known(&fresh, &format!("n{}", usize::MAX)))
}

fn outage(runtime: &Runtime) -> Outcome {
    let mut cluster = Cluster::start(1)?;
    let settings = EtcdSettings { lease: Duration::from_secs(3), ..cluster.settings() };
    let config = Config { lease: Duration::from_secs(3), ..Config::default() };
    let mut admin = Registry::new(config, cluster.open_with(runtime, settings)?);
    let seen = [192, 0, 2, 1].into();
    let node = || -> NodeRecord { conformance::node("v", Role::Vmr { rank: 1 }, &["192.0.2.1:2268"], 0) };
    admin.register(now(), seen, node().registration)?;
    if admin.is_stale() {
        return Err("it is stale although etcd lives".into());
    }
    cluster.kill_all()?;
    until("the outage is noticed", || admin.is_stale())?;
    let lapsed = now().after(Duration::from_secs(3));
    until("the lease would have run out", || now() > lapsed)?;
    let live = admin.nodes(now(), None, 9);
    if live.len() != 1 || !admin.expire(now())?.is_empty() {
        return Err(format!("after the lease, in the outage, the live nodes are {live:?}").into());
    }
    if admin.register(now(), seen, conformance::node("w", Role::Agent, &[], 0).registration).is_ok() {
        return Err("a registration was granted that nobody has kept".into());
    }

    cluster.revive_all()?;
    until("etcd is found again", || !admin.is_stale())?;
    if admin.nodes(now(), None, 9).len() != 1 {
        return Err("the node had no time to renew its lease".into());
    }
    until("its lease runs again and runs out", || {
        admin.expire(now()).is_ok_and(|expired| expired.len() == 1)
    })?;
    admin.register(now(), seen, node().registration)?;
    Ok(())
}

fn compacted(runtime: &Runtime) -> Outcome {
    let mut cluster = Cluster::start(1)?;
    let reader = cluster.open(runtime)?;
    let put = |store: &mut EtcdStore, id: &str| {
        store.commit(&[Change::PutNode(conformance::node(id, Role::Agent, &[], u64::MAX))])
    };
    put(&mut cluster.open(runtime)?, "before")?;
    until("it is heard", || reader.rows().node_count() == 1)?;
    // The reader is cut off while the history goes on and is forgotten.
    cluster.kill_all()?;
    until("the outage is noticed", || reader.rows().is_stale())?;
    cluster.revive_all()?;
    let mut writer = cluster.open(runtime)?;
    for number in 0..50 {
        put(&mut writer, &format!("n{number}"))?;
    }
    writer.commit(&[Change::RemoveNode("before".parse().expect("an id"))])?;
    cluster.compact()?;
    until("the reader knows what the writer does", || {
        let all = |store: &EtcdStore| store.rows().nodes(None, 1000).len();
        all(&reader) == 50 && all(&writer) == 50
    })
}

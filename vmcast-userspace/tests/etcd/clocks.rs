//! Admins whose clocks do not agree.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libtest_mimic::Trial;
use tokio::runtime::Runtime;
use vmcast::admin::{Clock, EtcdStore};
use vmcast_proto::registry::{
    Config, NodeRecord, Registered, Registry, Role, Rows as _, UnixMillis, conformance,
};

use crate::{
    Outcome,
    cluster::{Cluster, now, until},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("clocks that are a year apart neither end a lease that is renewed nor prolong another", apart)]
}

const SEEN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// An admin, which is told the time by the test.
struct Told {
    registry: Registry<EtcdStore>,
    clock: Clock,
}

impl Told {
    fn register(&mut self, node: NodeRecord) -> Result<Registered, libtest_mimic::Failed> {
        Ok(self.registry.register(self.clock.now(), SEEN, node.registration)?.outcome)
    }

    /// Milliseconds until the lease of a node ends.
    fn left(&self, id: &str) -> Option<u64> {
        let node = self.registry.rows().node(&id.parse().ok()?)?;
        Some(node.expires.0.saturating_sub(self.clock.now().0))
    }
}

// proves A2: the clock of no admin takes the lease of a node that renews, or keeps one that is gone
fn apart(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let passed = Arc::new(AtomicU64::new(0));
    let mut admins = Vec::new();
    for start in [now(), now().after(YEAR), UnixMillis(now().0 - YEAR.as_millis() as u64)] {
        let elapsed = Arc::clone(&passed);
        let clock = Clock::steady_by(start, move || Duration::from_millis(elapsed.load(Ordering::SeqCst)));
        let store = cluster.open_by(runtime, cluster.settings(), clock.clone())?;
        admins.push(Told { registry: Registry::new(Config::default(), store), clock });
    }
    let vmr = || conformance::node("v", Role::Vmr { rank: 1 }, &["192.0.2.1:2268"], 0);
    let gone = conformance::node("gone", Role::Agent, &[], 0);
    admins[1].register(gone)?;
    admins[0].register(vmr())?;
    let lease = Config::default().lease.as_millis() as u64;
    // A node that renews, each time at another admin; all of them sweep.
    for round in 1..=9 {
        until("each admin knows that the lease was renewed", || {
            admins.iter().all(|admin| admin.left("v") == Some(lease))
        })?;
        passed.fetch_add(lease / 3, Ordering::SeqCst);
        for admin in &mut admins {
            for id in admin.registry.expire(admin.clock.now())? {
                if id.as_str() != "gone" || round < 3 {
                    return Err(format!("in round {round} {id} was taken for dead").into());
                }
            }
        }
        let outcome = admins[round % 3].register(vmr())?;
        if outcome != Registered::Renewed {
            return Err(format!("in round {round} the renewal was {outcome:?}").into());
        }
        let is_there = admins.iter().any(|admin| admin.left("gone").is_some());
        if round < 3 && admins.iter().any(|admin| admin.left("gone").is_none()) {
            return Err("a lease ended before its time".into());
        }
        if round == 3 && is_there {
            until("the dead one is known to be gone", || {
                admins.iter().all(|admin| admin.left("gone").is_none())
            })?;
        }
    }
    // One that an operator drains at another admin gets no more time by that.
    until("the last renewal is known", || admins.iter().all(|admin| admin.left("v") == Some(lease)))?;
    passed.fetch_add(lease - 1, Ordering::SeqCst);
    let (id, time) = ("v".parse()?, admins[2].clock.now());
    admins[2].registry.drain(time, &id, true)?;
    until("every admin knows that it drains", || {
        admins.iter().all(|admin| admin.registry.rows().node(&id).is_some_and(|node| node.draining))
    })?;
    passed.fetch_add(1, Ordering::SeqCst);
    let ahead = &mut admins[1];
    let expired = ahead.registry.expire(ahead.clock.now())?;
    if expired != [id] {
        return Err(format!("when its lease was over {expired:?} had expired").into());
    }
    until("the others know it", || admins.iter().all(|admin| admin.left("v").is_none()))?;
    // Whoever starts with a wrong clock takes nobody's lease either.
    admins[0].register(vmr())?;
    let late = Clock::new(move || now().after(YEAR * 30));
    let mut late = Registry::new(Config::default(), cluster.open_by(runtime, cluster.settings(), late)?);
    let expired = late.expire(now().after(YEAR * 30))?;
    if !expired.is_empty() {
        return Err(format!("an admin that was started with a wrong clock took {expired:?} for dead").into());
    }
    Ok(())
}

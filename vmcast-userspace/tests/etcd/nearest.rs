//! The nearest VMR by round-trip time, where VMRs are at different admins.

use std::{
    future::pending,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use tokio::{
    net::UdpSocket,
    runtime::Runtime,
    sync::{mpsc, watch},
    time::Instant,
};
use vmcast::{
    admin::{Admin, EtcdStore, Gate, Handle, Way},
    link::{Attachment, RankedVmrs, Settings, VmrOrder, attach},
};
use vmcast_proto::{
    nearest::{
        self,
        rtt::{Volley, WaitRule},
    },
    policy::{Action, Effect, Rule},
    registry::{AnswerKind, Config, Registration, Registry, Role},
};
use vmcast_wire::amt::Message;

use crate::{
    Outcome,
    cluster::{Cluster, clock, until},
    identity::{ensure, id},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the nearest VMR is found although it is at another admin than the requester", elsewhere),
        trial("by round-trip time every VMR probes, whichever admin it is registered at", everywhere),
        trial("what an operator says at one admin is carried out by VMRs and agents at the other", told),
    ]
}

/// An admin that finds the nearest by round-trip time.
struct Served {
    url: String,
    handle: Handle<EtcdStore>,
}

impl Served {
    fn start(runtime: &Runtime, cluster: &Cluster) -> Result<Self, Failed> {
        // Short, so that a test sees what nodes hear when they renew.
        let config = Config { lease: Duration::from_secs(6), ..Config::default() };
        let registry = Registry::new(config, cluster.open(runtime)?);
        let _entered = runtime.enter();
        let handle = Handle::new(registry, clock(), Way::Rtt(WaitRule::Half))?;
        let gate = Gate::insecure(clock());
        let bound = Admin::bind_with(([127, 0, 0, 1], 0).into(), handle.clone(), gate);
        let admin = runtime.block_on(bound).map_err(|error| error.to_string())?;
        let url = format!("http://{}", admin.local_addr()?);
        runtime.spawn(admin.serve(pending()));
        Ok(Self { url, handle })
    }

    fn node(&self, name: &str, role: Role, local: [u8; 4], endpoints: Vec<SocketAddr>) -> Settings {
        Settings {
            admins: vec![self.url.clone()],
            registration: Registration {
                id: id(name),
                role,
                endpoints,
                name: name.parse().expect("a name"),
                software: "x".parse().expect("a name"),
                about: Default::default(),
            },
            requery: Settings::REQUERY,
            local: Some(local.into()),
            probe: nearest::Config::default(),
            seed: 7,
            identity: None,
        }
    }

    /// A VMR whose relay answers with a time to live of its own, which makes its distance.
    fn vmr(&self, runtime: &Runtime, name: &str, address: [u8; 4], ttl: u32) -> Result<Vmr, Failed> {
        let _entered = runtime.enter();
        let socket = runtime.block_on(UdpSocket::bind((IpAddr::from(address), 0)))?;
        socket.set_ttl(ttl)?;
        let endpoint = socket.local_addr()?;
        runtime.spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let Ok(Message::RelayDiscovery { nonce }) = Message::parse(&buffer[..length]) else {
                    continue;
                };
                let answer = Message::RelayAdvertisement { nonce, relay: endpoint.ip() }.to_vec();
                // A probe that is lost is sent again.
                let _ = socket.send_to(&answer, from).await;
            }
        });
        let settings = self.node(name, Role::Vmr { rank: 0 }, address, vec![endpoint]);
        let mut attachment = attach(settings)?;
        let orders = attachment.take_orders().ok_or("a VMR has a line")?;
        Ok(Vmr { _attachment: attachment, _orders: orders })
    }

    fn agent(
        &self,
        runtime: &Runtime,
        name: &str,
        local: [u8; 4],
    ) -> Result<(Attachment, RankedVmrs), Failed> {
        let _entered = runtime.enter();
        let agent = attach(self.node(name, Role::Agent, local, vec![]))?;
        let upstreams = agent.upstreams();
        until("the agent knows its VMRs", || upstreams.borrow().is_some())?;
        let known = upstreams.borrow().clone().ok_or("it knew them")?;
        Ok((agent, known))
    }
}

/// It holds its line as long as this is there.
struct Vmr {
    _attachment: Attachment,
    _orders: mpsc::Receiver<VmrOrder>,
}

fn names(ranked: &RankedVmrs) -> Vec<&str> {
    ranked.vmrs.iter().map(|vmr| vmr.id.as_str()).collect()
}

/// A VMR that carries out what it is ordered. A probe leaves when as many of `after` have, and it says on `sent` how many
/// of its own: so one is farther away than another whatever the machine does meanwhile.
struct Probing {
    attachment: Attachment,
    orders: Arc<Mutex<Vec<VmrOrder>>>,
    sent: watch::Receiver<u32>,
}

impl Probing {
    fn start(
        runtime: &Runtime,
        name: &str,
        admins: &[&Served],
        address: [u8; 4],
        mut after: Option<watch::Receiver<u32>>,
    ) -> Result<Self, Failed> {
        let _entered = runtime.enter();
        let socket = runtime.block_on(UdpSocket::bind((IpAddr::from(address), 0)))?;
        let endpoint = socket.local_addr()?;
        let first = admins.first().ok_or("no admin")?;
        let settings = Settings {
            admins: admins.iter().map(|admin| admin.url.clone()).collect(),
            ..first.node(name, Role::Vmr { rank: 0 }, address, vec![endpoint])
        };
        let mut attachment = attach(settings)?;
        let mut queue = attachment.take_orders().ok_or("a VMR has lines")?;
        let orders = Arc::new(Mutex::new(Vec::new()));
        let (known, (says, sent)) = (Arc::clone(&orders), watch::channel(0));
        runtime.spawn(async move {
            let now = || Instant::now().into_std();
            let mut volley = Volley::default();
            let mut buffer = [0; 1500];
            loop {
                let due = volley.poll_timeout().map(Instant::from_std);
                let due = async {
                    match due {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => pending().await,
                    }
                };
                tokio::select! {
                    Ok((length, from)) = socket.recv_from(&mut buffer) => {
                        if let Ok(Message::RelayDiscovery { nonce }) = Message::parse(&buffer[..length]) {
                            volley.on_discovery(now(), endpoint, from, nonce);
                        }
                    }
                    order = queue.recv() => match order {
                        Some(order) => {
                            if let VmrOrder::Probe(order, at) = &order {
                                volley.on_order(at.into_std(), *order);
                            }
                            known.lock().expect("no panic").push(order);
                        }
                        None => return,
                    },
                    () = due => volley.handle_timeout(now()),
                }
                while let Some(probe) = volley.poll_probe() {
                    let number = *says.borrow() + 1;
                    if let Some(after) = &mut after {
                        // The other one is there as long as the test is.
                        let _ = after.wait_for(|sent| *sent >= number).await;
                    }
                    let _ = socket.send_to(&probe.bytes, probe.remote).await;
                    says.send_replace(number);
                }
            }
        });
        Ok(Self { attachment, orders, sent })
    }

    fn was_ordered(&self, wanted: impl Fn(&VmrOrder) -> bool) -> bool {
        self.orders.lock().expect("no panic").iter().any(wanted)
    }
}

// proves A5 and D2: VMRs have lines to all admins, so any of them lets all of them probe
fn everywhere(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let (here, there) = (Served::start(runtime, &cluster)?, Served::start(runtime, &cluster)?);
    let near = Probing::start(runtime, "near", &[&there, &here], [127, 1, 1, 1], None)?;
    let far = Probing::start(runtime, "far", &[&here, &there], [127, 1, 0, 1], Some(near.sent.clone()))?;
    for (vmr, admin) in [(&near, &there), (&far, &here)] {
        until("each is registered at its own", || vmr.attachment.admin_link().url == admin.url)?;
    }
    until("each has answered at both", || {
        let measured = |admin: &Served, vmr| admin.handle.rtt(&id(vmr)).is_some();
        [&here, &there].iter().all(|admin| measured(admin, "near") && measured(admin, "far"))
    })?;
    for (number, admin) in (5..).zip([&here, &there]) {
        // Of a network of its own each, so that none is answered from the cache.
        let (_agent, found) = admin.agent(runtime, &format!("a{number}"), [127, number, 0, 5])?;
        ensure(names(&found) == ["near", "far"], &format!("it found {found:?}"))?;
        let lines = admin.handle.status().lines;
        ensure(
            (lines.orders, lines.unreached, lines.lines) == (2, 0, 2),
            &format!("all of them probed: {lines:?}"),
        )?;
    }
    Ok(())
}

// proves D2, D4 and E3: rules and drains hold at every admin, within its next look at what the others have written
fn told(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let (here, there) = (Served::start(runtime, &cluster)?, Served::start(runtime, &cluster)?);
    // They know the other admin alone.
    let goes = Probing::start(runtime, "goes", &[&there], [127, 1, 1, 1], None)?;
    let stays = Probing::start(runtime, "stays", &[&there], [127, 1, 0, 1], Some(goes.sent.clone()))?;
    until("both have answered, and this admin knows them", || {
        there.handle.status().lines.pings >= 2 && here.handle.nodes(None, 9).len() == 2
    })?;
    let (agent, found) = there.agent(runtime, "a", [127, 2, 0, 5])?;
    ensure(names(&found) == ["goes", "stays"], &format!("it found {found:?}"))?;

    let deny = |policy: &mut vmcast_proto::policy::Policy| {
        policy.rules.push(Rule::new(1, Effect::Deny, Action::Receive));
        Ok(())
    };
    runtime.block_on(here.handle.change_policy(deny)).map_err(|error| error.to_string())?;
    let denies = |order: &VmrOrder| matches!(order, VmrOrder::Policy(policy) if policy.rules.len() == 1);
    until("both VMRs have the rule", || goes.was_ordered(denies) && stays.was_ordered(denies))?;

    let drained = |drain| runtime.block_on(here.handle.drain(id("goes"), drain));
    ensure(drained(true).is_ok_and(|changed| changed), "it was in service")?;
    let is_told = |told| move |order: &VmrOrder| *order == VmrOrder::Draining(told);
    until("the VMR takes nobody new", || goes.was_ordered(is_told(true)))?;
    until("the others are told", || stays.was_ordered(|order| *order == VmrOrder::Going(id("goes"))))?;
    until("the agent goes elsewhere", || {
        let ranked = agent.upstreams();
        let ranked = ranked.borrow();
        let is_left = ranked.as_ref().is_some_and(|ranked| names(ranked) == ["stays"]);
        is_left && agent.draining().borrow().contains(&id("goes"))
    })?;
    ensure(!stays.was_ordered(is_told(true)), "nobody drains the other one")?;
    ensure(drained(false).is_ok_and(|changed| changed), "it was out of service")?;
    until("it is back", || goes.was_ordered(is_told(false)))?;
    until("the agent is told", || agent.draining().borrow().is_empty())
}

// proves A5 and D2: no VMR is left out because its line is at another admin
fn elsewhere(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let (here, there) = (Served::start(runtime, &cluster)?, Served::start(runtime, &cluster)?);
    let _far = here.vmr(runtime, "far", [127, 1, 0, 1], 55)?;
    let _near = there.vmr(runtime, "near", [127, 1, 1, 1], 63)?;
    until("each has its line, and both admins know both", || {
        [&here, &there]
            .iter()
            .all(|admin| admin.handle.status().lines.pings > 0 && admin.handle.nodes(None, 9).len() == 2)
    })?;

    let (_agent, found) = here.agent(runtime, "a", [127, 2, 0, 5])?;
    ensure(found.kind == AnswerKind::All, &format!("it measured: {found:?}"))?;
    ensure(names(&found) == ["near", "far"], &format!("it found {found:?}"))?;
    until("the other admin knows what it found", || there.handle.cache(None, 9).len() == 2)?;
    let (_neighbour, told) = there.agent(runtime, "b", [127, 2, 0, 6])?;
    ensure(told.kind == AnswerKind::CachedPrefix, &format!("it was told: {told:?}"))?;
    ensure(names(&told) == ["near", "far"], &format!("it was told {told:?}"))?;
    let status = here.handle.status().lines;
    ensure(status.orders == 0 && status.unreached > 0, &format!("no half of them probed: {status:?}"))
}

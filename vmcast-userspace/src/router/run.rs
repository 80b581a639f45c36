//! The one loop of a VMR.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio::{
    io::unix::AsyncFdReadyGuard,
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};
use vmcast_common::fib::{FibOp, IfIndex, Interface};
use vmcast_dataplane::{Dataplane, Engine, Fib, PacketTooBig};
use vmcast_proto::{amt::relay, host_state, igmp, mrib, registry};
use vmcast_wire::ipv4;

use super::{
    answer,
    core::{Core, Effect, Settings},
    endpoints::{self, Reading, Relays},
    interfaces::{self, Attached, Wanted},
    kept, plane,
    priorities::Priorities,
    pursuit::{Named, Present, Pursuit, Step},
    reconcile::{self, Backlog},
    seed,
    shown::Shown,
    stated::Stated,
    tally::Amount,
    unicast::UnicastInputs,
    upstream::State,
};
use crate::{
    clock,
    config::{OnExit, Remote, RoleConfig as _, RouterConfig, Upstream, UpstreamFrom},
    control::{Call, Control},
    daemon::Process,
    link::{self, Attachment, RankedVmrs},
    netlink::{Links, NextHopEvent, NextHops},
    resolver::Resolver,
    signals::Termination,
    sockets::{Icmpv6Sender, Listeners, Readable},
    telemetry::RateLimit,
};

/// How often the data plane is asked for punts.
const PUNT_INTERVAL: Duration = Duration::from_millis(50);
/// Most punts that are taken at a time.
const PUNTS_AT_ONCE: usize = 512;
/// How often its counters are read.
const COUNTERS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the plane looks again at what devices can.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// How long a take-over waits for the ways to those who are stated.
const WAYS_PATIENCE: Duration = Duration::from_secs(1);
/// Datagrams that wait for the loop; more wait in the sockets.
const EVENTS: usize = 1024;

/// What the tasks beside the loop tell it.
pub(super) enum Event {
    /// A datagram came to an endpoint of the relay.
    Relay { local: SocketAddr, remote: SocketAddr, bytes: Vec<u8> },
    /// A datagram came to the gateway's socket.
    Gateway { remote: SocketAddr, bytes: Vec<u8> },
    /// An IPv4 datagram with IGMP came in on an interface.
    Igmp { ifindex: IfIndex, datagram: Vec<u8> },
    /// The upstream of the configuration has these addresses.
    StaticUpstream(Vec<SocketAddr>),
    /// The configured interfaces that exist are these now.
    Interfaces(Vec<Wanted>),
}

/// Everything that the loop holds.
pub(super) struct Router {
    pub(super) config: RouterConfig,
    pub(super) core: Core,
    pub(super) plane: Box<dyn Dataplane>,
    pub(super) interfaces: BTreeMap<IfIndex, Attached>,
    pub(super) shown: Shown,
    pub(super) attachment: Option<Attachment>,
    pub(super) upstream_name: Option<String>,
    pub(super) process: Process,
    /// Changes that the data plane refused.
    pub(super) refused_changes: u64,
    backlog: Backlog,
    /// Datagrams that the kernel did not send.
    pub(super) unsent: u64,
    /// Packet Too Big messages that were sent to sources.
    pub(super) too_big_sent: u64,
    /// IGMP datagrams that are no IPv4 or no IGMP.
    pub(super) bad_igmp_datagrams: u64,
    /// Opened with the first message.
    icmpv6: Option<Icmpv6Sender>,
    relays: Relays,
    gateway: Option<Reading>,
    pursuit: Pursuit,
    next_hops: NextHops,
    successors: kept::Successors,
    unicast: UnicastInputs,
    events: mpsc::Sender<Event>,
    warnings: RateLimit,
}

/// Runs a VMR until a signal ends it.
///
/// # Errors
/// If an interface, socket or plane cannot be had.
pub(crate) async fn run(config: RouterConfig) -> anyhow::Result<()> {
    let mut termination = Termination::new()?;
    let process = Process::new(vmcast_api::Role::Router, config.name.as_str());
    let (_control, calls) = Control::start(&config.socket())?;
    let links = Links::open()?;
    // Watched before they are read, so that no change falls between.
    let link_watch = links.watch()?;
    let wanted = interfaces::all(&config, &links).await?;
    let (events, event_queue) = mpsc::channel(EVENTS);
    let (next_hops, mut next_hop_events) = NextHops::spawn()?;
    next_hops.point_to_point(interfaces::point_to_point(&wanted));

    let seed = seed::load(&config.socket())?;
    let relay_addresses = relay_addresses(&config, &wanted);
    let relays = bind_relays(&relay_addresses, config.tunnel.port, &events)?;
    let endpoints = relays.endpoints();

    let now = clock::now();
    let mut core = Core::new(now, settings(&config, &relay_addresses, seed));
    core.prioritize(Priorities::new(&config.priorities));
    core.state(Stated::new(now, &config.static_tunnels, &config.forwards));
    let mut attached = BTreeMap::new();
    for wanted in &wanted {
        let ifindex = wanted.link.ifindex;
        attached
            .insert(ifindex, interfaces::attach(wanted, &events).with_context(|| wanted.link.name.clone())?);
        set_interface(&mut core, now, wanted, wanted.interface)?;
    }
    for endpoint in &endpoints {
        core.add_endpoint(*endpoint);
    }
    let mut unicast = UnicastInputs::new(core.stated.unicast_inputs().into_keys());
    unicast.follow(&mut core);
    let opened = plane::open(&config.dataplane)?;
    let gateway = opened
        .kept
        .as_ref()
        .and_then(|kept| inherit(&mut core, now, kept, &endpoints, config.upstream.from, &events));
    let mut successors = kept::Successors::default();
    let mut beginning = Beginning::default();
    beginning.take(&mut core, &next_hops);
    if opened.kept.is_some() {
        // What was kept forwards meanwhile.
        let ways = beginning.find_ways(&mut core, &mut successors, &next_hops, &mut next_hop_events);
        if timeout(WAYS_PATIENCE, ways).await.is_err() {
            tracing::warn!(
                "the way to somebody who is stated is not known yet; the others do not wait for it"
            );
        }
        beginning.take(&mut core, &next_hops);
    }
    let Beginning { first, rest } = beginning;
    let plane = plane::start(&config, opened, &first)?;
    let engine = plane.engine();
    tracing::info!(engine = engine.engine.label(), reason = engine.reason, "data plane ready");

    let mut shown = Shown::default();
    first.iter().for_each(|op| shown.note(now, op, Amount::default(), plane.as_ref(), &core.mrib));
    let attachment = attach(&config, &endpoints, seed)?;
    let mut router = Router {
        config,
        core,
        plane,
        interfaces: attached,
        shown,
        attachment,
        upstream_name: None,
        process,
        refused_changes: 0,
        backlog: Backlog::new(),
        unsent: 0,
        too_big_sent: 0,
        bad_igmp_datagrams: 0,
        icmpv6: None,
        relays,
        gateway,
        pursuit: Pursuit::new(),
        next_hops,
        successors,
        unicast,
        events,
        warnings: RateLimit::new(10, Duration::from_secs(10)),
    };
    for effect in rest {
        router.carry_out(effect);
    }
    router.report_endpoints();
    tokio::spawn(interfaces::follow(router.config.clone(), links, link_watch, router.events.clone()));
    let ended = router.serve(&mut termination, calls, event_queue, next_hop_events).await;
    match &ended {
        Ok(signal) => tracing::info!(signal, "ending"),
        Err(error) => tracing::error!("ending: {error:#}"),
    }
    router.end().await;
    ended.map(|_| ())
}

/// What comes of the first state, before there is a plane.
#[derive(Default)]
struct Beginning {
    first: Vec<FibOp>,
    rest: Vec<Effect>,
}

impl Beginning {
    fn take(&mut self, core: &mut Core, next_hops: &NextHops) {
        while let Some(effect) = core.poll_effect() {
            match effect {
                Effect::Fib(op) => self.first.push(op),
                Effect::Watch(address) => next_hops.watch(address),
                Effect::Unwatch(address) => next_hops.unwatch(address),
                // Nothing has been counted yet.
                Effect::MembershipChanged { .. } => {}
                other @ (Effect::SendRelay { .. }
                | Effect::SendGateway { .. }
                | Effect::SendIgmp { .. }
                | Effect::HostMembership { .. }
                | Effect::UpstreamUp(_)
                | Effect::UpstreamDown { .. }) => self.rest.push(other),
            }
        }
    }

    /// Waits until the ways to all who are stated are known.
    async fn find_ways(
        &mut self,
        core: &mut Core,
        successors: &mut kept::Successors,
        next_hops: &NextHops,
        events: &mut mpsc::UnboundedReceiver<NextHopEvent>,
    ) {
        while core.awaits_ways() {
            let Some(event) = events.recv().await else {
                return;
            };
            if let NextHopEvent::Assign { destination, hop: Err(reason), .. } = event {
                tracing::warn!(%destination, %reason, "no way to a member");
            }
            note_next_hop(core, successors, event);
            self.take(core, next_hops);
        }
    }
}

/// Passes on what the kernel tells of the ways to members.
fn note_next_hop(core: &mut Core, successors: &mut kept::Successors, event: NextHopEvent) {
    let now = clock::now();
    match event {
        NextHopEvent::Set { id, hop } => successors.set(core, now, id, hop),
        NextHopEvent::Assign { destination, hop, direct } => {
            core.assign_stated(now, destination, hop.ok(), direct);
            successors.assign(core, now, destination, hop.ok());
        }
        NextHopEvent::Removed { id } => successors.remove(core, id),
    }
}

/// Takes over what an earlier process left forwarding. Returns the socket towards its upstream, at
/// the same port as before, so that the upstream's data comes on without a pause.
fn inherit(
    core: &mut Core,
    now: Instant,
    kept: &Fib,
    endpoints: &[SocketAddr],
    from: UpstreamFrom,
    events: &mpsc::Sender<Event>,
) -> Option<Reading> {
    let inheritance = kept::inherit(core, now, kept, endpoints);
    tracing::info!(
        tunnels = inheritance.tunnels,
        streams = inheritance.streams,
        upstream = ?inheritance.upstream,
        "taking over what an earlier process left forwarding"
    );
    let (SocketAddr::V4(local), remote) = inheritance.upstream? else {
        return None;
    };
    if from == UpstreamFrom::None {
        return None;
    }
    match endpoints::open_gateway(local, events) {
        Ok(gateway) => {
            core.inherit_upstream(now, local.into(), remote);
            Some(gateway)
        }
        Err(error) => {
            tracing::warn!(%local, "the upstream's tunnel cannot be taken over: {error:#}");
            None
        }
    }
}

/// Our addresses that take tunnels.
fn relay_addresses(config: &RouterConfig, wanted: &[Wanted]) -> Vec<Ipv4Addr> {
    if !config.tunnel.address.is_empty() {
        return config.tunnel.address.clone();
    }
    wanted.iter().filter_map(|wanted| wanted.link.address()).collect()
}

/// The first endpoints; that none can be had at a given address is for the operator to mend.
fn bind_relays(addresses: &[Ipv4Addr], port: u16, events: &mpsc::Sender<Event>) -> anyhow::Result<Relays> {
    let mut relays = Relays::new(port);
    match relays.follow(addresses, events).refused.pop() {
        None => Ok(relays),
        Some((local, error)) => Err(error).with_context(|| {
            format!("taking tunnels at {local}: is the address this host's, and the port free?")
        }),
    }
}

fn settings(config: &RouterConfig, addresses: &[Ipv4Addr], seed: [u8; 16]) -> Settings {
    let igmp = config.igmp.over(crate::config::Igmp::default());
    let relay = relay::Config {
        secret_age: Duration::from_millis(clock::unix_millis()),
        query_source: addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED),
        query_interval: igmp.query_interval,
        query_response_interval: igmp.query_response_interval,
        robustness: igmp.robustness_variable,
        max_tunnels: config.tunnel.max_tunnels,
        max_tunnels_per_source: config.tunnel.max_tunnels_per_address,
        limits: host_state::Limits {
            groups: config.tunnel.max_groups_per_tunnel as usize,
            ..host_state::Limits::default()
        },
        ..relay::Config::new(seed)
    };
    Settings { relay, mrib: mrib::Config::default(), seed }
}

fn set_interface(core: &mut Core, now: Instant, wanted: &Wanted, interface: Interface) -> anyhow::Result<()> {
    core.stated.add_interface(&wanted.link.name, wanted.link.ifindex);
    core.set_interface(now, interface, &wanted.addresses, wanted.querier.clone())
        .with_context(|| format!("IGMP on {}", wanted.link.name))
}

/// Registers at the admin, if there is one.
fn attach(
    config: &RouterConfig,
    endpoints: &[SocketAddr],
    seed: [u8; 16],
) -> anyhow::Result<Option<Attachment>> {
    if config.admin.urls.is_empty() {
        return Ok(None);
    }
    let [a, b, c, d, e, f, g, h, ..] = seed;
    let registration = registry::Registration {
        id: config.node_id().as_str().parse()?,
        role: registry::Role::Vmr { rank: config.rank },
        endpoints: endpoints.to_vec(),
        name: config.name.as_str().parse()?,
        software: concat!("vmcast ", env!("CARGO_PKG_VERSION")).parse()?,
    };
    let settings = link::Settings {
        admins: config.admin.urls.iter().map(|url| url.as_str().to_owned()).collect(),
        registration,
        requery: link::Settings::REQUERY,
        local: None,
        probe: vmcast_proto::nearest::Config::default(),
        seed: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
    };
    Ok(Some(link::attach(settings)?))
}

impl Router {
    async fn serve(
        &mut self,
        termination: &mut Termination,
        mut calls: mpsc::Receiver<Call>,
        mut events: mpsc::Receiver<Event>,
        mut next_hop_events: mpsc::UnboundedReceiver<NextHopEvent>,
    ) -> anyhow::Result<&'static str> {
        let mut punts = interval(PUNT_INTERVAL);
        let mut counters = interval(COUNTERS_INTERVAL);
        let mut refreshes = interval(REFRESH_INTERVAL);
        for ticks in [&mut punts, &mut counters, &mut refreshes] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut named_by_admin = self.watch_upstream();
        let oversized = self.plane.oversized().map(Readable::new).transpose();
        let oversized = oversized.context("following the packets that are too large for a link")?;
        loop {
            let timeout = self.core.poll_timeout().map(tokio::time::Instant::from_std);
            tokio::select! {
                signal = termination.received() => return Ok(signal),
                Some(event) = events.recv() => self.on_event(event),
                event = next_hop_events.recv() => match event {
                    Some(event) => self.on_next_hop(event),
                    // Members that move or whose neighbours change would be sent to in vain.
                    None => bail!("the kernel's routes and neighbours can no longer be followed"),
                },
                () = at(timeout) => self.core.handle_timeout(clock::now()),
                _ = punts.tick() => {
                    // Bounded, so that a flood of new sources leaves time for everything else.
                    for _ in 0..PUNTS_AT_ONCE {
                        let Some(punt) = self.plane.poll_punt() else {
                            break;
                        };
                        self.core.punt(clock::now(), punt);
                    }
                    self.tell_sources();
                }
                ready = readable(oversized.as_ref()) => {
                    let mut ready = ready.context("following the packets that are too large for a link")?;
                    if !self.plane.serve_oversize() {
                        ready.clear_ready();
                    }
                    self.tell_sources();
                }
                _ = counters.tick() => {
                    let now = clock::now();
                    self.shown.read(now, self.plane.as_ref());
                    self.core.stream_counters(now, &self.shown.counters.streams);
                    self.catch_up(now);
                }
                _ = refreshes.tick() => {
                    self.hear_listeners();
                    if let Err(error) = self.plane.refresh() {
                        tracing::error!("{error:#}");
                    }
                    self.unicast.follow(&mut self.core);
                }
                vmrs = changed(&mut named_by_admin) => self.on_vmrs(vmrs),
                () = clock::sleep_until(self.pursuit.poll_timeout()) => self.pursue(),
                Some((request, reply)) = calls.recv() => {
                    // A client that is gone needs no answer.
                    let _ = reply.send(answer::answer(self, &request));
                }
            }
            self.carry_out_all();
        }
    }

    /// Sends what sources are to hear of the size of their packets.
    fn tell_sources(&mut self) {
        while let Some(PacketTooBig { destination, message }) = self.plane.poll_too_big() {
            let sent = match &self.icmpv6 {
                Some(sender) => sender.send(destination, &message),
                None => Icmpv6Sender::open().and_then(|sender| {
                    let sent = sender.send(destination, &message);
                    self.icmpv6 = Some(sender);
                    sent
                }),
            };
            match sent {
                Ok(()) => self.too_big_sent += 1,
                Err(error) => {
                    tracing::debug!(%destination, %error, "a source is not told that its packets are too large");
                    self.unsent += 1;
                }
            }
        }
    }

    /// Follows who the upstream is, where somebody else names it.
    fn watch_upstream(&self) -> Option<watch::Receiver<Option<RankedVmrs>>> {
        match self.config.upstream.upstream() {
            Upstream::None => None,
            Upstream::Admin => self.attachment.as_ref().map(Attachment::upstreams),
            Upstream::Static(remote) => {
                tokio::spawn(resolve(remote, self.events.clone()));
                None
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let now = clock::now();
        match event {
            Event::Relay { local, remote, bytes } => self.core.relay_datagram(now, local, remote, &bytes),
            Event::Gateway { remote, bytes } => self.core.gateway_datagram(now, remote, &bytes),
            Event::Igmp { ifindex, datagram } => match ipv4::decapsulate(&datagram) {
                Ok(datagram) => {
                    let input = igmp::Input::Datagram {
                        source: datagram.source,
                        destination: datagram.destination,
                        ttl: datagram.ttl,
                        router_alert: datagram.router_alert,
                        payload: datagram.payload,
                    };
                    self.core.igmp_datagram(now, ifindex, input);
                }
                Err(error) => {
                    self.bad_igmp_datagrams += 1;
                    tracing::debug!(?ifindex, %error, "not IGMP over IPv4");
                }
            },
            Event::StaticUpstream(endpoints) => {
                let named = endpoints.into_iter().map(|endpoint| Named { endpoint, name: None });
                self.pursuit.name(now, named.collect());
            }
            Event::Interfaces(wanted) => self.on_interfaces(now, wanted),
        }
    }

    fn on_next_hop(&mut self, event: NextHopEvent) {
        if let NextHopEvent::Assign { destination, hop: Err(reason), .. } = event
            && let Some(held_back) = self.warnings.admit(clock::now())
        {
            tracing::warn!(%destination, %reason, held_back, "no way to a member");
        }
        note_next_hop(&mut self.core, &mut self.successors, event);
    }

    fn on_vmrs(&mut self, vmrs: Option<RankedVmrs>) {
        // While nothing is known, what was known goes on.
        let Some(vmrs) = vmrs else {
            return;
        };
        if vmrs.vmrs.is_empty() {
            tracing::warn!("the admin knows no VMR that is nearer to the source");
        }
        let named = vmrs.vmrs.into_iter().map(|vmr| Named { endpoint: vmr.endpoint, name: Some(vmr.name) });
        self.pursuit.name(clock::now(), named.collect());
    }

    /// Sees to it that the upstream is one of those that were named, from the address that leads there.
    fn pursue(&mut self) {
        let now = clock::now();
        let present = self.core.upstream.as_ref().and_then(|upstream| match upstream.local {
            SocketAddr::V4(local) => {
                let down = upstream.state == State::Down;
                Some(Present { local: *local.ip(), named: upstream.named, down })
            }
            SocketAddr::V6(_) => None,
        });
        match self.pursuit.look(now, present, endpoints::source_towards) {
            Step::Wait => {}
            Step::Keep(Named { name, .. }) => self.upstream_name = name,
            Step::Leave => self.leave_upstream(),
            Step::Turn(named, local) => self.use_upstream(named, local),
            Step::NoRoute => {
                if let Some(held_back) = self.warnings.admit(now) {
                    tracing::warn!(held_back, "no route leads to the upstream; will look again");
                }
            }
        }
    }

    /// Turns to another upstream, or to another address of ours, with a socket of its own.
    fn use_upstream(&mut self, upstream: Named, local: Ipv4Addr) {
        let Named { endpoint, name } = upstream;
        let gateway = match endpoints::open_gateway(SocketAddrV4::new(local, 0), &self.events) {
            Ok(gateway) => gateway,
            Err(error) => {
                tracing::warn!(upstream = %endpoint, "the upstream cannot be used: {error:#}");
                self.pursuit.failed(clock::now());
                return;
            }
        };
        let local = gateway.local();
        tracing::info!(upstream = %endpoint, name, %local, "streams come from here");
        self.upstream_name = name;
        self.set_upstream(Some((local, endpoint)), Some(gateway));
    }

    fn leave_upstream(&mut self) {
        self.upstream_name = None;
        if self.core.upstream.is_some() {
            tracing::info!("streams come from no upstream");
            self.set_upstream(None, None);
        }
    }

    fn set_upstream(&mut self, ends: Option<(SocketAddr, SocketAddr)>, gateway: Option<Reading>) {
        self.core.set_upstream(clock::now(), ends);
        // What is still to be said to the old upstream leaves by the old socket.
        self.carry_out_all();
        self.gateway = gateway;
        self.core.handle_timeout(clock::now());
    }

    /// Adopts what the interfaces are now, and the addresses that come with them.
    fn on_interfaces(&mut self, now: Instant, wanted: Vec<Wanted>) {
        let gone: Vec<IfIndex> = self
            .interfaces
            .keys()
            .filter(|ifindex| !wanted.iter().any(|wanted| wanted.link.ifindex == **ifindex))
            .copied()
            .collect();
        for ifindex in gone {
            if let Some(attached) = self.interfaces.remove(&ifindex) {
                tracing::warn!(iface = attached.name, "interface gone");
            }
            self.core.remove_interface(now, ifindex);
        }
        for wanted in &wanted {
            self.adopt_interface(now, wanted);
        }
        self.next_hops.point_to_point(interfaces::point_to_point(&wanted));
        self.follow_addresses(&relay_addresses(&self.config, &wanted));
        self.unicast.follow(&mut self.core);
        self.pursuit.hurry(now);
    }

    /// Takes tunnels where our addresses are now.
    fn follow_addresses(&mut self, addresses: &[Ipv4Addr]) {
        let moves = self.relays.follow(addresses, &self.events);
        for (local, error) in &moves.refused {
            tracing::warn!(%local, %error, "tunnels cannot be taken here");
        }
        if moves.added.is_empty() && moves.removed.is_empty() {
            return;
        }
        for endpoint in moves.removed {
            self.core.remove_endpoint(endpoint);
        }
        for endpoint in moves.added {
            self.core.add_endpoint(endpoint);
        }
        self.report_endpoints();
        if let Some(attachment) = &self.attachment {
            attachment.moved(self.relays.endpoints());
        }
    }

    fn report_endpoints(&self) {
        let endpoints = self.relays.endpoints();
        if endpoints.is_empty() {
            tracing::warn!("serving no tunnels: no interface of the configuration has an address yet");
        } else {
            tracing::info!(?endpoints, "serving");
        }
    }

    fn adopt_interface(&mut self, now: Instant, wanted: &Wanted) {
        let ifindex = wanted.link.ifindex;
        let listened = self.interfaces.get(&ifindex).is_some_and(|attached| attached.listened);
        let interface = Interface { shared: wanted.interface.shared || listened, ..wanted.interface };
        match self.interfaces.get_mut(&ifindex) {
            Some(attached) if attached.link == wanted.link && attached.interface == interface => return,
            Some(attached) => {
                attached.link = wanted.link.clone();
                attached.interface = interface;
                attached.bridged = wanted.interface.shared;
            }
            None => match interfaces::attach(wanted, &self.events) {
                Ok(attached) => {
                    tracing::info!(iface = attached.name, "interface in use");
                    self.interfaces.insert(ifindex, attached);
                }
                Err(error) => {
                    tracing::warn!(iface = wanted.link.name, "interface cannot be used: {error:#}");
                    return;
                }
            },
        }
        if let Err(error) = set_interface(&mut self.core, now, wanted, interface) {
            tracing::warn!("interface cannot be used: {error:#}");
        }
    }

    /// Lets the data plane share with the host what comes in where others on it listen, too.
    fn hear_listeners(&mut self) {
        let listeners = match Listeners::read() {
            Ok(listeners) => listeners,
            Err(error) => {
                tracing::debug!(%error, "who listens on this host cannot be read");
                return;
            }
        };
        for attached in self.interfaces.values_mut() {
            let ours = |group| attached.host.as_ref().map_or(0, |host| host.memberships(group));
            let listened = listeners.any_beside(&attached.link.name, ours);
            if std::mem::replace(&mut attached.listened, listened) != listened {
                let name = &attached.name;
                tracing::info!(
                    iface = name,
                    listened,
                    "whether others on this host listen there has changed"
                );
            }
            let shared = attached.bridged || listened;
            if attached.interface.shared != shared {
                attached.interface.shared = shared;
                self.core.share_interface(attached.interface);
            }
        }
    }

    fn carry_out_all(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::SendRelay { local, remote, bytes } => {
                self.unsent += u64::from(!self.relays.send(local, remote, &bytes));
            }
            Effect::SendGateway { remote, bytes } => {
                let gateway = self.gateway.as_ref();
                let sent =
                    gateway.is_some_and(|gateway| endpoints::send(gateway, gateway.local(), remote, &bytes));
                self.unsent += u64::from(!sent);
            }
            Effect::SendIgmp { ifindex, destination, message } => {
                let attached = self.interfaces.get(&ifindex);
                let socket = attached.and_then(|attached| attached.igmp.as_ref());
                let source = attached.and_then(|attached| attached.link.address());
                let sent = socket.is_some_and(|socket| {
                    socket.send(source.unwrap_or(Ipv4Addr::UNSPECIFIED), destination, &message).is_ok()
                });
                self.unsent += u64::from(!sent);
            }
            Effect::Fib(op) => self.change_plane(&op),
            Effect::MembershipChanged { group, member, old, new } => {
                let plane = self.plane.as_ref();
                self.shown.note_membership(clock::now(), group, member, (&old, &new), plane);
            }
            Effect::HostMembership { ifindex, group, filter } => {
                let host = self.interfaces.get_mut(&ifindex).and_then(|attached| attached.host.as_mut());
                if let Some(Err(error)) = host.map(|host| host.set(group, &filter))
                    && let Some(held_back) = self.warnings.admit(clock::now())
                {
                    tracing::warn!(?ifindex, %group, %error, held_back, "the source network cannot be asked for a group");
                }
            }
            Effect::Watch(address) => self.next_hops.watch(address),
            Effect::Unwatch(address) => self.next_hops.unwatch(address),
            Effect::UpstreamUp(relay) => tracing::info!(upstream = %relay, "upstream answers"),
            Effect::UpstreamDown { named, reason } => self.on_upstream_down(named, reason),
        }
    }

    fn change_plane(&mut self, op: &FibOp) {
        let last_count = Shown::last_count(self.plane.as_ref(), op);
        match self.plane.apply(std::slice::from_ref(op)) {
            Ok(()) => {
                self.shown.note(clock::now(), op, last_count, self.plane.as_ref(), &self.core.mrib);
            }
            Err(error) => {
                self.shown.note_refused(op);
                self.refused_changes += 1;
                self.backlog.refused(clock::now());
                if let Some(held_back) = self.warnings.admit(clock::now()) {
                    tracing::error!(
                        %error,
                        held_back,
                        "the data plane refuses a change; it is tried again, and whoever joined waits"
                    );
                }
            }
        }
    }

    /// Applies what the data plane refused before, once there may be room for it.
    fn catch_up(&mut self, now: Instant) {
        if !self.backlog.take_due(now) {
            return;
        }
        let actual = match self.plane.dump() {
            Ok(actual) => actual,
            Err(error) => {
                tracing::warn!(%error, "the data plane's state cannot be read");
                self.backlog.refused(now);
                return;
            }
        };
        let before = self.refused_changes;
        for op in reconcile::difference(&reconcile::wanted(&self.core), &actual) {
            self.change_plane(&op);
        }
        if self.refused_changes == before {
            tracing::info!("the data plane has caught up with all that is joined");
            self.backlog.settled();
        }
    }

    fn on_upstream_down(&mut self, named: SocketAddr, reason: &'static str) {
        if reason == "stopped" {
            return;
        }
        tracing::warn!(upstream = %named, reason, "upstream does not serve");
        self.pursuit.hurry(clock::now());
        let Some(attachment) = &self.attachment else {
            return;
        };
        let dead = attachment
            .upstreams()
            .borrow()
            .as_ref()
            .and_then(|vmrs| vmrs.vmrs.iter().find(|vmr| vmr.endpoint == named))
            .map(|vmr| vmr.id.clone());
        if let Some(dead) = dead {
            attachment.vmr_dead(dead);
        }
    }

    /// Leaves upstream and the admin, unless the kernel goes on forwarding.
    async fn end(mut self) {
        if self.config.dataplane.on_exit == OnExit::Keep && self.plane.engine().engine != Engine::Software {
            tracing::info!("the kernel goes on forwarding what is joined now");
            return;
        }
        self.core.stop(clock::now());
        self.carry_out_all();
        if let Some(attachment) = self.attachment.take() {
            attachment.close().await;
        }
    }
}

/// Tells the addresses of a configured upstream, again with every change if it is a name.
async fn resolve(remote: Remote, events: mpsc::Sender<Event>) {
    match remote {
        Remote::Address(address) => {
            // Only a router that has ended does not listen.
            let _ = events.send(Event::StaticUpstream(vec![address])).await;
        }
        Remote::Name(host, port) => {
            let mut resolver = Resolver::start(host, port);
            while events.send(Event::StaticUpstream(resolver.changed().await)).await.is_ok() {}
        }
    }
}

/// Sleeps until a time, for ever without one.
async fn at(timeout: Option<tokio::time::Instant>) {
    match timeout {
        Some(timeout) => sleep_until(timeout).await,
        None => std::future::pending().await,
    }
}

/// Waits until packets are to be served, for ever if there never are any.
async fn readable(fd: Option<&Readable>) -> std::io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match fd {
        Some(fd) => fd.wait().await,
        None => std::future::pending().await,
    }
}

/// Waits for a new list of VMRs, for ever without an admin.
async fn changed(vmrs: &mut Option<watch::Receiver<Option<RankedVmrs>>>) -> Option<RankedVmrs> {
    let Some(receiver) = vmrs else {
        return std::future::pending().await;
    };
    if receiver.changed().await.is_err() {
        *vmrs = None;
        return None;
    }
    receiver.borrow_and_update().clone()
}

//! The one loop of a VMR.

mod above;
mod adopt;
mod begin;
mod ordered;
mod told;
mod turn;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::{
    io::unix::AsyncFdReadyGuard,
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};
use vmcast_common::fib::{FibOp, IfIndex};
use vmcast_dataplane::{
    ApplyError, Dataplane, Engine, PacketTooBig,
    shares::{RelayCuts, SocketShares},
};
use vmcast_proto::{
    amt::{gateway, relay},
    membership::{self, Family},
    nearest::rtt::Volley,
};
use vmcast_wire::{amt, ipv4, ipv6, mld};

use super::{
    about::about,
    answer,
    core::{Core, Effect},
    endpoints::{self, Reading, Relays},
    interfaces::{self, Attached, Present, Unread},
    kept,
    kept_policy::KeptPolicy,
    listening,
    not_taken::NotTaken,
    overlap, pace, plane,
    priorities::Priorities,
    pursuit::{Named, Pursuit},
    reconcile::{self, Backlog},
    recordings::Recordings,
    seed,
    shown::{LastCount, Shown},
    socket_shares,
    stated::Stated,
    unicast::UnicastInputs,
};
use crate::{
    clock,
    config::{OnExit, RoleConfig as _, RouterConfig},
    control::{Call, Control},
    daemon::{
        self, Process,
        joining::{self, Joined},
    },
    identity,
    link::{Attachment, NamedVmr, Naming},
    metrics::Metrics,
    netlink::{Links, NextHopEvent, NextHops},
    relays::Relays as SourceRelays,
    signals::Termination,
    sockets::{Heard, Icmpv6Sender, LinkEnds, Listeners, Readable, Received, Undelivered},
    telemetry::RateLimit,
};

use begin::{Beginning, attach, bind_relays, inherit, note_next_hop, relay_addresses, settings};

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
/// Most of them that are served in one turn of the loop.
const EVENTS_AT_ONCE: usize = 64;

/// What the tasks beside the loop tell it.
pub(super) enum Event {
    /// A datagram came to an endpoint of the relay.
    Relay { local: SocketAddr, remote: SocketAddr, bytes: Vec<u8> },
    /// A datagram that the relay sent was not delivered.
    RelayUndelivered { local: SocketAddr, remote: SocketAddr, quoted: Vec<u8> },
    /// A datagram came to a gateway's socket.
    Gateway { local: SocketAddr, remote: SocketAddr, bytes: Vec<u8> },
    /// One that a gateway sent was not delivered.
    GatewayUndelivered { local: SocketAddr, remote: SocketAddr, quoted: Vec<u8> },
    /// A datagram of this family with IGMP or MLD came in on an interface, in a frame between these ends.
    Membership { ifindex: IfIndex, family: Family, ends: LinkEnds, stranger: bool, datagram: Vec<u8> },
    /// The upstream of the configuration has these addresses.
    StaticUpstream(Vec<SocketAddr>),
    /// The configured interfaces that exist are these now.
    Interfaces(Present),
}

impl Event {
    /// Something from a socket of the relay.
    pub(super) fn of_relay(heard: &Heard<'_>) -> Self {
        match *heard {
            Heard::Datagram(Received { local, remote, bytes, .. }) => {
                Self::Relay { local, remote, bytes: bytes.to_vec() }
            }
            Heard::Undelivered(Undelivered { local, remote, quoted }) => {
                Self::RelayUndelivered { local, remote, quoted: quoted.to_vec() }
            }
        }
    }

    /// Something from the gateway's socket.
    pub(super) fn of_gateway(heard: &Heard<'_>) -> Self {
        match *heard {
            Heard::Datagram(Received { local, remote, bytes, .. }) => {
                Self::Gateway { local, remote, bytes: bytes.to_vec() }
            }
            Heard::Undelivered(Undelivered { local, remote, quoted }) => {
                Self::GatewayUndelivered { local, remote, quoted: quoted.to_vec() }
            }
        }
    }
}

/// A datagram of the relay.
struct Answer {
    local: SocketAddr,
    remote: SocketAddr,
    bytes: Vec<u8>,
}

/// Everything that the loop holds.
pub(super) struct Router {
    pub(super) config: RouterConfig,
    pub(super) core: Core,
    pub(super) plane: Box<dyn Dataplane>,
    pub(super) interfaces: BTreeMap<IfIndex, Attached>,
    pub(super) shown: Shown,
    pub(super) attachment: Option<Attachment>,
    /// Where the admin's policy is kept.
    kept_policy: KeptPolicy,
    /// Whether those below were told that the upstream refuses something.
    told_above: bool,
    /// The upstream as it was named.
    pub(super) upstream_named: Option<Named>,
    pub(super) process: Process,
    /// Changes that the data plane refused.
    pub(super) refused_changes: u64,
    backlog: Backlog,
    /// Interfaces and endpoints that it refuses.
    pub(super) not_taken: NotTaken,
    /// Datagrams that the kernel did not send.
    pub(super) unsent: u64,
    /// Packet Too Big messages that were sent to sources.
    pub(super) too_big_sent: u64,
    /// Datagrams with IGMP or MLD that are no datagrams of their family.
    pub(super) bad_datagrams: BTreeMap<Family, u64>,
    /// Opened with the first message.
    icmpv6: Option<Icmpv6Sender>,
    relays: Relays,
    /// What stands before the sockets of links in the kernel, if it takes that.
    shares: Option<Arc<SocketShares>>,
    /// Messages that were dropped before they were read, on interfaces that are gone.
    unread_before: BTreeMap<Family, Unread>,
    /// What was last told of datagrams that the kernel dropped before they were read.
    overrun_told: u64,
    gateway: Option<Reading>,
    /// That of the upstream which is turned to beside the present one, and how this was named.
    next_gateway: Option<Reading>,
    next_upstream_named: Option<Named>,
    /// For the relays of single sources.
    pub(super) source_relays: SourceRelays,
    /// Until when it is looked often whether these are reached from other addresses, after a change of ours.
    moving_until: Option<Instant>,
    pursuit: Pursuit,
    /// Probes of those who look for the nearest VMR.
    pub(super) volley: Volley,
    next_hops: NextHops,
    successors: kept::Successors,
    unicast: UnicastInputs,
    /// What the relay says to what has come in this turn of the loop, after all of that has been done.
    answers: Vec<Answer>,
    recordings: Option<Recordings>,
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
    let (control, mut calls) = Control::start(&config.socket())?;
    let _metrics = Metrics::start(config.metrics.listen, control.asker()).await?;
    let of = (identity::Role::Router, config.node_id().as_str());
    let identity = match joining::identity(&config.admin, of, &process, &mut calls, &mut termination).await? {
        Joined::In(identity) => identity,
        Joined::Ended => return Ok(()),
    };
    let links = Links::open()?;
    // Watched before they are read, so that no change falls between.
    let link_watch = links.watch()?;
    let present = interfaces::all(&config, &links).await?;
    let (events, event_queue) = mpsc::channel(EVENTS);
    let (next_hops, mut next_hop_events) = NextHops::spawn()?;
    next_hops.sessions(present.session_ways());
    let wanted = present.wanted;

    let recordings = config.record.directory.as_deref().map(Recordings::open).transpose()?;
    let seed = seed::load(&config.socket())?;
    let relay_addresses = relay_addresses(&config, &wanted);
    let shares = socket_shares::open(&config.tunnel);
    let relays = Relays::new(config.tunnel.port, config.tunnel.discovery.clone(), shares.clone());
    let relays = bind_relays(relays, &relay_addresses, &events)?;
    let endpoints = relays.endpoints();

    let now = clock::now();
    let mut core = Core::new(now, settings(&config, &relay_addresses, seed));
    core.prioritize(Priorities::new(&config.priorities));
    core.state(Stated::new(now, &config.static_tunnels, &config.forwards));
    let mut attached = BTreeMap::new();
    for wanted in &wanted {
        let ifindex = wanted.link.ifindex;
        let interface = interfaces::attach(wanted, shares.as_ref(), &events);
        attached.insert(ifindex, interface.with_context(|| wanted.link.name.clone())?);
        adopt::set_interface(&mut core, now, wanted, wanted.interface)?;
    }
    for endpoint in &endpoints {
        core.add_endpoint(now, *endpoint);
    }
    core.advertise(now, relay_addresses.clone());
    let mut unicast = UnicastInputs::new(core.stated.unicast_inputs().into_keys());
    unicast.follow(&mut core);
    let kept_policy = KeptPolicy::new(&config.admin);
    if let Some(policy) = kept_policy.load()? {
        tracing::info!(version = policy.version, "the admin's last policy holds until it says otherwise");
        core.set_policy(now, policy);
    }
    let mut opened = plane::open(&config.dataplane)?;
    let mut shown = Shown::default();
    shown.inherit(std::mem::take(&mut opened.last_packets));
    let gateway = opened
        .kept
        .as_ref()
        .and_then(|kept| inherit(&mut core, now, kept, &endpoints, config.upstream.from, &events));
    // Nothing is taken from them in the beginning either.
    match Listeners::read() {
        Ok(listeners) => listening::heed(&listeners, &mut attached, &mut core),
        Err(error) => tracing::debug!(%error, "who listens on this host cannot be read"),
    }
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

    // A plane that does not take one does not start.
    attached.values_mut().for_each(|attached| attached.in_use = true);
    first.iter().for_each(|op| shown.note(now, op, &LastCount::default(), plane.as_ref(), &core.mrib));
    let about = about(&wanted, core.stated.tunnels(), config.tunnel.max_tunnels);
    let attachment = attach(&config, &endpoints, about, seed, identity)?;
    let source_relays = SourceRelays::new(&config.amtrelay);
    let mut router = Router {
        config,
        core,
        plane,
        interfaces: attached,
        shown,
        attachment,
        kept_policy,
        told_above: false,
        upstream_named: None,
        process,
        refused_changes: 0,
        backlog: Backlog::new(),
        not_taken: NotTaken::default(),
        unsent: 0,
        too_big_sent: 0,
        bad_datagrams: BTreeMap::new(),
        icmpv6: None,
        relays,
        shares,
        unread_before: BTreeMap::new(),
        overrun_told: 0,
        gateway,
        next_gateway: None,
        next_upstream_named: None,
        source_relays,
        moving_until: None,
        pursuit: Pursuit::new(),
        volley: Volley::default(),
        next_hops,
        successors,
        unicast,
        answers: Vec::new(),
        recordings,
        events,
        warnings: RateLimit::new(10, Duration::from_secs(10)),
    };
    for effect in rest {
        router.carry_out(effect);
    }
    router.carry_out_all();
    router.report_endpoints();
    daemon::give_back();
    // Who joins does not wait for the thread that makes tables, which has begun already, nor for other processes.
    daemon::take_short_turns();
    tokio::spawn(interfaces::follow(router.config.clone(), links, link_watch, router.events.clone()));
    let ended = router.serve(&mut termination, calls, event_queue, next_hop_events).await;
    match &ended {
        Ok(signal) => tracing::info!(signal, "ending"),
        Err(error) => tracing::error!("ending: {error:#}"),
    }
    router.write_recordings();
    router.end().await;
    ended.map(|_| ())
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
        let mut looks = interval(pace::LOOK_INTERVAL);
        let mut overlaps = interval(overlap::LOOK_INTERVAL);
        for ticks in [&mut punts, &mut counters, &mut refreshes, &mut looks, &mut overlaps] {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut naming = self.watch_upstream();
        let mut refused_above = self.attachment.as_ref().map(Attachment::refused);
        let mut orders = self.attachment.as_mut().and_then(Attachment::take_orders);
        let waiting = self.plane.waiting().map(Readable::new).transpose();
        let waiting = waiting.context("following the packets that the kernel leaves to the router")?;
        let mut taken = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut ways = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            let timeout = self.core.poll_timeout().map(tokio::time::Instant::from_std);
            tokio::select! {
                signal = termination.received() => return Ok(signal),
                _ = events.recv_many(&mut taken, EVENTS_AT_ONCE) => {
                    for event in taken.drain(..) {
                        self.on_event(event);
                        // In the order of what asked for it, whatever that is of.
                        self.carry_out_effects();
                    }
                }
                event = self.source_relays.next() => self.on_relays(&event),
                _ = next_hop_events.recv_many(&mut ways, EVENTS_AT_ONCE) => {
                    // Members that move or whose neighbours change would be sent to in vain.
                    ensure!(!ways.is_empty(), "the kernel's routes and neighbours can no longer be followed");
                    for event in ways.drain(..) {
                        self.on_next_hop(event);
                        self.carry_out_effects();
                    }
                }
                () = at(timeout) => self.core.handle_timeout(clock::now()),
                order = ordered::next(&mut orders) => self.on_order(order),
                groups = ordered::refused(&mut refused_above) => self.core.set_refused_above(groups),
                () = clock::sleep_until(self.volley.poll_timeout()) => self.probe(),
                _ = punts.tick() => {
                    // Bounded, so that a flood of new sources leaves time for everything else.
                    for _ in 0..PUNTS_AT_ONCE {
                        let Some(punt) = self.plane.poll_punt() else {
                            break;
                        };
                        self.core.punt(clock::now(), punt);
                    }
                    self.tell_sources();
                    self.move_relays();
                }
                ready = readable(waiting.as_ref()) => {
                    let mut ready = ready.context("following the packets that the kernel leaves to the router")?;
                    if !self.plane.serve_waiting() {
                        ready.clear_ready();
                    }
                    self.tell_sources();
                }
                _ = counters.tick() => {
                    let now = clock::now();
                    self.shown.read(now, self.plane.as_ref());
                    self.core.stream_counters(now, &self.shown.counters.streams);
                    self.tell_overrun(now);
                    if let Some(attachment) = &self.attachment {
                        attachment.serves(self.core.relay.tunnel_count());
                    }
                    self.ask_refused(now);
                    self.tell_refused();
                    self.tell_own_tunnels();
                    self.catch_up(now);
                    self.write_recordings();
                }
                _ = looks.tick(), if !self.core.paced().is_empty() => self.look_at_pace(),
                _ = overlaps.tick(), if self.core.has_overlaps() => self.look_at_overlaps(),
                _ = refreshes.tick() => {
                    self.hear_listeners();
                    self.refresh_plane();
                    self.unicast.follow(&mut self.core);
                    self.follow_relays();
                }
                named = named(&mut naming) => self.on_vmrs(named),
                () = clock::sleep_until(self.pursuit.poll_timeout()) => self.pursue(),
                Some((request, reply)) = calls.recv() => {
                    // A client that is gone needs no answer.
                    let _ = reply.send(answer::answer(self, &request));
                }
            }
            self.carry_out_all();
        }
    }

    fn write_recordings(&mut self) {
        if let Some(recordings) = &mut self.recordings {
            recordings.write(self.core.take_recordings());
        }
    }

    /// Reads the counters of the streams by which it shows that a tunnel is forgotten.
    fn look_at_pace(&mut self) {
        for stream in self.core.paced() {
            match self.plane.stream_counters(stream) {
                Ok(counters) => {
                    let packets = counters.map_or(0, |counters| counters.packets);
                    self.core.paced_packets(clock::now(), stream, packets);
                }
                Err(error) => tracing::debug!(%error, "the pace of a tunnel's data is not known"),
            }
        }
    }

    /// Datagrams to the endpoints of tunnels that were cut because their sources sent more than their shares.
    pub(super) fn relay_cuts(&self) -> RelayCuts {
        self.relays.cuts()
    }

    /// Datagrams to the endpoints of tunnels that the kernel dropped because more came than are taken.
    pub(super) fn overrun(&self) -> u64 {
        self.relays.overrun()
    }

    /// Messages of a family that were dropped before they were read, on all interfaces since the start.
    pub(super) fn unread(&self, family: Family) -> Unread {
        let mut unread = self.unread_before.get(&family).copied().unwrap_or_default();
        self.interfaces.values().for_each(|attached| unread += attached.unread(family));
        unread
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

    fn on_event(&mut self, event: Event) {
        let now = clock::now();
        match event {
            Event::Relay { local, remote, bytes } => {
                self.note_discovery(now, local, remote, &bytes);
                let input = relay::Input::Datagram { local, remote, bytes: &bytes };
                self.core.relay_heard(now, input);
            }
            Event::RelayUndelivered { local, remote, quoted } => {
                let about = relay::Unreachable { local, remote, quoted: &quoted };
                self.core.relay_heard(now, relay::Input::Unreachable(about));
            }
            Event::Gateway { local, remote, bytes } => {
                let input = gateway::Input::Datagram { remote, tos: 0, bytes: &bytes };
                self.core.gateway_heard_at(now, local, input);
            }
            Event::GatewayUndelivered { local, remote, quoted } => {
                let input = gateway::Input::Unreachable { remote, quoted: &quoted };
                self.core.gateway_heard_at(now, local, input);
            }
            Event::Membership { ifindex, family, ends, stranger, datagram } => {
                let taken = self.on_membership_datagram(now, (ifindex, family), ends, stranger, &datagram);
                if let Err(error) = taken {
                    *self.bad_datagrams.entry(family).or_default() += 1;
                    tracing::debug!(?ifindex, protocol = family.protocol(), %error, "no datagram of a host");
                }
            }
            Event::StaticUpstream(endpoints) => {
                self.core.set_another_upstream(endpoints.len() > 1);
                let named =
                    endpoints.into_iter().map(|endpoint| Named { endpoint, name: None, stands_in: None });
                self.pursuit.name(now, named.collect());
            }
            Event::Interfaces(present) => self.on_interfaces(now, present),
        }
    }

    fn on_membership_datagram(
        &mut self,
        now: Instant,
        (ifindex, family): (IfIndex, Family),
        ends: LinkEnds,
        stranger: bool,
        datagram: &[u8],
    ) -> anyhow::Result<()> {
        let input = match family {
            Family::V4 => {
                let datagram = ipv4::decapsulate(datagram)?;
                membership::Input::Datagram {
                    source: datagram.source.into(),
                    link_source: ends.source,
                    link_unicast: ends.unicast,
                    stranger,
                    destination: datagram.destination.into(),
                    ttl: datagram.ttl,
                    router_alert: datagram.router_alert,
                    payload: datagram.payload,
                }
            }
            Family::V6 => {
                let datagram = ipv6::decapsulate(datagram)?;
                ensure!(datagram.protocol == mld::NEXT_ICMPV6, "protocol {}", datagram.protocol);
                membership::Input::Datagram {
                    source: datagram.source.into(),
                    link_source: ends.source,
                    link_unicast: ends.unicast,
                    stranger,
                    destination: datagram.destination.into(),
                    ttl: datagram.hop_limit,
                    router_alert: datagram.router_alert,
                    payload: datagram.payload,
                }
            }
        };
        self.core.membership_input(now, ifindex, family, input);
        Ok(())
    }

    fn on_next_hop(&mut self, event: NextHopEvent) {
        if let NextHopEvent::Assign { destination, hop: Err(reason), .. } = event
            && let Some(held_back) = self.warnings.admit(clock::now())
        {
            tracing::warn!(%destination, %reason, held_back, "no way to a member");
        }
        note_next_hop(&mut self.core, &mut self.successors, event);
    }

    fn report_endpoints(&self) {
        let endpoints = self.relays.endpoints();
        if endpoints.is_empty() {
            tracing::warn!("serving no tunnels: no interface of the configuration has an address yet");
        } else {
            tracing::info!(?endpoints, "serving");
        }
    }

    fn carry_out_all(&mut self) {
        self.carry_out_effects();
        for error in self.plane.end_turn() {
            self.on_refused_change(&error);
        }
        self.relays.share_out();
        self.send_answers();
    }

    /// Does all but sending the relay's datagrams.
    fn carry_out_effects(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            self.carry_out(effect);
        }
    }

    /// Sends the relay's datagrams together: whoever gets several of them is woken once.
    fn send_answers(&mut self) {
        for of_one in self.answers.chunk_by(|one, next| one.local == next.local) {
            let datagrams: Vec<_> = of_one.iter().map(|to| (to.remote, to.bytes.as_slice())).collect();
            let unsent = self.relays.send(of_one[0].local, &datagrams);
            self.unsent += unsent as u64;
        }
        self.answers.clear();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::SendRelay { local, remote, bytes } => {
                self.answers.push(Answer { local, remote, bytes });
            }
            Effect::SendGateway { local, remote, bytes } => {
                let gateways = || self.gateway.iter().chain(&self.next_gateway);
                let gateway = gateways().find(|gateway| gateway.local() == local);
                let sent = gateway.is_some_and(|gateway| endpoints::send(gateway, local, remote, &bytes))
                    || is_teardown(&bytes)
                        && gateways().any(|other| {
                            // The tunnel is named in it: from an address that we have no more nothing could end it.
                            let own = other.local();
                            own != local
                                && own.is_ipv4() == remote.is_ipv4()
                                && endpoints::send(other, own, remote, &bytes)
                        });
                self.unsent += u64::from(!sent);
            }
            Effect::SendMembership { ifindex, source, destination, message } => {
                let attached = self.interfaces.get(&ifindex);
                let socket = attached.and_then(|attached| attached.speaker(Family::of(source)));
                let sent = socket.is_some_and(|socket| socket.send(source, destination, &message).is_ok());
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
            Effect::Tunnel { gateway, is_up } => self.relays.note_tunnel(gateway, is_up),
            Effect::Relay(effect) => self.carry_out_relay(effect),
            Effect::UpstreamUp(relay) => tracing::info!(upstream = %relay, "upstream answers"),
            Effect::UpstreamDown { named, reason } => self.on_upstream_down(named, reason),
            Effect::ChangedOver => self.on_changed_over(),
            Effect::NoRoom { group, account, held, streams } => {
                self.tell_no_room(group, account, held, streams);
            }
        }
    }

    fn change_plane(&mut self, op: &FibOp) {
        let last_count = self.shown.last_count(self.plane.as_ref(), op);
        let said = self.plane.apply_in_turn(op);
        let news = self.not_taken.note(op, said.as_ref().copied());
        match &said {
            Ok(()) => {
                self.shown.note(clock::now(), op, &last_count, self.plane.as_ref(), &self.core.mrib);
            }
            // That is told once, by the interface's name.
            Err(_) if matches!(op, FibOp::SetInterface(_)) => self.note_refused_change(),
            Err(error) => {
                self.shown.note_refused(op);
                self.on_refused_change(error);
            }
        }
        if let Some(news) = news {
            self.tell_of_interface(news);
        }
    }

    fn note_refused_change(&mut self) {
        self.refused_changes += 1;
        self.backlog.refused(clock::now());
    }

    fn on_refused_change(&mut self, error: &ApplyError) {
        self.note_refused_change();
        if let Some(held_back) = self.warnings.admit(clock::now()) {
            tracing::error!(
                %error,
                held_back,
                "the data plane refuses a change; it is tried again, and whoever joined waits"
            );
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
        for op in self.not_taken.again() {
            self.change_plane(&op);
        }
        for op in reconcile::difference(&reconcile::wanted(&self.core), &actual) {
            self.change_plane(&op);
        }
        if self.refused_changes == before {
            tracing::info!("the data plane has caught up with all that is joined");
            self.backlog.settled();
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

/// Whether a gateway ends a tunnel by this, which it may say from any address (RFC 7450 §5.2.3.7.1).
fn is_teardown(bytes: &[u8]) -> bool {
    matches!(amt::Message::parse(bytes), Ok(amt::Message::Teardown { .. }))
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

/// Waits for VMRs that may be the upstream, for ever without an admin.
async fn named(naming: &mut Option<Naming>) -> Vec<NamedVmr> {
    match naming {
        Some(naming) => naming.changed().await,
        None => std::future::pending().await,
    }
}

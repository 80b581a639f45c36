//! Drives the agent: one loop over the virtual interface, the tunnel, the timers and the questions.

use std::{
    future, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tracing::{debug, error, info, warn};
use vmcast_api::Role;
use vmcast_proto::{
    Machine,
    membership::{self, Family},
};

use super::{
    answer::{self, Context},
    core::{Core, Event, Input, Output},
    counters::Drop,
    host::{self, HostInterface},
    relays::RelayInput,
    tunnel::{Buffers, TunnelSockets},
    upstream::Upstreams,
};
use crate::{
    clock,
    config::{AgentConfig, RoleConfig, UpstreamFrom},
    control::Control,
    daemon::{
        Process,
        joining::{self, Joined},
    },
    identity::{self, NodeIdentity},
    metrics::Metrics,
    netlink::{self, HostGroupEvent, HostGroups, Link, LinkWatch, Links},
    relays::{Event as RelayEvent, HostRoutes, RelayEffect, Relays, any_like},
    signals::Termination,
    sockets::{Heard, Received, Undelivered, source_towards},
    telemetry::RateLimit,
};

/// Packets taken from one side before the other gets its turn.
const BATCH: usize = 64;
/// Room for a packet of the host: the longest IPv4 packet.
const PACKET: usize = u16::MAX as usize;
/// How often it is looked what does not come.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long an agent that ends says good-bye to its VMR.
const FAREWELL: Duration = Duration::from_millis(1500);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start, or its interface or socket fails for good.
pub async fn run(config: AgentConfig) -> anyhow::Result<()> {
    let mut end = Termination::new()?;
    let (control, mut calls) = Control::start(&config.socket())?;
    let _metrics = Metrics::start(config.metrics.listen, control.asker()).await?;
    let process = Process::new(Role::Agent, config.name.as_str());
    let of = (identity::Role::Agent, config.name.as_str());
    let identity = match joining::identity(&config.admin, of, &process, &mut calls, &mut end).await? {
        Joined::In(identity) => identity,
        Joined::Ended => return Ok(()),
    };
    let mut agent = Agent::start(config, identity, process).await?;
    info!(
        interface = %agent.config.interface.name,
        ports = ?agent.sockets.ports(),
        socket = %control.path().display(),
        "ready"
    );
    let mut packet = vec![0; PACKET];
    let mut datagram = Buffers::new();
    let outcome = loop {
        let turn = tokio::select! {
            signal = end.received() => {
                info!(signal, "leaving");
                break Ok(());
            }
            Some((request, answer)) = calls.recv() => {
                let response = agent.answer(&request);
                // A client that has gone away wants no answer.
                let _ = answer.send(response);
                Ok(())
            }
            turn = agent.turn(&mut packet, &mut datagram) => turn,
        };
        if let Err(error) = turn {
            break Err(error);
        }
    };
    agent.end(&mut datagram).await;
    outcome
}

/// A running agent.
pub(super) struct Agent {
    config: AgentConfig,
    core: Core,
    pub(super) host: HostInterface,
    sockets: TunnelSockets,
    links: Links,
    watch: LinkWatch,
    /// Absent where the kernel does not tell.
    host_groups: Option<HostGroups>,
    upstreams: Upstreams,
    /// For the relays of single sources.
    relays: Relays,
    /// The address from which the VMR is reached.
    local: Option<IpAddr>,
    process: Process,
    refused: RateLimit,
    /// What is written of joins that the VMR refuses.
    refused_joins: RateLimit,
    /// When it is looked what does not come.
    looks: Interval,
}

impl Agent {
    /// Makes the virtual interface and starts to look for a VMR.
    pub(super) async fn start(
        config: AgentConfig,
        identity: Option<Arc<NodeIdentity>>,
        process: Process,
    ) -> anyhow::Result<Self> {
        let links = Links::open()?;
        let watch = links.watch()?;
        let host = host::create(&config.interface, &links).await?;
        let host_groups = HostGroups::watch(host.ifindex)?;
        if host_groups.is_none() {
            debug!("this kernel tells of joins by IGMP alone: they take some milliseconds more");
        }
        let sockets = TunnelSockets::open().context("making the tunnel's sockets")?;
        let seed = random()?;
        let [igmp, mld] = Family::ALL.map(|family| querier_config(&config, family));
        let mut core =
            Core::new(clock::now(), igmp, mld, seed).context("IGMP and MLD on the virtual interface")?;
        if config.upstream.discover {
            core.discover(config.upstream.from == UpstreamFrom::Admin);
        }
        if let Some(discovery) = config.amtrelay.discovery(random()?) {
            core.find_relays(discovery);
        }
        let relays = Relays::new(&config.amtrelay);
        let [a, b, c, d, e, f, g, h, ..] = random()?;
        let link_seed = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let endpoints = endpoints(&links, &config, &sockets).await?;
        let upstreams = Upstreams::start(&config, endpoints, link_seed, identity)?;
        let refused = RateLimit::new(1, Duration::from_secs(60));
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut agent = Self {
            config,
            core,
            host,
            sockets,
            links,
            watch,
            host_groups,
            upstreams,
            relays,
            local: None,
            process,
            refused,
            refused_joins: RateLimit::new(10, Duration::from_secs(60)),
            looks,
        };
        agent.perform();
        Ok(agent)
    }

    /// Waits for something to happen and deals with it.
    pub(super) async fn turn(&mut self, packet: &mut [u8], datagram: &mut Buffers) -> anyhow::Result<()> {
        tokio::select! {
            received = self.sockets.recv(datagram) => match received {
                Ok(heard) => {
                    self.core.handle_input(clock::now(), from_tunnel(&heard));
                    self.perform();
                    self.drain_tunnel(datagram);
                }
                Err(error) => debug!(%error, "receiving from the tunnel"),
            },
            received = self.host.tun.recv(packet) => {
                let bytes = received.context("reading from the virtual interface")?;
                self.core.handle_input(clock::now(), Input::FromHost(bytes));
                self.drain_host(packet)?;
            }
            event = next_change(&mut self.host_groups) => {
                let event = event.context("watching the host's memberships")?;
                // A report from before a leave must not be taken for one from after it.
                self.drain_host(packet)?;
                let input = match event {
                    HostGroupEvent::Joined { group, sources } => {
                        let sources = sources.into_iter().map(Into::into).collect();
                        Input::HostJoined { group: group.into(), sources }
                    }
                    HostGroupEvent::Left(group) => Input::HostLeft(group.into()),
                };
                self.core.handle_input(clock::now(), input);
            }
            event = self.relays.next() => self.on_relays(&event),
            input = self.upstreams.changed() => self.core.handle_input(clock::now(), input),
            event = self.watch.next() => {
                event.context("watching the interfaces")?;
                self.follow_address().await;
            }
            () = clock::sleep_until(self.core.poll_timeout()) => self.core.handle_timeout(clock::now()),
            _ = self.looks.tick() => {
                self.upstreams.ask_refused(self.core.missing(clock::now()));
                self.upstreams.at(self.core.own_tunnels());
            }
        }
        self.perform();
        Ok(())
    }

    /// Takes what else the host has sent into the virtual interface.
    fn drain_host(&mut self, packet: &mut [u8]) -> anyhow::Result<()> {
        for _ in 1..BATCH {
            let bytes = self.host.tun.try_recv(packet).context("reading from the virtual interface")?;
            let Some(bytes) = bytes else { break };
            self.core.handle_input(clock::now(), Input::FromHost(bytes));
        }
        Ok(())
    }

    /// Takes what else is waiting on the tunnel's socket.
    fn drain_tunnel(&mut self, datagram: &mut Buffers) {
        for _ in 1..BATCH {
            match self.sockets.try_recv(datagram) {
                Ok(Some(heard)) => {
                    self.core.handle_input(clock::now(), from_tunnel(&heard));
                    self.perform();
                }
                Ok(None) => return,
                Err(error) => return debug!(%error, "receiving from the tunnel"),
            }
        }
    }

    /// Carries out what the core wants.
    fn perform(&mut self) {
        while let Some(output) = self.core.poll_output() {
            match output {
                Output::ToHost(packet) => {
                    if let Err(error) = self.host.tun.send(&packet) {
                        self.core.count(Drop::HostRefused);
                        self.complain("the host did not take a packet", &error);
                    }
                }
                Output::ToTunnel { remote, bytes } => {
                    if let Err(error) = self.sockets.send(remote, &bytes) {
                        self.core.count(Drop::TunnelRefused);
                        self.complain("a message to the VMR was not sent", &error);
                    }
                }
                Output::Relay(output) => self.carry_out(output),
                Output::Event(event) => self.on_event(event),
            }
        }
    }

    fn on_relays(&mut self, event: &RelayEvent) {
        let input = match event {
            RelayEvent::Datagram { tunnel, remote, tos, bytes } => {
                RelayInput::Datagram { tunnel: *tunnel, remote: *remote, tos: *tos, bytes }
            }
            RelayEvent::Undelivered { tunnel, remote, quoted } => {
                RelayInput::Undelivered { tunnel: *tunnel, remote: *remote, quoted }
            }
            RelayEvent::Answer { query, resolved } => {
                RelayInput::Answer { query: *query, answer: resolved.answer(), routes: &HostRoutes }
            }
        };
        self.core.relay_input(clock::now(), input);
    }

    fn carry_out(&mut self, output: RelayEffect) {
        match output {
            RelayEffect::Query { query, question } => self.relays.ask(query, question),
            RelayEffect::Open { tunnel, remote } => {
                if let Err(error) = self.relays.open(tunnel, any_like(remote.ip()), remote) {
                    self.complain("no port for the tunnel to a source's relay", &error);
                    self.core.relay_input(clock::now(), RelayInput::Lost { tunnel });
                }
            }
            RelayEffect::Close { tunnel } => self.relays.close(tunnel),
            RelayEffect::Send { tunnel, remote, bytes } => {
                if let Err(error) = self.relays.send(tunnel, remote, &bytes) {
                    self.core.count(Drop::TunnelRefused);
                    self.complain("a message to a source's relay was not sent", &error);
                }
            }
            RelayEffect::Event(event) => crate::relays::log(&event),
        }
    }

    fn complain(&mut self, what: &str, error: &io::Error) {
        if let Some(held_back) = self.refused.admit(clock::now()) {
            warn!(%error, held_back, "{what}");
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Attaching(candidate) => {
                info!(vmr = %candidate.endpoint, name = candidate.name, "attaching");
                self.local = source_towards(candidate.endpoint);
            }
            Event::Up(candidate) => {
                info!(vmr = %candidate.endpoint, "the VMR answers");
                self.upstreams.at(self.core.own_tunnels());
            }
            Event::Down(candidate, reason) => {
                warn!(vmr = %candidate.endpoint, reason = reason.label(), "the VMR does not serve; looking for another");
                self.upstreams.dead(&candidate);
            }
            Event::Left(candidate) => {
                info!(vmr = %candidate.endpoint, "left the VMR, for another is in its place");
            }
            Event::Unanswered(candidate) => {
                debug!(vmr = %candidate.endpoint, "the VMR does not answer, and no other is known");
                self.upstreams.look_again();
            }
            Event::Silent(candidate) => debug!(vmr = %candidate.endpoint, "no data comes; asking the VMR"),
            Event::Refused(group, reason) => {
                if let Some(held_back) = self.refused_joins.admit(clock::now()) {
                    warn!(%group, reason, held_back, "the VMR refuses what this host joined");
                }
            }
            Event::NoLongerRefused(group) => debug!(%group, "the VMR refuses it no longer"),
            Event::Membership(group, filter) => debug!(%group, ?filter, "the host's membership"),
        }
    }

    /// Lets the VMR know if it is now reached from another address.
    async fn follow_address(&mut self) {
        let vmr = self.core.upstream().map(|(candidate, _)| candidate.endpoint);
        let of_source = || self.core.discovery()?.tunnels().next().map(|info| info.remote);
        let Some(endpoint) = vmr.or_else(of_source) else {
            return;
        };
        let local = source_towards(endpoint);
        if local.is_none() || local == self.local {
            return;
        }
        if self.local.is_none() {
            // The first look at the way to a source's relay.
            self.local = local;
            return;
        }
        info!(from = ?self.local, to = ?local, "this host's address changed");
        self.local = local;
        self.core.handle_input(clock::now(), Input::LocalChanged);
        match endpoints(&self.links, &self.config, &self.sockets).await {
            Ok(endpoints) => self.upstreams.moved(endpoints),
            Err(error) => error!(%error, "this host's addresses are not known"),
        }
    }

    /// Answers the operator.
    pub(super) fn answer(&mut self, request: &vmcast_api::Request) -> vmcast_api::Response {
        let any = || SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let context = Context {
            config: &self.config,
            ifindex: self.host.ifindex,
            local: self.local.and_then(|local| self.sockets.endpoint(local)).unwrap_or_else(any),
            local_of: &|tunnel| self.relays.local(tunnel),
            from: self.upstreams.from(),
            admin: self.upstreams.admin_link(),
            process: &self.process,
            now: clock::now(),
        };
        answer::answer(&self.core, &context, request)
    }

    /// Leaves every group and the admin; the interface goes with the agent.
    pub(super) async fn end(mut self, datagram: &mut Buffers) {
        self.core.handle_input(clock::now(), Input::Stop);
        self.perform();
        let farewell = async {
            while !self.core.is_finished() {
                tokio::select! {
                    // What still arrives is too late, and must not fill the socket.
                    _ = self.sockets.recv(datagram) => {}
                    _ = self.relays.next() => {}
                    () = clock::sleep_until(self.core.poll_timeout()) => {
                        self.core.handle_timeout(clock::now());
                        self.perform();
                    }
                }
            }
        };
        if timeout(FAREWELL, farewell).await.is_err() {
            debug!("the VMR was not told everything in time");
        }
        self.upstreams.close().await;
    }
}

const fn from_tunnel<'a>(heard: &Heard<'a>) -> Input<'a> {
    match *heard {
        Heard::Datagram(Received { remote, tos, bytes, .. }) => Input::FromTunnel { remote, tos, bytes },
        Heard::Undelivered(Undelivered { remote, quoted, .. }) => Input::Undelivered { remote, quoted },
    }
}

/// The next change of the host's memberships; never where the kernel does not tell.
async fn next_change(host_groups: &mut Option<HostGroups>) -> Result<HostGroupEvent, netlink::Error> {
    match host_groups {
        Some(host_groups) => host_groups.next().await,
        None => future::pending().await,
    }
}

fn querier_config(config: &AgentConfig, family: Family) -> membership::Config {
    membership::Config { mtu: config.interface.mtu, ..config.timers(family).apply(family) }
}

/// Where the gateway speaks: every address of this host that others may reach.
async fn endpoints(
    links: &Links,
    config: &AgentConfig,
    sockets: &TunnelSockets,
) -> anyhow::Result<Vec<SocketAddr>> {
    let links = links.list().await?;
    let usable =
        links.iter().filter(|link| link.up && !link.loopback && link.name != config.interface.name.as_str());
    Ok(usable.flat_map(Link::reachable).filter_map(|address| sockets.endpoint(address)).collect())
}

/// Bytes that nobody can guess.
fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).context("asking the kernel for random bytes")?;
    Ok(bytes)
}

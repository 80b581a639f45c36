//! The relay's machine.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_wire::{
    amt::{GatewayAddress, Message, ResponseMac},
    membership,
};

use super::{
    answers::{Answers, TooMany},
    config::{Config, Times},
    counters::Counters,
    input::Input,
    mac::Secrets,
    output::{DownReason, Event, Output},
    table::{Queue, Table},
    timer::Timer,
    tunnel::{Ends, LimitError, Moment, Tunnel, TunnelInfo},
    unreachable::Sequences,
};
use crate::{
    Filter, Machine,
    amt::encapsulated::{Encapsulated, Protocol, encapsulate},
    host_state::{Applied, Heard, HostState, Limits},
};

/// Within how many seconds all parts of an answer to a query come. Its Max Resp Code says that they come at once.
const PARTS: u32 = 2;

/// Outputs that an emptied queue keeps room for.
const OUTPUTS_KEPT: usize = 64;

/// An AMT relay (RFC 7450 §5.3).
pub struct Relay {
    pub(super) config: Config,
    /// When the relay was made.
    base: Instant,
    secrets: Secrets,
    /// To addresses with a tunnel, which are proved: what others send, perhaps with forged addresses, takes nothing of it.
    answers: Answers,
    /// To all others.
    strangers_answers: Answers,
    /// The encapsulated General Queries of IGMP and of MLD, the same for every gateway.
    general_queries: [Vec<u8>; 2],
    /// What Relay Advertisements name.
    advertised: Vec<IpAddr>,
    pub(super) table: Table,
    pub(super) counters: Counters,
    pub(super) unreachable: Sequences,
    outputs: VecDeque<Output>,
    /// Whether it takes no new tunnels.
    draining: bool,
}

/// What the answer to a Request depends on.
#[derive(Clone, Copy)]
struct Request {
    mld: bool,
    ecn: bool,
    nonce: u32,
    /// What the gateway address fields say; `None` leaves them out.
    gateway: Option<GatewayAddress>,
}

impl Relay {
    /// Makes a relay without tunnels.
    #[must_use]
    pub fn new(now: Instant, config: Config) -> Self {
        Self {
            base: now,
            secrets: Secrets::new(
                now,
                config.secret_seed,
                config.secret_lifetime(),
                config.longest_query_interval() * 2,
                config.secret_age,
            ),
            answers: Answers::new(now, &config),
            strangers_answers: Answers::new(now, &config),
            general_queries: [Protocol::Igmp, Protocol::Mld].map(|protocol| general_query(&config, protocol)),
            advertised: Vec::new(),
            table: Table::new(&config.secret_seed),
            counters: Counters::default(),
            unreachable: Sequences::default(),
            outputs: VecDeque::new(),
            draining: false,
            config,
        }
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Sets our own addresses, the best of each version of IP first: whoever asks at a Relay Discovery Address is told
    /// the first of its version. Tunnels to one that is no longer ours last until their gateway comes to another of ours,
    /// or as long as without a word from it; with the address they are what they were.
    pub fn advertise(&mut self, addresses: Vec<IpAddr>) {
        self.table.follow(|address| addresses.contains(&address));
        self.advertised = addresses;
    }

    /// How many tunnels there are.
    #[must_use]
    pub const fn tunnel_count(&self) -> u32 {
        self.table.len()
    }

    /// Our end and the gateway's end of a tunnel, and the gateway's E flag.
    #[must_use]
    pub fn ends(&self, id: u32) -> Option<(SocketAddr, SocketAddr, bool)> {
        let tunnel = self.table.get(id)?;
        Some((self.table.local(&tunnel.ends), tunnel.ends.remote(), tunnel.ecn))
    }

    /// Every tunnel, in the order of the ids.
    pub fn tunnels(&self) -> impl Iterator<Item = TunnelInfo> + '_ {
        self.table.iter().map(|(id, tunnel)| TunnelInfo {
            id,
            local: self.table.local(&tunnel.ends),
            remote: tunnel.ends.remote(),
            ecn: tunnel.ecn,
            since: tunnel.since.instant(self.base),
            updated: tunnel.updated.instant(self.base),
            groups: tunnel.host.groups().collect(),
        })
    }

    /// Makes a tunnel again that a relay before this one had, as if an update had come now, and
    /// returns its id. It is announced by events like any other. An existing tunnel takes the
    /// groups in addition.
    ///
    /// # Errors
    /// What exceeds the limits of this relay; then nothing changed.
    pub fn adopt(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        ecn: bool,
        groups: impl IntoIterator<Item = (IpAddr, Filter)>,
    ) -> Result<u32, LimitError> {
        let moment = Moment::at(self.base, now);
        let ends =
            self.table.ends(local, remote).ok_or(LimitError::Tunnels { limit: self.config.max_tunnels })?;
        let known = self.table.find(&ends);
        let mut host =
            known.and_then(|id| self.table.get(id)).map_or_else(HostState::default, |t| t.host.clone());
        let mut changed = Vec::new();
        // What all tunnels may list together was looked at by the relay before this one.
        for (group, filter) in groups {
            let set = host.set(group, &filter, &self.config.limits, moment.seconds());
            if set.ok_or(LimitError::Groups { group })? {
                changed.push((group, filter));
            }
        }
        let id = match known {
            Some(id) => {
                self.table.update(moment, id, |old| *old = host);
                self.note_ecn(id, ecn);
                id
            }
            None => {
                self.room_for(&ends)?;
                self.create(moment, ends, ecn, host)
            }
        };
        self.announce(id, changed);
        Ok(id)
    }

    /// Whether this relay has answered a Request of this nonce from this address and port with this Response MAC, not long
    /// ago (RFC 7450 §5.3.3.4): who knows it receives there.
    #[must_use]
    pub fn has_answered(&self, now: Instant, gateway: SocketAddr, nonce: u32, mac: ResponseMac) -> bool {
        self.secrets.accepts(now, gateway, nonce, mac).is_some()
    }

    /// The timer that fires next, and when.
    #[must_use]
    pub fn next_timer(&self) -> (Timer, Instant) {
        let deadline = |queue, lifetime| {
            self.table.oldest(queue).map(|(_, updated)| updated.instant(self.base) + lifetime)
        };
        let timers = [
            (Timer::MembershipExpiry, deadline(Queue::Member, self.config.membership_interval())),
            (Timer::IdleLinger, deadline(Queue::Idle, self.config.idle_linger)),
        ];
        let rotation = (Timer::SecretRotation, self.secrets.rotation());
        let running = timers.into_iter().filter_map(|(timer, at)| Some((timer, at?)));
        running.fold(rotation, |first, other| if other.1 < first.1 { other } else { first })
    }

    /// Takes no new tunnels from now on, or takes them again; those that are there stay. Says whether that
    /// is a change (the L flag, RFC 7450 §5.1.4.4).
    pub const fn set_draining(&mut self, draining: bool) -> bool {
        let before = self.draining;
        self.draining = draining;
        before != draining
    }

    fn room_for(&self, ends: &Ends) -> Result<(), LimitError> {
        let address = ends.remote_ip;
        if self.draining {
            Err(LimitError::Draining)
        } else if self.table.len() >= self.config.max_tunnels {
            Err(LimitError::Tunnels { limit: self.config.max_tunnels })
        } else if self.table.of_address(address) >= self.config.max_tunnels_per_source {
            Err(LimitError::TunnelsPerSource { address, limit: self.config.max_tunnels_per_source })
        } else if self.table.of_prefix(address) >= self.config.max_tunnels_per_prefix {
            Err(LimitError::TunnelsPerPrefix { address, limit: self.config.max_tunnels_per_prefix })
        } else {
            Ok(())
        }
    }

    /// How much a gateway may ask for, with what it has.
    fn limits(&self, address: IpAddr, host: &HostState) -> Limits {
        let room = self.table.room_to_list(address, self.config.max_listed);
        Limits { listed: self.config.limits.listed.min(host.listed() + room), ..self.config.limits }
    }

    fn create(&mut self, now: Moment, ends: Ends, ecn: bool, host: HostState) -> u32 {
        let id = self.table.insert(now, ends, ecn, host);
        self.counters.tunnels_up += 1;
        let (local, remote) = (self.table.local(&ends), ends.remote());
        self.outputs.push_back(Output::Event(Event::TunnelUp { id, local, remote, ecn }));
        id
    }

    fn note_ecn(&mut self, id: u32, ecn: bool) {
        if self.table.set_ecn(id, ecn) {
            self.outputs.push_back(Output::Event(Event::Ecn { id, ecn }));
        }
    }

    fn announce(&mut self, id: u32, changed: impl IntoIterator<Item = (IpAddr, Filter)>) {
        let events = changed.into_iter().map(|(group, filter)| Event::Membership { id, group, filter });
        self.outputs.extend(events.map(Output::Event));
    }

    pub(super) fn take_down(&mut self, id: u32, reason: DownReason) {
        self.unreachable.forget(id);
        let Some(Tunnel { ends, host, .. }) = self.table.remove(id) else { return };
        self.announce(id, host.groups().map(|(group, _)| (group, Filter::none())));
        self.outputs.push_back(Output::Event(Event::TunnelDown { id, remote: ends.remote(), reason }));
    }

    fn on_datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        let Ok(message) = Message::parse(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        if !unicast(remote) || local.ip().is_unspecified() || local.is_ipv4() != remote.is_ipv4() {
            self.counters.bad_address += 1;
            return;
        }
        let at_discovery = self.config.discovery.contains(&local.ip());
        match message {
            // Of many relays with this address, the next datagram may come to another one.
            Message::Request { .. } | Message::MembershipUpdate { .. } | Message::Teardown { .. }
                if at_discovery =>
            {
                self.counters.not_discovery += 1;
            }
            Message::RelayDiscovery { nonce } => self.on_discovery(now, local, remote, nonce),
            Message::Request { ipv6, ecn, nonce } => {
                let mut request = Request { mld: ipv6, ecn, nonce, gateway: Some(remote.into()) };
                if Message::is_linux_request(bytes) {
                    // Linux means MLD by it, and drops each query with the gateway address fields, also that which
                    // answers its Request for IGMP, of the same nonce: so it gets both here, without them.
                    request.gateway = None;
                    self.on_request(now, local, remote, Request { mld: true, ..request });
                }
                self.on_request(now, local, remote, request);
            }
            Message::MembershipUpdate { response_mac, nonce, update } => {
                self.on_update(now, local, remote, nonce, response_mac, update);
            }
            Message::Teardown { response_mac, nonce, gateway } => {
                self.on_teardown(now, local, gateway.socket_addr(), nonce, response_mac);
            }
            Message::MulticastData { .. } => self.counters.stranger_data += 1,
            Message::RelayAdvertisement { .. } | Message::MembershipQuery { .. } => {
                self.counters.unexpected += 1
            }
        }
    }

    /// RFC 7450 §5.3.3.2.
    fn on_discovery(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, nonce: u32) {
        let of_version = |address: &&IpAddr| address.is_ipv4() == local.is_ipv4();
        let relay = if self.config.discovery.contains(&local.ip()) {
            self.advertised.iter().find(of_version).copied()
        } else {
            Some(local.ip())
        };
        let Some(relay) = relay else {
            self.counters.not_discovery += 1;
            return;
        };
        if self.may_answer(now, remote) {
            self.counters.discoveries += 1;
            let bytes = Message::RelayAdvertisement { nonce, relay }.to_vec();
            self.outputs.push_back(Output::Transmit { local, remote, bytes });
        }
    }

    /// RFC 7450 §5.3.3.3.
    fn on_request(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        Request { mld, ecn, nonce, gateway }: Request,
    ) {
        if !self.may_answer(now, remote) {
            return;
        }
        let ends = self.table.ends(local, remote);
        let limit = ends.is_none_or(|ends| self.table.find(&ends).is_none() && self.room_for(&ends).is_err());
        self.counters.requests += 1;
        self.counters.requests_limited += u64::from(limit);
        let bytes = Message::MembershipQuery {
            response_mac: self.secrets.make(remote, nonce, ecn),
            nonce,
            limit,
            gateway,
            query: &self.general_queries[usize::from(mld)],
        }
        .to_vec();
        self.outputs.push_back(Output::Transmit { local, remote, bytes });
    }

    /// RFC 7450 §5.3.3.4.
    fn on_update(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        nonce: u32,
        response_mac: ResponseMac,
        update: &[u8],
    ) {
        let Some(ecn) = self.secrets.accepts(now, remote, nonce, response_mac) else {
            self.counters.bad_mac += 1;
            return;
        };
        let Some((protocol, report)) = self.unwrap_report(update) else { return };
        let Some(ends) = self.table.ends(local, remote) else {
            self.counters.refused_tunnels += 1;
            return;
        };
        let moment = Moment::at(self.base, now);
        match self.table.find(&ends) {
            Some(id) => {
                self.note_ecn(id, ecn);
                self.table.note_nonce(id, protocol, nonce);
                self.on_member_report(moment, id, nonce, &report);
            }
            None => self.on_first_report(moment, ends, ecn, (protocol, nonce), &report),
        }
    }

    fn on_member_report(&mut self, now: Moment, id: u32, nonce: u32, report: &membership::Message) {
        let Some(tunnel) = self.table.get(id) else { return };
        let limits = self.limits(tunnel.ends.remote_ip, &tunnel.host);
        let oldest = now.0.saturating_sub(millis(self.config.membership_interval()));
        let result = self.table.update(now, id, |host| {
            let applied = host.apply(report, &limits, heard(now, nonce));
            (applied, host.expire(Moment(oldest).seconds()))
        });
        let Some((applied, stale)) = result else { return };
        self.unreachable.forget(id);
        self.counters.updates += 1;
        self.counters.groups_expired += stale.len() as u64;
        self.count(&applied);
        self.announce(id, applied.changed);
        self.announce(id, stale.into_iter().map(|group| (group, Filter::none())));
    }

    fn on_first_report(
        &mut self,
        now: Moment,
        ends: Ends,
        ecn: bool,
        (protocol, nonce): (Protocol, u32),
        report: &membership::Message,
    ) {
        // Where it was, it is no more, and it would be sent everything twice.
        for id in self.table.left_behind(ends.remote()) {
            self.take_down(id, DownReason::Moved);
        }
        match self.room_for(&ends) {
            Ok(()) => {}
            Err(LimitError::TunnelsPerSource { .. }) => {
                self.counters.refused_tunnels_per_source += 1;
                return;
            }
            Err(LimitError::TunnelsPerPrefix { .. }) => {
                self.counters.refused_tunnels_per_prefix += 1;
                return;
            }
            Err(LimitError::Draining) => {
                self.counters.refused_draining += 1;
                return;
            }
            Err(LimitError::Tunnels { .. } | LimitError::Groups { .. }) => {
                self.counters.refused_tunnels += 1;
                return;
            }
        }
        let mut host = HostState::default();
        let limits = self.limits(ends.remote_ip, &host);
        let applied = host.apply(report, &limits, heard(now, nonce));
        self.count(&applied);
        if host.is_empty() {
            self.counters.nothing_joined += 1;
            return;
        }
        self.counters.updates += 1;
        let id = self.create(now, ends, ecn, host);
        self.table.note_nonce(id, protocol, nonce);
        self.announce(id, applied.changed);
    }

    /// RFC 7450 §5.3.3.5: the tunnel named in the message ends, whoever sent it, for only its own gateway knows that
    /// Response MAC. One that had the address and port before knows a Response MAC, too, of another nonce.
    fn on_teardown(
        &mut self,
        now: Instant,
        local: SocketAddr,
        gateway: SocketAddr,
        nonce: u32,
        response_mac: ResponseMac,
    ) {
        if self.secrets.accepts(now, gateway, nonce, response_mac).is_none() {
            self.counters.bad_mac += 1;
            return;
        }
        let id = self.table.ends(local, gateway).and_then(|ends| self.table.find(&ends));
        match id.filter(|id| self.table.get(*id).is_some_and(|tunnel| tunnel.nonces.are_of(nonce))) {
            Some(id) => {
                self.counters.teardowns += 1;
                self.take_down(id, DownReason::Teardown);
            }
            None => self.counters.unknown_teardowns += 1,
        }
    }

    /// Takes the report out of its IP datagram and looks whether a host may have sent it so (RFC 7450 §5.3.3.4,
    /// RFC 9776 §4, RFC 2236 §2, RFC 9777 §5.2, RFC 2710 §3): whatever the source address, which a gateway may
    /// not have.
    fn unwrap_report(&mut self, update: &[u8]) -> Option<(Protocol, membership::Message)> {
        use membership::Message;
        let Some(Encapsulated { message, destination: to, ttl, router_alert }) = Encapsulated::parse(update)
        else {
            self.counters.bad_report += 1;
            return None;
        };
        if ttl != 1 {
            self.counters.bad_ttl += 1;
            return None;
        }
        let protocol = Protocol::of(to);
        let addressed = match &message {
            Message::ReportV1 { group } | Message::ReportV2 { group } => to == *group,
            Message::Leave { group } => to == protocol.all_routers() || to == *group,
            Message::ReportV3 { .. } => to == protocol.all_routers_v3(),
            Message::QueryV1 | Message::QueryV2 { .. } | Message::QueryV3(_) => {
                self.counters.bad_report += 1;
                return None;
            }
        };
        if !addressed {
            self.counters.bad_report_address += 1;
            return None;
        }
        self.counters.no_router_alert += u64::from(!router_alert);
        Some((protocol, message))
    }

    fn count(&mut self, applied: &Applied) {
        self.counters.refused_groups += u64::from(applied.refused_groups);
        self.counters.refused_sources += u64::from(applied.refused_sources);
        self.counters.ignored_records += u64::from(applied.ignored);
        self.counters.source_specific_group += u64::from(applied.source_specific);
        self.counters.bad_listed_source += u64::from(applied.bad_sources);
    }

    /// Looks at the limits of rate.
    fn may_answer(&mut self, now: Instant, remote: SocketAddr) -> bool {
        let has_tunnel = self.table.of_address(remote.ip()) > 0;
        let answers = if has_tunnel { &mut self.answers } else { &mut self.strangers_answers };
        match answers.take(now, remote.ip()) {
            Ok(()) => return true,
            Err(TooMany::OfPrefix) => self.counters.rate_limited_per_prefix += 1,
            Err(TooMany::InAll) => self.counters.rate_limited += 1,
        }
        false
    }
}

impl Machine for Relay {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { local, remote, bytes } => self.on_datagram(now, local, remote, bytes),
            Input::Unreachable(about) => self.on_unreachable(now, about),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        loop {
            let (timer, at) = self.next_timer();
            if at > now {
                return;
            }
            match timer {
                Timer::SecretRotation => self.secrets.rotate(now),
                Timer::MembershipExpiry => {
                    if let Some((id, _)) = self.table.oldest(Queue::Member) {
                        self.counters.tunnels_expired += 1;
                        self.take_down(id, DownReason::Expired);
                    }
                }
                Timer::IdleLinger => {
                    if let Some((id, _)) = self.table.oldest(Queue::Idle) {
                        self.take_down(id, DownReason::Idle);
                    }
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.next_timer().1)
    }

    fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() {
            self.outputs.shrink_to(OUTPUTS_KEPT);
        }
        output
    }
}

/// The source of MLD's General Queries: hosts hear none that is not of a link-local address (RFC 9777 §5.1.14), and Linux
/// hands those of its tunnel to its own. Any of them does, for there is nobody else on that link.
const QUERY_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x2001, 3);

/// The General Query of IGMPv3 or MLDv2 in IP with Router Alert (RFC 7450 §5.3.3.3, RFC 9776 §4.1, RFC 9777
/// §5.1).
fn general_query(config: &Config, protocol: Protocol) -> Vec<u8> {
    // A Max Resp Code of 1: a gateway answers at once, for nobody answers with it. The query response interval is
    // for the state's timers only.
    let (source, max_resp_time) = match protocol {
        Protocol::Igmp => (config.query_source.into(), Duration::from_millis(100)),
        Protocol::Mld => (QUERY_SOURCE_V6.into(), Duration::from_millis(1)),
    };
    let Times { query_interval, robustness, .. } = config.times(protocol);
    let query = membership::Message::QueryV3(membership::QueryV3 {
        max_resp_time,
        group: protocol.unspecified(),
        suppress_router_side_processing: false,
        robustness_variable: robustness,
        query_interval,
        sources: Vec::new(),
    });
    encapsulate(source, protocol.all_hosts(), &query)
}

/// Whether an answer to this address can reach anyone, and one alone.
fn unicast(address: SocketAddr) -> bool {
    let group = match address.ip() {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified(),
        // A link-local one says nothing without its link, and a mapped one is no IPv6 host's (RFC 4291 §2.5.5).
        IpAddr::V6(v6) => {
            v6.is_multicast()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.to_ipv4_mapped().is_some()
        }
    };
    !group && address.port() != 0
}

/// What a Membership Update of this Request Nonce answers: a gateway takes another one for each query.
fn heard(now: Moment, nonce: u32) -> Heard {
    let at = now.seconds();
    Heard { at, round: nonce, since: at.saturating_sub(PARTS) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

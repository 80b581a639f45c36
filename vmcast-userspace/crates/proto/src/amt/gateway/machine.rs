//! The gateway's machine.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_common::hdr::{
    ecn,
    ipv4::{PROTO_IGMP, View},
};
use vmcast_wire::{
    amt::{GatewayAddress, Message, ResponseMac},
    igmp::{self, Record},
    ipv4,
};

use super::{
    config::Config,
    counters::Counters,
    input::Input,
    memberships::Memberships,
    output::{DownReason, Event, Output},
    random::Random,
    report,
    timer::Timer,
};
use crate::{Filter, Machine};

/// Robustness variable until the relay says one, or if it says none (RFC 9776 §8.1).
const DEFAULT_ROBUSTNESS: u8 = 2;
/// Query interval if the relay says none (RFC 9776 §8.2).
const DEFAULT_QUERY_INTERVAL: Duration = Duration::from_secs(125);
/// Repetitions of a report are spread over this (RFC 9776 §8.11).
const UNSOLICITED_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// An AMT gateway towards one relay (RFC 7450 §5.2).
pub struct Gateway {
    config: Config,
    random: Random,
    phase: Phase,
    status: Status,
    /// Whose Membership Queries and Multicast Data are accepted.
    relay: Option<SocketAddr>,
    /// What the last Membership Query gave for the address we have now.
    grant: Option<Grant>,
    /// What it gave for the address we had before, until a new one comes.
    former: Option<Grant>,
    /// A tunnel of ours to be forgotten, and how often that has still to be said.
    teardown: Option<(Grant, u8)>,
    /// Whether data came since the last handshake: then the relay has a tunnel for us, and the L
    /// flag is about others.
    heard: bool,
    robustness: u8,
    memberships: Memberships,
    /// How often the answer to the last query has still to be repeated.
    answers_left: u8,
    handshake_at: Option<Instant>,
    repeat_at: Option<Instant>,
    counters: Counters,
    outputs: VecDeque<Output>,
}

/// Where the handshake stands (RFC 7450 §5.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is wanted and the handshake is not kept warm.
    Dormant,
    /// Waits for a Relay Advertisement of this nonce after so many Relay Discoveries.
    Discovering { nonce: u32, sent: u32 },
    /// Waits for a Membership Query of this nonce after so many Requests.
    Requesting { nonce: u32, sent: u32, refused: bool },
    /// The Response MAC is fresh.
    Fresh,
    /// Left everything.
    Stopped,
}

/// What was last said about the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Unknown,
    Up,
    Down,
}

/// What a Membership Query entitles to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grant {
    response_mac: ResponseMac,
    nonce: u32,
    /// Our address as the relay sees it, if it says so.
    gateway: Option<GatewayAddress>,
}

impl Gateway {
    /// Makes a gateway that begins with the handshake as soon as its timer is served.
    #[must_use]
    pub fn new(now: Instant, config: Config) -> Self {
        let mut gateway = Self {
            random: Random::new(&config.seed),
            phase: Phase::Dormant,
            status: Status::Unknown,
            relay: (!config.discover).then_some(config.relay),
            grant: None,
            former: None,
            teardown: None,
            heard: false,
            robustness: DEFAULT_ROBUSTNESS,
            memberships: Memberships::default(),
            answers_left: 0,
            handshake_at: None,
            repeat_at: None,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            config,
        };
        if gateway.config.keep_warm {
            gateway.begin(now);
        }
        gateway
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether the relay answers.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.status == Status::Up
    }

    /// The relay in use, once it is known.
    #[must_use]
    pub const fn relay(&self) -> Option<SocketAddr> {
        self.relay
    }

    /// The gateway's address as the relay sees it, if it said so: behind a translator that is not
    /// the address of the socket.
    #[must_use]
    pub fn observed_address(&self) -> Option<SocketAddr> {
        self.grant.and_then(|grant| grant.gateway).map(|gateway| gateway.socket_addr())
    }

    /// Everything wanted.
    pub fn memberships(&self) -> impl Iterator<Item = (IpAddr, &Filter)> {
        self.memberships.iter()
    }

    /// The timer that fires next, and when.
    #[must_use]
    pub fn next_timer(&self) -> Option<(Timer, Instant)> {
        let handshake = match self.phase {
            Phase::Discovering { .. } => Some(Timer::DiscoveryRetransmission),
            Phase::Requesting { .. } => Some(Timer::RequestRetransmission),
            Phase::Fresh => Some(Timer::Query),
            Phase::Dormant | Phase::Stopped => None,
        };
        let handshake = handshake.zip(self.handshake_at);
        let repeat = self.repeat_at.map(|at| (Timer::ReportRetransmission, at));
        handshake.into_iter().chain(repeat).min_by_key(|(_, at)| *at)
    }

    /// Starts over: with discovery if configured, else with a Request.
    fn begin(&mut self, now: Instant) {
        if self.config.discover {
            self.phase = Phase::Discovering { nonce: self.random.nonce(), sent: 0 };
            self.handshake_at = Some(now);
        } else {
            self.request(now);
        }
    }

    fn request(&mut self, now: Instant) {
        self.phase = Phase::Requesting { nonce: self.random.nonce(), sent: 0, refused: false };
        self.handshake_at = Some(now);
    }

    fn on_handshake_timer(&mut self, now: Instant) {
        match self.phase {
            Phase::Discovering { nonce, sent } => {
                if sent == self.config.tries {
                    self.down(DownReason::NoAdvertisement);
                }
                self.phase = Phase::Discovering { nonce, sent: sent.saturating_add(1) };
                self.counters.discoveries += 1;
                self.transmit(self.config.relay, &Message::RelayDiscovery { nonce });
                self.back_off(now, sent);
            }
            Phase::Requesting { mut nonce, sent, refused } => {
                if sent >= self.config.tries {
                    // Nobody waits that long for an answer; a stranger should not have longer to guess.
                    nonce = self.random.nonce();
                }
                if sent == self.config.tries {
                    self.down(if refused { DownReason::Refused } else { DownReason::NoAnswer });
                    if self.config.discover {
                        self.begin(now);
                        return;
                    }
                }
                self.phase = Phase::Requesting { nonce, sent: sent.saturating_add(1), refused };
                if let Some(relay) = self.relay {
                    self.counters.requests += 1;
                    // RFC 9601 §6.1.4.2 (the Relay Discovery, of which it speaks as well, has no such flag). Linux's
                    // relay drops a Request with reserved bits, which this is to it: every second one is without.
                    let ecn = sent % 2 == 0;
                    self.transmit(relay, &Message::Request { ipv6: false, ecn, nonce });
                }
                self.back_off(now, sent);
            }
            Phase::Fresh if self.memberships.is_empty() && !self.config.keep_warm => {
                self.phase = Phase::Dormant;
                self.handshake_at = None;
                self.down(DownReason::Idle);
            }
            Phase::Fresh => self.request(now),
            Phase::Dormant | Phase::Stopped => self.handshake_at = None,
        }
    }

    fn back_off(&mut self, now: Instant, sent_before: u32) {
        let factor = 1u32.checked_shl(sent_before).unwrap_or(u32::MAX);
        let wait = self.config.first_retransmission.saturating_mul(factor);
        // A wait of nothing would keep the driver busy for ever.
        let wait = wait.min(self.config.max_retransmission).max(Duration::from_millis(1));
        self.handshake_at = Some(now + wait);
    }

    fn on_datagram(&mut self, now: Instant, remote: SocketAddr, tos: u8, bytes: &[u8]) {
        let Ok(message) = Message::parse(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        match message {
            Message::MulticastData { packet } => self.on_data(remote, tos, packet),
            Message::RelayAdvertisement { nonce, relay } => self.on_advertisement(now, remote, nonce, relay),
            Message::MembershipQuery { response_mac, nonce, limit, gateway, query } => {
                self.on_query(now, remote, Grant { response_mac, nonce, gateway }, limit, query);
            }
            Message::RelayDiscovery { .. }
            | Message::Request { .. }
            | Message::MembershipUpdate { .. }
            | Message::Teardown { .. } => self.counters.unexpected += 1,
        }
    }

    /// RFC 7450 §5.2.3: only the relay's own data, and only what was asked for.
    fn on_data(&mut self, remote: SocketAddr, tos: u8, packet: &[u8]) {
        if self.relay != Some(remote) || self.phase == Phase::Stopped {
            self.counters.stranger += 1;
            return;
        }
        if packet.first().is_some_and(|first| first >> 4 == 6) {
            self.counters.unsupported_family += 1;
            return;
        }
        let view = View::parse(packet, 0).ok().filter(|view| view.destination.is_multicast());
        let Some((view, packet)) = view.and_then(|view| Some((view, packet.get(..view.total_len)?))) else {
            self.counters.bad_data += 1;
            return;
        };
        if self.memberships.wants(view.destination, view.source) {
            self.heard = true;
            let mut packet = packet.to_vec();
            if ecn::merge(&mut packet, tos).is_none() {
                self.counters.congestion += 1;
                return;
            }
            self.counters.data += 1;
            self.outputs.push_back(Output::Data { packet });
        } else {
            self.counters.unwanted_data += 1;
        }
    }

    /// RFC 7450 §5.2.3.4.
    fn on_advertisement(&mut self, now: Instant, remote: SocketAddr, nonce: u32, relay: IpAddr) {
        if remote != self.config.relay {
            self.counters.stranger += 1;
            return;
        }
        match self.phase {
            Phase::Discovering { nonce: ours, .. } if ours == nonce => {}
            Phase::Discovering { .. }
            | Phase::Dormant
            | Phase::Requesting { .. }
            | Phase::Fresh
            | Phase::Stopped => {
                self.counters.bad_nonce += 1;
                return;
            }
        }
        let one_host = !(relay.is_multicast() || relay.is_unspecified() || relay == Ipv4Addr::BROADCAST);
        if !one_host || relay.is_ipv4() != remote.is_ipv4() {
            self.counters.bad_advertisement += 1;
            return;
        }
        let relay = SocketAddr::new(relay, self.config.relay.port());
        if self.relay != Some(relay) {
            self.relay = Some(relay);
            (self.grant, self.former, self.teardown) = (None, None, None);
            self.heard = false;
        }
        self.request(now);
    }

    /// RFC 7450 §5.2.3.5.
    fn on_query(&mut self, now: Instant, remote: SocketAddr, grant: Grant, limit: bool, query: &[u8]) {
        if self.relay != Some(remote) {
            self.counters.stranger += 1;
            return;
        }
        let (nonce, sent) = match self.phase {
            Phase::Requesting { nonce, sent, .. } if nonce == grant.nonce => (nonce, sent),
            Phase::Requesting { .. }
            | Phase::Dormant
            | Phase::Discovering { .. }
            | Phase::Fresh
            | Phase::Stopped => {
                self.counters.bad_nonce += 1;
                return;
            }
        };
        let Some(general) = general_query(query) else {
            self.counters.bad_query += 1;
            return;
        };
        let before = self.grant.or(self.former);
        let moved = before.filter(|before| before.gateway != grant.gateway);
        if limit && (moved.is_some() || !self.heard) {
            self.counters.refused += 1;
            self.phase = Phase::Requesting { nonce, sent, refused: true };
            self.outputs.push_back(Output::Event(Event::Refused { relay: remote }));
            // A tunnel over which nothing flows at present looks like none; this keeps it, and a
            // relay that has none ignores it.
            self.update(remote, grant, self.memberships.current_state());
            return;
        }
        self.heard = false;
        self.counters.queries += 1;
        self.robustness = match general.robustness_variable {
            0 => DEFAULT_ROBUSTNESS,
            told => told,
        };
        // RFC 7450 §5.2.3.7: the relay would send to the old address until the tunnel expires.
        if let Some(old) = moved {
            self.teardown = Some((old, self.robustness));
        }
        self.former = None;
        self.grant = Some(grant);
        self.phase = Phase::Fresh;
        let interval =
            if general.query_interval.is_zero() { DEFAULT_QUERY_INTERVAL } else { general.query_interval };
        let interval = self.config.max_request_interval.map_or(interval, |most| most.min(interval));
        // A little early, and never all gateways of a relay at once.
        self.handshake_at = Some(now + interval - self.random.up_to(interval / 16));
        if self.status != Status::Up {
            self.status = Status::Up;
            self.outputs.push_back(Output::Event(Event::Up { relay: remote }));
        }
        self.answers_left = self.robustness;
        self.tell(now);
    }

    fn on_set_membership(&mut self, now: Instant, group: IpAddr, filter: Filter) {
        let IpAddr::V4(group) = group else {
            self.counters.unsupported_family += 1;
            return;
        };
        if self.phase == Phase::Stopped || !self.memberships.set(group, filter, self.robustness) {
            return;
        }
        if self.phase == Phase::Dormant {
            self.begin(now);
        }
        self.tell(now);
    }

    fn on_local_changed(&mut self, now: Instant) {
        match self.phase {
            Phase::Dormant | Phase::Stopped => {}
            Phase::Discovering { .. } => self.begin(now),
            Phase::Requesting { .. } | Phase::Fresh => {
                self.former = self.grant.take().or(self.former);
                self.heard = false;
                self.request(now);
            }
        }
    }

    fn on_stop(&mut self, now: Instant) {
        if self.phase == Phase::Stopped {
            return;
        }
        self.memberships.leave_all(self.robustness);
        self.answers_left = 0;
        // After a change of address the tunnel to end is that of the address before.
        self.teardown = self.grant.or(self.former).map(|grant| (grant, self.robustness));
        self.phase = Phase::Stopped;
        self.handshake_at = None;
        self.tell(now);
        self.down(DownReason::Stopped);
    }

    /// Tells the relay what it has not been told often enough, and comes back for the rest.
    fn tell(&mut self, now: Instant) {
        let Some(relay) = self.relay else { return };
        if let Some(grant) = self.grant {
            let mut records = self.memberships.state_changes();
            if self.answers_left > 0 {
                self.answers_left -= 1;
                records.extend(self.memberships.current_state());
                if self.answers_left == 0 {
                    self.memberships.query_answered();
                }
            }
            self.update(relay, grant, records);
        }
        if let Some((old, left)) = self.teardown.take()
            && let Some(gateway) = old.gateway
        {
            self.counters.teardowns += 1;
            let Grant { response_mac, nonce, .. } = old;
            self.transmit(relay, &Message::Teardown { response_mac, nonce, gateway });
            self.teardown = (left > 1).then_some((old, left - 1));
        }
        let told = !self.memberships.has_pending() && self.answers_left == 0;
        let rest = self.teardown.is_some() || (self.grant.is_some() && !told);
        let spread = UNSOLICITED_REPORT_INTERVAL - Duration::from_millis(1);
        self.repeat_at = rest.then(|| now + Duration::from_millis(1) + self.random.up_to(spread));
    }

    fn update(&mut self, relay: SocketAddr, grant: Grant, records: Vec<Record>) {
        let room = report::room(self.config.mtu, relay);
        let source = self.config.report_source;
        let left: BTreeSet<Ipv4Addr> =
            records.iter().map(|record| record.group).filter(|group| !self.memberships.has(*group)).collect();
        let reports = report::datagrams(source, room, records);
        let leaves = left.into_iter().map(|group| report::leave(source, group));
        for update in reports.into_iter().chain(leaves) {
            self.counters.updates += 1;
            let Grant { response_mac, nonce, .. } = grant;
            self.transmit(relay, &Message::MembershipUpdate { response_mac, nonce, update: &update });
        }
    }

    fn transmit(&mut self, remote: SocketAddr, message: &Message<'_>) {
        self.outputs.push_back(Output::Transmit { remote, bytes: message.to_vec() });
    }

    fn down(&mut self, reason: DownReason) {
        if self.phase != Phase::Stopped {
            (self.grant, self.former) = (None, None);
            self.heard = false;
            self.repeat_at = None;
            self.teardown = None;
        }
        if self.status != Status::Down {
            self.status = Status::Down;
            self.outputs.push_back(Output::Event(Event::Down { reason }));
        }
    }
}

impl Machine for Gateway {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { remote, tos, bytes } => self.on_datagram(now, remote, tos, bytes),
            Input::SetMembership { group, filter } => self.on_set_membership(now, group, filter),
            Input::LocalChanged => self.on_local_changed(now),
            Input::Stop => self.on_stop(now),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((timer, at)) = self.next_timer() {
            if at > now {
                return;
            }
            match timer {
                Timer::DiscoveryRetransmission | Timer::RequestRetransmission | Timer::Query => {
                    self.on_handshake_timer(now);
                }
                Timer::ReportRetransmission => self.tell(now),
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next_timer().map(|(_, at)| at)
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

/// Takes the General Query out of its IP datagram (RFC 7450 §5.1.4.8).
fn general_query(query: &[u8]) -> Option<igmp::QueryV3> {
    let datagram = ipv4::decapsulate(query).ok()?;
    if datagram.protocol != PROTO_IGMP {
        return None;
    }
    match igmp::Message::parse(datagram.payload).ok()? {
        igmp::Message::QueryV3(query) if query.group.is_unspecified() && query.sources.is_empty() => {
            Some(query)
        }
        igmp::Message::QueryV3(_)
        | igmp::Message::QueryV1
        | igmp::Message::QueryV2 { .. }
        | igmp::Message::ReportV1 { .. }
        | igmp::Message::ReportV2 { .. }
        | igmp::Message::LeaveGroup { .. }
        | igmp::Message::ReportV3 { .. } => None,
    }
}

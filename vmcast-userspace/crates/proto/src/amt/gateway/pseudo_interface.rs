//! A pseudo-interface: what one protocol of group membership is spoken over (RFC 7450 §5.2.2, §5.2.3).

mod unreachable;

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_common::hdr::{ecn, ipv4, ipv6};
use vmcast_wire::{
    amt::{GatewayAddress, Message, ResponseMac},
    membership::{self, QueryV3, Record},
};

use super::{
    config::Config,
    counters::Counters,
    form::Form,
    memberships::Memberships,
    output::{DownReason, Event, Output},
    random::Random,
    report,
    round::Round,
    timer::Timer,
};
use crate::{
    Filter,
    amt::encapsulated::{Encapsulated, Protocol},
};

/// Robustness variable until the relay says one, or if it says none (RFC 9776 §8.1).
const DEFAULT_ROBUSTNESS: u8 = 2;
/// Query interval if the relay says none (RFC 9776 §8.2).
const DEFAULT_QUERY_INTERVAL: Duration = Duration::from_secs(125);
/// Repetitions of a report are spread over this (RFC 9776 §8.11).
const UNSOLICITED_REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// One protocol towards one relay: its handshake and its memberships.
pub(super) struct PseudoInterface {
    config: Config,
    protocol: Protocol,
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
    /// How often that was said of the former tunnel already, to a relay that has no room for another.
    torn_down: u8,
    /// The nonce of a Request that asks, while the Response MAC is fresh, whether the relay still knows the way.
    probe: Option<u32>,
    /// How the Request was written that was answered last: so is one that asks again.
    known_form: Form,
    /// How the last Request was written.
    asked_form: Form,
    /// Whether every Request of the nonce in use had the E flag: then an answer is one to it.
    flag_only: bool,
    /// The round in which it takes or took part.
    round: u64,
    /// Whether data came since the last handshake: then the relay has a tunnel for us, and the L
    /// flag is about others.
    heard: bool,
    robustness: u8,
    memberships: Memberships,
    /// How often the answer to the last query has still to be repeated.
    answers_left: u8,
    handshake_at: Option<Instant>,
    /// Requests and Relay Discoveries since the last handshake of which ICMP said that they were not delivered.
    refusals: u32,
    /// When ICMP last let it shake hands again.
    asked_again: Option<Instant>,
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

impl PseudoInterface {
    /// Makes one that begins with the handshake as soon as its timer is served; without a relay, once it has
    /// discovered one or was told.
    pub(super) fn new(
        now: Instant,
        config: Config,
        protocol: Protocol,
        relay: Option<SocketAddr>,
        round: &mut Round,
    ) -> Self {
        let mut seed = config.seed;
        seed[0] ^= u8::from(protocol.p_flag());
        let mut gateway = Self {
            random: Random::new(&seed),
            phase: Phase::Dormant,
            status: Status::Unknown,
            relay,
            protocol,
            grant: None,
            former: None,
            teardown: None,
            torn_down: 0,
            probe: None,
            known_form: Form::Plain,
            asked_form: Form::Plain,
            flag_only: true,
            round: 0,
            heard: false,
            robustness: DEFAULT_ROBUSTNESS,
            memberships: Memberships::default(),
            answers_left: 0,
            handshake_at: None,
            refusals: 0,
            asked_again: None,
            repeat_at: None,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            config,
        };
        if gateway.config.keep_warm && (relay.is_some() || gateway.config.discover) {
            gateway.begin(now, round);
        }
        gateway
    }

    /// What happened so far.
    pub(super) const fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether the relay answers.
    pub(super) fn is_up(&self) -> bool {
        self.status == Status::Up
    }

    /// The relay in use, once it is known.
    pub(super) const fn relay(&self) -> Option<SocketAddr> {
        self.relay
    }

    /// The gateway's address as the relay sees it, if it said so: behind a translator that is not
    /// the address of the socket.
    pub(super) fn observed_address(&self) -> Option<SocketAddr> {
        self.grant.and_then(|grant| grant.gateway).map(|gateway| gateway.socket_addr())
    }

    /// The nonce and the Response MAC in use.
    pub(super) fn response_mac(&self) -> Option<(u32, ResponseMac)> {
        self.grant.map(|grant| (grant.nonce, grant.response_mac))
    }

    /// Everything wanted.
    pub(super) fn memberships(&self) -> impl Iterator<Item = (IpAddr, &Filter)> {
        self.memberships.iter()
    }

    /// The timer that fires next, and when.
    pub(super) fn next_timer(&self) -> Option<(Timer, Instant)> {
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
    fn begin(&mut self, now: Instant, round: &mut Round) {
        if self.config.discover {
            self.phase = Phase::Discovering { nonce: self.random.nonce(), sent: 0 };
            self.handshake_at = Some(now);
        } else {
            self.request(now, round);
        }
    }

    /// Begins with a Request, in the round that the other pseudo-interface has just opened, or in a new one.
    fn request(&mut self, now: Instant, round: &mut Round) {
        if self.round == round.number() || !round.is_just_opened(now) {
            self.open(now, round);
        }
        self.probe = None;
        self.enter(round);
        self.phase = Phase::Requesting { nonce: round.nonce(), sent: 0, refused: false };
        self.handshake_at = Some(now);
    }

    /// Opens a round, with a nonce of ours.
    pub(super) fn open(&mut self, now: Instant, round: &mut Round) {
        round.open(now, &mut self.random);
    }

    const fn enter(&mut self, round: &Round) {
        self.round = round.number();
        self.flag_only = true;
    }

    /// Takes part in the round that the other pseudo-interface has opened, if the handshake is under way or done.
    pub(super) fn follow(&mut self, now: Instant, round: &mut Round) {
        if self.round == round.number() {
            return;
        }
        match self.phase {
            Phase::Fresh => self.request(now, round),
            Phase::Requesting { sent, refused, .. } => {
                self.enter(round);
                self.phase = Phase::Requesting { nonce: round.nonce(), sent, refused };
                // The answers to those before are of no use now. It is not one more try, else a relay that is away
                // would be asked twice as often.
                if let (Some(relay), Some(before)) = (self.relay, sent.checked_sub(1)) {
                    self.ask(relay, round.nonce(), self.form(before, round));
                    self.back_off(now, before);
                }
            }
            Phase::Dormant | Phase::Discovering { .. } | Phase::Stopped => {}
        }
    }

    /// Shakes hands again if what the relay last answered was a Request without the E flag, which it is known to
    /// know: both protocols have to say the same of the one tunnel.
    pub(super) fn say_flag(&mut self, now: Instant, round: &mut Round) {
        if self.phase == Phase::Fresh && self.known_form != Form::Ecn {
            self.request(now, round);
        }
    }

    /// How the Request is to be written that comes after so many others of its handshake.
    fn form(&self, sent_before: u32, round: &Round) -> Form {
        Form::after(sent_before, self.protocol, round.flag(sent_before < self.config.tries))
    }

    fn on_handshake_timer(&mut self, now: Instant, round: &mut Round) {
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
                    self.open(now, round);
                    self.enter(round);
                    nonce = round.nonce();
                }
                if sent == self.config.tries {
                    self.down(if refused { DownReason::Refused } else { DownReason::NoAnswer });
                    if self.config.discover {
                        self.begin(now, round);
                        return;
                    }
                }
                self.phase = Phase::Requesting { nonce, sent: sent.saturating_add(1), refused };
                if let Some(relay) = self.relay {
                    self.ask(relay, nonce, self.form(sent, round));
                }
                self.back_off(now, sent);
            }
            Phase::Fresh if self.memberships.is_empty() && !self.config.keep_warm => {
                self.phase = Phase::Dormant;
                self.handshake_at = None;
                self.down(DownReason::Idle);
            }
            Phase::Fresh => self.request(now, round),
            Phase::Dormant | Phase::Stopped => self.handshake_at = None,
        }
    }

    /// A random exponential back-off (RFC 7450 §5.2.3.4.3, §5.2.3.5.3), so that the gateways of a relay
    /// that comes back do not ask all at once. What is drawn is the last quarter of the range: a wait from
    /// all of it would now and then ask a relay that is away every second for minutes.
    fn back_off(&mut self, now: Instant, sent_before: u32) {
        let factor = 1u32.checked_shl(sent_before).unwrap_or(u32::MAX);
        let first = self.config.first_retransmission;
        let most = first.saturating_mul(factor).min(self.config.max_retransmission).max(first);
        let wait = most - self.random.up_to((most - first) / 4);
        // A wait of nothing would keep the driver busy for ever.
        self.handshake_at = Some(now + wait.max(Duration::from_millis(1)));
    }

    /// A message for this protocol came in.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        tos: u8,
        message: Message<'_>,
        round: &mut Round,
    ) {
        match message {
            Message::MulticastData { packet } => self.on_data(remote, tos, packet),
            Message::RelayAdvertisement { nonce, relay } => {
                self.on_advertisement(now, remote, nonce, relay, round);
            }
            Message::MembershipQuery { response_mac, nonce, limit, gateway, query } => {
                self.on_query(now, remote, Grant { response_mac, nonce, gateway }, limit, query, round);
            }
            Message::RelayDiscovery { .. }
            | Message::Request { .. }
            | Message::MembershipUpdate { .. }
            | Message::Teardown { .. } => self.counters.unexpected += 1,
        }
    }

    /// RFC 7450 §5.2.3.3: only the relay's own data, and only what was asked for.
    fn on_data(&mut self, remote: SocketAddr, tos: u8, packet: &[u8]) {
        if self.relay != Some(remote) || self.phase == Phase::Stopped {
            self.counters.stranger += 1;
            return;
        }
        let Some((source, group, packet)) = multicast(packet) else {
            self.counters.bad_data += 1;
            return;
        };
        if self.memberships.wants(group, source) {
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
    fn on_advertisement(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        nonce: u32,
        relay: IpAddr,
        round: &mut Round,
    ) {
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
        self.turn_to(now, SocketAddr::new(relay, self.config.relay.port()), round);
    }

    /// Uses this relay from now on.
    pub(super) fn turn_to(&mut self, now: Instant, relay: SocketAddr, round: &mut Round) {
        if self.phase == Phase::Stopped {
            return;
        }
        if self.relay != Some(relay) {
            let old = self.relay.replace(relay);
            let grant = self.grant.take().or(self.former.take());
            self.teardown = None;
            self.torn_down = 0;
            // RFC 7450 §5.2.3.4.4: the relay before would send on until the tunnel expires.
            if let Some((old, grant)) = old.zip(grant) {
                self.tear_down(old, grant);
            }
            self.heard = false;
            round.forget_flag();
        }
        self.request(now, round);
    }

    /// RFC 7450 §5.2.3.5.
    fn on_query(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        grant: Grant,
        limit: bool,
        query: &[u8],
        round: &mut Round,
    ) {
        if self.relay != Some(remote) {
            self.counters.stranger += 1;
            return;
        }
        let (nonce, sent) = match self.phase {
            Phase::Requesting { nonce, sent, .. } if nonce == grant.nonce => {
                self.known_form = self.asked_form;
                round.note_answer(self.known_form == Form::Ecn, self.flag_only);
                (nonce, sent)
            }
            Phase::Fresh if self.probe == Some(grant.nonce) => (grant.nonce, 0),
            Phase::Requesting { .. }
            | Phase::Dormant
            | Phase::Discovering { .. }
            | Phase::Fresh
            | Phase::Stopped => {
                self.counters.bad_nonce += 1;
                return;
            }
        };
        let Some(general) = self.general_query(query) else {
            self.counters.bad_query += 1;
            return;
        };
        let before = self.grant.or(self.former);
        // An answer without the G flag does not tell.
        let moved = before
            .filter(|before| before.gateway.zip(grant.gateway).is_some_and(|(before, now)| before != now));
        if limit && (moved.is_some() || !self.heard) {
            self.counters.refused += 1;
            let again = matches!(self.phase, Phase::Requesting { refused: true, .. });
            self.phase = Phase::Requesting { nonce, sent, refused: true };
            if sent == 0 {
                // Only the way was asked for.
                self.back_off(now, 0);
            }
            // Its tunnel at the former address may have the very room that it lacks (RFC 7450 §5.2.3.7.1), so that is no
            // refusal yet. It is said as often as a message is repeated against loss, and no more: a translator may have
            // given that address to another gateway meanwhile.
            if let Some(old) = moved.filter(|_| self.torn_down < self.robustness) {
                self.torn_down += 1;
                self.tear_down(remote, old);
            }
            if moved.is_none() || again {
                self.outputs.push_back(Output::Event(Event::Refused { relay: remote }));
            }
            // A tunnel over which nothing flows at present looks like none; this keeps it, and makes one where there is
            // room by now. A relay that has none ignores it.
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
            let left = self.robustness.saturating_sub(self.torn_down);
            self.teardown = (left > 0).then_some((old, left));
        }
        self.torn_down = 0;
        self.refusals = 0;
        self.former = None;
        self.grant = Some(grant);
        self.probe = None;
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

    /// Something else is wanted of a group than before.
    pub(super) fn set_membership(&mut self, now: Instant, group: IpAddr, filter: Filter, round: &mut Round) {
        if self.phase == Phase::Stopped || !self.memberships.set(group, filter, self.robustness) {
            return;
        }
        if self.phase == Phase::Dormant {
            self.begin(now, round);
        }
        self.tell(now);
    }

    /// Whether there is something whose way to ask for.
    pub(super) fn wants_probe(&self) -> bool {
        self.phase == Phase::Fresh && self.relay.is_some() && !self.memberships.is_empty()
    }

    /// Asks once, in a round opened for it, whether the relay still knows the way; that nobody answers says nothing.
    pub(super) fn probe(&mut self, round: &Round) {
        if let (Phase::Fresh, Some(relay)) = (self.phase, self.relay) {
            self.enter(round);
            self.probe = Some(round.nonce());
            self.counters.probes += 1;
            self.ask(relay, round.nonce(), self.known_form);
        }
    }

    fn ask(&mut self, relay: SocketAddr, nonce: u32, form: Form) {
        self.counters.requests += 1;
        self.asked_form = form;
        self.flag_only &= form == Form::Ecn;
        let ipv6 = self.protocol.p_flag();
        let bytes = match form {
            Form::Ecn => Message::Request { ipv6, ecn: true, nonce }.to_vec(),
            Form::Plain => Message::Request { ipv6, ecn: false, nonce }.to_vec(),
            Form::LinuxMld => Message::linux_request(nonce),
        };
        self.outputs.push_back(Output::Transmit { remote: relay, bytes });
    }

    /// Packets that came and were wanted.
    pub(super) const fn wanted_data(&self) -> u64 {
        self.counters.data + self.counters.congestion
    }

    /// Whether nothing is wanted.
    pub(super) fn is_idle(&self) -> bool {
        self.memberships.is_empty()
    }

    /// Whether it left everything for good.
    pub(super) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// Data of what is wanted came by another way than this machine.
    pub(super) fn data_seen(&mut self) {
        self.heard |= !self.is_idle();
    }

    /// Shakes hands again at once.
    pub(super) fn local_changed(&mut self, now: Instant, round: &mut Round) {
        match self.phase {
            Phase::Dormant | Phase::Stopped => {}
            Phase::Discovering { .. } => self.begin(now, round),
            Phase::Requesting { .. } | Phase::Fresh => {
                self.former = self.grant.take().or(self.former);
                self.torn_down = 0;
                self.heard = false;
                self.request(now, round);
            }
        }
    }

    /// Leaves everything.
    pub(super) fn stop(&mut self, now: Instant) {
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
            && self.tear_down(relay, old)
        {
            self.teardown = (left > 1).then_some((old, left - 1));
        }
        let told = !self.memberships.has_pending() && self.answers_left == 0;
        let rest = self.teardown.is_some() || (self.grant.is_some() && !told);
        let spread = UNSOLICITED_REPORT_INTERVAL - Duration::from_millis(1);
        self.repeat_at = rest.then(|| now + Duration::from_millis(1) + self.random.up_to(spread));
    }

    /// Says that the tunnel of a grant is to end (RFC 7450 §5.2.3.7); whether the relay told what is needed
    /// for that, with the G flag.
    fn tear_down(&mut self, relay: SocketAddr, grant: Grant) -> bool {
        let Grant { response_mac, nonce, gateway } = grant;
        if let Some(gateway) = gateway {
            self.counters.teardowns += 1;
            self.transmit(relay, &Message::Teardown { response_mac, nonce, gateway });
        }
        gateway.is_some()
    }

    fn update(&mut self, relay: SocketAddr, grant: Grant, records: Vec<Record<IpAddr>>) {
        let room = report::room(self.config.mtu, relay, self.protocol);
        let source = match self.protocol {
            Protocol::Igmp => self.config.report_source.into(),
            Protocol::Mld => self.protocol.unspecified(),
        };
        let left: BTreeSet<IpAddr> =
            records.iter().map(|record| record.group).filter(|group| !self.memberships.has(*group)).collect();
        let reports = report::datagrams(source, room, records);
        let leaves = left.into_iter().map(|group| report::leave(source, group));
        for update in reports.into_iter().chain(leaves) {
            self.counters.updates += 1;
            let Grant { response_mac, nonce, .. } = grant;
            self.transmit(relay, &Message::MembershipUpdate { response_mac, nonce, update: &update });
        }
    }

    /// Takes the General Query out of its IP datagram, whatever its source address (RFC 7450 §5.2.1,
    /// §5.2.3.5.4).
    fn general_query(&self, query: &[u8]) -> Option<QueryV3<IpAddr>> {
        use membership::Message;
        if Protocol::of_datagram(query) != Some(self.protocol) {
            return None;
        }
        match Encapsulated::parse(query)?.message {
            Message::QueryV3(query) if query.group.is_unspecified() && query.sources.is_empty() => {
                Some(query)
            }
            Message::QueryV3(_)
            | Message::QueryV1
            | Message::QueryV2 { .. }
            | Message::ReportV1 { .. }
            | Message::ReportV2 { .. }
            | Message::Leave { .. }
            | Message::ReportV3 { .. } => None,
        }
    }

    fn transmit(&mut self, remote: SocketAddr, message: &Message<'_>) {
        self.outputs.push_back(Output::Transmit { remote, bytes: message.to_vec() });
    }

    /// Lets every timer that is due fire.
    pub(super) fn timeout(&mut self, now: Instant, round: &mut Round) {
        while let Some((timer, at)) = self.next_timer() {
            if at > now {
                return;
            }
            match timer {
                Timer::DiscoveryRetransmission | Timer::RequestRetransmission | Timer::Query => {
                    self.on_handshake_timer(now, round);
                }
                Timer::ReportRetransmission => self.tell(now),
                Timer::Flow => unreachable!("a pseudo-interface has no such timer"),
            }
        }
    }

    /// Takes the next output.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn down(&mut self, reason: DownReason) {
        if self.phase != Phase::Stopped {
            // The tunnel may still be there, and the address another when the relay answers again.
            self.former = self.grant.take().or(self.former);
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

/// Source, group and bytes of a multicast packet, without what may follow it.
fn multicast(packet: &[u8]) -> Option<(IpAddr, IpAddr, &[u8])> {
    let (source, group, length): (IpAddr, IpAddr, _) = match Protocol::of_datagram(packet)? {
        Protocol::Igmp => {
            let view = ipv4::View::parse(packet, 0).ok()?;
            (view.source.into(), view.destination.into(), view.total_len)
        }
        Protocol::Mld => {
            let view = ipv6::View::parse(packet, 0)?;
            let address = |octets: [u8; 16]| Ipv6Addr::from(octets).into();
            (address(view.source.octets()), address(view.destination.octets()), view.total_len)
        }
    };
    Some((source, group, packet.get(..length)?)).filter(|_| group.is_multicast())
}

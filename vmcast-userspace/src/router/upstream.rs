//! The tunnel towards the source: an AMT gateway, and what became of it.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_common::fib::{EcnMode, FibOp, Tunnel, TunnelId, TunnelKind};
use vmcast_proto::{
    Filter, Machine as _,
    amt::gateway::{self, Event, Gateway},
    registry::{NodeId, OwnTunnel},
};

use super::relays;
use crate::watch::{Finding, Seen, Watch};

/// Upstream tunnels are numbered from here: the relay's numbers stay below.
pub(super) const FIRST_ID: u32 = 1 << 29;

/// Requests that go unanswered before the VMR counts as dead: 1 s, 2 s and 4 s.
const TRIES: u32 = 3;
/// A VMR that came back is noticed at least so soon; RFC 7450 §5.2.3.5.3 allows 120 s at most.
const MAX_RETRANSMISSION: Duration = Duration::from_secs(30);

/// The gateway towards one upstream VMR.
pub(super) struct Upstream {
    pub(super) id: TunnelId,
    /// Our end.
    pub(super) local: SocketAddr,
    /// The VMR as it was named; it may advertise another address of its own.
    pub(super) named: SocketAddr,
    /// The end that answers, once it does.
    pub(super) relay: Option<SocketAddr>,
    pub(super) state: State,
    pub(super) since: Instant,
    gateway: Gateway,
    watch: Watch,
    /// Grows with the data that the data plane takes in.
    data: u64,
}

/// How the upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It has not answered yet.
    Waiting,
    /// It answers.
    Up,
    /// It does not answer, or refuses.
    Down,
}

/// What an upstream asks for.
#[derive(Debug)]
pub(super) enum Effect {
    Transmit {
        remote: SocketAddr,
        bytes: Vec<u8>,
    },
    Fib(FibOp),
    Up(SocketAddr),
    Down(&'static str),
    /// Data came to the socket, not to the data plane.
    DataAtSocket,
}

impl Upstream {
    /// Starts the handshake, from our end to the VMR as it was named, or with the relay that is found there. `number` tells this upstream from those before it.
    pub(super) fn start(
        now: Instant,
        number: u32,
        [local, named]: [SocketAddr; 2],
        discover: bool,
        seed: [u8; 16],
    ) -> Self {
        let mut config = gateway::Config { discover, ..gateway::Config::new(named, seed) };
        config.tries = TRIES;
        config.max_retransmission = MAX_RETRANSMISSION;
        Self {
            id: TunnelId(FIRST_ID + number % relays::RANGE),
            local,
            named,
            relay: None,
            state: State::Waiting,
            since: now,
            gateway: Gateway::new(now, config),
            watch: Watch::new(now),
            data: 0,
        }
    }

    /// Something came to the socket. No packet goes on from here: the data plane takes those, and merges their
    /// congestion marks.
    pub(super) fn heard(&mut self, now: Instant, input: gateway::Input<'_>) {
        self.gateway.handle_input(now, input);
    }

    pub(super) fn set_membership(&mut self, now: Instant, group: IpAddr, filter: Filter) {
        self.gateway.handle_input(now, gateway::Input::SetMembership { group, filter });
    }

    pub(super) fn stop(&mut self, now: Instant) {
        self.gateway.handle_input(now, gateway::Input::Stop);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.gateway.handle_timeout(now);
    }

    /// Another VMR has just been found dead: a stream waits for this one's answer.
    pub(super) fn hasten(&mut self, now: Instant) {
        self.watch.ask(now, Seen { packets: 0, answers: 0 });
    }

    /// Takes note of the data that came so far.
    pub(super) fn data_counted(&mut self, packets: u64) {
        self.data = packets;
    }

    /// Data has just come.
    pub(super) fn data_seen(&mut self, now: Instant) {
        self.data = self.data.wrapping_add(1);
        self.gateway.handle_input(now, gateway::Input::DataSeen);
    }

    /// Shakes hands again if data should come and does not; gives the VMR up if it does not answer that either, and
    /// there is `another`.
    pub(super) fn look(&mut self, now: Instant, wanted: bool, another: bool) -> Option<Effect> {
        self.watch.expect(now, wanted && self.state != State::Down);
        let counters = self.gateway.counters();
        let seen = Seen::by(&counters, self.data);
        let gone = self.watch.is_gone(now, seen, counters.probes, self.gateway.rtt());
        let finding =
            if gone { Finding::Unanswered } else { self.watch.look(now, seen, self.state == State::Up) };
        match finding {
            Finding::Unanswered if another => {
                self.turn(now, State::Down);
                Some(Effect::Down(gateway::DownReason::NoAnswer.label()))
            }
            Finding::Well | Finding::Unanswered => None,
            Finding::Silent => {
                tracing::info!(upstream = %self.named, "no data from upstream, asking again");
                self.gateway.handle_input(now, gateway::Input::LocalChanged);
                None
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.gateway.poll_timeout(), self.watch.next()].into_iter().flatten().min()
    }

    /// Our end of the tunnel as the VMR sees it, if it said so.
    pub(super) fn observed_address(&self) -> Option<SocketAddr> {
        self.gateway.observed_address()
    }

    /// The same, to the VMR of this name, with what proves it.
    pub(super) fn own_tunnel(&self, vmr: NodeId) -> Option<OwnTunnel> {
        let (nonce, response_mac) = self.gateway.response_mac()?;
        Some(OwnTunnel { vmr, tunnel: self.gateway.observed_address()?, nonce, response_mac })
    }

    pub(super) fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        self.gateway.counters().iter()
    }

    pub(super) fn poll(&mut self, now: Instant, out: &mut Vec<Effect>) {
        while let Some(output) = self.gateway.poll_output() {
            match output {
                gateway::Output::Transmit { remote, bytes } => out.push(Effect::Transmit { remote, bytes }),
                gateway::Output::Data { .. } => out.push(Effect::DataAtSocket),
                gateway::Output::Event(Event::Up { relay }) => {
                    self.turn(now, State::Up);
                    self.relay = Some(relay);
                    out.push(Effect::Fib(FibOp::SetTunnel(self.id, self.tunnel(relay))));
                    out.push(Effect::Up(relay));
                }
                gateway::Output::Event(Event::Down { reason }) => {
                    self.turn(now, State::Down);
                    out.push(Effect::Down(reason.label()));
                }
                gateway::Output::Event(Event::Refused { .. }) => {
                    self.turn(now, State::Down);
                    out.push(Effect::Down("refused"));
                }
            }
        }
    }

    /// The tunnel as the data plane knows it; copies never go up it, so it needs no next hop.
    pub(super) fn tunnel(&self, relay: SocketAddr) -> Tunnel {
        Tunnel {
            kind: TunnelKind::Amt,
            local: self.local,
            remote: relay,
            ecn: EcnMode::Compatibility,
            accepts_sources: true,
            next_hop: None,
        }
    }

    fn turn(&mut self, now: Instant, state: State) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }
}

//! The VMR that the agent is at: which one, and when another.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use vmcast_api::StandIn;
use vmcast_proto::{
    Machine as _,
    amt::gateway::{self, DownReason, Gateway},
};

use super::{Candidate, Core, Event, Output, Upstream, UpstreamState};
use crate::watch::{Finding, Seen, Watch};

/// Requests that go unanswered before the VMR counts as dead: 1 s, 2 s and 4 s.
const TRIES: u32 = 3;
/// A VMR that came back is noticed at least so soon; RFC 7450 §5.2.3.5.3 allows 120 s at most.
pub(super) const MAX_RETRANSMISSION: Duration = Duration::from_secs(30);
/// A VMR's death is noticed at least so soon even if nothing is wanted of it; also shorter than what translators forget in.
pub(super) const MAX_REQUEST_INTERVAL: Duration = Duration::from_secs(30);
/// A VMR that was found dead is not chosen again for so long, as long as there is another.
const HOLD_DOWN: Duration = Duration::from_secs(60);

impl Core {
    pub(super) fn on_candidates(&mut self, now: Instant, candidates: Vec<Candidate>) {
        self.candidates = candidates;
        self.know_better();
        self.change_over(now);
        // A stream that flows is not moved; it is only given a name if it had none.
        if self.state.0 == UpstreamState::Up {
            if self.unanswered.take().is_some_and(|before| Some(before) == self.seen()) {
                self.turn_to_another(now);
            }
            return;
        }
        let current = self.upstream.as_ref().map(|upstream| upstream.candidate.endpoint);
        let known = self.candidates.iter().any(|candidate| Some(candidate.endpoint) == current);
        if !known || self.state.0 == UpstreamState::Down {
            self.choose(now);
        }
    }

    /// What is said now of the present VMR holds. Of one that stood in for the admin's that is said only while it is to
    /// stay.
    fn know_better(&mut self) {
        if self.is_outdone() {
            return;
        }
        if let Some(upstream) = &mut self.upstream
            && let Some(known) =
                self.candidates.iter().find(|known| known.endpoint == upstream.candidate.endpoint)
        {
            upstream.candidate = known.clone();
        }
    }

    /// Whether the present VMR stood in for one of the admin's, which has named others since: the fallback gives way to
    /// the nearest, one of a list of before to any if it is no longer named.
    pub(in crate::agent) fn is_outdone(&self) -> bool {
        let Some(upstream) = &self.upstream else { return false };
        let Some(first) = self.candidates.first().filter(|first| first.stands_in.is_none()) else {
            return false;
        };
        let present = upstream.candidate.endpoint;
        match upstream.candidate.stands_in {
            None => false,
            Some(StandIn::Fallback) => first.endpoint != present,
            Some(StandIn::Kept | StandIn::Unknown) => {
                self.candidates.iter().all(|known| known.endpoint != present)
            }
        }
    }

    /// Attaches to the best VMR that was not found dead of late, if it is another than the present.
    pub(super) fn choose(&mut self, now: Instant) {
        self.dead.retain(|_, until| *until > now);
        let alive = self.candidates.iter().find(|candidate| !self.dead.contains_key(&candidate.endpoint));
        let Some(candidate) = alive.cloned() else {
            if self.upstream.is_none()
                && let Some(first) = self.candidates.first().cloned()
            {
                self.attach(now, first);
            }
            return;
        };
        if self.upstream.as_ref().is_some_and(|upstream| upstream.candidate.endpoint == candidate.endpoint) {
            return;
        }
        self.attach(now, candidate);
    }

    fn attach(&mut self, now: Instant, candidate: Candidate) {
        self.leave(now);
        (self.successor, self.unanswered) = (None, None);
        let gateway = self.open_gateway(now, &candidate);
        self.watch = Watch::new(now);
        self.state = (UpstreamState::Attaching, now);
        self.outputs.push_back(Output::Event(Event::Attaching(candidate.clone())));
        self.upstream = Some(Upstream { candidate, gateway, since: now });
    }

    /// A gateway to a relay, which asks for all that is wanted of a VMR.
    pub(in crate::agent) fn open_gateway(&mut self, now: Instant, named: &Candidate) -> Gateway {
        self.tunnels += 1;
        let mut seed = self.seed;
        for (byte, count) in seed.iter_mut().zip(self.tunnels.to_le_bytes()) {
            *byte ^= count;
        }
        let mut config = gateway::Config::new(named.endpoint, seed);
        let is_fallback = named.stands_in == Some(StandIn::Fallback);
        config.discover = self.discover.is_some_and(|only_fallback| is_fallback || !only_fallback);
        config.tries = TRIES;
        config.max_retransmission = MAX_RETRANSMISSION;
        config.max_request_interval = Some(MAX_REQUEST_INTERVAL);
        let mut gateway = Gateway::new(now, config);
        for (group, filter) in self.of_vmr() {
            gateway.handle_input(now, gateway::Input::SetMembership { group, filter });
        }
        gateway.handle_timeout(now);
        gateway
    }

    /// Goes on with a VMR that answers already and sends what is wanted; the one before is left.
    pub(in crate::agent) fn replace_upstream(
        &mut self,
        now: Instant,
        candidate: Candidate,
        gateway: Gateway,
    ) {
        let before = self.upstream.as_ref().map(|upstream| upstream.candidate.clone());
        self.leave(now);
        self.watch = Watch::new(now);
        self.state = (UpstreamState::Up, now);
        self.note_vmr(now, gateway.relay());
        self.upstream = Some(Upstream { candidate, gateway, since: now });
        self.outputs.extend(before.map(|before| Output::Event(Event::Left(before))));
    }

    /// A VMR is not to be chosen for a while.
    pub(in crate::agent) fn hold_down(&mut self, now: Instant, endpoint: SocketAddr) {
        self.dead.insert(endpoint, now + HOLD_DOWN);
    }

    /// Gives the present VMR up; what it must be told for that goes on.
    pub(super) fn leave(&mut self, now: Instant) {
        if let Some(mut upstream) = self.upstream.take() {
            upstream.gateway.handle_input(now, gateway::Input::Stop);
            self.leaving = Some(upstream.gateway);
        }
    }

    pub(super) fn on_gateway_event(&mut self, now: Instant, event: gateway::Event) {
        let Some(upstream) = &self.upstream else {
            return;
        };
        let candidate = upstream.candidate.clone();
        match event {
            gateway::Event::Up { relay } => {
                self.note_vmr(now, Some(relay));
                self.state = (UpstreamState::Up, now);
                self.dead.remove(&candidate.endpoint);
                self.outputs.push_back(Output::Event(Event::Up(candidate)));
            }
            gateway::Event::Down { reason } => {
                self.fail_over(now, candidate, reason);
            }
            // A refusal that lasts ends as a `Down`.
            gateway::Event::Refused { relay: _ } => {}
        }
    }

    fn fail_over(&mut self, now: Instant, dead: Candidate, reason: DownReason) {
        self.state = (UpstreamState::Down, now);
        self.note_vmr(now, None);
        self.hold_down(now, dead.endpoint);
        self.outputs.push_back(Output::Event(Event::Down(dead, reason)));
        if self.promote(now) {
            return;
        }
        self.choose(now);
        if self.state.0 == UpstreamState::Attaching {
            self.watch.ask(now, Seen { packets: 0, answers: 0 });
        }
    }

    /// Looks after the VMR in use.
    pub(super) fn look(&mut self, now: Instant) {
        let Some(upstream) = &mut self.upstream else {
            return;
        };
        let counters = upstream.gateway.counters();
        let seen = Seen::by(&counters, counters.data);
        if self.watch.is_gone(now, seen, counters.probes, upstream.gateway.rtt()) {
            return self.turn_to_another(now);
        }
        match self.watch.look(now, seen, self.state.0 == UpstreamState::Up) {
            Finding::Well => {}
            Finding::Silent => {
                upstream.shake_hands(now);
                let candidate = upstream.candidate.clone();
                self.outputs.push_back(Output::Event(Event::Silent(candidate)));
            }
            Finding::Unanswered => self.turn_to_another(now),
        }
    }

    /// Gives up a VMR that does not answer. Without another, the gateway goes on asking.
    fn turn_to_another(&mut self, now: Instant) {
        let Some(present) = self.upstream.as_ref().map(|upstream| upstream.candidate.clone()) else {
            return;
        };
        if self.another(present.endpoint).is_some() {
            self.fail_over(now, present, DownReason::NoAnswer);
        } else {
            self.unanswered = self.seen();
            self.outputs.push_back(Output::Event(Event::Unanswered(present)));
        }
    }

    /// What has been seen of the VMR so far.
    fn seen(&self) -> Option<Seen> {
        let counters = self.upstream.as_ref()?.gateway.counters();
        Some(Seen::by(&counters, counters.data))
    }

    /// The best VMR but for one, among those that were not found dead of late.
    pub(in crate::agent) fn another(&self, than: SocketAddr) -> Option<&Candidate> {
        let fits = |other: &&Candidate| {
            let goes = other.id.as_ref().is_some_and(|id| self.draining.contains(id));
            other.endpoint != than && !self.dead.contains_key(&other.endpoint) && !goes
        };
        self.candidates.iter().find(fits)
    }
}

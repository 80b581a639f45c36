//! Which relay a source is had from: the order of attempts, and what comes of them (RFC 8777 §3.1.2, §3.2).

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    config::Prefer,
    machine::Discovery,
    output::{Event, Output},
    source::{Place, Source, Why},
    timer::{ATTEMPT_DELAY, HOLD_DOWN, LIMIT_HOLD_DOWN, RETRY, Timer},
    tunnel::{Endpoint, Tunnel},
};
use crate::{Machine as _, amt::gateway::DownReason};

/// Where an attempt leads.
enum Next {
    /// The source can be had there at once.
    Settled(Place),
    /// A relay was connected to; others may follow.
    Tried,
    /// None is left.
    None { too_many: bool },
}

impl Discovery {
    /// Begins with a source.
    pub(super) fn begin(&mut self, now: Instant, address: IpAddr) {
        match self.config.prefer {
            Prefer::Records => {
                self.sources.insert(address, Source::new(Place::Nowhere));
                self.be_patient(now, address);
                self.ask_for(now, address);
            }
            Prefer::Default => {
                self.sources.insert(address, Source::new(Place::Default(Why::Preferred)));
                self.expect_traffic(now, address);
            }
        }
    }

    /// Nobody wants a source any more.
    pub(super) fn forget(&mut self, now: Instant, address: IpAddr) {
        let Some(mut source) = self.sources.remove(&address) else { return };
        for (slot, timer) in [
            (&mut source.patience_at, Timer::Patience(address)),
            (&mut source.attempt_at, Timer::Attempt(address)),
            (&mut source.refresh_at, Timer::Refresh(address)),
            (&mut source.retry_at, Timer::Retry(address)),
            (&mut source.silence_at, Timer::Silence(address)),
        ] {
            self.timers.set(slot, None, timer);
        }
        if let Place::Tunnel(number) = source.place {
            source.attempts.insert(number);
        }
        for number in source.attempts {
            self.release(now, number, address);
        }
        self.forget_questions(address);
    }

    fn be_patient(&mut self, now: Instant, address: IpAddr) {
        let Some(source) = self.sources.get_mut(&address) else { return };
        let until = now + self.config.patience;
        self.timers.set(&mut source.patience_at, Some(until), Timer::Patience(address));
    }

    /// A source has waited long enough: the default serves it meanwhile.
    pub(super) fn on_patience(&mut self, now: Instant, address: IpAddr) {
        let Some(source) = self.sources.get_mut(&address) else { return };
        source.patience_at = None;
        if source.place == Place::Nowhere {
            self.place(now, address, Place::Default(Why::Waiting));
        }
    }

    /// Goes on with the attempts for a source, if it is not served by a relay of its own and does not flow.
    pub(super) fn advance(&mut self, now: Instant, address: IpAddr) {
        let Some(source) = self.sources.get(&address) else { return };
        if matches!(source.place, Place::Tunnel(_)) || source.attempt_at.is_some() {
            return;
        }
        if source.flows(now) {
            self.retry_at(now, address);
            return;
        }
        match self.next(now, address) {
            Next::Settled(place) => self.settle(now, address, place),
            Next::Tried => {
                if let Some(source) = self.sources.get_mut(&address) {
                    let at = now + ATTEMPT_DELAY;
                    self.timers.set(&mut source.attempt_at, Some(at), Timer::Attempt(address));
                }
            }
            Next::None { too_many } => self.exhausted(now, address, too_many),
        }
    }

    /// Begins the next attempt for a source.
    fn next(&mut self, now: Instant, address: IpAddr) -> Next {
        let candidates = self.sources.get(&address).map(|source| source.records.candidates().to_vec());
        let mut too_many = false;
        for candidate in candidates.unwrap_or_default() {
            let endpoint = candidate.endpoint;
            let unusable = candidate.rank.is_none()
                || self.is_own(endpoint.remote.ip())
                || self.held.held(now, address, endpoint).is_some();
            if unusable {
                continue;
            }
            if self.default == Some(endpoint.remote) {
                return Next::Settled(Place::Default(Why::SameRelay));
            }
            let known = self.tunnel_to(endpoint);
            if let Some(number) = known
                && self.tunnels.get(&number).is_some_and(|tunnel| tunnel.relay.is_some())
            {
                return Next::Settled(Place::Tunnel(number));
            }
            let Some(number) = known.or_else(|| self.connect(now, endpoint)) else {
                self.counters.tunnel_limit += 1;
                too_many = true;
                continue;
            };
            let Some(source) = self.sources.get_mut(&address) else { break };
            if source.attempts.insert(number) {
                self.occupy(number, address);
                return Next::Tried;
            }
        }
        Next::None { too_many }
    }

    /// The time for the next attempt has come.
    pub(super) fn on_attempt(&mut self, now: Instant, address: IpAddr) {
        if let Some(source) = self.sources.get_mut(&address) {
            source.attempt_at = None;
            self.advance(now, address);
        }
    }

    /// There is no other relay to try at present.
    fn exhausted(&mut self, now: Instant, address: IpAddr, too_many: bool) {
        let Some(source) = self.sources.get(&address) else { return };
        // What is being tried or resolved may still do.
        if !source.attempts.is_empty() || source.questions > 0 || !source.asked {
            return;
        }
        let why = if too_many {
            Why::TunnelLimit
        } else if !source.records.candidates().is_empty() {
            Why::NoAnswer
        } else if source.records.refuses {
            Why::NoRelay
        } else if source.dns_failed {
            Why::DnsFailed
        } else {
            Why::NoRecord
        };
        let before = source.place;
        if before != Place::Default(why) {
            self.counters.left_to_default += 1;
        }
        self.settle(now, address, Place::Default(why));
        self.retry_at(now, address);
    }

    /// Looks at a source that is at the default again, once a relay of its own may be tried.
    fn retry_at(&mut self, now: Instant, address: IpAddr) {
        let Some(source) = self.sources.get(&address) else { return };
        let candidates = source.records.candidates().iter();
        let held = candidates.filter_map(|candidate| self.held.held(now, address, candidate.endpoint)).min();
        let at = held.map_or(now + RETRY, |until| until.min(now + HOLD_DOWN));
        let at = (!source.records.candidates().is_empty()).then_some(at);
        if let Some(source) = self.sources.get_mut(&address) {
            self.timers.set(&mut source.retry_at, at, Timer::Retry(address));
        }
    }

    pub(super) fn on_retry(&mut self, now: Instant, address: IpAddr) {
        if let Some(source) = self.sources.get_mut(&address) {
            source.retry_at = None;
            self.advance(now, address);
        }
    }

    /// The search of a source has ended, for now.
    fn settle(&mut self, now: Instant, address: IpAddr, place: Place) {
        let Some(source) = self.sources.get_mut(&address) else { return };
        self.timers.set(&mut source.patience_at, None, Timer::Patience(address));
        self.timers.set(&mut source.attempt_at, None, Timer::Attempt(address));
        self.timers.set(&mut source.retry_at, None, Timer::Retry(address));
        let attempts = std::mem::take(&mut source.attempts);
        if let Place::Tunnel(number) = place {
            self.occupy(number, address);
        }
        self.place(now, address, place);
        // Whoever was only tried is left alone from here on (RFC 8777 §3.2.3).
        for number in attempts.into_iter().filter(|number| place != Place::Tunnel(*number)) {
            self.release(now, number, address);
        }
    }

    /// Joins a source where it is to be from now on.
    fn place(&mut self, now: Instant, address: IpAddr, place: Place) {
        let Some(source) = self.sources.get_mut(&address) else { return };
        let before = std::mem::replace(&mut source.place, place);
        if before == place {
            return;
        }
        // Another reason for the default moves nothing.
        if !matches!((before, place), (Place::Default(_), Place::Default(_))) {
            source.seen = None;
            source.probed = false;
            self.tell_of(now, address);
        }
        if let Place::Tunnel(number) = before {
            self.release(now, number, address);
        }
        self.expect_traffic(now, address);
        self.event(Event::Turned { source: address, place });
    }

    /// Looks for another relay for a source whose present one is of no use.
    pub(super) fn restart(&mut self, now: Instant, address: IpAddr) {
        self.place(now, address, Place::Nowhere);
        self.be_patient(now, address);
        self.advance(now, address);
    }

    /// The tunnel to a relay, if there is one.
    pub(super) fn tunnel_to(&self, endpoint: Endpoint) -> Option<u32> {
        let is_it = |(_, tunnel): &(&u32, &Tunnel)| tunnel.endpoint == endpoint;
        self.tunnels.iter().find(is_it).map(|(number, _)| *number)
    }

    /// Begins a tunnel, if there is room for it.
    fn connect(&mut self, now: Instant, endpoint: Endpoint) -> Option<u32> {
        if self.tunnels.len() >= self.config.max_tunnels {
            let idle = self.tunnels.iter().filter(|(_, tunnel)| tunnel.users.is_empty());
            let oldest = idle.min_by_key(|(_, tunnel)| tunnel.idle_since).map(|(number, _)| *number);
            self.close(now, oldest?);
        }
        let number = self.tunnels_so_far;
        self.tunnels_so_far = self.tunnels_so_far.wrapping_add(1);
        self.counters.attempts += 1;
        let mut tunnel = Tunnel::new(now, number, endpoint, &self.config);
        self.outputs.push_back(Output::Open { tunnel: number, remote: endpoint.remote });
        tunnel.gateway.handle_timeout(now);
        self.tunnels.insert(number, tunnel);
        Some(number)
    }

    fn occupy(&mut self, number: u32, address: IpAddr) {
        if let Some(tunnel) = self.tunnels.get_mut(&number) {
            tunnel.users.insert(address);
            tunnel.idle_since = None;
            self.timers.set(&mut tunnel.linger_at, None, Timer::Linger(number));
        }
    }

    /// A source uses a tunnel no longer.
    fn release(&mut self, now: Instant, number: u32, address: IpAddr) {
        if let Some(tunnel) = self.tunnels.get_mut(&number)
            && tunnel.users.remove(&address)
            && tunnel.users.is_empty()
        {
            if tunnel.relay.is_none() {
                // An attempt that was overtaken is given up by silence (RFC 8777 §3.2.3).
                self.close(now, number);
                return;
            }
            tunnel.idle_since = Some(now);
            let until = now + self.config.linger;
            self.timers.set(&mut tunnel.linger_at, Some(until), Timer::Linger(number));
        }
    }

    pub(super) fn on_lingered(&mut self, now: Instant, number: u32) {
        if let Some(tunnel) = self.tunnels.get_mut(&number) {
            tunnel.linger_at = None;
            if tunnel.users.is_empty() {
                self.close(now, number);
            }
        }
    }

    /// A relay answers: the first that does so for a source is its own (RFC 8777 §3.2.3).
    pub(super) fn on_up(&mut self, now: Instant, number: u32, relay: SocketAddr) {
        if self.is_own(relay.ip()) {
            self.counters.unusable_relays += 1;
            self.drop_tunnel(now, number, "own-address", HOLD_DOWN);
            return;
        }
        let Some(tunnel) = self.tunnels.get_mut(&number) else { return };
        tunnel.relay = Some(relay);
        self.counters.connected += 1;
        let users: Vec<_> = tunnel.users.iter().copied().collect();
        self.event(Event::Up { tunnel: number, relay });
        for address in users {
            let Some(source) = self.sources.get(&address) else { continue };
            if source.place == Place::Tunnel(number) {
                continue;
            }
            // What flows at the default meanwhile stays there.
            let place = if source.flows(now) { source.place } else { Place::Tunnel(number) };
            self.settle(now, address, place);
            if place != Place::Tunnel(number) {
                self.retry_at(now, address);
            }
        }
    }

    /// A relay takes no new tunnels (RFC 8777 §3.3.5).
    pub(super) fn on_refused(&mut self, now: Instant, number: u32) {
        self.counters.refused += 1;
        self.drop_tunnel(now, number, DownReason::Refused.label(), LIMIT_HOLD_DOWN);
    }

    /// A relay does not answer.
    pub(super) fn on_down(&mut self, now: Instant, number: u32, reason: DownReason) {
        self.counters.unanswered += 1;
        self.drop_tunnel(now, number, reason.label(), HOLD_DOWN);
    }

    /// A tunnel cannot be used; the relay is not to blame.
    pub(super) fn give_up(&mut self, now: Instant, number: u32, reason: &'static str) {
        // Else it would be tried again at once.
        self.drop_tunnel(now, number, reason, ATTEMPT_DELAY * 4);
    }

    /// Gives up tunnels to addresses that have become ours.
    pub(super) fn drop_own_tunnels(&mut self, now: Instant) {
        let ours = |tunnel: &Tunnel| {
            let relay = tunnel.relay.unwrap_or(tunnel.endpoint.remote);
            self.is_own(relay.ip()) || self.is_own(tunnel.endpoint.remote.ip())
        };
        let own: Vec<_> =
            self.tunnels.iter().filter(|(_, tunnel)| ours(tunnel)).map(|(number, _)| *number).collect();
        for number in own {
            self.counters.unusable_relays += 1;
            self.drop_tunnel(now, number, "own-address", HOLD_DOWN);
        }
    }

    /// Leaves to the default what would come from the same relay, unless it flows: that would be moved for nothing.
    pub(super) fn follow_default(&mut self, now: Instant) {
        let Some(default) = self.default else { return };
        let same: Vec<_> = self
            .tunnels
            .values()
            .filter(|tunnel| tunnel.endpoint.remote == default)
            .flat_map(|tunnel| tunnel.users.iter().copied())
            .collect();
        for address in same {
            let in_use = |number| self.tunnels.get(&number).is_some_and(|of| of.endpoint.remote == default);
            let moves = self.sources.get(&address).is_some_and(|source| {
                matches!(source.place, Place::Tunnel(number) if in_use(number)) && !source.flows(now)
            });
            if moves {
                self.settle(now, address, Place::Default(Why::SameRelay));
            }
        }
    }

    fn drop_tunnel(&mut self, now: Instant, number: u32, reason: &'static str, hold: Duration) {
        let Some(tunnel) = self.tunnels.get(&number) else { return };
        let endpoint = tunnel.endpoint;
        let relay = tunnel.relay.unwrap_or(endpoint.remote);
        let users = tunnel.users.clone();
        self.held.hold(now, None, endpoint, now + hold);
        self.close(now, number);
        self.event(Event::Down { tunnel: number, relay, reason });
        for address in users {
            let Some(source) = self.sources.get_mut(&address) else { continue };
            if source.place == Place::Tunnel(number) {
                self.restart(now, address);
            } else if source.attempts.remove(&number) {
                // The next one need not wait for its turn (RFC 8305 §5).
                self.timers.set(&mut source.attempt_at, None, Timer::Attempt(address));
                self.advance(now, address);
            }
        }
    }
}

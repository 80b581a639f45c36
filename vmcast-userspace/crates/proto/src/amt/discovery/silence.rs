//! Sources of which nothing comes (RFC 8777 §3.3.4.1).

use std::{net::IpAddr, time::Instant};

use super::{
    config::Prefer,
    machine::Discovery,
    source::Place,
    timer::{HOLD_DOWN, NO_TRAFFIC, PROBE, SUSPICION, Timer},
};
use crate::{
    Machine as _,
    amt::gateway::{self, DownReason},
};

impl Discovery {
    /// A packet of a source came.
    pub(super) fn on_traffic(&mut self, now: Instant, address: IpAddr) {
        let Some(source) = self.sources.get_mut(&address) else { return };
        source.seen = Some(now);
        source.probed = false;
        source.rounds = 0;
        if let Place::Tunnel(number) = source.place
            && let Some(tunnel) = self.tunnels.get_mut(&number)
        {
            tunnel.gateway.handle_input(now, gateway::Input::DataSeen);
        }
    }

    /// Something should come of a source from now on.
    pub(super) fn expect_traffic(&mut self, now: Instant, address: IpAddr) {
        let prefers_default = self.config.prefer == Prefer::Default;
        let Some(source) = self.sources.get_mut(&address) else { return };
        let expected = match source.place {
            Place::Tunnel(_) => true,
            Place::Default(_) => prefers_default && !source.asked,
            Place::Nowhere => false,
        };
        let at = expected.then(|| now + source.no_traffic(&mut self.random));
        self.timers.set(&mut source.silence_at, at, Timer::Silence(address));
    }

    pub(super) fn on_silence(&mut self, now: Instant, address: IpAddr) {
        let Some(source) = self.sources.get_mut(&address) else { return };
        source.silence_at = None;
        let (longest, suspicion) = (NO_TRAFFIC.1, SUSPICION);
        let again = match (source.place, source.seen) {
            (Place::Nowhere, _) => return,
            (_, Some(seen)) if now < seen + suspicion => seen + suspicion,
            // It may pause; and the relay may be gone.
            (Place::Tunnel(number), Some(seen)) if !source.probed => {
                source.probed = true;
                self.probe(now, number);
                (seen + longest).max(now + suspicion)
            }
            (_, Some(seen)) if now < seen + longest => seen + longest,
            (Place::Tunnel(number), _) => {
                source.rounds = source.rounds.saturating_add(1);
                self.counters.no_traffic += 1;
                if let Some(endpoint) = self.tunnels.get(&number).map(|tunnel| tunnel.endpoint) {
                    self.held.hold(now, Some(address), endpoint, now + HOLD_DOWN);
                }
                self.restart(now, address);
                return;
            }
            (Place::Default(_), _) => {
                self.ask_for(now, address);
                return;
            }
        };
        if let Some(source) = self.sources.get_mut(&address) {
            self.timers.set(&mut source.silence_at, Some(again), Timer::Silence(address));
        }
    }

    /// Asks a relay whether it is there, unless that is being done.
    fn probe(&mut self, now: Instant, number: u32) {
        let Some(tunnel) = self.tunnels.get_mut(&number) else { return };
        if tunnel.probe_at.is_some() {
            return;
        }
        tunnel.answers_before = tunnel.answers();
        self.timers.set(&mut tunnel.probe_at, Some(now + PROBE), Timer::Probe(number));
        tunnel.shake_hands(now);
    }

    pub(super) fn on_probe(&mut self, now: Instant, number: u32) {
        let Some(tunnel) = self.tunnels.get_mut(&number) else { return };
        tunnel.probe_at = None;
        if tunnel.answers() == tunnel.answers_before {
            self.on_down(now, number, DownReason::NoAnswer);
        }
    }
}

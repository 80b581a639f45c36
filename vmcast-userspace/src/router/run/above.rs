//! The relays of single sources: their names and ports.

use std::time::{Duration, Instant};

use super::Router;
use crate::{
    clock,
    relays::{Event, HostRoutes, RelayEffect},
    router::relays::RelayInput,
    sockets::source_towards,
};

/// How long after a change of addresses it is looked often: a way comes a little after them.
const MOVING: Duration = Duration::from_secs(2);

impl Router {
    pub(super) fn on_relays(&mut self, event: &Event) {
        let input = match event {
            Event::Undelivered { tunnel, remote, quoted } => {
                RelayInput::Undelivered { tunnel: *tunnel, remote: *remote, quoted }
            }
            Event::Datagram { tunnel, remote, tos, bytes } => {
                RelayInput::Datagram { tunnel: *tunnel, remote: *remote, tos: *tos, bytes }
            }
            Event::Answer { query, resolved } => {
                RelayInput::Answer { query: *query, answer: resolved.answer(), routes: &HostRoutes }
            }
        };
        self.core.relay_input(clock::now(), input);
    }

    pub(super) fn carry_out_relay(&mut self, effect: RelayEffect) {
        match effect {
            RelayEffect::Query { query, question } => self.source_relays.ask(query, question),
            RelayEffect::Open { tunnel, remote } => {
                let opened = source_towards(remote)
                    .ok_or_else(|| std::io::ErrorKind::NetworkUnreachable.into())
                    .and_then(|local| self.source_relays.open(tunnel, local, remote));
                let input = match opened {
                    Ok(local) => RelayInput::Opened { tunnel, local },
                    Err(error) => {
                        tracing::warn!(relay = %remote, %error, "the relay of a source cannot be used");
                        RelayInput::Lost { tunnel }
                    }
                };
                self.core.relay_input(clock::now(), input);
            }
            RelayEffect::Close { tunnel } => self.source_relays.close(tunnel),
            RelayEffect::Send { tunnel, remote, bytes } => {
                if let Err(error) = self.source_relays.send(tunnel, remote, &bytes) {
                    tracing::debug!(%remote, %error, "datagram not sent");
                    self.unsent += 1;
                }
            }
            RelayEffect::Event(event) => crate::relays::log(&event),
        }
    }

    /// Addresses or ways have changed: the tunnels follow at once, or as soon as there is a way again.
    pub(super) fn hurry_relays(&mut self, now: Instant) {
        self.moving_until = Some(now + MOVING);
        self.move_relays();
    }

    /// Gives the tunnels other ports whose relays are reached from other addresses than before, if that was not long ago.
    pub(super) fn move_relays(&mut self) {
        self.moving_until = self.moving_until.filter(|until| clock::now() < *until);
        if self.moving_until.is_some() {
            self.follow_relays();
        }
    }

    /// The same whenever it was; then those are given up that no way leads to.
    pub(super) fn follow_relays(&mut self) {
        for (tunnel, local) in self.source_relays.strayed() {
            let input = match local.map(|local| self.source_relays.reopen(tunnel, local)) {
                Some(Ok(local)) => RelayInput::Opened { tunnel, local },
                None if self.moving_until.is_some() => continue,
                Some(Err(_)) | None => RelayInput::Lost { tunnel },
            };
            self.core.relay_input(clock::now(), input);
        }
    }
}

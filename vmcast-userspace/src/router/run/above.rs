//! The relays of single sources: their names and ports.

use super::Router;
use crate::{
    clock,
    relays::{Event, HostRoutes, RelayEffect},
    router::relays::RelayInput,
    sockets::source_towards,
};

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

    /// Gives tunnels up whose relay is reached from another address than before.
    pub(super) fn follow_relays(&mut self) {
        for tunnel in self.source_relays.strayed() {
            self.core.relay_input(clock::now(), RelayInput::Lost { tunnel });
        }
    }
}

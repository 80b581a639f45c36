//! The relays of single sources (RFC 8777), between what the host wants and the VMR that serves the rest.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use vmcast_proto::{
    Filter, Machine as _,
    amt::{
        Discovery,
        discovery::{self, Answer, Routes},
        gateway,
    },
};

use super::core::{Core, Output};
use crate::relays::RelayEffect;

/// What the host tells the discovery.
#[derive(Clone, Copy)]
pub(super) enum RelayInput<'a> {
    /// The DNS has answered.
    Answer { query: u64, answer: Answer<'a>, routes: &'a dyn Routes },
    /// A datagram came to a tunnel's port.
    Datagram { tunnel: u32, remote: SocketAddr, tos: u8, bytes: &'a [u8] },
    /// One that was sent from there was not delivered.
    Undelivered { tunnel: u32, remote: SocketAddr, quoted: &'a [u8] },
    /// A tunnel has no port.
    Lost { tunnel: u32 },
}

impl Core {
    /// Looks for a relay of its own for each source.
    pub(super) fn find_relays(&mut self, config: discovery::Config) {
        self.discovery = Some(Box::new(Discovery::new(config)));
    }

    /// The discovery, if there is one.
    pub(super) fn discovery(&self) -> Option<&Discovery> {
        self.discovery.as_deref()
    }

    /// Something of the discovery's came in.
    pub(super) fn relay_input(&mut self, now: Instant, input: RelayInput<'_>) {
        let input = match input {
            RelayInput::Answer { query, answer, routes } => {
                discovery::Input::Answer { query, answer, routes }
            }
            RelayInput::Datagram { tunnel, remote, tos, bytes } => {
                discovery::Input::Datagram { tunnel, remote, tos, bytes }
            }
            RelayInput::Undelivered { tunnel, remote, quoted } => {
                discovery::Input::Unreachable { tunnel, remote, quoted }
            }
            RelayInput::Lost { tunnel } => discovery::Input::Lost { tunnel },
        };
        self.discover_with(now, input);
        self.settle(now);
    }

    /// Hands an input to the discovery, if there is one.
    pub(super) fn discover_with(&mut self, now: Instant, input: discovery::Input<'_>) {
        if let Some(discovery) = &mut self.discovery {
            discovery.handle_input(now, input);
        }
    }

    /// Asks for a group: by the relays of its sources, or of the VMR alone.
    pub(super) fn want(&mut self, now: Instant, group: IpAddr, filter: &Filter) {
        if self.discovery.is_some() {
            self.discover_with(now, discovery::Input::SetMembership { group, filter });
        } else {
            self.ask_vmr(now, group, filter.clone());
        }
    }

    fn ask_vmr(&mut self, now: Instant, group: IpAddr, filter: Filter) {
        if let Some(successor) = &mut self.successor {
            let filter = filter.clone();
            successor.gateway.handle_input(now, gateway::Input::SetMembership { group, filter });
        }
        if let Some(upstream) = &mut self.upstream {
            upstream.gateway.handle_input(now, gateway::Input::SetMembership { group, filter });
        }
    }

    /// What the VMR is to be asked for.
    pub(super) fn of_vmr(&self) -> Vec<(IpAddr, Filter)> {
        match &self.discovery {
            Some(discovery) => {
                discovery.at_default().iter().map(|(group, filter)| (*group, filter.clone())).collect()
            }
            None => self.wanted().iter().map(|(group, wanted)| (*group, wanted.filter.clone())).collect(),
        }
    }

    /// Whether anything is.
    pub(super) fn expects_of_vmr(&self) -> bool {
        match &self.discovery {
            Some(discovery) => !discovery.at_default().is_empty(),
            None => !self.wanted().is_empty(),
        }
    }

    /// Carries on what the discovery says; whether it said anything.
    pub(super) fn drain_discovery(&mut self, now: Instant) -> bool {
        let Some(output) = self.discovery.as_mut().and_then(|discovery| discovery.poll_output()) else {
            return false;
        };
        let output = match output {
            discovery::Output::Query { query, question } => RelayEffect::Query { query, question },
            discovery::Output::Open { tunnel, remote } => RelayEffect::Open { tunnel, remote },
            discovery::Output::Close { tunnel } => RelayEffect::Close { tunnel },
            discovery::Output::Transmit { tunnel, remote, bytes } => {
                RelayEffect::Send { tunnel, remote, bytes }
            }
            discovery::Output::Event(event) => RelayEffect::Event(event),
            discovery::Output::Data { tunnel: _, packet } => {
                self.hand_over(now, packet);
                return true;
            }
            discovery::Output::Default { group, filter } => {
                self.ask_vmr(now, group, filter);
                return true;
            }
            // The gateways have looked whose packets they are.
            discovery::Output::Route { .. } => return true,
        };
        self.push(Output::Relay(output));
        true
    }

    /// The VMR's relay is known: a source that has the same one is not asked for elsewhere.
    pub(super) fn note_vmr(&mut self, now: Instant, relay: Option<SocketAddr>) {
        self.discover_with(now, discovery::Input::SetDefault(relay));
    }

    fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }
}

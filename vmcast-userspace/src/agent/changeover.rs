//! From a VMR that is taken out of service to another one: both are there until every stream comes by the new way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_proto::{
    Machine as _,
    amt::gateway::{self, Gateway},
    registry::NodeId,
};

use super::{
    core::{Candidate, Core, Event, Output, UpstreamState},
    host_packet,
    merge::Merge,
};

/// Once the new VMR answers, streams have so long to show that they come from it: those that pause now are not waited
/// for longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where nothing flows, so long is enough for the first packets to come by the new way.
const QUIET: Duration = Duration::from_millis(500);
/// Streams that are merged; of further ones packets may come twice or be lost when the old way ends.
const MAX_STREAMS: usize = 256;

/// The tunnel to the VMR in the place of the present one.
pub(super) struct Successor {
    pub(super) candidate: Candidate,
    pub(super) gateway: Gateway,
    /// Since when it answers.
    up: Option<Instant>,
    merges: BTreeMap<(IpAddr, IpAddr), Merge>,
}

impl Successor {
    /// When to see whether all streams have changed over.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let wait = if self.merges.is_empty() { QUIET } else { PATIENCE };
        [self.gateway.poll_timeout(), self.up.map(|up| up + wait)].into_iter().flatten().min()
    }

    /// Whether the former way is needed no more.
    fn is_done(&self, now: Instant) -> bool {
        self.up.is_some_and(|up| match self.merges.is_empty() {
            true => now >= up + QUIET,
            false => self.merges.values().all(Merge::is_done) || now >= up + PATIENCE,
        })
    }
}

impl Core {
    /// These VMRs are being taken out of service.
    pub(super) fn set_draining(&mut self, now: Instant, draining: BTreeSet<NodeId>) {
        self.draining = draining;
        self.change_over(now);
    }

    /// Whether the present VMR goes, or stood in for another that is there now, and nobody is in its place yet.
    pub(super) fn wants_successor(&self) -> bool {
        self.successor.is_none()
            && self.state().0 == UpstreamState::Up
            && (self.is_outdone() || self.is_draining())
    }

    fn is_draining(&self) -> bool {
        let id = self.upstream().and_then(|(candidate, _)| candidate.id.as_ref());
        id.is_some_and(|id| self.draining.contains(id))
    }

    /// Turns to another VMR beside the present one, if that goes.
    pub(super) fn change_over(&mut self, now: Instant) {
        if !self.wants_successor() {
            return;
        }
        let Some(present) = self.upstream().map(|(candidate, _)| candidate.endpoint) else { return };
        let Some(candidate) = self.another(present).cloned() else { return };
        let gateway = self.open_gateway(now, &candidate);
        self.outputs.push_back(Output::Event(Event::Attaching(candidate.clone())));
        self.successor = Some(Successor { candidate, gateway, up: None, merges: BTreeMap::new() });
    }

    /// Whether a datagram is the successor's.
    pub(super) fn is_of_successor(&self, remote: SocketAddr) -> bool {
        let present = self.upstream.as_ref().and_then(|upstream| upstream.gateway.relay());
        self.successor.as_ref().is_some_and(|successor| {
            let named = successor.candidate.endpoint == remote || successor.gateway.relay() == Some(remote);
            named && present != Some(remote)
        })
    }

    /// The present VMR, or the one in its place, has sent a packet; what the host is to get now.
    pub(super) fn merged(&mut self, packet: Vec<u8>, by_successor: bool) -> Vec<Vec<u8>> {
        let Some(successor) = &mut self.successor else { return vec![packet] };
        let Some(stream) = host_packet::stream(&packet) else { return vec![packet] };
        let room = successor.merges.len() < MAX_STREAMS;
        match successor.merges.get_mut(&stream) {
            Some(merge) if by_successor => merge.by_new(packet),
            Some(merge) => merge.by_left(packet),
            None if room => {
                let merge = successor.merges.entry(stream).or_default();
                if by_successor { merge.by_new(packet) } else { merge.by_left(packet) }
            }
            None if by_successor => Vec::new(),
            None => vec![packet],
        }
    }

    pub(super) fn on_successor_event(&mut self, now: Instant, event: gateway::Event) {
        let Some(successor) = &mut self.successor else { return };
        match event {
            gateway::Event::Up { relay: _ } => {
                successor.up = Some(now);
                let candidate = successor.candidate.clone();
                self.outputs.push_back(Output::Event(Event::Up(candidate)));
            }
            gateway::Event::Down { reason } => {
                let candidate = successor.candidate.clone();
                self.successor = None;
                self.hold_down(now, candidate.endpoint);
                self.outputs.push_back(Output::Event(Event::Down(candidate, reason)));
                self.change_over(now);
            }
            gateway::Event::Refused { relay: _ } => {}
        }
    }

    /// Leaves the VMR that goes, once every stream comes by the new way; whether it did.
    pub(super) fn finish_change_over(&mut self, now: Instant) -> bool {
        self.successor.as_ref().is_some_and(|successor| successor.is_done(now)) && self.promote(now)
    }

    /// Puts the successor in the place of the present VMR; whether it answers already.
    pub(super) fn promote(&mut self, now: Instant) -> bool {
        let Some(mut successor) = self.successor.take_if(|successor| successor.up.is_some()) else {
            return false;
        };
        let rest: Vec<_> = successor.merges.values_mut().flat_map(Merge::end).collect();
        for packet in rest {
            self.on_data(now, packet);
        }
        self.replace_upstream(now, successor.candidate, successor.gateway);
        true
    }
}

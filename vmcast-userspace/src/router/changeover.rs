//! From an upstream that serves to another one: both are there until every stream comes from the other.
//!
//! The streams pass by in the data plane, so they are not merged packet by packet, as an agent does it: each changes
//! over at a moment at which both upstreams have sent the same packets of it (see [`super::overlap`]).

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use vmcast_common::{
    fib::{FibOp, Input, Rpf, Stream, TunnelId},
    maps::StreamCounters,
    verdict::DropReason,
};
use vmcast_proto::{Machine as _, amt::discovery, amt::gateway, mrib};

use super::{
    core::{Core, Effect},
    overlap::{Counts, Overlap},
    upstream::{self, State, Upstream},
};

/// Streams have so long since the last one that changed over: those that pause now are not waited for longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where nothing flows, so long is enough for the first packets to come by the new way.
const QUIET: Duration = Duration::from_millis(500);
/// Streams whose counters are read at a time.
const WATCHED: usize = 64;
/// One that does not change over in so long gives way to others.
const TURN: Duration = Duration::from_millis(250);

/// The upstream in the place of the present one.
pub(super) struct Successor {
    pub(super) upstream: Upstream,
    /// Since when it answers.
    up: Option<Instant>,
    /// When it did, or a stream last changed over.
    progress: Instant,
    /// Streams that come from the present upstream, and are not looked at now.
    pending: VecDeque<Stream>,
    /// Those that are, and since when.
    watched: Vec<(Stream, Instant, Overlap)>,
    moved: BTreeSet<Stream>,
    /// Whether any stream came from the present upstream.
    streams: bool,
}

/// Streams that changed over to another upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moves {
    /// Those during whose change no packet came.
    pub(super) between_packets: u64,
    /// Those of which one came meanwhile: it may be missing, or there twice.
    pub(super) amid_packets: u64,
    /// Copies that came meanwhile, by either way: no more packets are missing, or there twice.
    pub(super) copies_amid: u64,
    /// Those that did not flow by both ways.
    pub(super) unwatched: u64,
}

impl Successor {
    fn poll_timeout(&self) -> Option<Instant> {
        let done = self.up.map(|up| if self.streams { self.progress + PATIENCE } else { up + QUIET });
        [self.upstream.poll_timeout(), done].into_iter().flatten().min()
    }

    fn is_done(&self, now: Instant) -> bool {
        self.up.is_some_and(|up| match self.streams {
            true => {
                let all_moved = self.pending.is_empty() && self.watched.is_empty();
                all_moved || now >= self.progress + PATIENCE
            }
            false => now >= up + QUIET,
        })
    }
}

impl Core {
    /// Turns to another upstream beside the present one, which is left once every stream comes from the other.
    pub(super) fn set_successor(&mut self, now: Instant, local: SocketAddr, named: SocketAddr) {
        self.drop_successor(now);
        let upstream = self.start_upstream(now, local, named);
        self.successor = Some(Box::new(Successor {
            upstream,
            up: None,
            progress: now,
            pending: VecDeque::new(),
            watched: Vec::new(),
            moved: BTreeSet::new(),
            streams: false,
        }));
        self.settle(now);
    }

    /// Stays with the present upstream.
    pub(super) fn drop_successor(&mut self, now: Instant) {
        let Some(mut successor) = self.successor.take() else { return };
        self.move_back(now, &successor.moved, successor.upstream.id);
        successor.upstream.stop(now);
        self.drain_successor(now, &mut successor);
        self.effects.push_back(Effect::Fib(FibOp::RemoveTunnel(successor.upstream.id)));
        self.effects.push_back(Effect::Fib(FibOp::RemoveEndpoint(successor.upstream.local)));
    }

    /// Whether the present upstream serves, so that another one is turned to beside it.
    pub(super) fn has_serving_upstream(&self) -> bool {
        self.upstream.as_ref().is_some_and(|upstream| upstream.state == State::Up)
    }

    /// The upstream, and the one that is turned to.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.upstream.as_deref().into_iter().chain(self.successor.iter().map(|successor| &successor.upstream))
    }

    /// Something came to the gateway's socket at this end of ours.
    pub(super) fn gateway_heard_at(&mut self, now: Instant, local: SocketAddr, input: gateway::Input<'_>) {
        match &mut self.successor {
            Some(successor) if successor.upstream.local == local => {
                successor.upstream.heard(now, input);
                self.settle(now);
            }
            Some(_) | None => self.gateway_heard(now, input),
        }
    }

    /// The streams whose counters are to be read now.
    pub(super) fn overlapping(&mut self, now: Instant) -> Vec<Stream> {
        let Some(successor) = &mut self.successor else { return Vec::new() };
        let Successor { pending, watched, .. } = &mut **successor;
        watched.retain(|(stream, since, _)| {
            let stays = now.saturating_duration_since(*since) < TURN || pending.is_empty();
            if !stays {
                pending.push_back(*stream);
            }
            stays
        });
        let room = pending.len().min(WATCHED.saturating_sub(watched.len()));
        watched.extend(pending.drain(..room).map(|stream| (stream, now, Overlap::default())));
        watched.iter().map(|(stream, ..)| *stream).collect()
    }

    /// The counters of one were read, `None` if it is gone. Whether it changes over, which the effects then say.
    pub(super) fn overlap(
        &mut self,
        now: Instant,
        stream: Stream,
        counters: Option<&StreamCounters>,
    ) -> bool {
        let Some(successor) = &mut self.successor else { return false };
        let Some(at) = successor.watched.iter().position(|(of, ..)| *of == stream) else { return false };
        let is_time = counters.is_none_or(|counters| successor.watched[at].2.is_the_time(counts(counters)));
        if !is_time {
            return false;
        }
        successor.watched.swap_remove(at);
        successor.progress = now;
        if counters.is_none() || !self.comes_from_upstream(stream) {
            return false;
        }
        self.move_over(now, stream);
        true
    }

    /// A stream has changed over, and these are its counters before and after.
    pub(super) fn note_move(&mut self, [before, after]: [StreamCounters; 2]) {
        let came = |counters: &StreamCounters| {
            let Counts { taken, refused } = counts(counters);
            taken + refused
        };
        let copies = came(&after).saturating_sub(came(&before));
        *(if copies > 0 { &mut self.moves.amid_packets } else { &mut self.moves.between_packets }) += 1;
        self.moves.copies_amid += copies;
    }

    fn comes_from_upstream(&self, stream: Stream) -> bool {
        let Some(upstream) = &self.upstream else { return false };
        let from = Rpf::Exact(Input::Tunnel(upstream.id));
        self.mrib.streams(stream.group).any(|info| info.stream == stream && info.rpf == from)
    }

    fn move_over(&mut self, now: Instant, stream: Stream) {
        let Some(successor) = &mut self.successor else { return };
        successor.moved.insert(stream);
        let tunnel = Some(successor.upstream.id);
        self.mrib.handle_input(now, mrib::Input::SourceTunnel { stream, tunnel });
        self.settle(now);
    }

    /// Lets streams that came by this upstream's tunnel come as routes say; those that have another relay meanwhile
    /// stay there.
    fn move_back(&mut self, now: Instant, moved: &BTreeSet<Stream>, from: TunnelId) {
        let from = Rpf::Exact(Input::Tunnel(from));
        for &stream in moved {
            if self.mrib.streams(stream.group).all(|info| info.stream != stream || info.rpf == from) {
                self.mrib.handle_input(now, mrib::Input::SourceTunnel { stream, tunnel: None });
            }
        }
    }

    /// What the successor says.
    pub(super) fn drain_successor(&mut self, now: Instant, successor: &mut Successor) {
        let mut effects = Vec::new();
        successor.upstream.poll(now, &mut effects);
        let (local, named) = (successor.upstream.local, successor.upstream.named);
        for effect in effects {
            match effect {
                upstream::Effect::Transmit { remote, bytes } => {
                    self.effects.push_back(Effect::SendGateway { local, remote, bytes });
                }
                upstream::Effect::Fib(op) => self.effects.push_back(Effect::Fib(op)),
                upstream::Effect::Up(relay) => {
                    self.effects.push_back(Effect::UpstreamUp(relay));
                    if successor.up.is_none() {
                        successor.up = Some(now);
                        successor.progress = now;
                        successor.pending = self.streams_of_upstream();
                        successor.streams = !successor.pending.is_empty();
                    }
                }
                upstream::Effect::Down(reason) => {
                    let moved = std::mem::take(&mut successor.moved);
                    successor.up = None;
                    successor.pending.clear();
                    successor.watched.clear();
                    self.move_back(now, &moved, successor.upstream.id);
                    self.effects.push_back(Effect::UpstreamDown { named, reason });
                }
                upstream::Effect::DataAtSocket => self.data_at_socket += 1,
            }
        }
    }

    fn streams_of_upstream(&self) -> VecDeque<Stream> {
        let Some(upstream) = &self.upstream else { return VecDeque::new() };
        let from = Rpf::Exact(Input::Tunnel(upstream.id));
        let streams = self.mrib.groups().flat_map(|info| self.mrib.streams(info.group));
        streams.filter(|info| info.rpf == from).map(|info| info.stream).collect()
    }

    /// Leaves the present upstream, if every stream comes from the other one, or it does not serve any more.
    pub(super) fn finish_change_over(&mut self, now: Instant) {
        let serves = self.has_serving_upstream();
        let is_done = |successor: &Successor| successor.is_done(now) || successor.up.is_some() && !serves;
        let Some(successor) = self.successor.take_if(|successor| is_done(successor)) else { return };
        let Successor { upstream, pending, watched, moved, .. } = *successor;
        self.moves.unwatched += (pending.len() + watched.len()) as u64;
        let id = upstream.id;
        self.discover_with(now, discovery::Input::SetDefault(upstream.relay));
        let old = self.upstream.replace(Box::new(upstream));
        self.mrib.handle_input(now, mrib::Input::SetUpstream(Some(id)));
        self.settle(now);
        self.move_back(now, &moved, id);
        self.settle(now);
        if let Some(mut old) = old {
            old.stop(now);
            self.drain_upstream(now, &mut old);
            self.effects.push_back(Effect::Fib(FibOp::RemoveTunnel(old.id)));
            self.effects.push_back(Effect::Fib(FibOp::RemoveEndpoint(old.local)));
        }
        self.effects.push_back(Effect::ChangedOver);
    }

    /// What the successor waits for.
    pub(super) fn successor_timeout(&self) -> Option<Instant> {
        self.successor.as_ref().and_then(|successor| successor.poll_timeout())
    }

    /// Whether the successor answers, so that streams come by both ways.
    pub(super) fn has_overlaps(&self) -> bool {
        self.successor.as_ref().is_some_and(|successor| successor.up.is_some())
    }

    /// Whether some streams come from the successor already: silence of the present upstream says nothing then.
    pub(super) fn has_moved_streams(&self) -> bool {
        self.successor.as_ref().is_some_and(|successor| !successor.moved.is_empty())
    }
}

/// What both ways have sent: the data plane refuses what comes by the new one.
fn counts(counters: &StreamCounters) -> Counts {
    let refused = counters.drops().find(|(reason, _)| *reason == DropReason::WrongInput);
    Counts { taken: counters.packets, refused: refused.map_or(0, |(_, packets)| packets) }
}

#[cfg(test)]
#[path = "changeover_tests.rs"]
mod tests;

//! A whole data plane without I/O: operations and frames in, frames out.

use vmcast_common::{
    fib::{FibOp, IfIndex, Output, Stream},
    forward::{Replicate, decide},
    maps::{DroppedCopies, StreamCounters},
    rewrite::{self, Ends, forward_header, readdress},
    verdict::{DropReason, PuntReason, Refusal, Verdict},
};

use super::{Limits, arrived::Arrived, punts::Punts, tables::Tables};
use crate::{
    ApplyError, Counters, Fib, Punt,
    copy_buffer::{Copied, CopyBuffer},
    oversize::{Fragmenter, PacketTooBig},
    ways::{Way, Ways as _},
};

/// What becomes of a received frame, beside the copies made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The host gets it, untouched.
    Pass,
    /// It ends here.
    Consumed,
}

/// A data plane as a pure function of what it was told and given.
///
/// It runs the decision and the rewrite that the kernel program runs. Copies come out in the order
/// in which the members joined. Native multicast never leaves by the interface it came in on; such
/// a member's copy is counted as [`DropReason::SameInterface`].
///
/// A stream with [`vmcast_common::fib::Members::OfAnySource`] uses the member table of its group's
/// (*,G) as it is at each packet, so it follows every change; while there is no (*,G) it has no
/// member. Its own are kept, out of force, until it is set to them.
///
/// Removing an interface or a tunnel removes it as a member of every stream. Of two tunnels between
/// the same addresses, arriving packets belong to the one that was set last.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    tables: Tables,
    punts: Punts,
    drops: [u64; DropReason::ALL.len()],
    buffer: CopyBuffer,
    fragmenter: Fragmenter,
    /// Packets that the host put together.
    reassembled: u64,
}

impl Core {
    /// An empty plane with these capacities.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            tables: Tables::default(),
            punts: Punts::new(&limits),
            drops: [0; DropReason::ALL.len()],
            buffer: CopyBuffer::default(),
            fragmenter: Fragmenter::new(limits.oversize),
            reassembled: 0,
        }
    }

    /// Applies changes in order; each is idempotent.
    ///
    /// # Errors
    /// The first operation that was refused; those before it stand, it itself changed nothing.
    pub fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError> {
        ops.iter().try_for_each(|op| self.tables.apply(op, &self.limits))
    }

    /// Forwards one frame received on the device `ingress` at `now_ns`, nanoseconds of a clock that never goes
    /// back. Each copy is handed to `out` with the device it leaves by and the kernel's priority with which it waits
    /// there, 0 if its stream has none.
    pub fn process(
        &mut self,
        ingress: IfIndex,
        frame: &[u8],
        now_ns: u64,
        out: &mut impl FnMut(IfIndex, Copied<'_>, u32),
    ) -> Disposition {
        if self.tables.has_device(ingress) {
            self.judge(ingress, frame, now_ns, out)
        } else {
            Disposition::Pass
        }
    }

    /// Forwards a frame with a packet that came in fragments and was put together by the host, out of a tunnel or in on
    /// the interface `on`; the same otherwise.
    pub(super) fn process_reassembled(
        &mut self,
        on: Option<IfIndex>,
        frame: &[u8],
        now_ns: u64,
        out: &mut impl FnMut(IfIndex, Copied<'_>, u32),
    ) {
        // What comes whole on an interface that is none of ours is not taken in either.
        let on = match on.map(|on| self.tables.interface(on)) {
            Some(None) => return,
            on => on.flatten(),
        };
        self.reassembled += 1;
        let verdict = decide(frame, 0, &Arrived { tables: &self.tables, on });
        self.carry_out(verdict, frame, now_ns, out);
    }

    fn judge(
        &mut self,
        ingress: IfIndex,
        frame: &[u8],
        now_ns: u64,
        out: &mut impl FnMut(IfIndex, Copied<'_>, u32),
    ) -> Disposition {
        let verdict = decide(frame, ingress.0, &self.tables);
        self.carry_out(verdict, frame, now_ns, out)
    }

    fn carry_out(
        &mut self,
        verdict: Verdict,
        frame: &[u8],
        now_ns: u64,
        out: &mut impl FnMut(IfIndex, Copied<'_>, u32),
    ) -> Disposition {
        match verdict {
            Verdict::Pass => Disposition::Pass,
            Verdict::PassAndPunt(reason, input, stream) => {
                self.punts.offer(reason, input, stream, now_ns);
                Disposition::Pass
            }
            Verdict::Refuse(refusal) => self.refuse(&refusal, now_ns),
            Verdict::Replicate(packet) => {
                self.replicate(frame, &packet, now_ns, out);
                if packet.shared { Disposition::Pass } else { Disposition::Consumed }
            }
        }
    }

    /// Whether frames of a device are looked at.
    pub(super) fn has_device(&self, device: IfIndex) -> bool {
        self.tables.has_device(device)
    }

    /// Takes the next packet that the controller should hear of.
    pub fn poll_punt(&mut self) -> Option<Punt> {
        self.punts.poll()
    }

    /// Takes the next message to a source whose packets are too large.
    pub fn poll_too_big(&mut self) -> Option<PacketTooBig> {
        self.fragmenter.poll_too_big()
    }

    /// What is in force.
    #[must_use]
    pub fn dump(&self) -> Fib {
        self.tables.dump()
    }

    /// Every counter since the plane was made; a stream's since it was set.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            drops: DropReason::ALL.into_iter().map(|reason| (reason, self.drops[reason as usize])).collect(),
            fragmented: self.fragmenter.fragmented(),
            reassembled: self.reassembled,
            waits_for_tables: 0,
            streams: self.tables.stats(),
        }
    }

    /// The counters of one stream since it was set, `None` if it is not.
    #[must_use]
    pub fn stream_counters(&self, stream: Stream) -> Option<StreamCounters> {
        self.tables.state(self.tables.number(stream)?).map(|state| state.counters)
    }

    /// What members of a stream, or one of them, have missed since each became one.
    #[must_use]
    pub fn dropped_copies(&self, stream: Stream, member: Option<Output>) -> Vec<(Output, DroppedCopies)> {
        let state = self.tables.number(stream).and_then(|number| self.tables.state(number));
        let Some(state) = state else {
            return Vec::new();
        };
        match member {
            Some(member) => {
                state.dropped.get(&member).map(|dropped| (member, *dropped)).into_iter().collect()
            }
            None => state.dropped.iter().map(|(output, dropped)| (*output, *dropped)).collect(),
        }
    }

    /// Counts what was lost before it came here or after it left.
    pub(super) fn count_lost(&mut self, reason: DropReason, frames: u64) {
        self.drops[reason as usize] += frames;
    }

    fn refuse(&mut self, refusal: &Refusal, now_ns: u64) -> Disposition {
        self.drops[refusal.reason as usize] += 1;
        if let Some(state) = self.tables.state_mut(refusal.stats) {
            state.counters.drop(refusal.reason);
        }
        if refusal.reason == DropReason::WrongInput {
            self.punts.offer(PuntReason::WrongInput, refusal.input, refusal.stream, now_ns);
        }
        if refusal.native { Disposition::Pass } else { Disposition::Consumed }
    }

    fn replicate(
        &mut self,
        frame: &[u8],
        packet: &Replicate,
        now_ns: u64,
        out: &mut impl FnMut(IfIndex, Copied<'_>, u32),
    ) {
        if let Some(state) = self.tables.state_mut(packet.stats) {
            state.counters.packets += 1;
            state.counters.bytes += packet.ip_len as u64;
            state.counters.last_ns = now_ns;
        }
        if packet.new_source {
            self.punts.offer(PuntReason::NewSource, packet.input, packet.stream, now_ns);
        }
        let bytes = &frame[packet.ip_offset..packet.ip_offset + packet.ip_len];
        let bytes = self.buffer.load(bytes);
        // The decision has read the whole header, and the ports that are changed.
        let _ = forward_header(bytes, packet, 0);
        if let Some(ports) = packet.new_ports {
            let _ = readdress(bytes, 0, &Ends::of_input(&packet.stream, packet.is_ipv6, ports));
        }
        let pcp = packet.marks.pcp();
        let priority =
            self.tables.state(packet.stats).and_then(|state| state.priority.skb_priority).unwrap_or(0);
        let Self { tables, buffer, fragmenter, drops, .. } = self;
        let mut missed = Vec::new();
        for (output, way) in tables.ways_of(packet.table) {
            let made = way.as_ref().map_err(|reason| *reason).and_then(|Way { egress, member, hop }| {
                match rewrite::copy(buffer.begin(), member, hop, packet.input, pcp, false) {
                    Ok(()) => out(*egress, buffer.copied(), priority),
                    Err(DropReason::Oversize) => {
                        let mut each = |fragment: &[u8]| out(*egress, Copied::alone(fragment), priority);
                        fragmenter.copy(
                            buffer.packet(),
                            member,
                            hop,
                            (packet.input, pcp),
                            now_ns,
                            &mut each,
                        )?;
                    }
                    Err(reason) => return Err(reason),
                }
                Ok(())
            });
            if let Err(reason) = made {
                drops[reason as usize] += 1;
                if reason.is_loss_of_member() {
                    missed.push((*output, reason));
                }
            }
        }
        fragmenter.end(buffer.packet(), now_ns);
        if let Some(state) = tables.state_mut(packet.table) {
            for (output, reason) in missed {
                state.dropped.entry(output).or_default().count(packet.ip_len as u64);
                state.losses.count(reason, 1);
            }
        }
    }
}

impl Default for Core {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

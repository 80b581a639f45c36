//! A case: operations, frames, and what must come of them.

use std::collections::BTreeMap;

use vmcast_common::{
    fib::{FibOp, IfIndex, Input, Output, Stream},
    maps::{DroppedCopies, StreamCounters},
    verdict::{DropReason, PuntReason},
};

use super::plane::Observed;
use crate::{ApplyError, Fib, PacketTooBig, Punt, software::Disposition};

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows, as a sentence.
    pub name: String,
    /// Its steps, on a plane that is empty at first.
    pub steps: Vec<Step>,
}

/// One step of a case.
#[derive(Clone, Debug)]
pub enum Step {
    /// Operations that must succeed.
    Apply(Vec<FibOp>),
    /// An operation that must be refused and change nothing.
    Refuse(FibOp, ErrorKind),
    /// What must be in force now.
    InForce(Box<Fib>),
    /// What members of a stream have missed in all: packets, and bytes of them.
    Missed(Stream, Vec<(Output, DroppedCopies)>),
    /// A received frame.
    Inject {
        /// Where it is received.
        ingress: IfIndex,
        /// Its bytes, link-layer header included.
        frame: Vec<u8>,
        /// What must come of it, and nothing else.
        expect: Expect,
    },
}

/// The kinds of [`ApplyError`] that a caller provokes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// [`ApplyError::Unknown`].
    Unknown,
    /// [`ApplyError::Full`].
    Full,
    /// [`ApplyError::Unsupported`].
    Unsupported,
}

impl ErrorKind {
    /// The kind of an error, `None` if the kernel is to blame.
    #[must_use]
    pub const fn of(error: &ApplyError) -> Option<Self> {
        match error {
            ApplyError::Unknown { .. } => Some(Self::Unknown),
            ApplyError::Full { .. } => Some(Self::Full),
            ApplyError::Unsupported { .. } => Some(Self::Unsupported),
            ApplyError::Kernel { .. } => None,
        }
    }
}

/// All that must come of one frame.
#[derive(Clone, Debug)]
pub struct Expect {
    /// Disposition and frames.
    pub observed: Observed,
    /// By how much the drop counters rise; the others stay.
    pub drops: BTreeMap<DropReason, u64>,
    /// By how much the streams' counters rise; the others stay. When the last packet came is compared with
    /// the clock, by [`super::run`].
    pub streams: BTreeMap<Stream, StreamCounters>,
    /// What the controller hears.
    pub punts: Vec<Punt>,
    /// Copies that leave in fragments.
    pub fragmented: u64,
    /// What sources are told of the size of their packets.
    pub too_big: Vec<PacketTooBig>,
}

impl Expect {
    /// The host gets the frame and nothing else happens.
    #[must_use]
    pub fn pass() -> Self {
        Self::disposition(Disposition::Pass)
    }

    /// The frame ends here and nothing else happens.
    #[must_use]
    pub fn consumed() -> Self {
        Self::disposition(Disposition::Consumed)
    }

    fn disposition(disposition: Disposition) -> Self {
        Self {
            observed: Observed { disposition, frames: Vec::new() },
            drops: BTreeMap::new(),
            streams: BTreeMap::new(),
            punts: Vec::new(),
            fragmented: 0,
            too_big: Vec::new(),
        }
    }

    /// And this frame leaves.
    #[must_use]
    pub fn frame(mut self, (egress, frame): (IfIndex, Vec<u8>)) -> Self {
        self.observed.frames.push((egress, frame));
        self
    }

    /// And these frames leave.
    #[must_use]
    pub fn frames(mut self, frames: impl IntoIterator<Item = (IfIndex, Vec<u8>)>) -> Self {
        self.observed.frames.extend(frames);
        self
    }

    /// And one copy leaves in these fragments.
    #[must_use]
    pub fn fragments(mut self, frames: impl IntoIterator<Item = (IfIndex, Vec<u8>)>) -> Self {
        self.fragmented += 1;
        self.frames(frames)
    }

    /// And a source is told.
    #[must_use]
    pub fn too_big(mut self, message: PacketTooBig) -> Self {
        self.too_big.push(message);
        self
    }

    /// And one packet or copy is counted as dropped.
    #[must_use]
    pub fn drop(mut self, reason: DropReason) -> Self {
        *self.drops.entry(reason).or_default() += 1;
        self
    }

    /// And a stream counts one replicated packet of `bytes`.
    #[must_use]
    pub fn replicated(mut self, stream: Stream, bytes: usize) -> Self {
        let counters = self.streams.entry(stream).or_default();
        counters.packets += 1;
        counters.bytes += bytes as u64;
        self
    }

    /// And a stream counts one packet from a wrong input.
    #[must_use]
    pub fn wrong_input(self, stream: Stream) -> Self {
        self.dropped(stream, DropReason::WrongInput)
    }

    /// And a stream counts one dropped packet, for this reason.
    #[must_use]
    pub fn dropped(mut self, stream: Stream, reason: DropReason) -> Self {
        self.streams.entry(stream).or_default().drop(reason);
        self.drop(reason)
    }

    /// And the controller is told.
    #[must_use]
    pub fn punt(mut self, reason: PuntReason, input: Input, stream: Stream) -> Self {
        self.punts.push(Punt { reason, input, stream });
        self
    }
}

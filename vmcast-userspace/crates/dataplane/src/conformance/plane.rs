//! How a plane is put under test.

use std::collections::BTreeMap;

use vmcast_common::{
    fib::{FibOp, IfIndex, Output, Stream},
    maps::DroppedCopies,
};

use crate::{ApplyError, Counters, Fib, PacketTooBig, Punt, software::Disposition};

/// What a plane did with one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Whether the host got it.
    pub disposition: Disposition,
    /// Every frame that left.
    pub frames: Vec<(IfIndex, Vec<u8>)>,
}

impl Observed {
    /// The frames by device, sorted: the order between the copies of one packet is nobody's promise.
    #[must_use]
    pub fn by_device(&self) -> BTreeMap<IfIndex, Vec<&[u8]>> {
        let mut devices = BTreeMap::<_, Vec<_>>::new();
        for (ifindex, frame) in &self.frames {
            devices.entry(*ifindex).or_default().push(frame.as_slice());
        }
        for frames in devices.values_mut() {
            frames.sort_unstable();
        }
        devices
    }
}

/// A plane under test, empty when a case starts.
pub trait PlaneUnderTest {
    /// As [`crate::Dataplane::apply`].
    ///
    /// # Errors
    /// As there.
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError>;

    /// Lets the plane receive one frame of at least 14 bytes on a device, and waits for all that it
    /// does. Every device is watched, so that a frame nobody should get is seen too.
    fn inject(&mut self, ingress: IfIndex, frame: &[u8]) -> Observed;

    /// As [`crate::Dataplane::counters`].
    fn counters(&mut self) -> Counters;

    /// As [`crate::Dataplane::dropped_copies`].
    fn dropped_copies(&mut self, stream: Stream, member: Option<Output>) -> Vec<(Output, DroppedCopies)>;

    /// Now, by the clock that says when a stream had its last packet, in nanoseconds.
    fn now_ns(&mut self) -> u64;

    /// Takes every punt so far.
    fn take_punts(&mut self) -> Vec<Punt>;

    /// Takes every message to a source so far.
    fn take_too_big(&mut self) -> Vec<PacketTooBig>;

    /// As [`crate::Dataplane::dump`].
    fn dump(&mut self) -> Fib;
}

//! Copies on their way out by packet sockets.

use std::{collections::BTreeMap, io::IoSlice, ops::Range};

use vmcast_common::fib::IfIndex;

use super::socket::Sender;

/// Bytes of copies that wait for one interface before they are sent: what bounds the memory of a
/// packet with many members.
const GATHERED_BYTES: usize = 1 << 18;

/// Copies on their way out, gathered by interface.
#[derive(Default)]
pub(crate) struct Outbox {
    by_interface: BTreeMap<IfIndex, Egress>,
    refused: u64,
}

#[derive(Default)]
struct Egress {
    /// Opened with the first copy; tried again with every batch while it cannot be.
    sender: Option<Sender>,
    bytes: Vec<u8>,
    frames: Vec<Waiting>,
}

struct Waiting {
    bytes: Range<usize>,
    /// The kernel's priority of its socket buffer.
    priority: u32,
}

impl Outbox {
    /// Gathers a copy, which is to wait for its device with this priority of the kernel; 0 is that of every other
    /// packet.
    pub(crate) fn push(&mut self, egress: IfIndex, frame: &[u8], priority: u32) {
        let ifindex = egress;
        let egress = self.by_interface.entry(ifindex).or_default();
        let start = egress.bytes.len();
        egress.bytes.extend_from_slice(frame);
        egress.frames.push(Waiting { bytes: start..egress.bytes.len(), priority });
        if egress.bytes.len() >= GATHERED_BYTES {
            self.refused += egress.flush(ifindex);
        }
    }

    /// Sends all and returns how many copies were refused since the last time.
    pub(crate) fn flush(&mut self) -> u64 {
        let last: u64 = self.by_interface.iter_mut().map(|(&ifindex, egress)| egress.flush(ifindex)).sum();
        std::mem::take(&mut self.refused) + last
    }

    pub(crate) fn close(&mut self, ifindex: IfIndex) {
        self.by_interface.remove(&ifindex);
    }
}

impl Egress {
    fn flush(&mut self, ifindex: IfIndex) -> u64 {
        if self.frames.is_empty() {
            return 0;
        }
        if self.sender.is_none() {
            match Sender::open(ifindex) {
                Ok(sender) => self.sender = Some(sender),
                Err(error) => tracing::debug!(ifindex = ifindex.0, %error, "no way out by this interface"),
            }
        }
        let refused = match &mut self.sender {
            Some(sender) => {
                let mut refused = 0;
                // In the order in which they came, whatever their priorities.
                for alike in self.frames.chunk_by(|one, next| one.priority == next.priority) {
                    let frames: Vec<_> =
                        alike.iter().map(|frame| IoSlice::new(&self.bytes[frame.bytes.clone()])).collect();
                    refused += sender.send(&frames, alike[0].priority);
                }
                refused
            }
            None => self.frames.len() as u64,
        };
        self.bytes.clear();
        self.frames.clear();
        refused
    }
}

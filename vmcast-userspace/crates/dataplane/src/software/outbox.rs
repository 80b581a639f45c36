//! Copies on their way out by packet sockets.

use std::{collections::BTreeMap, io::IoSlice, ops::Range};

use vmcast_common::fib::IfIndex;

use super::socket::Sender;
use crate::copy_buffer::Copied;

/// Bytes of copies that wait for one interface before they are sent: what bounds the memory of a
/// packet with many members, and how long the first of them wait.
const GATHERED_BYTES: usize = 1 << 18;

/// Copies on their way out, gathered by interface. What the copies of a packet share waits once: it is most of their
/// bytes, and so they stay in the cache until the kernel reads them.
#[derive(Default)]
pub(crate) struct Outbox {
    by_interface: BTreeMap<IfIndex, Egress>,
    /// What copies share, packet behind packet.
    packets: Vec<u8>,
    /// Where that of the present packet stands, once there is a copy that shares it.
    packet: Option<Range<usize>>,
    refused: u64,
}

#[derive(Default)]
struct Egress {
    /// Opened with the first copy; tried again with every batch while it cannot be.
    sender: Option<Sender>,
    bytes: Vec<u8>,
    frames: Vec<Waiting>,
    /// Bytes of the frames, each with what it shares.
    length: usize,
}

struct Waiting {
    /// What it has for itself.
    own: Range<usize>,
    /// What it shares with other copies of its packet.
    shared: Range<usize>,
    /// The kernel's priority of its socket buffer.
    priority: u32,
}

impl Outbox {
    /// Another packet follows: its copies share nothing with those before.
    pub(crate) fn begin(&mut self) {
        self.packet = None;
    }

    /// Gathers a copy, which is to wait for its device with this priority of the kernel; 0 is that of every other
    /// packet.
    pub(crate) fn push(&mut self, egress: IfIndex, copy: Copied<'_>, priority: u32) {
        let ifindex = egress;
        let Self { by_interface, packets, packet, refused } = self;
        let shared = if copy.shared.is_empty() {
            0..0
        } else {
            let place = packet.get_or_insert_with(|| {
                let start = packets.len();
                packets.extend_from_slice(copy.shared);
                start..packets.len()
            });
            place.clone()
        };
        let egress = by_interface.entry(ifindex).or_default();
        let start = egress.bytes.len();
        egress.bytes.extend_from_slice(copy.own);
        egress.length += copy.own.len() + shared.len();
        egress.frames.push(Waiting { own: start..egress.bytes.len(), shared, priority });
        if egress.length >= GATHERED_BYTES {
            *refused += egress.flush(ifindex, packets);
        }
    }

    /// Sends all and returns how many copies were refused since the last time.
    pub(crate) fn flush(&mut self) -> u64 {
        let Self { by_interface, packets, .. } = self;
        let last: u64 =
            by_interface.iter_mut().map(|(&ifindex, egress)| egress.flush(ifindex, packets)).sum();
        self.packets.clear();
        self.packet = None;
        std::mem::take(&mut self.refused) + last
    }

    pub(crate) fn close(&mut self, ifindex: IfIndex) {
        self.by_interface.remove(&ifindex);
    }
}

impl Egress {
    fn flush(&mut self, ifindex: IfIndex, packets: &[u8]) -> u64 {
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
                    let pieces = |frame: &Waiting| {
                        [&self.bytes[frame.own.clone()], &packets[frame.shared.clone()]].map(IoSlice::new)
                    };
                    let frames: Vec<_> = alike.iter().map(pieces).collect();
                    refused += sender.send(&frames, alike[0].priority);
                }
                refused
            }
            None => self.frames.len() as u64,
        };
        self.bytes.clear();
        self.frames.clear();
        self.length = 0;
        refused
    }
}

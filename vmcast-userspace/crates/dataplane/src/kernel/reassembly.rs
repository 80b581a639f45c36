//! Packets to tunnels that the host has put together out of fragments, on their way back to the programs.
//!
//! Each is sent as a frame by a device of ours, at the far end of which the program of TC decides on it as on any other.
//! The device is made with the first such packet: most networks never have one.

use std::collections::BTreeMap;

use vmcast_common::{fib::IfIndex, verdict::DropReason};

use super::relay::Relay;
use crate::{
    Counters,
    copy_buffer::Copied,
    reassembled::{Buffer, Ends, Heard, Listening, RawSocket},
    software::outbox::Outbox,
};

/// The largest packet that the device takes: that of IPv4.
pub(super) const MTU: u32 = u16::MAX as u32;

/// The sockets that hear such packets, and the way back.
#[derive(Default)]
pub(super) struct Reassembly {
    pub(super) listening: Listening,
    pub(super) sockets: BTreeMap<Ends, RawSocket>,
    /// The device; `None` before the first packet, and while none can be made.
    pub(super) way: Option<Relay>,
    /// Whether none could be made: it is not tried with every packet.
    pub(super) no_way: bool,
    outbox: Outbox,
    buffer: Buffer,
    passed: u64,
    /// Packets that had no room in a socket, and those for which there was no way.
    lost: u64,
}

impl Reassembly {
    /// Takes one packet off one of the sockets. One that was put together is in the buffer then.
    pub(super) fn receive(&mut self) -> Heard {
        for (ends, socket) in &mut self.sockets {
            let heard = socket.receive(&mut self.buffer);
            self.lost += socket.take_lost();
            match heard {
                Ok(Heard::Nothing) => {}
                Ok(heard) => return heard,
                Err(error) => tracing::debug!(%ends, %error, "nothing can be heard of a tunnel at present"),
            }
        }
        Heard::Nothing
    }

    /// Sends the packet in the buffer by the device, soon.
    pub(super) fn pass(&mut self, near: IfIndex) {
        self.passed += 1;
        self.outbox.begin();
        self.outbox.push(near, Copied::alone(self.buffer.frame()), 0);
    }

    /// Counts the packet in the buffer, for which there is no way.
    pub(super) fn lose(&mut self) {
        self.lost += 1;
    }

    /// Sends what was to be sent soon.
    pub(super) fn flush(&mut self) {
        self.lost += self.outbox.flush();
    }

    /// Adds what was counted here.
    pub(super) fn count(&self, counters: &mut Counters) {
        counters.reassembled += self.passed;
        if self.lost > 0 {
            *counters.drops.entry(DropReason::Overrun).or_default() += self.lost;
        }
    }
}

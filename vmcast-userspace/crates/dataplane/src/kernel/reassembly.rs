//! Packets to tunnels and unicast inputs that the host has put together out of fragments, on their way back to the
//! programs.
//!
//! Each is sent as a frame by a device of ours, at the far end of which the program of TC decides on it as on any other.
//! The device is made with the first such packet: most networks never have one. Where a stream comes in by unicast, the
//! decision is about the interface, too: each has a VLAN of the device, by which the far end is that interface.

use std::collections::BTreeMap;

use vmcast_common::{
    fib::{IfIndex, Interface, Link, Tag, TagProtocol},
    verdict::DropReason,
};

use super::relay::Relay;
use crate::{
    Counters,
    copy_buffer::Copied,
    reassembled::{Buffer, Ends, Heard, Listening, RawSocket},
    software::outbox::Outbox,
};

/// The largest packet that the device takes: that of IPv4.
pub(super) const MTU: u32 = u16::MAX as u32;

/// The number that no VLAN has (IEEE 802.1Q).
const LAST_VLAN: u16 = 0x0fff;

/// An interface as the far end of the device shows it on a VLAN.
pub(super) fn as_vlan(interface: Interface, far: IfIndex, vlan: u16) -> Interface {
    let tag = Tag { protocol: TagProtocol::Dot1q, id: vlan };
    Interface { device: far, link: Link { tags: [Some(tag), None], session: None }, ..interface }
}

/// The sockets that hear such packets, and the way back.
#[derive(Default)]
pub(super) struct Reassembly {
    pub(super) listening: Listening,
    pub(super) sockets: BTreeMap<Ends, RawSocket>,
    /// The device; `None` before the first packet, and while none can be made.
    pub(super) way: Option<Relay>,
    /// Whether none could be made: it is not tried with every packet.
    pub(super) no_way: bool,
    /// The VLANs of the device by which something has come, by interface.
    vlans: BTreeMap<IfIndex, u16>,
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

    /// The VLAN of the device that stands for an interface, if it has one.
    pub(super) fn vlan(&self, ifindex: IfIndex) -> Option<u16> {
        self.vlans.get(&ifindex).copied()
    }

    /// One for an interface that has none, `None` if all are taken.
    pub(super) fn free_vlan(&self) -> Option<u16> {
        let taken = |vlan: &u16| self.vlans.values().any(|other| other == vlan);
        (1..LAST_VLAN).find(|vlan| !taken(vlan))
    }

    /// An interface has this VLAN from now on, or none.
    pub(super) fn set_vlan(&mut self, ifindex: IfIndex, vlan: Option<u16>) {
        match vlan {
            Some(vlan) => drop(self.vlans.insert(ifindex, vlan)),
            None => drop(self.vlans.remove(&ifindex)),
        }
    }

    /// Sends the packet in the buffer by the device, soon; by a VLAN of it, if there is one given.
    pub(super) fn pass(&mut self, near: IfIndex, vlan: Option<u16>) {
        self.passed += 1;
        self.outbox.begin();
        let frame = match vlan {
            Some(vlan) => self.buffer.tagged_frame(vlan),
            None => self.buffer.frame(),
        };
        self.outbox.push(near, Copied::alone(frame), 0);
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

//! Copies that a member's link does not take whole: made in fragments, or dropped and the source told.
//!
//! Nothing here does I/O: a packet with its time to live lowered, a member and its next hop go in, frames come out.
//! The headers of a copy are written by [`rewrite::copy`] as those of every other copy.

mod fragment;
mod plan;
pub(crate) mod server;
#[cfg(test)]
mod tests;
mod too_big;

use std::collections::VecDeque;

use vmcast_common::{
    fib::{IfIndex, Link, NextHop},
    hdr::{eth, ip, ipv4},
    maps::{InputId, MemberEntry, NextHopEntry},
    rate::Rate,
    rewrite,
    verdict::DropReason,
};

use self::plan::{Plan, plan};
pub use self::too_big::PacketTooBig;
use crate::copy_buffer::CopyBuffer;

/// Messages that wait to be sent; further ones are forgotten.
const MAX_WAITING: usize = 64;

/// How much is done for packets that are too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Copies that are sent in fragments, or whole by the process.
    pub copies: Rate,
    /// Packet Too Big messages (RFC 4443 §2.4 (f)).
    pub too_big: Rate,
}

impl Limits {
    /// Copies in a second: they cost the process what ten others do, so they are kept well below what one core makes.
    pub const COPIES: u32 = 10_000;
    /// Messages in a second: what RFC 4443 §2.4 (f) suggests for a small or mid-size device.
    pub const TOO_BIG: u32 = 10;

    /// So many in a second; 0 is none. At once there may be the copies of a fifth of a second, and the messages of a
    /// whole one.
    #[must_use]
    pub const fn per_second(copies: u32, too_big: u32) -> Self {
        let burst = if copies < 5 { 1 } else { copies / 5 };
        Self {
            copies: Rate { per_second: copies, burst },
            too_big: Rate { per_second: too_big, burst: too_big },
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::per_second(Self::COPIES, Self::TOO_BIG)
    }
}

/// Makes the copies of packets that are larger than a member's link takes.
#[derive(Debug)]
pub(crate) struct Fragmenter {
    limits: Limits,
    /// See [`Rate::admit`].
    copies_due: u64,
    too_big_due: u64,
    /// Of the next outer packet that is fragmented.
    identification: u32,
    /// The way of an outer packet whose link-layer header is of no interest yet.
    nowhere: NextHopEntry,
    buffer: CopyBuffer,
    /// The smallest MTU that the source of the packet under way is to be told.
    mtu: Option<u32>,
    waiting: VecDeque<PacketTooBig>,
    fragmented: u64,
}

impl Fragmenter {
    pub(crate) fn new(limits: Limits) -> Self {
        let nowhere = NextHop {
            ifindex: IfIndex(0),
            link: Link::PLAIN,
            source_mac: [0; 6],
            destination_mac: Some([0; 6]),
            mtu: u16::MAX,
        };
        Self {
            limits,
            copies_due: 0,
            too_big_due: 0,
            identification: 0,
            nowhere: NextHopEntry::of(&nowhere),
            buffer: CopyBuffer::default(),
            mtu: None,
            waiting: VecDeque::new(),
            fragmented: 0,
        }
    }

    /// Makes the frames of one member of a packet, and hands them to `out` in order. With the packet's input comes
    /// the priority code point of VLAN tags. `now_ns` is of a clock that never goes back.
    ///
    /// # Errors
    /// The reason why this member gets no copy.
    pub(crate) fn copy(
        &mut self,
        packet: &[u8],
        member: &MemberEntry,
        hop: &NextHopEntry,
        (input, pcp): (InputId, u8),
        now_ns: u64,
        out: &mut impl FnMut(&[u8]),
    ) -> Result<(), DropReason> {
        let view = ip::View::parse_any(packet, 0).ok_or(DropReason::Malformed)?;
        match plan(&view, fragment::is_allowed(packet), member.kind, hop.mtu) {
            Plan::Whole => {
                self.buffer.load(packet);
                rewrite::copy(self.buffer.begin(), member, hop, input, pcp, false)?;
                out(self.buffer.frame());
            }
            Plan::FragmentInner(max) => {
                self.admit(now_ns)?;
                let buffer = &mut self.buffer;
                fragment::v4(packet, view.header_len, max, |fragment| {
                    buffer.load(fragment);
                    rewrite::copy(buffer.begin(), member, hop, input, pcp, false)?;
                    out(buffer.frame());
                    Ok(())
                })?;
                self.fragmented += 1;
            }
            Plan::FragmentOuter(max) => {
                self.admit(now_ns)?;
                self.buffer.load(packet);
                rewrite::copy(self.buffer.begin(), member, &self.nowhere, input, 0, false)?;
                let outer = self.buffer.frame()[eth::LEN..].to_vec();
                self.fragment_outer(outer, hop, pcp, max, out)?;
                self.fragmented += 1;
            }
            Plan::TooBig(mtu) => {
                self.mtu = Some(self.mtu.map_or(mtu, |least| least.min(mtu)));
                return Err(DropReason::Oversize);
            }
            Plan::None => return Err(DropReason::Oversize),
        }
        Ok(())
    }

    fn fragment_outer(
        &mut self,
        mut outer: Vec<u8>,
        hop: &NextHopEntry,
        pcp: u8,
        max: usize,
        out: &mut impl FnMut(&[u8]),
    ) -> Result<(), DropReason> {
        self.identification = self.identification.wrapping_add(1);
        let buffer = &mut self.buffer;
        let send = |fragment: &[u8]| {
            buffer.load(fragment);
            // The fragments go to the tunnel's far end as they are.
            rewrite::copy(buffer.begin(), &MemberEntry::neighbour(0), hop, InputId::NONE, pcp, false)?;
            out(buffer.frame());
            Ok(())
        };
        if outer[0] >> 4 == 6 {
            fragment::v6(&outer, self.identification, max, send)
        } else {
            fragment::allow(&mut outer, self.identification as u16);
            fragment::v4(&outer, ipv4::MIN_LEN, max, send)
        }
    }

    /// Lets one more copy be made, or not.
    ///
    /// # Errors
    /// [`DropReason::OversizeLimited`].
    pub(crate) fn admit(&mut self, now_ns: u64) -> Result<(), DropReason> {
        let due = self.limits.copies.admit(self.copies_due, now_ns).ok_or(DropReason::OversizeLimited)?;
        self.copies_due = due;
        Ok(())
    }

    /// Ends with a packet after its last copy: if its source is to make smaller ones, it is told so once, for the
    /// member that takes least.
    pub(crate) fn end(&mut self, packet: &[u8], now_ns: u64) {
        let Some(mtu) = self.mtu.take() else {
            return;
        };
        let view = ip::View::parse_any(packet, 0);
        let Some(message) = view.and_then(|view| PacketTooBig::new(packet, &view, mtu)) else {
            return;
        };
        if self.waiting.len() < MAX_WAITING
            && let Some(due) = self.limits.too_big.admit(self.too_big_due, now_ns)
        {
            self.too_big_due = due;
            self.waiting.push_back(message);
        }
    }

    /// Takes the next message to a source.
    pub(crate) fn poll_too_big(&mut self) -> Option<PacketTooBig> {
        self.waiting.pop_front()
    }

    /// Copies that were made in fragments.
    pub(crate) const fn fragmented(&self) -> u64 {
        self.fragmented
    }
}

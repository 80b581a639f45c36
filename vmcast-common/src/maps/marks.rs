//! What the packets of a stream are marked with on their way out.

use super::limit;
use crate::fib::Priority;

/// What a stream's packets are marked with, in one word of its entry: bits of the type of service to clear (bits 0 to
/// 7) and to set (8 to 15), the priority code point (16 to 18), and whether [`super::QUEUES`] says more (19).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Marks(pub u32);

impl Marks {
    /// Nothing: the packets go as they came.
    pub const NONE: Self = Self(0);
    /// The stream's place in [`super::QUEUES`] says how its copies wait at TC.
    const QUEUED: u32 = 1 << 19;
    /// The bits of the type of service that are the DSCP (RFC 2474 §3).
    const DSCP: u32 = 0xfc;

    /// Those of a priority.
    #[must_use]
    pub const fn of(priority: &Priority) -> Self {
        let dscp = match priority.dscp {
            Some(dscp) => Self::DSCP | ((dscp as u32) << 2 & Self::DSCP) << 8,
            None => 0,
        };
        let queued = if QueueEntry::of(priority).is_some() { Self::QUEUED } else { 0 };
        Self(dscp | ((priority.pcp & 7) as u32) << 16 | queued)
    }

    /// The type of service with which a packet goes on; its congestion marks stay.
    #[inline(always)]
    #[must_use]
    pub const fn tos(self, tos: u8) -> u8 {
        tos & !(self.0 as u8) | (self.0 >> 8) as u8
    }

    /// The priority code point of VLAN tags, 0 to 7.
    #[inline(always)]
    #[must_use]
    pub const fn pcp(self) -> u8 {
        (self.0 >> 16 & 7) as u8
    }

    /// What a packet of the stream with this index of counters carries for its copies.
    #[inline(always)]
    #[must_use]
    pub const fn lane(self, stats: u32) -> Lane {
        // Without a branch, of which the verifier would follow both ways.
        let queued = (self.0 & Self::QUEUED) >> 19;
        Lane((stats & Lane::QUEUE).wrapping_mul(queued) | (self.pcp() as u32) << Lane::PCP)
    }
}

/// What a packet carries for its copies, beside what stands in its own header: the stream's place in
/// [`super::QUEUES`] (bits 0 to 13, 0 for none), and the priority code point (14 to 16).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Lane(pub u32);

impl Lane {
    /// How many bits it has.
    pub const BITS: u32 = Self::PCP + 3;
    const PCP: u32 = 14;
    const QUEUE: u32 = (1 << Self::PCP) - 1;

    /// A lane of its parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(queue: u32, pcp: u8) -> Self {
        Self(queue & Self::QUEUE | ((pcp & 7) as u32) << Self::PCP)
    }

    /// The place in [`super::QUEUES`]; 0 for none.
    #[inline(always)]
    #[must_use]
    pub const fn queue(self) -> u32 {
        self.0 & Self::QUEUE
    }

    /// The priority code point of VLAN tags, 0 to 7.
    #[inline(always)]
    #[must_use]
    pub const fn pcp(self) -> u8 {
        (self.0 >> Self::PCP & 7) as u8
    }
}
const _: () = assert!(limit::STREAMS - 1 <= Lane::QUEUE);

/// How the copies of a stream wait for their device at TC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct QueueEntry {
    /// The kernel's priority of the socket buffer.
    pub priority: u32,
    /// 1 if that counts.
    pub has_priority: u16,
    /// The device's transmit queue and 1; 0 leaves the choice to the kernel.
    pub queue_mapping: u16,
}
const _: () = assert!(size_of::<QueueEntry>() == 8);

impl QueueEntry {
    /// That of a priority; `None` if it says nothing of it.
    #[must_use]
    pub const fn of(priority: &Priority) -> Option<Self> {
        let (has_priority, number) = match priority.skb_priority {
            Some(number) => (1, number),
            None => (0, 0),
        };
        let queue_mapping = match priority.queue {
            Some(queue) => queue.saturating_add(1),
            None => 0,
        };
        if has_priority == 0 && queue_mapping == 0 {
            return None;
        }
        Some(Self { priority: number, has_priority, queue_mapping })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn marks_say_what_the_priority_said(
            dscp in proptest::option::of(0u8..64),
            pcp in 0u8..8,
            skb_priority: Option<u32>,
            queue in proptest::option::of(0u16..u16::MAX),
            tos: u8,
            stats in 1..limit::STREAMS,
        ) {
            let priority = Priority { dscp, pcp, skb_priority, queue, at_tc: false };
            let marks = Marks::of(&priority);
            prop_assert_eq!(marks.tos(tos) >> 2, dscp.unwrap_or(tos >> 2));
            prop_assert_eq!(marks.tos(tos) & 3, tos & 3);
            prop_assert_eq!(marks.pcp(), pcp);
            let lane = marks.lane(stats);
            let queued = skb_priority.is_some() || queue.is_some();
            prop_assert_eq!((lane.pcp(), lane.queue()), (pcp, if queued { stats } else { 0 }));
            prop_assert_eq!(Lane::new(lane.queue(), lane.pcp()), lane);
            prop_assert!(lane.0 >> Lane::BITS == 0);
            prop_assert_eq!(QueueEntry::of(&priority).is_some(), queued);
        }
    }

    #[test]
    fn without_a_priority_nothing_changes() {
        let none = Marks::of(&Priority::default());
        assert_eq!(none, Marks::NONE);
        assert_eq!((none.tos(0xb9), none.lane(7)), (0xb9, Lane(0)));
    }
}

//! What ingress leaves in a frame for the copies of it, and what a copy carries through a relay device.
//!
//! A copy for the next member table, or for the members at TC, is no member's: it goes through a pair of
//! devices of our own, behind which a program goes on with it.

use super::{AMT_V4_OVERHEAD, Inner, Room};
use crate::{
    hdr::eth,
    maps::{InputId, Lane, MemberEntry, kind, limit},
    packet::Words,
    verdict::DropReason,
};

/// What ingress leaves in the link-layer addresses, which every copy overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carry {
    /// Member table; towards the members at TC, the place of their list and the packet's lane, see
    /// [`Carry::list`].
    pub table: u32,
    /// Sequence number of the packet on this CPU, above three bits of priority code point. Towards the members at TC
    /// comes 1 if user space answers for the copies that a link does not take whole, else 0; above this bit the index of
    /// the [`kind::PAUSE`] behind which the packet goes on, 0 if it begins with the first member.
    pub sequence: u32,
    /// Where the packet came from.
    pub input: InputId,
}

impl Carry {
    /// Bytes it takes at the start of the frame.
    pub const LEN: usize = 12;
    /// Bits of the sequence number that are the priority code point.
    const PCP: u32 = 3;
    /// Bits of a list's place.
    const LIST: u32 = limit::STREAMS.ilog2();

    /// What goes to a member table.
    #[inline(always)]
    #[must_use]
    pub const fn to_table(table: u32, sequence: u32, lane: Lane, input: InputId) -> Self {
        Self { table, sequence: sequence << Self::PCP | lane.pcp() as u32, input }
    }

    /// The same with another sequence number.
    #[inline(always)]
    #[must_use]
    pub const fn renumbered(self, sequence: u32) -> Self {
        Self { sequence: sequence << Self::PCP | self.pcp() as u32, ..self }
    }

    /// The priority code point of what goes to a member table.
    #[inline(always)]
    #[must_use]
    pub const fn pcp(&self) -> u8 {
        (self.sequence & ((1 << Self::PCP) - 1)) as u8
    }

    /// Where what goes to the members at TC finds them, and what it carries for its copies.
    #[inline(always)]
    #[must_use]
    pub const fn list(&self) -> (u32, Lane) {
        (self.table & ((1 << Self::LIST) - 1), Lane(self.table >> Self::LIST))
    }

    /// What goes through a relay device to the members of a list behind a pause.
    #[inline(always)]
    #[must_use]
    pub const fn paused(list: u32, lane: Lane, pause: u32, input: InputId, handed_over: bool) -> Self {
        Self { table: list | lane.0 << Self::LIST, sequence: pause << 1 | handed_over as u32, input }
    }

    /// Of what came through a relay device to the members at TC, the pause behind which it goes on, and whether
    /// user space answers for the copies that a link does not take whole.
    #[inline(always)]
    #[must_use]
    pub const fn pause(&self) -> (u32, bool) {
        (self.sequence >> 1, self.sequence & 1 != 0)
    }

    /// Its bytes.
    #[inline(always)]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        let t = self.table.to_ne_bytes();
        let s = self.sequence.to_ne_bytes();
        let i = self.input.0.to_ne_bytes();
        [t[0], t[1], t[2], t[3], s[0], s[1], s[2], s[3], i[0], i[1], i[2], i[3]]
    }

    /// Reads them back from the start of a frame, and what stands behind them.
    #[inline(always)]
    #[must_use]
    pub fn read(head: &impl Words<{ eth::LEN }>) -> (Self, Form) {
        let carry = Self {
            table: head.read_u32::<0>(),
            sequence: head.read_u32::<4>(),
            input: InputId(head.read_u32::<8>()),
        };
        (carry, Form(head.read_u16::<{ Self::LEN }>()))
    }
}
const _: () = assert!(Carry::LIST + Lane::BITS <= u32::BITS && limit::STREAMS.is_power_of_two());

/// What stands behind the carry of a packet that goes to a member table, in the place of the EtherType: its state in
/// two bits, and above them its stream's place in [`crate::maps::QUEUES`], 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form(u16);

impl Form {
    const STATE: u16 = 3;
    const ENCAPSULATED: u16 = 0;
    const OVERSIZE: u16 = 1;
    const PLAIN: u16 = 2;

    #[inline(always)]
    const fn new(state: u16, lane: Lane) -> Self {
        Self((lane.queue() as u16) << 2 | state)
    }

    /// The packet is in its outer headers already.
    #[inline(always)]
    #[must_use]
    pub const fn encapsulated(lane: Lane) -> Self {
        Self::new(Self::ENCAPSULATED, lane)
    }

    /// The packet is as it came. `handed_over` says that user space answers for the copies that a link does not take
    /// whole.
    #[inline(always)]
    #[must_use]
    pub const fn plain(lane: Lane, handed_over: bool) -> Self {
        Self::new(if handed_over { Self::OVERSIZE } else { Self::PLAIN }, lane)
    }

    /// Whether the packet is in its outer headers already.
    #[inline(always)]
    #[must_use]
    pub const fn is_encapsulated(self) -> bool {
        self.0 & Self::STATE == Self::ENCAPSULATED
    }

    /// Whether user space answers for the copies that a link does not take whole.
    #[inline(always)]
    #[must_use]
    pub const fn is_handed_over(self) -> bool {
        self.0 & Self::STATE == Self::OVERSIZE
    }

    /// Its bytes.
    #[inline(always)]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }

    /// The lane of the packet with this carry.
    #[inline(always)]
    const fn lane(self, pcp: u8) -> Lane {
        Lane::new((self.0 >> 2) as u32, pcp)
    }
}

/// Makes the frame for the program behind a relay device of a copy whose member is a way to a table or a
/// list. `carry` and `form` are what the packet has.
///
/// # Errors
/// If the frame is too short or cannot be made shorter.
#[inline(always)]
pub fn hand_on<R: Room>(
    room: &mut R,
    member: &MemberEntry,
    carry: &Carry,
    form: Form,
) -> Result<(), DropReason> {
    if member.kind == kind::TO_TABLE {
        let mut head = room.head::<4>().ok_or(DropReason::LostOrder)?;
        head.write_u32::<0>(member.way_to());
        return Ok(());
    }
    if form.is_encapsulated() {
        room.shrink(AMT_V4_OVERHEAD).ok_or(DropReason::KernelRefused)?;
    }
    let mut head = room.head::<{ Inner::READ }>().ok_or(DropReason::LostOrder)?;
    let ether_type = Inner::read(&head).ether_type();
    head.write_u32::<0>(member.way_to() | form.lane(carry.pcp()).0 << Carry::LIST);
    head.write_u32::<4>(form.is_handed_over() as u32);
    head.write_u32::<8>(carry.input.0);
    head.write_u16::<{ Carry::LEN }>(ether_type.to_be());
    Ok(())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use proptest::prelude::*;

    use super::*;
    use crate::rewrite::Parts;

    /// A frame that stays where it is.
    struct Fixed([u8; 64]);

    impl Parts for Fixed {
        type Part<'a, const N: usize> = &'a mut [u8; N];

        fn part<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
            self.0[..].part(offset)
        }
    }

    impl Room for Fixed {
        type Head<'a, const N: usize> = &'a mut [u8; N];

        fn head<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
            self.0.first_chunk_mut()
        }

        fn grow<const N: usize>(&mut self, _: usize) -> Option<&mut [u8; N]> {
            None
        }

        fn shrink(&mut self, by: usize) -> Option<()> {
            self.0.rotate_left(by);
            Some(())
        }
    }

    fn form(which: usize, lane: Lane) -> Form {
        [Form::encapsulated(lane), Form::plain(lane, false), Form::plain(lane, true)][which]
    }

    proptest! {
        #[test]
        fn what_ingress_leaves_for_the_copies_is_read_back(
            table: u32,
            sequence in 0..1u32 << 29,
            pcp in 0u8..8,
            queue in 0..limit::STREAMS,
            input: u32,
            which in 0usize..3,
        ) {
            let lane = Lane::new(queue, pcp);
            let carry = Carry::to_table(table, sequence, lane, InputId(input));
            let mut head = [0; eth::LEN];
            head[..Carry::LEN].copy_from_slice(&carry.to_bytes());
            head[Carry::LEN..].copy_from_slice(&form(which, lane).to_bytes());
            let (read, form) = Carry::read(&head);
            prop_assert_eq!((read, read.pcp(), form.lane(read.pcp())), (carry, pcp, lane));
            prop_assert_eq!((form.is_encapsulated(), form.is_handed_over()), (which == 0, which == 2));
            let again = read.renumbered(sequence ^ 1);
            prop_assert_eq!((again.pcp(), again.sequence == read.sequence), (pcp, false));
        }

        #[test]
        fn what_goes_to_a_list_keeps_its_lane(
            list in 1..limit::STREAMS,
            sequence in 0..1u32 << 29,
            pcp in 0u8..8,
            queue in 0..limit::STREAMS,
            input: u32,
            which in 0usize..3,
        ) {
            let lane = Lane::new(queue, pcp);
            let carry = Carry::to_table(9, sequence, lane, InputId(input));
            let form = form(which, lane);
            let mut frame = Fixed([0x45; 64]);
            frame.0[..Carry::LEN].copy_from_slice(&carry.to_bytes());
            hand_on(&mut frame, &MemberEntry::to_list(list), &carry, form).unwrap();
            let (read, _) = Carry::read(frame.0.first_chunk().unwrap());
            prop_assert_eq!((read.list(), read.input), ((list, lane), InputId(input)));
            // It begins with the first member.
            prop_assert_eq!(read.pause(), (0, which == 2));
            prop_assert_eq!(&frame.0[Carry::LEN..eth::LEN], &eth::TYPE_IPV4.to_be_bytes());
        }

        #[test]
        fn a_packet_goes_on_where_it_paused(
            list in 1..limit::STREAMS,
            pcp in 0u8..8,
            queue in 0..limit::STREAMS,
            pause in 0..limit::MEMBERS,
            input: u32,
            handed_over: bool,
        ) {
            let lane = Lane::new(queue, pcp);
            let carry = Carry::paused(list, lane, pause, InputId(input), handed_over);
            prop_assert_eq!(carry.pause(), (pause, handed_over));
            prop_assert_eq!((carry.list(), carry.input), ((list, lane), InputId(input)));
        }
    }
}

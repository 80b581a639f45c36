//! What ingress leaves in a frame for the copies of it, and what a copy carries through a relay device.
//!
//! A copy for the next member table, or for the members at TC, is no member's: it goes through a pair of
//! devices of our own, behind which a program goes on with it.

use super::{AMT_V4_OVERHEAD, Inner, Room};
use crate::{
    hdr::eth,
    maps::{InputId, MemberEntry, kind},
    packet::Words,
    verdict::DropReason,
};

/// What ingress leaves in the link-layer addresses, which every copy overwrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carry {
    /// Member table; towards the members at TC, the place of their list.
    pub table: u32,
    /// Sequence number of the packet on this CPU. Through a relay device comes 1 if user space answers for the
    /// copies that a link does not take whole, else 0; to the members at TC also, above this bit, the index of the
    /// [`kind::PAUSE`] behind which the packet goes on, 0 if it begins with the first member.
    pub sequence: u32,
    /// Where the packet came from.
    pub input: InputId,
}

impl Carry {
    /// Bytes it takes at the start of the frame.
    pub const LEN: usize = 12;
    /// What stands behind it, in the place of the EtherType: the packet is as it came.
    pub const PLAIN: [u8; 2] = eth::TYPE_IPV4.to_be_bytes();
    /// The packet is in its outer headers already.
    pub const ENCAPSULATED: [u8; 2] = [0, 0];
    /// The packet is as it came, and user space answers for the copies that a link does not take whole.
    pub const OVERSIZE: [u8; 2] = [0, 1];

    /// What goes through a relay device to a member table.
    #[inline(always)]
    #[must_use]
    pub const fn relayed(table: u32, input: InputId, handed_over: bool) -> Self {
        Self { table, sequence: handed_over as u32, input }
    }

    /// What goes through a relay device to the members of a list behind a pause.
    #[inline(always)]
    #[must_use]
    pub const fn paused(list: u32, pause: u32, input: InputId, handed_over: bool) -> Self {
        Self { table: list, sequence: pause << 1 | handed_over as u32, input }
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
    pub fn read(head: &impl Words<{ eth::LEN }>) -> (Self, [u8; 2]) {
        let carry = Self {
            table: head.read_u32::<0>(),
            sequence: head.read_u32::<4>(),
            input: InputId(head.read_u32::<8>()),
        };
        (carry, head.read_u16::<{ Self::LEN }>().to_ne_bytes())
    }
}

/// Makes the frame for the program behind a relay device of a copy whose member is a way to a table or a
/// list. `form` is what stands behind the carry.
///
/// # Errors
/// If the frame is too short or cannot be made shorter.
#[inline(always)]
pub fn hand_on<R: Room>(
    room: &mut R,
    member: &MemberEntry,
    input: InputId,
    form: [u8; 2],
) -> Result<(), DropReason> {
    let handed_over = u32::from(form == Carry::OVERSIZE);
    if member.kind == kind::TO_TABLE {
        let mut head = room.head::<8>().ok_or(DropReason::LostOrder)?;
        head.write_u32::<0>(member.way_to());
        head.write_u32::<4>(handed_over);
        return Ok(());
    }
    if form == Carry::ENCAPSULATED {
        room.shrink(AMT_V4_OVERHEAD).ok_or(DropReason::KernelRefused)?;
    }
    let mut head = room.head::<{ Inner::READ }>().ok_or(DropReason::LostOrder)?;
    let ether_type = Inner::read(&head).ether_type();
    head.write_u32::<0>(member.way_to());
    head.write_u32::<4>(handed_over);
    head.write_u32::<8>(input.0);
    head.write_u16::<{ Carry::LEN }>(ether_type.to_be());
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::maps::limit;

    proptest! {
        #[test]
        fn what_ingress_leaves_for_the_copies_is_read_back(
            table: u32,
            sequence: u32,
            input: u32,
            which in 0usize..3,
        ) {
            let carry = Carry { table, sequence, input: InputId(input) };
            let mut head = [0; eth::LEN];
            head[..Carry::LEN].copy_from_slice(&carry.to_bytes());
            let form = [Carry::PLAIN, Carry::ENCAPSULATED, Carry::OVERSIZE][which];
            head[Carry::LEN..].copy_from_slice(&form);
            prop_assert_eq!(Carry::read(&head), (carry, form));
        }

        #[test]
        fn a_packet_goes_on_where_it_paused(
            list: u32,
            pause in 0..limit::MEMBERS,
            input: u32,
            handed_over: bool,
        ) {
            let carry = Carry::paused(list, pause, InputId(input), handed_over);
            prop_assert_eq!(carry.pause(), (pause, handed_over));
            prop_assert_eq!((carry.table, carry.input), (list, InputId(input)));
            // What comes from a member table begins with the first member.
            prop_assert_eq!(Carry::relayed(list, InputId(input), handed_over).pause(), (0, handed_over));
        }
    }
}

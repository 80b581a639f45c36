//! The header of an AMT Multicast Data message (RFC 7450 §5.1.6); the other messages never reach
//! the data plane.
//!
//! ```text
//!  0                   1
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  V=0  |Type=6 |    Reserved   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use crate::packet::Packet;

/// Length of the Multicast Data header in bytes.
pub const DATA_LEN: usize = 2;
/// First byte of a Multicast Data message: version 0, type 6.
pub const DATA_TYPE: u8 = 0x06;

/// Whether the UDP payload at `offset` is a Multicast Data message. The reserved byte is ignored
/// on receipt, as the RFC asks.
#[inline(always)]
pub fn is_data<P: Packet + ?Sized>(packet: &P, offset: usize) -> bool {
    match packet.load::<1>(offset) {
        Some([first]) => first == DATA_TYPE,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_0_type_6_is_data() {
        for first in 0..=u8::MAX {
            assert_eq!(is_data(&[first, 0xff][..], 0), first == 0x06, "{first:#x}");
        }
        assert!(is_data(&[0, 6][..], 1));
        assert!(!is_data(&[0, 6][..], 2));
    }
}

//! The hop-by-hop options header (RFC 8200 §4.3).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |  Next Header  |  Hdr Ext Len  |Router Alert 5 |   Length 2    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |      Value 0, "MLD message"   |    PadN 1     |   Length 0    |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use super::Error;

/// Length of a header that holds Router Alert only, in bytes.
pub(super) const ROUTER_ALERT_LEN: usize = 8;

const PAD1: u8 = 0;
const ROUTER_ALERT: u8 = 5;
/// Router Alert with the value 0: the datagram holds an MLD message (RFC 2711 §2.1).
const ALERT_MLD: [u8; 4] = [ROUTER_ALERT, 2, 0, 0];
/// What is to be done with an unknown option stands in its upper two bits; 0 is to pass over it.
const ACTION_MASK: u8 = 0xc0;

/// A header with Router Alert in front of `next_header`.
pub(super) const fn with_router_alert(next_header: u8) -> [u8; ROUTER_ALERT_LEN] {
    [next_header, 0, ALERT_MLD[0], ALERT_MLD[1], ALERT_MLD[2], ALERT_MLD[3], 1, 0]
}

/// Walks the options, which start at `offset` of the datagram, and says whether Router Alert with the
/// value 0 is among them.
pub(super) fn has_router_alert(options: &[u8], offset: usize) -> Result<bool, Error> {
    let mut found = false;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        if kind == PAD1 {
            at += 1;
            continue;
        }
        let length = options.get(at + 1).copied();
        let option = length.and_then(|length| options.get(at..at + 2 + usize::from(length)));
        let Some(option) = option else {
            return Err(Error::OptionLength { offset: offset + at, value: length.unwrap_or(0) });
        };
        if kind & ACTION_MASK != 0 {
            return Err(Error::UnknownOption { offset: offset + at, value: kind });
        }
        found |= option == ALERT_MLD;
        at += option.len();
    }
    Ok(found)
}

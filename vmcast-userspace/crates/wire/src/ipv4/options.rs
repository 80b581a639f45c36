//! Options of the header (RFC 791 §3.1).

use vmcast_common::hdr::ipv4::MIN_LEN;

use super::Error;

/// The Router Alert option: copied, class 0, number 20, value 0 (RFC 2113 §2.1).
pub(super) const ROUTER_ALERT: [u8; 4] = [ROUTER_ALERT_TYPE, 4, 0, 0];

const ROUTER_ALERT_TYPE: u8 = 148;
const END_OF_LIST: u8 = 0;
const NO_OPERATION: u8 = 1;

/// Walks the options and says whether Router Alert with the value 0 is among them.
pub(super) fn has_router_alert(options: &[u8]) -> Result<bool, Error> {
    let mut found = false;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        if kind == END_OF_LIST {
            break;
        }
        if kind == NO_OPERATION {
            at += 1;
            continue;
        }
        let length = options.get(at + 1).copied().unwrap_or(0);
        let option = (length >= 2).then(|| options.get(at..at + usize::from(length))).flatten();
        let Some(option) = option else {
            return Err(Error::OptionLength { offset: MIN_LEN + at, value: length });
        };
        found |= option == ROUTER_ALERT;
        at += option.len();
    }
    Ok(found)
}

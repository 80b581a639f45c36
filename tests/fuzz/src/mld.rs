use std::net::Ipv6Addr;

use vmcast_wire::{membership, mld::Message};

use crate::seal_icmpv6;

const FROM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const TO: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// MLD messages: what can be read can be written, no longer than it was, and reads the same, in the
/// words of either family too.
pub fn mld(data: &[u8]) {
    let mut sealed = data.to_vec();
    seal_icmpv6(FROM, TO, &mut sealed);
    for bytes in [data, &sealed] {
        if let Ok(message) = Message::parse(FROM, TO, bytes) {
            let again = message.emit(FROM, TO);
            assert_eq!(again.len(), message.buffer_len());
            assert!(again.len() <= bytes.len());
            let neutral = membership::Message::from(message.clone());
            assert_eq!(neutral.emit(FROM.into(), TO.into()).as_ref(), Ok(&again));
            assert_eq!(Message::parse(FROM, TO, &again), Ok(message));
        }
    }
}

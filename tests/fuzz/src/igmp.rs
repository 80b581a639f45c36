use vmcast_wire::igmp::Message;

use crate::seal;

/// IGMP messages: what can be read can be written, no longer than it was, and reads the same.
pub fn igmp(data: &[u8]) {
    let mut sealed = data.to_vec();
    seal(&mut sealed, 2);
    for bytes in [data, &sealed] {
        if let Ok(message) = Message::parse(bytes) {
            let again = message.emit();
            assert_eq!(again.len(), message.buffer_len());
            assert!(again.len() <= bytes.len());
            assert_eq!(Message::parse(&again), Ok(message));
        }
    }
}

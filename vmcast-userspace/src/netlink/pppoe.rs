//! The PPPoE sessions of this network namespace, as `/proc/net/pppoe` lists them.
//!
//! ```text
//! Id       Address              Device
//! 00000100 02:00:00:00:00:09      eth0
//! ```

use std::{fs, io};

use vmcast_common::hdr::eth::Mac;

use crate::mac;

/// Of the thread, not of the process: namespaces belong to threads.
const FILE: &str = "/proc/thread-self/net/pppoe";

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PppoeSession {
    /// Its number (RFC 2516 §4).
    pub(crate) id: u16,
    /// The other end's link-layer address.
    pub(crate) peer: Mac,
    /// Name of the interface that it runs over.
    pub(crate) device: String,
}

/// Every session; none if the kernel knows no PPPoE.
pub(crate) fn sessions() -> Vec<PppoeSession> {
    match fs::read_to_string(FILE) {
        Ok(text) => read(&text),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, "the PPPoE sessions cannot be listed");
            }
            Vec::new()
        }
    }
}

fn read(text: &str) -> Vec<PppoeSession> {
    text.lines().skip(1).filter_map(session).collect()
}

fn session(line: &str) -> Option<PppoeSession> {
    let mut words = line.split_whitespace();
    let (id, peer, device) = (words.next()?, words.next()?, words.next()?);
    // The kernel prints the field as it holds it: in network order.
    let id = u16::from_be(u16::try_from(u32::from_str_radix(id, 16).ok()?).ok()?);
    Some(PppoeSession { id, peer: mac::parse(peer)?, device: device.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_read_and_what_is_none_is_left_out() {
        let text = format!(
            "Id       Address              Device\n{:08X} 02:00:00:00:00:09     eth0\n\
             {:08X} 02:00:00:00:00:0a eth0.100\nno session\n00000100 02:00 eth0\n",
            0x0102u16.to_be(),
            7u16.to_be()
        );
        let session = |id, last, device: &str| PppoeSession {
            id,
            peer: [2, 0, 0, 0, 0, last],
            device: device.to_owned(),
        };
        assert_eq!(read(&text), [session(0x0102, 9, "eth0"), session(7, 10, "eth0.100")]);
        assert_eq!(read(""), []);
    }
}

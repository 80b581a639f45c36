//! What is sent through a lab, received from it and seen on its wires.

mod counts;
mod flood;
mod mpegts;
mod packet_socket;
mod receiver;
mod recorder;
mod source;
mod watch;
mod witness;

use std::{
    hash::{DefaultHasher, Hasher as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

pub use counts::{Counts, Meter};
pub use flood::{Flood, Flooded, Pace};
pub use mpegts::Continuity;
pub use packet_socket::{packet_socket, packet_socket_on_all};
pub use receiver::{Receiver, Session};
pub use recorder::{Recorder, Sent};
pub use source::{MpegTsSource, SourceConfig};
use witness::stream_payload;
pub use witness::{Carriage, Passed, Witness, classify};

/// The group and port of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupPort {
    /// The group.
    pub group: Ipv4Addr,
    /// The UDP port.
    pub port: u16,
}

impl GroupPort {
    /// As a socket address.
    #[must_use]
    pub fn socket_addr(self) -> SocketAddrV4 {
        SocketAddrV4::new(self.group, self.port)
    }
}

impl From<GroupPort> for SocketAddr {
    fn from(stream: GroupPort) -> Self {
        stream.socket_addr().into()
    }
}

/// How often a thread that waits for packets looks whether it should end.
const POLL: Duration = Duration::from_millis(50);

/// The identity of a payload.
#[must_use]
pub fn fingerprint(payload: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(payload);
    hasher.finish()
}

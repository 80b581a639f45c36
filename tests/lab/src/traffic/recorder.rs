//! Records what a source sends, on its own wire: the truth that clients are judged by.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{Carriage, Counts, GroupPort, POLL, classify, fingerprint, packet_socket::PacketSocket};
use crate::{LabError, Namespace, clock::Clock};

/// A packet that the source sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Identity of its UDP payload.
    pub fingerprint: u64,
    /// When it left.
    pub at: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    sent: Mutex<(Vec<Sent>, Counts)>,
    stop: AtomicBool,
}

/// Records one stream on an interface of its source until it is dropped.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl Recorder {
    /// Begins to record.
    ///
    /// # Errors
    /// If the interface does not exist or packet sockets are refused.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        stream: GroupPort,
        clock: Clock,
    ) -> Result<Self, LabError> {
        let socket = namespace.enter(|| PacketSocket::open(interface, POLL))??;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("{}-recorder", namespace.node()))
            .spawn(move || record(&socket, stream, clock, &theirs))
            .map_err(LabError::io("starting the recorder"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Packets and bytes so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.sent.lock().expect("the recorder does not panic").1
    }

    /// What was sent from the given place in the record on.
    #[must_use]
    pub fn sent_from(&self, start: usize) -> Vec<Sent> {
        let sent = self.shared.sent.lock().expect("the recorder does not panic");
        sent.0.get(start..).unwrap_or_default().to_vec()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its errors have already shown as missing packets.
            let _ = thread.join();
        }
    }
}

fn record(socket: &PacketSocket, stream: GroupPort, clock: Clock, shared: &Shared) -> Result<(), LabError> {
    let mut buffer = vec![0; 65536];
    while !shared.stop.load(Ordering::Relaxed) {
        let Some((length, _)) = socket.receive(&mut buffer)? else { continue };
        let at = clock.now();
        let frame = &buffer[..length];
        let Some((Carriage::Native, bytes)) = classify(frame, stream.group) else { continue };
        let Some(payload) = udp_payload(&frame[14..], stream.port) else { continue };
        let mut sent = shared.sent.lock().expect("the recorder does not panic");
        sent.0.push(Sent { fingerprint: fingerprint(payload), at });
        sent.1.add(bytes);
    }
    Ok(())
}

/// The payload of an IPv4 packet that carries UDP to the port.
fn udp_payload(packet: &[u8], port: u16) -> Option<&[u8]> {
    let udp = packet.get(usize::from(packet.first()? & 0x0f) * 4..)?;
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    let is_ours = packet.get(9) == Some(&17) && udp.get(2..4)? == port.to_be_bytes();
    is_ours.then(|| udp.get(8..length)).flatten()
}

#[cfg(test)]
mod tests {
    use super::udp_payload;

    #[test]
    fn the_payload_ends_where_udp_says_so_that_padding_is_no_part_of_it() {
        let mut packet = vec![0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 239, 192, 0, 1];
        packet.extend([0x30, 0x39, 0x13, 0x8c, 0, 11, 0, 0]);
        packet.extend(b"abc\0\0\0\0");
        assert_eq!(udp_payload(&packet, 5004), Some(&b"abc"[..]));
        assert_eq!(udp_payload(&packet, 5005), None);
        assert_eq!(udp_payload(&packet[..30], 5004), None);
        assert_eq!(udp_payload(&[], 5004), None);
    }
}

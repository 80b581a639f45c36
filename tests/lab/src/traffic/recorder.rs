//! Records what a source sends, on its own wire: the truth that clients are judged by.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{
    Carriage, Counts, GroupPort, POLL, classify, fingerprint, packet_socket::PacketSocket, stream_payload,
};
use crate::{LabError, Namespace, clock::Clock};

/// A source that sent nothing for so long is taken to be silent.
const SILENT: Duration = Duration::from_millis(300);

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

    /// Waits until the record has everything that was sent before now. Its thread may be a moment behind
    /// those who receive; of a source that stays silent there is nothing to wait for.
    pub fn catch_up(&self, clock: Clock) {
        let now = clock.now();
        let last =
            || self.shared.sent.lock().expect("the recorder does not panic").0.last().map(|sent| sent.at);
        while last().is_some_and(|at| at < now) && clock.now() < now + SILENT {
            std::thread::sleep(Duration::from_millis(1));
        }
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
        let Some(payload) = stream_payload(frame, Carriage::Native, stream.port) else { continue };
        let mut sent = shared.sent.lock().expect("the recorder does not panic");
        sent.0.push(Sent { fingerprint: fingerprint(payload), at });
        sent.1.add(bytes);
    }
    Ok(())
}

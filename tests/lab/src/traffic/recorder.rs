//! Records what a source sends, on its own wire: the truth that clients are judged by.

use std::{sync::Mutex, time::Duration};

use super::{
    Carriage, Counts, GroupPort, classify, fingerprint, stream_payload,
    watch::{Frame, Watch},
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

/// Everything that the source sent, and how much that was.
#[derive(Debug, Default)]
struct Record {
    sent: Vec<Sent>,
    counts: Counts,
}

/// Records one stream on an interface of its source until it is dropped.
#[derive(Debug)]
pub struct Recorder {
    watch: Watch<Record>,
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
        let note = move |record: &Mutex<Record>, frame: Frame<'_>| note(record, frame, stream);
        Ok(Self { watch: Watch::start(namespace, interface, clock, note)? })
    }

    /// Packets and bytes so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.watch.state().counts
    }

    /// Waits until the record has everything that was sent before now. Its thread may be a moment behind
    /// those who receive; of a source that stays silent there is nothing to wait for.
    pub fn catch_up(&self, clock: Clock) {
        let now = clock.now();
        let last = || self.watch.state().sent.last().map(|sent| sent.at);
        while last().is_some_and(|at| at < now) && clock.now() < now + SILENT {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What was sent from the given place in the record on.
    #[must_use]
    pub fn sent_from(&self, start: usize) -> Vec<Sent> {
        self.watch.state().sent.get(start..).unwrap_or_default().to_vec()
    }
}

fn note(record: &Mutex<Record>, frame: Frame<'_>, stream: GroupPort) {
    let Some((Carriage::Native, bytes)) = classify(frame.bytes, stream.group) else { return };
    let Some(payload) = stream_payload(frame.bytes, Carriage::Native, stream.port) else { return };
    let mut record = record.lock().expect("only this thread could have panicked");
    record.sent.push(Sent { fingerprint: fingerprint(payload), at: frame.at });
    record.counts.add(bytes);
}

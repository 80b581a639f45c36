//! Records what a source sends, on its own wire: the truth that clients are judged by.

use std::time::Duration;

use super::{
    Carriage, Counts, GroupPort, classify, fingerprint, stream_payload,
    watch::{Frame, Watch},
};
use crate::{LabError, Namespace, clock::Clock};

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
        let note = move |record: &mut Record, frame: Frame<'_>| note(record, frame, stream);
        Ok(Self { watch: Watch::start(namespace, interface, clock, note)? })
    }

    /// Packets and bytes so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.watch.state().counts
    }

    /// What was sent from the given place in the record on, before now.
    #[must_use]
    pub fn sent_from(&self, start: usize) -> Vec<Sent> {
        self.watch.state().sent.get(start..).unwrap_or_default().to_vec()
    }
}

fn note(record: &mut Record, frame: Frame<'_>, stream: GroupPort) {
    let Some((Carriage::Native, bytes)) = classify(frame.bytes, stream.group) else { return };
    let Some(payload) = stream_payload(frame.bytes, Carriage::Native, stream.port) else { return };
    record.sent.push(Sent { fingerprint: fingerprint(payload), at: frame.at });
    record.counts.add(bytes);
}

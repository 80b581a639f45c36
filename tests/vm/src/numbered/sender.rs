//! A source on the host.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use libtest_mimic::Failed;
use vmcast_lab::{LabError, Namespace};

use super::{Stream, payload, socket};
use crate::bed::{Bed, Outcome, ensure};

/// Packets pass at most so many hops.
pub(crate) const TTL: u32 = 16;

/// Some 250 packets in a second. The ring of a veth holds 256: on a busy machine the other end may get no
/// processor for a second.
pub(crate) const PACE: Duration = Duration::from_millis(4);

/// Sends numbered packets at a steady pace until it is stopped.
pub(crate) struct Sender {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<io::Result<()>, LabError>>>,
}

impl Sender {
    /// Begins to send from an address of a node.
    pub(crate) fn start(
        node: &Namespace,
        local: IpAddr,
        interface: &'static str,
        stream: Stream,
    ) -> Result<Self, Failed> {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = node.thread("sender", move || {
            let socket = socket::sender(local, interface, TTL)?;
            while !ended.load(Ordering::Relaxed) {
                socket.send_to(&payload(count.load(Ordering::Relaxed)), stream.address())?;
                count.fetch_add(1, Ordering::SeqCst);
                thread::sleep(PACE);
            }
            Ok(())
        })?;
        Ok(Self { sent, stop, thread: Some(thread) })
    }

    /// Waits until so many more were sent.
    pub(crate) fn more(&self, bed: &Bed, packets: u64) -> Outcome {
        let sent = || self.sent.load(Ordering::SeqCst);
        let target = sent() + packets;
        bed.until("the source has sent more", || {
            ensure!(self.thread.as_ref().is_some_and(|thread| !thread.is_finished()), "the source failed");
            Ok(sent() >= target)
        })
    }

    /// Ends, and tells how many were sent; their numbers begin at 0.
    pub(crate) fn stop(mut self) -> Result<u64, Failed> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| "the source panicked")???;
        }
        Ok(self.sent.load(Ordering::SeqCst))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

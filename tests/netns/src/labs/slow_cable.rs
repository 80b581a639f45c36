//! A cable on which every frame takes its time, for a kernel without netem: two ends in a namespace of its own, between
//! which the test itself carries the frames.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use libtest_mimic::Failed;
use nix::{
    errno::Errno,
    sys::socket::{LinkAddr, MsgFlags, recvfrom, send},
};
use vmcast_lab::{LabError, Namespace, clock::Clock, traffic::packet_socket};

use super::bed::Bed;

/// The ends of the cable in its namespace.
pub(super) const ENDS: [&str; 2] = ["one", "two"];
/// A frame, with room for whatever a veth carries.
const FRAME: usize = 1 << 16;
/// How long reading waits before it is looked whether the test is over.
const LOOK: Duration = Duration::from_millis(50);
/// How often it is looked how late the machine is.
const TICK: Duration = Duration::from_millis(5);

/// Carries frames both ways until it is dropped.
pub(super) struct SlowCable {
    stop: Arc<AtomicBool>,
    /// Microseconds by which a thread was woken too late at most.
    late: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), LabError>>>,
}

impl SlowCable {
    /// Starts to carry frames between the ends, which are there; each takes so long.
    pub(super) fn start(bed: &Bed, node: &Namespace, delay: Duration) -> Result<Self, Failed> {
        let (stop, late) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for (from, to) in [(ENDS[0], ENDS[1]), (ENDS[1], ENDS[0])] {
            let open = |end: &'static str| node.enter(move || packet_socket(end, LOOK));
            let (from, to) = (open(from)??, open(to)??);
            let (frames, waiting) = mpsc::channel();
            let (clock, stop) = (bed.clock, Arc::clone(&stop));
            threads.push(node.thread("in", move || take(&from, &frames, clock, &stop))?);
            threads.push(node.thread("out", move || give(&to, &waiting, clock, delay))?);
        }
        let (clock, ended, noted) = (bed.clock, Arc::clone(&stop), Arc::clone(&late));
        threads.push(node.thread("pace", move || {
            while !ended.load(Ordering::Relaxed) {
                let due = clock.now() + TICK;
                thread::sleep(TICK);
                let by = clock.now().saturating_sub(due).as_micros();
                noted.fetch_max(u64::try_from(by).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        })?);
        Ok(Self { stop, late, threads })
    }

    /// By how much this machine was late at most since the last look.
    pub(super) fn lateness(&self) -> Duration {
        Duration::from_micros(self.late.swap(0, Ordering::Relaxed))
    }
}

impl Drop for SlowCable {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What it could not do the test has noticed.
            let _ = thread.join();
        }
    }
}

/// Takes what comes in at an end.
fn take(from: &OwnedFd, frames: &mpsc::Sender<(Duration, Vec<u8>)>, clock: Clock, stop: &AtomicBool) {
    let mut buffer = vec![0; FRAME];
    while !stop.load(Ordering::Relaxed) {
        match recvfrom::<LinkAddr>(from.as_raw_fd(), &mut buffer) {
            Ok((_, address)) if address.is_some_and(|at| at.pkttype() == libc::PACKET_OUTGOING) => {}
            Ok((length, _)) => {
                if frames.send((clock.now(), buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENETDOWN) => {}
            Err(error) => panic!("a cable is cut: {error}"),
        }
    }
}

/// Sends it out at the other when its time has come, in order.
fn give(to: &OwnedFd, waiting: &mpsc::Receiver<(Duration, Vec<u8>)>, clock: Clock, delay: Duration) {
    while let Ok((at, frame)) = waiting.recv() {
        thread::sleep((at + delay).saturating_sub(clock.now()));
        // One that does not fit any more is lost, as on a cable.
        let _ = send(to.as_raw_fd(), &frame, MsgFlags::empty());
    }
}

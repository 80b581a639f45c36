//! Frames as fast as the machine sends them, or not so fast: many to a call, past the queues of the interface.

use std::{
    io, iter,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{LabError, Namespace, clock::Clock, traffic::packet_socket};

/// How fast frames are sent.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Frames of one call, at least one.
    pub at_once: usize,
    /// Between two calls.
    pub pause: Duration,
}

impl Pace {
    /// As fast as the machine sends them.
    pub const FASTEST: Self = Self { at_once: 256, pause: Duration::ZERO };
}

/// Sends the same frames over and over until it is stopped.
#[derive(Debug)]
pub struct Flood {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clock: Clock,
    started: Duration,
    thread: JoinHandle<Result<io::Result<()>, LabError>>,
}

/// What a flood was.
#[derive(Clone, Copy, Debug)]
pub struct Flooded {
    /// Frames that the kernel took.
    pub sent: u64,
    /// How long it lasted.
    pub took: Duration,
}

impl Flooded {
    /// Frames in a second.
    #[must_use]
    pub fn rate(self) -> f64 {
        self.sent as f64 / self.took.as_secs_f64()
    }
}

impl Flood {
    /// Begins to send frames, with their Ethernet headers, out of an interface of a node.
    ///
    /// # Errors
    /// If the thread or the socket cannot be had.
    pub fn start(
        node: &Namespace,
        interface: &'static str,
        frames: Vec<Vec<u8>>,
        clock: Clock,
    ) -> Result<Self, LabError> {
        Self::with_pace(node, interface, frames, Pace::FASTEST, clock)
    }

    /// The same, no faster than this.
    ///
    /// # Errors
    /// As of [`Flood::start`].
    pub fn with_pace(
        node: &Namespace,
        interface: &'static str,
        frames: Vec<Vec<u8>>,
        Pace { at_once, pause }: Pace,
        clock: Clock,
    ) -> Result<Self, LabError> {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = node.thread("flood", move || {
            let socket = packet_socket(interface, Duration::from_millis(1))?;
            bypass_queues(&socket)?;
            for frames in iter::repeat_with(|| frames.chunks(at_once)).flatten() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                count.fetch_add(send(&socket, frames)?, Ordering::Relaxed);
                if !pause.is_zero() {
                    thread::sleep(pause);
                }
            }
            Ok(())
        })?;
        Ok(Self { sent, stop, clock, started: clock.now(), thread })
    }

    /// Ends it.
    ///
    /// # Errors
    /// If a frame was refused for another reason than that the interface has no room.
    ///
    /// # Panics
    /// If the thread panicked.
    pub fn stop(self) -> Result<Flooded, LabError> {
        self.stop.store(true, Ordering::Relaxed);
        let took = self.clock.now() - self.started;
        self.thread.join().expect("the flood panics nowhere")?.map_err(LabError::io("flooding"))?;
        Ok(Flooded { sent: self.sent.load(Ordering::Relaxed), took })
    }
}

fn bypass_queues(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends frames, and passes over those that there is no room for; how many were taken.
fn send(socket: &OwnedFd, frames: &[Vec<u8>]) -> io::Result<u64> {
    let mut parts: Vec<libc::iovec> = frames
        .iter()
        .map(|frame| libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: every field of `mmsghdr` is an integer or a pointer, for which all zeros is a value.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    // SAFETY: the headers point to `parts` and these to `frames`, all of which outlive the call; the kernel only reads
    // what they point to, and writes lengths into the headers.
    let result = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
        )
    };
    match u64::try_from(result) {
        Ok(sent) => Ok(sent),
        Err(_) => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => Ok(0),
            error => Err(error),
        },
    }
}

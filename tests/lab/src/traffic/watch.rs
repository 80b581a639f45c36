//! A thread that watches one interface.

use std::{
    fmt,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    POLL,
    packet_socket::{Direction, packet_socket, receive},
};
use crate::{LabError, Namespace, clock::Clock};

/// The largest frame.
const FRAME: usize = 65_536;

/// A frame that passed the interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    /// When.
    pub(super) at: Duration,
    /// Which way.
    pub(super) direction: Direction,
    /// What, from the link-layer header on.
    pub(super) bytes: &'a [u8],
}

/// More frames than wait in a socket's buffer at a time.
const MOST_WAITING: usize = 1 << 16;

/// What is made of a frame.
type Note<S> = dyn Fn(&mut S, Frame<'_>) + Send + Sync;

struct Shared<S> {
    socket: OwnedFd,
    clock: Clock,
    note: Box<Note<S>>,
    /// Whoever holds it is the one who takes frames from the socket.
    state: Mutex<S>,
    stop: AtomicBool,
}

impl<S> Shared<S> {
    /// The state, once the frames that wait are noted.
    fn noted(&self, buffer: &mut [u8]) -> Result<MutexGuard<'_, S>, LabError> {
        let mut state = self.state.lock().expect("a watch does not panic");
        for _ in 0..MOST_WAITING {
            let Some((length, direction)) = receive(&self.socket, buffer)? else { break };
            (self.note)(&mut state, Frame { at: self.clock.now(), direction, bytes: &buffer[..length] });
        }
        Ok(state)
    }

    /// Takes frames from the socket until it is told to stop.
    fn watch(&self) -> Result<(), LabError> {
        let mut buffer = vec![0; FRAME];
        while !self.stop.load(Ordering::Relaxed) {
            let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut sockets, PollTimeout::try_from(POLL).unwrap_or(PollTimeout::MAX)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => drop(self.noted(&mut buffer)?),
                Err(error) => return Err(LabError::errno("watching an interface")(error)),
            }
        }
        Ok(())
    }
}

/// Watches an interface until it is dropped; what it makes of the frames is its state.
pub(super) struct Watch<S> {
    shared: Arc<Shared<S>>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl<S> fmt::Debug for Watch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("socket", &self.shared.socket).finish_non_exhaustive()
    }
}

impl<S: Default + Send + 'static> Watch<S> {
    /// Begins to watch: `note` is given the state and each frame from now on.
    ///
    /// # Errors
    /// If the interface does not exist or packet sockets are refused.
    pub(super) fn start(
        namespace: &Namespace,
        interface: &str,
        clock: Clock,
        note: impl Fn(&mut S, Frame<'_>) + Send + Sync + 'static,
    ) -> Result<Self, LabError> {
        let what = format!("watching {interface} of {}", namespace.node());
        let socket =
            namespace.enter(|| packet_socket(interface, POLL))?.map_err(LabError::io(what.as_str()))?;
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(LabError::errno(what.as_str()))?;
        let shared = Shared {
            socket,
            clock,
            note: Box::new(note),
            state: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        let shared = Arc::new(shared);
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("{}-{interface}", namespace.node()))
            .spawn(move || theirs.watch())
            .map_err(LabError::io(what))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl<S> Watch<S> {
    /// What it has made of all frames that have passed so far.
    pub(super) fn state(&self) -> MutexGuard<'_, S> {
        self.shared.noted(&mut vec![0; FRAME]).unwrap_or_else(|_| {
            // Like those of the thread, its errors show as missing packets.
            self.shared.state.lock().expect("a watch does not panic")
        })
    }
}

impl<S> Drop for Watch<S> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its errors have already shown as missing packets.
            let _ = thread.join();
        }
    }
}

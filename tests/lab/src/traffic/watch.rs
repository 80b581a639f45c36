//! A thread that watches one interface.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{
    POLL,
    packet_socket::{Direction, packet_socket, receive},
};
use crate::{LabError, Namespace, clock::Clock};

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

#[derive(Debug)]
struct Shared<S> {
    state: Mutex<S>,
    stop: AtomicBool,
}

/// Watches an interface until it is dropped; what its thread makes of the frames is its state.
#[derive(Debug)]
pub(super) struct Watch<S> {
    shared: Arc<Shared<S>>,
    thread: Option<JoinHandle<Result<(), LabError>>>,
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
        note: impl Fn(&Mutex<S>, Frame<'_>) + Send + 'static,
    ) -> Result<Self, LabError> {
        let what = format!("watching {interface} of {}", namespace.node());
        let socket =
            namespace.enter(|| packet_socket(interface, POLL))?.map_err(LabError::io(what.as_str()))?;
        let shared = Arc::new(Shared { state: Mutex::default(), stop: AtomicBool::new(false) });
        let theirs = Arc::clone(&shared);
        let watch = move || {
            let mut buffer = vec![0; 65536];
            while !theirs.stop.load(Ordering::Relaxed) {
                let Some((length, direction)) = receive(&socket, &mut buffer)? else { continue };
                note(&theirs.state, Frame { at: clock.now(), direction, bytes: &buffer[..length] });
            }
            Ok(())
        };
        let thread = std::thread::Builder::new()
            .name(format!("{}-{interface}", namespace.node()))
            .spawn(watch)
            .map_err(LabError::io(what))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl<S> Watch<S> {
    /// What it has made of the frames so far.
    pub(super) fn state(&self) -> MutexGuard<'_, S> {
        self.shared.state.lock().expect("a watch does not panic")
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

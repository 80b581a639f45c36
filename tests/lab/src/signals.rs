//! Ctrl-C, SIGTERM and SIGHUP as a request to stop, so that a lab takes itself down.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::LabError;

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Turns the signals that end a program into a request to stop.
///
/// # Errors
/// If the system refuses the handler.
pub fn install() -> Result<(), LabError> {
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but a store to an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.map_err(LabError::errno(format!("handling {signal}")))?;
    }
    Ok(())
}

/// Whether a signal asked the program to stop.
#[must_use]
pub fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// Fails once a signal asked the program to stop.
///
/// # Errors
/// [`LabError::Stopped`].
pub fn check() -> Result<(), LabError> {
    if stop_requested() { Err(LabError::Stopped) } else { Ok(()) }
}

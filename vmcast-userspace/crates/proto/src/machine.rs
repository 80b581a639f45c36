//! The seam between protocol logic and the daemon that drives it.

use std::time::Instant;

/// A protocol machine without I/O.
///
/// The driver passes every input and the present time, then drains [`Machine::poll_output`] and
/// sleeps until [`Machine::poll_timeout`]. Time never goes backwards between calls.
pub trait Machine {
    /// What the machine reacts to.
    type Input<'a>;
    /// What it wants done or known.
    type Output;

    /// Takes one input.
    fn handle_input(&mut self, now: Instant, input: Self::Input<'_>);

    /// Lets every timer that is due by `now` fire.
    fn handle_timeout(&mut self, now: Instant);

    /// When [`Machine::handle_timeout`] wants to be called next; `None` if no timer runs.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Takes the next output; call it until it is `None`.
    fn poll_output(&mut self) -> Option<Self::Output>;
}

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// What is left of an input that is read as a list of steps.
pub(crate) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(crate) const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next step and its argument.
    pub(crate) fn step(&mut self) -> Option<(u8, u8)> {
        let ([step, argument], rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some((*step, *argument))
    }

    /// As many bytes as there are, at most `most`.
    pub(crate) fn bytes(&mut self, most: u8) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(self.0.len().min(usize::from(most)));
        self.0 = rest;
        bytes
    }

    /// Bytes behind their length.
    pub(crate) fn sized(&mut self) -> &'a [u8] {
        match self.bytes(1) {
            [length] => self.bytes(*length),
            _ => &[],
        }
    }
}

/// A short or a long while, as a step says it.
pub(crate) fn pause(long: bool, argument: u8) -> Duration {
    let unit = if long { Duration::from_secs(4) } else { Duration::from_millis(10) };
    unit * u32::from(argument)
}

/// An instant to count from; the clock is read once.
#[expect(clippy::disallowed_methods, reason = "an Instant can only be had from the clock")]
pub(crate) fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

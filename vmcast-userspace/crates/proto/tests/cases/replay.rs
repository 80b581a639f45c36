//! The runner of cases. Labs have it as well, for what daemons record there.

mod amt;
mod case;
mod describe;
mod discovery;
mod gateway;
mod mrib;
mod querier;
mod relay;
mod words;

use std::time::Instant;

pub(crate) use case::Case;

/// A machine under test, and how its lines are read.
pub(crate) trait Subject {
    /// Acts upon an input.
    fn input(&mut self, now: Instant, words: &[&str]);
    /// Lets timers fire.
    fn timeout(&mut self, now: Instant);
    /// When the next timer is due.
    fn next(&self) -> Option<Instant>;
    /// What came out, one line each.
    fn outputs(&mut self) -> Vec<String>;
    /// Its state, one line each.
    fn show(&self, now: Instant) -> Vec<String>;
    /// The input that words of an author stand for; `None` if it is one already.
    fn expand(&self, words: &[&str]) -> Option<String>;
    /// What a line says, for readers.
    fn describe(&self, line: &str) -> Option<String>;
}

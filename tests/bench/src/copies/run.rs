//! What every engine under measurement does.

use std::time::Duration;

use anyhow::Result;

use super::rig::Rig;

/// One stretch of work.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    /// Packets that came in.
    pub(super) packets: u64,
    /// Copies that arrived, by member.
    pub(super) copies: Vec<u64>,
    /// Time of the one core that did it all.
    pub(super) time: Duration,
}

impl Run {
    pub(super) fn delivered(&self) -> u64 {
        self.copies.iter().sum()
    }

    pub(super) fn expected(&self) -> u64 {
        self.packets * self.copies.len() as u64
    }

    /// Whether each member got each packet once.
    pub(super) fn is_exact(&self) -> bool {
        self.copies.iter().all(|copies| *copies == self.packets)
    }

    pub(super) fn copies_per_second(&self) -> f64 {
        self.delivered() as f64 / self.time.as_secs_f64()
    }
}

/// Something that makes copies.
pub(super) trait Engine {
    /// Its name in tables.
    fn label(&self) -> &'static str;

    /// Packets that it takes in at one go.
    fn burst(&self, members: usize) -> usize;

    /// Copies packets of `payload` bytes to `members` members for `at_least` so long; zero asks for a
    /// few packets only.
    fn run(&mut self, rig: &Rig, members: usize, payload: usize, at_least: Duration) -> Result<Run>;

    /// What the engine itself says of copies that did not arrive.
    fn explain_loss(&self) -> Result<String>;
}

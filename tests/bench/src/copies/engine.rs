//! What everything that makes copies is asked to do.

use std::time::Duration;

use anyhow::Result;

use super::case::Case;

/// One stretch of work.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    /// Number of the first packet; the others follow.
    pub(super) first: u64,
    /// Packets that went in.
    pub(super) packets: u64,
    /// Time of the one core that did it all.
    pub(super) time: Duration,
}

/// Someone whom the sink tells apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receiver {
    /// Its number in the sink.
    pub(super) key: u32,
    /// Copies of each packet that it has to get.
    pub(super) copies: u64,
}

impl Receiver {
    /// One that gets every packet once.
    pub(super) const fn once(key: u32) -> Self {
        Self { key, copies: 1 }
    }
}

/// Something that makes copies.
pub(super) trait Engine {
    /// Its name in tables.
    fn label(&self) -> &'static str;

    /// Whether it is one of vmcast's.
    fn is_ours(&self) -> bool {
        false
    }

    /// What a copy to this member is sent as.
    fn output(&self, case: &Case) -> &'static str;

    /// Packets that it takes in at one go.
    fn burst(&self, case: &Case) -> usize {
        case.batch()
    }

    /// Makes the members of a case and their streams; says who they are. Every packet of the case goes
    /// to each of them. What was prepared before and is not cleared stays.
    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>>;

    /// Copies packets of a prepared case for `at_least` so long; zero asks for a few packets only.
    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run>;

    /// Forgets what was prepared.
    fn clear(&mut self) -> Result<()>;

    /// What the engine itself says of copies that did not arrive.
    fn explain_loss(&self) -> Result<String>;
}

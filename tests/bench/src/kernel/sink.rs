//! The far end of the copies: counts them by receiver and drops them.

use anyhow::Result;
use aya::Ebpf;

use super::{
    One, PerCpu, attach,
    layout::{ALL_KEYS, CHECKS, COUNTS, Count, PROGRAM_SINK},
    load, take,
};

/// The sink's program; detached when dropped.
pub(crate) struct Sink {
    object: Ebpf,
    counts: PerCpu<Count>,
    checks: One<u32>,
}

impl Sink {
    pub(crate) fn load() -> Result<Self> {
        let mut object = load(COUNTS, ALL_KEYS)?;
        let counts = take(&mut object, COUNTS)?;
        let checks = take(&mut object, CHECKS)?;
        Ok(Self { object, counts, checks })
    }

    /// Attaches to interfaces of the calling thread's namespace.
    pub(crate) fn attach(&mut self, interfaces: impl IntoIterator<Item = u32>) -> Result<()> {
        attach(&mut self.object, PROGRAM_SINK, interfaces)
    }

    /// Whether the numbers of the copies are looked at, too: more work than belongs into a measurement.
    pub(crate) fn check(&mut self, on: bool) -> Result<()> {
        Ok(self.checks.set(0, u32::from(on), 0)?)
    }

    /// What these receivers have got so far.
    pub(crate) fn counts(&self, keys: impl IntoIterator<Item = u32>) -> Result<Vec<Count>> {
        let sum = |sum: Count, one: &Count| Count {
            copies: sum.copies + one.copies,
            marks: sum.marks.wrapping_add(one.marks),
        };
        keys.into_iter().map(|key| Ok(self.counts.get(&key, 0)?.iter().fold(Count::default(), sum))).collect()
    }
}

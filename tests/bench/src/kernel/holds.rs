//! How long received packets keep a core.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::{Ebpf, programs::RawTracePoint};

use super::{
    PerCpu,
    layout::{HOLDS, Hold, PROGRAM_ENTRY, PROGRAM_EXIT, PROGRAM_POLL},
    load, program, take,
};

/// Watches the softirqs that take packets in, on every core, until it is dropped.
pub(crate) struct Holds {
    _object: Ebpf,
    holds: PerCpu<Hold>,
}

/// The longest seen on one core.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Longest {
    /// A softirq from its start to its end.
    pub(crate) softirq: Duration,
    /// One device's turn in it.
    pub(crate) poll: Duration,
}

impl Holds {
    pub(crate) fn watch() -> Result<Self> {
        let mut object = load(HOLDS, 1)?;
        let holds = take(&mut object, HOLDS)?;
        let places =
            [(PROGRAM_ENTRY, "softirq_entry"), (PROGRAM_EXIT, "softirq_exit"), (PROGRAM_POLL, "napi_poll")];
        for (name, tracepoint) in places {
            let program: &mut RawTracePoint = program(&mut object, name)?;
            program.load().with_context(|| format!("loading {name}"))?;
            program.attach(tracepoint).with_context(|| format!("attaching to {tracepoint}"))?;
        }
        Ok(Self { _object: object, holds })
    }

    /// What was the longest on a core since the watch began; `None` if it took in nothing.
    pub(crate) fn longest(&self, core: usize) -> Result<Option<Longest>> {
        let cores = self.holds.get(&0, 0)?;
        Ok(cores.get(core).filter(|hold| hold.softirqs > 0).map(|hold| Longest {
            softirq: Duration::from_nanos(hold.longest_softirq),
            poll: Duration::from_nanos(hold.longest_poll),
        }))
    }
}

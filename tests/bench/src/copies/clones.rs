//! The kernel's own share at TC: clones of packets of the same length that nobody rewrites.
//!
//! An engine that walks as many members at a time does all of this for them and more. One that goes on with the next
//! members by itself, where a packet has more of them than one walk, spares what a frame costs to come in: each walk
//! here is of a frame of its own. So there an engine may be faster, by about that.

use std::time::Duration;

use anyhow::Result;
use vmcast_common::maps::limit;
use vmcast_lab::Lab;

use super::{
    case::Case,
    engine::{Engine, Receiver, Run},
    feed::Feeder,
    floor::{as_long_as_copies, interfaces, parts, receivers},
    stand::{INGRESS, Stand},
};
use crate::kernel::{clones::Clones, layout::Lists, sink::Sink};

/// Copies of one walk at most, as many as those of a plane have.
const WALK: usize = limit::LIST_CHUNK as usize;

pub(super) struct CloneEngine {
    stand: Stand,
    feeder: Feeder,
    clones: Clones,
    /// The case whose members are in the list.
    current: Option<Case>,
}

impl CloneEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink, outputs: usize) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, "clones", outputs)?;
        let clones = stand.dut.enter(|| Clones::attach(INGRESS))??;
        Ok(Self { stand, feeder: Feeder::load()?, clones, current: None })
    }

    /// Makes the list that of a case.
    fn turn_to(&mut self, case: &Case) -> Result<()> {
        if self.current != Some(*case) {
            let lists = Lists { members: u32::try_from(case.members)?, parts: parts(case, WALK) };
            self.clones.set(&interfaces(&self.stand, case), lists, case.groups)?;
            self.current = Some(*case);
        }
        Ok(())
    }
}

impl Engine for CloneEngine {
    fn label(&self) -> &'static str {
        "TC floor"
    }

    fn output(&self, _case: &Case) -> &'static str {
        "not rewritten"
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        Ok(receivers(&self.stand, case))
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        self.turn_to(case)?;
        self.feeder.run_in_parts(&self.stand, &as_long_as_copies(case), parts(case, WALK), at_least)
    }

    fn clear(&mut self) -> Result<()> {
        Ok(())
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("the kernel says nothing of them".to_owned())
    }
}

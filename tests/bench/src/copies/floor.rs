//! The kernel's own share at XDP: a devmap broadcast of frames of the same length that nobody rewrites, and one of
//! which a program rewrites a single byte, since no kernel rewrites a copy without a program.
//!
//! An engine on devmaps that broadcasts to as many members at a time does all of the latter for them and more. Where a
//! packet has more members than one broadcast, an engine has its own way to the next ones, a relay device, and a floor a
//! frame of its own for them, which comes in anew: there neither has to be the faster one.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use vmcast_common::maps::limit;
use vmcast_lab::Lab;

use super::{
    case::{Case, Output},
    engine::{Engine, Receiver, Run},
    feed::Feeder,
    queue::HEADROOM,
    stand::{Stand, interface_receiver},
};
use crate::kernel::{floor::Floor, layout::Lists, sink::Sink};

/// What becomes of a copy of the floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Touch {
    /// Nothing: its slot has no program.
    Nothing,
    /// One byte is written, by a program in its slot.
    OneByte,
}

pub(super) struct FloorEngine {
    stand: Stand,
    feeder: Feeder,
    touch: Touch,
    broadcasts: BTreeMap<Case, Floor>,
}

/// Copies of one broadcast at most, as many as those of a plane have.
const BROADCAST: usize = limit::CHUNK as usize + 4;

impl FloorEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink, touch: Touch, outputs: usize) -> Result<Self> {
        let name = match touch {
            Touch::Nothing => "floor",
            Touch::OneByte => "touch",
        };
        let stand = Stand::with_sink(lab, sink, name, outputs)?;
        Ok(Self { stand, feeder: Feeder::load()?, touch, broadcasts: BTreeMap::new() })
    }
}

/// The interface of each member. Those on one stand together: a device that gets many copies in a row is polled less
/// often.
pub(super) fn interfaces(stand: &Stand, case: &Case) -> Vec<u32> {
    let devices = &stand.egress[..case.devices()];
    let members = |device| (case.members.saturating_sub(device)).div_ceil(devices.len());
    devices.iter().enumerate().flat_map(|(device, cable)| vec![cable.ifindex; members(device)]).collect()
}

/// How many parts the members are in so that none has more than `most`.
pub(super) const fn parts(case: &Case, most: usize) -> u32 {
    case.members.div_ceil(most) as u32
}

/// The far ends: copies that nobody rewrites tell no members apart.
pub(super) fn receivers(stand: &Stand, case: &Case) -> Vec<Receiver> {
    let devices = &stand.egress[..case.devices()];
    let share = |device: usize| (case.members - device).div_ceil(devices.len()) as u64;
    let receivers = devices.iter().enumerate().take(case.members);
    receivers.map(|(device, cable)| Receiver { copies: share(device), ..interface_receiver(cable) }).collect()
}

/// The case whose packets are as long as the copies.
pub(super) fn as_long_as_copies(case: &Case) -> Case {
    let payload = match case.output {
        Output::Unicast | Output::UnicastV6 => case.payload + HEADROOM,
        Output::Native => case.payload,
    };
    Case { payload, ..*case }
}

impl Engine for FloorEngine {
    fn label(&self) -> &'static str {
        match self.touch {
            Touch::Nothing => "XDP floor",
            Touch::OneByte => "XDP floor, one byte rewritten",
        }
    }

    fn output(&self, _case: &Case) -> &'static str {
        match self.touch {
            Touch::Nothing => "not rewritten",
            Touch::OneByte => "one byte",
        }
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        if !self.broadcasts.contains_key(case) {
            let lists = Lists { members: u32::try_from(case.members)?, parts: parts(case, BROADCAST) };
            let (slots, touched) = (interfaces(&self.stand, case), self.touch == Touch::OneByte);
            let broadcast = self.stand.dut.enter(|| Floor::load(&slots, lists, case.groups, touched))??;
            self.broadcasts.insert(*case, broadcast);
        }
        Ok(receivers(&self.stand, case))
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        let broadcast = self.broadcasts.get_mut(case).context("the case was not prepared")?;
        self.feeder.source.go_on_with(&broadcast.program()?)?;
        self.feeder.run_in_parts(&self.stand, &as_long_as_copies(case), parts(case, BROADCAST), at_least)
    }

    fn clear(&mut self) -> Result<()> {
        self.broadcasts.clear();
        Ok(())
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("the kernel says nothing of them".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::layout::first_of_part;

    #[test]
    fn a_floor_has_as_few_parts_as_a_plane_may_have_and_all_members_in_them() {
        for (members, most, wanted) in [(64, 64, 1), (65, 64, 2), (10_000, 64, 157), (10_000, BROADCAST, 79)]
        {
            let case = Case { output: Output::Unicast, members, groups: 3, payload: 64 };
            let parts = parts(&case, most);
            assert_eq!(parts, wanted, "{members} members");
            let first = |part| first_of_part(part, members as u32, parts) as usize;
            // Those of the second group follow those of the first.
            assert_eq!((first(0), first(parts), first(2 * parts)), (0, members, 2 * members));
            for part in 0..2 * parts {
                let share = first(part + 1) - first(part);
                assert!(
                    (1..=most).contains(&share),
                    "part {part} of {parts} has {share} of {members} members"
                );
            }
        }
    }
}

//! The kernel's own share at XDP: a devmap broadcast of frames of the same length that nobody rewrites. No
//! engine on devmaps can be faster.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use vmcast_lab::Lab;

use super::{
    case::{Case, Output},
    engine::{Engine, Receiver, Run},
    feed::Feeder,
    queue::HEADROOM,
    stand::{Stand, interface_receiver},
};
use crate::kernel::{floor::Floor, sink::Sink};

pub(super) struct FloorEngine {
    stand: Stand,
    feeder: Feeder,
    broadcasts: BTreeMap<Case, Floor>,
}

impl FloorEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink, outputs: usize) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, "floor", outputs)?;
        Ok(Self { stand, feeder: Feeder::load()?, broadcasts: BTreeMap::new() })
    }
}

/// The interface of each member.
pub(super) fn interfaces(stand: &Stand, case: &Case) -> Vec<u32> {
    let devices = &stand.egress[..case.devices()];
    devices.iter().cycle().take(case.members).map(|cable| cable.ifindex).collect()
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
        Output::Unicast => case.payload + HEADROOM,
        Output::Native => case.payload,
    };
    Case { payload, ..*case }
}

impl Engine for FloorEngine {
    fn label(&self) -> &'static str {
        "XDP floor"
    }

    fn peer(&self, _case: &Case) -> &'static str {
        "not rewritten"
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        if !self.broadcasts.contains_key(case) {
            let slots = interfaces(&self.stand, case);
            let broadcast = self.stand.dut.enter(|| Floor::load(&slots, case.groups))??;
            self.broadcasts.insert(*case, broadcast);
        }
        Ok(receivers(&self.stand, case))
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        let broadcast = self.broadcasts.get_mut(case).context("the case was not prepared")?;
        self.feeder.source.go_on_with(&broadcast.program()?)?;
        self.feeder.run(&self.stand, &as_long_as_copies(case), 0, at_least)
    }

    fn clear(&mut self) -> Result<()> {
        self.broadcasts.clear();
        Ok(())
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("the kernel says nothing of them".to_owned())
    }
}

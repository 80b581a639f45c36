//! The kernel's own share: a devmap broadcast of frames of the same length that nobody rewrites. No engine
//! on devmaps can be faster.

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
    broadcasts: BTreeMap<usize, Floor>,
}

impl FloorEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink, outputs: usize) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, "floor", outputs)?;
        Ok(Self { stand, feeder: Feeder::load()?, broadcasts: BTreeMap::new() })
    }
}

impl Engine for FloorEngine {
    fn label(&self) -> &'static str {
        "kernel floor"
    }

    fn peer(&self, _case: &Case) -> &'static str {
        "not rewritten"
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        let devices = &self.stand.egress[..case.devices()];
        if !self.broadcasts.contains_key(&case.members) {
            let slots: Vec<u32> =
                devices.iter().cycle().take(case.members).map(|cable| cable.ifindex).collect();
            let broadcast = self.stand.dut.enter(|| Floor::load(&slots))??;
            self.broadcasts.insert(case.members, broadcast);
        }
        let share = |device: usize| (case.members - device).div_ceil(devices.len()) as u64;
        let receivers = devices.iter().enumerate().take(case.members);
        Ok(receivers
            .map(|(device, cable)| Receiver { copies: share(device), ..interface_receiver(cable) })
            .collect())
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        let broadcast = self.broadcasts.get_mut(&case.members).context("the case was not prepared")?;
        self.feeder.source.go_on_with(&broadcast.program()?)?;
        // As long as the copies of a tunnel.
        let payload = match case.output {
            Output::Unicast => case.payload + HEADROOM,
            Output::Native => case.payload,
        };
        self.feeder.run(&self.stand, &Case { payload, ..*case }, 0, at_least)
    }

    fn clear(&mut self) -> Result<()> {
        self.broadcasts.clear();
        Ok(())
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("the kernel says nothing of them".to_owned())
    }
}

//! The kernel's own multicast forwarding, set up as smcroute does it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use vmcast_lab::{
    Lab,
    mroute::{MAX_VIFS, MulticastRouter},
};

use super::{
    case::Case,
    engine::{Engine, Receiver, Run},
    feed::Feeder,
    stand::{Stand, interface_receiver},
    stream::{self, Ranges},
};
use crate::kernel::sink::Sink;

/// Copies of a packet at most: the interface it came in by gets none.
pub(crate) const MAX_OUTPUTS: usize = MAX_VIFS - 1;

/// Makes the kernel of a stand a multicast router on the first [`MAX_OUTPUTS`] egress interfaces.
pub(crate) fn open(stand: &Stand) -> Result<MulticastRouter> {
    let cables = std::iter::once(&stand.ingress).chain(&stand.egress).take(MAX_VIFS);
    let interfaces: Vec<u32> = cables.map(|cable| cable.ifindex).collect();
    let router = stand.dut.enter(|| MulticastRouter::open(&interfaces))?;
    router.context("making the kernel a multicast router")
}

/// The router under measurement.
pub(super) struct IpmrEngine {
    stand: Stand,
    router: MulticastRouter,
    feeder: Feeder,
    ranges: Ranges,
}

impl IpmrEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, "ipmr", MAX_OUTPUTS)?;
        let router = open(&stand)?;
        Ok(Self { stand, router, feeder: Feeder::load()?, ranges: Ranges::default() })
    }
}

impl Engine for IpmrEngine {
    fn label(&self) -> &'static str {
        "kernel ipmr"
    }

    fn output(&self, _case: &Case) -> &'static str {
        "native"
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        let (range, new) = self.ranges.give(case)?;
        if new {
            (0..case.groups).try_for_each(|number| {
                self.router.add(stream::SOURCE, stream::group(range, number), case.members)
            })?;
        }
        Ok(self.stand.egress[..case.members].iter().map(interface_receiver).collect())
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        self.feeder.run(&self.stand, case, self.ranges.of(case)?, at_least)
    }

    fn clear(&mut self) -> Result<()> {
        for (case, range) in self.ranges.take() {
            (0..case.groups)
                .try_for_each(|number| self.router.remove(stream::SOURCE, stream::group(range, number)))?;
        }
        Ok(())
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("the kernel says nothing of them".to_owned())
    }
}

//! The planes whose work the kernel does.

use std::time::Duration;

use anyhow::Result;
use vmcast_lab::Lab;

use super::{
    case::{Case, OVER_IPV6, Output},
    engine::{Engine, Receiver, Run},
    feed::Feeder,
    plane::{Kind, Plane},
    stand::Stand,
};
use crate::kernel::sink::Sink;

pub(super) struct KernelEngine {
    stand: Stand,
    plane: Plane,
    feeder: Feeder,
}

impl KernelEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink, kind: Kind, outputs: usize) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, kind.name(), outputs)?;
        let plane = Plane::open(&stand, kind)?;
        let mut feeder = Feeder::load()?;
        if let Some(program) = &plane.program {
            feeder.source.go_on_with(program)?;
        }
        Ok(Self { stand, plane, feeder })
    }
}

impl Engine for KernelEngine {
    fn label(&self) -> &'static str {
        self.plane.kind.label()
    }

    fn is_ours(&self) -> bool {
        true
    }

    fn output(&self, case: &Case) -> &'static str {
        match case.output {
            Output::Unicast => "AMT",
            Output::UnicastV6 => OVER_IPV6,
            Output::Native => "native",
        }
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        self.plane.prepare(&self.stand, case)
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        let Self { stand, plane, feeder } = self;
        plane.counting(case, |range| feeder.run(stand, case, range, at_least))
    }

    fn clear(&mut self) -> Result<()> {
        self.plane.clear(&self.stand)
    }

    fn explain_loss(&self) -> Result<String> {
        Ok(format!("drops counted by the plane: {}", self.plane.drops()?))
    }
}

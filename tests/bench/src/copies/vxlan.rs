//! Head-end replication: a VXLAN device that sends a tunnelled copy to every far end in its list of
//! destinations for what it does not know (RFC 7348 §4.2, without multicast underneath).

use std::{fmt::Write as _, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use vmcast_lab::Lab;

use super::{
    case::Case,
    engine::{Engine, Receiver, Run},
    feed::Feeder,
    stand::{INGRESS, Stand, member_port, port_receiver},
    stream::Ranges,
};
use crate::kernel::sink::Sink;

const BRIDGE: &str = "br0";
const DEVICE: &str = "vx0";

pub(super) struct VxlanEngine {
    stand: Stand,
    feeder: Feeder,
    ranges: Ranges,
    /// The case whose members are in the list.
    current: Option<Case>,
    batch: PathBuf,
}

impl VxlanEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink, outputs: usize) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, "vxlan", outputs)?;
        // Between the two, so that what comes in is sent to everybody.
        stand.dut.ip(&format!(
            "link add {DEVICE} type vxlan id 1 dstport 4789 nolearning\nlink set {DEVICE} up\n\
             link add {BRIDGE} type bridge mcast_snooping 0\nlink set {BRIDGE} up\n\
             link set {INGRESS} master {BRIDGE}\nlink set {DEVICE} master {BRIDGE}\n"
        ))?;
        let batch = lab.dir().join("vxlan.batch");
        Ok(Self { stand, feeder: Feeder::load()?, ranges: Ranges::default(), current: None, batch })
    }

    /// Puts the members of a case into the list, instead of those that are there.
    fn fill(&mut self, case: Option<Case>) -> Result<()> {
        let mut lines = String::new();
        let mut list = |action: &str, case: Case| -> Result<()> {
            for member in 0..case.members {
                let cable = &self.stand.egress[member % case.devices()];
                let port = member_port(member)?;
                writeln!(
                    lines,
                    "fdb {action} 00:00:00:00:00:00 dev {DEVICE} dst {} port {port} self permanent",
                    cable.far
                )?;
            }
            Ok(())
        };
        if let Some(before) = self.current {
            list("del", before)?;
        }
        if let Some(case) = case {
            list("append", case)?;
        }
        fs::write(&self.batch, lines).with_context(|| self.batch.display().to_string())?;
        let mut command = Command::new("bridge");
        command.arg("-batch").arg(&self.batch);
        self.stand.dut.run(command)?;
        self.current = case;
        Ok(())
    }
}

impl Engine for VxlanEngine {
    fn label(&self) -> &'static str {
        "kernel vxlan"
    }

    fn output(&self, _case: &Case) -> &'static str {
        "VXLAN"
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        self.ranges.give(case)?;
        if self.current != Some(*case) {
            self.fill(Some(*case))?;
        }
        (0..case.members).map(port_receiver).collect()
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        self.feeder.run(&self.stand, case, self.ranges.of(case)?, at_least)
    }

    fn clear(&mut self) -> Result<()> {
        self.ranges.take();
        self.fill(None)
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("the kernel says nothing of them".to_owned())
    }
}

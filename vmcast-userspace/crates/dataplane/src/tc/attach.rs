//! The program on devices.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program},
    },
};
use nix::net::if_::if_indextoname;
use vmcast_common::fib::IfIndex;

use super::open::PROGRAM;
use crate::xdp::{error::KernelError, open::chain};

const INGRESS: TcAttachType = TcAttachType::Ingress;

/// What is attached where; it goes with the process.
#[derive(Debug, Default)]
pub(super) struct Attachments(BTreeMap<IfIndex, SchedClassifierLinkId>);

impl Attachments {
    pub(super) fn contains(&self, device: IfIndex) -> bool {
        self.0.contains_key(&device)
    }

    /// Puts the program on a device before all others that are there: as a link if the kernel has those
    /// (6.6), else as a filter.
    pub(super) fn attach(&mut self, object: &mut Ebpf, device: IfIndex) -> Result<(), KernelError> {
        let what = "attaching the program";
        let name = if_indextoname(device.0).map_err(KernelError::call(what))?;
        let name = name.to_string_lossy();
        let program = program(object)?;
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = match program.attach_with_options(&name, INGRESS, first) {
            Ok(id) => id,
            Err(link) => attach_filter(program, &name).map_err(|filter| {
                let text = format!("as a link: {}; as a filter: {}", chain(&link), chain(&filter));
                KernelError::call(what)(text)
            })?,
        };
        self.0.insert(device, id);
        Ok(())
    }

    /// Takes the program off a device, which may be gone already.
    pub(super) fn detach(&mut self, object: &mut Ebpf, device: IfIndex) -> Result<(), KernelError> {
        let Some(id) = self.0.remove(&device) else {
            return Ok(());
        };
        if let Err(error) = program(object)?.detach(id) {
            tracing::debug!(ifindex = device.0, %error, "the program was already detached");
        }
        Ok(())
    }
}

/// The kernel leaves a filter behind when its process is killed: that of an earlier one goes first.
fn attach_filter(program: &mut SchedClassifier, name: &str) -> Result<SchedClassifierLinkId, ProgramError> {
    if let Err(error) = qdisc_add_clsact(name) {
        tracing::debug!(interface = name, error = chain(&error), "no clsact qdisc was added");
    }
    if let Ok(()) = qdisc_detach_program(name, INGRESS, PROGRAM) {
        tracing::info!(interface = name, "the filter that an earlier process left is removed");
    }
    let first = NlOptions { priority: 1, ..NlOptions::default() };
    program.attach_with_options(name, INGRESS, TcAttachOptions::Netlink(first))
}

/// The program of the object.
pub(super) fn program(object: &mut Ebpf) -> Result<&mut SchedClassifier, KernelError> {
    let program = object.program_mut(PROGRAM).ok_or_else(|| {
        KernelError::call("looking for a program in the object")(format!("{PROGRAM} is missing"))
    })?;
    program.try_into().map_err(KernelError::call(PROGRAM))
}

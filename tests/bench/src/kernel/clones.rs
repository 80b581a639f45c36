//! Clones that nobody rewrites: what the kernel itself needs for a copy at TC.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType, tc::qdisc_add_clsact},
};

use super::{
    One,
    layout::{CLONE_LISTS, CLONES, Lists, MAX_CLONES, PROGRAM_CLONES},
    load, program, take,
};

/// The program and its devices; detached when dropped.
pub(crate) struct Clones {
    _object: Ebpf,
    devices: One<u32>,
    lists: One<Lists>,
}

impl Clones {
    /// Attaches it to an interface of the calling thread's namespace.
    pub(crate) fn attach(interface: &str) -> Result<Self> {
        let mut object = load(CLONES, MAX_CLONES)?;
        let (devices, lists) = (take(&mut object, CLONES)?, take(&mut object, CLONE_LISTS)?);
        let classifier: &mut SchedClassifier = program(&mut object, PROGRAM_CLONES)?;
        classifier.load().context("loading the clones")?;
        // Older kernels have no links for it, and want a qdisc; the others do not mind.
        let _ = qdisc_add_clsact(interface);
        classifier
            .attach(interface, TcAttachType::Ingress)
            .with_context(|| format!("attaching the clones to {interface}"))?;
        Ok(Self { _object: object, devices, lists })
    }

    /// Clones for these interfaces from now on, each as often as it is named, by a list for each group.
    pub(crate) fn set(&mut self, interfaces: &[u32], lists: Lists, groups: u32) -> Result<()> {
        ensure!(
            u64::from(lists.members) * u64::from(groups) <= u64::from(MAX_CLONES),
            "{groups} groups of {} are more than the list has room for",
            lists.members
        );
        let all = (0..groups).flat_map(|_| interfaces);
        (0..).zip(all).try_for_each(|(place, ifindex)| self.devices.set(place, *ifindex, 0))?;
        Ok(self.lists.set(0, lists, 0)?)
    }
}

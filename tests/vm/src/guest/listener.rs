//! The test's handles on receivers inside a machine.

use std::{fs, net::IpAddr};

use libtest_mimic::Failed;

use super::{WORD, there, this_program};
use crate::{
    bed::{Bed, Outcome, ensure},
    numbered::{Heard, Hears, Stream, read},
    vm::{Job, Vm},
};

/// Receivers inside a machine, in one process.
pub(crate) struct GuestListeners {
    job: Job,
    count: usize,
}

impl GuestListeners {
    /// Joins groups, or sources of them, on interfaces of the machine; each receiver hears its interface alone.
    pub(crate) fn join<'a>(
        bed: &Bed,
        vm: &Vm,
        memberships: impl IntoIterator<Item = (&'a str, Stream, Option<IpAddr>)>,
    ) -> Result<Self, Failed> {
        Self::join_in(bed, vm, None, memberships)
    }

    /// The same in a network namespace of the machine.
    pub(crate) fn join_in<'a>(
        bed: &Bed,
        vm: &Vm,
        namespace: Option<&str>,
        memberships: impl IntoIterator<Item = (&'a str, Stream, Option<IpAddr>)>,
    ) -> Result<Self, Failed> {
        let arguments: Vec<String> = memberships
            .into_iter()
            .map(|(interface, Stream { group, port }, source)| {
                let source = source.map(|source| format!(",{source}")).unwrap_or_default();
                format!("{interface},{group},{port}{source}")
            })
            .collect();
        let (there, program) = (there(namespace), this_program()?);
        let job =
            vm.start(&format!("exec {there}{} {WORD} listen {}", program.display(), arguments.join(" ")))?;
        let listeners = Self { job, count: arguments.len() };
        bed.until("the receivers in the machine have joined", || {
            let ended = listeners.job.status()?;
            ensure!(ended.is_none(), "the receivers in the machine: {}", listeners.job.said());
            Ok(listeners.job.heard(listeners.count - 1).exists())
        })?;
        Ok(listeners)
    }

    /// What came to one of them so far.
    pub(crate) fn heard(&self, place: usize) -> Result<Heard, Failed> {
        read(&fs::read_to_string(self.job.heard(place))?)
    }

    /// Waits until so many packets as are wanted have come to each of them, or nothing more comes: what has not come by
    /// then is for the caller to say.
    pub(crate) fn until_all(&self, bed: &Bed, wanted: impl Fn(usize) -> u64) -> Outcome {
        let wanted: Vec<u64> = (0..self.count).map(wanted).collect();
        bed.until_counted("everything has come", wanted.iter().sum(), || {
            let counts = wanted.iter().enumerate().map(|(place, wanted)| {
                // More of one are not the rest of another.
                Ok((self.heard(place)?.packets.len() as u64).min(*wanted))
            });
            counts.sum()
        })
    }

    /// Leaves by closing the sockets, waits for that, and tells what came to each.
    pub(crate) fn leave(self, bed: &Bed) -> Result<Vec<Heard>, Failed> {
        self.job.stop()?;
        bed.until("the receivers in the machine end", || Ok(self.job.status()?.is_some()))?;
        ensure!(self.job.status()? == Some(0), "the receivers in the machine: {}", self.job.said());
        (0..self.count).map(|place| self.heard(place)).collect()
    }
}

/// A receiver inside a machine.
pub(crate) struct GuestListener(GuestListeners);

impl GuestListener {
    /// Joins a group, or a source of it, on an interface of the machine, and hears that interface alone.
    pub(crate) fn join(
        bed: &Bed,
        vm: &Vm,
        interface: &str,
        stream: Stream,
        source: Option<IpAddr>,
    ) -> Result<Self, Failed> {
        Ok(Self(GuestListeners::join(bed, vm, [(interface, stream, source)])?))
    }

    /// Leaves by closing the socket, waits for that, and tells what came.
    pub(crate) fn leave(self, bed: &Bed) -> Result<Heard, Failed> {
        Ok(self.0.leave(bed)?.remove(0))
    }
}

impl Hears for GuestListener {
    fn heard(&self) -> Result<Heard, Failed> {
        self.0.heard(0)
    }
}

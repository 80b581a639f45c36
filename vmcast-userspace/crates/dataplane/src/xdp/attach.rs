//! The ingress program on interfaces, for the life of the process or longer.

use std::{collections::BTreeMap, fs};

use aya::{
    Ebpf,
    programs::{
        links::{FdLink, PinnedLink},
        xdp::{XdpLink, XdpLinkId, XdpMode},
    },
};
use vmcast_common::{fib::IfIndex, maps::PROGRAM_INGRESS};

use super::{
    error::KernelError,
    keep::Pins,
    open::{OnExit, xdp},
    refused,
};

/// An attached program.
#[derive(Debug)]
enum Attached {
    /// It goes with the process.
    Owned(XdpLinkId),
    /// It stays until its pin is removed.
    Pinned { _link: PinnedLink },
    /// The program of an earlier daemon is on the interface until this plane is released.
    Held,
}

/// What is attached where.
#[derive(Debug)]
pub(super) struct Attachments {
    on_exit: OnExit,
    pins: Option<Pins>,
    /// Whether programs of an earlier daemon forward on for now.
    held: bool,
    attached: BTreeMap<IfIndex, Attached>,
}

impl Attachments {
    pub(super) const fn new(on_exit: OnExit, pins: Option<Pins>, held: bool) -> Self {
        Self { on_exit, pins, held, attached: BTreeMap::new() }
    }

    /// Puts the ingress program on an interface, natively, or at the generic hook where the driver
    /// has none.
    pub(super) fn attach(&mut self, object: &mut Ebpf, ifindex: IfIndex) -> Result<(), KernelError> {
        let kept = self.pins.as_ref().and_then(|pins| pins.kept_link(ifindex));
        let attached = match kept {
            Some(_) if self.held => Attached::Held,
            Some(link) => self.take_over(object, ifindex, link)?,
            None => self.attach_anew(object, ifindex)?,
        };
        self.attached.insert(ifindex, attached);
        Ok(())
    }

    /// Replaces the program of an earlier daemon in one step: each packet meets the one or the other.
    fn take_over(&self, object: &mut Ebpf, ifindex: IfIndex, link: FdLink) -> Result<Attached, KernelError> {
        let what = "taking over an interface";
        let link = XdpLink::try_from(link).map_err(KernelError::call(what))?;
        let id = xdp(object, PROGRAM_INGRESS)?.attach_to_link(link).map_err(KernelError::call(what))?;
        // The pin of the earlier daemon is replaced by one of ours, or goes.
        if let Some(pins) = &self.pins {
            fs::remove_file(pins.link(ifindex)).map_err(KernelError::call(what))?;
        }
        self.own(object, ifindex, id)
    }

    fn attach_anew(&self, object: &mut Ebpf, ifindex: IfIndex) -> Result<Attached, KernelError> {
        let id = match xdp(object, PROGRAM_INGRESS)?.attach_to_if_index(ifindex.0, XdpMode::Driver) {
            Ok(id) => id,
            Err(native) => {
                refused::stop(object);
                let id = xdp(object, PROGRAM_INGRESS)?
                    .attach_to_if_index(ifindex.0, XdpMode::Skb)
                    .map_err(KernelError::call("attaching the ingress program"))?;
                tracing::warn!(
                    ifindex = ifindex.0,
                    error = %native,
                    "no native XDP on this interface; the generic hook is used, which is slower, and copies \
                     that a device refuses are not counted"
                );
                id
            }
        };
        self.own(object, ifindex, id)
    }

    fn own(&self, object: &mut Ebpf, ifindex: IfIndex, id: XdpLinkId) -> Result<Attached, KernelError> {
        let (OnExit::Keep, Some(pins)) = (self.on_exit, &self.pins) else {
            return Ok(Attached::Owned(id));
        };
        let what = "pinning the ingress program";
        let link = xdp(object, PROGRAM_INGRESS)?.take_link(id).map_err(KernelError::call(what))?;
        let link = FdLink::try_from(link).map_err(KernelError::call(what))?;
        Ok(Attached::Pinned { _link: link.pin(pins.link(ifindex)).map_err(KernelError::call(what))? })
    }

    /// Takes the program off an interface, which may be gone already.
    pub(super) fn detach(&mut self, object: &mut Ebpf, ifindex: IfIndex) -> Result<(), KernelError> {
        match self.attached.remove(&ifindex) {
            Some(Attached::Owned(link)) => {
                if let Err(error) = xdp(object, PROGRAM_INGRESS)?.detach(link) {
                    tracing::debug!(ifindex = ifindex.0, %error, "the ingress program was already detached");
                }
            }
            Some(Attached::Pinned { .. } | Attached::Held) => self.remove_pin(ifindex),
            None => {}
        }
        Ok(())
    }

    fn remove_pin(&self, ifindex: IfIndex) {
        if let Some(pins) = &self.pins
            && let Err(error) = fs::remove_file(pins.link(ifindex))
        {
            tracing::debug!(ifindex = ifindex.0, %error, "the pin was already removed");
        }
    }

    /// Takes over from the earlier daemon, everywhere.
    pub(super) fn release(&mut self, object: &mut Ebpf) -> Result<(), KernelError> {
        self.held = false;
        let held: Vec<IfIndex> = self
            .attached
            .iter()
            .filter(|(_, attached)| matches!(attached, Attached::Held))
            .map(|(ifindex, _)| *ifindex)
            .collect();
        held.into_iter().try_for_each(|ifindex| self.attach(object, ifindex))?;
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        // Interfaces that are no longer configured.
        for ifindex in pins.kept_links() {
            if !self.attached.contains_key(&ifindex) {
                self.remove_pin(ifindex);
            }
        }
        match self.on_exit {
            OnExit::Keep => pins.commit_maps().map_err(KernelError::call("pinning the maps")),
            OnExit::Remove => pins.remove_all().map_err(KernelError::call("removing old pins")),
        }
    }
}

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
    open::{OnExit, chain, xdp},
    refused,
};
use crate::plane::Hook;

/// Which of its two hooks the kernel runs the program of an interface at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The driver's, before there is a socket buffer.
    Native,
    /// The one for interfaces whose driver has none.
    Generic,
}

impl From<Mode> for Hook {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Native => Self::Xdp,
            Mode::Generic => Self::XdpGeneric,
        }
    }
}

/// An attached program.
#[derive(Debug)]
struct Attached {
    mode: Mode,
    hold: Hold,
}

/// What keeps a program attached.
#[derive(Debug)]
enum Hold {
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
            Some((mode, _)) if self.held => Attached { mode, hold: Hold::Held },
            Some((mode, link)) => self.take_over(object, ifindex, mode, link)?,
            None => self.attach_anew(object, ifindex)?,
        };
        if attached.mode == Mode::Generic {
            refused::stop(object);
        }
        self.attached.insert(ifindex, attached);
        Ok(())
    }

    /// The hook of an interface's program.
    pub(super) fn mode(&self, ifindex: IfIndex) -> Option<Mode> {
        self.attached.get(&ifindex).map(|attached| attached.mode)
    }

    /// The names of the interfaces whose programs are at the generic hook.
    pub(super) fn generic(&self) -> Vec<String> {
        let generic = self.attached.iter().filter(|(_, attached)| attached.mode == Mode::Generic);
        generic.map(|(ifindex, _)| name_of(*ifindex)).collect()
    }

    /// Replaces the program of an earlier daemon in one step: each packet meets the one or the other.
    fn take_over(
        &self,
        object: &mut Ebpf,
        ifindex: IfIndex,
        mode: Mode,
        link: FdLink,
    ) -> Result<Attached, KernelError> {
        let what = "taking over an interface";
        let link = XdpLink::try_from(link).map_err(KernelError::call(what))?;
        let id = xdp(object, PROGRAM_INGRESS)?.attach_to_link(link).map_err(KernelError::call(what))?;
        // The pin of the earlier daemon is replaced by one of ours, or goes.
        if let Some(pins) = &self.pins {
            fs::remove_file(pins.link(ifindex, mode)).map_err(KernelError::call(what))?;
        }
        self.own(object, ifindex, mode, id)
    }

    fn attach_anew(&self, object: &mut Ebpf, ifindex: IfIndex) -> Result<Attached, KernelError> {
        let (mode, id) = match xdp(object, PROGRAM_INGRESS)?.attach_to_if_index(ifindex.0, XdpMode::Driver) {
            Ok(id) => (Mode::Native, id),
            Err(native) => {
                let id = xdp(object, PROGRAM_INGRESS)?
                    .attach_to_if_index(ifindex.0, XdpMode::Skb)
                    .map_err(KernelError::call("attaching the ingress program"))?;
                tracing::warn!(
                    ifindex = ifindex.0,
                    error = chain(&native),
                    "no native XDP on this interface; the generic hook is used, which is slower, and copies \
                     that a device refuses are not counted"
                );
                (Mode::Generic, id)
            }
        };
        self.own(object, ifindex, mode, id)
    }

    fn own(
        &self,
        object: &mut Ebpf,
        ifindex: IfIndex,
        mode: Mode,
        id: XdpLinkId,
    ) -> Result<Attached, KernelError> {
        let (OnExit::Keep, Some(pins)) = (self.on_exit, &self.pins) else {
            return Ok(Attached { mode, hold: Hold::Owned(id) });
        };
        let what = "pinning the ingress program";
        let link = xdp(object, PROGRAM_INGRESS)?.take_link(id).map_err(KernelError::call(what))?;
        let link = FdLink::try_from(link).map_err(KernelError::call(what))?;
        let link = link.pin(pins.link(ifindex, mode)).map_err(KernelError::call(what))?;
        Ok(Attached { mode, hold: Hold::Pinned { _link: link } })
    }

    /// Takes the program off an interface, which may be gone already.
    pub(super) fn detach(&mut self, object: &mut Ebpf, ifindex: IfIndex) -> Result<(), KernelError> {
        let Some(Attached { mode, hold }) = self.attached.remove(&ifindex) else {
            return Ok(());
        };
        match hold {
            Hold::Owned(link) => {
                if let Err(error) = xdp(object, PROGRAM_INGRESS)?.detach(link) {
                    let error = chain(&error);
                    tracing::debug!(ifindex = ifindex.0, error, "the ingress program was already detached");
                }
            }
            Hold::Pinned { .. } | Hold::Held => self.remove_pin(ifindex, mode),
        }
        Ok(())
    }

    fn remove_pin(&self, ifindex: IfIndex, mode: Mode) {
        if let Some(pins) = &self.pins
            && let Err(error) = fs::remove_file(pins.link(ifindex, mode))
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
            .filter(|(_, attached)| matches!(attached.hold, Hold::Held))
            .map(|(ifindex, _)| *ifindex)
            .collect();
        held.into_iter().try_for_each(|ifindex| self.attach(object, ifindex))?;
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        // Interfaces that are no longer configured.
        for (ifindex, mode) in pins.kept_links() {
            if !self.attached.contains_key(&ifindex) {
                self.remove_pin(ifindex, mode);
            }
        }
        match self.on_exit {
            OnExit::Keep => pins.commit_maps().map_err(KernelError::call("pinning the maps")),
            OnExit::Remove => pins.remove_all().map_err(KernelError::call("removing old pins")),
        }
    }
}

/// What an interface is called, or its number if it is gone.
fn name_of(ifindex: IfIndex) -> String {
    match nix::net::if_::if_indextoname(ifindex.0) {
        Ok(name) => name.to_string_lossy().into_owned(),
        Err(_) => format!("#{}", ifindex.0),
    }
}

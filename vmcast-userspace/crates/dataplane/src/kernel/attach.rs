//! The programs on devices, for the life of the process or longer.

use std::{collections::BTreeMap, fs};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp,
        links::{FdLink, Link as _, PinnedLink},
        tc::{
            NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, qdisc_add_clsact,
            qdisc_detach_program,
        },
        xdp::{XdpLink, XdpLinkId, XdpMode},
    },
};
use vmcast_common::{
    fib::IfIndex,
    maps::{PROGRAM_BARE, PROGRAM_CHUNK, PROGRAM_CLONE, PROGRAM_INGRESS, PROGRAM_LIST},
};

use super::{
    error::KernelError,
    keep::Pins,
    open::{OnExit, chain, classifier, xdp},
    relay::Left,
};
use crate::{device::name_of, plane::Hook};

const INGRESS: TcAttachType = TcAttachType::Ingress;

/// What a program does on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Decides on received frames, in the driver.
    Xdp,
    /// Decides on received frames, at TC.
    Tc,
    /// Decides on packets that come in without a link-layer header, at TC.
    Bare,
    /// Goes on with member tables, behind a relay device of ours.
    Chunk,
    /// Serves members at TC, behind a relay device of ours.
    List,
    /// Decides on packets that the host put together out of fragments, behind a device of ours.
    Reassembled,
}

impl Role {
    pub(super) const ALL: [Self; 6] =
        [Self::Xdp, Self::Tc, Self::Bare, Self::Chunk, Self::List, Self::Reassembled];

    const fn program(self) -> &'static str {
        match self {
            Self::Xdp => PROGRAM_INGRESS,
            Self::Tc | Self::Reassembled => PROGRAM_CLONE,
            Self::Bare => PROGRAM_BARE,
            Self::Chunk => PROGRAM_CHUNK,
            Self::List => PROGRAM_LIST,
        }
    }

    /// Whether it is on a device that the plane has made.
    pub(super) const fn is_behind_relay(self) -> bool {
        matches!(self, Self::Chunk | Self::List | Self::Reassembled)
    }
}

/// What keeps a program attached.
#[derive(Debug)]
enum Hold {
    /// It goes with the process.
    Owned(LinkId),
    /// It stays until its pin is removed.
    Pinned { _link: PinnedLink },
    /// It goes at an orderly end of the process: the kernel has no links at TC (before 6.6).
    Filter(SchedClassifierLink),
    /// The program of an earlier daemon is on the device until this plane is released.
    Held,
}

#[derive(Debug)]
enum LinkId {
    Xdp(XdpLinkId),
    Tc(SchedClassifierLinkId),
}

/// What is attached where.
#[derive(Debug)]
pub(super) struct Attachments {
    on_exit: OnExit,
    pins: Option<Pins>,
    /// Whether programs of an earlier daemon forward on for now.
    held: bool,
    attached: BTreeMap<IfIndex, (Role, Hold)>,
    /// Programs at TC on devices where one at XDP decides first.
    behind_xdp: BTreeMap<IfIndex, Hold>,
}

impl Attachments {
    pub(super) const fn new(on_exit: OnExit, pins: Option<Pins>, held: bool) -> Self {
        Self { on_exit, pins, held, attached: BTreeMap::new(), behind_xdp: BTreeMap::new() }
    }

    /// Puts the program that decides on a device: natively at XDP if `native` and the driver takes it, else at
    /// TC, where packets of a device that is `bare` come without a link-layer header. Behind one at XDP is one at TC if
    /// it `shares` packets with the host. Another one of ours on the device goes.
    pub(super) fn attach_ingress(
        &mut self,
        object: &mut Ebpf,
        device: IfIndex,
        (native, bare): (bool, bool),
        shares: bool,
    ) -> Result<(), KernelError> {
        if !native {
            return self.attach(object, device, if bare { Role::Bare } else { Role::Tc });
        }
        if let Err(error) = self.attach(object, device, Role::Xdp) {
            tracing::warn!(
                ifindex = device.0,
                error = chain(&error),
                "no program runs in this device's driver, or another's does; what it receives is looked at later, \
                 at TC, which is slower"
            );
            return self.attach(object, device, Role::Tc);
        }
        match self.behind_xdp.remove(&device) {
            Some(hold) if shares => {
                self.behind_xdp.insert(device, hold);
                Ok(())
            }
            Some(hold) => self.let_go(object, device, Role::Tc, hold),
            None if shares => {
                let hold = self.hold(object, device, Role::Tc)?;
                self.behind_xdp.insert(device, hold);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Whether a program at TC is on a device where one at XDP decides first.
    pub(super) fn is_behind_xdp(&self, device: IfIndex) -> bool {
        self.behind_xdp.contains_key(&device)
    }

    /// Whether a program is on a device for a purpose.
    fn has(&self, device: IfIndex, role: Role) -> bool {
        self.attached.get(&device).is_some_and(|(now, _)| *now == role)
            || role == Role::Tc && self.is_behind_xdp(device)
    }

    /// Puts a program on a device, in the place of another of ours.
    pub(super) fn attach(
        &mut self,
        object: &mut Ebpf,
        device: IfIndex,
        role: Role,
    ) -> Result<(), KernelError> {
        if self.attached.get(&device).is_some_and(|(now, _)| *now == role) {
            return Ok(());
        }
        // There is never a second one at TC: the one would take the other's copy for the host for a packet.
        let hold = match self.behind_xdp.remove(&device) {
            Some(hold) if role == Role::Tc => hold,
            Some(hold) => {
                self.let_go(object, device, Role::Tc, hold)?;
                self.hold(object, device, role)?
            }
            None => self.hold(object, device, role)?,
        };
        // The new one is there before the old one goes: what XDP takes never comes to TC.
        match self.attached.insert(device, (role, hold)) {
            Some((Role::Tc, hold)) if role == Role::Xdp => _ = self.behind_xdp.insert(device, hold),
            Some((before, hold)) => self.let_go(object, device, before, hold)?,
            None => {}
        }
        Ok(())
    }

    fn hold(&self, object: &mut Ebpf, device: IfIndex, role: Role) -> Result<Hold, KernelError> {
        let kept = self.pins.as_ref().filter(|_| !role.is_behind_relay());
        let kept = kept.and_then(|pins| pins.kept_link(device, role));
        match kept {
            Some(_) if self.held => Ok(Hold::Held),
            Some(link) => self.take_over(object, device, role, link),
            None => {
                let id = match role {
                    Role::Xdp | Role::Chunk => LinkId::Xdp(attach_xdp(xdp(object, role.program())?, device)?),
                    Role::Tc | Role::Bare | Role::List | Role::Reassembled => {
                        let program = classifier(object, role.program())?;
                        LinkId::Tc(attach_tc(program, role.program(), device)?)
                    }
                };
                self.own(object, device, role, id)
            }
        }
    }

    /// The hook of a device's program.
    pub(super) fn hook(&self, device: IfIndex) -> Option<Hook> {
        self.attached.get(&device).map(|(role, _)| match role {
            Role::Xdp | Role::Chunk => Hook::Xdp,
            Role::Tc | Role::Bare | Role::List | Role::Reassembled => Hook::Tc,
        })
    }

    /// Whether anything is looked at at TC.
    pub(super) fn any_at_tc(&self) -> bool {
        let at_tc = |role: &Role| matches!(role, Role::Tc | Role::Bare | Role::Reassembled);
        !self.behind_xdp.is_empty() || self.attached.values().any(|(role, _)| at_tc(role))
    }

    /// Replaces the program of an earlier daemon in one step: each packet meets the one or the other.
    fn take_over(
        &self,
        object: &mut Ebpf,
        device: IfIndex,
        role: Role,
        link: FdLink,
    ) -> Result<Hold, KernelError> {
        let what = "taking over an interface";
        let id = match role {
            Role::Xdp | Role::Chunk => {
                let link = XdpLink::try_from(link).map_err(KernelError::call(what))?;
                let program = xdp(object, role.program())?;
                LinkId::Xdp(program.attach_to_link(link).map_err(KernelError::call(what))?)
            }
            Role::Tc | Role::Bare | Role::List | Role::Reassembled => {
                let link = SchedClassifierLink::try_from(link).map_err(KernelError::call(what))?;
                let program = classifier(object, role.program())?;
                LinkId::Tc(program.attach_to_link(link).map_err(KernelError::call(what))?)
            }
        };
        // The pin of the earlier daemon is replaced by one of ours, or goes.
        if let Some(pins) = &self.pins {
            fs::remove_file(pins.link(device, role)).map_err(KernelError::call(what))?;
        }
        self.own(object, device, role, id)
    }

    fn own(&self, object: &mut Ebpf, device: IfIndex, role: Role, id: LinkId) -> Result<Hold, KernelError> {
        let (OnExit::Keep, Some(pins)) = (self.on_exit, &self.pins) else {
            return Ok(Hold::Owned(id));
        };
        let what = "pinning a program";
        let link = match id {
            LinkId::Xdp(id) => {
                let link = xdp(object, role.program())?.take_link(id).map_err(KernelError::call(what))?;
                FdLink::try_from(link)
            }
            LinkId::Tc(id) => {
                let program = classifier(object, role.program())?;
                let link = program.take_link(id).map_err(KernelError::call(what))?;
                if <&FdLink>::try_from(&link).is_err() {
                    tracing::warn!(
                        ifindex = device.0,
                        "a program at TC that this kernel cannot keep ends with the router"
                    );
                    return Ok(Hold::Filter(link));
                }
                FdLink::try_from(link)
            }
        };
        let link = link.map_err(KernelError::call(what))?;
        let link = link.pin(pins.link(device, role)).map_err(KernelError::call(what))?;
        Ok(Hold::Pinned { _link: link })
    }

    /// Takes the program off a device, which may be gone already.
    pub(super) fn detach(&mut self, object: &mut Ebpf, device: IfIndex) -> Result<(), KernelError> {
        if let Some(hold) = self.behind_xdp.remove(&device) {
            self.let_go(object, device, Role::Tc, hold)?;
        }
        match self.attached.remove(&device) {
            Some((role, hold)) => self.let_go(object, device, role, hold),
            None => Ok(()),
        }
    }

    fn let_go(&self, object: &mut Ebpf, device: IfIndex, role: Role, hold: Hold) -> Result<(), KernelError> {
        let gone = match hold {
            Hold::Owned(LinkId::Xdp(link)) => xdp(object, role.program())?.detach(link),
            Hold::Owned(LinkId::Tc(link)) => classifier(object, role.program())?.detach(link),
            Hold::Filter(link) => link.detach(),
            Hold::Pinned { .. } | Hold::Held => {
                self.remove_pin(device, role);
                return Ok(());
            }
        };
        if let Err(error) = gone {
            tracing::debug!(ifindex = device.0, error = chain(&error), "the program was already detached");
        }
        Ok(())
    }

    fn remove_pin(&self, device: IfIndex, role: Role) {
        if let Some(pins) = &self.pins
            && let Err(error) = fs::remove_file(pins.link(device, role))
        {
            tracing::debug!(ifindex = device.0, %error, "the pin was already removed");
        }
    }

    /// Takes over from the earlier daemon, everywhere. Returns the relay devices that it has left, whose programs go on
    /// with what waits there.
    pub(super) fn release(&mut self, object: &mut Ebpf) -> Result<Vec<Left>, KernelError> {
        self.held = false;
        let held = self.attached.iter().filter(|(_, (_, hold))| matches!(hold, Hold::Held));
        let held: Vec<(IfIndex, Role)> = held.map(|(device, (role, _))| (*device, *role)).collect();
        for (device, role) in held {
            let hold = self.hold(object, device, role)?;
            self.attached.insert(device, (role, hold));
        }
        let held = self.behind_xdp.iter().filter(|(_, hold)| matches!(hold, Hold::Held));
        let held: Vec<IfIndex> = held.map(|(device, _)| *device).collect();
        for device in held {
            let hold = self.hold(object, device, Role::Tc)?;
            self.behind_xdp.insert(device, hold);
        }
        let Some(pins) = &self.pins else {
            return Ok(Vec::new());
        };
        let mut left = Vec::new();
        // Devices that are no longer looked at, or no longer there, and relays of the one before.
        for (device, role) in pins.kept_links() {
            if !self.has(device, role) {
                if role.is_behind_relay() {
                    left.push(Left::new(device, pins.kept_link(device, role)));
                }
                self.remove_pin(device, role);
            }
        }
        match self.on_exit {
            OnExit::Keep => pins.commit_maps().map_err(KernelError::call("pinning the maps"))?,
            OnExit::Remove => pins.remove_all().map_err(KernelError::call("removing old pins"))?,
        }
        Ok(left)
    }
}

fn attach_xdp(program: &mut Xdp, device: IfIndex) -> Result<XdpLinkId, KernelError> {
    let attached = program.attach_to_if_index(device.0, XdpMode::Driver);
    attached.map_err(KernelError::call("attaching a program at XDP"))
}

/// Puts a program on a device before all others that are there: as a link if the kernel has those (6.6), else
/// as a filter.
fn attach_tc(
    program: &mut SchedClassifier,
    name: &'static str,
    device: IfIndex,
) -> Result<SchedClassifierLinkId, KernelError> {
    let what = "attaching a program at TC";
    let interface = name_of(device.0).ok_or_else(|| KernelError::call(what)("the device is gone"))?;
    let interface = interface.to_string_lossy();
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    program.attach_with_options(&interface, INGRESS, first).or_else(|link| {
        attach_filter(program, name, &interface).map_err(|filter| {
            let text = format!("as a link: {}; as a filter: {}", chain(&link), chain(&filter));
            KernelError::call(what)(text)
        })
    })
}

/// The kernel leaves a filter behind when its process is killed: that of an earlier one goes first.
fn attach_filter(
    program: &mut SchedClassifier,
    name: &'static str,
    interface: &str,
) -> Result<SchedClassifierLinkId, ProgramError> {
    if let Err(error) = qdisc_add_clsact(interface) {
        tracing::debug!(interface, error = chain(&error), "no clsact qdisc was added");
    }
    if let Ok(()) = qdisc_detach_program(interface, INGRESS, name) {
        tracing::info!(interface, "the filter that an earlier process left is removed");
    }
    let first = NlOptions { priority: 1, ..NlOptions::default() };
    program.attach_with_options(interface, INGRESS, TcAttachOptions::Netlink(first))
}

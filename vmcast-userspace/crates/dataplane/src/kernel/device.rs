//! What the plane knows of devices, and by which engine each is served.

use vmcast_common::fib::{EngineWish, IfIndex};

use super::net_device::{NetDevice, Transmit};
use crate::{
    bare::has_no_header,
    device,
    features::{Features, XdpFeatures},
    numbered::Numbered,
    plane::Engine,
};

/// What decides by which engine a device is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// XDP where the device takes frames that XDP redirects to it, else TC.
    #[default]
    Auto,
    /// XDP for every device. By one that takes no redirected frames nobody joins, and the copies of members whose way
    /// comes to lead there are dropped and counted.
    Xdp,
    /// TC for every device.
    Tc,
}

/// Everything about devices that is asked of the kernel, remembered until it may have changed.
pub(super) struct Devices {
    rule: Rule,
    /// Whether TC serves every device for now, as no relay device can be made.
    without_relays: bool,
    /// `None` on a kernel that does not tell (before Linux 6.3).
    features: Option<Features>,
    known: Numbered<u32, Known>,
    /// By which engine each was served when that was last asked, and whether copies for it went nowhere.
    served: Numbered<u32, (Engine, Fitness)>,
    /// Whether one of these has become another, so that members have to move.
    changed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    features: Option<XdpFeatures>,
    mtu: Option<u16>,
    /// Whether it is set up.
    up: bool,
    is_veth: bool,
    transmit: Option<Transmit>,
    /// Whether packets leave it without a link-layer header.
    bare: bool,
}

/// Whether a device that is served at XDP takes copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fitness {
    Fit,
    /// Not while it is set down.
    Down,
    /// Not as the configuration is.
    Unfit,
}

/// Why nobody is served at a device that only XDP may serve.
const TAKES_NONE: &str =
    "the configuration asks for it, but it takes no frames redirected at XDP: it gets no copies";

impl Devices {
    pub(super) fn new(rule: Rule) -> Self {
        let features = Features::open();
        if let Err(error) = &features {
            tracing::info!(%error, "the kernel does not tell what its drivers do at XDP");
        }
        Self {
            rule,
            without_relays: false,
            features: features.ok(),
            known: Numbered::default(),
            served: Numbered::default(),
            changed: false,
        }
    }

    /// What decides at present.
    pub(super) const fn rule(&self) -> Rule {
        if self.without_relays { Rule::Tc } else { self.rule }
    }

    /// What was asked for.
    pub(super) const fn rule_asked_for(&self) -> Rule {
        self.rule
    }

    /// Notes whether relay devices can be made, without which only TC serves all devices. Says whether that is new.
    pub(super) fn set_without_relays(&mut self, without: bool) -> bool {
        std::mem::replace(&mut self.without_relays, without) != without
    }

    /// Asks the kernel anew from now on.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// The devices that were asked for and are still there, of which the kernel is asked anew from now on.
    pub(super) fn in_use(&mut self) -> Vec<u32> {
        self.forget();
        self.served.retain(|device, _| device::name_of(*device).is_some());
        self.served.keys().copied().collect()
    }

    /// Whether a device is served by another engine than before, since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Not all members have moved that had to.
    pub(super) fn try_again(&mut self) {
        self.changed = true;
    }

    fn known(&mut self, device: u32) -> Known {
        if let Some(known) = self.known.get(&device) {
            return *known;
        }
        let features = self.features.as_ref().and_then(|features| features.of(IfIndex(device)).ok());
        let told = NetDevice::of(device);
        let told = told.as_ref();
        let known = Known {
            features,
            mtu: told.and_then(NetDevice::mtu),
            up: told.is_none_or(NetDevice::is_up),
            is_veth: told.is_some_and(NetDevice::is_veth),
            transmit: told.and_then(NetDevice::transmit),
            bare: told.is_some_and(has_no_header),
        };
        self.known.insert(device, known);
        known
    }

    /// Largest IP packet, in bytes, that a device takes behind a link-layer header of so many bytes. A veth takes frames of
    /// its MTU with one tag, and at XDP leaves those behind one that is longer, too, which are others'.
    pub(super) fn largest(&mut self, device: u32, header: usize) -> Option<u16> {
        const TAGGED: usize = 14 + 4;
        let Known { mtu, is_veth, .. } = self.known(device);
        let beyond = if is_veth { header.saturating_sub(TAGGED) } else { 0 };
        mtu.map(|mtu| mtu.saturating_sub(beyond as u16))
    }

    /// The MTU of a device as the kernel has it.
    pub(super) fn mtu(&mut self, device: u32) -> Option<u16> {
        self.known(device).mtu
    }

    /// Whether packets leave a device, and come in by it, without a link-layer header.
    pub(super) fn is_bare(&mut self, device: u32) -> bool {
        self.known(device).bare
    }

    /// What decides for a device at present. `wish` is what its interfaces ask for.
    const fn rule_for(&self, wish: EngineWish) -> Rule {
        match (self.rule(), wish) {
            (Rule::Tc, _) | (Rule::Auto | Rule::Xdp, EngineWish::Tc) => Rule::Tc,
            (Rule::Xdp, EngineWish::Any | EngineWish::Xdp) | (Rule::Auto, EngineWish::Xdp) => Rule::Xdp,
            (Rule::Auto, EngineWish::Any) => Rule::Auto,
        }
    }

    /// Whether a program may run in a device's driver. `wish` is what its interfaces ask for.
    pub(super) fn is_native(&mut self, device: u32, wish: EngineWish) -> bool {
        let Known { features: told, bare, .. } = self.known(device);
        self.rule_for(wish) != Rule::Tc && !bare && told.is_none_or(XdpFeatures::is_native)
    }

    /// By which engine a device is served, and why. `wish` is what its interfaces ask for, `runs_native`
    /// whether a program of ours runs in its driver.
    pub(super) fn engine(
        &mut self,
        device: u32,
        wish: EngineWish,
        runs_native: bool,
    ) -> (Engine, &'static str) {
        let (engine, why) = match self.rule_for(wish) {
            Rule::Tc if self.without_relays => {
                (Engine::TcClone, "no relay device can be made, by which XDP and TC hand packets on")
            }
            Rule::Tc if self.rule == Rule::Tc => (Engine::TcClone, "the configuration asks for it"),
            Rule::Tc => (Engine::TcClone, "an interface of it is to be served there"),
            Rule::Xdp if self.is_unfit(device, wish) => (Engine::XdpBroadcast, TAKES_NONE),
            Rule::Xdp => (Engine::XdpBroadcast, "the configuration asks for it"),
            Rule::Auto => self.found(device, runs_native),
        };
        let fitness = self.fitness(device, wish);
        let before = self.served.insert(device, (engine, fitness));
        if fitness == Fitness::Unfit && before.is_none_or(|(_, before)| before != Fitness::Unfit) {
            tracing::warn!(
                device = name_of(IfIndex(device)),
                "the device takes no frames redirected at XDP, and the configuration asks for nothing else (engine = \
                 \"xdp\"): nobody joins by it, and the copies of members whose way leads there are dropped \
                 (device_refused); let it find the engine out, or, if the device is a veth, let its peer do GRO"
            );
        }
        self.changed |= before.is_some_and(|before| before != (engine, fitness));
        (engine, why)
    }

    /// Whether copies for a device that is served at XDP would go nowhere: the kernel leaves one that takes no frames
    /// redirected there, or is set down, out of a broadcast, and nobody hears of it.
    pub(super) fn takes_none(&mut self, device: u32, wish: EngineWish) -> bool {
        self.fitness(device, wish) != Fitness::Fit
    }

    fn fitness(&mut self, device: u32, wish: EngineWish) -> Fitness {
        if self.is_unfit(device, wish) {
            Fitness::Unfit
        } else if self.is_down_at_xdp(device, wish) {
            Fitness::Down
        } else {
            Fitness::Fit
        }
    }

    fn is_down_at_xdp(&mut self, device: u32, wish: EngineWish) -> bool {
        let rule = self.rule_for(wish);
        let Known { features, bare, up, .. } = self.known(device);
        let by_itself = !bare && features.is_some_and(XdpFeatures::takes_redirected);
        !up && (rule == Rule::Xdp || rule == Rule::Auto && by_itself)
    }

    /// Whether a device takes no frames redirected at XDP, and the rule is to serve it there all the same.
    pub(super) fn is_unfit(&mut self, device: u32, wish: EngineWish) -> bool {
        self.rule_for(wish) == Rule::Xdp && {
            let Known { features, bare, .. } = self.known(device);
            bare || features.is_some_and(|features| !features.takes_redirected())
        }
    }

    /// How many members of one stream XDP may serve on a device; `None`: all. A run of a program hands the device its
    /// copies faster than a link carries them off, and what its transmit ring has no room for is lost, where TC has a
    /// queueing discipline before the ring. `wish` is what its interfaces ask for, and `stated` how many.
    pub(super) fn room(&mut self, device: u32, wish: EngineWish, stated: Option<u32>) -> Option<u32> {
        if self.rule_for(wish) != Rule::Auto {
            return None;
        }
        stated.or_else(|| self.known(device).transmit?.room())
    }

    fn found(&mut self, device: u32, runs_native: bool) -> (Engine, &'static str) {
        let known = self.known(device);
        match known.features {
            _ if known.bare => (Engine::TcClone, "its packets have no link-layer header"),
            Some(features) if features.takes_redirected() => {
                (Engine::XdpBroadcast, "it takes frames redirected at XDP")
            }
            Some(_) => (Engine::TcClone, "it takes no frames redirected at XDP"),
            None if runs_native => (Engine::XdpBroadcast, "a program runs in its driver"),
            None => (Engine::TcClone, "it is not known whether it takes frames redirected at XDP"),
        }
    }
}

/// What a device is called, or its number if it is gone.
pub(super) fn name_of(device: IfIndex) -> String {
    match device::name_of(device.0) {
        Some(name) => name.to_string_lossy().into_owned(),
        None => format!("#{}", device.0),
    }
}

//! What the kernel said, before it is judged.

use vmcast_dataplane::features::XdpFeatures;

use crate::{config::EngineChoice, sockets::Offloads};

/// What replicates, or shall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// As a configuration says, or the default.
    Chosen(EngineChoice),
    /// As a daemon says: whether it is XDP.
    Running { is_xdp: bool },
}

impl Engine {
    /// Whether programs at XDP are in use, or are tried first.
    pub(super) const fn is_xdp(self) -> bool {
        match self {
            Self::Chosen(EngineChoice::Auto | EngineChoice::Xdp) => true,
            Self::Chosen(EngineChoice::Tc | EngineChoice::Software) => false,
            Self::Running { is_xdp } => is_xdp,
        }
    }

    /// Whether nothing but XDP will do.
    pub(super) const fn is_only_xdp(self) -> bool {
        matches!(self, Self::Chosen(EngineChoice::Xdp))
    }
}

/// A daemon of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    /// What replicates, as it is shown.
    pub(crate) engine: String,
    /// Why.
    pub(crate) reason: String,
    /// Where frames are taken, by interface.
    pub(crate) hooks: Vec<(String, Option<String>)>,
    /// The sources whose relays it looks up.
    pub(crate) sources: LookedUp,
}

/// Sources whose relays are looked up by DNS, how many of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LookedUp {
    /// All of them.
    pub(crate) all: usize,
    /// Those that are had from a relay of their own.
    pub(crate) at_relays: usize,
    /// Those whose relays do not serve.
    pub(crate) unserved: usize,
    /// Those of which the DNS says nothing.
    pub(crate) unanswered: usize,
}

/// An interface that is asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Its name; of one that the kernel has not, that of its device.
    pub(crate) name: String,
    /// Whether it takes packets of sources.
    pub(crate) accepts_sources: bool,
    /// Whether copies leave by it.
    pub(crate) copies: bool,
    /// Whether frames with VLAN tags are taken from it or sent by it.
    pub(crate) tagged: bool,
    /// Whether its copies wait in queues as priorities say; `None` if none says so.
    pub(crate) queues: Option<bool>,
    /// Whether it is the configuration that names it.
    pub(crate) configured: bool,
    /// Why the router that runs does not take it.
    pub(crate) refused: Option<String>,
}

/// What this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostFacts {
    /// The release of the kernel; nothing is concluded from it.
    pub(super) kernel: String,
    pub(super) is_root: bool,
    pub(super) btf: bool,
    /// Whether the engine's programs are taken, or why not.
    pub(super) xdp: Result<(), String>,
    pub(super) tc: Result<(), String>,
    /// Whether filters before sockets are taken, or why not.
    pub(super) shares: Result<(), String>,
    pub(super) batches: bool,
    pub(super) tcx: Option<bool>,
    /// Whether drivers tell what they do at XDP.
    pub(super) tells_features: bool,
}

/// What an interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InterfaceFacts {
    pub(super) asked: Asked,
    /// `None` if there is none of this name.
    pub(super) link: Option<LinkFacts>,
}

/// What the kernel says of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkFacts {
    pub(super) up: bool,
    pub(super) running: bool,
    pub(super) mtu: u32,
    pub(super) kind: Option<String>,
    /// Whether its packets have no link-layer header.
    pub(super) bare: bool,
    /// Name and kind of what it is a port of.
    pub(super) master: Option<(String, Option<String>)>,
    /// Number and name of the programs at its XDP hooks.
    pub(super) programs: Vec<(u32, Option<String>)>,
    pub(super) features: Option<XdpFeatures>,
    pub(super) offloads: Option<Offloads>,
    /// The stricter one of the interface and of `all`.
    pub(super) rp_filter: Option<u8>,
    /// The device below, of a VLAN.
    pub(super) device: Option<String>,
    /// Where a running daemon takes its frames.
    pub(super) hook: Option<String>,
}

//! Members that are reached in every way that the data plane has.

use std::net::SocketAddr;

use vmcast_common::fib::{EcnMode, IfIndex, Input, NextHopId, Output, Tunnel, TunnelId, TunnelKind};

use crate::devices::{self, DEVICES, Device, Link};

/// The port of AMT (RFC 7450 §7.2).
const AMT: u16 = 2268;
/// Numbers of tunnels to devices and of AMT tunnels begin here.
const DEVICE_TUNNELS: u32 = 100;
const AMT_TUNNELS: u32 = 200;
/// Numbers of interfaces that no kernel knows begin here.
const LINKS: u32 = 1000;

/// A member beyond the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// A device of the machine: natively if it is a link's, else in its tunnel.
    Device(Device),
    /// The machine's link-layer address alone, on a link.
    Neighbour(Link),
    /// The machine in AMT on a link, over IPv6 or IPv4; it has nobody who takes it.
    Amt { link: Link, v6: bool },
}

impl Member {
    /// The link that it is reached by.
    pub(super) const fn link(self) -> Link {
        match self {
            Self::Device(device) => device.link,
            Self::Neighbour(link) | Self::Amt { link, .. } => link,
        }
    }

    /// The output that it is of a router whose wire has this number.
    pub(super) fn output(self, wire: IfIndex) -> Output {
        match (self, self.tunnel(false)) {
            (_, Some((id, _))) => Output::Tunnel(id),
            (Self::Neighbour(link), None) => Output::Neighbour(next_hop(link)),
            (Self::Device(_) | Self::Amt { .. }, None) => Output::Interface(interface(self.link(), wire)),
        }
    }

    /// Where its packets come from.
    pub(super) fn input(self, wire: IfIndex) -> Input {
        match self.tunnel(true) {
            Some((id, _)) => Input::Tunnel(id),
            None => Input::Interface(interface(self.link(), wire)),
        }
    }

    /// The kind of its tunnel, if it has one, and whether that is over IPv6.
    pub(super) fn tunnelled(self) -> Option<(TunnelKind, bool)> {
        match self {
            Self::Device(device) => device.tunnel.map(|tunnel| (kind(tunnel), tunnel.is_over_v6())),
            Self::Amt { v6, .. } => Some((TunnelKind::Amt, v6)),
            Self::Neighbour(_) => None,
        }
    }

    /// Its tunnel, if it has one.
    pub(super) fn tunnel(self, accepts_sources: bool) -> Option<(TunnelId, Tunnel)> {
        let (kind, v6) = self.tunnelled()?;
        let id = match self {
            Self::Device(device) => DEVICE_TUNNELS + number(device),
            Self::Amt { link, v6 } => AMT_TUNNELS + u32::from(v6) * 50 + u32::from(link.number()),
            Self::Neighbour(_) => return None,
        };
        let link = self.link();
        let (host, guest) = link.ends(v6);
        let port = if kind == TunnelKind::Amt { AMT } else { 0 };
        let tunnel = Tunnel {
            kind,
            local: SocketAddr::new(host, port),
            remote: SocketAddr::new(guest, port),
            ecn: if kind == TunnelKind::Amt { EcnMode::Compatibility } else { EcnMode::Normal },
            accepts_sources,
            next_hop: Some(next_hop(link)),
        };
        Some((TunnelId(id), tunnel))
    }
}

/// The number of a link's next hop, the machine.
pub(super) fn next_hop(link: Link) -> NextHopId {
    NextHopId(1 + u32::from(link.number()))
}

/// The number of a link's interface.
pub(super) fn interface(link: Link, wire: IfIndex) -> IfIndex {
    match link {
        Link::Wire => wire,
        Link::Vlan
        | Link::QinQ
        | Link::TwoTags
        | Link::Session
        | Link::SessionInVlan
        | Link::SessionInQinQ => IfIndex(LINKS + u32::from(link.number())),
    }
}

const fn kind(tunnel: devices::Tunnel) -> TunnelKind {
    match tunnel {
        devices::Tunnel::Gre(key) | devices::Tunnel::Ip6gre(key) => TunnelKind::Gre(key),
        devices::Tunnel::Ipip | devices::Tunnel::Sit | devices::Tunnel::Ip6tnl => TunnelKind::Ipip,
    }
}

/// The kernel has two devices for what is one tunnel, by the family of what it carries.
fn number(device: Device) -> u32 {
    let same = |other: &Device| {
        let like = |tunnel| (kind(tunnel), tunnel.is_over_v6());
        other.link == device.link && other.tunnel.map(like) == device.tunnel.map(like)
    };
    DEVICES.into_iter().find(same).unwrap_or(device).number().into()
}

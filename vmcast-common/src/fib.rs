//! The forwarding information base as the control plane states it: desired state, operation by
//! operation, each idempotent.

use core::net::{IpAddr, SocketAddr};

use crate::hdr::eth::Mac;

/// The kernel's number of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfIndex(pub u32);

/// A tunnel's number, given by the control plane; below 2^31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(pub u32);

/// A next hop's number, given by the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHopId(pub u32);

/// A stream of packets to one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// The source S of (S,G); `None` for (*,G), every source that has no entry of its own.
    pub source: Option<IpAddr>,
    /// The group G, of the same family as the source.
    pub group: IpAddr,
}

impl core::fmt::Display for Stream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.source {
            Some(source) => write!(f, "({source},{})", self.group),
            None => write!(f, "(*,{})", self.group),
        }
    }
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// Natively, on an interface.
    Interface(IfIndex),
    /// Out of a tunnel.
    Tunnel(TunnelId),
}

/// From where packets of a stream are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rpf {
    /// Only from here.
    Exact(Input),
    /// From every interface and tunnel that is marked as accepting sources; the rule of (*,G).
    AnyUpstream,
}

/// Where a copy goes; also the identity of a member within a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Output {
    /// Native multicast on an interface.
    Interface(IfIndex),
    /// Encapsulated, to the far end of a tunnel.
    Tunnel(TunnelId),
}

impl Output {
    const TUNNEL: u32 = 1 << 31;

    /// The output as one number, never 0, in the order of outputs: for tables with very many members.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Interface(ifindex) => ifindex.0,
            Self::Tunnel(id) => id.0 | Self::TUNNEL,
        }
    }

    /// Reads the number back, `None` for 0.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        if number == 0 {
            None
        } else if number & Self::TUNNEL != 0 {
            Some(Self::Tunnel(TunnelId(number & !Self::TUNNEL)))
        } else {
            Some(Self::Interface(IfIndex(number)))
        }
    }
}

/// Whose members a stream's packets go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Members {
    /// The stream's own.
    Own,
    /// Those of the group's (*,G) entry.
    OfAnySource,
}

/// A local interface the data plane works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number of the interface, in the network namespace of the process.
    pub ifindex: IfIndex,
    /// Its link-layer address.
    pub mac: Mac,
    /// Its MTU in bytes, without the link-layer header.
    pub mtu: u16,
    /// Whether packets of a source without an entry of its own are accepted here.
    pub accepts_sources: bool,
}

/// The link-layer way to a far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Interface the frame leaves by.
    pub ifindex: IfIndex,
    /// Source link-layer address.
    pub source_mac: Mac,
    /// Destination link-layer address, `None` while the neighbour is not resolved.
    pub destination_mac: Option<Mac>,
    /// MTU towards the far end in bytes, without the link-layer header.
    pub mtu: u16,
}

/// How packets are encapsulated in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// Automatic Multicast Tunneling over UDP (RFC 7450).
    Amt,
}

/// A tunnel, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The encapsulation.
    pub kind: TunnelKind,
    /// Our address and port.
    pub local: SocketAddr,
    /// The far end's address and port, of the same family.
    pub remote: SocketAddr,
    /// Whether data may come out of the tunnel: true towards an upstream, false for a member.
    pub accepts_sources: bool,
    /// The way to the far end, `None` while it is not known; copies are then dropped and counted.
    pub next_hop: Option<NextHopId>,
}

/// One change of the desired state. Applying it twice is the same as applying it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibOp {
    /// Adds or changes an interface and starts to look at what it receives.
    SetInterface(Interface),
    /// Stops looking at an interface, and removes it as a member of every stream.
    RemoveInterface(IfIndex),
    /// Declares one of our AMT endpoints: data to it from a stranger is dropped and counted.
    SetEndpoint(SocketAddr),
    /// Withdraws an endpoint.
    RemoveEndpoint(SocketAddr),
    /// Adds or changes a next hop.
    SetNextHop(NextHopId, NextHop),
    /// Removes a next hop; tunnels that still use it drop their copies.
    RemoveNextHop(NextHopId),
    /// Adds or changes a tunnel.
    SetTunnel(TunnelId, Tunnel),
    /// Removes a tunnel, and it as a member of every stream.
    RemoveTunnel(TunnelId),
    /// Adds or changes a stream; its own members stay.
    SetStream(Stream, Rpf, Members),
    /// Removes a stream with its members.
    RemoveStream(Stream),
    /// Adds a member to a stream's own. While the stream has [`Members::OfAnySource`] they gather out
    /// of force, and take effect together when it is set to [`Members::Own`].
    AddMember(Stream, Output),
    /// Removes a member from a stream.
    RemoveMember(Stream, Output),
}

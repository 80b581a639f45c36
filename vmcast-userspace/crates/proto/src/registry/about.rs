//! What a node says of itself beside its name and its endpoints.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{Label, NodeId, Prefix};

/// A way in which a node takes or sends packets of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TunnelKind {
    /// AMT (RFC 7450) at an address beside the endpoints, or one that tells which endpoints are meant.
    Amt,
    /// QUIC datagrams.
    Quic,
    /// The signalling link, over TLS.
    Link,
    /// GRE (RFC 2784, RFC 2890); the port is 0.
    Gre,
    /// IP in IP (RFC 2003, RFC 2473); the port is 0.
    IpIp,
}

/// Where one kind of tunnel ends at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelEnd {
    /// The kind.
    pub kind: TunnelKind,
    /// The address, and the port of kinds that have one.
    pub endpoint: SocketAddr,
}

/// A node's end of a tunnel to a VMR, and what proves to that VMR that it is there (RFC 7450 §5.3.3.4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OwnTunnel {
    /// The VMR.
    pub vmr: NodeId,
    /// This end as the VMR sees it: behind a translator, the translator's address and a port of its own.
    pub tunnel: SocketAddr,
    /// The nonce of the Request that the VMR answered.
    pub nonce: u32,
    /// The Response MAC that it answered with.
    pub response_mac: [u8; 6],
}

impl OwnTunnel {
    /// Whether it is the same tunnel, by whatever proof.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.vmr == other.vmr && self.tunnel == other.tunnel
    }
}

/// How much a node does, of how much it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Tunnels to those below.
    pub connections: u32,
    /// Most of them that it takes; 0 if it does not say.
    pub capacity: u32,
}

impl Load {
    /// Whether `percent` of the capacity or more is in use; never without a known capacity.
    #[must_use]
    pub fn is_at(self, percent: u8) -> bool {
        self.capacity != 0
            && u64::from(self.connections) * 100 >= u64::from(self.capacity) * u64::from(percent)
    }
}

/// Abilities, tunnels, sources and load of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// What it can do, by name. A name that nobody here knows is kept, for others may.
    pub capabilities: BTreeSet<Label>,
    /// Tunnel ends beside the endpoints, the preferred first.
    pub tunnel_ends: Vec<TunnelEnd>,
    /// Prefixes whose sources it is the first hop for.
    pub source_prefixes: Vec<Prefix>,
    /// How busy it is.
    pub load: Load,
    /// Its ends of the tunnels to the VMRs above it.
    pub own_tunnels: Vec<OwnTunnel>,
}

impl About {
    /// Capabilities of one node at most.
    pub const MAX_CAPABILITIES: usize = 64;
    /// Tunnel ends of one node at most.
    pub const MAX_TUNNEL_ENDS: usize = 64;
    /// Source prefixes of one node at most.
    pub const MAX_SOURCE_PREFIXES: usize = 256;
    /// Ends of its own tunnels at most.
    pub const MAX_OWN_TUNNELS: usize = 8;

    /// The first of its lists that is longer than allowed: name, length and limit.
    pub(super) fn excess(&self) -> Option<(&'static str, usize, usize)> {
        [
            ("capabilities", self.capabilities.len(), Self::MAX_CAPABILITIES),
            ("tunnel ends", self.tunnel_ends.len(), Self::MAX_TUNNEL_ENDS),
            ("source prefixes", self.source_prefixes.len(), Self::MAX_SOURCE_PREFIXES),
            ("own tunnels", self.own_tunnels.len(), Self::MAX_OWN_TUNNELS),
        ]
        .into_iter()
        .find(|&(_, given, limit)| given > limit)
    }
}

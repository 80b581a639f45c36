//! What the admin knows.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{data::TunnelKind, status::Role};

/// A page of registered nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nodes {
    /// Where the next page begins; `None` after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The nodes, ordered by id.
    pub nodes: Vec<Node>,
}

/// A registered node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its identity.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its rank: 0 at the source, larger further down; routers only.
    #[serde(default)]
    pub rank: Option<u32>,
    /// Where its tunnels end.
    pub endpoints: Vec<SocketAddr>,
    /// Milliseconds since it registered.
    pub age_ms: u64,
    /// Milliseconds until its lease ends, if it does not renew it.
    pub lease_left_ms: u64,
    /// Whether it was taken out of service: it is given to nobody new.
    #[serde(default)]
    pub draining: bool,
    /// Average round-trip time to the admin in microseconds; routers only, once it is known.
    #[serde(default)]
    pub rtt_us: Option<u64>,
    /// Tunnels to those below it, as it last told.
    #[serde(default)]
    pub connections: u32,
    /// Most tunnels that it takes; 0: it does not say.
    #[serde(default)]
    pub capacity: u32,
    /// Name and version of its software.
    #[serde(default)]
    pub software: String,
    /// What it can do, by name.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Networks whose sources it is the first hop for.
    #[serde(default)]
    pub source_prefixes: Vec<String>,
    /// Where its static tunnels end.
    #[serde(default)]
    pub tunnel_ends: Vec<TunnelEnd>,
    /// What the admin's return probes found at each of its endpoints; routers only, and none if the admin does not
    /// probe. A router is given to others only by the endpoints at which it was found.
    #[serde(default)]
    pub proofs: Vec<EndpointProof>,
}

/// Where a static tunnel ends at a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelEnd {
    /// How packets are encapsulated.
    pub kind: TunnelKind,
    /// Where; the port is 0 of kinds that have none.
    pub endpoint: SocketAddr,
}

/// What return probes found at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointProof {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Whom.
    pub found: ProofState,
    /// Milliseconds since that is known.
    pub age_ms: u64,
}

/// Whom return probes found at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofState {
    /// It was not probed yet.
    Awaited,
    /// The router.
    Proved,
    /// Nobody.
    Silent,
    /// Somebody else.
    Foreign,
    /// The router does not take part in probes.
    Mute,
}

impl ProofState {
    /// What it means, for people.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Awaited => "not probed yet",
            Self::Proved => "proved",
            Self::Silent => "nobody answers there",
            Self::Foreign => "somebody else answers there",
            Self::Mute => "the node does not answer to return probes",
        }
    }
}

/// A router was taken out of service or back in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// The router.
    pub node: String,
    /// Whether it is out of service now.
    pub draining: bool,
    /// Whether that is a change.
    pub changed: bool,
}

/// A page of the cache of nearest VMRs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntries {
    /// Where the next page begins; `None` after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The entries, those of agents first, then by rank; ordered by prefix.
    pub entries: Vec<CacheEntry>,
}

/// The VMR nearest to an address or a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntry {
    /// The requesters it is for: a prefix as `192.0.2.0/24`, of full length for one address.
    pub prefix: String,
    /// The requesters it is for: VMRs of this rank; `None`: agents.
    #[serde(default)]
    pub rank: Option<u32>,
    /// Identity of the nearest VMR.
    pub node: String,
    /// Its address and port that was measured.
    pub endpoint: SocketAddr,
    /// Hops from the requester to it; `None` if they were not measured.
    #[serde(default)]
    pub hops: Option<u8>,
    /// Round-trip time between them in microseconds; `None` if it was not measured.
    #[serde(default)]
    pub rtt_us: Option<u64>,
    /// Where its requesters go if it does not serve, the next nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<RankedNode>,
    /// Identity of the node that measured.
    pub reporter: String,
    /// Milliseconds since it was found.
    pub age_ms: u64,
    /// Milliseconds until it is forgotten.
    pub left_ms: u64,
}

/// A VMR that was measured and was not the nearest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankedNode {
    /// Its identity.
    pub node: String,
    /// Its address and port that was measured.
    pub endpoint: SocketAddr,
    /// Hops from the requester to it.
    pub hops: u8,
    /// Round-trip time between them in microseconds.
    pub rtt_us: u64,
}

//! How a daemon is doing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::{admin::EndpointProof, policy::Refused};

/// What a daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A virtual multicast router (VMR).
    Router,
    /// The administration server.
    Admin,
    /// The agent on a client.
    Agent,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Router, Self::Admin, Self::Agent];

    /// The word for the role in commands, file names and messages.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Admin => "admin",
            Self::Agent => "agent",
        }
    }
}

/// Who a daemon is and how it is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its role.
    pub role: Role,
    /// Its name, from the configuration.
    pub name: String,
    /// Its rank: 0 at the source, larger further down; routers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// What replicates; routers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// The connection to the admin; `None` if none is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminLink>,
    /// The VMR that streams come from; `None` at a source and for the admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
    /// Streams that are known.
    #[serde(default)]
    pub groups: u64,
    /// Members over all streams.
    #[serde(default)]
    pub members: u64,
    /// Tunnels that are up.
    #[serde(default)]
    pub tunnels: u64,
    /// Nodes whose lease runs, by role; the admin only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<Role, u64>,
    /// Entries of the cache of nearest VMRs; the admin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_entries: Option<u64>,
    /// Whether the admin has lost its etcd, and answers from what it knew before; the admin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_stale: Option<bool>,
    /// Whether the admin keeps what changes: not while its disk is full or its etcd lost; the admin only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_kept: Option<bool>,
    /// The last time that the host's clock was set while the admin ran; the admin only, and `None` if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_step: Option<ClockStep>,
    /// Version of the policy that is carried out; routers only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<u64>,
    /// Joins and sources that the policy refuses; not all, if there are very many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refused>,
    /// Interfaces that the data plane does not take, and why; routers only, and not all, if there are very many.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub interfaces_refused: BTreeMap<String, String>,
}

/// A step of the host's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStep {
    /// By how many milliseconds it was set; back if it is negative.
    pub by_ms: i64,
    /// Milliseconds since then.
    pub age_ms: u64,
}

/// What replicates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// Its label, as `xdp-broadcast`.
    pub label: String,
    /// Why it was chosen, a sentence.
    pub reason: String,
}

/// The connection to the admin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminLink {
    /// The admin in use, or the one that is tried.
    pub url: String,
    /// How it is.
    pub state: AdminLinkState,
    /// Milliseconds since it is so.
    pub age_ms: u64,
    /// The other admins that it knows, in the order in which they are tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    /// The last error, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the admin's return probes found at each of this router's endpoints: others are given it only by those that
    /// are proved. Empty if the admin does not probe; `None` if it has not said, and always on an agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<EndpointProof>>,
}

/// How the connection to the admin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminLinkState {
    /// Being set up for the first time.
    Connecting,
    /// Up, and this node is registered.
    Registered,
    /// Up, and the admin refuses this node.
    Refused,
    /// Down; tried again with growing pauses.
    Unreachable,
    /// A state that a newer daemon knows.
    #[serde(other)]
    Unknown,
}

/// The VMR that streams come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its address and port, `None` while it is being found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
    /// Its name, if the admin told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who named it: `static` or `admin`.
    pub from: String,
    /// How it is.
    pub state: UpstreamState,
    /// Milliseconds since it is so.
    pub age_ms: u64,
    /// Who has named it in the admin's place; `None` if an admin has, or is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stands_in: Option<StandIn>,
}

/// Who names the upstream while no admin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StandIn {
    /// The list that an admin gave before, which was kept over a restart and may be out of date.
    Kept,
    /// The fallback of the configuration.
    Fallback,
    /// Somebody whom this version does not know.
    #[serde(other)]
    Unknown,
}

/// How the upstream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamState {
    /// Not known yet: the admin is asked, distances are measured, or a name is resolved.
    Finding,
    /// Known; nothing was joined there yet, or it has not answered yet.
    Idle,
    /// It answers.
    Up,
    /// It no longer answers.
    Down,
    /// A state that a newer daemon knows.
    #[serde(other)]
    Unknown,
}

/// Counters of a daemon, since it started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// What replicates; `None` where nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Packets, and copies where the reason speaks of one copy, by the label of the drop reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// The streams with most packets, at most [`crate::MAX_PAGE`] of them, the largest first.
    #[serde(default)]
    pub streams: Vec<StreamStats>,
    /// Counters of the control plane: subsystem, then label, as `igmp` and `bad_checksum`.
    #[serde(default)]
    pub control: BTreeMap<String, BTreeMap<String, u64>>,
    /// Resident memory of the daemon in bytes.
    #[serde(default)]
    pub resident_bytes: u64,
}

/// Counters of one stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStats {
    /// The group.
    pub group: IpAddr,
    /// The source; `None` for every source without an entry of its own.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// Packets accepted and replicated.
    pub packets: u64,
    /// Their IP length in bytes.
    pub bytes: u64,
    /// Packets dropped as a whole, and copies that members missed, by reason; those that are zero are left out. A copy
    /// that a device refuses after it was let go at XDP is among those of no stream.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// How long ago the last packet came, in milliseconds; `None` if none came.
    #[serde(default)]
    pub last_packet_ms: Option<u64>,
}

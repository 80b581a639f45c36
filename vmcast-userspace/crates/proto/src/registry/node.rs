//! Nodes: what they are called, what they say of themselves, what is kept of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use super::{About, Found, Proof, UnixMillis};

/// The name a node chose for itself and keeps: 1 to [`NodeId::MAX_LEN`] ASCII letters, digits and
/// `-`, `_`, `.`, `:`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

/// A text that is no [`NodeId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdError {
    /// Nothing there.
    #[error("a node id is empty")]
    Empty,
    /// More than [`NodeId::MAX_LEN`] bytes.
    #[error("a node id of {0} bytes is longer than {max}", max = NodeId::MAX_LEN)]
    TooLong(usize),
    /// A character that is not allowed.
    #[error("{character:?} at byte {offset} of a node id: only ASCII letters, digits and -_.: are allowed")]
    Character {
        /// The character.
        character: char,
        /// Where it stands.
        offset: usize,
    },
}

impl NodeId {
    /// Bytes at most.
    pub const MAX_LEN: usize = 64;

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is before every id; no node has it.
    pub(super) fn least() -> Self {
        Self("".into())
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        if text.is_empty() {
            return Err(NodeIdError::Empty);
        }
        if text.len() > Self::MAX_LEN {
            return Err(NodeIdError::TooLong(text.len()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        match text.char_indices().find(|&(_, c)| !allowed(c)) {
            Some((offset, character)) => Err(NodeIdError::Character { character, offset }),
            None => Ok(Self(text.into())),
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A short text for people: at most [`Label::MAX_LEN`] bytes, no control characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(String);

/// A text that is no [`Label`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// More than [`Label::MAX_LEN`] bytes.
    #[error("a name of {0} bytes is longer than {max}", max = Label::MAX_LEN)]
    TooLong(usize),
    /// A control character, which could play tricks on a terminal.
    #[error("a control character at byte {0} of a name")]
    Control(usize),
}

impl Label {
    /// Bytes at most.
    pub const MAX_LEN: usize = 64;

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        if text.len() > Self::MAX_LEN {
            return Err(LabelError::TooLong(text.len()));
        }
        match text.char_indices().find(|(_, c)| c.is_control()) {
            Some((offset, _)) => Err(LabelError::Control(offset)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Routes and replicates.
    Vmr {
        /// Distance from the source: 0 at the source, larger below.
        rank: u32,
    },
    /// Receives for one client.
    Agent,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Its name.
    pub id: NodeId,
    /// What it does.
    pub role: Role,
    /// Where its AMT speaks, the preferred endpoint first.
    pub endpoints: Vec<SocketAddr>,
    /// What people call it.
    pub name: Label,
    /// Its software and version.
    pub software: Label,
    /// Abilities, tunnels, sources and load.
    pub about: About,
}

impl Registration {
    /// Whether `other` is reached and ranked alike, so that what was measured stays true.
    pub(super) fn same_place(&self, other: &Self) -> bool {
        let set = |node: &Self| node.endpoints.iter().copied().collect::<BTreeSet<_>>();
        self.role == other.role && set(self) == set(other)
    }
}

/// A registration as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// What the node said; a record is copied often.
    pub registration: Arc<Registration>,
    /// The address its request came from.
    pub seen: IpAddr,
    /// Since when it has been registered without a gap.
    pub registered: UnixMillis,
    /// When the lease ends.
    pub expires: UnixMillis,
    /// Whether an operator has taken it out of service: it keeps its lease, and nobody is given it.
    pub draining: bool,
    /// Of a VMR's endpoints, what return probes found; one that is not here was not probed.
    pub proofs: BTreeMap<SocketAddr, Proof>,
}

impl NodeRecord {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &NodeId {
        &self.registration.id
    }

    /// Whether the lease still runs.
    #[must_use]
    pub fn is_live(&self, now: UnixMillis) -> bool {
        self.expires > now
    }

    /// The rank of a VMR.
    #[must_use]
    pub fn rank(&self) -> Option<u32> {
        match self.registration.role {
            Role::Vmr { rank } => Some(rank),
            Role::Agent => None,
        }
    }

    /// What return probes found at an endpoint; `None` if it was not probed yet.
    #[must_use]
    pub fn found(&self, endpoint: &SocketAddr) -> Option<Found> {
        self.proofs.get(endpoint).map(|proof| proof.found)
    }

    /// Whether this node may be told to attach to `vmr`: never to itself, a VMR only to one of lower
    /// rank, and nobody to one that drains.
    #[must_use]
    pub fn may_attach_to(&self, vmr: &Self, now: UnixMillis) -> bool {
        let Some(rank) = vmr.rank() else {
            return false;
        };
        vmr.is_live(now) && !vmr.draining && vmr.id() != self.id() && self.rank().is_none_or(|own| rank < own)
    }
}

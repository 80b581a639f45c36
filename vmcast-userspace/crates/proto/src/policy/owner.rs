//! Whose tunnel is whose: behind a translator several nodes have one address, and each its own port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use crate::registry::NodeId;

/// Whom rules on members are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Where it is.
    pub address: Option<IpAddr>,
    /// Its end of the tunnel, if it is at one.
    pub tunnel: Option<SocketAddr>,
}

impl From<Option<IpAddr>> for Subject {
    fn from(address: Option<IpAddr>) -> Self {
        Self { address, tunnel: None }
    }
}

impl From<SocketAddr> for Subject {
    fn from(tunnel: SocketAddr) -> Self {
        Self { address: Some(tunnel.ip()), tunnel: Some(tunnel) }
    }
}

/// The nodes at the tunnels of a VMR, as far as they have proved that they are there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owners {
    /// `None` where two have.
    tunnels: BTreeMap<SocketAddr, Option<NodeId>>,
    /// Those who are known by their tunnels, here or at other VMRs.
    nodes: BTreeSet<NodeId>,
}

impl Owners {
    /// Those who have proved it.
    #[must_use]
    pub fn new(proved: impl IntoIterator<Item = (SocketAddr, NodeId)>) -> Self {
        let mut owners = Self::default();
        for (tunnel, node) in proved {
            let entry = owners.tunnels.entry(tunnel).or_insert_with(|| Some(node.clone()));
            // A translator gave a port of one to another: who has it now is not known.
            if entry.as_ref() != Some(&node) {
                *entry = None;
            }
            owners.nodes.insert(node);
        }
        owners
    }

    /// With nodes that are known by their tunnels wherever they are.
    #[must_use]
    pub fn beside(mut self, known: impl IntoIterator<Item = NodeId>) -> Self {
        self.nodes.extend(known);
        self
    }

    /// Who is at a tunnel.
    #[must_use]
    pub fn of(&self, tunnel: SocketAddr) -> Option<&NodeId> {
        self.tunnels.get(&tunnel)?.as_ref()
    }

    /// Nobody is at a tunnel any more. Says whether somebody was.
    pub fn forget(&mut self, tunnel: SocketAddr) -> bool {
        self.tunnels.remove(&tunnel).is_some()
    }

    /// Whether a node is known by its tunnels.
    pub(super) fn has(&self, node: &NodeId) -> bool {
        self.nodes.contains(node)
    }
}

//! What every plane remembers of our own endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use vmcast_common::maps::EndpointEntry;

/// The endpoints in force; one may be both.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    tunnels: BTreeSet<SocketAddr>,
    inputs: BTreeMap<SocketAddr, SocketAddr>,
}

/// One thing that an endpoint is or is no longer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// Whether tunnels end there.
    Tunnels(bool),
    /// Where datagrams go on to.
    Input(Option<SocketAddr>),
}

impl Endpoints {
    /// What the decision is to know of an endpoint once it has changed; `None` if it is none any more.
    pub(crate) fn after(&self, at: SocketAddr, change: Change) -> Option<EndpointEntry> {
        let (of_tunnels, group) = match change {
            Change::Tunnels(are) => (are, self.inputs.get(&at).copied()),
            Change::Input(group) => (self.tunnels.contains(&at), group),
        };
        group.map(EndpointEntry::input_to).or(of_tunnels.then_some(EndpointEntry::OF_TUNNELS))
    }

    /// Takes note of a change.
    pub(crate) fn change(&mut self, at: SocketAddr, change: Change) {
        match change {
            Change::Tunnels(true) => drop(self.tunnels.insert(at)),
            Change::Tunnels(false) => drop(self.tunnels.remove(&at)),
            Change::Input(Some(group)) => drop(self.inputs.insert(at, group)),
            Change::Input(None) => drop(self.inputs.remove(&at)),
        }
    }

    /// Those where tunnels end.
    pub(crate) fn tunnels(&self) -> BTreeSet<SocketAddr> {
        self.tunnels.clone()
    }

    /// Those where streams come in, and the groups to which they go on.
    pub(crate) fn inputs(&self) -> BTreeMap<SocketAddr, SocketAddr> {
        self.inputs.clone()
    }
}

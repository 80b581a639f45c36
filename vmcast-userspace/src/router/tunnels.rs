//! The relay's tunnels as the data plane sees them: each waits for the way to its far end before
//! its first membership counts, so that no copy is sent on a guess.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use vmcast_common::fib::{EcnMode, FibOp, NextHopId, Tunnel, TunnelId, TunnelKind};
use vmcast_proto::Filter;

/// A tunnel whose way is being looked up, with what was joined meanwhile.
#[derive(Debug)]
struct Waiting {
    local: SocketAddr,
    remote: SocketAddr,
    ecn: bool,
    memberships: Vec<(IpAddr, Filter)>,
}

/// All tunnels to one address.
#[derive(Debug, Default)]
struct Destination {
    /// The outer option: whether the lookup was answered; the inner: whether there is a way.
    next_hop: Option<Option<NextHopId>>,
    tunnels: BTreeSet<u32>,
}

/// The tunnels of the relay, by destination.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    destinations: HashMap<IpAddr, Destination>,
    waiting: HashMap<u32, Waiting>,
    /// Next hops taken over from an earlier process, with the destinations that still use them.
    inherited: HashMap<NextHopId, usize>,
}

/// What a change of a tunnel asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Fib(FibOp),
    Membership { id: u32, group: IpAddr, filter: Filter },
    Watch(IpAddr),
    Unwatch(IpAddr),
}

/// The number of the relay's tunnel in the data plane.
pub(super) const fn tunnel_id(id: u32) -> TunnelId {
    TunnelId(id)
}

fn set(id: u32, local: SocketAddr, remote: SocketAddr, ecn: bool, next_hop: Option<NextHopId>) -> Effect {
    // RFC 9601 §6.1.4.2.
    let ecn = if ecn { EcnMode::Normal } else { EcnMode::Compatibility };
    let tunnel = Tunnel { kind: TunnelKind::Amt, local, remote, ecn, accepts_sources: false, next_hop };
    Effect::Fib(FibOp::SetTunnel(tunnel_id(id), tunnel))
}

impl Tunnels {
    /// Takes over the way to an address, until it is looked up.
    pub(super) fn inherit(&mut self, address: IpAddr, next_hop: NextHopId, out: &mut Vec<Effect>) {
        self.destinations.entry(address).or_insert_with(|| {
            out.push(Effect::Watch(address));
            *self.inherited.entry(next_hop).or_default() += 1;
            Destination { next_hop: Some(Some(next_hop)), tunnels: BTreeSet::new() }
        });
    }

    fn disinherit(&mut self, next_hop: Option<Option<NextHopId>>, out: &mut Vec<Effect>) {
        let Some(next_hop) = next_hop.flatten() else {
            return;
        };
        if let Some(users) = self.inherited.get_mut(&next_hop) {
            *users -= 1;
            if *users == 0 {
                self.inherited.remove(&next_hop);
                out.push(Effect::Fib(FibOp::RemoveNextHop(next_hop)));
            }
        }
    }

    /// A gateway proved its address.
    pub(super) fn up(
        &mut self,
        id: u32,
        local: SocketAddr,
        remote: SocketAddr,
        ecn: bool,
        out: &mut Vec<Effect>,
    ) {
        let destination = self.destinations.entry(remote.ip()).or_insert_with(|| {
            out.push(Effect::Watch(remote.ip()));
            Destination::default()
        });
        destination.tunnels.insert(id);
        match destination.next_hop {
            Some(next_hop) => out.push(set(id, local, remote, ecn, next_hop)),
            None => {
                self.waiting.insert(id, Waiting { local, remote, ecn, memberships: Vec::new() });
            }
        }
    }

    /// A gateway says otherwise of its E flag than before.
    pub(super) fn ecn(
        &mut self,
        id: u32,
        local: SocketAddr,
        remote: SocketAddr,
        ecn: bool,
        out: &mut Vec<Effect>,
    ) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.ecn = ecn;
        } else if let Some(Some(next_hop)) = self.destinations.get(&remote.ip()).map(|to| to.next_hop) {
            out.push(set(id, local, remote, ecn, next_hop));
        }
    }

    /// A gateway wants something.
    pub(super) fn membership(&mut self, id: u32, group: IpAddr, filter: Filter, out: &mut Vec<Effect>) {
        match self.waiting.get_mut(&id) {
            Some(waiting) => {
                waiting.memberships.retain(|(other, _)| *other != group);
                waiting.memberships.push((group, filter));
            }
            None => out.push(Effect::Membership { id, group, filter }),
        }
    }

    /// A tunnel has ended; its memberships have been withdrawn before.
    pub(super) fn down(&mut self, id: u32, remote: IpAddr, out: &mut Vec<Effect>) {
        if self.waiting.remove(&id).is_none() {
            out.push(Effect::Fib(FibOp::RemoveTunnel(tunnel_id(id))));
        }
        if let Some(destination) = self.destinations.get_mut(&remote) {
            destination.tunnels.remove(&id);
            if destination.tunnels.is_empty() {
                let next_hop = destination.next_hop;
                self.destinations.remove(&remote);
                out.push(Effect::Unwatch(remote));
                self.disinherit(next_hop, out);
            }
        }
    }

    /// The way to an address was found, has changed or was lost. `ends` names the ends of a tunnel.
    pub(super) fn assign(
        &mut self,
        address: IpAddr,
        next_hop: Option<NextHopId>,
        ends: impl Fn(u32) -> Option<(SocketAddr, SocketAddr, bool)>,
        out: &mut Vec<Effect>,
    ) {
        let Some(destination) = self.destinations.get_mut(&address) else {
            return;
        };
        let before = destination.next_hop.replace(next_hop);
        for &id in &destination.tunnels {
            if let Some(Waiting { local, remote, ecn, memberships }) = self.waiting.remove(&id) {
                out.push(set(id, local, remote, ecn, next_hop));
                out.extend(memberships.into_iter().map(|(group, filter)| Effect::Membership {
                    id,
                    group,
                    filter,
                }));
            } else if let Some((local, remote, ecn)) = ends(id) {
                out.push(set(id, local, remote, ecn, next_hop));
            }
        }
        self.disinherit(before, out);
    }

    /// Whether tunnels to an address wait for the way there.
    pub(super) fn is_awaited(&self, address: IpAddr) -> bool {
        self.destinations.get(&address).is_some_and(|destination| destination.next_hop.is_none())
    }

    /// Whether the way to a tunnel's far end is still being looked up.
    pub(super) fn is_waiting(&self, id: u32) -> bool {
        self.waiting.contains_key(&id)
    }

    /// The next hop towards an address, `None` while there is none.
    pub(super) fn next_hop(&self, address: IpAddr) -> Option<NextHopId> {
        self.destinations.get(&address)?.next_hop?
    }
}

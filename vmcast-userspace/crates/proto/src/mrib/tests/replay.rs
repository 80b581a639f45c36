//! A forwarding base that follows operations as every data plane has to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use vmcast_common::fib::{self, FibOp, IfIndex, Members, Rpf, Stream, TunnelId};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) rpf: Rpf,
    pub(super) members: Members,
    pub(super) own: BTreeSet<fib::Output>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Replay {
    pub(super) streams: BTreeMap<Stream, Entry>,
    /// Interfaces whose sources are accepted.
    pub(super) accepting: BTreeSet<IfIndex>,
    /// Tunnels whose far end may send.
    pub(super) upstreams: BTreeSet<TunnelId>,
}

impl Replay {
    /// Applies an operation; one that is out of place or changes nothing is a fault of who sent it.
    pub(super) fn apply(&mut self, op: FibOp) {
        let done = match op {
            FibOp::SetStream(stream, rpf, members) => match self.streams.get_mut(&stream) {
                Some(entry) => {
                    let differs = (entry.rpf, entry.members) != (rpf, members);
                    (entry.rpf, entry.members) = (rpf, members);
                    differs
                }
                None => self.streams.insert(stream, Entry { rpf, members, own: BTreeSet::new() }).is_none(),
            },
            FibOp::RemoveStream(stream) => {
                let served = self.streams.keys().any(|other| {
                    other.group == stream.group
                        && *other != stream
                        && self.streams[other].members == Members::OfAnySource
                });
                assert!(stream.source.is_some() || !served, "{op:?} leaves streams that share its members");
                self.streams.remove(&stream).is_some()
            }
            FibOp::AddMember(stream, member) => {
                self.streams.get_mut(&stream).is_some_and(|entry| entry.own.insert(member))
            }
            FibOp::RemoveMember(stream, member) => {
                self.streams.get_mut(&stream).is_some_and(|entry| entry.own.remove(&member))
            }
            FibOp::SetInterface(_)
            | FibOp::RemoveInterface(_)
            | FibOp::SetEndpoint(_)
            | FibOp::RemoveEndpoint(_)
            | FibOp::SetUnicastInput { .. }
            | FibOp::RemoveUnicastInput(_)
            | FibOp::SetNextHop(..)
            | FibOp::RemoveNextHop(_)
            | FibOp::SetTunnel(..)
            | FibOp::RemoveTunnel(_)
            | FibOp::SetConversion(..)
            | FibOp::RemoveConversion(_)
            | FibOp::SetPriority(..)
            | FibOp::ShareGroup(..)
            | FibOp::UnshareGroup(..) => panic!("{op:?} is not the routing base's to give"),
        };
        assert!(done, "{op:?} changes nothing in {self:#?}");
    }

    /// Who gets a packet.
    pub(super) fn receivers(
        &self,
        source: IpAddr,
        group: IpAddr,
        input: fib::Input,
    ) -> BTreeSet<fib::Output> {
        let any = self.streams.get(&Stream { source: None, group });
        let Some(entry) = self.streams.get(&Stream { source: Some(source), group }).or(any) else {
            return BTreeSet::new();
        };
        let accepted = match (entry.rpf, input) {
            (Rpf::Exact(right), input) => right == input,
            (Rpf::AnyUpstream, fib::Input::Interface(ifindex)) => self.accepting.contains(&ifindex),
            (Rpf::AnyUpstream, fib::Input::Tunnel(id)) => self.upstreams.contains(&id),
        };
        match (accepted, entry.members) {
            (false, _) => BTreeSet::new(),
            (true, Members::Own) => entry.own.clone(),
            (true, Members::OfAnySource) => any.expect("a (*,G) to share").own.clone(),
        }
    }
}

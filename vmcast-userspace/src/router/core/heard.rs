//! Groups that somebody else on this host listens to. Those of them that are forwarded are shared with the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use vmcast_common::fib::{FibOp, IfIndex};

/// What is listened to on each interface, and what of it is shared.
#[derive(Debug, Default)]
pub(in crate::router) struct Heard {
    listened: BTreeMap<IfIndex, BTreeSet<IpAddr>>,
    shared: BTreeSet<(IfIndex, IpAddr)>,
}

impl Heard {
    /// Notes all groups that are listened to on an interface; `is_forwarded` says of which there are streams. Returns what
    /// the data plane is to be told.
    pub(super) fn hear(
        &mut self,
        ifindex: IfIndex,
        groups: BTreeSet<IpAddr>,
        is_forwarded: impl Fn(IpAddr) -> bool,
    ) -> Vec<FibOp> {
        let wanted: BTreeSet<IpAddr> = groups.iter().copied().filter(|group| is_forwarded(*group)).collect();
        let shared: BTreeSet<IpAddr> =
            self.shared.iter().filter(|(on, _)| *on == ifindex).map(|(_, group)| *group).collect();
        let gone = shared.difference(&wanted).map(|group| FibOp::UnshareGroup(ifindex, *group));
        let new = wanted.difference(&shared).map(|group| FibOp::ShareGroup(ifindex, *group));
        let ops = gone.chain(new).collect();
        self.shared.retain(|(on, _)| *on != ifindex);
        self.shared.extend(wanted.into_iter().map(|group| (ifindex, group)));
        if groups.is_empty() {
            self.listened.remove(&ifindex);
        } else {
            self.listened.insert(ifindex, groups);
        }
        ops
    }

    /// What the data plane is told before a stream is in force, so that its first packet is shared.
    pub(super) fn ahead_of(&mut self, op: &FibOp) -> Vec<FibOp> {
        let FibOp::SetStream(stream, ..) = op else {
            return Vec::new();
        };
        let group = stream.group;
        let here = self.listened.iter().filter(|(_, groups)| groups.contains(&group));
        let new = here.map(|(ifindex, _)| *ifindex).filter(|ifindex| self.shared.insert((*ifindex, group)));
        new.map(|ifindex| FibOp::ShareGroup(ifindex, group)).collect()
    }

    /// Forgets an interface that is gone.
    pub(super) fn forget(&mut self, ifindex: IfIndex) {
        self.listened.remove(&ifindex);
        self.shared.retain(|(on, _)| *on != ifindex);
    }

    /// The groups that are shared.
    pub(in crate::router) const fn shared(&self) -> &BTreeSet<(IfIndex, IpAddr)> {
        &self.shared
    }

    /// How many groups are listened to on an interface.
    pub(in crate::router) fn groups_on(&self, ifindex: IfIndex) -> usize {
        self.listened.get(&ifindex).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod tests {
    use vmcast_common::fib::{Members, Rpf, Stream};

    use super::*;

    const ON: IfIndex = IfIndex(3);

    fn group(last: u8) -> IpAddr {
        IpAddr::from([239, 1, 2, last])
    }

    fn groups(last: &[u8]) -> BTreeSet<IpAddr> {
        last.iter().map(|last| group(*last)).collect()
    }

    #[test]
    fn what_is_forwarded_is_shared_until_nobody_listens_or_forwards() {
        let mut heard = Heard::default();
        let forwarded = |all: &'static [u8]| move |asked| all.iter().any(|last| group(*last) == asked);
        assert_eq!(
            heard.hear(ON, groups(&[1, 2, 3]), forwarded(&[2, 3, 4])),
            [2, 3].map(|last| { FibOp::ShareGroup(ON, group(last)) })
        );
        assert_eq!(heard.hear(ON, groups(&[1, 2, 3]), forwarded(&[2, 3, 4])), []);
        assert_eq!(
            heard.hear(IfIndex(4), groups(&[2]), forwarded(&[2])),
            [FibOp::ShareGroup(IfIndex(4), group(2))]
        );
        let ops = heard.hear(ON, groups(&[1, 2]), forwarded(&[1, 3]));
        let gone = [2, 3].map(|last| FibOp::UnshareGroup(ON, group(last)));
        assert_eq!(ops, [&gone[..], &[FibOp::ShareGroup(ON, group(1))]].concat());
        assert_eq!(*heard.shared(), [(ON, group(1)), (IfIndex(4), group(2))].into());
        heard.forget(ON);
        assert_eq!((heard.groups_on(ON), heard.groups_on(IfIndex(4))), (0, 1));
        assert_eq!(*heard.shared(), [(IfIndex(4), group(2))].into());
    }

    #[test]
    fn a_stream_of_a_group_that_is_listened_to_is_shared_before_it_is_in_force() {
        let mut heard = Heard::default();
        assert_eq!(heard.hear(ON, groups(&[1]), |_| false), []);
        let set = |last| {
            FibOp::SetStream(Stream { source: None, group: group(last) }, Rpf::AnyUpstream, Members::Own)
        };
        assert_eq!(heard.ahead_of(&set(2)), []);
        assert_eq!(heard.ahead_of(&FibOp::RemoveInterface(ON)), []);
        assert_eq!(heard.ahead_of(&set(1)), [FibOp::ShareGroup(ON, group(1))]);
        assert_eq!(heard.ahead_of(&set(1)), []);
    }
}

//! Interfaces and endpoints that the data plane does not take, until it does. What else it may refuse follows from
//! memberships and from what is stated: [`super::reconcile`] has that.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use vmcast_common::fib::{FibOp, IfIndex, Interface};
use vmcast_dataplane::ApplyError;

/// What the data plane refused.
#[derive(Debug, Default)]
pub(super) struct NotTaken {
    interfaces: BTreeMap<IfIndex, (Interface, String)>,
    endpoints: BTreeSet<SocketAddr>,
    /// How often an interface was refused that was not before.
    interfaces_refused: u64,
}

/// What is news of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is refused from now on.
    Refused(IfIndex),
    /// It is taken.
    Taken(IfIndex),
    /// There is room for what is refused, perhaps.
    Room,
}

impl NotTaken {
    /// Notes what the data plane has said to an operation.
    pub(super) fn note(&mut self, op: &FibOp, said: Result<(), &ApplyError>) -> Option<News> {
        match (*op, said) {
            (FibOp::SetInterface(interface), Err(error)) => {
                let refused = (interface, error.reason());
                let before = self.interfaces.insert(interface.ifindex, refused);
                self.interfaces_refused += u64::from(before.is_none());
                before.is_none().then_some(News::Refused(interface.ifindex))
            }
            (FibOp::SetInterface(Interface { ifindex, .. }), Ok(())) => {
                self.interfaces.remove(&ifindex);
                Some(News::Taken(ifindex))
            }
            (FibOp::RemoveInterface(ifindex), _) => {
                // One that was refused itself makes no room.
                let was_refused = self.interfaces.remove(&ifindex).is_some();
                (!was_refused && !self.interfaces.is_empty()).then_some(News::Room)
            }
            (FibOp::SetEndpoint(at), Err(_)) => {
                self.endpoints.insert(at);
                None
            }
            (FibOp::SetEndpoint(at), Ok(())) => {
                self.endpoints.remove(&at);
                None
            }
            (FibOp::RemoveEndpoint(at), _) => {
                let was_refused = self.endpoints.remove(&at);
                (!was_refused && !self.endpoints.is_empty()).then_some(News::Room)
            }
            (
                FibOp::SetUnicastInput { .. }
                | FibOp::RemoveUnicastInput(_)
                | FibOp::SetNextHop(..)
                | FibOp::RemoveNextHop(_)
                | FibOp::SetTunnel(..)
                | FibOp::RemoveTunnel(_)
                | FibOp::SetConversion(..)
                | FibOp::RemoveConversion(_)
                | FibOp::SetStream(..)
                | FibOp::SetPriority(..)
                | FibOp::RemoveStream(_)
                | FibOp::AddMember(..)
                | FibOp::RemoveMember(..)
                | FibOp::ShareGroup(..)
                | FibOp::UnshareGroup(..),
                _,
            ) => None,
        }
    }

    /// The operations that would let it take what it refused, in the order of their numbers.
    pub(super) fn again(&self) -> Vec<FibOp> {
        let interfaces = self.interfaces.values().map(|(interface, _)| FibOp::SetInterface(*interface));
        interfaces.chain(self.endpoints.iter().map(|at| FibOp::SetEndpoint(*at))).collect()
    }

    /// Why an interface is refused, if it is.
    pub(super) fn why(&self, ifindex: IfIndex) -> Option<&str> {
        self.interfaces.get(&ifindex).map(|(_, reason)| reason.as_str())
    }

    /// The interfaces that are refused, and why.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = (IfIndex, &str)> {
        self.interfaces.iter().map(|(ifindex, (_, reason))| (*ifindex, reason.as_str()))
    }

    /// How often an interface was refused that was not before.
    pub(super) const fn interfaces_refused(&self) -> u64 {
        self.interfaces_refused
    }
}

#[cfg(test)]
mod tests {
    use vmcast_common::fib::{EngineWish, Link};

    use super::*;

    fn interface(number: u32) -> Interface {
        Interface {
            ifindex: IfIndex(number),
            device: IfIndex(number),
            link: Link::default(),
            peer: None,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            accepts_sources: false,
            shared: false,
            engine: EngineWish::Any,
            xdp_members: None,
        }
    }

    fn full(op: FibOp) -> ApplyError {
        ApplyError::Full { table: "interfaces", limit: 2, op }
    }

    #[test]
    fn what_is_refused_is_asked_for_again_until_it_is_taken_or_gone() {
        let mut refused = NotTaken::default();
        let [one, two, three] = [1, 2, 3].map(|number| FibOp::SetInterface(interface(number)));
        assert_eq!(refused.note(&one, Ok(())), Some(News::Taken(IfIndex(1))));
        for op in [two, three] {
            let number = if op == two { IfIndex(2) } else { IfIndex(3) };
            assert_eq!(refused.note(&op, Err(&full(op))), Some(News::Refused(number)));
            assert_eq!(refused.note(&op, Err(&full(op))), None, "that is no news");
        }
        assert_eq!((refused.again(), refused.interfaces_refused()), (vec![two, three], 2));
        let reason = "interfaces is full at 2 entries, as dataplane.max_interfaces says";
        assert_eq!((refused.why(IfIndex(1)), refused.why(IfIndex(2))), (None, Some(reason)));
        assert_eq!(refused.note(&FibOp::RemoveInterface(IfIndex(3)), Ok(())), None, "it had no place");
        assert_eq!(refused.note(&FibOp::RemoveInterface(IfIndex(1)), Ok(())), Some(News::Room));
        assert_eq!(refused.note(&two, Ok(())), Some(News::Taken(IfIndex(2))));
        assert_eq!((refused.again(), refused.interfaces().count()), (vec![], 0));
        assert_eq!(refused.note(&FibOp::RemoveInterface(IfIndex(2)), Ok(())), None, "nobody waits");
    }

    #[test]
    fn an_endpoint_that_is_refused_is_asked_for_again() {
        let mut refused = NotTaken::default();
        let [one, two] = [1, 2].map(|last| SocketAddr::from(([192, 0, 2, last], 2268)));
        let op = FibOp::SetEndpoint(two);
        assert_eq!(refused.note(&FibOp::SetEndpoint(one), Ok(())), None);
        assert_eq!(refused.note(&op, Err(&full(op))), None);
        assert_eq!(refused.again(), [op]);
        assert_eq!(refused.note(&FibOp::RemoveEndpoint(one), Ok(())), Some(News::Room));
        assert_eq!(refused.note(&op, Ok(())), None);
        assert_eq!(refused.again(), []);
    }
}

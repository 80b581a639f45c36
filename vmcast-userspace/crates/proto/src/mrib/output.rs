//! What the machine wants done or known.

use std::{collections::VecDeque, net::IpAddr};

use vmcast_common::fib::{self, FibOp, Members, Rpf, Stream};

use super::shares::{Account, Shares};
use crate::Filter;

/// An output of [`super::Mrib`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A change of the data plane: a stream or a member of one.
    Fib(FibOp),
    /// The merged filter of all members changed (RFC 9776 §3.2); [`Filter::none`] without members.
    ///
    /// It is the membership to report to the upstream tunnel and on every interface that accepts
    /// sources (RFC 4605 §4.1).
    Interest {
        /// The group.
        group: IpAddr,
        /// What somebody wants of it.
        filter: Filter,
    },
    /// Something an operator may want to follow.
    Event(Event),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What a member wants of a group is another thing from here on. It stands before the operations that come of
    /// it, so that whoever reads counters finds those of streams that are about to go.
    MembershipChanged {
        /// The group.
        group: IpAddr,
        /// The member.
        member: fib::Output,
        /// What it wanted; [`Filter::none`] if it joins.
        old: Filter,
        /// What it wants; [`Filter::none`] if it leaves.
        new: Filter,
    },
    /// A membership waits, whole or in part, because there is no room for its streams.
    NoRoom {
        /// The group.
        group: IpAddr,
        /// The member.
        member: fib::Output,
        /// On whose account its streams would be; `None` if they are stated.
        account: Option<Account>,
        /// How many streams that has.
        held: usize,
        /// How many streams there are.
        streams: usize,
    },
    /// A live source that no list names got its own (S,G).
    SourceLearnt {
        /// The (S,G).
        stream: Stream,
        /// Where its packet came from.
        input: fib::Input,
    },
    /// From here on only sources with an (S,G) are forwarded: more may not send than can be refused one by one.
    AnySourceClosed {
        /// The group.
        group: IpAddr,
    },
    /// Such an (S,G) saw no packet for Keepalive_Period and went back under (*,G).
    SourceSilent {
        /// The (S,G).
        stream: Stream,
    },
}

/// Outputs that wait for the driver, and the streams that come of them.
#[derive(Debug)]
pub(super) struct Outputs {
    queue: VecDeque<Output>,
    pub(super) shares: Shares,
}

impl Outputs {
    /// Elements of capacity that an empty queue may keep; a change of a large group needs many more.
    const KEPT: usize = 64;

    /// None yet, of at most `streams` streams.
    pub(super) const fn new(streams: usize) -> Self {
        Self { queue: VecDeque::new(), shares: Shares::new(streams) }
    }

    pub(super) fn pop(&mut self) -> Option<Output> {
        let output = self.queue.pop_front();
        if self.queue.is_empty() && self.queue.capacity() > Self::KEPT {
            self.queue = VecDeque::new();
        }
        output
    }

    pub(super) fn set_stream(&mut self, stream: Stream, rpf: Rpf, members: Members) {
        self.shares.set(stream);
        self.queue.push_back(Output::Fib(FibOp::SetStream(stream, rpf, members)));
    }

    pub(super) fn remove_stream(&mut self, stream: Stream) {
        self.shares.remove(stream);
        self.queue.push_back(Output::Fib(FibOp::RemoveStream(stream)));
    }

    pub(super) fn add_member(&mut self, stream: Stream, member: fib::Output) {
        self.queue.push_back(Output::Fib(FibOp::AddMember(stream, member)));
    }

    pub(super) fn remove_member(&mut self, stream: Stream, member: fib::Output) {
        self.queue.push_back(Output::Fib(FibOp::RemoveMember(stream, member)));
    }

    pub(super) fn interest(&mut self, group: IpAddr, filter: Filter) {
        self.queue.push_back(Output::Interest { group, filter });
    }

    pub(super) fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }
}

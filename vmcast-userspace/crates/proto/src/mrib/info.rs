//! What an operator is shown.

use std::net::IpAddr;

use vmcast_common::fib::{self, Members, Rpf, Stream};

use crate::Filter;

/// A group with members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupInfo<'a> {
    /// The group.
    pub group: IpAddr,
    /// How many members it has, whatever they want.
    pub members: usize,
    /// How many of them are in EXCLUDE mode.
    pub exclude_mode: usize,
    /// Their merged filter, as it was last given out.
    pub interest: &'a Filter,
}

/// A stream as the data plane was told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// The stream.
    pub stream: Stream,
    /// From where its packets are accepted.
    pub rpf: Rpf,
    /// Whose members it has.
    pub source: Members,
    /// How many receive it.
    pub members: usize,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// The group.
    pub group: IpAddr,
    /// Who receives.
    pub member: fib::Output,
    /// What it wants.
    pub filter: Filter,
    /// Whether that is stated, at least in part.
    pub is_stated: bool,
    /// Whether it waits for room: it gets less than it wants, or nothing.
    pub waits: bool,
}

/// What was refused. New sources that did not get an (S,G) stay under (*,G), which is closed where some of them may
/// not send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// The packet came from another place than the source is reached through.
    pub wrong_input: u64,
    /// The group had its share.
    pub group_limit: u64,
    /// All groups together had theirs.
    pub total_limit: u64,
    /// The source may not send, and too many are refused already: (*,G) takes nothing, so it is not forwarded either.
    pub refused_limit: u64,
    /// Times that a (*,G) ceased to take sources without an (S,G), as more may not send than can be refused one by one.
    pub closed: u64,
    /// The report was late: nobody takes any source of the group, or a list names this one.
    pub not_needed: u64,
    /// Memberships that had to wait since all streams were taken.
    pub streams_full: u64,
    /// Memberships that had to wait since what was left was for others.
    pub share_exceeded: u64,
}

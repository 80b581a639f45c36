//! What members are stated to want, beside what they report themselves.

use std::{collections::BTreeMap, net::IpAddr};

use vmcast_common::fib;

use crate::Filter;

/// A member of a group that something is stated of.
#[derive(Debug, Default)]
struct Wishes {
    stated: Filter,
    reported: Filter,
}

impl Wishes {
    /// Both (RFC 9776 §3.2), as of two sockets of one host.
    fn merged(&self) -> Filter {
        let mut merged = self.stated.clone();
        merged.merge(&self.reported);
        merged
    }
}

/// The members that something is stated of, by group and number.
#[derive(Debug, Default)]
pub(super) struct Stated(BTreeMap<(IpAddr, u32), Wishes>);

impl Stated {
    /// A member reports what it wants; returns what it is given, `None` if that alone.
    pub(super) fn report(&mut self, member: fib::Output, group: IpAddr, filter: &Filter) -> Option<Filter> {
        let wishes = self.0.get_mut(&(group, member.number()))?;
        wishes.reported = filter.clone();
        Some(wishes.merged())
    }

    /// What a member wants is stated, or no longer with [`Filter::none`]. `reported` is what it is given at
    /// present. Returns what it is given now.
    pub(super) fn state(
        &mut self,
        member: fib::Output,
        group: IpAddr,
        filter: &Filter,
        reported: impl FnOnce() -> Filter,
    ) -> Filter {
        let key = (group, member.number());
        if filter.is_none() {
            return self.0.remove(&key).map_or_else(reported, |wishes| wishes.reported);
        }
        let wishes =
            self.0.entry(key).or_insert_with(|| Wishes { reported: reported(), ..Wishes::default() });
        wishes.stated = filter.clone();
        wishes.merged()
    }

    /// A member vanished.
    pub(super) fn forget(&mut self, member: fib::Output) {
        self.0.retain(|(_, number), _| *number != member.number());
    }

    /// Whether something is stated of a member.
    pub(super) fn contains(&self, member: fib::Output, group: IpAddr) -> bool {
        self.0.contains_key(&(group, member.number()))
    }
}

//! The groups that sockets of this host join and leave on an interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, Read as _},
    net::Ipv4Addr,
};

use rtnetlink::MulticastGroup;
use vmcast_common::fib::IfIndex;

use super::{
    Error,
    notify::{Notification, Notifications},
};

/// The source filters of this network namespace, one line for each source.
const FILTERS: &str = "/proc/thread-self/net/mcfilter";
/// What is read of them at most, in bytes: some two hundred. It is read anew for every join.
const MAX_FILTERS: u64 = 16 << 10;

/// A change of the host's own memberships.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostGroupEvent {
    /// A group has its first member.
    Joined {
        /// The group.
        group: Ipv4Addr,
        /// The sources that the member lists at this moment; none for every source. A member that
        /// is only about to name its first source looks like none too.
        sources: BTreeSet<Ipv4Addr>,
    },
    /// A group's last member has left.
    Left(Ipv4Addr),
}

/// Reports the host's memberships on one interface as they begin and end, ahead of IGMP.
pub(crate) struct HostGroups {
    notifications: Notifications,
    ifindex: IfIndex,
}

impl HostGroups {
    /// Starts to watch; `None` if the kernel does not tell (before Linux 6.14).
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub(crate) fn watch(ifindex: IfIndex) -> Result<Option<Self>, Error> {
        match Notifications::open(&[MulticastGroup::Ipv4Mcaddr]) {
            Ok(notifications) => Ok(Some(Self { notifications, ifindex })),
            Err(Error::Open(error)) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for the next change. Dropping the future loses nothing; a storm of changes may lose
    /// some of them, of which IGMP still tells.
    ///
    /// # Errors
    /// If the socket fails for good.
    pub(crate) async fn next(&mut self) -> Result<HostGroupEvent, Error> {
        loop {
            match self.notifications.next().await? {
                Notification::GroupJoined(ifindex, group) if ifindex == self.ifindex => {
                    match self.listed_sources(group) {
                        Ok(sources) => return Ok(HostGroupEvent::Joined { group, sources }),
                        Err(error) => tracing::debug!(%error, %group, "a join is left to IGMP"),
                    }
                }
                Notification::GroupLeft(ifindex, group) if ifindex == self.ifindex => {
                    return Ok(HostGroupEvent::Left(group));
                }
                Notification::GroupJoined(..)
                | Notification::GroupLeft(..)
                | Notification::Lost
                | Notification::Link(..)
                | Notification::LinkRemoved(_)
                | Notification::Address(_)
                | Notification::Neighbour(..)
                | Notification::Routes => {}
            }
        }
    }

    fn listed_sources(&self, group: Ipv4Addr) -> io::Result<BTreeSet<Ipv4Addr>> {
        let mut included = BTreeMap::new();
        let mut text = String::new();
        let length = File::open(FILTERS)?.take(MAX_FILTERS).read_to_string(&mut text)?;
        if length as u64 == MAX_FILTERS {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let filters = text.lines().skip(1).filter_map(Listed::parse);
        for listed in filters.filter(|listed| (listed.ifindex, listed.group) == (self.ifindex, group)) {
            included.insert(listed.source, listed.excluded == 0);
        }
        // Members that exclude sources want all others.
        let all = included.values().all(|included| *included);
        Ok(if all { included.into_keys().collect() } else { BTreeSet::new() })
    }
}

/// A line of [`FILTERS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    ifindex: IfIndex,
    group: Ipv4Addr,
    source: Ipv4Addr,
    /// How many members exclude the source.
    excluded: u64,
}

impl Listed {
    /// Reads number and name of the interface, group, source, and how many members include and how
    /// many exclude it.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let [ifindex, _name, group, source, _included, excluded] = words[..] else {
            return None;
        };
        let address = |word: &str| u32::from_str_radix(word.strip_prefix("0x")?, 16).ok().map(Ipv4Addr::from);
        Some(Self {
            ifindex: IfIndex(ifindex.parse().ok()?),
            group: address(group)?,
            source: address(source)?,
            excluded: excluded.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_of_filters_is_read_and_anything_else_is_no_filter() {
        let line = "  2     t0 0xe8010102 0xc0000209      1      0";
        let listed = Listed {
            ifindex: IfIndex(2),
            group: Ipv4Addr::new(232, 1, 1, 2),
            source: Ipv4Addr::new(192, 0, 2, 9),
            excluded: 0,
        };
        assert_eq!(Listed::parse(line), Some(listed));
        for other in ["", "Idx Device        MCA        SRC    INC    EXC", "2 t0 e8010102 0xc0000209 1 0"] {
            assert_eq!(Listed::parse(other), None, "{other:?}");
        }
    }
}

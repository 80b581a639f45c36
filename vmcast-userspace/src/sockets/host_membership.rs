//! Joins groups on an interface as a host does, so that a native network sends them here.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
};

use socket2::{Domain, Protocol, Socket, Type};
use vmcast_common::fib::IfIndex;
use vmcast_proto::{Filter, membership::Family};

use super::sys;

/// Sources in one filter of one socket: the kernel's default `igmp_max_msf`; its `mld_max_msf` is 64.
const MAX_SOURCES: usize = 10;

/// The memberships of this host on one interface, held by as many sockets as the kernel's limit per
/// socket calls for (`igmp_max_memberships`, 20 by default; of IPv6 `optmem_max` is the limit).
///
/// The kernel merges what the sockets want and speaks IGMP and MLD, in the version that the network's
/// querier asks for; nothing is received through them.
#[derive(Debug)]
pub(crate) struct HostMembership {
    ifindex: IfIndex,
    holders: Vec<Holder>,
    groups: BTreeMap<IpAddr, Filter>,
}

#[derive(Debug)]
struct Holder {
    socket: Socket,
    family: Family,
    /// What it wants of each group.
    groups: BTreeMap<IpAddr, Want>,
    /// Whether the kernel refused it one more group.
    full: bool,
}

/// What one socket wants of a group; at most [`MAX_SOURCES`] sources.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Want {
    mode: u32,
    sources: Vec<IpAddr>,
}

/// `struct group_filter` of the kernel with a fixed number of sources (RFC 3678 §5.2).
#[repr(C)]
#[derive(Clone, Copy)]
struct GroupFilter {
    interface: u32,
    group: libc::sockaddr_storage,
    mode: u32,
    count: u32,
    sources: [libc::sockaddr_storage; MAX_SOURCES],
}

/// `MCAST_EXCLUDE` (RFC 3678 §5.2).
const MODE_EXCLUDE: u32 = 0;
/// `MCAST_INCLUDE`.
const MODE_INCLUDE: u32 = 1;

impl HostMembership {
    /// No memberships yet.
    pub(crate) fn new(ifindex: IfIndex) -> Self {
        Self { ifindex, holders: Vec::new(), groups: BTreeMap::new() }
    }

    /// How many memberships of a group the sockets hold.
    pub(crate) fn memberships(&self, group: IpAddr) -> usize {
        self.holders.iter().filter(|holder| holder.groups.contains_key(&group)).count()
    }

    /// Makes `filter` what this host wants of `group`; setting it again changes nothing.
    ///
    /// A filter that excludes more sources than the kernel takes excludes none.
    ///
    /// # Errors
    /// If the kernel refuses, for instance because the interface is gone; what was wanted before may
    /// then be lost in part, and setting the filter again repairs it.
    pub(crate) fn set(&mut self, group: IpAddr, filter: &Filter) -> io::Result<()> {
        if !group.is_multicast() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{group} is not a group")));
        }
        if self.groups.get(&group).unwrap_or(&Filter::none()) == filter {
            return Ok(());
        }
        // Whatever happens below, the next call must not take it for done.
        self.groups.remove(&group);
        let mut wants = wants(Family::of(group), filter).into_iter();
        for holder in &mut self.holders {
            if holder.groups.contains_key(&group) {
                match wants.next() {
                    Some(want) => holder.change(self.ifindex, group, want)?,
                    None => holder.leave(self.ifindex, group)?,
                }
            }
        }
        for want in wants {
            self.place(group, want)?;
        }
        self.holders.retain(|holder| !holder.groups.is_empty());
        if !filter.is_none() {
            self.groups.insert(group, filter.clone());
        }
        Ok(())
    }

    /// Joins with the first socket that has room, or a new one.
    fn place(&mut self, group: IpAddr, want: Want) -> io::Result<()> {
        for holder in &mut self.holders {
            if holder.full || holder.family != Family::of(group) || holder.groups.contains_key(&group) {
                continue;
            }
            match holder.join(self.ifindex, group, &want) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM)) => {
                    holder.full = true;
                }
                done => return done,
            }
        }
        let mut holder = Holder::open(Family::of(group))?;
        holder.join(self.ifindex, group, &want)?;
        self.holders.push(holder);
        Ok(())
    }
}

/// Cuts a filter into what single sockets can want; sources of another family send nothing to the group.
fn wants(family: Family, filter: &Filter) -> Vec<Want> {
    let chunks = |sources: &BTreeSet<IpAddr>, mode| -> Vec<Want> {
        let sources: Vec<IpAddr> =
            sources.iter().copied().filter(|source| Family::of(*source) == family).collect();
        sources.chunks(MAX_SOURCES).map(|chunk| Want { mode, sources: chunk.to_vec() }).collect()
    };
    match filter {
        Filter::Include(sources) => chunks(sources, MODE_INCLUDE),
        Filter::Exclude(sources) if (1..=MAX_SOURCES).contains(&sources.len()) => {
            chunks(sources, MODE_EXCLUDE)
        }
        Filter::Exclude(_) => vec![Want { mode: MODE_EXCLUDE, sources: Vec::new() }],
    }
}

impl Holder {
    fn open(family: Family) -> io::Result<Self> {
        let socket = match family {
            Family::V4 => Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?,
            Family::V6 => Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?,
        };
        match family {
            Family::V4 => socket.set_multicast_all_v4(false)?,
            Family::V6 => socket.set_multicast_all_v6(false)?,
        }
        Ok(Self { socket, family, groups: BTreeMap::new(), full: false })
    }

    /// The level of the multicast options, which have the same numbers in both families (RFC 3678 §5).
    const fn level(&self) -> libc::c_int {
        match self.family {
            Family::V4 => libc::IPPROTO_IP,
            Family::V6 => libc::IPPROTO_IPV6,
        }
    }

    fn join(&mut self, ifindex: IfIndex, group: IpAddr, want: &Want) -> io::Result<()> {
        match want.sources.first().filter(|_| want.mode == MODE_INCLUDE) {
            // Joining by a source keeps a report for every source from going out first.
            Some(source) => {
                let request = libc::group_source_req {
                    gsr_interface: ifindex.0,
                    gsr_group: sys::storage(group),
                    gsr_source: sys::storage(*source),
                };
                sys::set_option(&self.socket, self.level(), libc::MCAST_JOIN_SOURCE_GROUP, &request)?;
            }
            None => self.request(libc::MCAST_JOIN_GROUP, ifindex, group)?,
        }
        if let Err(error) = self.filter(ifindex, group, want) {
            // The socket goes on to hold other groups, so this one must not stay half joined.
            let left = self.request(libc::MCAST_LEAVE_GROUP, ifindex, group);
            tracing::debug!(%group, ?left, "gave up a group whose sources could not be set");
            return Err(error);
        }
        self.groups.insert(group, want.clone());
        Ok(())
    }

    fn request(&self, option: libc::c_int, ifindex: IfIndex, group: IpAddr) -> io::Result<()> {
        let request = libc::group_req { gr_interface: ifindex.0, gr_group: sys::storage(group) };
        sys::set_option(&self.socket, self.level(), option, &request)
    }

    fn change(&mut self, ifindex: IfIndex, group: IpAddr, want: Want) -> io::Result<()> {
        if self.groups.get(&group) == Some(&want) {
            return Ok(());
        }
        self.filter(ifindex, group, &want)?;
        self.groups.insert(group, want);
        Ok(())
    }

    /// Replaces mode and sources of a group that the socket has joined.
    fn filter(&self, ifindex: IfIndex, group: IpAddr, want: &Want) -> io::Result<()> {
        let mut filter = GroupFilter {
            interface: ifindex.0,
            group: sys::storage(group),
            mode: want.mode,
            count: want.sources.len() as u32,
            sources: [sys::storage(self.family.unspecified()); MAX_SOURCES],
        };
        for (place, source) in filter.sources.iter_mut().zip(&want.sources) {
            *place = sys::storage(*source);
        }
        sys::set_option(&self.socket, self.level(), libc::MCAST_MSFILTER, &filter)
    }

    fn leave(&mut self, ifindex: IfIndex, group: IpAddr) -> io::Result<()> {
        self.groups.remove(&group);
        self.full = false;
        match self.request(libc::MCAST_LEAVE_GROUP, ifindex, group) {
            // The kernel forgets memberships together with their interface.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EADDRNOTAVAIL)) => Ok(()),
            done => done,
        }
    }
}

//! Interfaces of this network namespace.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt;
use vmcast_common::{fib::IfIndex, hdr::eth::Mac};

use super::{
    Error, connect, error_number, message,
    notify::{Notification, Notifications},
    stack::Vlan,
};

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub(crate) name: String,
    /// Its number.
    pub(crate) ifindex: IfIndex,
    /// Its link-layer address, if it is an Ethernet device.
    pub(crate) mac: Option<Mac>,
    /// Its MTU in bytes.
    pub(crate) mtu: u32,
    /// Whether it is administratively up.
    pub(crate) up: bool,
    /// Whether it has a carrier.
    pub(crate) running: bool,
    /// Whether it is the loopback device.
    pub(crate) loopback: bool,
    /// Whether it carries multicast.
    pub(crate) multicast: bool,
    /// Whether neighbours on it are resolved (no `IFF_NOARP`).
    pub(crate) resolves: bool,
    /// Whether packets leave it without a link-layer header, all the same way: a TUN or WireGuard device, PPP, a tunnel
    /// of the kernel with one far end.
    pub(crate) bare: bool,
    /// The kernel's name of its kind, such as `veth`; `None` for hardware.
    pub(crate) kind: Option<String>,
    /// What it is a VLAN of, if it is one.
    pub(crate) vlan: Option<Vlan>,
    /// What it is a port of: a bridge, a bond.
    pub(crate) master: Option<IfIndex>,
    /// The programs at its XDP hooks, by their numbers.
    pub(crate) xdp: Vec<u32>,
    /// Its IPv4 addresses with their prefix lengths.
    pub(crate) addresses: Vec<(Ipv4Addr, u8)>,
    /// Its IPv6 addresses, those that are known to be its own.
    pub(crate) addresses_v6: Vec<(Ipv6Addr, u8)>,
}

/// The kernel's kind of the link of a PPP session.
const KIND_PPP: &str = "ppp";

impl Link {
    /// Whether it is the link of a PPP session.
    pub(crate) fn is_ppp(&self) -> bool {
        self.kind.as_deref() == Some(KIND_PPP)
    }

    /// Its first IPv4 address.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        self.addresses.first().map(|(address, _)| *address)
    }

    /// Its first IPv6 address that others than its neighbours can reach.
    pub(crate) fn address_v6(&self) -> Option<Ipv6Addr> {
        self.addresses_v6.iter().map(|(address, _)| *address).find(|address| !address.is_unicast_link_local())
    }

    /// All its addresses, of either version of IP, that others than its neighbours can reach.
    pub(crate) fn reachable(&self) -> impl Iterator<Item = IpAddr> {
        let v4 =
            self.addresses.iter().map(|(address, _)| *address).filter(|address| !address.is_link_local());
        let v6 = self.addresses_v6.iter().map(|(address, _)| *address);
        let v6 = v6.filter(|address| !address.is_unicast_link_local());
        v4.map(IpAddr::V4).chain(v6.map(IpAddr::V6))
    }

    /// Its first link-local IPv6 address.
    pub(crate) fn link_local(&self) -> Option<Ipv6Addr> {
        self.addresses_v6.iter().map(|(address, _)| *address).find(Ipv6Addr::is_unicast_link_local)
    }

    /// Its addresses of both families, IPv4 first.
    pub(crate) fn all_addresses(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        let v4 = self.addresses.iter().map(|(address, length)| (IpAddr::V4(*address), *length));
        v4.chain(self.addresses_v6.iter().map(|(address, length)| (IpAddr::V6(*address), *length)))
    }

    fn add(&mut self, address: IpAddr, prefix: u8) {
        match address {
            IpAddr::V4(address) => self.addresses.push((address, prefix)),
            IpAddr::V6(address) => self.addresses_v6.push((address, prefix)),
        }
    }
}

/// Looks up interfaces.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    handle: rtnetlink::Handle,
}

impl Links {
    /// Opens a netlink socket in the present network namespace.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self { handle: connect()? })
    }

    /// Every interface, by number.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub(crate) async fn list(&self) -> Result<Vec<Link>, Error> {
        let refused = |source| Error::Refused { what: "listing the interfaces".into(), source };
        let mut links = BTreeMap::new();
        let mut answers = std::pin::pin!(self.handle.link().get().execute());
        while let Some(answer) = answers.try_next().await.map_err(refused)? {
            if let Some(link) = message::link(&answer) {
                links.insert(link.ifindex, link);
            }
        }
        let mut answers = std::pin::pin!(self.handle.address().get().execute());
        while let Some(answer) = answers.try_next().await.map_err(refused)? {
            if let Some((ifindex, address, prefix)) = message::address(&answer)
                && let Some(link) = links.get_mut(&ifindex)
            {
                link.add(address, prefix);
            }
        }
        Ok(links.into_values().collect())
    }

    /// The interface called `name`.
    ///
    /// # Errors
    /// [`Error::NoSuchLink`] if there is none.
    pub(crate) async fn find(&self, name: &str) -> Result<Link, Error> {
        let refused = |source| match error_number(&source) {
            Some(libc::ENODEV) => Error::NoSuchLink(name.to_owned()),
            _ => Error::Refused { what: format!("looking up the interface {name:?}"), source },
        };
        let mut answers = std::pin::pin!(self.handle.link().get().match_name(name).execute());
        let answer = answers.try_next().await.map_err(refused)?;
        let mut link =
            answer.as_ref().and_then(message::link).ok_or_else(|| Error::NoSuchLink(name.to_owned()))?;
        let index = link.ifindex.0;
        let mut answers = std::pin::pin!(self.handle.address().get().set_link_index_filter(index).execute());
        while let Some(answer) = answers.try_next().await.map_err(refused)? {
            if let Some((_, address, prefix)) = message::address(&answer) {
                link.add(address, prefix);
            }
        }
        Ok(link)
    }

    /// Starts to watch for changes of interfaces and their addresses.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub(crate) fn watch(&self) -> Result<LinkWatch, Error> {
        Ok(LinkWatch { notifications: Notifications::open_links()? })
    }
}

/// A change of an interface; what it is now is to be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    /// The interface, or its addresses, are new or changed.
    Changed(IfIndex),
    /// The interface is gone.
    Removed(IfIndex),
    /// Changes were lost: everything is to be looked up.
    Lost,
}

/// Reports changes of interfaces.
pub(crate) struct LinkWatch {
    notifications: Notifications,
}

impl LinkWatch {
    /// Waits for the next change. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If the socket fails for good.
    pub(crate) async fn next(&mut self) -> Result<LinkEvent, Error> {
        loop {
            match self.notifications.next().await? {
                Notification::Link(ifindex, _) | Notification::Address(ifindex) => {
                    return Ok(LinkEvent::Changed(ifindex));
                }
                Notification::LinkRemoved(ifindex) => return Ok(LinkEvent::Removed(ifindex)),
                Notification::Lost => return Ok(LinkEvent::Lost),
                Notification::Neighbour(..)
                | Notification::Routes
                | Notification::GroupJoined(..)
                | Notification::GroupLeft(..) => {}
            }
        }
    }
}

//! The changes that a role makes to its own interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::route::{RouteScope, RouteType};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use vmcast_common::fib::IfIndex;

use super::{Error, connect};

/// Configures an interface.
pub(crate) struct Setup {
    handle: rtnetlink::Handle,
}

impl Setup {
    /// Opens a netlink socket in the present network namespace.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self { handle: connect()? })
    }

    /// Adds an address; it may be there already.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) async fn add_address(
        &self,
        ifindex: IfIndex,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), Error> {
        let request = self.handle.address().add(ifindex.0, IpAddr::V4(address), prefix).replace();
        let what = || format!("adding the address {address}/{prefix}");
        request.execute().await.map_err(|source| Error::Refused { what: what(), source })
    }

    /// Sets the MTU and brings the interface up, with multicast.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(crate) async fn bring_up(&self, ifindex: IfIndex, mtu: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(ifindex.0).mtu(mtu).multicast(true).up().build();
        let what = || format!("bringing the interface up with an MTU of {mtu}");
        let request = self.handle.link().set(message);
        request.execute().await.map_err(|source| Error::Refused { what: what(), source })
    }

    /// Adds a route to `prefix` out of the interface, which goes away with it. `source` becomes the
    /// source address of what applications send there. A route that is there already stays: it is
    /// another's.
    ///
    /// # Errors
    /// If the kernel refuses, also because it has a route to this prefix.
    pub(crate) async fn add_route(
        &self,
        ifindex: IfIndex,
        prefix: (Ipv4Addr, u8),
        source: Ipv4Addr,
    ) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(prefix.0, prefix.1)
            .output_interface(ifindex.0)
            .pref_source(source)
            .scope(RouteScope::Link)
            .build();
        let what = || format!("adding the route to {}/{}", prefix.0, prefix.1);
        let request = self.handle.route().add(route);
        request.execute().await.map_err(|source| Error::Refused { what: what(), source })
    }

    /// Adds a route to IPv6 groups out of the interface, which goes away with it. It stands in the table
    /// *local*, where the kernel has `ff00::/8` for every interface: that table is looked at first, so
    /// elsewhere the route would never be found.
    ///
    /// # Errors
    /// If the kernel refuses, also because it has a route to this prefix.
    pub(crate) async fn add_group_route(
        &self,
        ifindex: IfIndex,
        prefix: (Ipv6Addr, u8),
    ) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(prefix.0, prefix.1)
            .output_interface(ifindex.0)
            .table_id(libc::RT_TABLE_LOCAL.into())
            .kind(RouteType::Multicast)
            .build();
        let what = || format!("adding the route to {}/{}", prefix.0, prefix.1);
        let request = self.handle.route().add(route);
        request.execute().await.map_err(|source| Error::Refused { what: what(), source })
    }
}

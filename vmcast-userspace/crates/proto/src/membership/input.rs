//! What the querier reacts to.

use std::net::IpAddr;

use vmcast_common::hdr::eth::Mac;

use crate::Filter;

/// What the querier reacts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// A message that came in on the interface: IGMP, or ICMPv6 of any kind.
    Datagram {
        /// Source address of the IP datagram, of the querier's family.
        source: IpAddr,
        /// The link-layer address that it came from; `None` on a link without such. It tells hosts apart that report from
        /// the same address.
        link_source: Option<Mac>,
        /// Whether the frame was for us alone, and for nobody else on the link; never on a link without such addresses.
        link_unicast: bool,
        /// Whether its host was never heard but while more came than is read: its addresses may be forged, and those of all
        /// such hosts together leave room for what others ask for.
        stranger: bool,
        /// Its destination address.
        destination: IpAddr,
        /// Its time to live or hop limit.
        ttl: u8,
        /// Whether it has the Router Alert option.
        router_alert: bool,
        /// The IGMP or ICMPv6 message.
        payload: &'a [u8],
    },
    /// Our address on the interface changed, of IPv6 the link-local one; unspecified if it has none
    /// now. One of the other family is passed over.
    SetAddress(IpAddr),
    /// A membership that an earlier process has left: some host that is not known is taken to have just
    /// reported it.
    Inherit {
        /// The group, of the querier's family.
        group: IpAddr,
        /// What is wanted of it.
        filter: &'a Filter,
    },
}

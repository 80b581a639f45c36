//! The forwarding information base as the control plane states it: desired state, operation by
//! operation, each idempotent.

use core::net::{IpAddr, SocketAddr};

use crate::hdr::{
    eth::{self, Mac},
    link::{self, LinkId},
};

/// The kernel's number of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfIndex(pub u32);

/// A tunnel's number, given by the control plane; below 2^31.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(pub u32);

/// A next hop's number, given by the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHopId(pub u32);

/// A conversion's number, given by the control plane; below 2^30.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversionId(pub u32);

/// A stream of packets to one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// The source S of (S,G); `None` for (*,G), every source that has no entry of its own.
    pub source: Option<IpAddr>,
    /// The group G, of the same family as the source.
    pub group: IpAddr,
}

impl core::fmt::Display for Stream {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.source {
            Some(source) => write!(f, "({source},{})", self.group),
            None => write!(f, "(*,{})", self.group),
        }
    }
}

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// Natively, on an interface.
    Interface(IfIndex),
    /// Out of a tunnel.
    Tunnel(TunnelId),
}

/// From where packets of a stream are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rpf {
    /// Only from here.
    Exact(Input),
    /// From every interface and tunnel that is marked as accepting sources; the rule of (*,G).
    AnyUpstream,
}

/// Where a copy goes; also the identity of a member within a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Output {
    /// Native multicast on an interface.
    Interface(IfIndex),
    /// Unchanged, to the link-layer address of one neighbour alone.
    Neighbour(NextHopId),
    /// Encapsulated, to the far end of a tunnel.
    Tunnel(TunnelId),
    /// With other addresses and ports, to a host or to another group.
    Converted(ConversionId),
}

impl Output {
    /// Numbers of interfaces, next hops, tunnels and conversions are below this.
    pub const MAX_NUMBER: u32 = 1 << 30;
    const NEIGHBOUR: u32 = 1 << 30;
    const TUNNEL: u32 = 2 << 30;
    const CONVERTED: u32 = 3 << 30;

    /// The output as one number, never 0, in the order of outputs: for tables with very many members.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Interface(ifindex) => ifindex.0,
            Self::Neighbour(id) => id.0 | Self::NEIGHBOUR,
            Self::Tunnel(id) => id.0 | Self::TUNNEL,
            Self::Converted(id) => id.0 | Self::CONVERTED,
        }
    }

    /// Reads the number back, `None` for 0.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        let id = number & (Self::MAX_NUMBER - 1);
        match number - id {
            Self::CONVERTED => Some(Self::Converted(ConversionId(id))),
            Self::TUNNEL => Some(Self::Tunnel(TunnelId(id))),
            Self::NEIGHBOUR => Some(Self::Neighbour(NextHopId(id))),
            _ if id == 0 => None,
            _ => Some(Self::Interface(IfIndex(id))),
        }
    }
}

/// Whose members a stream's packets go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Members {
    /// The stream's own.
    Own,
    /// Those of the group's (*,G) entry.
    OfAnySource,
}

/// Who a VLAN tag is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TagProtocol {
    /// The customer: IEEE 802.1Q, TPID 0x8100.
    Dot1q,
    /// The provider: IEEE 802.1ad, TPID 0x88a8.
    Dot1ad,
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Its TPID.
    pub protocol: TagProtocol,
    /// The VLAN identifier, 0 to 4094.
    pub id: u16,
}

impl Tag {
    /// See [`link::tag_number`].
    const fn number(self) -> u16 {
        link::tag_number(matches!(self.protocol, TagProtocol::Dot1ad), self.id)
    }

    /// TPID and tag control information with priority 0.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; link::TAG_LEN] {
        let [a, b] = match self.protocol {
            TagProtocol::Dot1q => link::TYPE_DOT1Q.to_be_bytes(),
            TagProtocol::Dot1ad => link::TYPE_DOT1AD.to_be_bytes(),
        };
        let [c, d] = (self.id & 0x0fff).to_be_bytes();
        [a, b, c, d]
    }
}

/// One of the links that share a device: what stands between the link-layer addresses and the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Link {
    /// The VLAN tags, outermost first; none stands behind a missing one.
    pub tags: [Option<Tag>; 2],
    /// The PPPoE session (RFC 2516), 1 to 65,535.
    pub session: Option<u16>,
}

impl Link {
    /// The device's own link: no tag, no session.
    pub const PLAIN: Self = Self { tags: [None, None], session: None };

    /// The link as its frames show it.
    #[must_use]
    pub const fn id(&self) -> LinkId {
        let mut tags = [0, 0];
        if let Some(tag) = self.tags[0] {
            tags[0] = tag.number();
        }
        if let Some(tag) = self.tags[1] {
            tags[1] = tag.number();
        }
        let session = match self.session {
            Some(session) => session,
            None => 0,
        };
        LinkId { tags, session }
    }

    /// Length of the link-layer header in bytes.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        let tags = self.tags[0].is_some() as usize + self.tags[1].is_some() as usize;
        let session = if self.session.is_some() { link::PPPOE_LEN } else { 0 };
        eth::LEN + tags * link::TAG_LEN + session
    }
}

/// A local interface the data plane works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number of the interface, in the network namespace of the process.
    pub ifindex: IfIndex,
    /// The device whose frames carry the interface's packets: itself, or what a VLAN or PPPoE interface
    /// stands on.
    pub device: IfIndex,
    /// Which of the device's links this is.
    pub link: Link,
    /// Whom multicast is sent to on a link of two; `None` for the group's link-layer address.
    pub peer: Option<Mac>,
    /// Its link-layer address.
    pub mac: Mac,
    /// Its MTU in bytes, without the link-layer header.
    pub mtu: u16,
    /// Whether packets of a source without an entry of its own are accepted here.
    pub accepts_sources: bool,
    /// Whether the host has a use of its own for what comes in here, as a bridge has for its ports: packets
    /// that are copied then go on to it as well, and the kernel does its part at TC.
    pub shared: bool,
    /// Which engine of the kernel serves the whole device.
    pub engine: EngineWish,
    /// How many members of one stream XDP serves on the device at most, those beyond at TC; `None`: as many as its
    /// transmit ring takes. Of several interfaces on a device the least counts.
    pub xdp_members: Option<u32>,
}

impl Interface {
    /// Which engine is asked for, also by what the host needs.
    #[must_use]
    pub const fn wish(&self) -> EngineWish {
        if self.shared { EngineWish::Tc } else { self.engine }
    }
}

/// Which engine of the kernel is asked for. Of several interfaces on a device the greatest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum EngineWish {
    /// Whichever does.
    #[default]
    Any,
    /// XDP, for all members.
    Xdp,
    /// TC, whatever the driver can at XDP.
    Tc,
}

/// The link-layer way to a far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Device the frame leaves by.
    pub ifindex: IfIndex,
    /// Which of the device's links it takes.
    pub link: Link,
    /// Source link-layer address.
    pub source_mac: Mac,
    /// Destination link-layer address, `None` while the neighbour is not resolved.
    pub destination_mac: Option<Mac>,
    /// MTU towards the far end in bytes, without the link-layer header, tags and PPPoE.
    pub mtu: u16,
}

/// How packets are encapsulated in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    /// Automatic Multicast Tunneling over UDP (RFC 7450).
    Amt,
    /// Generic Routing Encapsulation (RFC 2784), with a key (RFC 2890) or without.
    Gre(Option<u32>),
    /// An IP packet in an IP packet, of any two versions (RFC 2003, RFC 2473, RFC 4213).
    Ipip,
}

/// What the outer header of a packet into a tunnel says of congestion (RFC 6040 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EcnMode {
    /// What the inner one says: whoever ends the tunnel merges both. The kernel's own tunnels do.
    Normal,
    /// That the transport knows no congestion marks: whoever ends the tunnel may leave marks unread.
    Compatibility,
}

/// A tunnel, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The encapsulation.
    pub kind: TunnelKind,
    /// Our address and port; the port is 0 where the encapsulation has none.
    pub local: SocketAddr,
    /// The far end's address and port, of the same family; the port likewise.
    pub remote: SocketAddr,
    /// What outer headers say of congestion.
    pub ecn: EcnMode,
    /// Whether data may come out of the tunnel: true towards an upstream, false for a member.
    pub accepts_sources: bool,
    /// The way to the far end, `None` while it is not known; copies are then dropped and counted.
    pub next_hop: Option<NextHopId>,
}

/// How converted packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Natively on an interface: the way of a group. Packets that came in on the interface itself are dropped
    /// and counted, as with [`Output::Interface`].
    Interface(IfIndex),
    /// By a next hop: the way of a host, and of a group that one neighbour alone shall get. `None` while it
    /// is not known; copies are then dropped and counted.
    NextHop(Option<NextHopId>),
}

/// Other addresses and ports for the packets of a stream. Their checksums are corrected by what has changed
/// (RFC 1624), so a wrong one stays wrong and a UDP checksum of zero stays zero. The address family stays.
///
/// Only UDP is converted: a copy of anything else is dropped as
/// [`crate::verdict::DropReason::NotConvertible`], and so is one whose UDP header is cut short or stands
/// behind extension headers of IPv6. Of a fragmented IPv4 datagram every fragment gets the addresses, and the
/// first one the ports and the checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conversion {
    /// The new source; `None` leaves the packet's own address and port.
    pub source: Option<SocketAddr>,
    /// The new destination: a host, or a group.
    pub destination: SocketAddr,
    /// How the packets leave.
    pub way: Way,
}

/// What the packets of a stream are marked with on their way out, whatever the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Priority {
    /// The differentiated services codepoint (RFC 2474), 0 to 63, of the packet and so of outer headers; `None` leaves
    /// the packet its own. Congestion marks stay.
    pub dscp: Option<u8>,
    /// The priority code point of VLAN tags (IEEE 802.1Q §6.9.3), 0 to 7; of both if there are two.
    pub pcp: u8,
    /// The kernel's priority of socket buffers (`skb->priority`), which queueing disciplines classify by; `None` leaves
    /// it as it is. Copies at TC alone have it.
    pub skb_priority: Option<u32>,
    /// The device's transmit queue, from 0; `None` leaves the choice to the kernel. Likewise.
    pub queue: Option<u16>,
    /// Whether the stream's members are served at TC, whatever their devices take. It means those of the stream's own
    /// member table.
    pub at_tc: bool,
}

/// One change of the desired state. Applying it twice is the same as applying it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibOp {
    /// Adds or changes an interface and starts to look at what it receives.
    SetInterface(Interface),
    /// Stops looking at an interface, and removes it as a member of every stream; conversions that still use
    /// it drop their copies.
    RemoveInterface(IfIndex),
    /// Declares one of our AMT endpoints: data to it from a stranger is dropped and counted.
    SetEndpoint(SocketAddr),
    /// Withdraws an endpoint.
    RemoveEndpoint(SocketAddr),
    /// Declares an endpoint of ours at which a stream comes in by unicast: its datagrams go on as packets of
    /// their source to this group and port, and are looked up, checked and copied like native multicast from
    /// the interface they came in on. What is refused goes to the host, untouched, and so do fragments, since
    /// they do not all have ports.
    ///
    /// Whoever sets one should hold a socket at the endpoint: else the host answers what it gets with an ICMP
    /// error, and a plane that only taps leaves it every packet. At an endpoint of AMT that is set too,
    /// data of known tunnels stays that, and all the rest comes in.
    SetUnicastInput {
        /// Our address and port.
        endpoint: SocketAddr,
        /// The group and port to which they go on, of the same family.
        group: SocketAddr,
    },
    /// Withdraws such an endpoint.
    RemoveUnicastInput(SocketAddr),
    /// Adds or changes a next hop.
    SetNextHop(NextHopId, NextHop),
    /// Removes a next hop; tunnels and conversions that still use it drop their copies.
    RemoveNextHop(NextHopId),
    /// Adds or changes a tunnel.
    SetTunnel(TunnelId, Tunnel),
    /// Removes a tunnel, and it as a member of every stream.
    RemoveTunnel(TunnelId),
    /// Adds or changes a conversion, whose address family stays.
    SetConversion(ConversionId, Conversion),
    /// Removes a conversion, and it as a member of every stream.
    RemoveConversion(ConversionId),
    /// Adds or changes a stream; its own members and its priority stay.
    SetStream(Stream, Rpf, Members),
    /// Says what a stream's packets are marked with. Until then they are with nothing, and a stream of one source does
    /// not take after that of any source.
    SetPriority(Stream, Priority),
    /// Removes a stream with its members.
    RemoveStream(Stream),
    /// Adds a member to a stream's own. While the stream has [`Members::OfAnySource`] they gather out
    /// of force, and take effect together when it is set to [`Members::Own`]. A conversion is of the
    /// stream's address family.
    AddMember(Stream, Output),
    /// Removes a member from a stream.
    RemoveMember(Stream, Output),
    /// Lets the host have a copy of what comes in natively on an interface to a group, whoever it is forwarded to: an
    /// application of this host listens there. Unlike with [`Interface::shared`] other groups are not.
    ShareGroup(IfIndex, IpAddr),
    /// No longer.
    UnshareGroup(IfIndex, IpAddr),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn outputs_are_read_back_from_their_numbers_in_order(
            mut outputs in proptest::collection::vec((0usize..4, 0u32..Output::MAX_NUMBER), 2),
        ) {
            let output = |(kind, number): (usize, u32)| match kind {
                0 => Output::Interface(IfIndex(number.max(1))),
                1 => Output::Neighbour(NextHopId(number)),
                2 => Output::Tunnel(TunnelId(number)),
                _ => Output::Converted(ConversionId(number)),
            };
            outputs.sort_unstable();
            let [low, high] = [output(outputs[0]), output(outputs[1])];
            prop_assert_eq!(Output::from_number(low.number()), Some(low));
            prop_assert_eq!(low.cmp(&high), low.number().cmp(&high.number()));
        }
    }

    #[test]
    fn number_0_is_no_output() {
        assert_eq!(Output::from_number(0), None);
    }
}

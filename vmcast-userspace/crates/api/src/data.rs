//! Streams, members, tunnels and interfaces.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize};

use crate::Engine;

/// A page of streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups {
    /// Where the next page begins; `None` after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The streams, ordered by group and source.
    pub groups: Vec<Group>,
}

/// A stream: (S,G), or (*,G) without a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The group.
    pub group: IpAddr,
    /// The source; `None` for every source without an entry of its own.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// The only place its packets are accepted from (RPF); `None` if every place that may bring
    /// sources will do.
    #[serde(default)]
    pub rpf: Option<Place>,
    /// Members that get a copy of each packet.
    pub members: u64,
    /// Packets accepted and replicated.
    pub packets: u64,
    /// Their IP length in bytes.
    pub bytes: u64,
    /// Packets dropped as a whole, and copies that members missed, by the label of the drop reason; those that are zero
    /// are left out. What members of (*,G) missed of a source without an entry that has members of its own is among those
    /// of (*,G), and a copy that a device refused after it was let go at XDP among those of no stream. Empty for agents.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// Bits per second of IP at present; `None` until it was measured.
    #[serde(default)]
    pub bits_per_second: Option<u64>,
    /// Milliseconds since the last packet, `None` if there was none.
    #[serde(default)]
    pub last_packet_ms: Option<u64>,
    /// What it does.
    pub state: GroupState,
    /// What its packets are marked with on their way out, if the operator states it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Why the VMR refuses the group, wholly or for some sources; agents only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Where its packets are taken in, if they come natively; VMRs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Taken>,
}

/// Where packets are taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// As [`Interface::attached`].
    pub at: String,
    /// Why elsewhere than others that come by the interface; `None` if they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What packets are marked with on their way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Priority {
    /// The differentiated services codepoint, 0 to 63; missing if packets keep their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// The priority code point of VLAN tags, 0 to 7.
    #[serde(default)]
    pub pcp: u8,
    /// The kernel's priority of copies at TC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skb_priority: Option<u32>,
    /// Whether the stream's members are served at TC whatever their interfaces take.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_tc: bool,
    /// The transmit queue of copies at TC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u16>,
}

/// What a stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupState {
    /// Packets arrive and are copied.
    Forwarding,
    /// Joined, and no packet has arrived yet.
    Waiting,
    /// Packets arrived once, and do so no longer.
    Silent,
    /// Packets arrive and nobody wants them.
    NoMember,
    /// A state that a newer daemon knows.
    #[serde(other)]
    Unknown,
}

/// Where packets come from or copies go to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Place {
    /// Native multicast on an interface.
    Interface {
        /// Its name.
        name: String,
    },
    /// One neighbour alone, by its link-layer address.
    Neighbour {
        /// The interface that it is behind.
        interface: String,
        /// Its link-layer address; missing while it is not known.
        mac: Option<String>,
    },
    /// A tunnel.
    Tunnel {
        /// Its number, as in the list of tunnels.
        id: u32,
        /// Its name, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Our address and port.
        local: SocketAddr,
        /// The far end's address and port.
        remote: SocketAddr,
    },
    /// Other addresses and ports.
    Conversion {
        /// The conversion's number.
        id: u32,
        /// The host or group that packets go to.
        destination: SocketAddr,
        /// The address and port that they come from; missing if they keep their own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<SocketAddr>,
        /// The interface that they leave by; missing while the way to a host is not known.
        interface: Option<String>,
        /// The link-layer address on the way to a host; missing for a group, and while it is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mac: Option<String>,
    },
    /// An address and port of this node that sources send to by unicast.
    Unicast {
        /// That address and port.
        endpoint: SocketAddr,
        /// Whether packets are taken in there: the address is this host's and the port was free.
        open: bool,
    },
    /// A kind that a newer daemon knows.
    #[serde(other)]
    Unknown,
}

/// A page of members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// Where the next page begins; `None` after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The members, ordered by group, source and output; then those that get nothing because they wait for room.
    pub members: Vec<Member>,
}

/// One who gets a copy of every packet of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The group.
    pub group: IpAddr,
    /// The source; `None` for a member of (*,G).
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// Where its copies go.
    pub output: Place,
    /// What it asked for.
    pub filter: Filter,
    /// Whether the configuration states it, perhaps beside what it asked for itself.
    #[serde(default)]
    pub configured: bool,
    /// Whether it waits for room for streams (`dataplane.max_streams`): it gets less than it asked for, or nothing.
    #[serde(default)]
    pub waits: bool,
    /// Why the VMR refuses it, wholly or for some sources; agents only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Milliseconds since it joined.
    pub age_ms: u64,
    /// Packets that it was sent since it joined.
    pub packets: u64,
    /// Their IP length in bytes, without the headers of a tunnel.
    #[serde(default)]
    pub bytes: u64,
    /// Copies that were dropped for it alone since it joined; `packets` does not have them.
    #[serde(default)]
    pub dropped: u64,
    /// Hosts behind an interface that are told apart (explicit host tracking).
    #[serde(default)]
    pub tracked_hosts: u64,
    /// The first of them by address, [`MAX_HOSTS`] at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<MemberHost>,
}

/// Most hosts that are listed of one member.
pub const MAX_HOSTS: usize = 64;

/// A host that reported a group on an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberHost {
    /// Its address; unspecified if it has none.
    pub address: IpAddr,
    /// Its link-layer address, such as `02:00:00:00:00:01`, on a link that has such: whoever else reports from the same
    /// address is another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// What it asked for.
    pub filter: Filter,
    /// Milliseconds until it is forgotten unless it reports again.
    pub expires_ms: u64,
}

/// Filter mode and source list of a membership (RFC 9776 §2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// The mode.
    pub mode: FilterMode,
    /// The sources it speaks of.
    #[serde(default)]
    pub sources: Vec<IpAddr>,
}

/// Filter mode of a membership (RFC 9776 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterMode {
    /// Only the listed sources.
    Include,
    /// Every source but the listed ones.
    Exclude,
}

/// A page of tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnels {
    /// Where the next page begins; `None` after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The tunnels, ordered by number.
    pub tunnels: Vec<Tunnel>,
}

/// A tunnel, seen from the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its number.
    pub id: u32,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The encapsulation.
    pub kind: TunnelKind,
    /// The key of GRE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<u32>,
    /// Our address and port.
    pub local: SocketAddr,
    /// The far end's address and port.
    pub remote: SocketAddr,
    /// Which way streams go.
    pub direction: Direction,
    /// The link-layer way to the far end, `None` while it is not known or the host's own stack sends.
    #[serde(default)]
    pub next_hop: Option<NextHop>,
    /// Milliseconds since it was set up.
    pub age_ms: u64,
    /// Groups that are joined through it.
    pub groups: u64,
}

/// How packets are encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelKind {
    /// Automatic Multicast Tunneling over UDP (RFC 7450).
    Amt,
    /// Generic Routing Encapsulation (RFC 2784, RFC 2890).
    Gre,
    /// An IP packet in an IP packet (RFC 2003, RFC 2473).
    Ipip,
    /// A kind that a newer daemon knows.
    #[serde(other)]
    Unknown,
}

impl TunnelKind {
    /// Its name in tables.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Amt => "amt",
            Self::Gre => "gre",
            Self::Ipip => "ipip",
            Self::Unknown => "?",
        }
    }
}

/// Which way streams go in a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Streams come out of it; the far end is our AMT relay.
    Upstream,
    /// Copies go into it; the far end is an AMT gateway.
    Member,
    /// Both ends were configured; streams may go either way.
    Static,
    /// A direction that a newer daemon knows.
    #[serde(other)]
    Unknown,
}

/// The link-layer way to a far end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// Name of the interface that frames leave by.
    pub interface: String,
    /// Link-layer address, six octets with colons; `None` while it is not resolved.
    #[serde(default)]
    pub mac: Option<String>,
    /// How it is.
    pub state: NextHopState,
}

/// How a next hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextHopState {
    /// The neighbour's address is known.
    Resolved,
    /// The neighbour does not answer, or has not yet.
    Unresolved,
    /// The interface is down or gone.
    Down,
    /// A state that a newer daemon knows.
    #[serde(other)]
    Unknown,
}

/// The interfaces of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interfaces {
    /// The interfaces, ordered by name.
    pub interfaces: Vec<Interface>,
}

/// An interface in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The kernel's number, `None` while it is missing; above 2^29 one of the daemon's own, of a link that
    /// the kernel has no interface for.
    #[serde(default)]
    pub ifindex: Option<u32>,
    /// The device whose frames carry its packets, if that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The VLAN tags of those frames, outermost first, as `100` or `802.1ad:200`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlan: Vec<String>,
    /// The PPPoE session that they belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pppoe_session: Option<u16>,
    /// Whether it is up.
    pub up: bool,
    /// Its MTU in bytes, without the link-layer header.
    pub mtu: u32,
    /// Its link-layer address, six octets with colons; `None` if it has none.
    #[serde(default)]
    pub mac: Option<String>,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Why the data plane does not take it, so that nothing comes in or leaves by it; missing if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// How the data plane sees it, as `xdp`, `tc`, `packet-socket` or `tun`; `None` if it does not.
    #[serde(default)]
    pub attached: Option<String>,
    /// Whether copies that leave by it wait in queues as priorities say; missing if none says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<bool>,
    /// What makes the copies that leave by it, and why that; `None` if none do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Engine>,
    /// Whether packets of sources are accepted on it.
    #[serde(default)]
    pub accepts_sources: bool,
    /// Whether it leads to the network above, where what sources on the others send goes, too.
    #[serde(default)]
    pub upstream: bool,
    /// The IGMP querier of its network, `None` if IGMP is not spoken on it.
    #[serde(default)]
    pub querier: Option<Querier>,
    /// The MLD querier of its network, `None` if MLD is not spoken on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mld_querier: Option<Querier>,
}

/// Who asks for members on a network (RFC 9776 §6.6.2, RFC 9777 §7.6.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Querier {
    /// Its address, `None` while there is none.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Whether it is this daemon.
    pub ours: bool,
    /// Whether this daemon serves the members of the network, and has not left them to that querier.
    #[serde(default)]
    pub serving: bool,
    /// The version of IGMP or MLD that is spoken.
    pub version: u8,
    /// Groups with members on the network.
    #[serde(default)]
    pub groups: u64,
}

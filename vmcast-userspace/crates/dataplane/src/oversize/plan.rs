//! What the RFCs ask for where a packet with its encapsulation is larger than a link takes.

use vmcast_common::{hdr::ip, maps::kind, rewrite::overhead};

/// The least MTU of a link that carries IPv6 (RFC 8200 §5).
pub(super) const MIN_MTU_V6: usize = 1280;

/// What becomes of one member's copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// The link takes it as it is.
    Whole,
    /// The packet is cut into fragments of at most so many bytes, each of which is encapsulated: whoever ends
    /// the tunnel has nothing to put together.
    FragmentInner(usize),
    /// It is encapsulated, and the outer packet is cut into fragments of at most so many bytes.
    FragmentOuter(usize),
    /// There is no copy, and its source is told how large packets may be.
    TooBig(u32),
    /// There is no copy, and nobody is told: of an IPv4 packet to a group no ICMP error is sent (RFC 1122
    /// §3.2.2), and no IPv6 source would make packets smaller than every link must take (RFC 8201 §4).
    None,
}

/// Whether a kind is a tunnel whose outer packets may be fragmented, and whether these are IPv6. In AMT none
/// are (RFC 7450 §5.3.3.6.3).
const fn outer(of: u8) -> Option<bool> {
    match of {
        kind::GRE_V4 | kind::GRE_KEY_V4 | kind::IP_V4 => Some(false),
        kind::GRE_V6 | kind::GRE_KEY_V6 | kind::IP_V6 => Some(true),
        _ => None,
    }
}

/// Decides on a packet for a member of a kind behind a link with this MTU.
///
/// IPv4 is fragmented before it is encapsulated (RFC 7450 §5.3.3.6.2.1 for AMT, RFC 7588 §3.3 for GRE), but for
/// IPv4 in IPv6, where the tunnel's packet is (RFC 2473 §7.2). IPv6 is not fragmented by routers: its source is
/// told (RFC 7450 §5.3.3.6.2.2, RFC 2473 §7.1, RFC 4213 §3.2.2). Only a packet that every link of IPv6 must take
/// goes in fragments of the tunnel's packet, where the tunnel knows such.
pub(super) fn plan(packet: &ip::View, may_fragment: bool, member: u8, mtu: u16) -> Plan {
    let room = usize::from(mtu).saturating_sub(overhead(member));
    if packet.total_len <= room {
        return Plan::Whole;
    }
    match (packet.is_ipv6, outer(member)) {
        (true, _) if packet.total_len > MIN_MTU_V6 => Plan::TooBig(room.max(MIN_MTU_V6) as u32),
        (true, Some(_)) => Plan::FragmentOuter(mtu.into()),
        (true, None) => Plan::None,
        (false, _) if !may_fragment => Plan::None,
        (false, Some(true)) if member == kind::IP_V6 => Plan::FragmentOuter(mtu.into()),
        (false, _) => Plan::FragmentInner(room),
    }
}

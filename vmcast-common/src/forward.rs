//! The forwarding decision: one pure function over the received frame and the tables, run by the
//! kernel program and by the software plane.

use core::net::Ipv4Addr;

use crate::{
    hdr::{amt, eth, ipv4, udp},
    maps::{EndpointKey, InputId, InterfaceEntry, StreamEntry, StreamKey, TunnelEntry, TunnelKey, v4_bytes},
    packet::Packet,
    verdict::{DropReason, PuntReason, Refusal, Verdict},
};

/// The tables that a decision reads.
pub trait Tables {
    /// The entry of a stream, (S,G) or (*,G) alike.
    fn stream(&self, key: &StreamKey) -> Option<StreamEntry>;
    /// The tunnel between two endpoints.
    fn tunnel(&self, key: &TunnelKey) -> Option<TunnelEntry>;
    /// Whether this is one of our tunnel endpoints.
    fn is_endpoint(&self, key: &EndpointKey) -> bool;
    /// The entry of an ingress interface.
    fn interface(&self, ifindex: u32) -> Option<InterfaceEntry>;
}

/// A packet to copy, and where to find it in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicate {
    /// Offset of the IP packet to forward in the frame, in bytes.
    pub ip_offset: usize,
    /// Length of that packet in bytes, its header included; what follows is padding.
    pub ip_len: usize,
    /// Its time to live as received, at least 2.
    pub ttl: u8,
    /// Its header checksum as received.
    pub checksum: u16,
    /// Member table, never 0.
    pub table: u32,
    /// Whether it is to be encapsulated once, before it is copied.
    pub encapsulate: bool,
    /// Whether devices may be left out for its size; counted once for the packet.
    pub oversize: bool,
    /// Index of the stream's counters.
    pub stats: u32,
    /// Where it came from.
    pub input: InputId,
    /// Its (S,G).
    pub stream: StreamKey,
    /// Whether (*,G) served it because (S,G) has no entry.
    pub new_source: bool,
}

/// Decides what becomes of a frame received on `ingress_ifindex`.
#[inline(always)]
pub fn decide<P: Packet + ?Sized, T: Tables>(packet: &P, ingress_ifindex: u32, tables: &T) -> Verdict {
    match classify(packet, ingress_ifindex, tables) {
        Class::Pass => Verdict::Pass,
        Class::Refuse(reason) => Verdict::Refuse(Refusal {
            reason,
            stats: 0,
            input: InputId::NONE,
            stream: StreamKey::NONE,
            native: false,
        }),
        Class::Multicast(candidate) => decide_multicast(packet, &candidate, ingress_ifindex, tables),
    }
}

/// A multicast packet that may be forwarded.
#[derive(Clone, Copy)]
struct Candidate {
    ip_offset: usize,
    ip: ipv4::View,
    input: InputId,
    native: bool,
}

enum Class {
    Pass,
    /// AMT data for us that is not accepted; its inside says nothing.
    Refuse(DropReason),
    Multicast(Candidate),
}

/// Finds the multicast packet in the frame: the frame's own, or the one in a tunnel of ours.
#[inline(always)]
fn classify<P: Packet + ?Sized, T: Tables>(packet: &P, ingress_ifindex: u32, tables: &T) -> Class {
    if eth::ether_type(packet) != Some(eth::TYPE_IPV4) {
        return Class::Pass;
    }
    let Ok(ip) = ipv4::View::parse(packet, eth::LEN) else {
        return Class::Pass;
    };
    if ip.destination.is_multicast() {
        if ip.protocol == ipv4::PROTO_IGMP
            || ip.protocol == ipv4::PROTO_PIM
            || !ipv4::is_forwardable_group(ip.destination)
        {
            return Class::Pass;
        }
        let input = InputId::interface(ingress_ifindex);
        return Class::Multicast(Candidate { ip_offset: eth::LEN, ip, input, native: true });
    }
    // A fragment goes to the host, which puts it together and gives it to our socket.
    if ip.protocol != ipv4::PROTO_UDP || ip.fragment {
        return Class::Pass;
    }
    classify_datagram(packet, &ip, tables)
}

/// A UDP datagram to one host: ours if it is AMT data for one of our endpoints.
#[inline(always)]
fn classify_datagram<P: Packet + ?Sized, T: Tables>(packet: &P, outer: &ipv4::View, tables: &T) -> Class {
    let udp_offset = eth::LEN + outer.header_len;
    let Some(datagram) = udp::View::parse(packet, udp_offset) else {
        return Class::Pass;
    };
    let payload = udp_offset + udp::LEN;
    if datagram.length > outer.total_len - outer.header_len
        || datagram.length == udp::LEN
        || !amt::is_data(packet, payload)
    {
        return Class::Pass;
    }
    let key = TunnelKey {
        local: v4_bytes(outer.destination),
        remote: v4_bytes(outer.source),
        local_port: datagram.destination,
        remote_port: datagram.source,
    };
    let Some(tunnel) = tables.tunnel(&key) else {
        let endpoint = EndpointKey { address: key.local, port: key.local_port, reserved: [0; 2] };
        if tables.is_endpoint(&endpoint) {
            return Class::Refuse(DropReason::UnknownTunnel);
        }
        return Class::Pass;
    };
    if tunnel.accepts_sources == 0 {
        return Class::Refuse(DropReason::SenderNotAllowed);
    }
    let ip_offset = payload + amt::DATA_LEN;
    let Ok(ip) = ipv4::View::parse(packet, ip_offset) else {
        return Class::Refuse(DropReason::Malformed);
    };
    if ip_offset + ip.total_len > udp_offset + datagram.length {
        return Class::Refuse(DropReason::Malformed);
    }
    // IGMP and PIM speak to the routers of one link; out of a tunnel they would speak to another's.
    if ip.protocol == ipv4::PROTO_IGMP
        || ip.protocol == ipv4::PROTO_PIM
        || !ipv4::is_forwardable_group(ip.destination)
    {
        return Class::Refuse(DropReason::NotMulticast);
    }
    Class::Multicast(Candidate { ip_offset, ip, input: InputId::tunnel(tunnel.id), native: false })
}

/// Looks the stream up and checks the packet against it. What came natively and is refused goes to
/// the host all the same: its own listeners have as much right to it as without vmcast.
#[inline(always)]
fn decide_multicast<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    candidate: &Candidate,
    ingress_ifindex: u32,
    tables: &T,
) -> Verdict {
    let Candidate { ip_offset, ip, input, native } = *candidate;
    let stream = StreamKey::v4(ip.source, ip.destination);
    let refuse = |reason, stats| Verdict::Refuse(Refusal { reason, stats, input, stream, native });

    if !is_host(ip.source) {
        return if native { Verdict::Pass } else { refuse(DropReason::NotMulticast, 0) };
    }
    match ip.verify(packet, ip_offset) {
        Ok(()) => {}
        Err(ipv4::Error::Malformed) => return refuse(DropReason::Malformed, 0),
        Err(ipv4::Error::BadChecksum) => return refuse(DropReason::BadChecksum, 0),
    }
    let (entry, new_source) = match tables.stream(&stream) {
        Some(entry) => (entry, false),
        None => match tables.stream(&stream.any_source()) {
            Some(entry) => (entry, true),
            None if native => return Verdict::PassAndPunt(PuntReason::UnknownGroup, input, stream),
            None => return refuse(DropReason::NotJoined, 0),
        },
    };
    let right_input = if entry.rpf == 0 {
        !native || matches!(tables.interface(ingress_ifindex), Some(i) if i.accepts_sources != 0)
    } else {
        entry.rpf == input.0
    };
    if !right_input {
        return refuse(DropReason::WrongInput, entry.stats);
    }
    if ip.ttl <= 1 {
        return refuse(DropReason::TtlExpired, entry.stats);
    }
    if entry.table == 0 {
        return refuse(DropReason::NoMember, entry.stats);
    }
    Verdict::Replicate(Replicate {
        ip_offset,
        ip_len: ip.total_len,
        ttl: ip.ttl,
        checksum: ip.checksum,
        table: entry.table,
        encapsulate: ip.total_len <= entry.encapsulated_max as usize,
        oversize: ip.total_len > entry.plain_max as usize,
        stats: entry.stats,
        input,
        stream,
        new_source,
    })
}

/// Whether an address can be the source of a forwarded packet.
#[inline(always)]
const fn is_host(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    !(a == 127 || a >= 224 || (a == 0 && b == 0 && c == 0 && d == 0))
}

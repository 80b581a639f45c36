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
    if eth::ether_type(packet) != Some(eth::TYPE_IPV4) {
        return Verdict::Pass;
    }
    let Ok(ip) = ipv4::View::parse(packet, eth::LEN) else {
        return Verdict::Pass;
    };
    if ip.destination.is_multicast() {
        return decide_native(packet, &ip, ingress_ifindex, tables);
    }
    // A fragment goes to the host, which puts it together and gives it to our socket.
    if ip.protocol != ipv4::PROTO_UDP || ip.fragment {
        return Verdict::Pass;
    }
    decide_tunnelled(packet, &ip, tables)
}

/// A packet to a group, as it came on the wire. What is refused goes to the host all the same:
/// its own listeners have as much right to it as without vmcast.
#[inline(always)]
fn decide_native<P: Packet + ?Sized, T: Tables>(
    packet: &P,
    ip: &ipv4::View,
    ingress_ifindex: u32,
    tables: &T,
) -> Verdict {
    if ip.protocol == ipv4::PROTO_IGMP
        || ip.protocol == ipv4::PROTO_PIM
        || !ipv4::is_forwardable_group(ip.destination)
    {
        return Verdict::Pass;
    }
    let input = InputId::interface(ingress_ifindex);
    let stream = StreamKey::v4(ip.source, ip.destination);
    let refuse = |reason, stats| Verdict::Refuse(Refusal { reason, stats, input, stream, native: true });

    if let Some(entry) = tables.stream(&stream) {
        if entry.rpf != 0 && entry.rpf != input.0 {
            return refuse(DropReason::WrongInput, entry.stats);
        }
        return accept(packet, eth::LEN, ip, &entry, input, stream, true, false);
    }
    let Some(entry) = tables.stream(&stream.any_source()) else {
        return Verdict::PassAndPunt(PuntReason::UnknownGroup, input, stream);
    };
    let accepts_sources = matches!(tables.interface(ingress_ifindex), Some(i) if i.accepts_sources != 0);
    if !accepts_sources || (entry.rpf != 0 && entry.rpf != input.0) {
        return refuse(DropReason::WrongInput, entry.stats);
    }
    accept(packet, eth::LEN, ip, &entry, input, stream, true, true)
}

/// A UDP datagram to one host: ours if it is AMT data for one of our endpoints.
#[inline(always)]
fn decide_tunnelled<P: Packet + ?Sized, T: Tables>(packet: &P, outer: &ipv4::View, tables: &T) -> Verdict {
    let udp_offset = eth::LEN + outer.header_len;
    let Some(datagram) = udp::View::parse(packet, udp_offset) else {
        return Verdict::Pass;
    };
    let payload = udp_offset + udp::LEN;
    if datagram.length > outer.total_len - outer.header_len || !amt::is_data(packet, payload) {
        return Verdict::Pass;
    }
    let local = v4_bytes(outer.destination);
    let key = TunnelKey {
        local,
        remote: v4_bytes(outer.source),
        local_port: datagram.destination,
        remote_port: datagram.source,
    };
    let nowhere = |reason| {
        Verdict::Refuse(Refusal {
            reason,
            stats: 0,
            input: InputId::NONE,
            stream: StreamKey::v4(outer.source, outer.destination),
            native: false,
        })
    };
    let Some(tunnel) = tables.tunnel(&key) else {
        let endpoint = EndpointKey { address: local, port: datagram.destination, reserved: [0; 2] };
        if tables.is_endpoint(&endpoint) {
            return nowhere(DropReason::UnknownTunnel);
        }
        return Verdict::Pass;
    };
    if tunnel.accepts_sources == 0 {
        return nowhere(DropReason::SenderNotAllowed);
    }

    let ip_offset = payload + amt::DATA_LEN;
    let Ok(ip) = ipv4::View::parse(packet, ip_offset) else {
        return nowhere(DropReason::Malformed);
    };
    if ip_offset + ip.total_len > udp_offset + datagram.length {
        return nowhere(DropReason::Malformed);
    }
    match ip.verify(packet, ip_offset) {
        Ok(()) => {}
        Err(ipv4::Error::Malformed) => return nowhere(DropReason::Malformed),
        Err(ipv4::Error::BadChecksum) => return nowhere(DropReason::BadChecksum),
    }
    if !ipv4::is_forwardable_group(ip.destination) || !is_host(ip.source) {
        return nowhere(DropReason::NotMulticast);
    }

    let input = InputId::tunnel(tunnel.id);
    let stream = StreamKey::v4(ip.source, ip.destination);
    let refuse = |reason, stats| Verdict::Refuse(Refusal { reason, stats, input, stream, native: false });
    let (entry, new_source) = match tables.stream(&stream) {
        Some(entry) => (entry, false),
        None => match tables.stream(&stream.any_source()) {
            Some(entry) => (entry, true),
            None => return refuse(DropReason::NotJoined, 0),
        },
    };
    if entry.rpf != 0 && entry.rpf != input.0 {
        return refuse(DropReason::WrongInput, entry.stats);
    }
    accept(packet, ip_offset, &ip, &entry, input, stream, false, new_source)
}

/// The checks that follow once the stream and its input are right.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one call in a hot path that the verifier must follow inline")]
fn accept<P: Packet + ?Sized>(
    packet: &P,
    ip_offset: usize,
    ip: &ipv4::View,
    entry: &StreamEntry,
    input: InputId,
    stream: StreamKey,
    native: bool,
    new_source: bool,
) -> Verdict {
    let refuse = |reason| Verdict::Refuse(Refusal { reason, stats: entry.stats, input, stream, native });
    if native && ip.verify(packet, ip_offset).is_err() {
        return refuse(DropReason::BadChecksum);
    }
    if ip.ttl <= 1 {
        return refuse(DropReason::TtlExpired);
    }
    if entry.table == 0 {
        return refuse(DropReason::NoMember);
    }
    Verdict::Replicate(Replicate {
        ip_offset,
        ip_len: ip.total_len,
        ttl: ip.ttl,
        checksum: ip.checksum,
        table: entry.table,
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

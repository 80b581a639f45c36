//! The forwarding decision: one pure function over the received frame and the tables, run by the
//! kernel program and by the software plane.

use crate::{
    hdr::{
        amt, ecn, eth, gre,
        ip::{self, PROTO_GRE, PROTO_IPV4, PROTO_IPV6, PROTO_UDP},
        ipv4, link, udp,
    },
    maps::{
        Address, EndpointEntry, EndpointKey, InputId, InterfaceEntry, InterfaceKey, Marks, SharedKey,
        StreamEntry, StreamKey, TunnelEntry, TunnelKey,
    },
    packet::Packet,
    verdict::{DropReason, PuntReason, Refusal, Verdict},
};

/// The tables that a decision reads.
pub trait Tables {
    /// The entry of a stream, (S,G) or (*,G) alike.
    fn stream(&self, key: &StreamKey) -> Option<StreamEntry>;
    /// The tunnel between two endpoints.
    fn tunnel(&self, key: &TunnelKey) -> Option<TunnelEntry>;
    /// What is done with datagrams for one of our endpoints.
    fn endpoint(&self, key: &EndpointKey) -> Option<EndpointEntry>;
    /// The interface that one of a device's links is.
    fn interface(&self, key: &InterfaceKey) -> Option<InterfaceEntry>;
    /// Whether a group is shared with somebody on this host who listens to it on an interface; and if it is, whether a
    /// program at XDP leaves its packets to the one at TC by now.
    fn shared_group(&self, key: &SharedKey) -> Option<bool>;
}

/// A packet to copy, and where to find it in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicate {
    /// Offset of the IP packet to forward in the frame, in bytes.
    pub ip_offset: usize,
    /// Length of that packet in bytes, its header included; what follows is padding.
    pub ip_len: usize,
    /// Whether it is IPv6.
    pub is_ipv6: bool,
    /// Its time to live or hop limit as received, at least 2.
    pub ttl: u8,
    /// Its type of service or traffic class as received.
    pub tos: u8,
    /// The one with which it goes on: with the stream's DSCP, and with what the tunnel it came through said of
    /// congestion.
    pub new_tos: u8,
    /// Its header checksum as received, 0 for IPv6.
    pub checksum: u16,
    /// Member table; 0 if there is none, and then there is a list.
    pub table: u32,
    /// See [`StreamEntry::list`].
    pub list: u32,
    /// See [`StreamEntry::marks`]; the DSCP is in [`Replicate::new_tos`] already.
    pub marks: Marks,
    /// Whether it goes on to the host as well.
    pub shared: bool,
    /// Whether a program at XDP, which cannot share, leaves it to the one at TC.
    pub left_to_tc: bool,
    /// Whether one at XDP decides before the one at TC where it came in.
    pub xdp_first: bool,
    /// Whether it is to be encapsulated once, before it is copied.
    pub encapsulate: bool,
    /// Whether the link of some member does not take it whole.
    pub oversize: bool,
    /// Whether a program at XDP makes none of its copies, see [`StreamEntry::kernel_max`].
    pub beyond: bool,
    /// Index of the stream's counters.
    pub stats: u32,
    /// Where it came from.
    pub input: InputId,
    /// Its (S,G).
    pub stream: StreamKey,
    /// The ports with which it goes on, the source's first, in network order, if it came in by unicast: then its
    /// destination becomes the stream's group.
    pub new_ports: Option<[u8; 4]>,
    /// Whether (*,G) served it because (S,G) has no entry.
    pub new_source: bool,
}

/// Decides what becomes of a frame received on a device.
#[inline(always)]
pub fn decide<P: Packet + ?Sized, T: Tables>(frame: &P, device: u32, tables: &T) -> Verdict {
    match classify(frame, device, tables) {
        Class::Pass => Verdict::Pass,
        Class::Refuse(reason) => Verdict::Refuse(Refusal {
            reason,
            stats: 0,
            input: InputId::NONE,
            stream: StreamKey::NONE,
            native: false,
            xdp_first: false,
        }),
        Class::Multicast(candidate) => decide_multicast(frame, &candidate, tables),
    }
}

/// A multicast packet that may be forwarded.
#[derive(Clone, Copy)]
struct Candidate {
    ip_offset: usize,
    /// Its header; the destination is the group, also of a packet that came in by unicast.
    ip: ip::View,
    /// See [`Replicate::new_ports`].
    new_ports: Option<[u8; 4]>,
    input: InputId,
    native: bool,
    /// The flags of the [`InterfaceEntry`] that it came in by; what was not meant for the group there is not shared.
    flags: u32,
    /// Whether a source without an entry of its own is accepted where it came in.
    accepts_sources: bool,
    /// The type of service with which it goes on.
    new_tos: u8,
}

enum Class {
    Pass,
    /// Tunnel data for us that is not accepted; its inside says nothing.
    Refuse(DropReason),
    Multicast(Candidate),
}

/// Finds the multicast packet in the frame: the frame's own, or the one in a tunnel of ours.
#[inline(always)]
fn classify<P: Packet + ?Sized, T: Tables>(frame: &P, device: u32, tables: &T) -> Class {
    let Some(link) = link::View::parse(frame) else {
        return Class::Pass;
    };
    let Some(ip) = ip::View::parse(frame, link.packet, link.is_ipv6) else {
        return Class::Pass;
    };
    if ip.is_multicast() {
        if !ip.is_forwardable() {
            return Class::Pass;
        }
        let Some(interface) = tables.interface(&InterfaceKey::new(device, link.link)) else {
            return Class::Pass;
        };
        return Class::Multicast(Candidate::native(link.packet, ip, interface));
    }
    // A fragment goes to the host, which puts it together and gives it to our socket.
    if ip.fragment {
        return Class::Pass;
    }
    let Some(found) = find_tunnel(frame, link.packet, &ip) else {
        return Class::Pass;
    };
    let is_datagram = found.key.kind == TunnelKey::KIND_DATAGRAM;
    let tunnel = if is_datagram { None } else { tables.tunnel(&found.key) };
    if let Some(tunnel) = tunnel {
        return classify_tunnel(frame, &found, tunnel);
    }
    let is_amt = found.key.kind == TunnelKey::KIND_AMT;
    if !is_datagram && !is_amt {
        return Class::Pass;
    }
    match tables.endpoint(&EndpointKey::at(found.key.local, found.key.local_port)) {
        None => Class::Pass,
        Some(endpoint) if endpoint.group == Address::NONE => {
            if is_amt {
                Class::Refuse(DropReason::UnknownTunnel)
            } else {
                Class::Pass
            }
        }
        Some(endpoint) => {
            let Some(interface) = tables.interface(&InterfaceKey::new(device, link.link)) else {
                return Class::Pass;
            };
            let ([a, b], [c, d]) = (found.key.remote_port, endpoint.port);
            let to_group = ip::View { destination: endpoint.group, ..ip };
            Class::Multicast(Candidate {
                new_ports: Some([a, b, c, d]),
                flags: interface.flags & InterfaceEntry::XDP_FIRST,
                ..Candidate::native(link.packet, to_group, interface)
            })
        }
    }
}

impl Candidate {
    /// What came in on an interface as it is.
    #[inline(always)]
    const fn native(ip_offset: usize, ip: ip::View, interface: InterfaceEntry) -> Self {
        Self {
            ip_offset,
            ip,
            new_ports: None,
            input: InputId::interface(interface.ifindex),
            native: true,
            flags: interface.flags,
            accepts_sources: interface.accepts_sources != 0,
            new_tos: ip.tos,
        }
    }
}

/// A packet to one host that may have come through a tunnel.
struct Tunnelled {
    key: TunnelKey,
    /// Where the packet inside begins, and where the tunnel's payload ends.
    inner: usize,
    end: usize,
    /// The outer type of service.
    tos: u8,
}

/// Looks behind the outer header; `None` if what is there is neither an encapsulation that vmcast knows nor a
/// whole datagram.
#[inline(always)]
fn find_tunnel<P: Packet + ?Sized>(frame: &P, outer_offset: usize, outer: &ip::View) -> Option<Tunnelled> {
    let payload = outer_offset + outer.header_len;
    let end = outer_offset + outer.total_len;
    let mut key = TunnelKey {
        local: outer.destination,
        remote: outer.source,
        local_port: [0; 2],
        remote_port: [0; 2],
        kind: TunnelKey::KIND_IPIP,
    };
    match outer.protocol {
        PROTO_UDP => {
            let datagram = udp::View::parse(frame, payload)?;
            let inner = payload + udp::LEN + amt::DATA_LEN;
            if datagram.length > end - payload {
                return None;
            }
            let is_amt = datagram.length > udp::LEN && amt::is_data(frame, payload + udp::LEN);
            key.kind = if is_amt { TunnelKey::KIND_AMT } else { TunnelKey::KIND_DATAGRAM };
            key.local_port = datagram.destination;
            key.remote_port = datagram.source;
            Some(Tunnelled { key, inner, end: payload + datagram.length, tos: outer.tos })
        }
        PROTO_GRE => {
            let header = gre::View::parse(frame, payload)?;
            if header.protocol != eth::TYPE_IPV4 && header.protocol != eth::TYPE_IPV6 {
                return None;
            }
            key.kind = TunnelKey::KIND_GRE;
            if let Some([a, b, c, d]) = header.key {
                key.kind = TunnelKey::KIND_GRE_KEY;
                key.local_port = [a, b];
                key.remote_port = [c, d];
            }
            Some(Tunnelled { key, inner: payload + header.header_len, end, tos: outer.tos })
        }
        PROTO_IPV4 | PROTO_IPV6 => Some(Tunnelled { key, inner: payload, end, tos: outer.tos }),
        _ => None,
    }
}

/// A packet out of one of our tunnels.
#[inline(always)]
fn classify_tunnel<P: Packet + ?Sized>(frame: &P, found: &Tunnelled, tunnel: TunnelEntry) -> Class {
    let Tunnelled { key, inner, end, tos } = found;
    let is_amt = key.kind == TunnelKey::KIND_AMT;
    if is_amt && tunnel.accepts_sources == 0 {
        return Class::Refuse(DropReason::SenderNotAllowed);
    }
    let forwardable = match ip::View::parse_any(frame, *inner) {
        None if is_amt => return Class::Refuse(DropReason::Malformed),
        Some(ip) if *inner + ip.total_len > *end && is_amt => return Class::Refuse(DropReason::Malformed),
        // What routers and hosts of one link say to each other would speak to another link's out of a
        // tunnel.
        Some(ip) if is_amt && !(ip.is_multicast() && ip.is_forwardable()) => {
            return Class::Refuse(DropReason::NotMulticast);
        }
        Some(ip) if *inner + ip.total_len <= *end && ip.is_multicast() && ip.is_forwardable() => ip,
        // A tunnel of GRE or IP in IP is an interface of the host's too: what is not for us is for it.
        None | Some(_) => return Class::Pass,
    };
    if tunnel.accepts_sources == 0 {
        return Class::Refuse(DropReason::SenderNotAllowed);
    }
    let ip = forwardable;
    let Some(new_tos) = ecn::decapsulate(ip.tos, *tos) else {
        return Class::Refuse(DropReason::Congestion);
    };
    Class::Multicast(Candidate {
        ip_offset: *inner,
        ip,
        new_ports: None,
        input: InputId::tunnel(tunnel.id),
        native: false,
        flags: 0,
        accepts_sources: true,
        new_tos,
    })
}

/// Looks the stream up and checks the packet against it. What came natively and is refused goes to
/// the host all the same: its own listeners have as much right to it as without vmcast.
#[inline(always)]
fn decide_multicast<P: Packet + ?Sized, T: Tables>(frame: &P, candidate: &Candidate, tables: &T) -> Verdict {
    let Candidate { ip_offset, ip, new_ports, input, native, flags, accepts_sources, new_tos } = *candidate;
    let stream = StreamKey { source: ip.source, group: ip.destination };
    let xdp_first = flags & InterfaceEntry::XDP_FIRST != 0;
    let refuse = |reason, stats| Verdict::Refuse(Refusal { reason, stats, input, stream, native, xdp_first });

    if !ip.has_host_source() {
        return if native { Verdict::Pass } else { refuse(DropReason::NotMulticast, 0) };
    }
    match ip.verify(frame, ip_offset) {
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
    let right_input = if entry.rpf == 0 { accepts_sources } else { entry.rpf == input.0 };
    if !right_input {
        return refuse(DropReason::WrongInput, entry.stats);
    }
    if ip.ttl <= 1 {
        return refuse(DropReason::TtlExpired, entry.stats);
    }
    if entry.table == 0 && entry.list == 0 {
        return refuse(DropReason::NoMember, entry.stats);
    }
    let new_tos = entry.marks.tos(new_tos);
    let by_group = if flags & InterfaceEntry::SHARES_GROUPS == 0 {
        None
    } else {
        tables.shared_group(&SharedKey::new(input.0, stream.group))
    };
    Verdict::Replicate(Replicate {
        ip_offset,
        ip_len: ip.total_len,
        is_ipv6: ip.is_ipv6,
        ttl: ip.ttl,
        tos: ip.tos,
        new_tos,
        checksum: ip.checksum,
        table: entry.table,
        list: entry.list,
        marks: entry.marks,
        shared: flags & InterfaceEntry::SHARED != 0 || by_group.is_some(),
        left_to_tc: by_group == Some(true),
        xdp_first,
        // Congestion marks go into the outer headers of some members and not of others.
        encapsulate: (ip.total_len <= entry.encapsulated_max as usize)
            & (new_tos & ecn::MASK == ecn::NOT_ECT),
        oversize: ip.total_len > entry.whole_max as usize,
        beyond: ip.total_len > entry.kernel_max as usize,
        stats: entry.stats,
        input,
        stream,
        new_ports,
        new_source,
    })
}

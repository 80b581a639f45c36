//! A slow and plain plane, written from the rules: lists instead of tables, etherparse instead of
//! the shared headers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{EtherType, Ethernet2Slice, IpNumber, Ipv4Header, UdpHeader};
use vmcast_common::{
    fib::{
        Conversion, ConversionId, FibOp, IfIndex, Input, Interface, Members, NextHop, NextHopId, Output, Rpf,
        Stream, Tunnel, TunnelId, Way,
    },
    verdict::{DropReason, PuntReason},
};

use super::{
    case::Expect,
    datagram::moved_checksum,
    packet::{ethernet, fragments, header_checksum, seal},
    scene::amt_copy_of,
};

/// One stream: what it is, from where, for whom, its own members in the order they joined, and the DSCP of its
/// packets. The model knows no tags.
type Entry = (Stream, Rpf, Members, Vec<Output>, Option<u8>);

/// What a plane should do, operation by operation and frame by frame. It takes every operation as
/// valid, and tells of every punt, as if each were the first of its stream.
#[derive(Clone, Debug, Default)]
pub struct Model {
    interfaces: Vec<Interface>,
    /// Groups that are shared with listeners on the host, by interface.
    shared: Vec<(IfIndex, IpAddr)>,
    endpoints: Vec<SocketAddr>,
    /// Where streams come in by unicast, and the groups to which they go on.
    inputs: Vec<(SocketAddr, SocketAddr)>,
    conversions: Vec<(ConversionId, Conversion)>,
    next_hops: Vec<(NextHopId, NextHop)>,
    /// In the order in which they were set last.
    tunnels: Vec<(TunnelId, Tunnel)>,
    streams: Vec<Entry>,
}

/// A multicast packet that may be forwarded.
struct Arrival {
    input: Input,
    bytes: Vec<u8>,
    header: Ipv4Header,
    /// Where it goes on to, if it came in by unicast.
    group: Option<SocketAddr>,
    /// The congestion marks with which it goes on.
    ecn: u8,
}

enum Class {
    Pass,
    Drop(DropReason),
    Multicast(Arrival),
}

impl Model {
    /// Follows one operation.
    pub fn apply(&mut self, op: &FibOp) {
        match *op {
            FibOp::SetInterface(interface) => {
                self.interfaces.retain(|known| known.ifindex != interface.ifindex);
                self.interfaces.push(interface);
            }
            FibOp::RemoveInterface(ifindex) => {
                self.interfaces.retain(|known| known.ifindex != ifindex);
                self.shared.retain(|(on, _)| *on != ifindex);
                self.leave_all(Output::Interface(ifindex));
            }
            FibOp::SetEndpoint(endpoint) => self.endpoints.push(endpoint),
            FibOp::RemoveEndpoint(endpoint) => self.endpoints.retain(|known| *known != endpoint),
            FibOp::SetUnicastInput { endpoint, group } => {
                self.inputs.retain(|(known, _)| *known != endpoint);
                self.inputs.push((endpoint, group));
            }
            FibOp::RemoveUnicastInput(endpoint) => self.inputs.retain(|(known, _)| *known != endpoint),
            FibOp::SetNextHop(id, next_hop) => {
                self.next_hops.retain(|(known, _)| *known != id);
                self.next_hops.push((id, next_hop));
            }
            FibOp::RemoveNextHop(id) => {
                self.next_hops.retain(|(known, _)| *known != id);
                self.leave_all(Output::Neighbour(id));
            }
            FibOp::SetTunnel(id, tunnel) => {
                self.tunnels.retain(|(known, _)| *known != id);
                self.tunnels.push((id, tunnel));
            }
            FibOp::RemoveTunnel(id) => {
                self.tunnels.retain(|(known, _)| *known != id);
                self.leave_all(Output::Tunnel(id));
            }
            FibOp::SetConversion(id, conversion) => {
                self.conversions.retain(|(known, _)| *known != id);
                self.conversions.push((id, conversion));
            }
            FibOp::RemoveConversion(id) => {
                self.conversions.retain(|(known, _)| *known != id);
                self.leave_all(Output::Converted(id));
            }
            FibOp::SetStream(stream, rpf, members) => match self.entry_mut(stream) {
                Some(entry) => (entry.1, entry.2) = (rpf, members),
                None => self.streams.push((stream, rpf, members, Vec::new(), None)),
            },
            FibOp::SetPriority(stream, priority) => {
                if let Some(entry) = self.entry_mut(stream) {
                    entry.4 = priority.dscp;
                }
            }
            FibOp::RemoveStream(stream) => self.streams.retain(|entry| entry.0 != stream),
            FibOp::AddMember(stream, output) => {
                if let Some(entry) = self.entry_mut(stream)
                    && !entry.3.contains(&output)
                {
                    entry.3.push(output);
                }
            }
            FibOp::RemoveMember(stream, output) => {
                if let Some(entry) = self.entry_mut(stream) {
                    entry.3.retain(|member| *member != output);
                }
            }
            FibOp::ShareGroup(ifindex, group) => self.shared.push((ifindex, group)),
            FibOp::UnshareGroup(ifindex, group) => {
                self.shared.retain(|known| *known != (ifindex, group));
            }
        }
    }

    /// What must come of a frame.
    #[must_use]
    pub fn expect(&self, ingress: IfIndex, frame: &[u8]) -> Expect {
        if !self.interfaces.iter().any(|interface| interface.ifindex == ingress) {
            return Expect::pass();
        }
        match self.classify(ingress, frame) {
            Class::Pass => Expect::pass(),
            Class::Drop(reason) => Expect::consumed().drop(reason),
            Class::Multicast(arrival) => self.forward(&arrival),
        }
    }

    fn entry(&self, stream: Stream) -> Option<&Entry> {
        self.streams.iter().find(|entry| entry.0 == stream)
    }

    fn entry_mut(&mut self, stream: Stream) -> Option<&mut Entry> {
        self.streams.iter_mut().find(|entry| entry.0 == stream)
    }

    fn leave_all(&mut self, output: Output) {
        for entry in &mut self.streams {
            entry.3.retain(|member| *member != output);
        }
    }

    fn classify(&self, ingress: IfIndex, frame: &[u8]) -> Class {
        let Ok(link) = Ethernet2Slice::from_slice_without_fcs(frame) else {
            return Class::Pass;
        };
        if link.ether_type() != EtherType::IPV4 {
            return Class::Pass;
        }
        let Some((header, bytes)) = whole_packet(link.payload_slice()) else {
            return Class::Pass;
        };
        if Ipv4Addr::from(header.destination).is_multicast() {
            if !is_data(&header) || !is_host(header.source.into()) {
                return Class::Pass;
            }
            let ecn = bytes[1] % 4;
            let input = Input::Interface(ingress);
            return Class::Multicast(Arrival { input, bytes, header, group: None, ecn });
        }
        if header.protocol != IpNumber::UDP || header.is_fragmenting_payload() {
            return Class::Pass;
        }
        let Ok((udp, _)) = UdpHeader::from_slice(&bytes[header.header_len()..]) else {
            return Class::Pass;
        };
        let Some(payload) = bytes[header.header_len()..].get(8..udp.length.into()) else {
            return Class::Pass;
        };
        let outer_ecn = bytes[1] % 4;
        let is_amt = payload.first() == Some(&6);
        let local = SocketAddr::from((header.destination, udp.destination_port));
        let remote = SocketAddr::from((header.source, udp.source_port));
        let between = |tunnel: &Tunnel| is_amt && (tunnel.local, tunnel.remote) == (local, remote);
        let tunnel = self.tunnels.iter().rev().find(|(_, tunnel)| between(tunnel));
        let Some((id, tunnel)) = tunnel else {
            if let Some(&(_, group)) = self.inputs.iter().find(|(endpoint, _)| *endpoint == local) {
                if !is_host(header.source.into()) {
                    return Class::Pass;
                }
                let input = Input::Interface(ingress);
                return Class::Multicast(Arrival {
                    input,
                    bytes,
                    header,
                    group: Some(group),
                    ecn: outer_ecn,
                });
            }
            let refused = is_amt && self.endpoints.contains(&local);
            return if refused { Class::Drop(DropReason::UnknownTunnel) } else { Class::Pass };
        };
        if !tunnel.accepts_sources {
            return Class::Drop(DropReason::SenderNotAllowed);
        }
        let Some((header, bytes)) = payload.get(2..).and_then(whole_packet) else {
            return Class::Drop(DropReason::Malformed);
        };
        if !is_data(&header) {
            return Class::Drop(DropReason::NotMulticast);
        }
        let Some(ecn) = out_of_tunnel(bytes[1] % 4, outer_ecn) else {
            return Class::Drop(DropReason::Congestion);
        };
        if !is_host(header.source.into()) {
            return Class::Drop(DropReason::NotMulticast);
        }
        Class::Multicast(Arrival { input: Input::Tunnel(*id), bytes, header, group: None, ecn })
    }

    fn forward(&self, arrival: &Arrival) -> Expect {
        let Arrival { input, bytes, header, group: converted, ecn } = arrival;
        let refused = || match input {
            Input::Interface(_) => Expect::pass(),
            Input::Tunnel(_) => Expect::consumed(),
        };
        let group = converted.map_or(header.destination.into(), |group| group.ip());
        let stream = Stream { source: Some(header.source.into()), group };
        let any_source = Stream { source: None, group };

        // Zero has two forms in one's complement; both are right on receipt.
        let right = header_checksum(bytes, header.header_len());
        if header.header_checksum != right && (right, header.header_checksum) != (0, 0xffff) {
            return refused().drop(DropReason::BadChecksum);
        }
        let Some((name, rpf, members, own, dscp)) = self.entry(stream).or_else(|| self.entry(any_source))
        else {
            return match input {
                Input::Interface(_) => Expect::pass().punt(PuntReason::UnknownGroup, *input, stream),
                Input::Tunnel(_) => refused().drop(DropReason::NotJoined),
            };
        };
        let right = match (rpf, input) {
            (Rpf::Exact(upstream), _) => upstream == input,
            (Rpf::AnyUpstream, Input::Tunnel(_)) => true,
            (Rpf::AnyUpstream, Input::Interface(ifindex)) => {
                self.interfaces.iter().any(|known| known.ifindex == *ifindex && known.accepts_sources)
            }
        };
        if !right {
            return refused().wrong_input(*name).punt(PuntReason::WrongInput, *input, stream);
        }
        if header.time_to_live <= 1 {
            return refused().dropped(*name, DropReason::TtlExpired);
        }
        let outputs = match members {
            Members::Own => own.as_slice(),
            Members::OfAnySource => self.entry(any_source).map_or(&[][..], |entry| entry.3.as_slice()),
        };
        if outputs.is_empty() {
            return refused().dropped(*name, DropReason::NoMember);
        }
        let shared = match input {
            Input::Interface(ifindex) => converted.is_none() && self.shared.contains(&(*ifindex, group)),
            Input::Tunnel(_) => false,
        };
        let outcome = if shared { Expect::pass() } else { Expect::consumed() };
        let mut expect = outcome.replicated(*name, bytes.len());
        if name.source.is_none() {
            expect = expect.punt(PuntReason::NewSource, *input, stream);
        }
        let mut leaving = bytes.clone();
        leaving[8] -= 1;
        leaving[1] = dscp.unwrap_or(leaving[1] / 4) * 4 + ecn;
        seal(&mut leaving);
        if let Some(group) = *converted {
            leaving = readdressed(&leaving, None, group).expect("it has ports");
        }
        for output in outputs {
            expect = match self.copy(*output, *input, &leaving) {
                Ok(frames) if frames.len() > 1 => expect.fragments(frames),
                Ok(frames) => expect.frames(frames),
                Err(reason) => expect.drop(reason),
            };
        }
        expect
    }

    fn copy(
        &self,
        output: Output,
        input: Input,
        leaving: &[u8],
    ) -> Result<Vec<(IfIndex, Vec<u8>)>, DropReason> {
        match output {
            Output::Interface(ifindex) => {
                if input == Input::Interface(ifindex) {
                    return Err(DropReason::SameInterface);
                }
                let interface = self.interfaces.iter().find(|known| known.ifindex == ifindex);
                let interface = interface.ok_or(DropReason::MemberGone)?;
                let destination = [1, 0, 0x5e, leaving[17] % 128, leaving[18], leaving[19]];
                let frame = |packet: Vec<u8>| {
                    (ifindex, ethernet(destination, interface.mac, EtherType::IPV4, &packet))
                };
                Ok(fitting(leaving, interface.mtu.into())?.into_iter().map(frame).collect())
            }
            Output::Neighbour(id) => {
                let hop = self.next_hops.iter().find(|(known, _)| *known == id);
                let (_, hop) = hop.ok_or(DropReason::MemberGone)?;
                let destination = hop.destination_mac.ok_or(DropReason::NextHopUnresolved)?;
                let frame = |packet: Vec<u8>| {
                    (hop.ifindex, ethernet(destination, hop.source_mac, EtherType::IPV4, &packet))
                };
                Ok(fitting(leaving, hop.mtu.into())?.into_iter().map(frame).collect())
            }
            Output::Tunnel(id) => {
                let tunnel = self.tunnels.iter().find(|(known, _)| *known == id);
                let (_, tunnel) = tunnel.ok_or(DropReason::MemberGone)?;
                let hop = self.next_hops.iter().find(|(known, _)| tunnel.next_hop == Some(*known));
                let (_, hop) = hop.ok_or(DropReason::NextHopUnresolved)?;
                if hop.destination_mac.is_none() {
                    return Err(DropReason::NextHopUnresolved);
                }
                let packets = fitting(leaving, usize::from(hop.mtu) - 20 - 8 - 2)?;
                Ok(packets.iter().map(|packet| amt_copy_of(packet, leaving[1], tunnel, hop)).collect())
            }
            Output::Converted(id) => {
                let conversion = self.conversions.iter().find(|(known, _)| *known == id);
                let (_, conversion) = conversion.ok_or(DropReason::MemberGone)?;
                let way = match conversion.way {
                    Way::Interface(ifindex) => Output::Interface(ifindex),
                    Way::NextHop(hop) => Output::Neighbour(hop.ok_or(DropReason::NextHopUnresolved)?),
                };
                // It goes if it would with its own addresses, but for a way that is no more.
                self.copy(way, input, leaving).map_err(|reason| match reason {
                    DropReason::MemberGone => DropReason::NextHopUnresolved,
                    other => other,
                })?;
                let leaving = readdressed(leaving, conversion.source, conversion.destination);
                self.copy(way, input, &leaving.ok_or(DropReason::NotConvertible)?)
            }
        }
    }
}

/// The packet, or its fragments, none longer than `max` bytes.
fn fitting(packet: &[u8], max: usize) -> Result<Vec<Vec<u8>>, DropReason> {
    if packet.len() <= max {
        return Ok(vec![packet.to_vec()]);
    }
    if packet[6] & 0x40 != 0 {
        return Err(DropReason::Oversize);
    }
    fragments(packet, max).ok_or(DropReason::Malformed)
}

/// An IPv4 packet with other addresses and ports; `None` if it is no UDP datagram with a whole header. A wrong
/// UDP checksum stays as wrong as it was.
fn readdressed(packet: &[u8], source: Option<SocketAddr>, destination: SocketAddr) -> Option<Vec<u8>> {
    let (header, _) = Ipv4Header::from_slice(packet).ok()?;
    if header.protocol != IpNumber::UDP {
        return None;
    }
    let at = header.header_len();
    let is_first = header.fragment_offset.value() == 0;
    let udp = if is_first { UdpHeader::from_slice(packet.get(at..)?).ok()?.0 } else { UdpHeader::default() };
    let before = [
        SocketAddr::from((header.source, udp.source_port)),
        SocketAddr::from((header.destination, udp.destination_port)),
    ];
    let after = [source.unwrap_or(before[0]), destination];
    let mut bytes = packet.to_vec();
    for (end, ip, port) in [(after[0], 12, at), (after[1], 16, at + 2)] {
        let IpAddr::V4(address) = end.ip() else {
            return None;
        };
        bytes[ip..ip + 4].copy_from_slice(&address.octets());
        if is_first {
            bytes[port..port + 2].copy_from_slice(&end.port().to_be_bytes());
        }
    }
    seal(&mut bytes);
    if is_first {
        let checksum = moved_checksum(udp.checksum, before, after);
        bytes[at + 6..at + 8].copy_from_slice(&checksum.to_be_bytes());
    }
    Some(bytes)
}

/// The IPv4 packet at the start of `bytes` and its header, if all of it is there.
fn whole_packet(bytes: &[u8]) -> Option<(Ipv4Header, Vec<u8>)> {
    let (header, _) = Ipv4Header::from_slice(bytes).ok()?;
    let packet = bytes.get(..header.total_len.into())?;
    (packet.len() >= header.header_len()).then(|| (header, packet.to_vec()))
}

/// Whether a router forwards this: a group beyond 224.0.0.0/24, neither IGMP nor PIM.
fn is_data(header: &Ipv4Header) -> bool {
    let destination = Ipv4Addr::from(header.destination);
    destination.is_multicast()
        && !(destination.octets().starts_with(&[224, 0, 0]))
        && header.protocol != IpNumber::IGMP
        && header.protocol != IpNumber::PIM
}

/// The congestion marks of a packet that comes out of a tunnel (RFC 6040 §4.2); `None` if it is dropped.
fn out_of_tunnel(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (0, 3) => None,
        (1 | 2, 3) => Some(3),
        (2, 1) => Some(1),
        (inner, _) => Some(inner),
    }
}

fn is_host(address: Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] >= 240)
}

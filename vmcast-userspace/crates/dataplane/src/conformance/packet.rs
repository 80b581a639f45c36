//! Packets and frames, built with etherparse.

use std::net::Ipv4Addr;

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, UdpHeader,
    checksum::Sum16BitWords,
};
use vmcast_common::hdr::eth::Mac;

/// An IPv4 packet before it is written.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) tos: u8,
    pub(super) identification: u16,
    pub(super) dont_fragment: bool,
    pub(super) more_fragments: bool,
    /// In units of 8 bytes.
    pub(super) fragment_offset: u16,
    pub(super) ttl: u8,
    pub(super) protocol: IpNumber,
    /// A multiple of 4 bytes.
    pub(super) options: Vec<u8>,
    pub(super) body: Vec<u8>,
}

impl Packet {
    /// A packet with a body of any protocol.
    pub(super) fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpNumber, body: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            tos: 0,
            identification: 0x4711,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 16,
            protocol,
            options: Vec::new(),
            body,
        }
    }

    /// A UDP datagram with a checksum, its payload a pattern of this length.
    pub(super) fn udp(source: Ipv4Addr, destination: Ipv4Addr, payload: usize) -> Self {
        let payload: Vec<u8> = (0..payload).map(|at| (at * 7 + 3) as u8).collect();
        let header = UdpHeader::without_ipv4_checksum(5004, 5004, payload.len())
            .and_then(|mut header| {
                header.checksum =
                    header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &payload)?;
                Ok(header)
            })
            .expect("a payload shorter than 65508 bytes");
        Self::new(source, destination, IpNumber::UDP, [&header.to_bytes()[..], &payload].concat())
    }

    /// The packet as the next router sees it.
    pub(super) fn forwarded(&self) -> Self {
        Self { ttl: self.ttl - 1, ..self.clone() }
    }

    /// Its bytes, with a right header checksum.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut header = Ipv4Header {
            identification: self.identification,
            dont_fragment: self.dont_fragment,
            more_fragments: self.more_fragments,
            fragment_offset: IpFragOffset::try_new(self.fragment_offset).expect("13 bits"),
            time_to_live: self.ttl,
            protocol: self.protocol,
            source: self.source.octets(),
            destination: self.destination.octets(),
            options: Ipv4Options::try_from(&self.options[..]).expect("at most 40 bytes in words of 4"),
            ..Ipv4Header::default()
        };
        header.set_payload_len(self.body.len()).expect("a body that fits");
        let mut bytes = header.to_bytes().to_vec();
        // DSCP and ECN share this byte; whole values are easier to follow in a case.
        bytes[1] = self.tos;
        seal(&mut bytes);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    pub(super) fn len(&self) -> usize {
        20 + self.options.len() + self.body.len()
    }
}

/// The checksum that the IPv4 header at the start of `bytes` should have. etherparse's own function
/// for headers leaves the reserved flag out.
pub(super) fn header_checksum(bytes: &[u8], header_len: usize) -> u16 {
    Sum16BitWords::new().add_slice(&bytes[..10]).add_slice(&bytes[12..header_len]).ones_complement().to_be()
}

/// Writes the right checksum into the IPv4 header at the start of `bytes`, if there is one.
pub(super) fn seal(bytes: &mut [u8]) {
    if let Ok((header, _)) = Ipv4Header::from_slice(bytes) {
        let checksum = header_checksum(bytes, header.header_len());
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// An Ethernet frame.
pub(super) fn ethernet(destination: Mac, source: Mac, ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
    let header = Ethernet2Header { source, destination, ether_type };
    [&header.to_bytes()[..], payload].concat()
}

/// The Ethernet frame of an IPv4 packet to a group (RFC 1112 §6.4).
pub(super) fn group_frame(source: Mac, packet: &Packet) -> Vec<u8> {
    let group = u32::from(packet.destination) & 0x007f_ffff;
    let [_, b, c, d] = group.to_be_bytes();
    ethernet([0x01, 0x00, 0x5e, b, c, d], source, EtherType::IPV4, &packet.bytes())
}

/// The fragments of at most `max` bytes of an IPv4 packet that may have them (RFC 791 §3.2); `None` if they would
/// lie beyond the largest packet.
pub(super) fn fragments(packet: &[u8], max: usize) -> Option<Vec<Vec<u8>>> {
    let (header, body) = packet.split_at(usize::from(packet[0] % 16) * 4);
    let start = usize::from(u16::from_be_bytes([header[6], header[7]]) % 8192) * 8;
    if start + body.len() > 65_535 {
        return None;
    }
    let later = [&header[..20], &copied_options(&header[20..])].concat();
    let mut fragments = Vec::new();
    let mut done = 0;
    while done < body.len() {
        let header = if done == 0 { header } else { &later[..] };
        let end = body.len().min(done + (max - header.len()) / 8 * 8);
        let mut fragment = [header, &body[done..end]].concat();
        fragment[0] = 0x40 + (header.len() / 4) as u8;
        let len = fragment.len() as u16;
        fragment[2..4].copy_from_slice(&len.to_be_bytes());
        let more_to_come = if end < body.len() { 0x20 } else { packet[6] & 0x20 };
        let [high, low] = (((start + done) / 8) as u16).to_be_bytes();
        fragment[6] = (packet[6] & 0xc0) | more_to_come | high;
        fragment[7] = low;
        seal(&mut fragment);
        fragments.push(fragment);
        done = end;
    }
    Some(fragments)
}

/// Those options that every fragment carries, padded to words of 4 bytes.
fn copied_options(options: &[u8]) -> Vec<u8> {
    let mut copied = Vec::new();
    let mut at = 0;
    while at < options.len() && options[at] != 0 {
        let len = if options[at] == 1 { 1 } else { options.get(at + 1).map_or(0, |len| usize::from(*len)) };
        if len == 0 || (len == 1 && options[at] != 1) || at + len > options.len() {
            break;
        }
        if options[at] >= 128 {
            copied.extend(&options[at..at + len]);
        }
        at += len;
    }
    copied.resize(copied.len().div_ceil(4) * 4, 0);
    copied
}

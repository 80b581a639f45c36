//! Frames as their RFCs draw them, made without any code of vmcast.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader};
use libtest_mimic::Failed;
use nix::sys::socket::{MsgFlags, send};
use vmcast_lab::{Namespace, traffic::packet_socket};

use crate::numbered::{Stream, payload};

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q: the tag of a VLAN.
pub(crate) const CUSTOMER_TAG: u16 = 0x8100;
/// IEEE 802.1ad: the outer tag of two.
pub(crate) const SERVICE_TAG: u16 = 0x88a8;
/// RFC 2516 §6.
const PPPOE_SESSION: u16 = 0x8864;
/// RFC 1332 §2, RFC 5072 §3.
const PPP_IPV4: u16 = 0x0021;
const PPP_IPV6: u16 = 0x0057;
/// The link-layer address of whoever sends these frames.
pub(crate) const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0x70, 1];

/// A numbered packet of a stream: IP, UDP, payload.
pub(crate) fn packet(source: IpAddr, stream: Stream, number: u64) -> Result<Vec<u8>, Failed> {
    let payload = payload(number);
    let udp = match (source, stream.group) {
        (IpAddr::V4(source), IpAddr::V4(group)) => UdpHeader::with_ipv4_checksum(
            5000,
            stream.port,
            &ipv4(source, group, IpNumber::UDP, 0)?,
            &payload,
        )?,
        (IpAddr::V6(source), IpAddr::V6(group)) => UdpHeader::with_ipv6_checksum(
            5000,
            stream.port,
            &ipv6(source, group, IpNumber::UDP, 0)?,
            &payload,
        )?,
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            return Err("a source and its group are of one family".into());
        }
    };
    ip(source, stream.group, IpNumber::UDP, &[&udp.to_bytes()[..], &payload].concat())
}

/// The same with a type of service or a traffic class (RFC 2474 §3, RFC 3168 §5).
pub(crate) fn packet_of(class: u8, source: IpAddr, stream: Stream, number: u64) -> Result<Vec<u8>, Failed> {
    let mut packet = packet(source, stream, number)?;
    if source.is_ipv6() {
        packet[0] |= class >> 4;
        packet[1] |= class << 4;
    } else {
        let (mut header, _) = Ipv4Header::from_slice(&packet)?;
        header.dscp = (class >> 2).try_into()?;
        header.ecn = (class & 0b11).try_into()?;
        header.header_checksum = header.calc_header_checksum();
        let bytes = header.to_bytes();
        packet[..bytes.len()].copy_from_slice(&bytes);
    }
    Ok(packet)
}

/// An IP packet around a payload.
pub(crate) fn ip(from: IpAddr, to: IpAddr, protocol: IpNumber, payload: &[u8]) -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, protocol, payload.len())?.write(&mut bytes)?,
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(from, to, protocol, payload.len())?.write(&mut bytes)?,
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            return Err("both ends are of one family".into());
        }
    }
    bytes.extend(payload);
    Ok(bytes)
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: IpNumber, length: usize) -> Result<Ipv4Header, Failed> {
    Ok(Ipv4Header::new(u16::try_from(length)?, HOPS, protocol, from.octets(), to.octets())?)
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, protocol: IpNumber, length: usize) -> Result<Ipv6Header, Failed> {
    Ok(Ipv6Header {
        payload_length: u16::try_from(length)?,
        next_header: protocol,
        hop_limit: HOPS,
        source: from.octets(),
        destination: to.octets(),
        ..Ipv6Header::default()
    })
}

/// Time to live of every header.
const HOPS: u8 = 16;

/// The type that GRE and Ethernet have for an IP packet.
pub(crate) fn ether_type(packet: &[u8]) -> u16 {
    if packet.first().is_some_and(|first| first >> 4 == 6) { IPV6 } else { IPV4 }
}

/// GRE around an IP packet (RFC 2784 §2.1), with a key if there is one (RFC 2890 §2).
pub(crate) fn gre(key: Option<u32>, packet: &[u8]) -> Vec<u8> {
    const KEY_PRESENT: u16 = 0x2000;
    let flags = if key.is_some() { KEY_PRESENT } else { 0 };
    let mut bytes = [flags.to_be_bytes(), ether_type(packet).to_be_bytes()].concat();
    bytes.extend(key.iter().flat_map(|key| key.to_be_bytes()));
    bytes.extend(packet);
    bytes
}

/// An Ethernet frame around an IP packet, with tags from the outermost on, type and VLAN, and then perhaps
/// the headers of a PPPoE session (RFC 2516 §4, §6; RFC 1661 §2).
pub(crate) fn ethernet(
    to: [u8; 6],
    tags: &[(u16, u16)],
    session: Option<u16>,
    packet: &[u8],
) -> Result<Vec<u8>, Failed> {
    const VERSION_TYPE_CODE: [u8; 2] = [0x11, 0];
    let mut bytes = [to, SENDER].concat();
    for (kind, vlan) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(vlan.to_be_bytes());
    }
    match session {
        None => bytes.extend(ether_type(packet).to_be_bytes()),
        Some(session) => {
            let protocol: u16 = if ether_type(packet) == IPV6 { PPP_IPV6 } else { PPP_IPV4 };
            bytes.extend(PPPOE_SESSION.to_be_bytes());
            bytes.extend(VERSION_TYPE_CODE);
            bytes.extend(session.to_be_bytes());
            bytes.extend(u16::try_from(packet.len() + 2)?.to_be_bytes());
            bytes.extend(protocol.to_be_bytes());
        }
    }
    bytes.extend(packet);
    Ok(bytes)
}

/// A link-layer address as people write it.
pub(crate) fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The link-layer address of a group (RFC 1112 §6.4, RFC 2464 §7).
pub(crate) fn group_mac(group: IpAddr) -> [u8; 6] {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let octets = group.octets();
            [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
        }
    }
}

/// Sends whole frames out of one interface.
pub(crate) struct Port {
    fd: OwnedFd,
}

impl Port {
    pub(crate) fn open(node: &Namespace, interface: &str) -> Result<Self, Failed> {
        Ok(Self { fd: node.enter(|| packet_socket(interface, Duration::from_secs(1)))?? })
    }

    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.fd.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }
}

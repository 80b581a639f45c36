//! Packets before and after, as etherparse makes them.

extern crate std;

use core::net::{IpAddr, SocketAddr};
use std::vec::Vec;

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header, UdpHeader};
use proptest::prelude::*;

use super::*;
use crate::fib::{Conversion, NextHopId, Way};

/// A datagram before it is written.
#[derive(Clone, Debug)]
struct Datagram {
    source: SocketAddr,
    destination: SocketAddr,
    /// Of IPv4, a multiple of 4 bytes.
    options: Vec<u8>,
    has_checksum: bool,
    payload: Vec<u8>,
}

impl Datagram {
    fn bytes(&self) -> Vec<u8> {
        let Self { source, destination, payload, .. } = self;
        let mut udp =
            UdpHeader::without_ipv4_checksum(source.port(), destination.port(), payload.len()).unwrap();
        let length = udp::LEN + payload.len();
        let header = match (source.ip(), destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = Ipv4Header {
                    time_to_live: 9,
                    protocol: IpNumber::UDP,
                    source: source.octets(),
                    destination: destination.octets(),
                    options: Ipv4Options::try_from(&self.options[..]).unwrap(),
                    ..Ipv4Header::default()
                };
                header.set_payload_len(length).unwrap();
                header.header_checksum = header.calc_header_checksum();
                udp.checksum = udp.calc_checksum_ipv4(&header, payload).unwrap();
                header.to_bytes().to_vec()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    traffic_class: 0xb8,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: length as u16,
                    next_header: IpNumber::UDP,
                    hop_limit: 9,
                    source: source.octets(),
                    destination: destination.octets(),
                };
                udp.checksum = udp.calc_checksum_ipv6(&header, payload).unwrap();
                header.to_bytes().to_vec()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("one version"),
        };
        if !self.has_checksum {
            udp.checksum = 0;
        }
        [&header[..], &udp.to_bytes(), payload].concat()
    }
}

fn convert<P: Parts + ?Sized>(
    packet: &mut P,
    source: Option<SocketAddr>,
    destination: SocketAddr,
) -> Option<()> {
    let way = Way::NextHop(Some(NextHopId(1)));
    let member = MemberEntry::converted(1, &Conversion { source, destination, way }).unwrap();
    let keeps_source = member.flags & MemberEntry::KEEPS_SOURCE != 0;
    change(packet, 0, destination.is_ipv6(), &member.ends, keeps_source)
}

fn end(v6: bool) -> BoxedStrategy<SocketAddr> {
    if v6 {
        any::<([u8; 16], u16)>().prop_map(SocketAddr::from).boxed()
    } else {
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from).boxed()
    }
}

fn four_ends() -> impl Strategy<Value = [SocketAddr; 4]> {
    any::<bool>().prop_flat_map(|v6| proptest::array::uniform4(end(v6)))
}

prop_compose! {
    fn datagram()(
        ends in four_ends(),
        options in proptest::collection::vec(any::<[u8; 4]>(), 0..=10),
        has_checksum in proptest::bool::weighted(0.9),
        payload in proptest::collection::vec(any::<u8>(), 0..60),
    ) -> (Datagram, SocketAddr, SocketAddr) {
        let [source, destination, new_source, new_destination] = ends;
        let options = options.concat();
        let before = Datagram { source, destination, options, has_checksum, payload };
        (before, new_source, new_destination)
    }
}

proptest! {
    #[test]
    fn a_converted_datagram_is_as_if_its_sender_had_made_it(
        (before, new_source, new_destination) in datagram(),
        keeps_source: bool,
    ) {
        let source = (!keeps_source).then_some(new_source);
        let mut packet = before.bytes();
        convert(&mut packet[..], source, new_destination).unwrap();
        let after =
            Datagram { source: source.unwrap_or(before.source), destination: new_destination, ..before };
        prop_assert_eq!(packet, after.bytes());
    }

    #[test]
    fn what_is_converted_back_is_as_it_was((before, new_source, new_destination) in datagram()) {
        struct Noting<'a>(&'a mut [u8], Ends);

        impl Parts for Noting<'_> {
            type Part<'a, const N: usize> = &'a mut [u8; N] where Self: 'a;

            fn part<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
                self.0.part(offset)
            }

            fn note_ends(&mut self, place: Place) {
                self.1.read(self.0, place).unwrap();
            }
        }

        let mut packet = before.bytes();
        let whole = packet.clone();
        let mut noting = Noting(&mut packet, Ends::NONE);
        convert(&mut noting, Some(new_source), new_destination).unwrap();
        let noted = noting.1;
        prop_assert_ne!(&packet, &whole);
        readdress(&mut packet[..], 0, &noted).unwrap();
        prop_assert_eq!(packet, whole);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong((before, new_source, new_destination) in datagram(), by in 1u16..0xffff) {
        prop_assume!(before.has_checksum);
        let mut packet = before.bytes();
        let field = packet.len() - before.payload.len() - 2;
        let right = u16::from_be_bytes([packet[field], packet[field + 1]]);
        let wrong = (u32::from(right) - 1 + u32::from(by)) % 0xffff + 1;
        packet[field..field + 2].copy_from_slice(&(wrong as u16).to_be_bytes());
        convert(&mut packet[..], Some(new_source), new_destination).unwrap();
        let after = Datagram { source: new_source, destination: new_destination, ..before }.bytes();
        prop_assert_ne!(&packet[field..field + 2], &after[field..field + 2]);
        prop_assert_eq!(&packet[..field], &after[..field]);
        prop_assert_eq!(&packet[field + 2..], &after[field + 2..]);
    }

    #[test]
    fn a_fragment_behind_the_first_gets_the_addresses_alone(
        (before, new_source, new_destination) in datagram(),
        fragment_offset in 1u16..8192,
    ) {
        prop_assume!(before.source.is_ipv4());
        let sealed = |datagram: &Datagram| {
            let bytes = datagram.bytes();
            let (mut header, body) = Ipv4Header::from_slice(&bytes).unwrap();
            header.fragment_offset = IpFragOffset::try_new(fragment_offset).unwrap();
            header.header_checksum = header.calc_header_checksum();
            (header.to_bytes().to_vec(), body.to_vec())
        };
        let (head, body) = sealed(&before);
        let mut packet = [&head[..], &body].concat();
        convert(&mut packet[..], Some(new_source), new_destination).unwrap();
        let (head, _) = sealed(&Datagram { source: new_source, destination: new_destination, ..before });
        prop_assert_eq!(packet, [head, body].concat());
    }

    #[test]
    fn no_bytes_panic_and_what_is_refused_is_left_alone(
        mut bytes: Vec<u8>,
        version in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x60), any::<u8>()],
        protocol in prop_oneof![Just(17u8), any::<u8>()],
        new in four_ends(),
    ) {
        let v6 = new[0].is_ipv6();
        for (at, value) in [(0, version), (if v6 { 6 } else { 9 }, protocol)] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let before = bytes.clone();
        if convert(&mut bytes[..], Some(new[0]), new[1]).is_none() {
            prop_assert_eq!(bytes, before);
        }
    }
}

#[test]
fn what_is_no_whole_datagram_is_refused() {
    let v4 = [[10, 0, 0, 1], [232, 1, 1, 1]].map(|ip| SocketAddr::from((ip, 5004)));
    let v6 = [1, 2].map(|last| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, last], 5004)));
    for [source, destination] in [v4, v6] {
        let is_ipv6 = source.is_ipv6();
        let datagram =
            Datagram { source, destination, options: Vec::new(), has_checksum: true, payload: Vec::new() };
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = datagram.bytes();
            change(&mut packet);
            let before = packet.clone();
            let outcome = convert(&mut packet[..], Some(source), destination);
            assert!(outcome.is_some() || packet == before, "half of it was changed");
            outcome
        };
        let refused = None;
        assert_eq!(changed(&|_| {}), Some(()));
        let protocol = if is_ipv6 { 6 } else { 9 };
        for other in [1, 6, 44, 136] {
            assert_eq!(changed(&|packet| packet[protocol] = other), refused, "protocol {other}");
        }
        let low = if is_ipv6 { 5 } else { 3 };
        assert_eq!(changed(&|packet| packet[low] -= 1), refused, "a length of 7");
        assert_eq!(changed(&|packet| packet.truncate(packet.len() - 1)), refused, "cut short");
    }
}

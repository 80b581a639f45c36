//! Counts one group's packets on a wire, native and inside AMT, whatever the programs at its ends say.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use super::{
    Counts, fingerprint,
    packet_socket::Direction,
    watch::{Frame, Watch},
};
use crate::{LabError, Namespace, clock::Clock};

/// How a packet of a group travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carriage {
    /// As IP multicast.
    Native,
    /// As AMT data (RFC 7450 §5.1.6).
    Amt,
}

const ETHERNET: usize = 14;
const AMT_PORT: u16 = 2268;
const AMT_DATA: u8 = 6;
const AMT_DATA_HEADER: usize = 2;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// The header of an IP packet of either version, as far as a witness looks: no IPv6 extension headers.
struct Ip<'a> {
    /// The whole packet's length, as the header says.
    length: usize,
    protocol: u8,
    destination: IpAddr,
    payload: &'a [u8],
}

impl<'a> Ip<'a> {
    fn parse(packet: &'a [u8]) -> Option<Self> {
        let number =
            |at: usize| Some(usize::from(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?])));
        match packet.first()? >> 4 {
            4 => Some(Self {
                length: number(2)?,
                protocol: *packet.get(9)?,
                destination: Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?).into(),
                payload: packet.get(usize::from(packet[0] & 0x0f) * 4..)?,
            }),
            6 => Some(Self {
                length: number(4)? + 40,
                protocol: *packet.get(6)?,
                destination: Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?).into(),
                payload: packet.get(40..)?,
            }),
            _ => None,
        }
    }

    /// The packet inside, if this is AMT data.
    fn amt_data(&self) -> Option<&'a [u8]> {
        let ports = [self.payload.get(..2)?, self.payload.get(2..4)?];
        let amt = self.payload.get(UDP_HEADER..)?;
        let is_amt = self.protocol == UDP && ports.contains(&&AMT_PORT.to_be_bytes()[..]);
        (is_amt && amt.first()? & 0x0f == AMT_DATA).then(|| amt.get(AMT_DATA_HEADER..)).flatten()
    }
}

/// The IP packet of a frame.
fn ip(frame: &[u8]) -> Option<Ip<'_>> {
    matches!(frame.get(12..ETHERNET)?, [0x08, 0x00] | [0x86, 0xdd])
        .then(|| Ip::parse(&frame[ETHERNET..]))
        .flatten()
}

/// How a frame carries the group, if it does, and its length at layer 3.
#[must_use]
pub fn classify(frame: &[u8], group: impl Into<IpAddr>) -> Option<(Carriage, usize)> {
    let (outer, group) = (ip(frame)?, group.into());
    if outer.destination == group {
        return Some((Carriage::Native, outer.length));
    }
    let inner = Ip::parse(outer.amt_data()?)?;
    (inner.destination == group).then_some((Carriage::Amt, outer.length))
}

/// The stream's payload in a frame that carries it so: of the inner packet, if it is in AMT.
#[must_use]
pub(super) fn stream_payload(frame: &[u8], carriage: Carriage, port: u16) -> Option<&[u8]> {
    match carriage {
        Carriage::Native => udp_payload(frame.get(ETHERNET..)?, port),
        Carriage::Amt => udp_payload(ip(frame)?.amt_data()?, port),
    }
}

/// The payload of an IP packet that carries UDP to the port.
fn udp_payload(packet: &[u8], port: u16) -> Option<&[u8]> {
    let ip = Ip::parse(packet)?;
    let udp = ip.payload;
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    let is_ours = ip.protocol == UDP && udp.get(2..4)? == port.to_be_bytes();
    is_ours.then(|| udp.get(UDP_HEADER..length)).flatten()
}

/// A packet of the stream that passed a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// When.
    pub at: Duration,
    /// How it travelled.
    pub carriage: Carriage,
    /// Whether it left the node, or else came in.
    pub outgoing: bool,
    /// Its destination at the outside: the group, or the far end of the tunnel.
    pub to: IpAddr,
    /// Identity of its payload.
    pub fingerprint: u64,
}

#[derive(Debug, Default)]
struct Seen {
    /// What passed since it was last taken, if it is kept.
    passed: Option<Vec<Passed>>,
    native: [Counts; 2],
    amt: [Counts; 2],
    forbidden: bool,
    stray: Counts,
    last_stray: Option<Duration>,
}

/// Watches one interface until it is dropped.
#[derive(Debug)]
pub struct Witness {
    watch: Watch<Seen>,
}

impl Witness {
    /// Begins to watch an interface for a group.
    ///
    /// # Errors
    /// If the interface does not exist or packet sockets are refused.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        stream: impl Into<SocketAddr>,
        clock: Clock,
    ) -> Result<Self, LabError> {
        let stream = stream.into();
        let note = move |seen: &mut Seen, frame: Frame<'_>| note(seen, frame, stream);
        Ok(Self { watch: Watch::start(namespace, interface, clock, note)? })
    }

    /// From now on the group may, or must not, come in here; what comes in although it must not is stray.
    pub fn forbid(&self, forbidden: bool) {
        self.watch.state().forbidden = forbidden;
    }

    /// From now on keeps what passes until it is taken.
    pub fn keep(&self) {
        self.watch.state().passed.get_or_insert_default();
    }

    /// What passed since the last time; nothing without [`Self::keep`].
    #[must_use]
    pub fn take(&self) -> Vec<Passed> {
        self.watch.state().passed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Packets of the group that came in.
    #[must_use]
    pub fn incoming(&self, carriage: Carriage) -> Counts {
        self.counts(carriage, Direction::In)
    }

    /// Packets of the group that went out.
    #[must_use]
    pub fn outgoing(&self, carriage: Carriage) -> Counts {
        self.counts(carriage, Direction::Out)
    }

    /// Packets of the group, in any carriage, that came in while it was forbidden.
    #[must_use]
    pub fn stray(&self) -> Counts {
        self.watch.state().stray
    }

    /// When the last of them came in.
    #[must_use]
    pub fn last_stray(&self) -> Option<Duration> {
        self.watch.state().last_stray
    }

    fn counts(&self, carriage: Carriage, direction: Direction) -> Counts {
        let seen = self.watch.state();
        match carriage {
            Carriage::Native => seen.native[direction as usize],
            Carriage::Amt => seen.amt[direction as usize],
        }
    }
}

fn note(seen: &mut Seen, frame: Frame<'_>, stream: SocketAddr) {
    let Frame { at, direction, bytes: frame } = frame;
    let Some((carriage, bytes)) = classify(frame, stream.ip()) else { return };
    match carriage {
        Carriage::Native => seen.native[direction as usize].add(bytes),
        Carriage::Amt => seen.amt[direction as usize].add(bytes),
    }
    if direction == Direction::In && seen.forbidden {
        seen.stray.add(bytes);
        seen.last_stray = Some(at);
    }
    if let Some(passed) = &mut seen.passed
        && let Some(payload) = stream_payload(frame, carriage, stream.port())
        && let Some(to) = ip(frame).map(|ip| ip.destination)
    {
        passed.push(Passed {
            at,
            carriage,
            outgoing: direction == Direction::Out,
            to,
            fingerprint: fingerprint(payload),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 0, 1);

    fn ip(destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + payload.len()).unwrap();
        let mut packet = vec![0x45, 0];
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, protocol, 0, 0, 10, 1, 0, 2]);
        packet.extend(destination.octets());
        packet.extend(payload);
        packet
    }

    fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0; 4], payload].concat()
    }

    fn frame(packet: &[u8]) -> Vec<u8> {
        [&[0; 12], &[0x08, 0x00][..], packet].concat()
    }

    #[test]
    fn a_native_packet_of_the_group_is_seen() {
        let packet = frame(&ip(GROUP, UDP, &udp(9, 5004, b"x")));
        assert_eq!(classify(&packet, GROUP), Some((Carriage::Native, 29)));
        assert_eq!(classify(&packet, Ipv4Addr::new(239, 192, 0, 2)), None);
    }

    #[test]
    fn amt_data_is_known_by_port_type_and_inner_group() {
        let inner = ip(GROUP, UDP, &udp(9, 5004, b"x"));
        let data = [&[AMT_DATA, 0][..], &inner].concat();
        let host = Ipv4Addr::new(10, 5, 0, 11);
        assert_eq!(
            classify(&frame(&ip(host, UDP, &udp(AMT_PORT, 40000, &data))), GROUP),
            Some((Carriage::Amt, 59))
        );
        assert_eq!(classify(&frame(&ip(host, UDP, &udp(53, 40000, &data))), GROUP), None);
        let query = [&[4, 0][..], &inner].concat();
        assert_eq!(classify(&frame(&ip(host, UDP, &udp(AMT_PORT, 40000, &query))), GROUP), None);
    }

    fn ip6(destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        packet.extend([UDP, 64]);
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend(destination.octets());
        packet.extend(payload);
        packet
    }

    #[test]
    fn either_version_is_seen_inside_either() {
        let group6: Ipv6Addr = "ff3e::1234".parse().unwrap();
        let mut datagram = udp(9, 5004, b"payload");
        datagram[4..6].copy_from_slice(&15_u16.to_be_bytes());
        let inner6 = ip6(group6, &datagram);
        let frame6 = |packet: &[u8]| [&[0; 12], &[0x86, 0xdd][..], packet].concat();
        let native = frame6(&inner6);
        assert_eq!(classify(&native, group6), Some((Carriage::Native, 55)));
        assert_eq!(stream_payload(&native, Carriage::Native, 5004), Some(&b"payload"[..]));
        let host6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let data = |inner: &[u8]| udp(AMT_PORT, 40000, &[&[AMT_DATA, 0][..], inner].concat());
        for tunnelled in [
            frame6(&ip6(host6, &data(&inner6))),
            frame(&ip(Ipv4Addr::new(10, 5, 0, 11), UDP, &data(&inner6))),
        ] {
            assert_eq!(classify(&tunnelled, group6).map(|(carriage, _)| carriage), Some(Carriage::Amt));
            assert_eq!(classify(&tunnelled, GROUP), None);
            assert_eq!(stream_payload(&tunnelled, Carriage::Amt, 5004), Some(&b"payload"[..]));
        }
        let four_in_six = frame6(&ip6(host6, &data(&ip(GROUP, UDP, &datagram))));
        assert_eq!(classify(&four_in_six, GROUP), Some((Carriage::Amt, 85)));
        for length in 0..four_in_six.len() {
            assert_eq!(stream_payload(&four_in_six[..length], Carriage::Amt, 5004), None, "{length}");
        }
    }

    #[test]
    fn frames_cut_anywhere_are_no_packets_of_the_group_and_no_panic() {
        let inner = ip(GROUP, UDP, &udp(9, 5004, b""));
        let data = [&[AMT_DATA, 0][..], &inner].concat();
        let whole = frame(&ip(Ipv4Addr::new(10, 5, 0, 11), UDP, &udp(AMT_PORT, 40000, &data)));
        for length in 0..ETHERNET + 20 + 8 + 22 {
            assert_eq!(classify(&whole[..length], GROUP), None, "{length}");
        }
    }

    #[test]
    fn the_payload_is_the_same_as_multicast_and_in_a_tunnel() {
        let mut datagram = udp(9, 5004, b"payload");
        datagram[4..6].copy_from_slice(&15_u16.to_be_bytes());
        let inner = ip(GROUP, UDP, &datagram);
        let data = [&[AMT_DATA, 0][..], &inner].concat();
        let tunnelled = frame(&ip(Ipv4Addr::new(10, 5, 0, 11), UDP, &udp(AMT_PORT, 40000, &data)));
        let native = frame(&inner);
        assert_eq!(stream_payload(&native, Carriage::Native, 5004), Some(&b"payload"[..]));
        assert_eq!(stream_payload(&tunnelled, Carriage::Amt, 5004), Some(&b"payload"[..]));
        assert_eq!(stream_payload(&tunnelled, Carriage::Amt, 5005), None);
        for length in 0..tunnelled.len() {
            assert_eq!(stream_payload(&tunnelled[..length], Carriage::Amt, 5004), None, "{length}");
        }
        assert_eq!(super::ip(&tunnelled).unwrap().destination, Ipv4Addr::new(10, 5, 0, 11));
    }

    #[test]
    fn the_payload_ends_where_udp_says_so_that_padding_is_no_part_of_it() {
        let mut packet = vec![0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 239, 192, 0, 1];
        packet.extend([0x30, 0x39, 0x13, 0x8c, 0, 11, 0, 0]);
        packet.extend(b"abc\0\0\0\0");
        assert_eq!(udp_payload(&packet, 5004), Some(&b"abc"[..]));
        assert_eq!(udp_payload(&packet, 5005), None);
        assert_eq!(udp_payload(&packet[..30], 5004), None);
        assert_eq!(udp_payload(&[], 5004), None);
    }
}

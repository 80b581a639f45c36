//! Counts one group's packets on a wire, native and inside AMT, whatever the programs at its ends say.

use std::{net::Ipv4Addr, sync::Mutex, time::Duration};

use super::{
    Counts, GroupPort, fingerprint,
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

/// How a frame carries the group, if it does, and its length at layer 3.
#[must_use]
pub fn classify(frame: &[u8], group: Ipv4Addr) -> Option<(Carriage, usize)> {
    if frame.get(12..ETHERNET)? != [0x08, 0x00] {
        return None;
    }
    let ip = &frame[ETHERNET..];
    let length = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    if ip.get(16..20)? == group.octets() {
        return Some((Carriage::Native, length));
    }
    if ip[9] != UDP {
        return None;
    }
    let udp = ip.get(usize::from(ip[0] & 0x0f) * 4..)?;
    let ports =
        [u16::from_be_bytes([*udp.first()?, *udp.get(1)?]), u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?])];
    let amt = udp.get(8..)?;
    let is_data = ports.contains(&AMT_PORT) && amt.first()? & 0x0f == AMT_DATA;
    // Two bytes of AMT, then the inner packet, whose destination is at 16.
    (is_data && amt.get(18..22)? == group.octets()).then_some((Carriage::Amt, length))
}

/// The stream's payload in a frame that carries it so: of the inner packet, if it is in AMT.
#[must_use]
pub(super) fn stream_payload(frame: &[u8], carriage: Carriage, port: u16) -> Option<&[u8]> {
    let packet = frame.get(ETHERNET..)?;
    match carriage {
        Carriage::Native => udp_payload(packet, port),
        Carriage::Amt => {
            let outer = usize::from(packet.first()? & 0x0f) * 4;
            udp_payload(packet.get(outer + UDP_HEADER + AMT_DATA_HEADER..)?, port)
        }
    }
}

/// The payload of an IPv4 packet that carries UDP to the port.
fn udp_payload(packet: &[u8], port: u16) -> Option<&[u8]> {
    let udp = packet.get(usize::from(packet.first()? & 0x0f) * 4..)?;
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    let is_ours = packet.get(9) == Some(&17) && udp.get(2..4)? == port.to_be_bytes();
    is_ours.then(|| udp.get(8..length)).flatten()
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
    pub to: Ipv4Addr,
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
        stream: GroupPort,
        clock: Clock,
    ) -> Result<Self, LabError> {
        let note = move |seen: &Mutex<Seen>, frame: Frame<'_>| note(seen, frame, stream);
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

fn note(seen: &Mutex<Seen>, frame: Frame<'_>, stream: GroupPort) {
    let Frame { at, direction, bytes: frame } = frame;
    let Some((carriage, bytes)) = classify(frame, stream.group) else { return };
    let mut seen = seen.lock().expect("only this thread could have panicked");
    match carriage {
        Carriage::Native => seen.native[direction as usize].add(bytes),
        Carriage::Amt => seen.amt[direction as usize].add(bytes),
    }
    if direction == Direction::In && seen.forbidden {
        seen.stray.add(bytes);
        seen.last_stray = Some(at);
    }
    if let Some(passed) = &mut seen.passed
        && let Some(payload) = stream_payload(frame, carriage, stream.port)
    {
        passed.push(Passed {
            at,
            carriage,
            outgoing: direction == Direction::Out,
            to: destination(frame),
            fingerprint: fingerprint(payload),
        });
    }
}

/// The destination of a frame that [`classify`] took.
fn destination(frame: &[u8]) -> Ipv4Addr {
    let octets = frame[ETHERNET + 16..].first_chunk::<4>().expect("the whole IP header was looked at");
    Ipv4Addr::from(*octets)
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
        assert_eq!(destination(&tunnelled), Ipv4Addr::new(10, 5, 0, 11));
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

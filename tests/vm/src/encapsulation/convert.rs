//! Streams leave with other addresses and ports, to sockets of another kernel.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
};

use vmcast_common::fib::{self, Conversion, ConversionId, FibOp, IfIndex, Input, Members, Output, Rpf, Way};
use vmcast_dataplane::kernel::Rule;

use super::{
    PORT, RULES, SENT,
    leave::Stand,
    member::{self, Member},
    router::{self, Router},
    shape::{self, FIELDS, Shapes},
};
use crate::{
    bed::{self, Bed, Outcome, ensure},
    capture::Capture,
    devices::{self, Device, Link},
    frame::{self, Port, text},
    guest::GuestListeners,
    numbered::{PACE, Stream},
    vm::MAC,
    wire::BRIDGE,
};

/// Packets of each stream and direction.
const PACKETS: u64 = 40;
/// What the source sends from.
const SOURCE_PORT: u16 = 5000;
/// What converted packets come from in one direction.
const OTHER_SOURCE_PORT: u16 = 5001;
/// What a capture has of a copy besides its shape.
const ENDS: [&str; 6] = ["ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "udp.srcport", "udp.dstport"];

/// From what to what (C2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    UnicastToMulticast,
    MulticastToMulticast,
    MulticastToUnicast,
    UnicastToUnicast,
}

impl Direction {
    const ALL: [Self; 4] = [
        Self::UnicastToMulticast,
        Self::MulticastToMulticast,
        Self::MulticastToUnicast,
        Self::UnicastToUnicast,
    ];

    /// Whether the source sends to an address of ours.
    const fn is_of_unicast(self) -> bool {
        matches!(self, Self::UnicastToMulticast | Self::UnicastToUnicast)
    }

    /// Where copies by a link go.
    fn destination(self, link: Link, v6: bool) -> SocketAddr {
        let port = PORT + 1 + self as u16;
        match self {
            Self::UnicastToMulticast => (group(v6, 5), PORT).into(),
            Self::MulticastToMulticast => (group(v6, 6), port).into(),
            Self::MulticastToUnicast | Self::UnicastToUnicast => (link.ends(v6).1, port).into(),
        }
    }

    /// Where they come from.
    fn source(self, v6: bool) -> SocketAddr {
        match self {
            Self::MulticastToMulticast => (endpoint(v6).ip(), OTHER_SOURCE_PORT).into(),
            Self::UnicastToMulticast | Self::MulticastToUnicast | Self::UnicastToUnicast => {
                (SENT[usize::from(v6)].source, SOURCE_PORT).into()
            }
        }
    }

    /// What makes it, and the member that it is.
    fn output(self, link: Link, v6: bool, wire: IfIndex) -> (Option<FibOp>, Output) {
        let interface = member::interface(link, wire);
        let (source, way) = match self {
            Self::UnicastToMulticast => return (None, Output::Interface(interface)),
            Self::MulticastToMulticast => (Some(self.source(v6)), Way::Interface(interface)),
            Self::MulticastToUnicast | Self::UnicastToUnicast => {
                (None, Way::NextHop(Some(member::next_hop(link))))
            }
        };
        let id = ConversionId(1 + self as u32 * 100 + u32::from(v6) * 50 + u32::from(link.number()));
        let conversion = Conversion { source, destination: self.destination(link, v6), way };
        (Some(FibOp::SetConversion(id, conversion)), Output::Converted(id))
    }

    /// The fields that tshark has of a copy.
    fn shape(self, link: Link, v6: bool) -> Vec<String> {
        let destination = self.destination(link, v6);
        let stream = Stream { group: destination.ip(), port: destination.port() };
        let member = if destination.ip().is_multicast() {
            Member::Device(Device { link, tunnel: None })
        } else {
            Member::Neighbour(link)
        };
        let source = self.source(v6);
        let ends = [source.ip().to_string(), destination.ip().to_string()];
        let none = [String::new(), String::new()];
        let [four, six] = if v6 { [none, ends] } else { [ends, none] };
        let ports = [source.port().to_string(), destination.port().to_string()];
        [shape::of(member, stream, MAC), four.into(), six.into(), ports.into()].concat()
    }
}

/// A group of ours besides [`SENT`].
fn group(v6: bool, last: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, last.into()).into()
    } else {
        Ipv4Addr::new(232, 192, 7, last).into()
    }
}

/// The address and port of ours that streams come in by.
fn endpoint(v6: bool) -> SocketAddr {
    let address: IpAddr = if v6 {
        Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(10, 1, 0, 1).into()
    };
    (address, 6000).into()
}

/// A socket in the machine: who sends to it, by which link, and whether anybody does.
struct Place {
    link: Link,
    stream: Stream,
    from: Option<IpAddr>,
}

/// A socket for every direction on every link, and one for each group before it is converted.
fn places(links: &[Link]) -> Vec<Place> {
    let of = |link: Link, v6: bool| {
        let converted = Direction::ALL.map(|direction| {
            let destination = direction.destination(link, v6);
            let stream = Stream { group: destination.ip(), port: destination.port() };
            Place { link, stream, from: Some(direction.source(v6).ip()) }
        });
        let before = Place { link, stream: SENT[usize::from(v6)].stream, from: None };
        converted.into_iter().chain([before])
    };
    links.iter().flat_map(|&link| [false, true].into_iter().flat_map(move |v6| of(link, v6))).collect()
}

// proves C2 against another kernel's sockets, which refuse what has a wrong checksum, on every kind of link
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let stand = Stand::build(bed)?;
    bed::in_turn(RULES, |rule| convert(bed, &stand, rule))
}

fn convert(bed: &Bed, stand: &Stand, rule: Rule) -> Outcome {
    let mut router = Router::start(&stand.vmr, rule)?;
    let input = Input::Interface(router.add("src0")?);
    let ours = router::mac(&stand.vmr, "src0")?;
    let links: Vec<Link> = devices::of(&bed.kernel)
        .iter()
        .filter(|device| device.tunnel.is_none())
        .map(|device| device.link)
        .collect();
    for v6 in [false, true] {
        router.apply(operations(&links, v6, input, router.wire.0))?;
    }
    let port = Port::open(&stand.source, "eth0")?;
    let capture = Capture::of_all(bed, &stand.wire.node, BRIDGE)?;
    let places = places(&links);
    let memberships = places.iter().map(|place| (place.link.name(), place.stream, None));
    let ears = GuestListeners::join(bed, &stand.vm, memberships)?;

    for number in 0..PACKETS {
        for sent in SENT {
            let v6 = sent.source.is_ipv6();
            let packet = frame::packet(sent.source, sent.stream, number)?;
            port.send(&frame::ethernet(frame::group_mac(sent.stream.group), &[], None, &packet)?)?;
            let to_us = Stream { group: endpoint(v6).ip(), port: endpoint(v6).port() };
            let packet = frame::packet(sent.source, to_us, number)?;
            port.send(&frame::ethernet(ours, &[], None, &packet)?)?;
            // The machine is slow, and the tap drops what it does not take.
            thread::sleep(PACE * u32::try_from(links.len())?);
        }
    }
    // A stream is counted once, however many copies it has.
    router.until_forwarded(bed, 2 * PACKETS * SENT.len() as u64)?;
    hear(bed, ears, &places)?;
    let drops = router.drops()?;
    ensure!(drops.is_empty(), "dropped were {drops}");
    judge(bed, capture, &links, &text(router.wire.1))?;
    router.end()
}

/// The streams of a family and their members on every link.
fn operations(links: &[Link], v6: bool, input: Input, wire: IfIndex) -> Vec<FibOp> {
    let sent = SENT[usize::from(v6)];
    let stream = |direction: Direction| {
        let group = if direction.is_of_unicast() { group(v6, 5) } else { sent.stream.group };
        fib::Stream { source: Some(sent.source), group }
    };
    let set = |direction| FibOp::SetStream(stream(direction), Rpf::Exact(input), Members::Own);
    let mut ops = vec![
        FibOp::SetUnicastInput { endpoint: endpoint(v6), group: (group(v6, 5), PORT).into() },
        set(Direction::UnicastToMulticast),
        set(Direction::MulticastToMulticast),
    ];
    for direction in Direction::ALL {
        for &link in links {
            let (conversion, output) = direction.output(link, v6, wire);
            ops.extend(conversion);
            ops.push(FibOp::AddMember(stream(direction), output));
        }
    }
    ops
}

/// Fails unless each socket has got what is for it, in order, once, and nothing else.
fn hear(bed: &Bed, ears: GuestListeners, places: &[Place]) -> Outcome {
    let wanted = |place: &Place| if place.from.is_some() { PACKETS } else { 0 };
    // What has not come by then is said below.
    ears.until_all(bed, |at| wanted(&places[at]))?;
    let heard = ears.leave(bed)?;
    let nobody = IpAddr::from([0, 0, 0, 0]);
    let complaints: Vec<String> = places
        .iter()
        .zip(heard)
        .filter_map(|(place, heard)| {
            let numbers: Vec<u64> = (0..wanted(place)).collect();
            let difference = heard.difference(place.from.unwrap_or(nobody), &numbers)?;
            Some(format!("{:?}, {}: {difference}", place.link, place.stream.address()))
        })
        .collect();
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(())
}

/// Fails unless the wire had these copies and no others, and tshark complains of none of their checksums.
fn judge(bed: &Bed, capture: Capture, links: &[Link], ours: &str) -> Outcome {
    let mut expected = Shapes::new();
    for direction in Direction::ALL {
        for &link in links {
            for v6 in [false, true] {
                *expected.entry(direction.shape(link, v6)).or_default() += PACKETS;
            }
        }
    }
    let filter = format!("eth.src == {ours} && udp.dstport >= {PORT}");
    let seen = capture.tally(bed, &filter, &[&FIELDS[..], &ENDS].concat(), expected.values().sum())?;
    let difference = shape::difference(&seen, &expected);
    ensure!(difference.is_empty(), "{}", difference.join("\n"));
    Ok(())
}

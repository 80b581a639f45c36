//! The plane over real devices, in a network namespace of the test's own. Needs root.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::{
    poll::{PollFd, PollFlags, poll},
    sched::{CloneFlags, unshare},
    sys::socket::{setsockopt, sockopt::UdpGsoSegment},
    unistd::geteuid,
};
use socket2::{Domain, Socket, Type};
use vmcast_common::fib::{
    EcnMode, EngineWish, FibOp, IfIndex, Interface, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel,
    TunnelId, TunnelKind,
};

use crate::{
    Dataplane as _, Engine,
    software::{
        Limits, Plane,
        socket::{Batch, Receiver, Sender},
    },
};

const GROUP: Ipv4Addr = Ipv4Addr::new(232, 1, 1, 1);
const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const STREAM: Stream =
    Stream { source: Some(std::net::IpAddr::V4(SOURCE)), group: std::net::IpAddr::V4(GROUP) };
/// How long a frame that should come may take, and one that should not is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_millis(200);

/// The far ends of the plane's devices, with the plane in between.
struct Wires {
    plane: Plane,
    source: IfIndex,
    egress: IfIndex,
    member_side: Receiver,
    other_side: Receiver,
}

/// Runs a test in a fresh network namespace, on a thread that ends with it.
fn in_namespace(test: fn(&mut Wires)) {
    if !geteuid().is_root() {
        eprintln!("SKIPPED: needs root to make a network namespace");
        return;
    }
    let outcome = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test(&mut wires());
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Waits until a device has taken up its queue. The system does that some time after both ends of its cable are up, and
/// until then drops without a word what is sent by it.
fn wait_active(name: &str) {
    let shown = || Command::new("ip").args(["link", "show", "dev", name]).output().unwrap().stdout;
    for _ in 0..1_000 {
        if !String::from_utf8_lossy(&shown()).contains("qdisc noop ") {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{name} does not become active: {}", String::from_utf8_lossy(&shown()));
}

fn index(name: &str) -> IfIndex {
    IfIndex(nix::net::if_::if_nametoindex(name).unwrap())
}

fn wires() -> Wires {
    for (ours, theirs) in [("a", "source"), ("b", "member"), ("c", "other")] {
        ip(&format!("link add name {ours} type veth peer name {theirs}"));
        ip(&format!("link set dev {ours} up"));
        ip(&format!("link set dev {theirs} up"));
    }
    // Receivers leave frames for other hosts alone.
    ip("link set dev member address 02:00:00:00:00:09");
    ip(&format!("address add {SOURCE}/24 dev source"));
    for name in ["source", "a", "b", "member", "c", "other"] {
        wait_active(name);
    }
    let mut plane = Plane::new(Limits::default(), "a test".to_owned()).unwrap();
    let interface = |name, mac, accepts_sources| {
        FibOp::SetInterface(Interface {
            ifindex: index(name),
            device: index(name),
            link: vmcast_common::fib::Link::PLAIN,
            peer: None,
            mac,
            mtu: 1500,
            accepts_sources,
            shared: false,
            engine: EngineWish::Any,
            xdp_members: None,
        })
    };
    let hop = NextHop {
        link: vmcast_common::fib::Link::PLAIN,
        ifindex: index("b"),
        source_mac: [2, 0, 0, 0, 0, 2],
        destination_mac: Some([2, 0, 0, 0, 0, 9]),
        mtu: 1500,
    };
    let tunnel = Tunnel {
        kind: TunnelKind::Amt,
        local: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 2268)),
        remote: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 2), 2268)),
        ecn: EcnMode::Compatibility,
        accepts_sources: false,
        next_hop: Some(NextHopId(1)),
    };
    plane
        .apply(&[
            interface("a", [2, 0, 0, 0, 0, 1], true),
            interface("b", [2, 0, 0, 0, 0, 2], false),
            interface("c", [2, 0, 0, 0, 0, 3], false),
            FibOp::SetNextHop(NextHopId(1), hop),
            FibOp::SetTunnel(TunnelId(1), tunnel),
            FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
            FibOp::AddMember(STREAM, Output::Tunnel(TunnelId(1))),
        ])
        .unwrap();
    Wires {
        plane,
        source: index("source"),
        egress: index("b"),
        member_side: Receiver::open(index("member")).unwrap(),
        other_side: Receiver::open(index("other")).unwrap(),
    }
}

/// The IPv4 multicast payloads in AMT data that come out of a device, as many as are wanted.
fn inner_packets(receiver: &Receiver, wanted: usize, wait: Duration) -> Vec<Vec<u8>> {
    let mut inner = Vec::new();
    let mut batch = Batch::new();
    while inner.len() < wanted {
        let mut sources = [PollFd::new(std::os::fd::AsFd::as_fd(receiver), PollFlags::POLLIN)];
        if poll(&mut sources, u16::try_from(wait.as_millis()).unwrap()).unwrap() == 0 {
            break;
        }
        if receiver.receive(&mut batch).is_ok() {
            let data = batch.frames().filter(|(_, frame)| frame.get(42) == Some(&6) && frame[23] == 17);
            inner.extend(data.map(|(_, frame)| frame[44..].to_vec()));
        }
    }
    inner
}

fn udp_payload(packet: &[u8]) -> Vec<u8> {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("not UDP") };
    assert_eq!(udp.checksum(), udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap());
    udp.payload().to_vec()
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 7], [1, 0, 0x5e, 1, 1, 1])
        .ipv4(SOURCE.octets(), GROUP.octets(), 16)
        .udp(5004, 5004)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn application() -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_multicast_if_v4(&SOURCE).unwrap();
    socket.set_multicast_ttl_v4(16).unwrap();
    socket.bind(&SocketAddr::from((SOURCE, 5004)).into()).unwrap();
    socket
}

#[test]
fn frames_cross_the_plane_in_order_and_reach_nobody_else() {
    in_namespace(|wires| {
        let mut sender = Sender::open(wires.source).unwrap();
        let frames: Vec<_> = (0..50u8).map(|number| frame(&[number; 100])).collect();
        let slices: Vec<_> =
            frames.iter().map(|frame| [&frame[..], &[]].map(std::io::IoSlice::new)).collect();
        assert_eq!(sender.send(&slices, 0), 0);
        let arrived = inner_packets(&wires.member_side, 50, PATIENCE);
        let numbers: Vec<_> = arrived.iter().map(|packet| udp_payload(packet)[0]).collect();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
        assert!(inner_packets(&wires.other_side, 1, SILENCE).is_empty());
        assert_eq!(wires.plane.counters().unwrap().streams[0].counters.packets, 50);
        assert_eq!(wires.plane.engine().engine, Engine::Software);
    });
}

#[test]
fn a_local_application_whose_checksum_is_left_to_the_device_is_heard_with_a_right_one() {
    in_namespace(|wires| {
        let to = SocketAddr::from((GROUP, 5004)).into();
        application().send_to(&[7; 333], &to).unwrap();
        let arrived = inner_packets(&wires.member_side, 1, PATIENCE);
        assert_eq!(udp_payload(&arrived[0]), [7; 333]);
        assert!(inner_packets(&wires.other_side, 1, SILENCE).is_empty());
    });
}

#[test]
fn a_super_packet_reaches_the_member_as_the_datagrams_it_was_made_of() {
    in_namespace(|wires| {
        let socket = application();
        setsockopt(&socket, UdpGsoSegment, &500).unwrap();
        let to = SocketAddr::from((GROUP, 5004)).into();
        socket.send_to(&[9; 1700], &to).unwrap();
        let arrived = inner_packets(&wires.member_side, 4, PATIENCE);
        let lengths: Vec<_> = arrived.iter().map(|packet| udp_payload(packet).len()).collect();
        assert_eq!(lengths, [500, 500, 500, 200]);
    });
}

#[test]
fn a_member_that_left_gets_nothing_more_and_an_interface_that_is_removed_is_not_tapped() {
    in_namespace(|wires| {
        let mut sender = Sender::open(wires.source).unwrap();
        let frame = frame(b"payload");
        let slice = [[std::io::IoSlice::new(&frame), std::io::IoSlice::new(&[])]];
        wires.plane.apply(&[FibOp::RemoveMember(STREAM, Output::Tunnel(TunnelId(1)))]).unwrap();
        sender.send(&slice, 0);
        assert!(inner_packets(&wires.member_side, 1, SILENCE).is_empty());
        wires.plane.apply(&[FibOp::AddMember(STREAM, Output::Tunnel(TunnelId(1)))]).unwrap();
        sender.send(&slice, 0);
        assert_eq!(inner_packets(&wires.member_side, 1, PATIENCE).len(), 1);
        wires.plane.apply(&[FibOp::RemoveInterface(index("a"))]).unwrap();
        sender.send(&slice, 0);
        assert!(inner_packets(&wires.member_side, 1, SILENCE).is_empty());
    });
}

#[test]
fn copies_for_a_device_that_is_gone_are_counted_and_the_plane_goes_on() {
    in_namespace(|wires| {
        let mut sender = Sender::open(wires.source).unwrap();
        let frame = frame(b"payload");
        let slice = [[std::io::IoSlice::new(&frame), std::io::IoSlice::new(&[])]];
        sender.send(&slice, 0);
        assert_eq!(inner_packets(&wires.member_side, 1, PATIENCE).len(), 1);
        assert_eq!(index("b"), wires.egress);
        ip("link set dev b down");
        sender.send(&slice, 0);
        let refused =
            || wires.plane.counters().unwrap().drops[&vmcast_common::verdict::DropReason::DeviceRefused];
        for _ in 0..100 {
            if refused() > 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(refused(), 1);
        ip("link set dev b up");
        sender.send(&slice, 0);
        assert_eq!(inner_packets(&wires.member_side, 1, PATIENCE).len(), 1);
    });
}

#[test]
fn an_interface_that_does_not_exist_is_refused() {
    in_namespace(|wires| {
        let nowhere = Interface {
            ifindex: IfIndex(4_000),
            device: IfIndex(4_000),
            link: vmcast_common::fib::Link::PLAIN,
            peer: None,
            mac: [2; 6],
            mtu: 1500,
            accepts_sources: true,
            shared: false,
            engine: EngineWish::Any,
            xdp_members: None,
        };
        let error = wires.plane.apply(&[FibOp::SetInterface(nowhere)]).unwrap_err();
        assert!(matches!(error, crate::ApplyError::Kernel { .. }), "{error}");
        assert!(!wires.plane.dump().unwrap().interfaces.contains_key(&IfIndex(4_000)));
    });
}

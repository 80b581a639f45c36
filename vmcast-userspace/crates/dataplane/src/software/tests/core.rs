//! What only the software plane promises: limits, and its view of interfaces and counters.

use std::net::{Ipv4Addr, SocketAddr};

use etherparse::PacketBuilder;
use vmcast_common::{
    fib::{
        EcnMode, EngineWish, FibOp, IfIndex, Interface, Members, NextHop, NextHopId, Output, Rpf, Stream,
        Tunnel, TunnelId, TunnelKind,
    },
    maps::PUNT_INTERVAL_NS,
    verdict::DropReason,
};

use crate::{
    ApplyError,
    software::{Core, Disposition, Limits},
};

const GROUP: Ipv4Addr = Ipv4Addr::new(232, 1, 1, 1);
const STREAM: Stream = Stream { source: None, group: std::net::IpAddr::V4(GROUP) };
const HOP: NextHop = NextHop {
    ifindex: IfIndex(2),
    link: vmcast_common::fib::Link::PLAIN,
    source_mac: [2; 6],
    destination_mac: Some([4; 6]),
    mtu: 1500,
};

fn interface(ifindex: u32) -> FibOp {
    FibOp::SetInterface(Interface {
        ifindex: IfIndex(ifindex),
        device: IfIndex(ifindex),
        link: vmcast_common::fib::Link::PLAIN,
        peer: None,
        mac: [2; 6],
        mtu: 1500,
        accepts_sources: true,
        shared: false,
        engine: EngineWish::Any,
        xdp_members: None,
    })
}

fn tunnel(id: u32) -> FibOp {
    let tunnel = Tunnel {
        kind: TunnelKind::Amt,
        local: SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 2268)),
        remote: SocketAddr::from((Ipv4Addr::from(0x0a01_0000 + id), 2268)),
        ecn: EcnMode::Compatibility,
        accepts_sources: false,
        next_hop: Some(NextHopId(1)),
    };
    FibOp::SetTunnel(TunnelId(id), tunnel)
}

fn stream(last: u8) -> FibOp {
    let group = Ipv4Addr::new(232, 1, 1, last);
    FibOp::SetStream(Stream { source: None, group: group.into() }, Rpf::AnyUpstream, Members::Own)
}

fn member(id: u32) -> FibOp {
    FibOp::AddMember(STREAM, Output::Tunnel(TunnelId(id)))
}

fn frame() -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [1, 0, 0x5e, 1, 1, 1])
        .ipv4([192, 0, 2, 1], GROUP.octets(), 16)
        .udp(5004, 5004)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

fn copies(core: &mut Core, now_ns: u64) -> (Disposition, usize) {
    let mut copies = 0;
    let disposition = core.process(IfIndex(1), &frame(), now_ns, &mut |_, _, _| copies += 1);
    (disposition, copies)
}

#[test]
fn each_table_refuses_what_is_beyond_its_limit_and_takes_it_once_there_is_room() {
    let limits = Limits {
        streams: 1,
        tunnels: 2,
        members: 1,
        next_hops: 1,
        interfaces: 2,
        endpoints: 1,
        ..Limits::default()
    };
    let endpoint = |port| SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port));
    let mut core = Core::new(limits);
    core.apply(&[
        interface(1),
        interface(2),
        FibOp::SetEndpoint(endpoint(1)),
        FibOp::SetNextHop(NextHopId(1), HOP),
        tunnel(1),
        tunnel(2),
        stream(1),
        member(1),
    ])
    .unwrap();
    let cases = [
        (interface(3), "interfaces", FibOp::RemoveInterface(IfIndex(1))),
        (FibOp::SetEndpoint(endpoint(2)), "endpoints", FibOp::RemoveEndpoint(endpoint(1))),
        (FibOp::SetNextHop(NextHopId(2), HOP), "next hops", FibOp::RemoveNextHop(NextHopId(1))),
        (member(2), "members", FibOp::RemoveMember(STREAM, Output::Tunnel(TunnelId(1)))),
        (stream(2), "streams", FibOp::RemoveStream(STREAM)),
    ];
    for (beyond, name, makes_room) in cases {
        let before = core.dump();
        let error = core.apply(&[beyond]).unwrap_err();
        assert!(matches!(error, ApplyError::Full { table, .. } if table == name), "{error}");
        assert_eq!(core.dump(), before, "{name}");
        core.apply(&[makes_room, beyond]).unwrap();
    }
    core.apply(&[FibOp::SetNextHop(NextHopId(2), HOP)]).unwrap();
}

#[test]
fn operations_before_a_refused_one_stand_and_those_after_it_do_not() {
    let mut core = Core::default();
    assert!(core.apply(&[stream(1), member(1), stream(2)]).is_err());
    assert_eq!(core.dump().streams.keys().collect::<Vec<_>>(), [&STREAM]);
}

#[test]
fn a_frame_on_an_interface_that_is_not_looked_at_is_left_alone() {
    let mut core = Core::default();
    let hop = FibOp::SetNextHop(NextHopId(1), HOP);
    core.apply(&[interface(1), hop, tunnel(1), stream(1), member(1)]).unwrap();
    assert_eq!(copies(&mut core, 1), (Disposition::Consumed, 1));
    core.apply(&[FibOp::RemoveInterface(IfIndex(1))]).unwrap();
    let before = core.counters();
    assert_eq!(copies(&mut core, 2), (Disposition::Pass, 0));
    assert_eq!(core.counters(), before);
}

#[test]
fn counters_start_anew_with_a_stream_and_another_stream_keeps_its_own() {
    let mut core = Core::default();
    let hop = FibOp::SetNextHop(NextHopId(1), HOP);
    core.apply(&[interface(1), hop, tunnel(1), stream(1), member(1)]).unwrap();
    copies(&mut core, 77);
    let counters = core.counters().streams[0].counters;
    assert_eq!((counters.packets, counters.bytes, counters.last_ns), (1, 35, 77));
    core.apply(&[FibOp::RemoveStream(STREAM), stream(2), stream(1)]).unwrap();
    assert!(core.counters().streams.iter().all(|entry| entry.counters.packets == 0));
}

#[test]
fn a_new_source_is_told_again_after_the_interval() {
    let mut core = Core::default();
    core.apply(&[interface(1)]).unwrap();
    for (now, told) in [(0, true), (PUNT_INTERVAL_NS - 1, false), (PUNT_INTERVAL_NS, true)] {
        copies(&mut core, now);
        assert_eq!(core.poll_punt().is_some(), told, "at {now}");
    }
}

#[test]
fn removing_a_tunnel_of_a_thousand_leaves_the_others_in_order() {
    let mut core = Core::default();
    core.apply(&[interface(1), FibOp::SetNextHop(NextHopId(1), HOP), stream(1)]).unwrap();
    for id in 0..1000 {
        core.apply(&[tunnel(id), member(id)]).unwrap();
    }
    for id in (0..1000).filter(|id| id % 3 != 0) {
        core.apply(&[FibOp::RemoveTunnel(TunnelId(id))]).unwrap();
    }
    let mut reached = Vec::new();
    core.process(IfIndex(1), &frame(), 1, &mut |_, copy, _| {
        let copy = copy.own;
        reached.push(u32::from_be_bytes([copy[30], copy[31], copy[32], copy[33]]) - 0x0a01_0000);
    });
    assert_eq!(reached, (0..1000).step_by(3).collect::<Vec<_>>());
}

// proves that the payload of a packet waits once, however many copies share it
#[test]
fn the_copies_of_a_packet_share_what_is_the_same_in_all() {
    let mut core = Core::default();
    core.apply(&[interface(1), FibOp::SetNextHop(NextHopId(1), HOP), stream(1)]).unwrap();
    for id in 0..3 {
        core.apply(&[tunnel(id), member(id)]).unwrap();
    }
    let mut shared = Vec::new();
    let packet = &frame()[14..];
    core.process(IfIndex(1), &frame(), 1, &mut |_, copy, _| {
        // Ethernet, IPv4, UDP and AMT are its own.
        assert_eq!(copy.own.len(), 14 + 20 + 8 + 2);
        assert_eq!(copy.shared.len(), packet.len());
        // The addresses and all behind them are the packet's; the time to live has changed.
        assert_eq!(copy.shared[12..], packet[12..]);
        shared.push(copy.shared.as_ptr());
    });
    assert_eq!(shared, [shared[0]; 3]);
}

// a way that is remembered must not outlive what it was made of
#[test]
fn a_next_hop_that_changes_between_two_packets_counts_for_the_second() {
    let mut core = Core::default();
    core.apply(&[interface(1), FibOp::SetNextHop(NextHopId(1), HOP), stream(1), tunnel(1), member(1)])
        .unwrap();
    let sent = |core: &mut Core| {
        let mut sent = Vec::new();
        core.process(IfIndex(1), &frame(), 1, &mut |egress, copy, _| {
            sent.push((egress, copy.own[..6].to_vec()))
        });
        sent
    };
    let mac = |hop: &NextHop| hop.destination_mac.unwrap().to_vec();
    assert_eq!(sent(&mut core), [(HOP.ifindex, mac(&HOP))]);
    let other = NextHop { ifindex: IfIndex(9), destination_mac: Some([2, 7, 7, 7, 7, 7]), ..HOP };
    core.apply(&[FibOp::SetNextHop(NextHopId(1), other)]).unwrap();
    assert_eq!(sent(&mut core), [(IfIndex(9), mac(&other))]);
    core.apply(&[tunnel(2), member(2)]).unwrap();
    assert_eq!(sent(&mut core).len(), 2);
    core.apply(&[FibOp::RemoveMember(STREAM, Output::Tunnel(TunnelId(1)))]).unwrap();
    assert_eq!(sent(&mut core).len(), 1);
    core.apply(&[FibOp::RemoveTunnel(TunnelId(2))]).unwrap();
    assert_eq!(sent(&mut core), []);
}

#[test]
fn every_reason_has_a_counter_from_the_start() {
    assert_eq!(Core::default().counters().drops.len(), DropReason::ALL.len());
}

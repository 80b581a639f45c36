//! Maps of the kernel plane that are full: what is beyond is refused with the limit and its setting, everybody else is
//! served as before, and who was refused is served once there is room.

use std::{net::SocketAddr, thread, time::Duration};

use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, IfIndex, Link, Members, NextHop, NextHopId, Output, Rpf, Stream, TunnelId},
    verdict::DropReason,
};
use vmcast_dataplane::{Capacities, conformance::PlaneUnderTest as _};

use crate::{
    dut::{At, Dut, KernelUnderTest},
    oversized,
    stream::{self, FIRST_PORT, port},
};

/// How often who was refused tries again, and how long it waits between.
const TRIES: usize = 100;
const AGAIN: Duration = Duration::from_millis(50);
/// After so many what a member has used that left is free: the plane waits for a second.
const LOOKS: usize = 40;

pub(crate) fn trials() -> Vec<Trial> {
    let by_all = |name: &str, test: fn(At) -> Result<(), Failed>| {
        let name = name.to_owned();
        [At::Xdp, At::Tc].map(move |at| Trial::test(format!("{}: {name}", at.label()), move || test(at)))
    };
    let mut trials =
        Vec::from(by_all("a full map of endpoints refuses one more and nobody notices", endpoints));
    trials
        .extend(by_all("losses that a full map has no room for hide none of those that come later", losses));
    trials.push(Trial::test("xdp: a full map of tables refuses one more and nobody notices", tables));
    trials.push(Trial::test("xdp: a full map of devmaps refuses one more and nobody notices", devmaps));
    trials
}

fn plane(name: &str, at: At, capacities: Capacities) -> Result<KernelUnderTest, Failed> {
    Ok(KernelUnderTest::of_capacities(Dut::enter(name, at)?, capacities))
}

/// Fails unless an operation is refused as beyond this limit.
fn refused(plane: &mut KernelUnderTest, op: FibOp, text: &str) -> Result<(), Failed> {
    match plane.apply(&[op]) {
        Ok(()) => Err(format!("{op:?} was taken, which is beyond the limit").into()),
        Err(error) if error.to_string().contains(text) => Ok(()),
        Err(error) => Err(format!("{op:?} was refused otherwise: {error}").into()),
    }
}

/// Tries an operation as a router does who was refused, until it is taken.
fn taken(plane: &mut KernelUnderTest, op: FibOp) -> Result<(), Failed> {
    for _ in 0..TRIES {
        if plane.apply(&[op]).is_ok() {
            return Ok(());
        }
        thread::sleep(AGAIN);
    }
    Ok(plane.apply(&[op])?)
}

/// One packet of the stream comes to so many of its first members, once, to nobody else, and nothing is dropped.
fn serves(plane: &mut KernelUnderTest, members: u16) -> Result<(), Failed> {
    let devices = plane.devices();
    let seen = plane.inject(devices.a.ifindex, &stream::frame(&devices, 0));
    let mut ports: Vec<u16> = seen.frames.iter().filter_map(|(_, frame)| port(frame)).collect();
    ports.sort_unstable();
    let all: Vec<u16> = (FIRST_PORT..FIRST_PORT + members).collect();
    let drops = plane.counters().drops;
    if ports == all && seen.frames.len() == all.len() && drops.values().all(|count| *count == 0) {
        Ok(())
    } else {
        Err(format!("{} frames left, to {ports:?}; the drops are {drops:?}", seen.frames.len()).into())
    }
}

// proves issue 3 for ENDPOINTS
fn endpoints(at: At) -> Result<(), Failed> {
    let mut plane = plane("endpoints", at, Capacities { endpoints: 2, ..Capacities::MOST })?;
    plane.apply(&stream::ops(&plane.devices(), 2))?;
    let endpoint = |last: u8| SocketAddr::from(([10, 0, 0, last], 2268));
    plane.apply(&[FibOp::SetEndpoint(endpoint(1)), FibOp::SetEndpoint(endpoint(2))])?;
    let text = "ENDPOINTS is full at 2 entries, as dataplane.max_endpoints says";
    refused(&mut plane, FibOp::SetEndpoint(endpoint(3)), text)?;
    // What is there is set again.
    plane.apply(&[FibOp::SetEndpoint(endpoint(2))])?;
    serves(&mut plane, 2)?;
    plane.apply(&[FibOp::RemoveEndpoint(endpoint(1)), FibOp::SetEndpoint(endpoint(3))])?;
    serves(&mut plane, 2)
}

fn other(number: u8) -> Stream {
    Stream { source: None, group: [239, 9, 9, number].into() }
}

fn member(number: u32) -> Output {
    Output::Tunnel(TunnelId(100 + number))
}

/// Streams of these numbers with members of these.
fn streams(streams: &[(u8, &[u32])]) -> Vec<FibOp> {
    let of = |(number, members): &(u8, &[u32])| {
        let stream = other(*number);
        let joins: Vec<FibOp> =
            members.iter().map(|number| FibOp::AddMember(stream, member(*number))).collect();
        [FibOp::SetStream(stream, Rpf::AnyUpstream, Members::Own)].into_iter().chain(joins)
    };
    streams.iter().flat_map(of).collect()
}

// proves issue 3 for TABLES
fn tables() -> Result<(), Failed> {
    let mut plane = plane("tables", At::Xdp, Capacities { tables: 3, ..Capacities::MOST })?;
    plane.apply(&stream::ops(&plane.devices(), 1))?;
    plane.apply(&streams(&[(1, &[0]), (2, &[0]), (3, &[])]))?;
    let join = FibOp::AddMember(other(3), member(0));
    refused(&mut plane, join, "TABLES is full at 3 entries, as dataplane.max_tables says")?;
    serves(&mut plane, 1)?;
    plane.apply(&[FibOp::RemoveStream(other(1))])?;
    taken(&mut plane, join)?;
    serves(&mut plane, 1)
}

// proves issue 3 for DEVMAPS
fn devmaps() -> Result<(), Failed> {
    let mut plane = plane("devmaps", At::Xdp, Capacities { tables: 4, ..Capacities::MOST })?;
    // Members with an even number are behind one device, the others behind the other: as many shapes as tables.
    plane.apply(&stream::ops(&plane.devices(), 4))?;
    plane.apply(&streams(&[(1, &[0]), (2, &[0, 1]), (3, &[0, 1, 2])]))?;
    let join = FibOp::AddMember(other(2), member(3));
    refused(&mut plane, join, "DEVMAPS is full at 4 entries, as dataplane.max_tables says")?;
    serves(&mut plane, 4)?;
    plane.apply(&[FibOp::RemoveStream(other(3))])?;
    taken(&mut plane, join)?;
    serves(&mut plane, 4)
}

// proves issue 3 for MEMBER_DROPS: what could not be counted is no credit for what is lost later
fn losses(at: At) -> Result<(), Failed> {
    const LOST: u64 = 5;
    const LARGE: u16 = 10;
    let mut plane = plane("losses", at, Capacities { losing_members: 1, ..Capacities::MOST })?;
    let devices = plane.devices();
    plane.apply(&oversized::operations(&devices))?;
    let hop = |mac| NextHop {
        ifindex: devices.b.ifindex,
        link: Link::PLAIN,
        source_mac: devices.b.mac,
        destination_mac: mac,
        mtu: 1000,
    };
    let stream = oversized::STREAM;
    let (small, unreached) = (Output::Tunnel(TunnelId(1)), Output::Neighbour(NextHopId(2)));
    plane.apply(&[FibOp::SetNextHop(NextHopId(2), hop(None)), FibOp::AddMember(stream, unreached)])?;
    let mut number = 0;
    let mut send =
        |plane: &mut KernelUnderTest, packets: u16, len: usize, on_b: usize| -> Result<(), Failed> {
            for _ in 0..packets {
                number += 1;
                let frame = oversized::frame(&devices, number, len);
                let seen = plane.inject_all(devices.a.ifindex, &[frame]);
                let on = |device: IfIndex| seen.iter().filter(|(egress, _)| *egress == device).count();
                let came = (on(devices.a.ifindex), on(devices.b.ifindex), on(devices.c.ifindex));
                if came != (0, on_b, 1) {
                    return Err(format!("packet {number}: {came:?} frames left").into());
                }
            }
            Ok(())
        };
    // One member takes the only place.
    send(&mut plane, 1, 100, 1)?;
    let missed = |plane: &mut KernelUnderTest| {
        let missed = plane.dropped_copies(stream, None);
        missed.into_iter().map(|(output, copies)| (output, copies.packets)).collect::<Vec<_>>()
    };
    let seen = missed(&mut plane);
    if seen != [(unreached, 1)] {
        return Err(format!("at first {seen:?}").into());
    }
    // The other's copies are made in fragments by user space; that the kernel drops them it has no room to count.
    send(&mut plane, LARGE, 1300, 2)?;
    let seen = missed(&mut plane);
    if seen != [(unreached, u64::from(LARGE) + 1)] {
        return Err(format!("with large packets {seen:?}").into());
    }
    // Now there is room, and the other loses what nobody makes.
    plane.apply(&[FibOp::RemoveMember(stream, unreached)])?;
    for _ in 0..LOOKS {
        thread::sleep(AGAIN);
        plane.apply(&[])?;
    }
    plane.apply(&[FibOp::SetNextHop(NextHopId(1), hop(None))])?;
    send(&mut plane, LOST as u16, 100, 0)?;
    let seen = missed(&mut plane);
    let drops = plane.counters().drops;
    // At XDP the place of who left drops a copy without anybody's loss.
    let known = [DropReason::NextHopUnresolved, DropReason::MemberGone];
    if seen != [(small, LOST)] || drops.keys().any(|reason| !known.contains(reason)) {
        return Err(format!("at last {seen:?}, and the drops are {drops:?}").into());
    }
    Ok(())
}

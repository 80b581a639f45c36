//! Joins, which take what was made in advance.

use libtest_mimic::{Failed, Trial};
use vmcast_common::fib::{FibOp, Members, Output, Rpf, Stream, TunnelId};
use vmcast_dataplane::conformance::PlaneUnderTest as _;

use crate::{
    dut::{At, Dut, KernelUnderTest},
    stream::{FIRST_PORT, STREAM, frame, ops, port},
};

/// Members of each stream: so many that its table has a devmap of its own.
const MEMBERS: u16 = 20;
/// Streams that begin one after the other: more than there are devmaps of that size in stock at any time.
const STREAMS: u16 = 300;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("xdp: six thousand joins wait for no table", joins),
        Trial::test("xdp: what streams count is the same if many are asked in a turn", in_turn),
    ]
}

// proves issue 3: a join costs no RCU wait
fn joins() -> Result<(), Failed> {
    let dut = Dut::enter("joins", At::Xdp)?;
    let devices = dut.devices;
    let mut plane = KernelUnderTest::new(dut);
    plane.apply(&ops(&devices, MEMBERS))?;
    plane.wait_for_stock()?;
    let before = plane.waits_for_tables();
    for number in 0..STREAMS {
        let [high, low] = number.to_be_bytes();
        let stream = Stream { source: None, group: [239, 9, high, low].into() };
        plane.apply(&[FibOp::SetStream(stream, Rpf::AnyUpstream, Members::Own)])?;
        for member in 0..MEMBERS {
            plane.apply(&[FibOp::AddMember(stream, Output::Tunnel(TunnelId(100 + u32::from(member))))])?;
        }
        // The thread that makes them in advance gets its turn, however slow the machine is.
        plane.wait_for_stock()?;
    }
    let waits = plane.waits_for_tables() - before;
    if waits > 0 {
        return Err(format!("{waits} of {} joins waited", u32::from(STREAMS) * u32::from(MEMBERS)).into());
    }
    // The stream that was there is served as before, and nobody else.
    let seen = plane.inject(devices.a.ifindex, &frame(&devices, 0));
    let mut ports: Vec<u16> = seen.frames.iter().filter_map(|(_, frame)| port(frame)).collect();
    ports.sort_unstable();
    let all: Vec<u16> = (FIRST_PORT..FIRST_PORT + MEMBERS).collect();
    if ports == all && seen.frames.len() == all.len() {
        Ok(())
    } else {
        Err(format!("{} frames left, to {ports:?}", seen.frames.len()).into())
    }
}

/// Each that joins wants to know what its stream has counted.
fn in_turn() -> Result<(), Failed> {
    let dut = Dut::enter("in-turn", At::Xdp)?;
    let devices = dut.devices;
    let mut plane = KernelUnderTest::new(dut);
    plane.apply(&ops(&devices, 1))?;
    let other = |number| Stream { source: None, group: [239, 9, 0, number].into() };
    let others = (0..8).map(other).chain([STREAM]);
    let set = |stream| FibOp::SetStream(stream, Rpf::AnyUpstream, Members::Own);
    plane.apply(&(0..8).map(other).map(set).collect::<Vec<_>>())?;
    let expect = |plane: &KernelUnderTest, wanted: &[u64]| {
        for stream in others.clone() {
            let packets = plane.counted_in_turn(stream).map(|counters| counters.packets);
            let as_wanted = match packets {
                Some(packets) if stream == STREAM => wanted.contains(&packets),
                Some(packets) => packets == 0,
                None => false,
            };
            if !as_wanted {
                return Err(format!("{stream}: {packets:?} instead of {wanted:?}"));
            }
        }
        Ok(())
    };
    for packets in 1..4 {
        if plane.inject(devices.a.ifindex, &frame(&devices, 0)).frames.len() != 1 {
            return Err("a packet has not left once".into());
        }
        // As it is now or was when the turn began, and as it is in the next one.
        expect(&plane, &[packets - 1, packets])?;
        plane.end_turn();
        expect(&plane, &[packets])?;
    }
    // One that was not there when the others were read.
    let late = other(8);
    plane.apply(&[set(late)])?;
    match plane.counted_in_turn(late) {
        Some(counters) if counters.packets == 0 => {}
        counters => return Err(format!("a new stream has {counters:?}").into()),
    }
    match plane.counted_in_turn(other(9)) {
        None => Ok(()),
        Some(counters) => Err(format!("no stream has {counters:?}").into()),
    }
}

//! Copies that the egress device does not take.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError, mpsc},
};

use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, Members, NextHop, NextHopId, Output, Rpf, TunnelId},
    verdict::DropReason,
};
use vmcast_dataplane::conformance::{Devices, PlaneUnderTest as _};

use crate::{
    dut::{At, Dut, KernelUnderTest},
    stream::{STREAM, frame, hop, interfaces, join, ops},
};

/// More copies than one run of a program makes, and than the ring of a veth device takes at a time
/// (`VETH_RING_SIZE`, 256).
const MEMBERS: u16 = 300;
/// Members with no link-layer address before them: more than one flush of 16 frames, and no multiple.
const UNRESOLVED: u16 = 20;
/// Members that every ring takes.
const FEW: u16 = 20;

const REACHED: NextHopId = NextHopId(1);
const UNREACHED: NextHopId = NextHopId(2);

pub(crate) fn trials() -> Vec<Trial> {
    let relayed = [(At::Pauses, 1), (At::Handed, 0)].map(|(at, before)| {
        let name =
            format!("{}: a packet that a relay device refuses is counted for all who miss it", at.label());
        Trial::test(name, move || refused_by_relay(at, before))
    });
    let members =
        Trial::test("tc: copies that a device refuses are counted for its members", refused_of_members);
    let copies = Trial::test(
        "xdp: every copy that a device refuses is counted once, by the plane that made it alone",
        refused_copies,
    );
    relayed.into_iter().chain([members, copies]).collect()
}

/// A packet that goes through a relay device while that takes nothing, and one when it does. So many copies are
/// made `before`.
// proves house rule 3 for `device_refused` at TC
fn refused_by_relay(at: At, before: usize) -> Result<(), Failed> {
    let (mut plane, devices) = joined_at(at, "relay", 0, FEW)?;
    plane.set_relays(false)?;
    let seen = plane.inject(devices.a.ifindex, &frame(&devices, 0));
    let drops = plane.counters().drops;
    let missed = u64::from(FEW) - before as u64;
    expect(drops == [(DropReason::DeviceRefused, missed)].into(), || format!("the drops are {drops:?}"))?;
    expect(seen.frames.len() == before, || format!("{} copies came", seen.frames.len()))?;
    plane.set_relays(true)?;
    let seen = plane.inject(devices.a.ifindex, &frame(&devices, 0));
    let after = plane.counters().drops;
    expect(after == drops, || format!("the drops are {after:?}"))?;
    let on_b = seen.frames.iter().filter(|(egress, _)| *egress == devices.b.ifindex).count();
    let copies = (on_b, seen.frames.len());
    Ok(expect(copies == (FEW.into(), FEW.into()), || format!("{copies:?} copies came"))?)
}

/// Two planes at a time are enough for two cores.
static TURN: Mutex<()> = Mutex::new(());

// proves house rule 3 for `device_refused`, and that it is known whose copies were refused at TC
fn refused_of_members() -> Result<(), Failed> {
    const PACKETS: u32 = 3;
    let dut = Dut::enter("refused-members", At::Tc)?;
    let mut plane = KernelUnderTest::new(dut);
    let devices = plane.devices();
    // Two of three are behind the device that refuses, among them the last one.
    plane.apply(&ops(&devices, 3))?;
    for number in 0..PACKETS {
        plane.send_with_device_down(devices.a.ifindex, &frame(&devices, number), devices.b.ifindex)?;
    }
    let missed = plane.dropped_copies(STREAM, None);
    let missed: BTreeMap<Output, u64> =
        missed.into_iter().map(|(output, copies)| (output, copies.packets)).collect();
    let behind_b = [100, 102].map(|tunnel| (Output::Tunnel(TunnelId(tunnel)), u64::from(PACKETS)));
    let counted = plane.counters().drops.get(&DropReason::DeviceRefused).copied();
    if missed == BTreeMap::from(behind_b) && counted == Some(2 * u64::from(PACKETS)) {
        return Ok(());
    }
    Err(format!("{missed:?} missed copies, {counted:?} were counted").into())
}

// proves house rule 3 for `device_refused`
fn refused_copies() -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // A thread each: it moves into the namespace of its device under test for good.
    std::thread::scope(|scope| {
        // Whoever waits for the other waits no longer than that one lives.
        let (served, has_served) = mpsc::channel::<()>();
        let (over, is_over) = mpsc::channel::<()>();
        let bystander = scope.spawn(move || -> Result<(), String> {
            let (mut plane, devices) = joined("bystander", 0, FEW)?;
            serve(&mut plane, &devices)?;
            drop(served);
            let _ = is_over.recv();
            serve(&mut plane, &devices)
        });
        let overloaded = joined("overloaded", UNRESOLVED, MEMBERS);
        let _ = has_served.recv();
        let outcome = overloaded.and_then(|(mut plane, devices)| overload(&mut plane, &devices));
        drop(over);
        outcome?;
        bystander.join().map_err(|_| "the bystander panicked")??;
        Ok(())
    })
}

/// One packet for no more members than the device takes.
fn serve(plane: &mut KernelUnderTest, devices: &Devices) -> Result<(), String> {
    let seen = plane.inject(devices.a.ifindex, &frame(devices, 0));
    let drops = plane.counters().drops;
    expect(drops.is_empty(), || format!("a plane counted drops that it did not make: {drops:?}"))?;
    expect(seen.frames.len() == usize::from(FEW), || format!("{} copies", seen.frames.len()))
}

/// One packet while the device takes nothing, and one when it does: the members are more than fit into its ring
/// at a time.
fn overload(plane: &mut KernelUnderTest, devices: &Devices) -> Result<(), String> {
    plane
        .send_with_far_end_down(devices.a.ifindex, &frame(devices, 0), devices.b.ifindex)
        .map_err(|error| error.to_string())?;
    let drops = plane.counters().drops;
    let unresolved = u64::from(UNRESOLVED);
    // What the copy program dropped is not counted a second time.
    let expected = [(DropReason::NextHopUnresolved, unresolved), (DropReason::DeviceRefused, MEMBERS.into())];
    expect(drops == expected.into(), || format!("the drops are {drops:?}"))?;
    let seen = plane.inject(devices.a.ifindex, &frame(devices, 0));
    let strayed = seen.frames.iter().filter(|(egress, _)| *egress != devices.b.ifindex).count();
    expect(strayed == 0, || format!("{strayed} copies left by a device without members"))?;
    let after = plane.counters().drops;
    let expected =
        [(DropReason::NextHopUnresolved, 2 * unresolved), (DropReason::DeviceRefused, MEMBERS.into())];
    expect(after == expected.into(), || format!("the drops are {after:?}"))?;
    expect(seen.frames.len() == usize::from(MEMBERS), || format!("{} copies came", seen.frames.len()))
}

/// A plane with a stream from its first device and members behind the second.
fn joined(name: &str, unresolved: u16, resolved: u16) -> Result<(KernelUnderTest, Devices), String> {
    joined_at(At::Xdp, name, unresolved, resolved)
}

fn joined_at(
    at: At,
    name: &str,
    unresolved: u16,
    resolved: u16,
) -> Result<(KernelUnderTest, Devices), String> {
    let dut = Dut::enter(name, at).map_err(|error| error.to_string())?;
    let devices = dut.devices;
    let mut plane = KernelUnderTest::new(dut);
    let base = [
        FibOp::SetNextHop(REACHED, hop(&devices.b)),
        FibOp::SetNextHop(UNREACHED, NextHop { destination_mac: None, ..hop(&devices.b) }),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
    ];
    let hops = (0..unresolved).map(|_| UNREACHED).chain((0..resolved).map(|_| REACHED));
    let members = (0..).zip(hops).flat_map(|(number, hop)| join(number, hop));
    let ops: Vec<FibOp> = interfaces(&devices).into_iter().chain(base).chain(members).collect();
    plane.apply(&ops).map_err(|error| error.to_string())?;
    Ok((plane, devices))
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

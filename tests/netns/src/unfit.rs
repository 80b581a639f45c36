//! Devices that take no frames redirected at XDP, where nothing but XDP is to be used.

use std::collections::BTreeMap;

use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, IfIndex, Members, NextHopId, Output, Rpf},
    maps::Losses,
    verdict::DropReason,
};
use vmcast_dataplane::{
    conformance::{Devices, PlaneUnderTest as _},
    kernel::Rule,
};

use crate::{
    dut::{At, Dut, KernelUnderTest},
    stream::{STREAM, frame, hop, interfaces, join, tunnel, tunnel_id},
};

/// A next hop that stays where it is, and one that moves.
const STAYS: NextHopId = NextHopId(1);
const MOVES: NextHopId = NextHopId(2);
/// Tunnels behind each.
const STAYING: u16 = 2;
const MOVING: u16 = 3;

pub(crate) fn trials() -> Vec<Trial> {
    let moved = [("in tunnels alone", false), ("in tunnels and a native one", true)].map(|(what, native)| {
        let name = format!(
            "xdp: copies of members {what} on a device that comes to take none are counted until it takes them again"
        );
        Trial::test(name, move || moved_members(native))
    });
    let unfit = Trial::test(
        "xdp: a member on a device that takes no redirected frames is refused with the reason, others are served",
        unfit_members,
    );
    moved.into_iter().chain([unfit]).collect()
}

/// A device that takes none of XDP's frames gets no members: the kernel would leave it out of a broadcast, and nobody
/// would hear of it.
fn unfit_members() -> Result<(), Failed> {
    const TOLD: &str = "its device takes no frames redirected at XDP";
    let dut = Dut::enter("unfit", At::Xdp)?;
    let devices = dut.devices;
    dut.take_redirected(devices.b.ifindex, false)?;
    let mut plane = KernelUnderTest::of_rule(dut, Rule::Xdp);
    plane.apply(&interfaces(&devices))?;
    plane.apply(&[
        FibOp::SetNextHop(STAYS, hop(&devices.b)),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
        tunnel(0, STAYS),
    ])?;
    for output in [Output::Interface(devices.b.ifindex), Output::Tunnel(tunnel_id(0))] {
        match plane.apply(&[FibOp::AddMember(STREAM, output)]) {
            Err(error) if error.to_string().contains(TOLD) => {}
            other => return Err(format!("{output:?} was answered {other:?}").into()),
        }
    }
    plane.apply(&[FibOp::AddMember(STREAM, Output::Interface(devices.c.ifindex))])?;
    Ok(copies(&mut plane, &devices, &[(devices.c.ifindex, 1)], &[])?)
}

/// A device ceases to take frames while members are behind it, and a way comes to lead there.
// proves house rule 3 for `device_refused` on devices that the kernel leaves out of a broadcast
fn moved_members(native: bool) -> Result<(), Failed> {
    let dut = Dut::enter("moved-unfit", At::Xdp)?;
    let mut plane = KernelUnderTest::of_rule(dut, Rule::Xdp);
    let devices = plane.devices();
    let (b, c) = (devices.b.ifindex, devices.c.ifindex);
    plane.apply(&interfaces(&devices))?;
    plane.apply(&[
        FibOp::SetNextHop(STAYS, hop(&devices.b)),
        FibOp::SetNextHop(MOVES, hop(&devices.b)),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
    ])?;
    let mut on_c = 0;
    if native {
        on_c = 1;
        plane.apply(&[FibOp::AddMember(STREAM, Output::Interface(c))])?;
    }
    let mut moving = Vec::new();
    for number in 0..STAYING + MOVING {
        let by = if number < STAYING { STAYS } else { MOVES };
        if by == MOVES {
            moving.push(Output::Tunnel(tunnel_id(number)));
        }
        plane.apply(&join(number, by))?;
    }
    let (staying, all) = (usize::from(STAYING), usize::from(STAYING + MOVING));
    copies(&mut plane, &devices, &[(b, all), (c, on_c)], &[])?;

    plane.dut().take_redirected(c, false)?;
    plane.refresh();
    let mut missed: BTreeMap<Output, u64> = BTreeMap::new();
    if native {
        missed.insert(Output::Interface(c), 1);
    }
    copies(&mut plane, &devices, &[(b, all)], &as_list(&missed))?;

    plane.apply(&[FibOp::SetNextHop(MOVES, hop(&devices.c))])?;
    let stray = |missed: &mut BTreeMap<Output, u64>, outputs: &[Output]| {
        for output in outputs {
            *missed.entry(*output).or_default() += 1;
        }
    };
    let natives: Vec<Output> = native.then_some(Output::Interface(c)).into_iter().collect();
    stray(&mut missed, &moving);
    stray(&mut missed, &natives);
    copies(&mut plane, &devices, &[(b, staying)], &as_list(&missed))?;

    plane.apply(&[FibOp::SetNextHop(MOVES, hop(&devices.b))])?;
    stray(&mut missed, &natives);
    copies(&mut plane, &devices, &[(b, all)], &as_list(&missed))?;

    plane.apply(&[FibOp::SetNextHop(MOVES, hop(&devices.c))])?;
    plane.dut().take_redirected(c, true)?;
    plane.refresh();
    Ok(copies(&mut plane, &devices, &[(b, staying), (c, usize::from(MOVING) + on_c)], &as_list(&missed))?)
}

fn as_list(missed: &BTreeMap<Output, u64>) -> Vec<(Output, u64)> {
    missed.iter().map(|(output, copies)| (*output, *copies)).collect()
}

/// Sends a packet, of which so many copies leave by each device, and nothing else leaves. So many are counted as refused
/// for each member since the beginning, and nothing else is.
fn copies(
    plane: &mut KernelUnderTest,
    devices: &Devices,
    by: &[(IfIndex, usize)],
    missed: &[(Output, u64)],
) -> Result<(), String> {
    let seen = plane.inject(devices.a.ifindex, &frame(devices, 0));
    let mut came: BTreeMap<IfIndex, usize> = BTreeMap::new();
    for (egress, _) in &seen.frames {
        *came.entry(*egress).or_default() += 1;
    }
    let expected: BTreeMap<IfIndex, usize> = by.iter().copied().filter(|(_, copies)| *copies > 0).collect();
    let refused: u64 = missed.iter().map(|(_, copies)| copies).sum();
    let drops: BTreeMap<DropReason, u64> =
        (refused > 0).then_some((DropReason::DeviceRefused, refused)).into_iter().collect();
    let counted = plane.counters().drops;
    let of_stream = plane.counters().streams.iter().fold(Losses::NONE, |sum, entry| sum.plus(&entry.losses));
    let of_stream: BTreeMap<DropReason, u64> =
        of_stream.by_reason().filter(|(_, copies)| *copies > 0).collect();
    let told: Vec<(Output, u64)> = plane
        .dropped_copies(STREAM, None)
        .into_iter()
        .map(|(output, copies)| (output, copies.packets))
        .collect();
    let told: BTreeMap<Output, u64> = told.into_iter().collect();
    if came == expected && counted == drops && of_stream == drops && told == missed.iter().copied().collect()
    {
        return Ok(());
    }
    Err(format!(
        "copies came by {came:?} and not {expected:?}; the drops are {counted:?}, of the stream {of_stream:?}, members missed {told:?}"
    ))
}

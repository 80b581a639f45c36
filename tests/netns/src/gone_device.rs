//! A device that is deleted while several members are behind it, by turns with those of another device.

use std::collections::BTreeMap;

use libtest_mimic::{Failed, Trial};
use vmcast_common::fib::{FibOp, IfIndex, Members, NextHopId, Output, Rpf};
use vmcast_dataplane::conformance::PlaneUnderTest as _;

use crate::{
    dut::{At, Dut, KernelUnderTest},
    stream::{FIRST_PORT, STREAM, frame, hop, interfaces, join, port, tunnel, tunnel_id},
};

/// By the device that goes, and by those that stay.
const GOES: NextHopId = NextHopId(1);
const STAYS: NextHopId = NextHopId(2);
const OTHER: NextHopId = NextHopId(3);

pub(crate) fn trials() -> Vec<Trial> {
    let gone = [At::Xdp, At::Tc].map(|at| {
        let name = format!(
            "{}: when a device with several members is deleted, others join, move and leave",
            at.label()
        );
        Trial::test(name, move || gone(at))
    });
    gone.into_iter().collect()
}

fn gone(at: At) -> Result<(), Failed> {
    let mut dut = Dut::enter("gone-device", at)?;
    let spare = dut.add_cable("spare0")?;
    let mut plane = KernelUnderTest::new(dut);
    let devices = plane.devices();
    let (b, c) = (devices.b.ifindex, devices.c.ifindex);
    plane.apply(&interfaces(&devices))?;
    plane.apply(&[
        FibOp::SetInterface(spare.interface(false)),
        FibOp::SetNextHop(GOES, hop(&spare)),
        FibOp::SetNextHop(STAYS, hop(&devices.c)),
        FibOp::SetNextHop(OTHER, hop(&devices.b)),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
    ])?;
    for number in 0..6 {
        plane.apply(&join(number, if number % 2 == 0 { GOES } else { STAYS }))?;
    }
    get(&mut plane, &[(c, &[1, 3, 5])])?;

    plane.dut().ip("link del spare0")?;
    get(&mut plane, &[(c, &[1, 3, 5])])?;
    // As routes are looked up anew, before it is known that the device is gone.
    plane.apply(&[tunnel(0, OTHER)])?;
    get(&mut plane, &[(b, &[0]), (c, &[1, 3, 5])])?;
    plane.apply(&join(6, OTHER))?;
    plane.apply(&join(7, STAYS))?;
    get(&mut plane, &[(b, &[0, 6]), (c, &[1, 3, 5, 7])])?;
    leave(&mut plane, 7)?;
    leave(&mut plane, 4)?;
    get(&mut plane, &[(b, &[0, 6]), (c, &[1, 3, 5])])?;
    plane.apply(&[FibOp::RemoveInterface(spare.ifindex)])?;
    plane.apply(&[tunnel(2, OTHER)])?;
    leave(&mut plane, 5)?;
    plane.apply(&join(4, STAYS))?;
    get(&mut plane, &[(b, &[0, 2, 6]), (c, &[1, 3, 4])])?;

    // A way that leads nowhere until the device is back, which has the same number.
    plane.apply(&join(8, GOES))?;
    get(&mut plane, &[(b, &[0, 2, 6]), (c, &[1, 3, 4])])?;
    let far = plane.dut().add_again("spare0", spare.ifindex)?;
    plane.apply(&[FibOp::SetInterface(spare.interface(false))])?;
    get(&mut plane, &[(b, &[0, 2, 6]), (c, &[1, 3, 4])])?;
    let came: Vec<_> = far.drain().iter().filter_map(|frame| port(frame)).collect();
    if came != [FIRST_PORT + 8] {
        return Err(format!("by the device that is back came copies for {came:?}").into());
    }
    Ok(())
}

fn leave(plane: &mut KernelUnderTest, number: u16) -> Result<(), Failed> {
    Ok(plane.apply(&[FibOp::RemoveMember(STREAM, Output::Tunnel(tunnel_id(number)))])?)
}

/// Sends a packet, of which these members get a copy each by these devices, and nobody else.
fn get(plane: &mut KernelUnderTest, by: &[(IfIndex, &[u16])]) -> Result<(), Failed> {
    let seen = plane.inject(plane.devices().a.ifindex, &frame(&plane.devices(), 0));
    let mut came: BTreeMap<IfIndex, Vec<u16>> = BTreeMap::new();
    for (egress, frame) in &seen.frames {
        let number = port(frame).and_then(|port| port.checked_sub(FIRST_PORT)).ok_or("another frame left")?;
        came.entry(*egress).or_default().push(number);
    }
    came.values_mut().for_each(|numbers| numbers.sort_unstable());
    let expected: BTreeMap<IfIndex, Vec<u16>> =
        by.iter().map(|(ifindex, numbers)| (*ifindex, numbers.to_vec())).collect();
    if came != expected {
        return Err(format!("copies came {came:?} and not {expected:?}").into());
    }
    Ok(())
}

//! Members behind a device that no interface of the plane is on.

use libtest_mimic::{Failed, Trial};
use vmcast_common::fib::{FibOp, Members, NextHopId, Output, Rpf};
use vmcast_dataplane::conformance::PlaneUnderTest as _;

use crate::{
    dut::{At, Dut, KernelUnderTest},
    stream::{STREAM, frame, hop},
};

const HOP: NextHopId = NextHopId(1);

pub(crate) fn trials() -> Vec<Trial> {
    let name = "mixed: a member behind a device without an interface is served at TC";
    vec![Trial::test(name, served_at_tc)]
}

fn served_at_tc() -> Result<(), Failed> {
    let dut = Dut::enter("bare", At::Mixed)?;
    let devices = dut.devices;
    dut.take_redirected(devices.b.ifindex, false)?;
    let mut plane = KernelUnderTest::new(dut);
    let operations = [
        FibOp::SetInterface(devices.a.interface(true)),
        FibOp::SetNextHop(HOP, hop(&devices.b)),
        FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
        FibOp::AddMember(STREAM, Output::Neighbour(HOP)),
    ];
    plane.apply(&operations).map_err(|error| error.to_string())?;
    for _ in 0..3 {
        let seen = plane.inject(devices.a.ifindex, &frame(&devices, 0));
        let by: Vec<_> = seen.frames.iter().map(|(egress, _)| *egress).collect();
        if by != [devices.b.ifindex] {
            return Err(format!("copies came by {by:?}; drops {:?}", plane.counters().drops).into());
        }
    }
    Ok(())
}

//! Devices whose numbers fall on one place of the copy program's cursors.

use libtest_mimic::{Failed, Trial};
use vmcast_common::{
    fib::{FibOp, IfIndex, Members, NextHopId, Output, Rpf},
    maps::limit,
};
use vmcast_dataplane::conformance::{Device, PlaneUnderTest as _};

use crate::{
    dut::{At, Dut, KernelUnderTest},
    stream::{FIRST_PORT, STREAM, frame, hop, interfaces, join, port, tunnel_id},
    wire::Wire,
};

pub(crate) fn trials() -> Vec<Trial> {
    let name =
        "xdp: members on devices whose numbers share a place get their own copies, whoever goes and comes";
    vec![Trial::test(name, colliding)]
}

/// Two members behind one more device.
struct Behind {
    name: &'static str,
    device: IfIndex,
    far: Wire,
    members: [u16; 2],
}

impl Behind {
    fn start(
        plane: &mut KernelUnderTest,
        name: &'static str,
        number: u32,
        members: [u16; 2],
    ) -> Result<Self, Failed> {
        let device = IfIndex(number);
        let far = plane.dut().add_again(name, device)?;
        let like = plane.devices().b;
        let shown = Device { ifindex: device, ..like };
        let by = NextHopId(number);
        plane.apply(&[FibOp::SetInterface(shown.interface(false)), FibOp::SetNextHop(by, hop(&shown))])?;
        for member in members {
            plane.apply(&join(member, by))?;
        }
        Ok(Self { name, device, far, members })
    }

    /// The device goes, with all that is known of it.
    fn end(self, plane: &mut KernelUnderTest) -> Result<(), Failed> {
        plane.dut().ip(&format!("link del {}", self.name))?;
        for member in self.members {
            plane.apply(&[FibOp::RemoveMember(STREAM, Output::Tunnel(tunnel_id(member)))])?;
        }
        Ok(plane.apply(&[FibOp::RemoveInterface(self.device)])?)
    }
}

/// A packet comes, of which the members of each of these devices get a copy each, in their order, and nobody else.
fn each_gets_its_own(plane: &mut KernelUnderTest, all: &[&Behind]) -> Result<(), Failed> {
    let devices = plane.devices();
    for _ in 0..3 {
        let seen = plane.inject(devices.a.ifindex, &frame(&devices, 0)).frames;
        if !seen.is_empty() {
            return Err(format!("{} copies left by another device", seen.len()).into());
        }
        for behind in all {
            let came: Vec<_> = behind.far.drain().iter().filter_map(|frame| port(frame)).collect();
            let expected = behind.members.map(|member| FIRST_PORT + member);
            if came != expected {
                return Err(format!("behind {} came {came:?}, not {expected:?}", behind.name).into());
            }
        }
    }
    Ok(())
}

fn colliding() -> Result<(), Failed> {
    const PLACES: u32 = limit::CURSOR_SLOTS;
    const PLACE: u32 = 700;
    let mut plane = KernelUnderTest::new(Dut::enter("cursors", At::Xdp)?);
    let devices = plane.devices();
    plane.apply(&interfaces(&devices))?;
    plane.apply(&[FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own)])?;
    let first = Behind::start(&mut plane, "one", PLACE, [1, 2])?;
    let second = Behind::start(&mut plane, "two", PLACE + PLACES, [3, 4])?;
    each_gets_its_own(&mut plane, &[&first, &second])?;
    // Whose place is free is taken by the next one.
    first.end(&mut plane)?;
    each_gets_its_own(&mut plane, &[&second])?;
    let third = Behind::start(&mut plane, "three", PLACE + 2 * PLACES, [5, 6])?;
    let fourth = Behind::start(&mut plane, "four", PLACE + 3 * PLACES, [7, 8])?;
    each_gets_its_own(&mut plane, &[&second, &third, &fourth])?;
    second.end(&mut plane)?;
    each_gets_its_own(&mut plane, &[&third, &fourth])?;
    let again = Behind::start(&mut plane, "two", PLACE + PLACES, [3, 4])?;
    each_gets_its_own(&mut plane, &[&third, &fourth, &again])
}

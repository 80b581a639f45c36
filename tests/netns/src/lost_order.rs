//! Frames before a relay device that name nothing that is there: who has lost its place is dropped, counted, and in
//! nobody's way.

use std::collections::BTreeMap;

use libtest_mimic::{Failed, Trial};
use vmcast_common::verdict::DropReason;
use vmcast_dataplane::conformance::PlaneUnderTest as _;

use crate::{
    dut::{At, Dut, KernelUnderTest},
    stream::{frame, ops},
    wire::Wire,
};

const MEMBERS: u16 = 6;

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |at: At| {
        let name =
            format!("{}: a frame on a relay device that names no table is dropped and counted", at.label());
        Trial::test(name, move || lost(at))
    };
    [At::Xdp, At::Mixed].map(trial).into()
}

// proves house rule 3 for `lost_order` and `kernel_refused`
fn lost(at: At) -> Result<(), Failed> {
    let mut plane = KernelUnderTest::new(Dut::enter("lost-order", at)?);
    let devices = plane.devices();
    plane.apply(&ops(&devices, MEMBERS))?;
    let packet = frame(&devices, 0);
    let all_get_it = |plane: &mut KernelUnderTest| -> Result<(), Failed> {
        let copies = plane.inject(devices.a.ifindex, &packet).frames.len();
        (copies == usize::from(MEMBERS)).then_some(()).ok_or_else(|| format!("{copies} copies came").into())
    };
    all_get_it(&mut plane)?;
    let relays: Vec<String> = nix::net::if_::if_nameindex()?
        .iter()
        .map(|interface| interface.name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("vmc"))
        .collect();
    // Each has two ends, of which one takes in what the other sends.
    let pairs = relays.len() / 2;
    if pairs == 0 || !relays.len().is_multiple_of(2) {
        return Err(format!("the relay devices are {relays:?}").into());
    }
    let lost = [vec![0xff; 60], vec![0x5a; 14], vec![0x01; 1000]];
    // The table of no number has no devmap, which the kernel does not broadcast to; the list of that number is nobody.
    let empty = vec![0; 60];
    for name in &relays {
        let wire = Wire::open(name)?;
        for frame in lost.iter().chain([&empty]) {
            wire.send(frame)?;
        }
    }
    all_get_it(&mut plane)?;
    let drops = plane.counters().drops;
    let expected = BTreeMap::from([
        (DropReason::LostOrder, (pairs * lost.len()) as u64),
        (DropReason::KernelRefused, 1),
    ]);
    if drops != expected {
        return Err(format!("the drops are {drops:?}, not {expected:?}").into());
    }
    Ok(())
}

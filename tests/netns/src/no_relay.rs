//! Planes that can make no relay device: others have the names that these would get.

use libtest_mimic::{Failed, Trial};
use vmcast_dataplane::{
    conformance::{Devices, PlaneUnderTest as _},
    software::Disposition,
};

use crate::{
    dut::{At, Dut, KernelUnderTest},
    stream::{FIRST_PORT, frame, ops, port},
};

/// More than one run serves where relay devices are.
const MEMBERS: u16 = 100;
/// How many names are taken: one is tried after the other.
const TAKEN: u32 = 12;

pub(crate) fn trials() -> Vec<Trial> {
    [At::Pauses, At::Mixed, At::Handed]
        .map(|at| {
            let name = format!("{}: everybody is served where no relay device can be made", at.label());
            Trial::test(name, move || unserved(at))
        })
        .into()
}

fn unserved(at: At) -> Result<(), Failed> {
    let dut = Dut::enter("norelay", at)?;
    let devices = dut.devices;
    let mut plane = KernelUnderTest::new(dut);
    // One that can: its devices tell which names come next.
    plane.apply(&ops(&devices, MEMBERS))?;
    served(&mut plane, &devices)?;
    let last = relays().into_iter().max().ok_or("no relay device was made")?;
    let taken: Vec<String> =
        (1..=TAKEN).map(|more| format!("vmc{}x{}", std::process::id(), last + more)).collect();
    for (name, number) in taken.iter().zip(0..) {
        plane.dut().ip(&format!("link add {name} type veth peer name other{number}"))?;
    }

    plane.open_again();
    plane.apply(&ops(&devices, MEMBERS))?;
    served(&mut plane, &devices)?;
    let reason = plane.reason();
    if !reason.contains("relay device") {
        return Err(format!("nothing is said of relay devices: {reason}").into());
    }
    plane.refresh();
    served(&mut plane, &devices)?;

    for name in taken {
        plane.dut().ip(&format!("link del {name}"))?;
    }
    plane.refresh();
    let reason = plane.reason();
    if relays().is_empty() || reason.contains("relay device") {
        return Err(format!("no relay device was made once that was possible: {reason}").into());
    }
    served(&mut plane, &devices)
}

/// One packet comes to every member, once and to nobody else, and nothing is dropped.
fn served(plane: &mut KernelUnderTest, devices: &Devices) -> Result<(), Failed> {
    let before = plane.counters().drops;
    let seen = plane.inject(devices.a.ifindex, &frame(devices, 0));
    let mut ports: Vec<u16> = seen.frames.iter().filter_map(|(_, frame)| port(frame)).collect();
    ports.sort_unstable();
    let all: Vec<u16> = (FIRST_PORT..FIRST_PORT + MEMBERS).collect();
    if ports != all || seen.frames.len() != all.len() {
        return Err(format!("{} frames left, to {ports:?}", seen.frames.len()).into());
    }
    let dropped = plane.counters().drops != before;
    if dropped || seen.disposition != Disposition::Consumed {
        return Err(format!("{:?}, and the drops are {:?}", seen.disposition, plane.counters().drops).into());
    }
    Ok(())
}

/// The numbers of the pairs of ours that this namespace has.
fn relays() -> Vec<u32> {
    let devices = nix::net::if_::if_nameindex().expect("listing interfaces");
    let prefix = format!("vmc{}x", std::process::id());
    let names = devices.iter().map(|device| device.name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect()
}

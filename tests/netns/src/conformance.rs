//! The conformance suite of every plane, on the real programs.

use std::sync::Mutex;

use libtest_mimic::{Failed, Trial};
use vmcast_common::fib::IfIndex;
use vmcast_dataplane::conformance::{Case, Device, Devices, cases, run};

use crate::dut::{Dut, XdpUnderTest};

/// The names do not depend on the devices; the cases are made again once these exist.
fn nominal() -> Devices {
    let device =
        |number: u8| Device { ifindex: IfIndex(number.into()), mac: [2, 0, 0, 0, 0, number], mtu: 1500 };
    Devices { a: device(2), b: device(3), c: device(4) }
}

pub(crate) fn trials() -> Vec<Trial> {
    cases(nominal())
        .into_iter()
        .enumerate()
        .map(|(index, case)| Trial::test(format!("xdp: {}", case.name), move || on_the_kernel(index)))
        .collect()
}

/// One after the other: two cores carry one device under test at a time without delay.
static TURN: Mutex<()> = Mutex::new(());

fn on_the_kernel(index: usize) -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dut = Dut::enter("conformance")?;
    let case: Case = cases(dut.devices).swap_remove(index);
    run(&case, &mut XdpUnderTest::new(dut))?;
    Ok(())
}

//! Planes with as many members and streams as they must carry, judged copy by copy.
//!
//! They are driven through [`Dataplane`](vmcast_dataplane::Dataplane) and not by gateways: what is shown is
//! the plane's part, at rates that ten thousand gateways on this machine would not reach.

mod bursts;
mod churn;
mod cores;
mod fan_out;
mod groups;
mod heads;
mod one_device;
mod shrunk;
mod stand;

use std::sync::Mutex;

use libtest_mimic::Trial;
use vmcast_common::fib::FibOp;
use vmcast_dataplane::{
    Dataplane,
    kernel::{KernelPlane, Options, Rule},
    software::{self, Limits},
};

pub(crate) fn trials() -> Vec<Trial> {
    [
        bursts::trials(),
        churn::trials(),
        cores::trials(),
        fan_out::trials(),
        groups::trials(),
        heads::trials(),
        one_device::trials(),
        shrunk::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// One after the other: each takes both cores and much of the memory for packets.
static TURN: Mutex<()> = Mutex::new(());

/// The planes, by name.
const PLANES: [(&str, OpenPlane); 3] = [("xdp", xdp), ("tc", tc), ("software", in_process)];

/// Opens a plane in the calling thread's namespace.
type OpenPlane = fn() -> Result<Box<dyn Dataplane>, String>;

/// Opens a plane and tells it what holds first.
fn set_up(open: OpenPlane, first: &[FibOp]) -> Result<Box<dyn Dataplane>, String> {
    let mut plane = open()?;
    plane.apply(first).map_err(|error| error.to_string())?;
    Ok(plane)
}

fn xdp() -> Result<Box<dyn Dataplane>, String> {
    in_the_kernel(Rule::Xdp)
}

fn tc() -> Result<Box<dyn Dataplane>, String> {
    in_the_kernel(Rule::Tc)
}

fn in_the_kernel(rule: Rule) -> Result<Box<dyn Dataplane>, String> {
    let plane =
        KernelPlane::open(&Options { rule, ..Options::default() }).map_err(|error| error.to_string())?;
    Ok(Box::new(plane))
}

fn in_process() -> Result<Box<dyn Dataplane>, String> {
    let plane = software::Plane::new(Limits::default(), "it is under test".to_owned())
        .map_err(|error| error.to_string())?;
    Ok(Box::new(plane))
}

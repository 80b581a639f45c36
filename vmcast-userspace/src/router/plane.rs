//! Which plane forwards.

use anyhow::Context as _;
use vmcast_common::fib::FibOp;
use vmcast_dataplane::{
    Dataplane, software,
    xdp::{self, XdpPlane},
};

use crate::config::{DataplaneConfig, EngineChoice, OnExit};

/// Makes the plane that the configuration asks for and lets it look at the interfaces.
///
/// With `auto`, what the kernel does not take is done by this process, and the operator is told why.
///
/// # Errors
/// If the plane that was asked for, or the last one left, cannot be had.
pub(super) fn open(config: &DataplaneConfig, first: &[FibOp]) -> anyhow::Result<Box<dyn Dataplane>> {
    let reason = match config.engine {
        EngineChoice::Software => "the configuration asks for it".to_owned(),
        EngineChoice::Xdp => return kernel(config, first).context("dataplane.engine is \"xdp\""),
        EngineChoice::Auto => match kernel(config, first) {
            Ok(plane) => return Ok(plane),
            Err(error) => {
                tracing::warn!(
                    "the kernel cannot forward here, this process does it, which is slower: {error:#}"
                );
                format!("the kernel cannot: {error:#}")
            }
        },
    };
    let mut plane =
        software::Plane::new(software::Limits::default(), reason).context("starting the software plane")?;
    plane.apply(first).context("looking at the interfaces")?;
    Ok(Box::new(plane))
}

fn kernel(config: &DataplaneConfig, first: &[FibOp]) -> anyhow::Result<Box<dyn Dataplane>> {
    let on_exit = match config.on_exit {
        OnExit::Remove => xdp::OnExit::Remove,
        OnExit::Keep => xdp::OnExit::Keep(config.pin_path.clone()),
    };
    let mut plane = XdpPlane::open(&xdp::Options { on_exit })?;
    plane.apply(first)?;
    Ok(Box::new(plane))
}

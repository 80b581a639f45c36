//! Which plane forwards.

use anyhow::Context as _;
use vmcast_common::fib::FibOp;
use vmcast_dataplane::{
    Dataplane, Engine, Fib, software,
    xdp::{self, XdpPlane},
};

use super::kernel_log;
use crate::config::{DataplaneConfig, EngineChoice, OnExit};

/// A plane that does not forward yet, and what an earlier process left forwarding.
pub(super) struct Opened {
    plane: Box<dyn Dataplane>,
    pub(super) kept: Option<Fib>,
}

/// Makes the plane that the configuration asks for. With `auto`, what the kernel does not take is
/// done by this process, and the operator is told why.
///
/// # Errors
/// If the plane that was asked for, or the last one left, cannot be had.
pub(super) fn open(config: &DataplaneConfig) -> anyhow::Result<Opened> {
    match config.engine {
        EngineChoice::Software => software(config, "the configuration asks for it".to_owned()),
        EngineChoice::Xdp => kernel(config).context("dataplane.engine is \"xdp\""),
        EngineChoice::Auto => kernel(config).or_else(|error| software(config, instead(&error))),
    }
}

/// Gives the plane its first state and lets it forward.
///
/// # Errors
/// As [`open`].
pub(super) fn start(
    config: &DataplaneConfig,
    mut opened: Opened,
    first: &[FibOp],
) -> anyhow::Result<Box<dyn Dataplane>> {
    let started = begin(opened.plane.as_mut(), first);
    match (started, config.engine, opened.plane.engine().engine) {
        (Ok(()), _, _) => Ok(opened.plane),
        (Err(error), EngineChoice::Auto, Engine::XdpBroadcast) => {
            drop(opened);
            let mut second = software(config, instead(&error))?;
            begin(second.plane.as_mut(), first)?;
            Ok(second.plane)
        }
        (Err(error), _, _) => Err(error),
    }
}

fn begin(plane: &mut dyn Dataplane, first: &[FibOp]) -> anyhow::Result<()> {
    plane.apply(first)?;
    plane.release()?;
    Ok(())
}

fn instead(error: &anyhow::Error) -> String {
    tracing::warn!("the kernel cannot forward here, this process does it, which is slower: {error:#}");
    format!("the kernel cannot: {error:#}")
}

fn software(config: &DataplaneConfig, reason: String) -> anyhow::Result<Opened> {
    // Two planes at work would double every packet.
    if xdp::remove_kept(&config.pin_path)
        .with_context(|| format!("removing the programs kept in {}", config.pin_path.display()))?
    {
        tracing::info!(pin_path = %config.pin_path.display(), "the kernel programs of an earlier router are removed");
    }
    let plane =
        software::Plane::new(software::Limits::default(), reason).context("starting the software plane")?;
    Ok(Opened { plane: Box::new(plane), kept: None })
}

fn kernel(config: &DataplaneConfig) -> anyhow::Result<Opened> {
    let on_exit = match config.on_exit {
        OnExit::Remove => xdp::OnExit::Remove,
        OnExit::Keep => xdp::OnExit::Keep,
    };
    let options = xdp::Options { on_exit, pin_path: Some(config.pin_path.clone()) };
    let mut plane = XdpPlane::open(&options)?;
    let kept = plane.take_kept();
    if let Some(log) = plane.take_log() {
        kernel_log::follow(log);
    }
    Ok(Opened { plane: Box::new(plane), kept })
}

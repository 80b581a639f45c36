//! Which plane forwards.

use anyhow::Context as _;
use vmcast_common::fib::FibOp;
use vmcast_dataplane::{
    Dataplane, Engine, Fib, software,
    tc::TcPlane,
    xdp::{self, XdpPlane},
};

use super::{fitness, kernel_log};
use crate::config::{DataplaneConfig, EngineChoice, OnExit, RouterConfig};

const ASKED_FOR: &str = "the configuration asks for it";

/// A plane that does not forward yet, and what an earlier process left forwarding.
pub(super) struct Opened {
    plane: Box<dyn Dataplane>,
    pub(super) kept: Option<Fib>,
}

/// Makes the plane that the configuration asks for. With `auto`, what one engine does not take is for
/// the next, and the operator is told why.
///
/// # Errors
/// If the plane that was asked for, or the last one left, cannot be had.
pub(super) fn open(config: &DataplaneConfig) -> anyhow::Result<Opened> {
    match config.engine {
        EngineChoice::Software => software(config, ASKED_FOR.to_owned()),
        EngineChoice::Tc => tc(config, ASKED_FOR.to_owned()).context("dataplane.engine is \"tc\""),
        EngineChoice::Xdp => xdp(config).context("dataplane.engine is \"xdp\""),
        EngineChoice::Auto => xdp(config).or_else(|error| instead_of_xdp(config, no_xdp(&error))),
    }
}

/// Gives the plane its first state and lets it forward.
///
/// # Errors
/// As [`open`], and if XDP was asked for where an interface cannot do with it.
pub(super) fn start(
    config: &RouterConfig,
    mut opened: Opened,
    first: &[FibOp],
) -> anyhow::Result<Box<dyn Dataplane>> {
    let choice = config.dataplane.engine;
    let is_xdp = opened.plane.engine().engine == Engine::XdpBroadcast;
    if is_xdp && choice == EngineChoice::Xdp {
        fitness::for_xdp(config, first)?;
    }
    let unfit = if is_xdp && choice == EngineChoice::Auto { fitness::unfit(first) } else { None };
    let started = match unfit {
        Some(reason) => Err(Unstarted::Unfit(reason)),
        None => begin(opened.plane.as_mut(), first).map_err(Unstarted::Failed),
    };
    // Where the kernel does not tell what drivers do, it shows by now.
    let started = started.and_then(|()| match fitness::generic(opened.plane.as_ref(), first) {
        Some(reason) if choice == EngineChoice::Auto => Err(Unstarted::Unfit(reason)),
        Some(_) | None => Ok(()),
    });
    let failed = match started {
        Ok(()) => return Ok(opened.plane),
        Err(failed) => failed,
    };
    let engine = opened.plane.engine().engine;
    let next = match (choice, engine) {
        (EngineChoice::Auto, Engine::XdpBroadcast) => instead_of_xdp,
        (EngineChoice::Auto, Engine::TcClone) => software,
        (EngineChoice::Auto, Engine::Software | Engine::Recording)
        | (EngineChoice::Xdp | EngineChoice::Tc | EngineChoice::Software, _) => return Err(failed.error()),
    };
    let reason = match (failed, engine) {
        (Unstarted::Unfit(reason), _) => reason,
        (Unstarted::Failed(error), Engine::XdpBroadcast) => no_xdp(&error),
        (Unstarted::Failed(error), _) => no_kernel(&error),
    };
    // Two planes at work would double every packet.
    drop(opened);
    start(config, next(&config.dataplane, reason)?, first)
}

/// Why a plane does not forward.
enum Unstarted {
    /// It is not the right one for an interface.
    Unfit(String),
    Failed(anyhow::Error),
}

impl Unstarted {
    fn error(self) -> anyhow::Error {
        match self {
            Self::Unfit(reason) => anyhow::Error::msg(reason),
            Self::Failed(error) => error,
        }
    }
}

fn begin(plane: &mut dyn Dataplane, first: &[FibOp]) -> anyhow::Result<()> {
    plane.apply(first)?;
    plane.release()?;
    Ok(())
}

fn no_xdp(error: &anyhow::Error) -> String {
    tracing::warn!("XDP cannot be used here, the next engine is slower: {error:#}");
    format!("XDP cannot be used: {error:#}")
}

fn no_kernel(error: &anyhow::Error) -> String {
    tracing::warn!("the kernel cannot forward here, this process does it, which is slower: {error:#}");
    format!("the kernel cannot: {error:#}")
}

/// TC, or this process if the kernel does not take that either.
fn instead_of_xdp(config: &DataplaneConfig, reason: String) -> anyhow::Result<Opened> {
    tc(config, reason.clone()).or_else(|error| software(config, format!("{reason}; {}", no_kernel(&error))))
}

/// Takes the programs of an earlier router off, which this one does not go on with: two planes at work would
/// double every packet.
fn remove_kept(config: &DataplaneConfig) -> anyhow::Result<()> {
    let removed = xdp::remove_kept(&config.pin_path)
        .with_context(|| format!("removing the programs kept in {}", config.pin_path.display()))?;
    if removed {
        tracing::info!(pin_path = %config.pin_path.display(), "the kernel programs of an earlier router are removed");
    }
    Ok(())
}

fn tc(config: &DataplaneConfig, reason: String) -> anyhow::Result<Opened> {
    let plane = TcPlane::open(reason)?;
    remove_kept(config)?;
    if config.on_exit == OnExit::Keep {
        tracing::warn!("dataplane.on_exit is \"keep\", but the programs of this engine end with the router");
    }
    Ok(Opened { plane: Box::new(plane), kept: None })
}

fn software(config: &DataplaneConfig, reason: String) -> anyhow::Result<Opened> {
    remove_kept(config)?;
    let plane =
        software::Plane::new(software::Limits::default(), reason).context("starting the software plane")?;
    Ok(Opened { plane: Box::new(plane), kept: None })
}

fn xdp(config: &DataplaneConfig) -> anyhow::Result<Opened> {
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

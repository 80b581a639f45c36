//! Which plane forwards.

use std::collections::HashMap;

use anyhow::Context as _;
use vmcast_common::fib::{FibOp, Stream};
use vmcast_dataplane::{
    Dataplane, Fib,
    kernel::{self, Inheritance, KernelPlane, Rule},
    software,
};

use super::{fitness, kernel_log};
use crate::config::{DataplaneConfig, EngineChoice, OnExit, RouterConfig};

const ASKED_FOR: &str = "the configuration asks for it";
const FOUND: &str = "the kernel takes XDP programs and devmap broadcast";

/// A plane that does not forward yet, and what an earlier process left forwarding.
pub(super) struct Opened {
    plane: Box<dyn Dataplane>,
    pub(super) kept: Option<Fib>,
    /// When the last packet of each stream had come there, nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) last_packets: HashMap<Stream, u64>,
    /// What is tried if it does not forward.
    next: Option<Next>,
}

/// What is tried instead of a plane that cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// TC for every device: it needs less of the kernel.
    Tc,
    /// This process.
    Software,
}

/// Makes the plane that the configuration asks for. With `auto`, what one does not do is for the next, and the
/// operator is told why.
///
/// # Errors
/// If the plane that was asked for, or the last one left, cannot be had.
pub(super) fn open(config: &DataplaneConfig) -> anyhow::Result<Opened> {
    match config.engine {
        EngineChoice::Software => software(config, ASKED_FOR.to_owned()),
        EngineChoice::Tc => {
            kernel(config, Rule::Tc, ASKED_FOR.to_owned(), None).context("dataplane.engine is \"tc\"")
        }
        EngineChoice::Xdp => {
            kernel(config, Rule::Xdp, ASKED_FOR.to_owned(), None).context("dataplane.engine is \"xdp\"")
        }
        EngineChoice::Auto => kernel(config, Rule::Auto, FOUND.to_owned(), Some(Next::Tc))
            .or_else(|error| instead(config, Next::Tc, &error)),
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
    fitness::for_xdp(config, first)?;
    let Err(error) = begin(opened.plane.as_mut(), first) else {
        return Ok(opened.plane);
    };
    let Some(next) = opened.next else {
        return Err(error);
    };
    // Two planes at work would double every packet.
    drop(opened);
    start(config, instead(&config.dataplane, next, &error)?, first)
}

fn begin(plane: &mut dyn Dataplane, first: &[FibOp]) -> anyhow::Result<()> {
    let (shared, others): (Vec<FibOp>, Vec<FibOp>) =
        first.iter().copied().partition(|op| matches!(op, FibOp::ShareGroup(..)));
    plane.apply(&others)?;
    for share in shared {
        // Who listens on this host is no reason not to start.
        if let Err(error) = plane.apply(&[share]) {
            tracing::warn!(
                ?share,
                "an application of this host gets nothing of the group that it listens to: {error:#}"
            );
        }
    }
    plane.release()?;
    Ok(())
}

/// The next plane in the place of one that cannot be had, and after it the last.
fn instead(config: &DataplaneConfig, next: Next, error: &anyhow::Error) -> anyhow::Result<Opened> {
    match next {
        Next::Tc => {
            tracing::warn!("XDP cannot be used here, the next engine is slower: {error:#}");
            let reason = format!("XDP cannot be used: {error:#}");
            kernel(config, Rule::Tc, reason, Some(Next::Software))
                .or_else(|error| instead(config, Next::Software, &error))
        }
        Next::Software => {
            tracing::warn!(
                "the kernel cannot forward here, this process does it, which is slower: {error:#}"
            );
            software(config, format!("the kernel cannot: {error:#}"))
        }
    }
}

fn software(config: &DataplaneConfig, reason: String) -> anyhow::Result<Opened> {
    // What an earlier router left would double every packet.
    let removed = kernel::remove_kept(&config.pin_path)
        .with_context(|| format!("removing the programs kept in {}", config.pin_path.display()))?;
    if removed {
        tracing::info!(pin_path = %config.pin_path.display(), "the kernel programs of an earlier router are removed");
    }
    let limits = software::Limits { oversize: config.oversize(), ..config.capacities().into() };
    let plane = software::Plane::new(limits, reason).context("starting the software plane")?;
    Ok(Opened { plane: Box::new(plane), kept: None, last_packets: HashMap::new(), next: None })
}

fn kernel(
    config: &DataplaneConfig,
    rule: Rule,
    reason: String,
    next: Option<Next>,
) -> anyhow::Result<Opened> {
    let on_exit = match config.on_exit {
        OnExit::Remove => kernel::OnExit::Remove,
        OnExit::Keep => kernel::OnExit::Keep,
    };
    let pin_path = Some(config.pin_path.clone());
    let statistics = if config.statistics { kernel::Statistics::On } else { kernel::Statistics::Off };
    let options = kernel::Options {
        rule,
        chunk: None,
        reason,
        on_exit,
        pin_path,
        statistics,
        capacities: config.capacities(),
        oversize: config.oversize(),
    };
    let mut plane = KernelPlane::open(&options)?;
    let (kept, last_packets) = match plane.take_kept() {
        Some(Inheritance { fib, last_packets }) => (Some(fib), last_packets),
        None => (None, HashMap::new()),
    };
    if let Some(log) = plane.take_log() {
        kernel_log::follow(log);
    }
    Ok(Opened { plane: Box::new(plane), kept, last_packets, next })
}

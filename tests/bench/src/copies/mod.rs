//! Copies per second of one core: the planes of vmcast, what else there is, and the kernel's own share.
//!
//! Everything that a copy costs happens on core 0: the engine, and the sink at the far end of each
//! cable, which counts the copy by receiver and drops it. Before and after an engine is measured, the sink
//! looks at the number of each copy: every member got every packet once. Rounds of the engines take
//! turns, so that a noisy neighbour meets all of them alike, and the time that others had the core is
//! left out.

mod bridge;
pub(crate) mod case;
mod clones;
mod contest;
mod contests;
mod core_time;
mod engine;
mod feed;
mod floor;
mod gso;
mod in_kernel;
pub(crate) mod ipmr;
mod plan;
pub(crate) mod plane;
mod queue;
mod relay;
mod software;
pub(crate) mod stand;
pub(crate) mod stream;
mod vxlan;

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressBar;
use vmcast_lab::Lab;

use crate::{kernel::sink::Sink, machine::pin_to_core, report::Report};

pub(crate) use case::OVER_IPV6;
pub(crate) use contests::GROUP_MEMBERS;
pub(crate) use plan::Effort;
use {contest::Rig, engine::Engine, plan::Id, plane::Kind};

/// Measures, and puts rows and ratios into the report.
pub(crate) fn measure(
    effort: Effort,
    only: Option<&str>,
    report: &mut Report,
    bar: &ProgressBar,
) -> Result<()> {
    if report.machine.bpf_stats {
        report.remarks.push(
            "copies: kernel.bpf_stats_enabled is 1, so the kernel reads the clock twice for every run of a BPF \
             program; what is XDP is faster without it"
                .to_owned(),
        );
    }
    bar.set_message("copies: laying cables");
    // A thread of its own, so that what follows is not kept on one core.
    std::thread::scope(|scope| scope.spawn(|| measure_here(effort, only, report, bar)).join())
        .map_err(|_| anyhow::anyhow!("measuring panicked"))?
}

fn measure_here(effort: Effort, only: Option<&str>, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    pin_to_core(0).context("staying on core 0")?;
    let contests = effort.contests(only);
    ensure!(!contests.is_empty(), "no title has {:?} in it", only.unwrap_or_default());
    let mut lab = Lab::new("bench-copies")?;
    let mut sink = Sink::load()?;
    // As many cables as the largest case of each needs.
    let mut outputs: BTreeMap<Id, usize> = BTreeMap::new();
    for entry in contests.iter().flat_map(|contest| &contest.entries) {
        let most = outputs.entry(entry.engine).or_default();
        *most = (*most).max(entry.case.devices());
    }
    let engines = outputs
        .into_iter()
        .map(|(id, outputs)| Ok((id, build(id, &mut lab, &mut sink, outputs)?)))
        .collect::<Result<BTreeMap<Id, Box<dyn Engine>>>>()?;
    let mut rig = Rig { engines, sink };
    contests.iter().try_for_each(|contest| {
        contest::hold(contest, effort, &mut rig, report, bar).with_context(|| contest.title.clone())
    })
}

fn build(id: Id, lab: &mut Lab, sink: &mut Sink, outputs: usize) -> Result<Box<dyn Engine>> {
    Ok(match id {
        Id::Plane(Kind::Software) => Box::new(software::SoftwareEngine::new(lab, sink, outputs)?),
        Id::Plane(kind @ (Kind::Xdp | Kind::XdpUncounted | Kind::Tc | Kind::TcUncounted)) => {
            Box::new(in_kernel::KernelEngine::new(lab, sink, kind, outputs)?)
        }
        Id::Relay => Box::new(relay::RelayEngine::new(lab, sink, outputs)?),
        Id::Gso => Box::new(gso::GsoEngine::new(lab, sink, outputs)?),
        Id::Ipmr => Box::new(ipmr::IpmrEngine::new(lab, sink)?),
        Id::Vxlan => Box::new(vxlan::VxlanEngine::new(lab, sink, outputs)?),
        Id::Bridge => Box::new(bridge::BridgeEngine::new(lab, sink, outputs)?),
        Id::Floor(touch) => Box::new(floor::FloorEngine::new(lab, sink, touch, outputs)?),
        Id::Clones => Box::new(clones::CloneEngine::new(lab, sink, outputs)?),
    })
}

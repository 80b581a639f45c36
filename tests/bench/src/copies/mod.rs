//! Copies per second of one core: the XDP plane against a relay daemon, in the same run.
//!
//! Everything that a copy costs happens on core 0: the engine, and the sink at the far end of each
//! cable, which counts the copy and drops it. Rounds of the engines alternate, so that a noisy
//! neighbour meets all of them alike, and the time that others had the core is left out.

mod core_time;
mod relay;
mod rig;
mod run;
mod source;
mod xdp;

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressBar;

use crate::{
    machine::pin_to_core,
    report::{Bound, CopyRow, Ratio, Report},
    stats::Summary,
};

use rig::Rig;
use run::{Engine, Run};

/// Bytes in a datagram: seven packets of an MPEG transport stream.
const PAYLOAD: usize = 1316;
/// The fan-out that the target speaks of.
const TARGET_MEMBERS: usize = 64;
/// How much faster than the relay the plane has to be.
const TARGET_RATIO: f64 = 6.0;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Fan-outs.
    pub(crate) members: &'static [usize],
    /// Rounds of each engine at each fan-out.
    pub(crate) rounds: usize,
    /// Length of a round at least.
    pub(crate) round: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        members: &[8, TARGET_MEMBERS, TARGET_MEMBERS + 1, 256],
        rounds: 9,
        round: Duration::from_millis(500),
    };
    pub(crate) const QUICK: Self =
        Self { members: &[TARGET_MEMBERS], rounds: 5, round: Duration::from_millis(250) };

    /// Steps of the progress bar.
    pub(crate) const fn steps(&self) -> u64 {
        (self.members.len() * (1 + self.rounds)) as u64
    }
}

/// Measures, and puts rows and the ratio into the report.
pub(crate) fn measure(effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    if report.machine.bpf_stats {
        report.remarks.push(
            "copies: kernel.bpf_stats_enabled is 1, so the kernel reads the clock twice for every run of a BPF \
             program; the XDP plane is faster without it"
                .to_owned(),
        );
    }
    let rig = Rig::build()?;
    let dut = rig.dut.clone();
    dut.enter(|| {
        pin_to_core(0).context("staying on core 0")?;
        let mut engines: Vec<Box<dyn Engine>> =
            vec![Box::new(xdp::XdpEngine::new(&rig)?), Box::new(relay::Relay::new()?)];
        for &members in effort.members {
            bar.set_message(format!("copies to {members} members: does each get each packet once?"));
            for engine in &mut engines {
                verify(engine.as_mut(), &rig, members)?;
            }
            bar.inc(1);
            measure_fan_out(&mut engines, &rig, members, effort, report, bar)?;
        }
        Ok(())
    })?
}

/// A few packets that nothing disturbs: each member gets each of them once.
fn verify(engine: &mut dyn Engine, rig: &Rig, members: usize) -> Result<()> {
    let run = engine.run(rig, members, PAYLOAD, Duration::ZERO)?;
    ensure!(run.packets >= 100, "only {} packets to verify with", run.packets);
    ensure!(
        run.is_exact(),
        "{} with {members} members: {} packets went in, but the members got {:?} copies; {}",
        engine.label(),
        run.packets,
        run.copies,
        engine.explain_loss()?
    );
    Ok(())
}

fn measure_fan_out(
    engines: &mut [Box<dyn Engine>],
    rig: &Rig,
    members: usize,
    effort: Effort,
    report: &mut Report,
    bar: &ProgressBar,
) -> Result<()> {
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); engines.len()];
    for round in 1..=effort.rounds {
        bar.set_message(format!("copies to {members} members: round {round} of {}", effort.rounds));
        for (engine, runs) in engines.iter_mut().zip(&mut runs) {
            vmcast_lab::signals::check()?;
            runs.push(engine.run(rig, members, PAYLOAD, effort.round)?);
        }
        bar.inc(1);
    }
    for (engine, runs) in engines.iter().zip(&runs) {
        let row = row(engine.as_ref(), members, runs)?;
        if row.delivered < row.expected {
            report.remarks.push(format!(
                "{} with {members} members delivered {} of {} copies; {}",
                row.engine,
                row.delivered,
                row.expected,
                engine.explain_loss()?
            ));
        }
        report.rows.push(row);
    }
    if members == TARGET_MEMBERS
        && let [plane, relay] = &runs[..]
    {
        // Of each round by itself: what slows the machine for seconds slows both.
        let ratios: Vec<f64> = plane
            .iter()
            .zip(relay)
            .map(|(plane, relay)| plane.copies_per_second() / relay.copies_per_second())
            .collect();
        let ratio = Summary::of(&ratios).context("no round was measured")?;
        report.ratios.push(
            Ratio::new(
                format!("XDP plane against sendmmsg relay, {members} members, AMT, {PAYLOAD} bytes"),
                ratio.median,
                "×",
                Bound::AtLeast(TARGET_RATIO),
            )
            .with_spread(ratio),
        );
    }
    Ok(())
}

fn row(engine: &dyn Engine, members: usize, runs: &[Run]) -> Result<CopyRow> {
    let rates: Vec<f64> = runs.iter().map(|run| run.copies_per_second() / 1e6).collect();
    let rate = Summary::of(&rates).context("no round was measured")?;
    Ok(CopyRow {
        engine: engine.label().to_owned(),
        peer: "veth, XDP sink".to_owned(),
        members,
        groups: 1,
        payload: PAYLOAD,
        burst: engine.burst(members),
        mcopies_per_s_core: rate.median,
        least: rate.least,
        most: rate.most,
        rounds: rate.count,
        ns_per_copy: 1e3 / rate.median,
        delivered: runs.iter().map(Run::delivered).sum(),
        expected: runs.iter().map(Run::expected).sum(),
    })
}

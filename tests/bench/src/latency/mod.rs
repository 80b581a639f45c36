//! What one hop adds to the way of a packet, and how long a packet holds a core.
//!
//! Real packets arrive on a cable, at random moments (Poisson). Sender, hop and the clock at the far end
//! share one core, so that the way is work alone, without waking another core. The time of a packet
//! starts when it should have been sent: what it waits because the core is still busy with those
//! before it counts. Capacity is what the same chain takes when packets follow one another at once.

mod hold;
mod hop;
mod sender;

use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use vmcast_lab::Lab;

use crate::{
    copies::plane,
    machine::{last_core, pin_to_core},
    report::{Bound, LatencyRow, Ratio, Report},
    stats::Summary,
};

use hop::{Hop, Kind};

/// Bytes in a datagram.
const PAYLOAD: usize = 1316;
/// Parts of its capacity that a hop is loaded with, in percent.
const LOADS: [u32; 2] = [10, 90];

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Copies that the hop makes.
    outputs: &'static [usize],
    /// Members of the stream whose packets hold a core.
    members: &'static [usize],
    rounds: usize,
    /// Length of a round.
    round: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        outputs: &[1, 31],
        members: &[64, 1_000, 10_000],
        rounds: 7,
        round: Duration::from_millis(400),
    };
    pub(crate) const QUICK: Self =
        Self { outputs: &[1], members: &[1_000], rounds: 5, round: Duration::from_millis(60) };

    /// Steps of the progress bar.
    pub(crate) const fn steps(&self) -> u64 {
        (self.outputs.len() * self.rounds + self.members.len() * hold::ENGINES.len() + 1) as u64
    }
}

/// Delays of a round, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Round {
    packets_per_s: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    delivered: u64,
    expected: u64,
}

/// Measures, and puts rows and targets into the report.
pub(crate) fn measure(effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    std::thread::scope(|scope| scope.spawn(|| measure_here(effort, report, bar)).join())
        .map_err(|_| anyhow::anyhow!("measuring panicked"))?
}

fn measure_here(effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    let core = last_core();
    pin_to_core(core).context("staying on one core")?;
    for outputs in effort.outputs {
        one_hop(effort, *outputs, report, bar)?;
    }
    hold::measure(effort, core, report, bar)
}

fn one_hop(effort: Effort, outputs: usize, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    let mut lab = Lab::new("bench-latency")?;
    let mut hops: Vec<Hop> =
        Kind::ALL.into_iter().map(|kind| Hop::build(&mut lab, kind, outputs)).collect::<Result<_>>()?;
    let mut rounds: Vec<[Vec<Round>; LOADS.len()]> = vec![Default::default(); hops.len()];
    for number in 1..=effort.rounds {
        bar.set_message(format!("one hop with {outputs} outputs: round {number} of {}", effort.rounds));
        for (hop, rounds) in hops.iter_mut().zip(&mut rounds) {
            vmcast_lab::signals::check()?;
            let capacity = hop.capacity(effort.round / 4)?;
            for (load, rounds) in LOADS.into_iter().zip(rounds) {
                rounds.push(hop.round(capacity * f64::from(load) / 100.0, effort.round)?);
            }
        }
        bar.inc(1);
    }
    let cable = rounds.first().context("nothing was measured")?.clone();
    for (hop, rounds) in hops.iter().zip(&rounds) {
        for ((load, rounds), cable) in LOADS.into_iter().zip(rounds).zip(&cable) {
            report.latencies.push(row(hop, outputs, load, rounds, cable)?);
        }
    }
    let rounds_of =
        |kind| hops.iter().zip(&rounds).find(|(hop, _)| hop.kind == kind).map(|(_, rounds)| rounds);
    let outputs = if outputs == 1 { "1 output".to_owned() } else { format!("{outputs} outputs") };
    for kind in [plane::Kind::Xdp, plane::Kind::Tc] {
        let (Some(kernel), Some(plane)) = (rounds_of(Kind::Ipmr), rounds_of(Kind::Plane(kind))) else {
            continue;
        };
        for (place, load) in LOADS.into_iter().enumerate() {
            let what = format!("{}, one hop with {outputs} at {load} % of capacity", kind.label());
            let ratios: Vec<f64> = added(&plane[place], &cable[place], |round| round.p99)
                .zip(added(&kernel[place], &cable[place], |round| round.p99))
                .filter(|(_, kernel)| *kernel > 0.0)
                .map(|(plane, kernel)| plane / kernel)
                .collect();
            let Some(ratio) = Summary::of(&ratios) else {
                let nothing = "the kernel's forwarding added nothing to be compared with";
                report.remarks.push(format!("{what}: {nothing}"));
                continue;
            };
            let name = format!("{what}: added p99 latency ÷ that of the kernel's ipmr");
            report.ratios.push(Ratio::new(name, ratio.median, "×", Bound::AtMost(1.0)).with_spread(ratio));
        }
    }
    Ok(())
}

/// What a hop adds to the cable, in each round by itself.
fn added(hop: &[Round], cable: &[Round], of: fn(&Round) -> f64) -> impl Iterator<Item = f64> {
    hop.iter().zip(cable).map(move |(hop, cable)| of(hop) - of(cable))
}

fn row(hop: &Hop, outputs: usize, load: u32, rounds: &[Round], cable: &[Round]) -> Result<LatencyRow> {
    let middle = |values: Vec<f64>| {
        Summary::of(&values).map(|summary| summary.median).context("no round was measured")
    };
    let median = |of: fn(&Round) -> f64| middle(rounds.iter().map(of).collect());
    let more =
        |of: fn(&Round) -> f64| -> Result<f64> { Ok(middle(added(rounds, cable, of).collect())? / 1e3) };
    Ok(LatencyRow {
        hop: hop.kind.label().to_owned(),
        outputs: if hop.kind == Kind::Cable { 1 } else { outputs },
        payload: PAYLOAD,
        load_percent: load,
        packets_per_s: median(|round| round.packets_per_s)?,
        p50_us: median(|round| round.p50)? / 1e3,
        p99_us: median(|round| round.p99)? / 1e3,
        p999_us: median(|round| round.p999)? / 1e3,
        added_p50_us: more(|round| round.p50)?,
        added_p99_us: more(|round| round.p99)?,
        added_p999_us: more(|round| round.p999)?,
        rounds: rounds.len(),
        delivered: rounds.iter().map(|round| round.delivered).sum(),
        expected: rounds.iter().map(|round| round.expected).sum(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hop_adds_is_counted_round_by_round() {
        let round = |p99| Round { packets_per_s: 1.0, p50: 0.0, p99, p999: 0.0, delivered: 1, expected: 1 };
        let (cable, hop) = ([round(10.0), round(100.0)], [round(14.0), round(105.0)]);
        assert_eq!(added(&hop, &cable, |round| round.p99).collect::<Vec<_>>(), [4.0, 5.0]);
    }
}

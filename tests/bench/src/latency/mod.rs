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
            let added_by = |hop: &[Vec<Round>; LOADS.len()]| -> Vec<f64> {
                added(&hop[place], &cable[place], |round| round.p99).collect()
            };
            let (plane, kernel) = (added_by(plane), added_by(kernel));
            report.remarks.extend(noise(&plane, &kernel).map(|noise| format!("{what}: {noise}")));
            let Some(ratio) = Summary::of(&ratios(&plane, &kernel)) else { continue };
            let name = format!("{what}: added p99 latency ÷ that of the kernel's ipmr");
            report.ratios.push(Ratio::new(name, ratio.median, "×", Bound::AtMost(1.0)).with_spread(ratio));
        }
    }
    Ok(())
}

/// What the plane added by what the kernel's forwarding did, round by round. In one where only one of them took no
/// longer than the cable, the other is infinitely far behind, whichever it is; where both did, the round says nothing.
fn ratios(plane: &[f64], kernel: &[f64]) -> Vec<f64> {
    let rounds = plane.iter().zip(kernel).map(|(plane, kernel)| (plane.max(0.0), kernel.max(0.0)));
    rounds.filter(|(plane, kernel)| plane + kernel > 0.0).map(|(plane, kernel)| plane / kernel).collect()
}

/// What to say where the noise is as large as what is measured.
fn noise(plane: &[f64], kernel: &[f64]) -> Option<String> {
    let nothing = |added: &[f64]| added.iter().filter(|added| **added <= 0.0).count();
    let (of_plane, of_kernel) = (nothing(plane), nothing(kernel));
    let microseconds = |added| Summary::of(added).map(|added| added.scaled(1e-3));
    let (plane, kernel) = (microseconds(plane)?, microseconds(kernel)?);
    (of_plane + of_kernel > 0).then(|| {
        format!(
            "in {of_plane} of {} rounds the plane, in {of_kernel} the kernel's forwarding had a p99 no longer than that \
             of the cable alone, so the noise is as large as what is compared: the plane added {:.2} … {:.2} µs, the \
             kernel {:.2} … {:.2} µs",
            plane.count, plane.least, plane.most, kernel.least, kernel.most
        )
    })
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
    let p99: Vec<f64> = added(rounds, cable, |round| round.p99).collect();
    let p99 = Summary::of(&p99).context("no round was measured")?.scaled(1e-3);
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
        added_p99_us: p99.median,
        added_p99_least_us: p99.least,
        added_p99_most_us: p99.most,
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

    #[test]
    fn a_round_in_which_a_hop_added_nothing_counts_whichever_it_is() {
        let (plane, kernel) = ([1.0, -1.0, 2.0, -3.0, 0.0], [2.0, 4.0, -1.0, -1.0, 5.0]);
        assert_eq!(ratios(&plane, &kernel), [0.5, 0.0, f64::INFINITY, 0.0]);
        assert_eq!(ratios(&[-1.0, 0.0], &[0.0, -2.0]), Vec::<f64>::new());
    }

    #[test]
    fn noise_is_told_where_a_hop_seems_to_add_nothing() {
        assert_eq!(noise(&[1.0, 2.0], &[2.0, 1.0]), None);
        let told = noise(&[-1_000.0, 2_000.0, -500.0], &[4_000.0, -3_000.0, 1.0]).expect("noise");
        assert!(told.starts_with("in 2 of 3 rounds the plane, in 1 the kernel's forwarding"), "{told}");
        assert!(told.ends_with("the plane added -1.00 … 2.00 µs, the kernel -3.00 … 4.00 µs"), "{told}");
    }
}

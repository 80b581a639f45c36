//! How long one packet holds the core that receives it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use vmcast_lab::Lab;

use super::{Effort, PAYLOAD, sender::Sender};
use crate::{
    copies::{
        case::{Case, Output},
        ipmr::{self, MAX_OUTPUTS},
        plane::{Kind, Members, Plane},
        stand::Stand,
        stream,
    },
    kernel::{clock::Clock, holds::Holds},
    report::{Bound, HoldRow, Ratio, Report},
    stats::Summary,
};

/// Packets per second: each is done with when the next one comes.
const RATE: f64 = 50.0;
/// Length of a round.
const ROUND: Duration = Duration::from_millis(200);
/// How long a device's turn may be, in milliseconds.
const TARGET_MS: f64 = 0.5;
/// From this fan-out on.
const TARGET_MEMBERS: usize = 1_000;
const RANGE: u8 = 0;
/// Those that do the work while they receive.
pub(super) const ENGINES: [Kind; 2] = [Kind::Xdp, Kind::Tc];

/// Measures, and puts rows and targets into the report.
pub(super) fn measure(effort: Effort, core: usize, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    let mut lab = Lab::new("bench-hold")?;
    bar.set_message("how long a packet holds a core");
    {
        let stand = Stand::build(&mut lab, "ipmr", MAX_OUTPUTS)?;
        let router = ipmr::open(&stand)?;
        router.add(stream::SOURCE, stream::group(RANGE, 0), MAX_OUTPUTS)?;
        report.holds.push(watch(effort, core, &stand, "kernel ipmr", MAX_OUTPUTS)?.0);
        bar.inc(1);
    }
    for &members in effort.members {
        for kind in ENGINES {
            let devices = Case { output: Output::Unicast, members, groups: 1, payload: PAYLOAD }.devices();
            let stand = Stand::build(&mut lab, &format!("{}{members}", kind.name()), devices)?;
            let mut plane = Plane::open(&stand, kind)?;
            plane.set_tunnels(&stand, 0, 0..members, devices)?;
            plane.set_streams(&stand, RANGE, 1, &Members::tunnels(0, 0..members))?;
            let (row, polls) = watch(effort, core, &stand, kind.label(), members)?;
            if members >= TARGET_MEMBERS {
                let name = format!(
                    "{}, longest turn of a device in a softirq of all rounds, one packet to {members} members",
                    row.engine
                );
                report.ratios.push(
                    Ratio::new(name, polls.most / 1e3, "ms", Bound::AtMost(TARGET_MS))
                        .with_spread(polls.scaled(1e-3)),
                );
            }
            report.holds.push(row);
            bar.inc(1);
        }
    }
    Ok(())
}

/// The row, and the longest turn of a device in each round, in microseconds.
fn watch(
    effort: Effort,
    core: usize,
    stand: &Stand,
    engine: &str,
    members: usize,
) -> Result<(HoldRow, Summary)> {
    let mut clock = Clock::load()?;
    stand.far.enter(|| clock.attach(stand.egress.iter().map(|cable| cable.far_ifindex)))??;
    let mut sender = Sender::open(stand, RANGE)?;
    let mut packets = 0;
    let (mut softirqs, mut polls) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        vmcast_lab::signals::check()?;
        let holds = Holds::watch()?;
        packets += sender.send_at_random(RATE, ROUND)?.packets;
        let longest = holds.longest(core)?;
        if let Some(longest) = longest {
            softirqs.push(longest.softirq.as_secs_f64() * 1e6);
            polls.push(longest.poll.as_secs_f64() * 1e6);
        }
    }
    let of_rounds = |values: &[f64]| Summary::of(values).context("no softirq was seen");
    let (softirqs, polls) = (of_rounds(&softirqs)?, of_rounds(&polls)?);
    let row = HoldRow {
        engine: engine.to_owned(),
        members,
        packets,
        softirq_us: softirqs.median,
        softirq_most_us: softirqs.most,
        poll_us: polls.median,
        poll_most_us: polls.most,
        rounds: polls.count,
        delivered: clock.take()?.count(),
        expected: packets * members as u64,
    };
    Ok((row, polls))
}

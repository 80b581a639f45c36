//! Holds a contest: shows that everybody gets everything, then measures in turns.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressBar;

use super::{
    engine::{Engine, Receiver, Run},
    plan::{Contest, Effort, Entry, Id, Pace, Rounds, Target},
};
use crate::{
    kernel::{layout::mark, sink::Sink},
    report::{CopyRow, Ratio, Report},
    stats::{Summary, middle_half},
};

/// How far the middle half of the ratios may lie apart for pairs to end.
const CLOSE: f64 = 0.05;

/// What a contest is held with.
pub(super) struct Rig {
    pub(super) engines: BTreeMap<Id, Box<dyn Engine>>,
    pub(super) sink: Sink,
}

/// One round of an entry.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// Copies that arrived, of each packet and member the first.
    delivered: u64,
    expected: u64,
    time: Duration,
}

impl Round {
    fn copies_per_second(&self) -> f64 {
        self.delivered as f64 / self.time.as_secs_f64()
    }
}

impl Rig {
    fn engine(&mut self, id: Id) -> Result<&mut dyn Engine> {
        let engine = self.engines.get_mut(&id).with_context(|| format!("{id:?} was not built"))?;
        Ok(engine.as_mut())
    }

    fn run(
        &mut self,
        entry: &Entry,
        receivers: &[Receiver],
        at_least: Duration,
    ) -> Result<(Run, Vec<(u64, u64)>)> {
        let keys = || receivers.iter().map(|receiver| receiver.key);
        let before = self.sink.counts(keys())?;
        let run = self.engine(entry.engine)?.run(&entry.case, at_least)?;
        let after = self.sink.counts(keys())?;
        let gained = after.iter().zip(&before);
        Ok((
            run,
            gained
                .map(|(after, before)| (after.copies - before.copies, after.marks.wrapping_sub(before.marks)))
                .collect(),
        ))
    }

    /// A few packets that nothing disturbs: each member gets each of them once, by its number. Says how many
    /// copies that were.
    fn verify(&mut self, entry: &Entry, receivers: &[Receiver]) -> Result<u64> {
        self.sink.check(true)?;
        let outcome = self.run(entry, receivers, Duration::ZERO);
        self.sink.check(false)?;
        let (run, gained) = outcome?;
        ensure!(run.packets >= 20, "only {} packets to verify with", run.packets);
        let marks = (run.first..run.first + run.packets).map(mark).fold(0, u64::wrapping_add);
        let wrong: Vec<String> = receivers
            .iter()
            .zip(&gained)
            .filter(|(receiver, gained)| {
                **gained != (run.packets * receiver.copies, marks.wrapping_mul(receiver.copies))
            })
            .map(|(receiver, (copies, _))| format!("{} got {copies} copies", receiver.key))
            .collect();
        let loss = self.engine(entry.engine)?.explain_loss()?;
        ensure!(
            wrong.is_empty(),
            "{} packets went in, but {} of {} receivers did not get each of them once, as {}; {loss}",
            run.packets,
            wrong.len(),
            receivers.len(),
            wrong[..wrong.len().min(4)].join(", "),
        );
        Ok(gained.iter().map(|(copies, _)| copies).sum())
    }

    fn measure(&mut self, entry: &Entry, receivers: &[Receiver], at_least: Duration) -> Result<Round> {
        let (run, gained) = self.run(entry, receivers, at_least)?;
        let wanted = |receiver: &Receiver| run.packets * receiver.copies;
        Ok(Round {
            delivered: receivers
                .iter()
                .zip(&gained)
                .map(|(receiver, gained)| gained.0.min(wanted(receiver)))
                .sum(),
            expected: receivers.iter().map(wanted).sum(),
            time: run.time,
        })
    }
}

/// Measures, and puts rows and ratios into the report.
pub(super) fn hold(
    contest: &Contest,
    effort: Effort,
    rig: &mut Rig,
    report: &mut Report,
    bar: &ProgressBar,
) -> Result<()> {
    bar.set_message(format!("{}: does each get each packet once?", contest.title));
    let mut receivers = Vec::with_capacity(contest.entries.len());
    let mut checked = Vec::with_capacity(contest.entries.len());
    for entry in &contest.entries {
        vmcast_lab::signals::check()?;
        let engine = rig.engine(entry.engine)?;
        let label = engine.label();
        let theirs = engine.prepare(&entry.case).context(label)?;
        checked.push(rig.verify(entry, &theirs).context(label)?);
        receivers.push(theirs);
    }
    bar.inc(1);
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); contest.entries.len()];
    let mut order: Vec<usize> = (0..contest.entries.len()).collect();
    let Rounds { least, most, length } = effort.rounds_of(contest);
    for round in 1..=most {
        bar.set_message(format!("{}: round {round} of {most}", contest.title));
        for entry in &order {
            vmcast_lab::signals::check()?;
            rounds[*entry].push(rig.measure(&contest.entries[*entry], &receivers[*entry], length)?);
        }
        // There and back: nobody is always the one behind another.
        order.reverse();
        bar.inc(1);
        if round >= least && are_close(contest, &rounds)? {
            bar.inc((most - round) as u64);
            break;
        }
    }
    // And they still do after so much work.
    for ((entry, receivers), checked) in contest.entries.iter().zip(&receivers).zip(&mut checked) {
        let label = rig.engine(entry.engine)?.label();
        *checked += rig.verify(entry, receivers).context(label)?;
    }
    for ((entry, rounds), checked) in contest.entries.iter().zip(&rounds).zip(checked) {
        let row = row(rig.engine(entry.engine)?, entry, rounds, checked)?;
        if row.delivered < row.expected {
            let lost = format!(
                "{} with {} members delivered {} of {} copies; {}",
                row.maker(),
                row.members,
                row.delivered,
                row.expected,
                rig.engine(entry.engine)?.explain_loss()?
            );
            report.remarks.push(lost);
        }
        if !contest.unlisted.contains(entry) {
            report.rows.push(row);
        }
    }
    for target in &contest.targets {
        judge(contest, target, &rounds, rig, report)?;
    }
    rig.engines.values_mut().try_for_each(|engine| engine.clear())
}

/// The ratios of two entries, round by round: what slows the machine for seconds slows both.
fn ratios(over: &[Round], under: &[Round]) -> Vec<f64> {
    let rounds = over.iter().zip(under);
    rounds.map(|(over, under)| over.copies_per_second() / under.copies_per_second()).collect()
}

fn ratio(over: &[Round], under: &[Round]) -> Result<Summary> {
    Summary::of(&ratios(over, under)).context("no round was measured")
}

/// The rounds of an entry.
fn rounds_of<'a>(contest: &Contest, rounds: &'a [Vec<Round>], entry: Entry) -> Result<&'a [Round]> {
    let place = contest.entries.iter().position(|other| *other == entry);
    place.map(|place| &rounds[place][..]).with_context(|| format!("{entry:?} did not take part"))
}

/// Whether the middle half of the ratios of each target lies close together.
fn are_close(contest: &Contest, rounds: &[Vec<Round>]) -> Result<bool> {
    for target in &contest.targets {
        let of = |entry| rounds_of(contest, rounds, entry);
        let [from, to] = middle_half(&ratios(of(target.over)?, of(target.under)?)).context("no round yet")?;
        if to - from > CLOSE {
            return Ok(false);
        }
    }
    Ok(true)
}

fn judge(
    contest: &Contest,
    target: &Target,
    rounds: &[Vec<Round>],
    rig: &mut Rig,
    report: &mut Report,
) -> Result<()> {
    let of = |entry| rounds_of(contest, rounds, entry);
    let measured = ratio(of(target.over)?, of(target.under)?)?;
    let mut judged = Ratio::new(target.name.clone(), measured.median, "×", target.bound)
        .with_spread(measured)
        .with_stretch(target.stretch);
    if contest.pace == Pace::Pairs
        && let Some([from, to]) = middle_half(&ratios(of(target.over)?, of(target.under)?))
    {
        report.remarks.push(format!(
            "{}: of {} pairs of short rounds the middle half lies at {from:.3} … {to:.3}",
            target.name, measured.count
        ));
    }
    if let Some((over, under)) = target.limit {
        judged = judged.with_limit_of(ratio(of(over)?, of(under)?)?);
        let share = ratio(of(target.over)?, of(over)?)?;
        report.remarks.push(format!(
            "{}: the engine runs at {:.0} % of the speed of the {}",
            target.name,
            100.0 * share.median,
            rig.engine(over.engine)?.label()
        ));
    }
    report.ratios.push(judged);
    Ok(())
}

fn row(engine: &dyn Engine, entry: &Entry, rounds: &[Round], checked: u64) -> Result<CopyRow> {
    let rates: Vec<f64> = rounds.iter().map(|round| round.copies_per_second() / 1e6).collect();
    let rate = Summary::of(&rates).context("no round was measured")?;
    let case = entry.case;
    let (label, is_ours) = (engine.label(), engine.is_ours());
    Ok(CopyRow {
        engine: is_ours.then_some(label),
        peer: (!is_ours).then_some(label),
        output: engine.output(&case),
        fan_out: case.output.label(),
        members: case.members,
        groups: case.groups as usize,
        payload: case.payload,
        burst: engine.burst(&case),
        devices: case.devices().min(case.members),
        mcopies_per_s_core: rate.median,
        least: rate.least,
        most: rate.most,
        rounds: rate.count,
        ns_per_copy: 1e3 / rate.median,
        delivered: rounds.iter().map(|round| round.delivered).sum(),
        expected: rounds.iter().map(|round| round.expected).sum(),
        checked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_those_within_a_round() {
        let round = |delivered, milliseconds| Round {
            delivered,
            expected: delivered,
            time: Duration::from_millis(milliseconds),
        };
        // The machine was slow in the last round: both engines lost half of their speed.
        let over = [round(4_000, 10), round(4_400, 10), round(2_000, 10)];
        let under = [round(1_000, 10), round(1_000, 10), round(500, 10)];
        let ratio = ratio(&over, &under).expect("three rounds");
        assert_eq!((ratio.median, ratio.least, ratio.most), (4.0, 4.0, 4.4));
    }

    #[test]
    fn what_did_not_arrive_does_not_count() {
        let round = Round { delivered: 500, expected: 1_000, time: Duration::from_millis(1) };
        assert_eq!(round.copies_per_second(), 500_000.0);
    }
}

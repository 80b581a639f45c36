//! How many members come and go in a second beside a stream, and whether those who stay notice.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use indicatif::ProgressBar;
use vmcast_lab::{Lab, clock::Clock};

use crate::{
    copies::{
        case::{Case, Output},
        plane::{Kind, Members, Plane},
        stand::{FIRST_PORT, Stand},
        stream,
    },
    kernel::{
        layout::{Count, PORT_KEYS, TAIL_LEN, mark},
        sink::Sink,
    },
    machine::{last_core, pin_to_core},
    report::{Bound, ChurnRow, Ratio, Report},
    wire::FrameSocket,
};

/// Members who come and go.
const WANDERING: usize = 1_000;
/// Bytes in a datagram.
const PAYLOAD: usize = 1316;
/// Between two packets of the stream: its copies take up to half of that.
const PACE: Duration = Duration::from_millis(20);
/// Packets after the last change, with which whatever was left lying comes.
const QUIET: u64 = 3;
/// How long the last copies may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Changes in a second.
const TARGET: f64 = 10_000.0;
const RANGE: u8 = 0;

/// What to measure, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    engines: &'static [Kind],
    /// Members who stay.
    staying: usize,
    time: Duration,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { engines: &[Kind::Xdp, Kind::Tc], staying: 10_000, time: Duration::from_secs(5) };
    /// A tenth of the cables: laying them takes longer than the changes.
    pub(crate) const QUICK: Self =
        Self { engines: &[Kind::Xdp], staying: 1_000, time: Duration::from_millis(500) };

    /// Steps of the progress bar.
    pub(crate) const fn steps(self) -> u64 {
        self.engines.len() as u64
    }
}

/// Measures, and puts rows and targets into the report.
pub(crate) fn measure(effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    let mut lab = Lab::new("bench-churn")?;
    let mut sink = Sink::load()?;
    sink.check(true)?;
    for &kind in effort.engines {
        vmcast_lab::signals::check()?;
        bar.set_message(format!("{}: members who come and go beside a stream", kind.label()));
        let row = churn(effort, &mut lab, &mut sink, kind)?;
        report.ratios.push(Ratio::new(
            format!("{}, changes in a second beside a stream to {} members", row.engine, row.members),
            row.per_s,
            "/s",
            Bound::AtLeast(TARGET),
        ));
        report.ratios.push(Ratio::new(
            format!("{}, copies that members who stay miss or get twice beside them", row.engine),
            (row.lost + row.doubled) as f64,
            "copies",
            Bound::AtMost(0.0),
        ));
        report.churn.push(row);
        bar.inc(1);
    }
    Ok(())
}

fn churn(effort: Effort, lab: &mut Lab, sink: &mut Sink, kind: Kind) -> Result<ChurnRow> {
    let Effort { staying, time, .. } = effort;
    let case = Case { output: Output::Unicast, members: staying, groups: 1, payload: PAYLOAD };
    let stand = Stand::build(lab, kind.name(), case.devices())?;
    stand.far.enter(|| sink.attach(stand.egress.iter().map(|cable| cable.far_ifindex)))??;
    let mut plane = Plane::open(&stand, kind)?;
    plane.set_tunnels(&stand, 0, 0..staying + WANDERING, case.devices())?;
    plane.set_streams(&stand, RANGE, 1, &Members::tunnels(0, 0..staying))?;

    let before = counts(sink, 0..staying)?;
    let (over, clock) = (AtomicBool::new(false), Clock::start());
    let (changes, took, packets) = thread::scope(|scope| -> Result<_> {
        let sender = scope.spawn(|| send(&stand, &over));
        let start = clock.now();
        let wanderers = Members::tunnels(0, staying..staying + WANDERING);
        let changes = plane.churn(&stand, RANGE, &wanderers, || clock.now() < start + time);
        let took = clock.now() - start;
        over.store(true, Ordering::Relaxed);
        let packets = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        Ok((changes?, took, packets))
    })?;

    let due = (0..packets).map(mark).fold(0, u64::wrapping_add);
    let limit = clock.now() + PATIENCE;
    let (mut lost, mut doubled);
    loop {
        (lost, doubled) = (0, 0);
        for (after, before) in counts(sink, 0..staying)?.iter().zip(&before) {
            let copies = after.copies - before.copies;
            lost += packets.saturating_sub(copies);
            // As many as there were packets may still be one of them twice and another not.
            let other = copies == packets && after.marks.wrapping_sub(before.marks) != due;
            doubled += copies.saturating_sub(packets) + u64::from(other);
        }
        if lost == 0 || clock.now() > limit {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(ChurnRow {
        engine: kind.label().to_owned(),
        members: staying,
        wandering: WANDERING,
        changes,
        per_s: changes as f64 / took.as_secs_f64(),
        packets,
        packets_per_s: packets.saturating_sub(QUIET) as f64 / took.as_secs_f64(),
        lost,
        doubled,
        drops: plane.drops()?,
    })
}

/// Sends until it is over, and a few packets more. Returns how many in all.
fn send(stand: &Stand, over: &AtomicBool) -> Result<u64> {
    pin_to_core(last_core()).context("staying on one core")?;
    let socket = stand.far.enter(|| FrameSocket::open(stand.ingress.far_ifindex))??;
    let mut frame = stream::frame(stand.ingress.far_mac, RANGE, 0, PAYLOAD)?;
    let tail = frame.len() - TAIL_LEN;
    let (mut number, mut quiet) = (0_u64, 0);
    while quiet < QUIET {
        quiet += u64::from(over.load(Ordering::Relaxed));
        frame[tail..].copy_from_slice(&number.to_be_bytes());
        socket.send(&frame)?;
        number += 1;
        thread::sleep(PACE);
    }
    Ok(number)
}

fn counts(sink: &Sink, members: Range<usize>) -> Result<Vec<Count>> {
    sink.counts(members.map(|member| PORT_KEYS + u32::from(FIRST_PORT) + member as u32))
}

//! Kernel memory of the planes in the kernel: what one takes when it is loaded, and what members and (S,G)s add.
//!
//! What is added is seen in `/proc/meminfo`: slabs, `vmalloc` and per-CPU memory. Each round adds very
//! many to those that are there already, so that no round uses what another has freed; the median of the
//! rounds leaves out what the rest of the system takes meanwhile. Tables that are allocated as a whole when the plane is loaded
//! do not grow; of these each entry counts with its share of the table (`memlock` in
//! `/proc/self/fdinfo`).

mod meminfo;
mod tables;

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use vmcast_lab::Lab;

use crate::{
    copies::{
        plane::{Kind, Members, Owner, Plane},
        stand::Stand,
    },
    report::{Bound, KernelMemoryRow, Ratio, Report},
    stats::Summary,
};

use tables::Table;

/// Members of each stream where members are counted, each through a tunnel of its own.
const MEMBERS: usize = 10_000;
/// Streams with so many members, in a round.
const LARGE: u32 = 4;
/// Streams where these are counted, each with one member, in a round.
const STREAMS: u32 = 2_048;
const DEVICES: usize = 4;
/// What the target allows for a member and for an (S,G), in bytes.
const MEMBER_TARGET: f64 = 128.0;
const STREAM_TARGET: f64 = 1_024.0;

/// What to measure, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    engines: &'static [Kind],
    rounds: usize,
}

impl Effort {
    pub(crate) const FULL: Self = Self { engines: &[Kind::Xdp, Kind::Tc], rounds: 5 };
    pub(crate) const QUICK: Self = Self { engines: &[Kind::Xdp], rounds: 2 };

    /// Steps of the progress bar.
    pub(crate) const fn steps(&self) -> u64 {
        (self.engines.len() * self.rounds) as u64
    }
}

/// Measures, and puts rows and targets into the report.
pub(crate) fn measure(effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    effort.engines.iter().try_for_each(|kind| of_plane(*kind, effort.rounds, report, bar))
}

fn of_plane(kind: Kind, rounds: usize, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    let mut lab = Lab::new("bench-kernel-memory")?;
    let stand = Stand::build(&mut lab, kind.name(), DEVICES)?;
    let before = tables::mine()?;
    let mut plane = Plane::open(&stand, kind)?;
    let tables: Vec<_> = tables::mine()?.into_iter().filter(|table| !before.contains(table)).collect();
    let reserved: u64 = tables.iter().map(|table| table.bytes).sum();

    let (mut tunnels, mut members, mut streams) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        vmcast_lab::signals::check()?;
        bar.set_message(format!("kernel memory, {}: round {} of {rounds}", kind.label(), round + 1));
        let range = 2 * u8::try_from(round)?;
        let those = round * MEMBERS..(round + 1) * MEMBERS;
        let empty = meminfo::settled()?;
        plane.set_tunnels(&stand, 0, those.clone(), DEVICES)?;
        let with_tunnels = meminfo::settled()?;
        plane.set_streams(&stand, range, LARGE, &Members::tunnels(0, those))?;
        let with_members = meminfo::settled()?;
        plane.set_streams(&stand, range + 1, STREAMS, &Members::interfaces(&stand, 1))?;
        let with_streams = meminfo::settled()?;
        let each = |more: u64, less: u64, count: usize| more.saturating_sub(less) as f64 / count as f64;
        tunnels.push(each(with_tunnels, empty, MEMBERS));
        members.push(each(with_members, with_tunnels, MEMBERS * LARGE as usize));
        streams.push(each(with_streams, with_members, STREAMS as usize));
        bar.inc(1);
    }
    let row = |what: &str, added: &[f64], owner| -> Result<KernelMemoryRow> {
        let added = Summary::of(added).context("no round was measured")?;
        let theirs = tables.iter().filter(|table| table.owner == owner);
        let share = theirs.map(Table::per_entry).fold(0.0, |sum, one| sum + one);
        Ok(KernelMemoryRow {
            engine: kind.label().to_owned(),
            what: what.to_owned(),
            added_bytes: added.median,
            least: added.least,
            most: added.most,
            reserved_share_bytes: share,
            bytes: added.median + share,
        })
    };
    let tunnel = row("a tunnel", &tunnels, Owner::Tunnel)?;
    let member = row("a member of an (S,G), without the tunnel to it", &members, Owner::Member)?;
    let both = together("an AMT member with a tunnel of its own, both together", &tunnel, &member);
    let stream = row("an (S,G) with its first member", &streams, Owner::Stream)?;
    for (row, target) in [(&member, MEMBER_TARGET), (&stream, STREAM_TARGET)] {
        let name = format!("{}, kernel memory of {}", row.engine, row.what);
        report.ratios.push(Ratio::new(name, row.bytes, "bytes", Bound::AtMost(target)));
    }
    report.kernel_memory.extend([tunnel, member, both, stream]);
    report.remarks.push(format!(
        "kernel memory: the plane of {} reserves {:.1} MB when it is loaded, of which the shares of tunnels, members \
         and (S,G)s count with each of them",
        kind.label(),
        reserved as f64 / 1e6
    ));
    Ok(())
}

/// What takes both.
fn together(what: &str, one: &KernelMemoryRow, other: &KernelMemoryRow) -> KernelMemoryRow {
    KernelMemoryRow {
        engine: one.engine.clone(),
        what: what.to_owned(),
        added_bytes: one.added_bytes + other.added_bytes,
        least: one.least + other.least,
        most: one.most + other.most,
        reserved_share_bytes: one.reserved_share_bytes + other.reserved_share_bytes,
        bytes: one.bytes + other.bytes,
    }
}

//! What the operator is shown of streams and members and the machines need not know: rates, ages,
//! counters at the time of a join.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_common::{
    fib::{FibOp, Output, Stream},
    verdict::DropReason,
};
use vmcast_dataplane::{Counters, Dataplane};

use super::joins::{Joined, Joins};

/// A stream without packets for this long is shown as silent.
pub(super) const SILENT: Duration = Duration::from_secs(10);

/// What was last read of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ShownStream {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) drops: [u64; DropReason::OF_STREAM.len()],
    /// Bits per second between the last two readings.
    pub(super) rate: Option<u64>,
    /// When packets last came, to the precision of the readings.
    pub(super) last: Option<Instant>,
}

/// Readings and joins.
#[derive(Debug, Default)]
pub(super) struct Shown {
    read_at: Option<Instant>,
    pub(super) streams: HashMap<Stream, ShownStream>,
    pub(super) counters: Counters,
    joins: Joins,
}

impl Shown {
    /// Reads the plane's counters.
    pub(super) fn read(&mut self, now: Instant, plane: &dyn Dataplane) {
        let counters = match plane.counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::warn!(%error, "the data plane's counters cannot be read");
                return;
            }
        };
        let elapsed = self.read_at.map(|at| now.saturating_duration_since(at)).filter(|gap| !gap.is_zero());
        let mut streams = HashMap::with_capacity(counters.streams.len());
        for entry in &counters.streams {
            let before = self.streams.get(&entry.stream);
            let read = entry.counters;
            let rate = before.zip(elapsed).map(|(before, elapsed)| {
                let bits = u128::from(read.bytes.saturating_sub(before.bytes)) * 8_000_000;
                u64::try_from(bits / elapsed.as_micros().max(1)).unwrap_or(u64::MAX)
            });
            let moved = before.map_or(read.packets > 0, |before| read.packets != before.packets);
            let last = if moved { Some(now) } else { before.and_then(|before| before.last) };
            let shown =
                ShownStream { packets: read.packets, bytes: read.bytes, drops: read.drops, rate, last };
            streams.insert(entry.stream, shown);
        }
        self.streams = streams;
        self.counters = counters;
        self.read_at = Some(now);
    }

    /// Notes joins and leaves as the data plane is told of them.
    pub(super) fn note(&mut self, now: Instant, op: &FibOp) {
        match *op {
            FibOp::AddMember(stream, output) => {
                let packets = self.streams.get(&stream).map_or(0, |shown| shown.packets);
                self.joins.insert(stream.group, output, Joined { at: now, packets });
            }
            FibOp::RemoveMember(stream, output) => {
                self.joins.remove(stream.group, output);
            }
            FibOp::SetInterface(_)
            | FibOp::RemoveInterface(_)
            | FibOp::SetEndpoint(_)
            | FibOp::RemoveEndpoint(_)
            | FibOp::SetUnicastInput { .. }
            | FibOp::RemoveUnicastInput(_)
            | FibOp::SetNextHop(..)
            | FibOp::RemoveNextHop(_)
            | FibOp::SetTunnel(..)
            | FibOp::RemoveTunnel(_)
            | FibOp::SetConversion(..)
            | FibOp::RemoveConversion(_)
            | FibOp::SetStream(..)
            | FibOp::SetPriority(..)
            | FibOp::RemoveStream(_) => {}
        }
    }

    /// When a member joined a group.
    pub(super) fn joined(&self, group: IpAddr, output: Output) -> Option<Joined> {
        self.joins.get(group, output)
    }
}

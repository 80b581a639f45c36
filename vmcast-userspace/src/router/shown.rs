//! What the operator is shown of streams and members and the machines need not know: rates, ages,
//! what each member was sent.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use vmcast_common::{
    fib::{FibOp, Output, Stream},
    maps::{DroppedCopies, StreamCounters},
    verdict::DropReason,
};
use vmcast_dataplane::{Counters, Dataplane, StatsError, StreamStats};
use vmcast_proto::{Filter, mrib::Mrib};

use super::tally::{Amount, Joined, Readings, Tally};
use crate::clock;

/// A stream without packets for this long is shown as silent.
pub(super) const SILENT: Duration = Duration::from_secs(10);

/// What was last read of a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct ShownStream {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// Packets dropped as a whole, and copies that members missed, by reason.
    pub(super) drops: BTreeMap<DropReason, u64>,
    /// Bits per second between the last two readings.
    pub(super) rate: Option<u64>,
    /// When the last packet came.
    pub(super) last: Option<Instant>,
}

/// Readings, and what members were sent.
#[derive(Debug, Default)]
pub(super) struct Shown {
    read_at: Option<Instant>,
    pub(super) streams: HashMap<Stream, ShownStream>,
    pub(super) counters: Counters,
    /// When the last packets of streams had come that were taken over, by the clock of the planes.
    inherited: HashMap<Stream, u64>,
    tally: Tally,
}

/// What of a stream was not forwarded, by reason: packets for nobody, and copies for one member each.
fn drops(entry: &StreamStats) -> BTreeMap<DropReason, u64> {
    let mut drops = BTreeMap::new();
    for (reason, count) in entry.counters.drops().chain(entry.losses.by_reason()) {
        if count > 0 {
            *drops.entry(reason).or_default() += count;
        }
    }
    drops
}

impl Shown {
    /// Takes over when the last packets of streams had come.
    pub(super) fn inherit(&mut self, last_packets: HashMap<Stream, u64>) {
        self.inherited = last_packets;
    }

    /// Reads the plane's counters.
    pub(super) fn read(&mut self, now: Instant, plane: &dyn Dataplane) {
        let counters = match plane.counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::warn!(%error, "the data plane's counters cannot be read");
                return;
            }
        };
        // The planes stamp packets by the clock that this one is made of.
        let (read_at, read_at_ns) = (clock::now(), clock::monotonic_ns());
        let elapsed = self.read_at.map(|at| now.saturating_duration_since(at)).filter(|gap| !gap.is_zero());
        let mut streams = HashMap::with_capacity(counters.streams.len());
        for entry in &counters.streams {
            let before = self.streams.get(&entry.stream);
            let read = entry.counters;
            let rate = before.zip(elapsed).map(|(before, elapsed)| {
                let bits = u128::from(read.bytes.saturating_sub(before.bytes)) * 8_000_000;
                u64::try_from(bits / elapsed.as_micros().max(1)).unwrap_or(u64::MAX)
            });
            let inherited = self.inherited.get(&entry.stream).copied().unwrap_or(0);
            let last_ns = read.last_ns.max(inherited);
            let age = Duration::from_nanos(read_at_ns.saturating_sub(last_ns));
            let last = if last_ns > 0 { read_at.checked_sub(age) } else { None };
            let drops = drops(entry);
            let shown = ShownStream { packets: read.packets, bytes: read.bytes, drops, rate, last };
            streams.insert(entry.stream, shown);
        }
        self.inherited.retain(|stream, _| streams.contains_key(stream));
        self.streams = streams;
        self.counters = counters;
        self.read_at = Some(now);
    }

    /// What is lost with an operation, if it is to end a stream or a membership; for [`Shown::note`].
    pub(super) fn last_count(&self, plane: &dyn Dataplane, op: &FibOp) -> LastCount {
        if let FibOp::RemoveStream(stream) = *op {
            return LastCount {
                counted: amount(plane.stream_counters(stream)),
                missed: missed(plane, stream, None),
            };
        }
        // Of one that has left the group nobody asks any more.
        if let FibOp::RemoveMember(stream, member) = *op
            && self.tally.is_member(stream.group, member)
        {
            return LastCount { counted: Amount::default(), missed: missed(plane, stream, Some(member)) };
        }
        LastCount::default()
    }

    /// Notes what the data plane has been told. `last_count` is of [`Shown::last_count`], read before it was.
    pub(super) fn note(
        &mut self,
        now: Instant,
        op: &FibOp,
        last_count: &LastCount,
        plane: &dyn Dataplane,
        mrib: &Mrib,
    ) {
        let readings = Read::once(&self.streams, plane);
        match *op {
            FibOp::SetStream(stream, rpf, _) => {
                let filter_of = |member| mrib.filter_of(stream.group, member);
                self.tally.set_stream(stream, rpf, filter_of, &readings);
            }
            FibOp::RemoveStream(stream) => {
                let filter_of = |member| mrib.filter_of(stream.group, member);
                self.keep_missed(stream, last_count);
                self.tally.remove_stream(stream, last_count.counted, filter_of);
            }
            FibOp::RemoveMember(stream, _) => self.keep_missed(stream, last_count),
            // Members whose joins were refused at first, or are taken over.
            FibOp::AddMember(stream, member) if !self.tally.is_member(stream.group, member) => {
                let filter = mrib.filter_of(stream.group, member);
                self.tally.join(now, stream.group, member, &filter, &readings);
            }
            FibOp::AddMember(..)
            | FibOp::SetInterface(_)
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
            | FibOp::SetPriority(..)
            | FibOp::ShareGroup(..)
            | FibOp::UnshareGroup(..) => {}
        }
    }

    fn keep_missed(&mut self, stream: Stream, last_count: &LastCount) {
        for (member, missed) in &last_count.missed {
            self.tally.keep_missed(stream.group, *member, *missed);
        }
    }

    /// Notes that the data plane refuses an operation: who is refused is sent nothing.
    pub(super) fn note_refused(&mut self, op: &FibOp) {
        if let FibOp::AddMember(stream, member) = *op {
            self.tally.leave(stream.group, member);
        }
    }

    /// Notes what a member wants from now on; before the data plane hears of it.
    pub(super) fn note_membership(
        &mut self,
        now: Instant,
        group: IpAddr,
        member: Output,
        (old, new): (&Filter, &Filter),
        plane: &dyn Dataplane,
    ) {
        match (old.is_none(), new.is_none()) {
            (_, true) => self.tally.leave(group, member),
            (true, false) => {
                self.tally.join(now, group, member, new, &Read::once(&self.streams, plane));
            }
            (false, false) => {
                self.tally.change(group, member, (old, new), &Read::new(&self.streams, plane));
            }
        }
    }

    /// When a member joined a group, and what it was sent since.
    pub(super) fn joined(
        &self,
        group: IpAddr,
        member: Output,
        filter: &Filter,
        readings: &Read<'_>,
    ) -> Option<Joined> {
        self.tally.joined(group, member, filter, readings)
    }

    /// The counters of streams; those of each are read once.
    pub(super) fn readings<'a>(&'a self, plane: &'a dyn Dataplane) -> Read<'a> {
        Read::new(&self.streams, plane)
    }
}

/// What the plane forgets with an operation.
#[derive(Debug, Default)]
pub(super) struct LastCount {
    /// What a stream has counted.
    counted: Amount,
    /// What its members have missed.
    missed: Vec<(Output, Amount)>,
}

/// What streams count, at one moment.
pub(super) struct Read<'a> {
    streams: &'a HashMap<Stream, ShownStream>,
    plane: &'a dyn Dataplane,
    /// Those that were read; `None` if nobody asks again.
    read: Option<RefCell<HashMap<Stream, Amount>>>,
}

impl<'a> Read<'a> {
    fn new(streams: &'a HashMap<Stream, ShownStream>, plane: &'a dyn Dataplane) -> Self {
        Self { streams, plane, read: Some(RefCell::default()) }
    }

    /// For who looks at each stream once; many may in one turn of the loop.
    fn once(streams: &'a HashMap<Stream, ShownStream>, plane: &'a dyn Dataplane) -> Self {
        Self { streams, plane, read: None }
    }
}

impl Readings for Read<'_> {
    fn now(&self, stream: Stream) -> Amount {
        match &self.read {
            Some(known) => *known
                .borrow_mut()
                .entry(stream)
                .or_insert_with(|| amount(self.plane.stream_counters(stream))),
            None => amount(self.plane.stream_counters_in_turn(stream)),
        }
    }

    fn last(&self, stream: Stream) -> Amount {
        let shown = self.streams.get(&stream);
        shown.map_or_else(Amount::default, |shown| Amount { packets: shown.packets, bytes: shown.bytes })
    }

    fn missed(&self, stream: Stream, member: Output) -> Amount {
        // Of one member at a time: a page of the list has few of those that a stream may have.
        missed(self.plane, stream, Some(member)).first().map(|(_, missed)| *missed).unwrap_or_default()
    }
}

/// What a stream counts; nothing if it is not in force, or cannot be read, which the next regular reading says.
fn amount(counters: Result<Option<StreamCounters>, StatsError>) -> Amount {
    let counters = counters.ok().flatten().unwrap_or_default();
    Amount { packets: counters.packets, bytes: counters.bytes }
}

/// What members of a stream, or one of them, have missed; nothing if it cannot be read.
fn missed(plane: &dyn Dataplane, stream: Stream, member: Option<Output>) -> Vec<(Output, Amount)> {
    let missed = plane.dropped_copies(stream, member).unwrap_or_default();
    let amount = |copies: DroppedCopies| Amount { packets: copies.packets, bytes: copies.bytes };
    missed.into_iter().map(|(member, copies)| (member, amount(copies))).collect()
}

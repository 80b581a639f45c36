//! What the kernel programs count, and what they tell the controller.

use std::{collections::HashMap, os::fd::AsFd as _};

use aya::maps::{IterableMap as _, MapData, PerCpuArray, PerCpuHashMap, RingBuf};
use vmcast_common::{
    fib::{Input, Stream},
    maps::{self, Address, InputId, Losses, PuntRecord, StreamCounters},
    verdict::{DropReason, PuntReason},
};

use super::sys::lookup_from;
use crate::plane::{Counters, Punt, StatsError, StreamStats};

/// The counters of a stream, those of each CPU by themselves.
pub(crate) fn read_by_core(
    stream_stats: &PerCpuArray<MapData, StreamCounters>,
    index: u32,
) -> Result<Vec<StreamCounters>, StatsError> {
    let values = stream_stats.get(&index, 0).map_err(stats_error(maps::STREAM_STATS))?;
    Ok(values.iter().copied().collect())
}

/// Every counter, those of the streams by the index that each has; there are so many indices, each for so many CPUs.
pub(crate) fn read_counters(
    drops: &PerCpuArray<MapData, u64>,
    stream_stats: &PerCpuArray<MapData, StreamCounters>,
    stream_losses: &PerCpuHashMap<MapData, u32, Losses>,
    streams: impl Iterator<Item = (u32, Stream)>,
    (indices, cpus): (usize, usize),
) -> Result<Counters, StatsError> {
    let mut counters = Counters::default();
    for reason in DropReason::ALL {
        let values = drops.get(&reason.index(), 0).map_err(stats_error(maps::DROPS))?;
        let total: u64 = values.iter().sum();
        if total > 0 {
            counters.drops.insert(reason, total);
        }
    }
    let losses = read_losses(stream_losses)?;
    let mut streams: Vec<(u32, Stream)> = streams.collect();
    streams.sort_unstable_by_key(|(stats, _)| *stats);
    let mut together = Together::default();
    for (stats, stream) in streams {
        let sum = together.read(stream_stats, stats, (indices, cpus))?;
        let losses = losses.get(&stats).copied().unwrap_or_default();
        counters.streams.push(StreamStats { stream, counters: sum, losses });
    }
    counters.streams.sort_unstable_by_key(|stats| stats.stream);
    Ok(counters)
}

/// What members missed, by the index of their stream: only those that some missed something of are in the table.
fn read_losses(
    stream_losses: &PerCpuHashMap<MapData, u32, Losses>,
) -> Result<HashMap<u32, Losses>, StatsError> {
    let read = stream_losses.iter().map(|entry| {
        let (stats, values) = entry?;
        Ok((stats, values.iter().fold(Losses::NONE, Losses::plus)))
    });
    read.collect::<Result<_, _>>().map_err(stats_error::<aya::maps::MapError>(maps::STREAM_LOSSES))
}

/// The counters of one stream, by its index, summed over the CPUs.
pub(crate) fn read_stream(
    stream_stats: &PerCpuArray<MapData, StreamCounters>,
    stats: u32,
) -> Result<StreamCounters, StatsError> {
    let values = stream_stats.get(&stats, 0).map_err(stats_error(maps::STREAM_STATS))?;
    Ok(values.iter().fold(StreamCounters::default(), StreamCounters::plus))
}

/// Counters of streams that are asked for in the order of their indices: many are read with one call, where the kernel
/// takes that.
#[derive(Debug, Default)]
struct Together {
    /// Index of the first that are there, of each CPU by themselves.
    first: usize,
    values: Vec<StreamCounters>,
    is_refused: bool,
}

impl Together {
    /// Values that are read with one call, those of each CPU counted: 1 MiB of them.
    const VALUES: usize = (1 << 20) / size_of::<StreamCounters>();

    /// The counters of one stream by its index, of which there are so many, each for so many CPUs.
    fn read(
        &mut self,
        stream_stats: &PerCpuArray<MapData, StreamCounters>,
        stats: u32,
        (indices, cpus): (usize, usize),
    ) -> Result<StreamCounters, StatsError> {
        let index = stats as usize;
        if !self.is_refused && index >= self.first + self.values.len() / cpus.max(1) {
            let entries = (Self::VALUES / cpus.max(1)).clamp(1, indices.saturating_sub(index).max(1));
            let read = lookup_from(stream_stats.map().fd().as_fd(), stats, entries, cpus, &mut self.values);
            self.first = index;
            self.is_refused = read.is_err();
        }
        if self.is_refused {
            return read_stream(stream_stats, stats);
        }
        let values = self.values.iter().skip((index - self.first) * cpus).take(cpus);
        Ok(values.fold(StreamCounters::default(), StreamCounters::plus))
    }
}

/// Counters of streams that were asked for in one turn: from the fourth on they are read together, if there are few.
#[derive(Debug, Default)]
pub(crate) struct InTurn {
    asked: usize,
    /// Those of the first so many streams are there, of each CPU by themselves.
    entries: usize,
    values: Vec<StreamCounters>,
}

impl InTurn {
    /// Streams that are asked for one by one.
    const ONE_BY_ONE: usize = 3;
    /// Entries that are read together at most, those of each CPU counted: no more than as many streams by themselves
    /// would take longer.
    const TOGETHER: usize = 1_024;

    /// The counters of one stream by its index, of which there are so many, each for so many CPUs.
    pub(crate) fn read(
        &mut self,
        stream_stats: &PerCpuArray<MapData, StreamCounters>,
        stats: u32,
        (indices, cpus): (usize, usize),
    ) -> Result<StreamCounters, StatsError> {
        self.asked += 1;
        if self.asked == Self::ONE_BY_ONE + 1 && indices.saturating_mul(cpus) <= Self::TOGETHER {
            let read = lookup_from(stream_stats.map().fd().as_fd(), 0, indices, cpus, &mut self.values);
            self.entries = if read.is_ok() { indices } else { 0 };
        }
        let index = stats as usize;
        if index >= self.entries {
            return read_stream(stream_stats, stats);
        }
        let values = self.values.iter().skip(index * cpus).take(cpus);
        Ok(values.fold(StreamCounters::default(), StreamCounters::plus))
    }

    /// Forgets what was read.
    pub(crate) const fn forget(&mut self) {
        self.asked = 0;
        self.entries = 0;
    }
}

fn stats_error<E: std::error::Error + Send + Sync + 'static>(
    table: &'static str,
) -> impl Fn(E) -> StatsError {
    move |error| StatsError { table, source: Box::new(error) }
}

/// The next packet that the controller should hear of.
pub(crate) fn next_punt(ring: &mut RingBuf<MapData>) -> Option<Punt> {
    loop {
        let record = parse_punt(&ring.next()?);
        if record.is_some() {
            return record;
        }
    }
}

/// Reads a record of the punt ring; `None` if it is not one.
fn parse_punt(bytes: &[u8]) -> Option<Punt> {
    let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let address = |at: usize| Some(Address::from_octets(*bytes.get(at..)?.first_chunk()?));
    let (reason, input) = (word(0)?, word(4)?);
    let stream = maps::StreamKey { source: address(8)?, group: address(24)? };
    debug_assert_eq!(size_of::<PuntRecord>(), 40);
    let input: Input = InputId(input).input()?;
    Some(Punt { reason: PuntReason::from_index(reason)?, input, stream: stream.into() })
}

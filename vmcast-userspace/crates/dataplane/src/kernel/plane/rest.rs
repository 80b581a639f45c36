//! What is done for streams when nothing changes.

use super::KernelPlane;
use crate::{
    clock::now_ns,
    kernel::{
        error::{Failure, KernelError},
        member_table::Backing,
        quiet,
        state::StreamState,
        stats,
    },
};

/// After so long without a packet of a stream none is on its way: frames wait before relay devices for less.
const IDLE_NS: u64 = 2_000_000_000;

impl KernelPlane {
    /// Lets member tables that have not changed for a while share their devmaps.
    pub(super) fn let_rest(&mut self) -> Result<(), Failure> {
        for (&stream, state) in &mut self.state.streams {
            let mut backing = Backing {
                stream,
                kernel: &mut self.maps,
                tables: &mut self.pool,
                members: &mut self.members,
                shapes: &mut self.shapes,
            };
            state.chain.rest(&mut backing)?;
        }
        Ok(())
    }

    /// Gathers the members of streams that had many more once, and gives up tables in front of them where no packet is
    /// on its way.
    pub(super) fn gather_members(&mut self) -> Result<(), Failure> {
        let ways = self.ways();
        let of = |wanted: &dyn Fn(&StreamState) -> bool| {
            let streams = self.state.streams.iter().filter(|(_, state)| wanted(state));
            streams.map(|(stats, _)| *stats).collect::<Vec<u32>>()
        };
        let sparse = of(&|state| state.chain.is_sparse(ways));
        let long = of(&|state| state.chain.may_be_shorter());
        for stats in sparse {
            let done = self.change_chain(stats, |state, backing, change| {
                // What is refused is tried again at the next look; nobody misses it.
                if let Err(error) = state.chain.gather(ways, backing, change) {
                    tracing::debug!(%error, "the members of a stream cannot be gathered");
                }
                Ok(())
            });
            done?;
        }
        for stats in long {
            // Without statistics nobody knows where packets come in.
            match self.cores(stats)?.as_deref() {
                Some([]) => self.shorten(stats)?,
                Some(&[core]) => {
                    quiet::on_core(core, || self.shorten(stats)).unwrap_or(Ok(()))?;
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    fn shorten(&mut self, stats: u32) -> Result<(), Failure> {
        let ways = self.ways();
        self.change_chain(stats, |state, backing, change| state.chain.shorten(ways, backing, change))
    }

    /// The cores on which packets of a stream, or of those that share its members, may be on their way; `None` if it is
    /// not known.
    pub(super) fn cores(&self, stats: u32) -> Result<Option<Vec<usize>>, Failure> {
        let Some(state) = self.state.streams.get(&stats) else {
            return Ok(None);
        };
        let followers =
            self.state.followers.get(&state.stream.group).filter(|_| state.stream.source.is_none());
        let mut last: Vec<u64> = Vec::new();
        for stats in followers.into_iter().flatten().chain([&stats]) {
            let read = stats::read_by_core(&self.maps.stream_stats, *stats)
                .map_err(|error| Failure::Kernel(KernelError::call("reading counters")(error)))?;
            last.resize(read.len().max(last.len()), 0);
            for (last, counters) in last.iter_mut().zip(read) {
                *last = counters.last_ns.max(*last);
            }
        }
        let now = now_ns();
        let is_awake = |last: u64| last > 0 && last + IDLE_NS >= now;
        let awake = (0..).zip(&last).filter(|(_, last)| is_awake(**last)).map(|(core, _)| core);
        Ok(last.iter().any(|last| *last > 0).then(|| awake.collect()))
    }
}

//! Streams: their entries, and what becomes of them.

use vmcast_common::{
    fib::{Members, Output, Priority, Rpf, Stream},
    maps::{self, InputId, Marks, QueueEntry, StreamEntry},
};

use super::KernelPlane;
use crate::kernel::{
    error::{Failure, KernelError},
    pool::{Remains, Until},
    state::{Effective, StreamState},
    writes::forgive_missing,
};

impl KernelPlane {
    pub(super) fn set_stream(&mut self, stream: Stream, rpf: Rpf, members: Members) -> Result<(), Failure> {
        let stats = match self.state.by_stream.get(&stream) {
            Some(&stats) => stats,
            None => {
                let stats = self.stats.take()?;
                self.in_turn.get_mut().forget();
                if let Err(error) = self.maps.clear_stream_stats(stats) {
                    self.stats.give_back(stats);
                    return Err(error.into());
                }
                self.oversize.forget_stream(stats);
                self.state.by_stream.insert(stream, stats);
                stats
            }
        };
        let fresh = || Box::new(StreamState::new(stream, rpf, members));
        let state = self.state.streams.entry(stats).or_insert_with(fresh);
        state.rpf = rpf;
        state.members = members;
        let followers = self.state.followers.entry(stream.group).or_default();
        match members {
            Members::Own => followers.remove(&stats),
            Members::OfAnySource => followers.insert(stats),
        };
        if followers.is_empty() {
            self.state.followers.remove(&stream.group);
        }
        self.write_stream(stats)
    }

    /// One write, or two if the stream's copies wait in another way than before: first how, then that they do.
    pub(super) fn set_priority(&mut self, stream: Stream, priority: Priority) -> Result<(), Failure> {
        let stats = *self.state.by_stream.get(&stream).ok_or(Failure::Unknown)?;
        let Some(state) = self.state.streams.get_mut(&stats) else {
            return Err(Failure::Unknown);
        };
        let before = std::mem::replace(&mut state.priority, priority);
        let members: Vec<Output> = state.outputs().filter(|_| before.at_tc != priority.at_tc).collect();
        let queued = QueueEntry::of(&before);
        if let Some(queue) = QueueEntry::of(&priority).filter(|queue| queued != Some(*queue)) {
            self.maps.write_queue(stats, queue)?;
        }
        self.write_entry(stats)?;
        members.into_iter().try_for_each(|output| self.put_member(stats, output))
    }

    /// Writes a stream's entry if it differs from what the kernel has, and those of the streams that
    /// share its members.
    pub(super) fn write_stream(&mut self, stats: u32) -> Result<(), Failure> {
        let Some(state) = self.state.streams.get(&stats) else {
            return Err(Failure::Unknown);
        };
        let stream = state.stream;
        self.write_entry(stats)?;
        if stream.source.is_none() {
            let followers = self.state.followers.get(&stream.group).cloned().unwrap_or_default();
            followers.into_iter().try_for_each(|follower| self.write_entry(follower))?;
        }
        Ok(())
    }

    pub(super) fn write_entry(&mut self, stats: u32) -> Result<(), Failure> {
        let Some(state) = self.state.streams.get(&stats) else {
            return Err(Failure::Unknown);
        };
        let rpf = match state.rpf {
            Rpf::Exact(input) => InputId::from(input),
            Rpf::AnyUpstream => InputId::NONE,
        };
        let Effective { table, list, encapsulated_max, whole_max, kernel_max } =
            self.state.effective(stats, state);
        let marks = Marks::of(&state.priority);
        let entry =
            StreamEntry { table, list, stats, rpf: rpf.0, encapsulated_max, whole_max, kernel_max, marks };
        let stream = state.stream;
        if state.written == Some(entry) {
            return Ok(());
        }
        let key = maps::StreamKey::from(stream);
        self.maps
            .streams
            .insert(key, entry, 0)
            .map_err(KernelError::full_or(maps::STREAMS, self.capacities.streams))?;
        if let Some(state) = self.state.streams.get_mut(&stats) {
            state.written = Some(entry);
        }
        Ok(())
    }

    pub(super) fn remove_stream(&mut self, stream: Stream) -> Result<(), Failure> {
        let Some(stats) = self.state.by_stream.remove(&stream) else {
            return Ok(());
        };
        forgive_missing(self.maps.streams.remove(&stream.into()), maps::STREAMS)?;
        let outputs: Vec<Output> =
            self.state.streams.get(&stats).into_iter().flat_map(|state| state.outputs()).collect();
        let missed = outputs.into_iter().map(|output| Ok((output, self.missed_key(stats, output)?)));
        let missed: Vec<_> = missed.collect::<Result<_, Failure>>()?;
        let Some(mut state) = self.state.streams.remove(&stats) else {
            return Ok(());
        };
        let until = state.chain.until();
        for (output, key) in missed {
            self.state.note_left(output, stats);
            self.forget_after(stats, output, key, until);
        }
        if let Some(followers) = self.state.followers.get_mut(&stream.group) {
            followers.remove(&stats);
            if followers.is_empty() {
                self.state.followers.remove(&stream.group);
            }
        }
        if stream.source.is_none() {
            let followers = self.state.followers.get(&stream.group).cloned().unwrap_or_default();
            followers.into_iter().try_for_each(|follower| self.write_entry(follower))?;
        }
        state.chain.dismiss().retire(&mut self.pool, until);
        if state.first_written == 0 {
            self.stats.give_back(stats);
        } else {
            // Frames before the relay may still ask for the list.
            self.maps.write_list(stats, 0)?;
            let left = state.list.dismiss(&mut self.maps);
            self.retire_members(left);
            self.pool.wait(Remains { stats: vec![stats], ..Remains::default() }, Until::Relayed);
        }
        Ok(())
    }
}

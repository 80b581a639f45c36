//! What members have missed, while they come, change and go.

use vmcast_common::{
    fib::{Output, Stream},
    maps::{self, DroppedCopies, MemberEntry, MemberKey},
};

use super::KernelPlane;
use crate::{
    capacity::setting,
    kernel::{
        error::{Failure, KernelError},
        pool::{Remains, Until},
    },
    plane::StatsError,
};

/// What a member has missed cannot be kept: that is told, and stops nobody's packets.
fn uncounted(kept: Result<(), KernelError>) {
    if let Err(error) = kept {
        tracing::debug!(%error, "what a member has missed is not counted");
    }
}

impl KernelPlane {
    /// A member of a stream as the kernel has it; `None` if it is none.
    pub(super) fn member_entry(
        &self,
        stats: u32,
        output: Output,
    ) -> Result<Option<MemberEntry>, KernelError> {
        let Some(state) = self.state.streams.get(&stats) else {
            return Ok(None);
        };
        match state.chain.entry(output, &self.maps)? {
            Some(entry) => Ok(Some(entry)),
            None => state.list.entry(output, &self.maps),
        }
    }

    /// Whether an output is noted as a member of a stream.
    pub(super) fn is_member(&self, stats: u32, output: Output) -> bool {
        match output {
            Output::Interface(_) => self
                .state
                .streams
                .get(&stats)
                .is_some_and(|state| state.chain.contains(output) || state.list.contains(output)),
            Output::Tunnel(id) => self.state.tunnels.has_joined(id, stats),
            Output::Neighbour(_) | Output::Converted(_) => self.streams_of(output).contains(&stats),
        }
    }

    /// Tells the kernel of a member that it knows otherwise from now on, and which has still missed what it has.
    pub(in crate::kernel) fn put_changed(&mut self, output: Output) -> Result<(), Failure> {
        self.streams_of(output).into_iter().try_for_each(|stats| {
            let before = self.member_entry(stats, output)?;
            self.put_member(stats, output)?;
            let (Some(before), Some(now)) = (before, self.state.spec(output)) else {
                return Ok(());
            };
            let (old, new) = (MemberKey::of(stats, &before), MemberKey::of(stats, &now.entry));
            uncounted(self.dropped.rename(&old, &new));
            Ok(())
        })
    }

    /// By what name the kernel knows what a member of a stream has missed.
    pub(super) fn missed_key(&self, stats: u32, output: Output) -> Result<Option<MemberKey>, Failure> {
        let entry = match self.state.spec(output) {
            Some(spec) => Some(spec.entry),
            // An interface that is gone is a member for a moment.
            None => self.member_entry(stats, output)?,
        };
        Ok(entry.map(|entry| MemberKey::of(stats, &entry)))
    }

    /// Forgets what a member of a stream has missed: one that joins has missed nothing. The kernel has something of it
    /// only if it has left a moment ago.
    pub(super) fn forget_missed(&mut self, stats: u32, output: Output) -> Result<(), Failure> {
        self.oversize.forget_member(stats, output);
        if self.leaving.is_empty() {
            return Ok(());
        }
        if let Some(key) = self.missed_key(stats, output)?
            && self.leaving.contains_key(&key)
        {
            uncounted(self.dropped.forget(&key));
        }
        Ok(())
    }

    /// Lets what a member has missed that has been taken out be forgotten once no packet comes to it any more: one that
    /// is on its way would be counted after that, for good.
    pub(super) fn forget_after(&mut self, stats: u32, output: Output, key: Option<MemberKey>, until: Until) {
        self.oversize.forget_member(stats, output);
        let Some(key) = key else {
            return;
        };
        *self.leaving.entry(key).or_default() += 1;
        let missed = vec![(stats, output, key)];
        match until {
            Until::Walked => self.remains.missed.extend(missed),
            Until::Relayed => self.pool.wait(Remains { missed, ..Remains::default() }, until),
        }
    }

    /// Forgets what a member had missed when it left, unless it has come again.
    pub(super) fn forget_left(&mut self, stats: u32, output: Output, key: &MemberKey) {
        if let Some(times) = self.leaving.get_mut(key) {
            *times -= 1;
            if *times == 0 {
                self.leaving.remove(key);
            }
        }
        let known = self.is_member(stats, output)
            && self.missed_key(stats, output).is_ok_and(|known| known.as_ref() == Some(key));
        if !known {
            uncounted(self.dropped.forget(key));
        }
    }

    /// Looks whether the kernel had no room to count what some member has missed. Then the operator is told, and copies
    /// that were made in its stead, and which it has not counted as dropped, are not taken off later losses.
    ///
    /// A copy may be made before the kernel has come to drop it; that one is then shown as missed. It is only so while
    /// the table is full.
    pub(super) fn bound_credits(&mut self) {
        let uncounted = self.dropped.uncounted().unwrap_or(self.uncounted);
        if uncounted == self.uncounted {
            return;
        }
        if self.uncounted == 0 || uncounted.ilog2() > self.uncounted.ilog2() {
            let error = KernelError::Full { table: maps::MEMBER_DROPS, limit: self.dropped.limit() };
            tracing::warn!(
                copies = uncounted,
                "what some members miss is counted by its reason alone: {error}{}",
                setting(maps::MEMBER_DROPS)
            );
        }
        self.uncounted = uncounted;
        for (stats, output) in self.oversize.credited() {
            if let Ok(Some(key)) = self.missed_key(stats, output)
                && let Ok(dropped) = self.dropped.read(&key)
            {
                self.oversize.bound_credit(stats, output, dropped);
            }
        }
    }

    /// What members of a stream, or one of them, have missed.
    pub(super) fn missed(
        &self,
        stream: Stream,
        member: Option<Output>,
    ) -> Result<Vec<(Output, DroppedCopies)>, StatsError> {
        let Some((&stats, state)) =
            self.state.by_stream.get(&stream).and_then(|stats| Some((stats, self.state.streams.get(stats)?)))
        else {
            return Ok(Vec::new());
        };
        let members: Vec<Output> = match member {
            Some(member) => vec![member],
            None => state.outputs().collect(),
        };
        let mut missed = Vec::new();
        for output in members {
            let Some(spec) = self.state.spec(output) else { continue };
            let key = MemberKey::of(stats, &spec.entry);
            let dropped = self
                .dropped
                .read(&key)
                .map_err(|error| StatsError { table: maps::MEMBER_DROPS, source: Box::new(error) })?;
            let dropped = self.oversize.settle(stats, output, dropped);
            if dropped.packets > 0 {
                missed.push((output, dropped));
            }
        }
        Ok(missed)
    }
}

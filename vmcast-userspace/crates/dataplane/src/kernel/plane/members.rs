//! Members of streams, which are in a chain of tables or in a list.

use std::collections::BTreeSet;

use vmcast_common::{
    fib::{IfIndex, Output, Stream},
    maps::{kind, limit},
};

use super::KernelPlane;
use crate::{
    kernel::{
        device::Rule,
        error::{Failure, KernelError},
        list,
        member_table::{self, Backing, MemberSpec},
        pool::{Remains, TablePool, Until},
        state::{StreamState, Wishes},
        writes::KernelMaps,
    },
    plane::Engine,
};

impl KernelPlane {
    /// Lets the places of members at TC wait until nobody comes to them any more.
    pub(super) fn retire_members(&mut self, left: list::Change) {
        let list::Change { walked, relayed } = left;
        self.remains.members.extend(walked);
        self.pool.wait(Remains { members: relayed, ..Remains::default() }, Until::Relayed);
    }

    pub(super) fn add_member(&mut self, stream: Stream, output: Output) -> Result<(), Failure> {
        let stats = *self.state.by_stream.get(&stream).ok_or(Failure::Unknown)?;
        self.state.conversions.fit(&stream, output).map_err(Failure::Unsupported)?;
        let is_new = !self.is_member(stats, output);
        if is_new {
            let spec = self.state.spec(output).ok_or(Failure::Unknown)?;
            if self.is_unfit(IfIndex(spec.ifindex)) {
                return Err(Failure::Unsupported("its device takes no frames redirected at XDP"));
            }
            self.forget_missed(stats, output)?;
        }
        self.put(stats, output, is_new)?;
        match output {
            Output::Interface(_) => {}
            Output::Neighbour(id) => {
                if let Some(state) = self.state.next_hops.get_mut(&id) {
                    state.streams.insert(stats);
                }
            }
            Output::Tunnel(id) => self.state.tunnels.join(id, stats),
            Output::Converted(id) => {
                self.state.converted.entry(id).or_default().insert(stats);
            }
        }
        Ok(())
    }

    /// Adds a member, or tells the kernel what has changed about it. One whose device is now served by the
    /// other engine goes there: it may miss a packet that is on its way, and gets none twice.
    pub(super) fn put_member(&mut self, stats: u32, output: Output) -> Result<(), Failure> {
        self.put(stats, output, false)
    }

    /// The same; `is_new` says that it is no member yet, so that it is not looked for among all of them.
    fn put(&mut self, stats: u32, output: Output, is_new: bool) -> Result<(), Failure> {
        let spec = self.spec(output).ok_or(Failure::Unknown)?;
        // Where it stands in the place of a device that takes none, no copy may leave.
        if self.table_relay.as_ref().is_some_and(|relay| relay.near.0 == spec.ifindex) {
            self.refuse_way_of(output)?;
        }
        let at_tc = self.serves_at_tc(stats, output, spec.ifindex);
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        let is_new = is_new && !state.is_unsure;
        // Until it stands where it belongs.
        let was_unsure = std::mem::replace(&mut state.is_unsure, true);
        let moves = !is_new && if at_tc { state.chain.contains(output) } else { state.list.contains(output) };
        if moves {
            self.take_out(stats, output)?;
        }
        // The bound comes first: no packet meets the member that it does not hold for.
        let whole_max = self.state.whole_max(output);
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        state.expect_member(whole_max);
        if !at_tc {
            state.expect_in_chain(output, spec.entry.kind == kind::AMT_V4);
        }
        self.write_stream(stats)?;
        if at_tc {
            self.put_in_list(stats, output, &spec)?;
        } else {
            self.put_in_chain(stats, output, &spec, is_new)?;
        }
        if let Some(state) = self.state.streams.get_mut(&stats) {
            state.is_unsure = was_unsure;
        }
        Ok(())
    }

    /// Whether a stream's member on a device is served at TC.
    pub(super) fn serves_at_tc(&mut self, stats: u32, output: Output, device: u32) -> bool {
        let asked_for = self.state.streams.get(&stats).is_some_and(|state| state.priority.at_tc);
        asked_for
            || self.engine_of(device).0 == Engine::TcClone
            || self.room(device).is_some_and(|room| self.is_beyond(stats, output, device, room))
    }

    /// Whether a member is one of those for whom XDP has no room on a device. Who is at XDP stays, and who is at TC stays
    /// until half of the room is free: one that moves may miss a packet.
    fn is_beyond(&self, stats: u32, output: Output, device: u32, room: u32) -> bool {
        let Some(state) = self.state.streams.get(&stats) else { return false };
        if state.chain.contains(output) && !state.chain.stands_elsewhere(output, device) {
            return false;
        }
        let room = if state.list.contains(output) { room / 2 } else { room };
        state.chain.members_on(device) >= room as usize
    }

    /// How many members of one stream XDP may serve on a device; `None`: all.
    pub(super) fn room(&mut self, device: u32) -> Option<u32> {
        let Wishes { engine, xdp_members } = self.state.wishes(device);
        self.devices.room(device, engine, xdp_members)
    }

    pub(super) fn put_in_chain(
        &mut self,
        stats: u32,
        output: Output,
        spec: &MemberSpec,
        is_new: bool,
    ) -> Result<(), Failure> {
        let ways = self.ways();
        self.change_chain(stats, |state, backing, change| {
            if is_new {
                state.chain.add(output, spec, ways, backing, change)
            } else {
                state.chain.set(output, spec, ways, backing, change)
            }
        })
    }

    /// Changes a stream's members at XDP and lets its entry follow, before what was taken out is retired.
    pub(super) fn change_chain<R>(
        &mut self,
        stats: u32,
        change: impl FnOnce(
            &mut StreamState,
            &mut Backing<'_, KernelMaps, TablePool>,
            &mut member_table::Change,
        ) -> Result<R, KernelError>,
    ) -> Result<R, Failure> {
        let relayed = self.attachments.any_at_tc();
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        if relayed {
            state.chain.note_relayed();
        }
        let mut backing = Backing {
            stream: stats,
            kernel: &mut self.maps,
            tables: &mut self.pool,
            members: &mut self.members,
            shapes: &mut self.shapes,
        };
        let mut old = member_table::Change::default();
        let done = change(state, &mut backing, &mut old);
        let until = state.chain.until();
        self.write_stream(stats)?;
        old.retire(&mut self.pool, until);
        Ok(done?)
    }

    pub(super) fn put_in_list(
        &mut self,
        stats: u32,
        output: Output,
        spec: &MemberSpec,
    ) -> Result<(), Failure> {
        // What comes in at XDP has no other way there; no interface may be on the device for which it was made.
        if self.devices.rule() != Rule::Tc
            && let Err(error) = self.make_list_relay()
        {
            self.do_without_relays(error)?;
        }
        let asks_for_it = self.engine_of(spec.ifindex).0 == Engine::TcClone;
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        if !asks_for_it && !state.priority.at_tc {
            state.crowded.insert(spec.ifindex);
        }
        if self.list_relay.is_none()
            && state.list.needs_run(spec.ifindex, self.list_chunk, limit::OF_DEVICE)
            && let Err(error) = self.make_list_relay()
        {
            self.note_no_relay(&error);
        }
        self.change_list(stats, |list, backing| list.set(output, spec.ifindex, &spec.entry, backing))
    }

    /// Changes a stream's members at TC, and lets the first of them and the way to them follow before what was
    /// taken out is retired.
    pub(super) fn change_list(
        &mut self,
        stats: u32,
        change: impl FnOnce(
            &mut list::MemberList,
            &mut list::Backing<'_, KernelMaps>,
        ) -> Result<list::Change, KernelError>,
    ) -> Result<(), Failure> {
        let state = self.state.streams.get_mut(&stats).ok_or(Failure::Unknown)?;
        let mut backing = list::Backing {
            kernel: &mut self.maps,
            indices: &mut self.members,
            places: &mut self.places,
            retired: &mut self.remains.members,
            list: stats,
            chunk: self.list_chunk,
            of_device: limit::OF_DEVICE,
        };
        let done = change(&mut state.list, &mut backing)?;
        if state.list.len() == 0 {
            state.crowded.clear();
        }
        self.maps.write_length(stats, state.list.len() as u64)?;
        let first = state.list.first();
        if first != state.first_written {
            self.maps.write_list(stats, first)?;
            let before = std::mem::replace(&mut state.first_written, first);
            if (before == 0) != (first == 0) {
                let way = (first != 0).then_some(stats);
                let ways = self.ways();
                self.change_chain(stats, |state, backing, change| {
                    state.chain.set_list(way, ways, backing, change)
                })?;
            }
        }
        self.retire_members(done);
        Ok(())
    }

    pub(super) fn remove_member(&mut self, stream: Stream, output: Output) -> Result<(), Failure> {
        let Some(&stats) = self.state.by_stream.get(&stream) else {
            return Ok(());
        };
        // First, so that a change of the tunnel or neighbour brings the member back in no case.
        self.state.note_left(output, stats);
        self.drop_member(stats, output)
    }

    pub(super) fn drop_member(&mut self, stats: u32, output: Output) -> Result<(), Failure> {
        let key = self.missed_key(stats, output)?;
        let until = self.state.streams.get(&stats).map_or(Until::Walked, |state| state.chain.until());
        let taken_out = self.take_out(stats, output);
        if taken_out.is_err()
            && let Some(state) = self.state.streams.get_mut(&stats)
        {
            state.is_unsure = true;
        }
        self.forget_after(stats, output, key, until);
        taken_out
    }

    /// Takes a member out of where it is, for good or because it goes elsewhere.
    pub(super) fn take_out(&mut self, stats: u32, output: Output) -> Result<(), Failure> {
        let Some(state) = self.state.streams.get(&stats) else {
            return Ok(());
        };
        if state.list.contains(output) {
            self.change_list(stats, |list, backing| list.remove(output, backing))?;
        }
        let ways = self.ways();
        self.change_chain(stats, |state, backing, change| {
            let removed = state.chain.remove(output, ways, backing, change);
            if removed.is_ok() {
                state.forget_member(output);
            }
            removed.map(drop)
        })
    }

    /// Looks through the members of a stream for the largest packet that every link takes whole.
    pub(super) fn refresh_whole_max(&mut self, stats: u32) -> Result<(), Failure> {
        let state = self.state.streams.get(&stats).ok_or(Failure::Unknown)?;
        let least = state.outputs().map(|output| self.state.whole_max(output)).min();
        if let Some(state) = self.state.streams.get_mut(&stats) {
            state.whole_max = least.unwrap_or(u16::MAX);
        }
        self.write_stream(stats)
    }

    /// Counter indices of the streams that an output is a member of.
    pub(super) fn streams_of(&self, output: Output) -> BTreeSet<u32> {
        match output {
            Output::Interface(_) => {
                let member =
                    |state: &StreamState| state.chain.contains(output) || state.list.contains(output);
                let streams = self.state.streams.iter().filter(|(_, state)| member(state));
                streams.map(|(stats, _)| *stats).collect()
            }
            Output::Neighbour(id) => {
                self.state.next_hops.get(&id).map(|state| state.streams.clone()).unwrap_or_default()
            }
            Output::Tunnel(id) => self.state.tunnels.streams(id).into_iter().collect(),
            Output::Converted(id) => self.state.converted.get(&id).cloned().unwrap_or_default(),
        }
    }

    pub(in crate::kernel) fn put_everywhere(&mut self, output: Output) -> Result<(), Failure> {
        self.streams_of(output).into_iter().try_for_each(|stats| self.put_member(stats, output))
    }

    pub(in crate::kernel) fn drop_everywhere(&mut self, output: Output) -> Result<(), Failure> {
        self.streams_of(output).into_iter().try_for_each(|stats| self.drop_member(stats, output))
    }
}

//! What each member has been sent since it joined.
//!
//! No copy is counted by itself. What a member was sent is what the streams that it wants have counted, less what
//! they had counted when it joined: one number for each member, its base, which is corrected when it wants other
//! streams than before. A member in EXCLUDE mode wants all that the group's streams count, those included that are
//! gone, and not those that its list names; one in INCLUDE mode what the streams of its list count.
//!
//! Native members get nothing of what came in on their own interface, so streams that come from there do not count
//! for them. Copies that are dropped for one member alone are what the plane says of it: it counts them apart, where it
//! drops them, for as long as the member is one of that stream, and here they live on until it leaves the group.

mod amount;
mod joins;

use std::{collections::HashMap, net::IpAddr, time::Instant};

use vmcast_common::fib::{Input, Output, Rpf, Stream};
use vmcast_proto::{Few, Filter};

pub(super) use self::amount::Amount;
use self::joins::Joins;

/// In a group with more streams than this a member's base is taken from the last regular reading, so that a join
/// does not read very many counters.
const READ_AT_ONCE: usize = 8;

/// Where the counters of streams are read.
pub(super) trait Readings {
    /// As they are now.
    fn now(&self, stream: Stream) -> Amount;
    /// As they were when all were read.
    fn last(&self, stream: Stream) -> Amount;
    /// What a member has missed since it is one of that stream.
    fn missed(&self, stream: Stream, member: Output) -> Amount;
}

/// What is shown of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Joined {
    /// To a tenth of a second.
    pub(super) at: Instant,
    /// What it was sent since.
    pub(super) sent: Amount,
    /// What was dropped for it alone.
    pub(super) dropped: Amount,
}

#[derive(Debug)]
struct Group {
    /// What it is called in the table of joins.
    number: u32,
    members: u32,
    /// Those in force: of each source, and of all others.
    streams: Few<Option<IpAddr>, Rpf>,
    /// What streams had counted that are in force no longer.
    gone: Amount,
}

/// Every member of every group.
#[derive(Debug, Default)]
pub(super) struct Tally {
    groups: HashMap<IpAddr, Group>,
    /// Numbers that groups have no more.
    free: Vec<u32>,
    joins: Joins,
    /// What members have missed of streams that they are no members of any more, by the group's number.
    missed: HashMap<(u32, Output), Amount>,
}

impl Tally {
    /// A member wants something of a group from now on, if it did not.
    pub(super) fn join(
        &mut self,
        now: Instant,
        address: IpAddr,
        member: Output,
        filter: &Filter,
        readings: &dyn Readings,
    ) {
        let Self { groups, free, joins, .. } = self;
        let group = group(groups, free, address);
        if joins.get(group.number, member).is_some() {
            return;
        }
        let base = group.counted(address, member, filter, readings);
        if joins.insert(group.number, member, now, base) {
            group.members += 1;
        }
    }

    /// A member wants nothing of a group any more.
    pub(super) fn leave(&mut self, address: IpAddr, member: Output) {
        if let Some(group) = self.groups.get_mut(&address)
            && self.joins.remove(group.number, member)
        {
            group.members -= 1;
            self.missed.remove(&(group.number, member));
            self.drop_empty(address);
        }
    }

    /// A member wants something else of a group; streams that come or go with that have not yet.
    pub(super) fn change(
        &mut self,
        address: IpAddr,
        member: Output,
        (old, new): (&Filter, &Filter),
        readings: &dyn Readings,
    ) {
        if let Some(group) = self.groups.get(&address) {
            let before = group.counted(address, member, old, readings);
            let after = group.counted(address, member, new, readings);
            self.joins.shift(group.number, member, after.minus(before));
        }
    }

    /// A stream is in force, or comes from elsewhere. `filter_of` says what a member wants.
    pub(super) fn set_stream(
        &mut self,
        stream: Stream,
        rpf: Rpf,
        filter_of: impl Fn(Output) -> Filter,
        readings: &dyn Readings,
    ) {
        let group = group(&mut self.groups, &mut self.free, stream.group);
        let before = group.streams.insert(stream.source, rpf);
        if before == Some(rpf) {
            return;
        }
        let counted = readings.now(stream);
        // Who did not get what came from its own interface did not get what was counted till now.
        for (rpf, shift) in [(before, counted), (Some(rpf), Amount::default().minus(counted))] {
            self.shift_native(stream, rpf, shift, &filter_of);
        }
    }

    /// A stream is in force no longer; this is what it has counted.
    pub(super) fn remove_stream(
        &mut self,
        stream: Stream,
        counted: Amount,
        filter_of: impl Fn(Output) -> Filter,
    ) {
        let Some(group) = self.groups.get_mut(&stream.group) else {
            return;
        };
        let rpf = group.streams.remove(&stream.source);
        if rpf.is_some() {
            group.gone = group.gone.plus(counted);
        }
        // What is gone counts for all in EXCLUDE mode.
        self.shift_native(stream, rpf, counted, |member| match filter_of(member) {
            Filter::Include(_) => Filter::none(),
            exclude @ Filter::Exclude(_) => exclude,
        });
        self.drop_empty(stream.group);
    }

    /// When a member joined a group, and what it was sent since.
    pub(super) fn joined(
        &self,
        address: IpAddr,
        member: Output,
        filter: &Filter,
        readings: &dyn Readings,
    ) -> Option<Joined> {
        let group = self.groups.get(&address)?;
        let (at, base) = self.joins.get(group.number, member)?;
        let gone = self.missed.get(&(group.number, member)).copied().unwrap_or_default();
        let streams = group.streams.keys().map(|source| Stream { source: *source, group: address });
        let dropped = streams.fold(gone, |sum, stream| sum.plus(readings.missed(stream, member)));
        let sent = group.counted(address, member, filter, readings).since(base);
        Some(Joined { at, sent: sent.less(dropped), dropped })
    }

    /// Whether a member is one of a group.
    pub(super) fn is_member(&self, address: IpAddr, member: Output) -> bool {
        self.groups.get(&address).is_some_and(|group| self.joins.get(group.number, member).is_some())
    }

    /// A member is to be one of a stream no longer, or the stream is to go; this is what it has missed of it.
    pub(super) fn keep_missed(&mut self, address: IpAddr, member: Output, missed: Amount) {
        if let Some(group) = self.groups.get(&address)
            && self.joins.get(group.number, member).is_some()
        {
            let sum = self.missed.entry((group.number, member)).or_default();
            *sum = sum.plus(missed);
        }
    }

    /// Shifts the base of the native member on whose interface a stream comes in.
    fn shift_native(
        &mut self,
        stream: Stream,
        rpf: Option<Rpf>,
        shift: Amount,
        filter_of: impl Fn(Output) -> Filter,
    ) {
        let Some(Rpf::Exact(Input::Interface(ifindex))) = rpf else {
            return;
        };
        let member = Output::Interface(ifindex);
        if wants(&filter_of(member), stream.source)
            && let Some(group) = self.groups.get(&stream.group)
        {
            self.joins.shift(group.number, member, shift);
        }
    }

    fn drop_empty(&mut self, address: IpAddr) {
        if let Some(group) = self.groups.get(&address)
            && group.members == 0
            && group.streams.is_empty()
        {
            self.free.push(group.number);
            self.groups.remove(&address);
        }
    }
}

/// A group, which is there from now on if it was not.
fn group<'a>(groups: &'a mut HashMap<IpAddr, Group>, free: &mut Vec<u32>, address: IpAddr) -> &'a mut Group {
    let fresh = free.last().copied().unwrap_or(groups.len() as u32);
    groups.entry(address).or_insert_with(|| {
        free.pop();
        Group { number: fresh, members: 0, streams: Few::new(), gone: Amount::default() }
    })
}

impl Group {
    /// What all has been counted that a member wants.
    fn counted(&self, address: IpAddr, member: Output, filter: &Filter, readings: &dyn Readings) -> Amount {
        let read = |source| {
            let stream = Stream { source, group: address };
            if self.streams.len() <= READ_AT_ONCE { readings.now(stream) } else { readings.last(stream) }
        };
        let reaches = |rpf: &Rpf| match (rpf, member) {
            (Rpf::Exact(Input::Interface(from)), Output::Interface(to)) => *from != to,
            (Rpf::Exact(_) | Rpf::AnyUpstream, _) => true,
        };
        let add = |sum: Amount, source| sum.plus(read(source));
        match filter {
            Filter::Include(sources) => sources
                .iter()
                .map(|source| Some(*source))
                .filter(|source| self.streams.get(source).is_some_and(reaches))
                .fold(Amount::default(), add),
            Filter::Exclude(_) => self
                .streams
                .iter()
                .filter(|(source, rpf)| wants(filter, **source) && reaches(rpf))
                .map(|(source, _)| *source)
                .fold(self.gone, add),
        }
    }
}

/// Whether a stream's packets are for a member with this filter.
fn wants(filter: &Filter, source: Option<IpAddr>) -> bool {
    match source {
        Some(source) => filter.wants(source),
        None => matches!(filter, Filter::Exclude(_)),
    }
}

#[cfg(test)]
mod tests;

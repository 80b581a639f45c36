//! The members of one stream at XDP: member tables, each of which leads to the next.
//!
//! A run of a program serves one table; a copy that goes through a relay device starts the next run with the next
//! table. A packet that is on its way meets the tables as they led to each other when it met them: a table
//! that is replaced still leads on, and stays for as long as frames before the relay may name it. So the members
//! of a table may change, and one may become two, but no member moves past another table.
//!
//! Nor does a member ever come nearer to the front: packets wait in one row, and a packet that comes later and to
//! which a member is nearer would overtake one that waits. So a table that members have left stays where it is, as
//! long as others stand behind it, and is filled again by those who join; what it costs is a run of a program. The
//! stream had as many members once as its tables are for, so that is little beside the copies it was made of. What it
//! costs in memory is given back ([`Chain::gather`]).
//!
//! The copies of a packet for one device are least work if they are made together. So members of a device come
//! to one table as long as that has room, and a full table with many devices is split between them. But a device has
//! room for so many at a time, and sends no more than a few dozen in one turn: one with very many members has no more of
//! them in each table ([`limit::OF_DEVICE`]), so that what a run of the program makes is gone when the next one begins.

mod gather;

#[cfg(doc)]
use vmcast_common::maps::limit;
use vmcast_common::{fib::Output, maps::MemberEntry};

use super::{
    error::KernelError,
    member_table::{Backing, Change, MemberSpec, MemberTable, TO_LIST, TO_TABLE},
    pool::{Tables, Until},
    shapes::Shapes,
    writes::MemberWrites,
};

/// The devices of ours that copies go through, where there are any, and how many go before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ways {
    /// Members of one table at most, 1 to [`limit::CHUNK`].
    pub(super) chunk: u32,
    /// Those of them on one device, where more of them are enough for another table.
    pub(super) of_device: u32,
    /// Towards the program that goes on with a table.
    pub(super) tables: Option<u32>,
    /// Towards the program that serves members at TC.
    pub(super) lists: Option<u32>,
}

impl Ways {
    /// Devices of a full table that is not split any more: so many that each gets a few copies of a packet at a
    /// time from a table, which is less work than one by one, and not so many that its ring overflows when
    /// packets come in a row.
    fn devices(&self) -> usize {
        (self.chunk as usize / COPIES_AT_A_TIME).max(1)
    }
}

/// Copies that one table has for a device, about: one of the bulks in which the kernel hands them over
/// (`DEV_MAP_BULK_SIZE`).
const COPIES_AT_A_TIME: usize = 16;

/// The share of its room that a table has members for, on average, if one more is made of another: one in so many.
const LEAST_SHARE: usize = 4;

/// A table, and the number of the one that it leads to.
#[derive(Debug, Default)]
struct Link {
    table: MemberTable,
    leads_to: u32,
    /// The table that the kernel was told of how many members it and those behind it have, and how many.
    ahead: (u32, u64),
}

impl Link {
    /// Whether nobody would miss it: it has no members, nor the way to those at TC.
    fn only_leads_on(&self) -> bool {
        self.table.members() == 0 && !self.table.contains(TO_LIST)
    }
}

/// The members of one stream at XDP, and the way to those at TC.
#[derive(Debug, Default)]
pub(super) struct Chain {
    links: Vec<Link>,
    /// Tables that something may still lead to.
    out: Change,
    /// Whether frames before a relay device may name a table of this chain.
    relayed: bool,
    /// A table that probably has a place for one more member: that of the last change.
    likely: usize,
}

impl Chain {
    /// The number of the first table: 0 while there is no member, here or at TC.
    pub(super) fn id(&self) -> u32 {
        self.links.first().map_or(0, |link| link.table.id())
    }

    pub(super) fn outputs(&self) -> impl Iterator<Item = Output> + '_ {
        self.links.iter().flat_map(|link| link.table.outputs())
    }

    /// Whether no member is here; there may be a way to others.
    pub(super) fn is_empty(&self) -> bool {
        self.links.iter().all(|link| link.table.members() == 0)
    }

    /// How many devices the members of each table are on.
    #[cfg(test)]
    pub(super) fn devices(&self) -> Vec<usize> {
        self.links.iter().map(|link| link.table.devices().len()).collect()
    }

    /// Checks that what is noted of devices is what the slots say.
    #[cfg(test)]
    pub(super) fn check_counts(&self) {
        self.links.iter().for_each(|link| link.table.check_counts());
    }

    /// How many members each table has.
    #[cfg(test)]
    pub(super) fn members(&self) -> Vec<usize> {
        self.links.iter().map(|link| link.table.members()).collect()
    }

    /// The tables, by the places of their devmaps.
    pub(super) fn devmaps<'a>(&'a self, shapes: &'a Shapes) -> impl Iterator<Item = u32> + 'a {
        self.links.iter().map(|link| link.table.devmap(shapes))
    }

    /// Whether a table leads to a next one.
    pub(super) fn leads_on(&self) -> bool {
        self.links.len() > 1
    }

    /// A member as the kernel has it; `None` if it is none.
    ///
    /// # Errors
    /// If the kernel does not let it be read.
    pub(super) fn entry<K: MemberWrites>(
        &self,
        output: Output,
        kernel: &K,
    ) -> Result<Option<MemberEntry>, KernelError> {
        let member = self.links.iter().find_map(|link| link.table.member(output.number()));
        member.map(|member| kernel.read_member(member)).transpose()
    }

    pub(super) fn contains(&self, output: Output) -> bool {
        self.position(output.number()).is_some()
    }

    /// How many members are on a device.
    pub(super) fn members_on(&self, ifindex: u32) -> usize {
        self.links.iter().map(|link| link.table.members_on(ifindex)).sum()
    }

    /// Whether a member is in it, but on another device than this.
    pub(super) fn stands_elsewhere(&self, output: Output, ifindex: u32) -> bool {
        let number = output.number();
        self.links.iter().any(|link| link.table.device_of(number).is_some_and(|device| device != ifindex))
    }

    /// For how long somebody may still come to a table that was taken out.
    pub(super) const fn until(&self) -> Until {
        if self.relayed { Until::Relayed } else { Until::Walked }
    }

    fn position(&self, number: u32) -> Option<usize> {
        self.links.iter().position(|link| link.table.contains(number))
    }

    /// Adds a member or changes what is known of it. What goes into `change` is to be retired also after
    /// an error, once the stream's entry names the first table as it is then.
    ///
    /// # Errors
    /// If the kernel refuses a write, a table is full, or one more table is needed and there is no relay.
    pub(super) fn set<K: MemberWrites, T: Tables>(
        &mut self,
        output: Output,
        spec: &MemberSpec,
        ways: Ways,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        let number = output.number();
        let Some(at) = self.position(number) else {
            return self.add(output, spec, ways, backing, change);
        };
        self.likely = at;
        let set = self.links[at].table.set(number, spec, backing, &mut self.out);
        self.settle(ways, backing, change).and(set)
    }

    /// Adds a member that is not in it: it is not looked for among all of them, who may be very many. For `change` see
    /// [`Chain::set`].
    ///
    /// # Errors
    /// As of [`Chain::set`].
    pub(super) fn add<K: MemberWrites, T: Tables>(
        &mut self,
        output: Output,
        spec: &MemberSpec,
        ways: Ways,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        let at = match self.place(spec.ifindex, ways, backing) {
            Ok(at) => at,
            Err(error) => return self.settle(ways, backing, change).and(Err(error)),
        };
        self.likely = at;
        let added = self.links[at].table.add(output.number(), spec, backing, &mut self.out);
        self.settle(ways, backing, change).and(added)
    }

    /// The table that takes one more member on a device: one with members of that device, if there is room. A
    /// full one is split if there are many devices in it.
    fn place<K: MemberWrites, T: Tables>(
        &mut self,
        ifindex: u32,
        ways: Ways,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<usize, KernelError> {
        let likely = self.links.get(self.likely);
        if likely.is_some_and(|link| link.table.has_tombstone(ifindex, ways.chunk)) {
            return Ok(self.likely);
        }
        let fit = |(at, link): (usize, &Link)| {
            let fit = link.table.fit(ways.chunk)?;
            let crowded = ways.tables.is_some() && link.table.members_on(ifindex) >= ways.of_device as usize;
            Some((crowded, !link.table.knows(ifindex), fit, at))
        };
        let best = self.links.iter().enumerate().filter_map(fit).min();
        if let Some((false, false, _, at)) = best {
            return Ok(at);
        }
        let mixed = |link: &Link| {
            let is_full = link.table.fit(ways.chunk).is_none();
            is_full && link.table.knows(ifindex) && link.table.devices().len() > ways.devices()
        };
        if let Some(relay) = ways.tables
            && self.may_grow(ways)
            && let Some(at) = self.links.iter().position(mixed)
        {
            self.split(at, relay, backing)?;
            return Ok(if self.links[at].table.knows(ifindex) { at } else { at + 1 });
        }
        match best {
            Some((false, _, _, at)) => return Ok(at),
            Some((true, _, _, at)) if !self.may_grow(ways) => return Ok(at),
            Some((true, ..)) | None => {}
        }
        if !self.links.is_empty() {
            if ways.tables.is_none() {
                let table = "members of one stream without a relay device";
                return Err(KernelError::Full { table, limit: ways.chunk });
            }
            self.relayed = true;
        }
        self.add_link();
        Ok(self.links.len() - 1)
    }

    /// Most streams have one table: no room for more is kept in advance.
    fn add_link(&mut self) {
        if self.links.is_empty() {
            self.links.reserve_exact(1);
        }
        self.links.push(Link::default());
    }

    /// Whether the members are many enough for one more table where others have room. As tables stay, members who come
    /// and go would make ever more of them.
    fn may_grow(&self, ways: Ways) -> bool {
        let members: usize = self.links.iter().map(|link| link.table.members()).sum();
        members * LEAST_SHARE >= (self.links.len() + 1) * ways.chunk as usize
    }

    /// Makes one table two, which lead on as it did, before anything leads to them.
    fn split<K: MemberWrites, T: Tables>(
        &mut self,
        at: usize,
        relay: u32,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let Link { table, leads_to, .. } = &mut self.links[at];
        let (mut first, mut second) = table.halves(backing)?;
        let mut change = Change::default();
        let mut link = |table: &mut MemberTable, next: u32| match next {
            0 => Ok(()),
            next => table.set(TO_TABLE, &way(relay, MemberEntry::to_table(next)), backing, &mut change),
        };
        if let Err(error) = link(&mut second, *leads_to).and_then(|()| link(&mut first, second.id())) {
            change.append(first.dismiss());
            change.append(second.dismiss());
            change.retire(backing.tables, Until::Walked);
            return Err(error);
        }
        let next = std::mem::replace(leads_to, second.id());
        change.append(std::mem::replace(table, first).dismiss());
        self.out.append(change);
        self.links.insert(at + 1, Link { table: second, leads_to: next, ahead: (0, 0) });
        self.relayed = true;
        Ok(())
    }

    /// Removes a member; false if it was none. For `change` see [`Chain::set`].
    ///
    /// # Errors
    /// If the kernel refuses a write.
    pub(super) fn remove<K: MemberWrites, T: Tables>(
        &mut self,
        output: Output,
        ways: Ways,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<bool, KernelError> {
        let Some(at) = self.position(output.number()) else {
            return Ok(false);
        };
        self.likely = at;
        let removed = self.links[at].table.remove(output.number(), backing, &mut self.out);
        self.settle(ways, backing, change).and(removed)
    }

    /// Makes the first table lead to the members at TC, or no longer. For `change` see [`Chain::set`].
    ///
    /// # Errors
    /// If the kernel refuses a write.
    pub(super) fn set_list<K: MemberWrites, T: Tables>(
        &mut self,
        list: Option<u32>,
        ways: Ways,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        let set = match (list, ways.lists) {
            (Some(list), Some(ifindex)) => {
                if self.links.is_empty() {
                    self.add_link();
                }
                let spec = way(ifindex, MemberEntry::to_list(list));
                self.links[0].table.set(TO_LIST, &spec, backing, &mut self.out)
            }
            (Some(_), None) | (None, _) => match self.links.first_mut() {
                Some(first) => first.table.remove(TO_LIST, backing, &mut self.out).map(drop),
                None => Ok(()),
            },
        };
        self.settle(ways, backing, change).and(set)
    }

    /// Notes that frames before a relay device name the first table.
    pub(super) fn note_relayed(&mut self) {
        self.relayed = true;
    }

    /// Lets each table lead to the next, and gives up what nothing leads to.
    fn settle<K: MemberWrites, T: Tables>(
        &mut self,
        ways: Ways,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        // The first may be without members: the way to the members at TC must not move.
        while self.links.len() > 1
            && let Some(mut link) = self.links.pop_if(|last| last.table.members() == 0)
        {
            self.out.append(link.table.dismiss());
        }
        for at in (0..self.links.len()).rev() {
            let next = self.links.get(at + 1).map_or(0, |next| next.table.id());
            let link = &mut self.links[at];
            if link.leads_to == next {
                continue;
            }
            match ways.tables {
                Some(ifindex) if next != 0 => {
                    link.table.set(
                        TO_TABLE,
                        &way(ifindex, MemberEntry::to_table(next)),
                        backing,
                        &mut self.out,
                    )?;
                }
                Some(_) | None => {
                    link.table.remove(TO_TABLE, backing, &mut self.out)?;
                }
            }
            link.leads_to = next;
        }
        self.count_ahead(backing)?;
        if self.links.first().is_some_and(|first| first.table.id() == 0) {
            self.links.clear();
        }
        change.append(std::mem::take(&mut self.out));
        Ok(())
    }

    /// Tells the kernel how many members a packet goes to from each table on, for those that miss one.
    fn count_ahead<K: MemberWrites, T: Tables>(
        &mut self,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        let mut ahead = 0;
        for link in self.links.iter_mut().rev() {
            ahead += link.table.members() as u64;
            let now = (link.table.id(), ahead);
            if now != link.ahead && now.0 != 0 {
                backing.kernel.write_ahead(now.0, now.1)?;
                link.ahead = now;
            }
        }
        Ok(())
    }

    /// Whether members of a device are, or were, in it.
    pub(super) fn knows(&self, ifindex: u32) -> bool {
        self.links.iter().any(|link| link.table.knows(ifindex))
    }

    /// Puts a device that was gone into its slots again, which the kernel has emptied. For `change` see [`Chain::set`].
    ///
    /// # Errors
    /// If the kernel refuses a write.
    pub(super) fn restore<K: MemberWrites, T: Tables>(
        &mut self,
        ifindex: u32,
        ways: Ways,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        let mut with_it = self.links.iter_mut().filter(|link| link.table.knows(ifindex));
        let restored = with_it.try_for_each(|link| link.table.rebuild(backing, &mut self.out));
        self.settle(ways, backing, change).and(restored)
    }

    /// Lets tables that have not changed for a while share their devmaps.
    ///
    /// # Errors
    /// If the kernel refuses a write.
    pub(super) fn rest<K: MemberWrites, T: Tables>(
        &mut self,
        backing: &mut Backing<'_, K, T>,
    ) -> Result<(), KernelError> {
        self.links.iter_mut().try_for_each(|link| link.table.rest(backing))
    }

    /// Gives up all tables, once no stream names them.
    pub(super) fn dismiss(&mut self) -> Change {
        let mut change = std::mem::take(&mut self.out);
        for mut link in self.links.drain(..) {
            change.append(link.table.dismiss());
        }
        change
    }
}

fn way(ifindex: u32, entry: MemberEntry) -> MemberSpec {
    MemberSpec { ifindex, entry, weak: false }
}

//! Chains that were longer once.
//!
//! A member must not come nearer to the front while packets may be on their way, so the chain keeps its length. But the
//! members need not be all over it: they are gathered in tables of their own at the far end, and what stands in front of
//! those has a way on and nothing else. Tables of that kind are all of one shape, and so have one devmap. No member
//! comes nearer: behind the place where one stood there was room for as many as stood there and farther, and it is in
//! this order that they are gathered. Packets that are on their way go on by the tables that were.
//!
//! Tables without members go in a moment in which no packet is on its way, which a stream need not pause for: see
//! [`super::super::quiet`].

use vmcast_common::maps::MemberEntry;

use super::{Chain, Link, Ways, way};
use crate::kernel::{
    error::KernelError,
    member_table::{Backing, Change, MemberTable, TO_LIST, TO_TABLE},
    pool::{Tables, Until},
    writes::MemberWrites,
};

/// So many times as many tables with members as there need be are gathered.
const TOO_MANY: usize = 2;

impl Chain {
    /// Whether the members are in many more tables than they need.
    pub(in crate::kernel) fn is_sparse(&self, ways: Ways) -> bool {
        let with_members = self.links.iter().filter(|link| link.table.members() > 0).count();
        let members: usize = self.links.iter().map(|link| link.table.members()).sum();
        let is_more_than = |needed: usize| with_members > TOO_MANY * needed;
        // Each look is cheaper than the next, which goes over all members.
        ways.tables.is_some()
            && is_more_than(members.div_ceil(ways.chunk as usize))
            && is_more_than(MemberTable::needed_at_least(&self.tables(), ways.of_device))
            && is_more_than(MemberTable::needed(&self.tables(), ways.chunk, ways.of_device))
    }

    fn tables(&self) -> Vec<&MemberTable> {
        self.links.iter().map(|link| &link.table).collect()
    }

    /// Gathers the members in as few tables as they need. For `change` see [`Chain::set`].
    ///
    /// # Errors
    /// If the kernel refuses a write or there is no room; then all stays as it is.
    pub(in crate::kernel) fn gather<K: MemberWrites, T: Tables>(
        &mut self,
        ways: Ways,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        let Some(relay) = ways.tables else {
            return Ok(());
        };
        let mut tables = MemberTable::gather(&self.tables(), ways.chunk, ways.of_device, backing)?;
        let pads = self.links.len().saturating_sub(tables.len());
        tables.splice(..0, (0..pads).map(|_| MemberTable::default()));
        let mut unused = Change::default();
        match self.lead_on(&mut tables, relay, ways, backing, &mut unused) {
            Ok(links) => {
                for mut link in std::mem::replace(&mut self.links, links) {
                    self.out.append(link.table.dismiss());
                }
                self.out.append(unused);
                self.likely = 0;
                self.settle(ways, backing, change)
            }
            Err(error) => {
                tables.iter_mut().for_each(|table| unused.append(table.dismiss()));
                unused.retire(backing.tables, Until::Walked);
                Err(error)
            }
        }
    }

    /// Lets fresh tables lead each to the next, and the first to the members at TC if this chain does.
    fn lead_on<K: MemberWrites, T: Tables>(
        &self,
        tables: &mut Vec<MemberTable>,
        relay: u32,
        ways: Ways,
        backing: &mut Backing<'_, K, T>,
        unused: &mut Change,
    ) -> Result<Vec<Link>, KernelError> {
        let mut next = 0;
        let mut leads_to = Vec::new();
        for table in tables.iter_mut().rev() {
            if next != 0 {
                table.set(TO_TABLE, &way(relay, MemberEntry::to_table(next)), backing, unused)?;
            }
            leads_to.push(next);
            next = table.id();
        }
        let list = self.links.first().and_then(|first| first.table.member(TO_LIST));
        if let (Some(list), Some(first), Some(ifindex)) = (list, tables.first_mut(), ways.lists) {
            let entry = MemberEntry { next: 0, ..backing.kernel.read_member(list)? };
            first.set(TO_LIST, &way(ifindex, entry), backing, unused)?;
        }
        let leads_to = leads_to.into_iter().rev();
        Ok(tables
            .drain(..)
            .zip(leads_to)
            .map(|(table, leads_to)| Link { table, leads_to, ahead: (0, 0) })
            .collect())
    }

    /// Whether there are tables that only lead on and may go once nothing is on its way.
    pub(in crate::kernel) fn may_be_shorter(&self) -> bool {
        self.links.iter().any(Link::only_leads_on)
    }

    /// Takes out the tables without members: nobody loses or doubles a packet, but one on its way would be overtaken by
    /// the next. The first one stays if it leads to members at TC. For `change` see [`Chain::set`].
    ///
    /// # Errors
    /// If the kernel refuses a write.
    pub(in crate::kernel) fn shorten<K: MemberWrites, T: Tables>(
        &mut self,
        ways: Ways,
        backing: &mut Backing<'_, K, T>,
        change: &mut Change,
    ) -> Result<(), KernelError> {
        for mut link in self.links.extract_if(.., |link| link.only_leads_on()) {
            self.out.append(link.table.dismiss());
        }
        self.likely = 0;
        self.settle(ways, backing, change)
    }
}

//! Every group.

use std::{collections::BTreeMap, net::IpAddr};

use vmcast_common::fib;

use super::group::Group;

/// A group's place.
#[derive(Clone, Copy, Debug)]
struct GroupId(u32);

/// The groups that have members.
///
/// Trees, not hash tables: their order is the same in every run, no peer can choose addresses that
/// collide, and growth never copies the whole.
#[derive(Debug, Default)]
pub(super) struct Groups {
    ids: BTreeMap<IpAddr, GroupId>,
    /// Boxed, so that a place that was used once costs little for ever.
    slots: Vec<Option<Box<Group>>>,
    free: Vec<GroupId>,
}

impl Groups {
    pub(super) fn get(&self, address: IpAddr) -> Option<&Group> {
        self.slot(*self.ids.get(&address)?)
    }

    pub(super) fn get_mut(&mut self, address: IpAddr) -> Option<&mut Group> {
        let id = *self.ids.get(&address)?;
        self.slots.get_mut(id.0 as usize)?.as_deref_mut()
    }

    /// The group, made if it does not exist.
    pub(super) fn make(&mut self, address: IpAddr) -> &mut Group {
        let id = *self.ids.entry(address).or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                GroupId(u32::try_from(self.slots.len() - 1).expect("fewer groups than u32 counts"))
            })
        });
        self.slots[id.0 as usize].get_or_insert_with(|| Box::new(Group::new(address)))
    }

    /// Drops a group that has no members.
    pub(super) fn drop_empty(&mut self, address: IpAddr) {
        let Some(&id) = self.ids.get(&address) else { return };
        if self.slot(id).is_some_and(Group::is_empty) {
            self.ids.remove(&address);
            self.slots[id.0 as usize] = None;
            self.free.push(id);
        }
    }

    /// The groups that a member is in, found by looking at every group.
    pub(super) fn of_member(&self, member: fib::Output) -> impl Iterator<Item = IpAddr> {
        let groups = self.slots.iter().flatten();
        groups.filter(move |group| group.has_member(member)).map(|group| group.address())
    }

    /// Every group, ascending by address.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.ids.values().filter_map(|id| self.slot(*id))
    }

    /// Every group, by its place.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.slots.iter_mut().flatten().map(Box::as_mut)
    }

    fn slot(&self, id: GroupId) -> Option<&Group> {
        self.slots.get(id.0 as usize)?.as_deref()
    }
}

//! The members of a stream, as the kernel program walks them.
//!
//! A new member is written first and then linked to the one before it. To remove one, the member before it is
//! linked to the one behind; to change one, a new one takes its place. What was taken out still leads on,
//! for a walk that stands there, and must not be used again before all such walks have ended.
//!
//! A run of the program ends at a pause, which is an entry of the list among the members. From there the packet goes
//! through a relay device, by the number of the pause, and the next run goes on behind it. A pause stays where it is for
//! as long as the list has members, and so does a member; new ones fill up what is between two pauses before there
//! is one more. So every packet needs as many runs to come to a member as those before it, or more: as packets
//! wait in one row, none overtakes another, and a member who leaves is never the place where a packet waits. What that
//! costs is a run for each pause of a list that was longer once.
//!
//! A device that is handed one copy costs about as much as one that is handed several in a row: it is polled once for
//! them. So a run has groups of members that are on one device and stand one behind the other, and there may be more
//! runs than the members would fill, though not many more, so that each has few devices. One with very many members has
//! no more than a few dozen of them in a run ([`limit::OF_DEVICE`]), which it sends before the next run's come.

use std::collections::HashMap;

#[cfg(doc)]
use vmcast_common::maps::limit;
use vmcast_common::{fib::Output, maps::MemberEntry};

use crate::kernel::{error::KernelError, index::Indices};

/// The kernel's table of members; a test puts a model of the kernel's walk in this place.
pub(crate) trait ListWrites {
    /// Reads a member back.
    fn read(&self, index: u32) -> Result<MemberEntry, KernelError>;
    /// Writes a member.
    fn write(&mut self, index: u32, entry: &MemberEntry) -> Result<(), KernelError>;
}

/// Groups of members on one device that a run has at most.
const GROUPS: usize = 4;
/// Members of a run for each of its groups, about.
const IN_A_ROW: u32 = 16;
/// The share of its room that a run has members for, on average, if there is one more while others have room: one in so
/// many.
const LEAST_SHARE: usize = 4;

/// Where a member or a pause stands; index 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    before: u32,
    behind: u32,
    seat: Seat,
}

/// The run that serves a member, and its group there, in four bytes, for there are as many as members.
#[derive(Clone, Copy, Debug, Default)]
struct Seat(u32);

impl Seat {
    const GROUP_BITS: u32 = 3;

    /// In a run, from 0 on, and in one of its groups or none. A pause is in the run that it ends.
    const fn new(run: u32, group: Option<usize>) -> Self {
        let group = match group {
            Some(group) => group as u32 + 1,
            None => 0,
        };
        Self(run << Self::GROUP_BITS | group)
    }

    const fn run(self) -> usize {
        (self.0 >> Self::GROUP_BITS) as usize
    }

    fn group(self) -> Option<usize> {
        (self.0 & ((1 << Self::GROUP_BITS) - 1)).checked_sub(1).map(|group| group as usize)
    }
}

/// Where the members of all lists stand, by their index.
#[derive(Debug, Default)]
pub(crate) struct Places(Vec<Place>);

impl Places {
    fn at(&mut self, index: u32) -> &mut Place {
        let at = index as usize;
        if at >= self.0.len() {
            self.0.resize(at + 1, Place::default());
        }
        &mut self.0[at]
    }
}

/// What all lists share, and what a change must know of its list.
pub(crate) struct Backing<'a, K> {
    pub(crate) kernel: &'a mut K,
    pub(crate) indices: &'a mut Indices,
    pub(crate) places: &'a mut Places,
    /// What a change that failed has left.
    pub(crate) retired: &'a mut Vec<u32>,
    /// The place of the list in [`vmcast_common::maps::LISTS`].
    pub(crate) list: u32,
    /// Members that one run serves at most, at least 1.
    pub(crate) chunk: u32,
    /// Those of them on one device, where more of them are enough for another run.
    pub(crate) of_device: u32,
}

/// What is left to do for a change: indices that are to be used again, but not yet.
#[must_use = "the kernel must be told of the first member, and then what was taken out is to be retired"]
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Members: not while a walk that has begun may stand there.
    pub(crate) walked: Vec<u32>,
    /// Pauses, and members if pauses may lead to them: not while frames before a relay device name them.
    pub(crate) relayed: Vec<u32>,
}

/// Members on one device that stand one behind the other.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    device: u32,
    /// Index of the last of them.
    last: u32,
    /// How many there are; 0 if there is no such group.
    members: u32,
}

/// What one run of the program serves.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    /// Index of the pause before it, 0 for the first.
    pause: u32,
    /// How many members it has at present, in groups or not.
    members: u32,
    groups: [Group; GROUPS],
}

impl Run {
    /// The group of a device.
    fn group_of(&self, device: u32) -> Option<usize> {
        self.groups.iter().position(|group| group.members > 0 && group.device == device)
    }

    /// A group that there is not yet, in a run of `chunk` members.
    fn free_group(&self, chunk: u32) -> Option<usize> {
        let most = (chunk / IN_A_ROW).clamp(1, GROUPS as u32) as usize;
        self.groups[..most].iter().position(|group| group.members == 0)
    }

    /// Takes note of a member.
    fn join(&mut self, index: u32, device: u32, group: Option<usize>) {
        self.members += 1;
        if let Some(group) = group {
            let members = self.groups[group].members + 1;
            self.groups[group] = Group { device, last: index, members };
        }
    }

    /// Takes note that a member has left, which stood behind another.
    fn leave(&mut self, index: u32, before: u32, group: Option<usize>) {
        self.members -= 1;
        if let Some(group) = group {
            let group = &mut self.groups[group];
            group.members -= 1;
            if group.last == index {
                // If there are others, the one before is one of them.
                group.last = before;
            }
        }
    }
}

/// The members of one stream.
#[derive(Debug, Default)]
pub(crate) struct MemberList {
    first: u32,
    last: u32,
    by_output: HashMap<Output, u32>,
    runs: Vec<Run>,
}

impl MemberList {
    /// Index of the first member or pause, 0 if there is no member.
    pub(crate) const fn first(&self) -> u32 {
        self.first
    }

    pub(crate) fn outputs(&self) -> impl Iterator<Item = Output> + '_ {
        self.by_output.keys().copied()
    }

    /// How many members it has.
    pub(crate) fn len(&self) -> usize {
        self.by_output.len()
    }

    pub(crate) fn contains(&self, output: Output) -> bool {
        self.by_output.contains_key(&output)
    }

    /// A member as the kernel has it; `None` if it is none.
    ///
    /// # Errors
    /// If the kernel does not let it be read.
    pub(crate) fn entry<K: ListWrites>(
        &self,
        output: Output,
        kernel: &K,
    ) -> Result<Option<MemberEntry>, KernelError> {
        self.by_output.get(&output).map(|index| kernel.read(*index)).transpose()
    }

    /// Whether one more member on a device begins one more run, and so needs the relay device.
    pub(crate) fn needs_run(&self, device: u32, chunk: u32, of_device: u32) -> bool {
        !self.runs.is_empty() && self.run_for(device, chunk, of_device).is_none()
    }

    /// The run that takes one more member on a device, and the group there; `None` if it is to begin one.
    fn run_for(&self, device: u32, chunk: u32, of_device: u32) -> Option<(usize, Option<usize>)> {
        let (mut free, mut any, mut crowded) = (None, None, None);
        for (at, run) in self.runs.iter().enumerate().filter(|(_, run)| run.members < chunk) {
            match run.group_of(device) {
                Some(group) if run.groups[group].members < of_device => return Some((at, Some(group))),
                Some(group) => {
                    crowded = crowded.or(Some((at, Some(group))));
                    continue;
                }
                None => {}
            }
            if free.is_none() {
                free = run.free_group(chunk).map(|group| (at, Some(group)));
            }
            any = any.or(Some((at, None)));
        }
        free.or_else(|| any.or(crowded).filter(|_| !self.may_grow(chunk)))
    }

    /// Whether the members are many enough for one more run where others have room.
    fn may_grow(&self, chunk: u32) -> bool {
        let room = (self.runs.len() + 1).saturating_mul(chunk as usize);
        self.by_output.len() * LEAST_SHARE >= room
    }

    /// Adds a member, which is on a device, or puts what is known of it now in its place.
    ///
    /// # Errors
    /// If the table is full or the kernel refuses a write; nothing has changed then.
    pub(crate) fn set<K: ListWrites>(
        &mut self,
        output: Output,
        device: u32,
        entry: &MemberEntry,
        backing: &mut Backing<'_, K>,
    ) -> Result<Change, KernelError> {
        let old = self.by_output.get(&output).copied();
        if let Some(old) = old {
            let known = backing.kernel.read(old)?;
            if *entry == (MemberEntry { next: 0, ..known }) {
                return Ok(Change::default());
            }
        }
        let place = match old {
            Some(old) => *backing.places.at(old),
            None => match self.place_for(device, backing) {
                Some(place) => place,
                None => return self.begin_run(output, device, entry, backing),
            },
        };
        let index = backing.indices.take()?;
        let linked = backing
            .kernel
            .write(index, &MemberEntry { next: place.behind, ..*entry })
            .and_then(|()| link(place.before, index, backing));
        if let Err(error) = linked {
            // Nobody has seen it, or it leads on where it should not be: either way it waits its turn.
            backing.retired.push(index);
            return Err(error);
        }
        self.put(index, place, backing);
        let (run, group) = (&mut self.runs[place.seat.run()], place.seat.group());
        match (old, group.map(|group| &mut run.groups[group])) {
            (None, _) => run.join(index, device, group),
            (Some(old), Some(group)) if group.last == old => group.last = index,
            (Some(_), Some(_) | None) => {}
        }
        self.by_output.insert(output, index);
        Ok(Change { walked: old.into_iter().collect(), ..Change::default() })
    }

    /// The place for one more member on a device: behind its group, or all others of the run; `None` if it is to begin a
    /// run.
    fn place_for<K>(&mut self, device: u32, backing: &mut Backing<'_, K>) -> Option<Place> {
        if self.runs.is_empty() {
            self.runs.push(Run::default());
        }
        let (run, group) = self.run_for(device, backing.chunk, backing.of_device)?;
        let seat = Seat::new(run as u32, group);
        if let Some(Group { last, .. }) =
            group.map(|group| self.runs[run].groups[group]).filter(|group| group.members > 0)
        {
            return Some(Place { before: last, behind: backing.places.at(last).behind, seat });
        }
        let behind = self.runs.get(run + 1).map_or(0, |next| next.pause);
        let before = match behind {
            0 => self.last,
            behind => backing.places.at(behind).before,
        };
        Some(Place { before, behind, seat })
    }

    /// Adds a member behind a new pause at the end.
    fn begin_run<K: ListWrites>(
        &mut self,
        output: Output,
        device: u32,
        entry: &MemberEntry,
        backing: &mut Backing<'_, K>,
    ) -> Result<Change, KernelError> {
        let pause = backing.indices.take()?;
        let index = backing.indices.take().inspect_err(|_| backing.indices.give_back(pause))?;
        let linked = backing
            .kernel
            .write(index, entry)
            .and_then(|()| {
                let pause_entry = MemberEntry { next: index, ..MemberEntry::pause(backing.list) };
                backing.kernel.write(pause, &pause_entry)
            })
            .and_then(|()| link(self.last, pause, backing));
        if let Err(error) = linked {
            backing.retired.extend([pause, index]);
            return Err(error);
        }
        let run = self.runs.len() as u32;
        self.put(pause, Place { before: self.last, behind: 0, seat: Seat::new(run - 1, None) }, backing);
        self.put(index, Place { before: pause, behind: 0, seat: Seat::new(run, Some(0)) }, backing);
        let mut begun = Run { pause, ..Run::default() };
        begun.join(index, device, Some(0));
        self.runs.push(begun);
        self.by_output.insert(output, index);
        Ok(Change::default())
    }

    /// Puts pauses into runs that are longer than they may be: the list was filled while there was no relay device. A
    /// pause more delays packets that come later, so none overtakes another.
    ///
    /// # Errors
    /// If the table is full or the kernel refuses a write; what is not divided then is one run still.
    pub(crate) fn divide<K: ListWrites>(&mut self, backing: &mut Backing<'_, K>) -> Result<(), KernelError> {
        if self.runs.iter().all(|run| run.members <= backing.chunk) {
            return Ok(());
        }
        let mut divided = Ok(());
        let mut runs = vec![Run::default()];
        let mut pauses = self.pauses().collect::<Vec<_>>().into_iter().peekable();
        let mut at = self.first;
        while at != 0 {
            let place = *backing.places.at(at);
            let mut run = runs.len() as u32 - 1;
            if pauses.next_if_eq(&at).is_some() {
                runs.push(Run { pause: at, ..Run::default() });
            } else {
                if divided.is_ok() && runs[run as usize].members >= backing.chunk {
                    divided = self.pause_before(at, run, backing).map(|pause| {
                        runs.push(Run { pause, ..Run::default() });
                        run += 1;
                    });
                }
                runs[run as usize].members += 1;
            }
            backing.places.at(at).seat = Seat::new(run, None);
            at = place.behind;
        }
        self.runs = runs;
        divided
    }

    /// Puts a pause before a member, at the end of a run. Returns its index.
    fn pause_before<K: ListWrites>(
        &mut self,
        member: u32,
        run: u32,
        backing: &mut Backing<'_, K>,
    ) -> Result<u32, KernelError> {
        let before = backing.places.at(member).before;
        let pause = backing.indices.take()?;
        let entry = MemberEntry { next: member, ..MemberEntry::pause(backing.list) };
        let linked = backing.kernel.write(pause, &entry).and_then(|()| link(before, pause, backing));
        if let Err(error) = linked {
            backing.retired.push(pause);
            return Err(error);
        }
        self.put(pause, Place { before, behind: member, seat: Seat::new(run, None) }, backing);
        Ok(pause)
    }

    /// Removes a member, if it is one.
    ///
    /// # Errors
    /// If the kernel refuses the write; the member stays then.
    pub(crate) fn remove<K: ListWrites>(
        &mut self,
        output: Output,
        backing: &mut Backing<'_, K>,
    ) -> Result<Change, KernelError> {
        let Some(&index) = self.by_output.get(&output) else {
            return Ok(Change::default());
        };
        let Place { before, behind, seat } = *backing.places.at(index);
        link(before, behind, backing)?;
        self.join(before, behind, backing);
        self.by_output.remove(&output);
        self.runs[seat.run()].leave(index, before, seat.group());
        let mut change = Change { walked: vec![index], ..Change::default() };
        if self.by_output.is_empty() {
            // The list begins anew; packets that wait come to nobody.
            let _ = self.cut(backing.kernel);
            change.relayed.extend(self.pauses());
            *self = Self::default();
        }
        Ok(change)
    }

    /// Gives up the whole list, once no stream names it.
    pub(crate) fn dismiss<K: ListWrites>(self, kernel: &mut K) -> Change {
        let cut = self.cut(kernel);
        let mut change = Change { walked: Vec::new(), relayed: self.pauses().collect() };
        let members = self.by_output.into_values();
        match cut {
            Ok(()) => change.walked.extend(members),
            Err(_) => change.relayed.extend(members),
        }
        change
    }

    fn pauses(&self) -> impl Iterator<Item = u32> + '_ {
        self.runs.iter().map(|run| run.pause).filter(|pause| *pause != 0)
    }

    /// Lets no pause lead to anybody.
    fn cut<K: ListWrites>(&self, kernel: &mut K) -> Result<(), KernelError> {
        self.pauses().try_for_each(|pause| {
            let entry = kernel.read(pause)?;
            kernel.write(pause, &MemberEntry { next: 0, ..entry })
        })
    }

    /// Notes where something stands, and that those beside it do.
    fn put<K>(&mut self, index: u32, place: Place, backing: &mut Backing<'_, K>) {
        *backing.places.at(index) = place;
        self.join(place.before, index, backing);
        self.join(index, place.behind, backing);
    }

    /// Notes that two stand one behind the other; 0 is the end of the list on either side.
    fn join<K>(&mut self, before: u32, behind: u32, backing: &mut Backing<'_, K>) {
        match before {
            0 => self.first = behind,
            before => backing.places.at(before).behind = behind,
        }
        match behind {
            0 => self.last = before,
            behind => backing.places.at(behind).before = before,
        }
    }
}

/// Makes a member lead to another.
fn link<K: ListWrites>(before: u32, behind: u32, backing: &mut Backing<'_, K>) -> Result<(), KernelError> {
    if before == 0 {
        return Ok(());
    }
    let entry = backing.kernel.read(before)?;
    backing.kernel.write(before, &MemberEntry { next: behind, ..entry })
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;

//! The members of a stream, as the kernel program walks them.
//!
//! A new member is written first and then linked to the last one. To remove one, the member before it is
//! linked to the one behind; to change one, a new one takes its place. What was taken out still leads on,
//! for a walk that stands there, and must not be used again before all such walks have ended.

use std::collections::HashMap;

use vmcast_common::{fib::Output, maps::MemberEntry};

use crate::kernel::{error::KernelError, index::Indices};

/// The kernel's table of members; a test puts a model of the kernel's walk in this place.
pub(crate) trait ListWrites {
    /// Reads a member back.
    fn read(&self, index: u32) -> Result<MemberEntry, KernelError>;
    /// Writes a member.
    fn write(&mut self, index: u32, entry: &MemberEntry) -> Result<(), KernelError>;
}

/// Where a member stands; index 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    before: u32,
    behind: u32,
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

/// What all lists share.
pub(crate) struct Backing<'a, K> {
    pub(crate) kernel: &'a mut K,
    pub(crate) indices: &'a mut Indices,
    pub(crate) places: &'a mut Places,
    /// Members that were taken out.
    pub(crate) retired: &'a mut Vec<u32>,
}

/// What is left to do for a change: the kernel begins its walks where it was told.
#[must_use = "the kernel must be told of the first member, and then what was taken out is to be retired"]
#[derive(Debug, Default)]
pub(crate) struct Change {
    out: Option<u32>,
}

impl Change {
    /// Retires what was taken out. Call it only after the kernel was told of the first member.
    pub(crate) fn retire(self, retired: &mut Vec<u32>) {
        retired.extend(self.out);
    }
}

/// The members of one stream.
#[derive(Debug, Default)]
pub(crate) struct MemberList {
    first: u32,
    last: u32,
    by_output: HashMap<Output, u32>,
}

impl MemberList {
    /// Index of the first member, 0 if there is none.
    pub(crate) const fn first(&self) -> u32 {
        self.first
    }

    pub(crate) fn outputs(&self) -> impl Iterator<Item = Output> + '_ {
        self.by_output.keys().copied()
    }

    pub(crate) fn contains(&self, output: Output) -> bool {
        self.by_output.contains_key(&output)
    }

    /// Adds a member or puts what is known of it now in its place.
    ///
    /// # Errors
    /// If the table is full or the kernel refuses a write; nothing has changed then.
    pub(crate) fn set<K: ListWrites>(
        &mut self,
        output: Output,
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
        let place = old.map_or(Place { before: self.last, behind: 0 }, |old| *backing.places.at(old));
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
        *backing.places.at(index) = place;
        self.join(place.before, index, backing);
        self.join(index, place.behind, backing);
        self.by_output.insert(output, index);
        Ok(Change { out: old })
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
        let Place { before, behind } = *backing.places.at(index);
        link(before, behind, backing)?;
        self.join(before, behind, backing);
        self.by_output.remove(&output);
        Ok(Change { out: Some(index) })
    }

    /// Gives up the whole list, once no stream names it.
    pub(crate) fn dismiss(self, retired: &mut Vec<u32>) {
        retired.extend(self.by_output.into_values());
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
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use vmcast_common::fib::TunnelId;

    use super::*;

    /// The kernel's table, with a walk that stands at every place it can stand at: it has met some members
    /// and goes on from an index.
    #[derive(Default)]
    struct Model {
        table: BTreeMap<u32, MemberEntry>,
        walks: Vec<(Vec<u32>, u32)>,
        refuse_after: Option<usize>,
    }

    impl ListWrites for Model {
        fn read(&self, index: u32) -> Result<MemberEntry, KernelError> {
            Ok(self.table[&index])
        }

        fn write(&mut self, index: u32, entry: &MemberEntry) -> Result<(), KernelError> {
            if let Some(left) = self.refuse_after.as_mut() {
                if *left == 0 {
                    return Err(KernelError::call("a write")("refused"));
                }
                *left -= 1;
            }
            self.table.insert(index, *entry);
            Ok(())
        }
    }

    impl Model {
        /// Every walk that begins at an index, stopped at each of its members.
        fn begin(&mut self, first: u32) {
            let (mut met, mut at) = (Vec::new(), first);
            loop {
                self.walks.push((met.clone(), at));
                if at == 0 {
                    return;
                }
                let entry = self.table[&at];
                met.push(entry.next_hop);
                at = entry.next;
            }
        }

        /// Lets all walks end; each says whom it met.
        fn finish(&mut self) -> Vec<Vec<u32>> {
            std::mem::take(&mut self.walks)
                .into_iter()
                .map(|(mut met, mut at)| {
                    while at != 0 {
                        let entry = self.table[&at];
                        met.push(entry.next_hop);
                        at = entry.next;
                    }
                    met
                })
                .collect()
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, u16),
        Remove(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1u32..12, 0u16..3).prop_map(|(member, sum)| Step::Set(member, sum)),
            2 => (1u32..12).prop_map(Step::Remove),
        ]
    }

    proptest! {
        /// Who was a member before and after a change is met once by every walk, wherever it stood.
        #[test]
        fn a_walk_meets_every_member_that_stays_once(
            steps in proptest::collection::vec((step(), proptest::option::weighted(0.2, 0usize..3)), 1..60),
        ) {
            let mut kernel = Model::default();
            let mut indices = Indices::new("members", 40);
            let (mut places, mut list) = (Places::default(), MemberList::default());
            let mut named = 0;
            for (step, refuse_after) in steps {
                let before: BTreeSet<u32> = list.outputs().map(number).collect();
                kernel.begin(named);
                kernel.refuse_after = refuse_after;
                let mut retired = Vec::new();
                let mut backing = Backing {
                    kernel: &mut kernel,
                    indices: &mut indices,
                    places: &mut places,
                    retired: &mut retired,
                };
                let change = match step {
                    Step::Set(member, sum) => {
                        let entry = MemberEntry { ends_sum: sum, ..MemberEntry::native(member) };
                        list.set(Output::Tunnel(TunnelId(member)), &entry, &mut backing)
                    }
                    Step::Remove(member) => list.remove(Output::Tunnel(TunnelId(member)), &mut backing),
                };
                // Walks that begin before the stream's entry is written.
                kernel.begin(named);
                named = list.first();
                if let Ok(change) = change {
                    change.retire(&mut retired);
                }
                kernel.refuse_after = None;
                let after: BTreeSet<u32> = list.outputs().map(number).collect();
                for met in kernel.finish() {
                    let once: BTreeSet<u32> = met.iter().copied().collect();
                    prop_assert_eq!(once.len(), met.len(), "someone was met twice: {:?}", met);
                    prop_assert!(before.intersection(&after).all(|member| once.contains(member)), "{:?}", met);
                    prop_assert!(once.iter().all(|met| before.contains(met) || after.contains(met)));
                }
                kernel.begin(named);
                let met: BTreeSet<u32> = kernel.finish()[0].iter().copied().collect();
                prop_assert_eq!(&met, &after);
                // All walks have ended.
                retired.into_iter().for_each(|index| indices.give_back(index));
            }
            let mut retired = Vec::new();
            list.dismiss(&mut retired);
            retired.into_iter().for_each(|index| indices.give_back(index));
            prop_assert!((1..40).all(|_| indices.take().is_ok()), "an index was lost");
        }
    }

    fn number(output: Output) -> u32 {
        match output {
            Output::Tunnel(TunnelId(number)) => number,
            Output::Interface(_) | Output::Neighbour(_) | Output::Converted(_) => {
                unreachable!("only tunnels join here")
            }
        }
    }
}

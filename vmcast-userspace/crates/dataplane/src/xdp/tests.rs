//! Member tables against a model of the kernel that walks slots and lists as the kernel and the
//! copy program do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use proptest::prelude::*;
use vmcast_common::{
    fib::{Output, Tunnel, TunnelId, TunnelKind},
    maps::{Head, HeadKey, MemberEntry, kind},
};

use super::{
    error::KernelError,
    index::Indices,
    kernel::MemberWrites,
    member_table::{Backing, Change, MemberSpec, MemberTable},
    pool::{Remains, SIZES, TableLease, Tables},
};

/// The maps, and a check after every single write that nobody is copied twice or by mistake.
#[derive(Default)]
struct Model {
    members: HashMap<u32, MemberEntry>,
    heads: HashMap<(u32, u32), u32>,
    slots: HashMap<u32, BTreeMap<u32, u32>>,
    /// The table that the stream's entry names.
    current: u32,
    /// Who may and who must get a copy at this moment.
    may: BTreeSet<u32>,
    must: BTreeSet<u32>,
    /// Calls until the kernel refuses one, if it does.
    refuse_in: Option<u32>,
}

impl Model {
    /// Who gets a copy of a packet now, as tunnel ids in order per device.
    fn copies(&self, table: u32) -> Vec<u32> {
        let mut cursors: HashMap<u32, u32> = HashMap::new();
        let mut copies = Vec::new();
        for ifindex in self.slots.get(&table).into_iter().flat_map(BTreeMap::values) {
            let head = || self.heads.get(&(table, *ifindex)).copied().unwrap_or(0);
            let cursor = cursors.entry(*ifindex).or_insert_with(head);
            assert_ne!(*cursor, 0, "a copy met no member: order lost on device {ifindex}");
            let member = self.members[cursor];
            *cursor = member.next;
            if member.kind != kind::GONE {
                assert_eq!(member.next_hop, *ifindex, "the copy for another device's member");
                copies.push(id(&member));
            }
        }
        copies
    }

    /// Checks that the last copy for each device is one that is sent, if any is: the kernel tells the
    /// device to begin with it.
    fn check_flush(&self) {
        let mut copies: HashMap<u32, Vec<bool>> = HashMap::new();
        let mut cursors: HashMap<u32, u32> = HashMap::new();
        for ifindex in self.slots.get(&self.current).into_iter().flat_map(BTreeMap::values) {
            let cursor = cursors.entry(*ifindex).or_insert_with(|| self.heads[&(self.current, *ifindex)]);
            let member = self.members[cursor];
            *cursor = member.next;
            copies.entry(*ifindex).or_default().push(member.kind != kind::GONE && !weak(&member));
        }
        for (ifindex, sent) in copies {
            let silent = sent.contains(&true) && sent.last() != Some(&true);
            assert!(!silent, "device {ifindex} is not told of the last of {sent:?}");
        }
    }

    fn check(&mut self) -> Result<(), KernelError> {
        let copies = self.copies(self.current);
        let set: BTreeSet<u32> = copies.iter().copied().collect();
        assert_eq!(set.len(), copies.len(), "somebody gets two copies: {copies:?}");
        assert!(set.is_subset(&self.may), "{set:?} got copies, only {:?} may", self.may);
        assert!(set.is_superset(&self.must), "{set:?} got copies, {:?} must", self.must);
        match &mut self.refuse_in {
            Some(0) => {
                self.refuse_in = None;
                Err(KernelError::call("the model")("refused"))
            }
            Some(calls) => {
                *calls -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl MemberWrites for Model {
    fn prepare_device(&mut self, _ifindex: u32) -> Result<(), KernelError> {
        self.check()
    }

    fn read_member(&self, index: u32) -> Result<MemberEntry, KernelError> {
        Ok(self.members[&index])
    }

    fn write_member(&mut self, index: u32, entry: &MemberEntry) -> Result<(), KernelError> {
        self.check()?;
        self.members.insert(index, *entry);
        self.check().or(Ok(()))
    }

    fn write_head(&mut self, key: HeadKey, head: Head) -> Result<(), KernelError> {
        self.check()?;
        // The copy program remembers the head of a table it has seen.
        let before = self.heads.insert((key.table, key.ifindex), head.member);
        assert!(before.is_none_or(|before| before == head.member), "the head of a table in use moved");
        self.check().or(Ok(()))
    }

    fn remove_head(&mut self, key: HeadKey) -> Result<(), KernelError> {
        self.heads.remove(&(key.table, key.ifindex));
        self.check()
    }

    fn remove_slot(&mut self, table: &mut TableLease, slot: u32) -> Result<(), KernelError> {
        self.check()?;
        self.slots.entry(table.id()).or_default().remove(&slot);
        self.check().or(Ok(()))
    }

    fn write_slot(&mut self, table: &mut TableLease, slot: u32, ifindex: u32) -> Result<(), KernelError> {
        self.check()?;
        self.slots.entry(table.id()).or_default().insert(slot, ifindex);
        self.check().or(Ok(()))
    }
}

#[derive(Default)]
struct ModelTables {
    last: u32,
    remains: Vec<(u32, Remains)>,
}

impl Tables for ModelTables {
    fn take(&mut self, slots: u32) -> Result<TableLease, KernelError> {
        self.last += 1;
        let size = SIZES.iter().position(|&size| size >= slots).expect("small");
        Ok(TableLease::model(self.last, size))
    }

    fn retire(&mut self, table: TableLease, remains: Remains) {
        self.remains.push((table.id(), remains));
    }

    fn poll_remains(&mut self) -> Option<Remains> {
        self.remains.pop().map(|(_, remains)| remains)
    }
}

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The members of the model have a number for an address.
fn id(entry: &MemberEntry) -> u32 {
    let (_, _, remote) = entry.tunnel_ends().expect("a tunnel");
    let IpAddr::V4(address) = remote.ip() else { panic!("{remote} is not IPv4") };
    address.to_bits()
}

/// Their own port tells copies that are sent from those that may not be.
fn weak(entry: &MemberEntry) -> bool {
    entry.tunnel_ends().is_some_and(|(_, local, _)| local.port() != 0)
}

fn spec(id: u32, ifindex: u32, weak: bool) -> MemberSpec {
    // The model checks the device by the next hop.
    let tunnel = Tunnel {
        kind: TunnelKind::Amt,
        local: (LOCAL, u16::from(weak)).into(),
        remote: (Ipv4Addr::from(id), 0).into(),
        accepts_sources: false,
        next_hop: None,
    };
    let entry = MemberEntry::tunnel(ifindex, &tunnel).expect("IPv4");
    MemberSpec { ifindex, entry, weak }
}

struct Bed {
    model: Model,
    tables: ModelTables,
    members: Indices,
    table: MemberTable,
    present: BTreeMap<u32, u32>,
}

impl Bed {
    fn new() -> Self {
        Self {
            model: Model::default(),
            tables: ModelTables::default(),
            members: Indices::new("members", 100_000),
            table: MemberTable::default(),
            present: BTreeMap::new(),
        }
    }

    /// Runs one change; members other than `changing` must not notice.
    fn change<R>(
        &mut self,
        changing: u32,
        change: impl FnOnce(&mut MemberTable, &mut Backing<'_, Model, ModelTables>) -> Result<R, KernelError>,
    ) -> Result<R, KernelError> {
        self.model.may = self.present.keys().copied().chain([changing]).collect();
        self.model.must = self.present.keys().copied().filter(|id| *id != changing).collect();
        let mut backing =
            Backing { kernel: &mut self.model, tables: &mut self.tables, members: &mut self.members };
        change(&mut self.table, &mut backing)
    }

    fn settle(&mut self, change: Change) {
        self.model.current = self.table.id();
        change.retire(&mut self.tables);
        while let Some((table, remains)) = self.tables.remains.pop() {
            self.model.slots.remove(&table);
            for key in remains.heads {
                self.model.heads.remove(&(key.table, key.ifindex));
            }
            for member in remains.members {
                self.model.members.remove(&member);
                self.members.give_back(member);
            }
        }
        let copies: BTreeSet<u32> = self.model.copies(self.model.current).into_iter().collect();
        let present: BTreeSet<u32> = self.present.keys().copied().collect();
        assert_eq!(copies, present);
        self.model.check_flush();
    }

    fn set(&mut self, id: u32, ifindex: u32, weak: bool) {
        let output = Output::Tunnel(TunnelId(id));
        let spec = spec(id, ifindex, weak);
        let mut change = Change::default();
        match self.change(id, |table, backing| table.set(output, &spec, backing, &mut change)) {
            Ok(()) => {
                self.present.insert(id, ifindex);
                self.settle(change);
            }
            Err(_) => self.after_refusal(id, change),
        }
    }

    fn remove(&mut self, id: u32) {
        let output = Output::Tunnel(TunnelId(id));
        let mut change = Change::default();
        match self.change(id, |table, backing| table.remove(output, backing, &mut change)) {
            Ok(removed) => {
                assert_eq!(removed, self.present.remove(&id).is_some());
                self.settle(change);
            }
            Err(_) => self.after_refusal(id, change),
        }
    }

    /// Whatever a refused change left, everybody else is served; asking again mends the rest.
    fn after_refusal(&mut self, id: u32, change: Change) {
        self.model.current = self.table.id();
        change.retire(&mut self.tables);
        if self.table.outputs().any(|output| output == Output::Tunnel(TunnelId(id))) {
            self.present.entry(id).or_insert(0);
        } else {
            self.present.remove(&id);
        }
        let copies: BTreeSet<u32> = self.model.copies(self.model.current).into_iter().collect();
        let others = self.present.keys().copied().filter(|other| *other != id);
        assert!(others.into_iter().all(|other| copies.contains(&other)));
    }
}

proptest! {
    #[test]
    fn no_write_of_any_change_costs_another_member_a_copy_or_gives_one_twice(
        steps in proptest::collection::vec((any::<bool>(), 1u32..60, 1u32..4, 0..4), 1..100)
    ) {
        let mut bed = Bed::new();
        for (join, id, ifindex, weak) in steps {
            if join { bed.set(id, ifindex, weak == 0) } else { bed.remove(id) }
        }
    }

    #[test]
    fn a_change_that_the_kernel_refuses_leaves_everybody_else_served(
        steps in proptest::collection::vec((any::<bool>(), 1u32..30, 1u32..4), 1..60),
        refuse in 0u32..400,
    ) {
        let mut bed = Bed::new();
        bed.model.refuse_in = Some(refuse);
        for (join, id, ifindex) in steps {
            if join { bed.set(id, ifindex, id % 5 == 0) } else { bed.remove(id) }
            if bed.model.refuse_in.is_none() {
                break;
            }
        }
    }
}

#[test]
fn the_indices_of_members_who_left_are_used_again() {
    let mut bed = Bed::new();
    for round in 0..20 {
        for id in 1..200 {
            bed.set(id, 1 + id % 3, false);
        }
        for id in 1..200 {
            bed.remove(id);
        }
        assert!(bed.members.take().expect("not full") < 2000, "round {round} leaks members");
    }
}

#[test]
fn one_member_that_comes_and_goes_among_others_uses_up_nothing() {
    let mut bed = Bed::new();
    for id in 1..50 {
        bed.set(id, 1, false);
    }
    for _ in 0..1000 {
        bed.set(99, 1, false);
        bed.remove(99);
    }
    assert!(bed.members.take().expect("not full") < 500, "members leak");
}

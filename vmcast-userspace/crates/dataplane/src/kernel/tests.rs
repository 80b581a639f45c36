//! Member tables against a model of the kernel that walks slots and lists as the kernel and the
//! copy program do.

mod chains;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
};

use proptest::prelude::*;
use vmcast_common::{
    fib::{EcnMode, Output, Tunnel, TunnelId, TunnelKind},
    maps::{Head, HeadKey, MemberEntry, kind, limit},
};

use super::{
    chain::{Chain, Ways},
    devmap::{Devmap, SIZES},
    error::KernelError,
    index::Indices,
    member_table::{Backing, Change, MemberSpec},
    pool::{Remains, Tables, Until},
    shapes::Shapes,
    writes::MemberWrites,
};

/// The maps, and a check after every single write that nobody is copied twice or by mistake.
#[derive(Default)]
pub(super) struct Model {
    members: HashMap<u32, MemberEntry>,
    heads: HashMap<(u32, u32), u32>,
    /// The devmaps of tables.
    devmaps: HashMap<u32, u32>,
    /// The devices in the slots of devmaps.
    slots: HashMap<u32, BTreeMap<u32, u32>>,
    /// Devices that are no more.
    gone: BTreeSet<u32>,
    /// How many members the kernel was told of, from each table on.
    ahead: HashMap<u32, u64>,
    /// The table that the stream's entry names.
    pub(super) current: u32,
    /// Who may and who must get a copy at this moment.
    may: BTreeSet<u32>,
    must: BTreeSet<u32>,
    /// Calls until the kernel refuses one, if it does.
    refuse_in: Option<u32>,
    /// How many writes there were.
    writes: u32,
    /// Those of slots.
    slot_writes: u32,
    /// Whether only the end of a change is looked at.
    quick: bool,
}

/// A packet before a relay device: who has its copy already, and the table that its frame names.
struct Waiting {
    met: Vec<u32>,
    table: u32,
    /// Who may and who must have got it in the end.
    may: BTreeSet<u32>,
    must: BTreeSet<u32>,
    /// How many changes it waits yet.
    left: u32,
}

impl Model {
    /// A device goes: the kernel empties its slots, and takes it for none any more.
    fn remove_device(&mut self, ifindex: u32) {
        self.gone.insert(ifindex);
        self.slots.values_mut().for_each(|slots| slots.retain(|_, device| *device != ifindex));
    }

    /// It comes back with its number.
    fn restore_device(&mut self, ifindex: u32) {
        self.gone.remove(&ifindex);
    }

    /// Who gets a copy of a packet now, as tunnel ids in order per device and table.
    fn copies(&self, table: u32) -> Vec<u32> {
        let mut copies = Vec::new();
        let mut next = table;
        while next != 0 {
            next = self.copies_of_table(next, &mut copies);
        }
        copies
    }

    /// Notes who gets a copy by one table, and returns the one that it leads to.
    pub(super) fn copies_of_table(&self, table: u32, copies: &mut Vec<u32>) -> u32 {
        let mut cursors: HashMap<u32, u32> = HashMap::new();
        let mut next = 0;
        for ifindex in self.devices_of(table) {
            let head = || self.heads.get(&(table, *ifindex)).copied().unwrap_or(0);
            let cursor = cursors.entry(*ifindex).or_insert_with(head);
            assert_ne!(*cursor, 0, "a copy met no member: order lost on device {ifindex}");
            let member = self.members[cursor];
            *cursor = member.next;
            match member.kind {
                kind::GONE => {}
                kind::TO_TABLE => next = member.way_to(),
                kind::TO_LIST => copies.push(LISTED),
                _ => {
                    assert_eq!(member.next_hop, *ifindex, "the copy for another device's member");
                    copies.push(id(&member));
                }
            }
        }
        next
    }

    /// The devices of a table's slots in their order.
    fn devices_of(&self, table: u32) -> impl Iterator<Item = &u32> {
        let devmap = self.devmaps.get(&table);
        let devmap = devmap.unwrap_or_else(|| panic!("a way leads to table {table}, which is gone"));
        self.slots.get(devmap).unwrap_or_else(|| panic!("devmap {devmap} of table {table} is gone")).values()
    }

    /// Checks that the last copy for each device is one that is sent, if any is: the kernel tells the
    /// device to begin with it.
    fn check_flush(&self) {
        let mut table = self.current;
        while table != 0 {
            self.check_flush_of(table);
            let ahead = self.copies(table).iter().filter(|id| **id != LISTED).count() as u64;
            let told = self.ahead.get(&table).copied().unwrap_or_default();
            // Those whose device is gone count as well.
            let is_right = told == ahead || told > ahead && !self.gone.is_empty();
            assert!(is_right, "{told}, not {ahead} members from table {table} on");
            table = self.copies_of_table(table, &mut Vec::new());
        }
    }

    fn check_flush_of(&self, table: u32) {
        let mut copies: HashMap<u32, Vec<bool>> = HashMap::new();
        let mut cursors: HashMap<u32, u32> = HashMap::new();
        for ifindex in self.devices_of(table) {
            let cursor = cursors.entry(*ifindex).or_insert_with(|| self.heads[&(table, *ifindex)]);
            let member = self.members[cursor];
            *cursor = member.next;
            copies
                .entry(*ifindex)
                .or_default()
                .push(member.kind != kind::GONE && (member.kind >= kind::TO_TABLE || !weak(&member)));
        }
        for (ifindex, sent) in copies {
            let silent = sent.contains(&true) && sent.last() != Some(&true);
            assert!(!silent, "device {ifindex} is not told of the last of {sent:?}");
        }
    }

    /// Checks that who reads a member while it is written sees that another takes its place: the kernel gets a word at a
    /// time, of which the last says what kind of member it is, and a program reads that one before and after the others.
    fn check_words(&self, index: u32, entry: &MemberEntry) {
        let Some(before) = self.members.get(&index).filter(|_| !self.quick && self.is_reached(index)) else {
            return;
        };
        let [last_before, last] = [before, entry].map(|entry| (entry.ends_sum, entry.kind, entry.flags));
        let is_way = before.kind >= kind::TO_TABLE;
        let of_way = before.ends[4..] == entry.ends[4..] && last_before == last;
        assert!(
            before.ends == entry.ends || before.kind == kind::GONE && last_before == last || is_way && of_way,
            "half of {entry:?} may be taken for {before:?}"
        );
    }

    /// Whether a walk may come to a member.
    fn is_reached(&self, index: u32) -> bool {
        let heads = self.heads.iter().filter(|((_, ifindex), _)| !self.gone.contains(ifindex));
        heads.map(|(_, head)| head).any(|head| {
            let walk = std::iter::successors(Some(*head), |at| {
                self.members.get(at).map(|member| member.next).filter(|next| *next != 0)
            });
            walk.take(limit::CHUNK as usize * 2).any(|at| at == index)
        })
    }

    fn check(&mut self) -> Result<(), KernelError> {
        self.writes += 1;
        if self.quick {
            return Ok(());
        }
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
        self.check_words(index, entry);
        self.members.insert(index, *entry);
        self.writes -= 1;
        self.check().or(Ok(()))
    }

    fn write_head(&mut self, key: HeadKey, head: Head) -> Result<(), KernelError> {
        self.check()?;
        // The copy program remembers the head of a table it has seen.
        let before = self.heads.insert((key.table, key.ifindex), head.member);
        assert!(before.is_none_or(|before| before == head.member), "the head of a table in use moved");
        self.writes -= 1;
        self.check().or(Ok(()))
    }

    fn remove_head(&mut self, key: HeadKey) -> Result<(), KernelError> {
        self.heads.remove(&(key.table, key.ifindex));
        self.check()
    }

    fn write_devmap(&mut self, table: u32, _stream: u32, place: u32) -> Result<(), KernelError> {
        self.check()?;
        self.devmaps.insert(table, place);
        self.writes -= 1;
        self.check().or(Ok(()))
    }

    fn write_ahead(&mut self, table: u32, members: u64) -> Result<(), KernelError> {
        self.ahead.insert(table, members);
        Ok(())
    }

    fn remove_table(&mut self, table: u32) -> Result<(), KernelError> {
        self.devmaps.remove(&table);
        self.heads.retain(|(of, _), _| *of != table);
        self.check()
    }

    fn remove_slot(&mut self, devmap: &mut Devmap, slot: u32) -> Result<(), KernelError> {
        self.check()?;
        self.slots.entry(devmap.place()).or_default().remove(&slot);
        self.writes -= 1;
        self.check().or(Ok(()))
    }

    fn write_slots(&mut self, devmap: &mut Devmap, slots: &[(u32, u32)]) -> Result<(), KernelError> {
        self.slots.entry(devmap.place()).or_default();
        for (slot, ifindex) in slots {
            assert!((*slot as usize) < devmap.slots(), "slot {slot} of a devmap of {}", devmap.slots());
            self.slot_writes += 1;
            self.check()?;
            if self.gone.contains(ifindex) {
                return Err(KernelError::call("the model")("no such device"));
            }
            self.slots.entry(devmap.place()).or_default().insert(*slot, *ifindex);
            self.writes -= 1;
            self.check().or(Ok(()))?;
        }
        Ok(())
    }

    fn has_device(&self, ifindex: u32) -> bool {
        !self.gone.contains(&ifindex)
    }
}

impl Tables for ModelTables {
    fn number(&mut self) -> Result<u32, KernelError> {
        self.last += 1;
        Ok(self.last)
    }

    fn devmap(&mut self, slots: usize) -> Result<Devmap, KernelError> {
        self.last += 1;
        let size = SIZES.iter().position(|&size| size as usize >= slots).expect("small");
        Ok(Devmap::new(self.last, size, None))
    }

    fn retire(&mut self, devmap: Option<Devmap>, remains: Remains, _until: Until) {
        self.remains.push((devmap.map(|devmap| devmap.place()), remains));
    }

    fn poll_remains(&mut self) -> Option<Remains> {
        self.remains.pop().map(|(_, remains)| remains)
    }
}

/// Numbers and devmaps without end, and what was given up.
#[derive(Default)]
pub(super) struct ModelTables {
    last: u32,
    remains: Vec<(Option<u32>, Remains)>,
}

/// Who stands for the members at TC.
const LISTED: u32 = u32::MAX;
/// Devices that are no members'.
const TABLES: u32 = 1000;
const LISTS: u32 = 1001;
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
        ecn: EcnMode::Compatibility,
        accepts_sources: false,
        next_hop: None,
    };
    let entry = MemberEntry::tunnel(ifindex, &tunnel).expect("IPv4");
    MemberSpec { ifindex, entry, weak }
}

pub(super) struct Bed {
    pub(super) model: Model,
    tables: ModelTables,
    members: Indices,
    shapes: Shapes,
    pub(super) chain: Chain,
    ways: Ways,
    pub(super) present: BTreeMap<u32, u32>,
    /// Members whose device is gone.
    lost: BTreeSet<u32>,
    waiting: Vec<Waiting>,
    /// Devmaps and more that were given up, and for how many changes they stay.
    retired: Vec<(u32, Option<u32>, Remains)>,
}

/// Changes for which a packet may wait before a relay device.
pub(super) const WAIT: u32 = 3;

impl Bed {
    fn new(chunk: u32) -> Self {
        Self::crowded(chunk, limit::OF_DEVICE)
    }

    /// One whose tables take fewer members of one device.
    pub(super) fn crowded(chunk: u32, of_device: u32) -> Self {
        Self {
            model: Model::default(),
            tables: ModelTables::default(),
            members: Indices::new("members", 100_000),
            shapes: Shapes::default(),
            chain: Chain::default(),
            ways: Ways { chunk, of_device, tables: Some(TABLES), lists: Some(LISTS) },
            present: BTreeMap::new(),
            lost: BTreeSet::new(),
            waiting: Vec::new(),
            retired: Vec::new(),
        }
    }

    /// One for many members, which looks at the end of a change alone.
    pub(super) fn quick(chunk: u32) -> Self {
        Self::new(chunk).in_a_hurry()
    }

    pub(super) fn in_a_hurry(mut self) -> Self {
        self.model.quick = true;
        self
    }

    pub(super) fn run(&mut self, step: Step) {
        match step {
            Step::Set { id, ifindex, weak } => self.set(id, ifindex, weak),
            Step::Remove(id) => self.remove(id),
            Step::List(there) => self.list(there),
            Step::Rest => self.rest(),
            Step::Gather => self.gather(),
            Step::Shorten => self.shorten(),
        }
    }

    /// A device that was gone comes back, with all its members.
    fn restore_device(&mut self, ifindex: u32) {
        self.model.restore_device(ifindex);
        self.shapes.forget_device(ifindex);
        let lost: Vec<u32> = self.lost.iter().copied().collect();
        // They are served one after the other.
        self.model.may = self.present.keys().copied().chain(lost.iter().copied()).collect();
        self.model.must = self.present.keys().copied().collect();
        let (ways, mut change) = (self.ways, Change::default());
        let restored = self.change_chain(|chain, backing| chain.restore(ifindex, ways, backing, &mut change));
        restored.expect("nothing is refused");
        self.present.extend(lost.into_iter().map(|id| (id, ifindex)));
        self.lost.clear();
        for waiting in &mut self.waiting {
            waiting.may.extend(self.present.keys());
        }
        self.settle(change);
    }

    /// A device goes; those whose way leads there are members until they are told of another one.
    fn remove_device(&mut self, ifindex: u32) {
        self.model.remove_device(ifindex);
        self.shapes.forget_device(ifindex);
        let lost = self.present.extract_if(.., |_, device| *device == ifindex).map(|(id, _)| id);
        for id in lost {
            self.lost.insert(id);
            self.waiting.iter_mut().for_each(|waiting| _ = waiting.must.remove(&id));
        }
    }

    /// Members who are in far too many tables are gathered.
    fn gather(&mut self) {
        let ways = self.ways;
        if !self.chain.is_sparse(ways) {
            return;
        }
        let mut change = Change::default();
        match self.change(0, |chain, backing| chain.gather(ways, backing, &mut change)) {
            Ok(()) => self.settle(change),
            Err(_) => self.after_refusal(0, change),
        }
    }

    /// Tables in front that have no members go.
    fn shorten(&mut self) {
        let ways = self.ways;
        let mut change = Change::default();
        match self.change(0, |chain, backing| chain.shorten(ways, backing, &mut change)) {
            Ok(()) => self.settle(change),
            Err(_) => self.after_refusal(0, change),
        }
    }

    /// How many devmaps the tables have together.
    fn devmaps(&self) -> usize {
        self.chain.devmaps(&self.shapes).collect::<BTreeSet<_>>().len()
    }

    /// Nothing changes for so long that tables share their devmaps.
    fn rest(&mut self) {
        for _ in 0..8 {
            let rested = self.change(0, |chain, backing| chain.rest(backing));
            assert!(rested.is_ok() || self.model.refuse_in.is_none());
        }
        self.settle(Change::default());
    }

    /// Lets a packet wait before each table that it may come to.
    fn begin_waits(&mut self, changing: u32) {
        let present: BTreeSet<u32> = self.present.keys().copied().collect();
        for waiting in &mut self.waiting {
            waiting.must.remove(&changing);
            waiting.may.insert(changing);
        }
        let (mut met, mut table) = (Vec::new(), self.model.current);
        while table != 0 {
            table = self.model.copies_of_table(table, &mut met);
            let may = present.iter().copied().chain([changing]).collect();
            let must = present.iter().copied().filter(|id| *id != changing).collect();
            let left = (table % WAIT) + 1;
            self.waiting.push(Waiting { met: met.clone(), table, may, must, left });
        }
    }

    /// Lets those go on whose wait is over.
    fn end_waits(&mut self) {
        for waiting in &mut self.waiting {
            waiting.left -= 1;
        }
        for mut waiting in self.waiting.extract_if(.., |waiting| waiting.left == 0) {
            let mut table = waiting.table;
            while table != 0 {
                table = self.model.copies_of_table(table, &mut waiting.met);
            }
            let met: BTreeSet<u32> = waiting.met.iter().copied().collect();
            let stayed = waiting.met.iter().filter(|id| waiting.must.contains(id)).count();
            assert!(stayed <= waiting.must.len(), "somebody who stayed got two copies: {:?}", waiting.met);
            assert!(met.is_subset(&waiting.may), "{met:?}, only {:?} may", waiting.may);
            assert!(met.is_superset(&waiting.must), "{met:?}, {:?} must", waiting.must);
        }
    }

    /// Takes out what nobody comes to any more.
    fn collect(&mut self) {
        self.retired.extend(self.tables.remains.drain(..).map(|(devmap, remains)| (WAIT, devmap, remains)));
        for (left, ..) in &mut self.retired {
            *left -= 1;
        }
        for (_, devmap, remains) in self.retired.extract_if(.., |(left, ..)| *left == 0) {
            if let Some(devmap) = devmap {
                self.model.slots.remove(&devmap);
            }
            for table in remains.tables {
                // What is refused here is only told of.
                let _ = self.model.remove_table(table);
            }
            for shape in remains.shapes {
                self.shapes.give_back(shape, &mut self.tables);
            }
            for member in remains.members {
                self.model.members.remove(&member);
                self.members.give_back(member);
            }
        }
    }

    /// Runs one change; members other than `changing` must not notice.
    fn change<R>(
        &mut self,
        changing: u32,
        change: impl FnOnce(&mut Chain, &mut Backing<'_, Model, ModelTables>) -> Result<R, KernelError>,
    ) -> Result<R, KernelError> {
        if !self.model.quick {
            self.model.may = self.present.keys().copied().chain([changing]).collect();
            self.model.must = self.present.keys().copied().filter(|id| *id != changing).collect();
            self.begin_waits(changing);
        }
        self.change_chain(change)
    }

    fn change_chain<R>(
        &mut self,
        change: impl FnOnce(&mut Chain, &mut Backing<'_, Model, ModelTables>) -> Result<R, KernelError>,
    ) -> Result<R, KernelError> {
        let mut backing = Backing {
            stream: 1,
            kernel: &mut self.model,
            tables: &mut self.tables,
            members: &mut self.members,
            shapes: &mut self.shapes,
        };
        change(&mut self.chain, &mut backing)
    }

    fn settle(&mut self, change: Change) {
        self.model.current = self.chain.id();
        change.retire(&mut self.tables, Until::Walked);
        self.end_waits();
        self.collect();
        if self.model.quick {
            return;
        }
        let copies: BTreeSet<u32> = self.model.copies(self.model.current).into_iter().collect();
        let present: BTreeSet<u32> = self.present.keys().copied().collect();
        assert_eq!(copies, present);
        self.chain.check_counts();
        self.model.check_flush();
    }

    fn set(&mut self, id: u32, ifindex: u32, weak: bool) {
        let output = Output::Tunnel(TunnelId(id));
        let (spec, ways) = (spec(id, ifindex, weak), self.ways);
        let mut change = Change::default();
        match self.change(id, |chain, backing| chain.set(output, &spec, ways, backing, &mut change)) {
            Ok(()) => {
                if self.model.gone.contains(&ifindex) {
                    self.present.remove(&id);
                    self.lost.insert(id);
                } else {
                    self.present.insert(id, ifindex);
                    self.lost.remove(&id);
                }
                self.settle(change);
            }
            Err(_) => self.after_refusal(id, change),
        }
    }

    fn remove(&mut self, id: u32) {
        let ways = self.ways;
        let output = Output::Tunnel(TunnelId(id));
        let mut change = Change::default();
        match self.change(id, |chain, backing| chain.remove(output, ways, backing, &mut change)) {
            Ok(removed) => {
                let was_lost = self.lost.remove(&id);
                assert_eq!(removed, self.present.remove(&id).is_some() || was_lost);
                self.settle(change);
            }
            Err(_) => self.after_refusal(id, change),
        }
    }

    /// Leads to members at TC, or no longer.
    fn list(&mut self, there: bool) {
        let ways = self.ways;
        let mut change = Change::default();
        let list = there.then_some(7);
        match self.change(LISTED, |chain, backing| chain.set_list(list, ways, backing, &mut change)) {
            Ok(()) => {
                if there {
                    self.present.insert(LISTED, LISTS);
                } else {
                    self.present.remove(&LISTED);
                }
                self.settle(change);
            }
            Err(_) => self.after_refusal(LISTED, change),
        }
    }

    /// Whatever a refused change left, everybody else is served; asking again mends the rest.
    fn after_refusal(&mut self, id: u32, change: Change) {
        self.model.current = self.chain.id();
        change.retire(&mut self.tables, Until::Walked);
        self.end_waits();
        let served = self.model.copies(self.model.current).contains(&id);
        let there = served || self.chain.outputs().any(|output| output == Output::Tunnel(TunnelId(id)));
        if there && !served && !self.model.gone.is_empty() {
            self.present.remove(&id);
            self.lost.insert(id);
        } else if there {
            self.present.entry(id).or_insert(0);
        } else {
            self.present.remove(&id);
            self.lost.remove(&id);
        }
        let copies: BTreeSet<u32> = self.model.copies(self.model.current).into_iter().collect();
        let others = self.present.keys().copied().filter(|other| *other != id);
        assert!(others.into_iter().all(|other| copies.contains(&other)));
    }
}

/// One of the changes that a stream's members see.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Set {
        id: u32,
        ifindex: u32,
        weak: bool,
    },
    Remove(u32),
    List(bool),
    Rest,
    Gather,
    /// Only while no packet is on its way if their order matters.
    Shorten,
}

pub(super) fn step(ids: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..ids, 1u32..4, 0..4).prop_map(|(id, ifindex, weak)| Step::Set { id, ifindex, weak: weak == 0 }),
        5 => (1..ids).prop_map(Step::Remove),
        1 => any::<bool>().prop_map(Step::List),
        1 => Just(Step::Rest),
        1 => Just(Step::Gather),
        1 => Just(Step::Shorten),
    ]
}

//! The order in which members get packets, some of which wait before relay devices while tables change.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::tests::{Bed, Step, WAIT, step};

/// A packet before the relay device.
struct Frame {
    packet: u64,
    /// The table with which it goes on.
    table: u32,
    /// How many changes there were since it came in.
    age: u32,
}

/// Packets that come in one after the other, and one core that takes them on in the order in which they wait.
struct Core {
    bed: Bed,
    ring: VecDeque<Frame>,
    packets: u64,
    /// The last packet that each member got since it joined.
    last: HashMap<u32, u64>,
}

impl Core {
    fn new(chunk: u32, of_device: u32) -> Self {
        let bed = Bed::crowded(chunk, of_device).in_a_hurry();
        Self { bed, ring: VecDeque::new(), packets: 0, last: HashMap::new() }
    }

    /// A packet comes in.
    fn receive(&mut self) {
        self.packets += 1;
        self.walk(Frame { packet: self.packets, table: self.bed.model.current, age: 0 });
    }

    /// The packet that has waited longest goes on.
    fn poll(&mut self) {
        if let Some(frame) = self.ring.pop_front() {
            self.walk(frame);
        }
    }

    /// Serves the members of one table.
    fn walk(&mut self, Frame { packet, table, age }: Frame) {
        if table == 0 {
            return;
        }
        let mut met = Vec::new();
        let next = self.bed.model.copies_of_table(table, &mut met);
        for member in met {
            let last = self.last.insert(member, packet);
            assert!(
                last.is_none_or(|last| last < packet),
                "{member} gets packet {packet} after {}",
                last.unwrap_or_default()
            );
        }
        if next != 0 {
            self.ring.push_back(Frame { packet, table: next, age });
        }
    }

    /// One change. A packet has come through all tables after a while, and tables that are taken out stay for longer.
    fn change(&mut self, step: Step) {
        if let Step::Set { id, .. } = step
            && !self.bed.present.contains_key(&id)
        {
            // Who joins anew may get what is under way once more.
            self.last.remove(&id);
        }
        if matches!(step, Step::Shorten) {
            // The plane waits for a moment in which nothing is on its way.
            while !self.ring.is_empty() {
                self.poll();
            }
        }
        self.bed.run(step);
        while self.ring.iter().any(|frame| frame.age + 2 >= WAIT) {
            self.poll();
        }
        self.ring.iter_mut().for_each(|frame| frame.age += 1);
    }
}

proptest! {
    // proves that tables which become one, or two, or go, let nobody's packets change places
    #[test]
    fn every_member_gets_packets_in_order_whatever_changes_while_they_wait(
        chunk in 1u32..6,
        of_device in 1u32..6,
        turns in proptest::collection::vec((step(24), 0usize..3, 0usize..6), 1..150),
    ) {
        let mut core = Core::new(chunk, of_device);
        for (step, packets, polls) in turns {
            (0..packets).for_each(|_| core.receive());
            core.change(step);
            (0..packets).for_each(|_| core.receive());
            (0..polls).for_each(|_| core.poll());
        }
    }
}

#[test]
fn members_who_come_and_go_do_not_make_ever_more_tables() {
    let mut bed = Bed::quick(8);
    // A table is filled with members on many devices and split, and those in one of its halves leave.
    for round in 0..200 {
        let joins = (0..10).map(|id| Step::Set { id: 1 + round * 10 + id, ifindex: 1 + id % 5, weak: false });
        joins.for_each(|join| bed.run(join));
        let leaves = (0..10).filter(|id| id % 5 > 0).map(|id| Step::Remove(1 + round * 10 + id));
        leaves.for_each(|leave| bed.run(leave));
    }
    let tables = bed.chain.devices().len();
    let members = bed.present.len();
    assert!(tables <= 1 + members * 4 / 8, "{tables} tables of 8 for {members} members");
    for id in bed.present.clone().into_keys() {
        bed.run(Step::Remove(id));
    }
    assert_eq!(bed.chain.id(), 0, "a stream without members begins anew");
}

//! Chains of member tables under changes of all kinds: nobody else notices, and little is left behind.

use super::*;

proptest! {
    #[test]
    fn no_write_of_any_change_costs_another_member_a_copy_or_gives_one_twice(
        chunk in prop_oneof![1u32..8, Just(limit::CHUNK)],
        of_device in prop_oneof![1u32..4, Just(limit::OF_DEVICE)],
        steps in proptest::collection::vec(step(40), 1..80),
    ) {
        let mut bed = Bed::crowded(chunk, of_device);
        steps.into_iter().for_each(|step| bed.run(step));
    }

    #[test]
    fn a_change_that_the_kernel_refuses_leaves_everybody_else_served(
        chunk in prop_oneof![1u32..8, Just(limit::CHUNK)],
        steps in proptest::collection::vec(step(30), 1..60),
        refuse in 0u32..400,
    ) {
        let mut bed = Bed::new(chunk);
        bed.model.refuse_in = Some(refuse);
        for step in steps {
            bed.run(step);
            if bed.model.refuse_in.is_none() {
                break;
            }
        }
    }
}

proptest! {
    #[test]
    fn a_device_that_is_gone_hinders_nobody_on_another_one_and_has_its_members_when_it_is_back(
        chunk in prop_oneof![1u32..8, Just(limit::CHUNK)],
        of_device in prop_oneof![1u32..4, Just(limit::OF_DEVICE)],
        before in proptest::collection::vec(step(40), 1..60),
        after in proptest::collection::vec(step(40), 1..60),
        last in proptest::collection::vec(step(40), 1..20),
    ) {
        const GONE: u32 = 2;
        let mut bed = Bed::crowded(chunk, of_device);
        before.into_iter().for_each(|step| bed.run(step));
        bed.remove_device(GONE);
        for step in after {
            bed.run(step);
            match step {
                Step::Set { id, ifindex: GONE, .. } => prop_assert!(!bed.present.contains_key(&id)),
                Step::Set { id, ifindex, .. } => prop_assert_eq!(bed.present.get(&id), Some(&ifindex)),
                Step::Remove(id) => {
                    prop_assert!(!bed.present.contains_key(&id) && !bed.lost.contains(&id));
                }
                Step::List(_) | Step::Rest | Step::Gather | Step::Shorten => {}
            }
        }
        bed.restore_device(GONE);
        last.into_iter().for_each(|step| bed.run(step));
    }
}

#[test]
fn the_indices_of_members_who_left_are_used_again() {
    for chunk in [5, limit::CHUNK] {
        let mut bed = Bed::new(chunk);
        for round in 0..8 {
            for id in 1..100 {
                bed.set(id, 1 + id % 3, false);
            }
            for id in 1..100 {
                bed.remove(id);
            }
            assert!(bed.members.take().expect("not full") < 1000, "round {round} leaks members");
        }
    }
}

#[test]
fn one_member_that_comes_and_goes_among_others_uses_up_nothing() {
    let mut bed = Bed::new(limit::CHUNK);
    for id in 1..50 {
        bed.set(id, 1, false);
    }
    for _ in 0..1000 {
        bed.set(99, 1, false);
        bed.remove(99);
    }
    assert!(bed.members.take().expect("not full") < 500, "members leak");
}

#[test]
fn one_of_ten_thousand_is_changed_with_a_few_writes() {
    let mut bed = Bed::quick(limit::CHUNK);
    for id in 1..=10_000 {
        bed.set(id, 1 + id % 3, false);
    }
    for id in [1, 77, 5_000, 9_999] {
        bed.model.writes = 0;
        bed.remove(id);
        assert!(bed.model.writes <= 2, "{} writes for one that leaves", bed.model.writes);
        bed.model.writes = 0;
        bed.set(id, 1 + id % 3, false);
        assert!(bed.model.writes <= 4, "{} writes for one that joins", bed.model.writes);
    }
}

#[test]
fn tables_that_grow_on_one_device_have_one_devmap_after_the_other_in_common() {
    let mut bed = Bed::quick(limit::CHUNK);
    // The first takes twice as many before there is another.
    let (before, all) = (3 * limit::OF_DEVICE + 1, 10 * limit::OF_DEVICE);
    for id in 1..=before {
        bed.set(id, 1, false);
    }
    bed.model.slot_writes = 0;
    for id in before + 1..=all {
        bed.set(id, 1, false);
    }
    assert_eq!(bed.model.slot_writes, 0, "joins that have their shapes made anew");
    let full = limit::OF_DEVICE as usize;
    assert_eq!(bed.chain.members(), [2 * full, full, full, full, full, full, full, full, full]);
}

#[test]
fn the_members_of_a_device_are_in_few_tables_in_whatever_order_they_came() {
    const DEVICES: u32 = 125;
    let orders: [fn(u32) -> u32; 2] = [|id| id % DEVICES, |id| id / (10_000 / DEVICES + 1)];
    for order in orders {
        let mut bed = Bed::quick(limit::CHUNK);
        for id in 1..=10_000 {
            bed.set(id, 1 + order(id), false);
        }
        let tables = bed.chain.devices();
        let most = tables.iter().max().expect("a table");
        let all: usize = tables.iter().sum();
        assert!(tables.len() <= 140, "{} tables", tables.len());
        assert!(
            all <= 5 * DEVICES as usize && *most <= 20,
            "{all} devices in all, at most {most} in a table"
        );
    }
}

// what one run makes for a device is gone from its ring before the next one's copies come
#[test]
fn ten_thousand_members_on_one_device_are_few_in_each_table() {
    let mut bed = Bed::quick(limit::CHUNK);
    for id in 1..=10_000 {
        bed.set(id, 1, false);
    }
    let most = |bed: &Bed| bed.chain.members().into_iter().max().unwrap_or_default();
    assert!(most(&bed) <= 2 * limit::OF_DEVICE as usize, "{} in a table", most(&bed));
    let tables = bed.chain.devices().len();
    assert!(tables <= 10_000 / limit::OF_DEVICE as usize + 1, "{tables} tables");
    assert!(!bed.chain.is_sparse(bed.ways), "they would be gathered again and again");
    // Nor are they more after most have left and others came.
    for id in (1..=10_000).filter(|id| id % 10 != 0) {
        bed.remove(id);
    }
    bed.gather();
    assert!(!bed.chain.is_sparse(bed.ways));
    for id in (1..=10_000).filter(|id| id % 10 != 0) {
        bed.set(id, 1, false);
    }
    assert!(most(&bed) <= 3 * limit::OF_DEVICE as usize, "{} in a table", most(&bed));
    assert_eq!(bed.chain.devices().len(), tables);
}

// a packet whose walk is over waits for its last copy: it must be sent, or the device is not told to begin
#[test]
fn who_leaves_from_the_end_gets_what_was_on_its_way() {
    let mut bed = Bed::new(limit::CHUNK);
    for id in 1..=3 {
        bed.set(id, 1, false);
    }
    let mut member = bed.model.heads[&(bed.model.current, 1)];
    bed.remove(3);
    for _ in 0..2 {
        member = bed.model.members[&member].next;
    }
    assert_ne!(bed.model.members[&member].kind, kind::GONE);
}

// the map of heads is full for good if those stay that nobody knows of
#[test]
fn a_member_that_the_kernel_refuses_leaves_no_head() {
    let mut refused = 0;
    for refuse in 0..40 {
        let mut bed = Bed::new(limit::CHUNK);
        for id in 1..=8 {
            bed.set(id, id, false);
        }
        bed.model.refuse_in = Some(refuse);
        bed.set(9, 9, false);
        let joined = bed.present.contains_key(&9);
        assert_eq!(bed.model.heads.contains_key(&(bed.model.current, 9)), joined, "refused at {refuse}");
        refused += u32::from(!joined);
    }
    assert!(refused > 3, "{refused} were refused");
}

#[test]
fn ten_thousand_members_who_leave_leave_little_behind() {
    for listed in [false, true] {
        let mut bed = Bed::quick(limit::CHUNK);
        bed.list(listed);
        for id in 1..=10_000 {
            bed.set(id, 1 + id % 160, false);
        }
        let tables = bed.chain.devices().len();
        for id in (1..=10_000).filter(|id| id % 100 != 0) {
            bed.remove(id);
        }
        assert_eq!(bed.chain.devices().len(), tables, "a member came nearer to the front");
        let order = |bed: &Bed| bed.model.copies(bed.model.current);
        let before = order(&bed);
        bed.gather();
        assert_eq!(bed.chain.devices().len(), tables);
        // One of the members, and one of all the tables that lead there; where there are members at TC the first differs.
        assert_eq!(bed.chain.devices().iter().filter(|devices| **devices > 0).count(), 1);
        assert_eq!(bed.devmaps(), 2 + usize::from(listed));
        let after = order(&bed);
        assert_eq!(BTreeSet::from_iter(&before), BTreeSet::from_iter(&after));
        assert_eq!(after.len(), before.len());
        assert!(!bed.chain.is_sparse(bed.ways), "they are gathered again");
        bed.run(Step::Shorten);
        assert!(!bed.chain.may_be_shorter());
        assert_eq!(bed.chain.devices().len(), 1 + usize::from(listed));
        assert_eq!(order(&bed), after);
        // It grows again as any other.
        for id in (1..=10_000).filter(|id| id % 100 != 0) {
            bed.set(id, 1 + id % 160, false);
        }
        assert!(bed.chain.devices().len() <= 2 * tables, "{} tables", bed.chain.devices().len());
        let all = order(&bed);
        assert_eq!((all.len(), BTreeSet::from_iter(&all).len()), (10_000 + usize::from(listed), all.len()));
    }
}

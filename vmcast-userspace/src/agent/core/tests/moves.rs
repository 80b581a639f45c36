//! Moves from one VMR to another under a stream.

use super::*;

impl Bed {
    /// A numbered stream flows from both of the first VMRs where it was asked for; the second is so many packets
    /// ahead, or behind.
    fn flow_numbered(&mut self, numbers: std::ops::Range<i32>, ahead: i32) {
        let end = numbers.end;
        for number in numbers {
            for (index, number) in [(0, number), (1, number + ahead)] {
                let vmr = &self.vmrs[index];
                let asked = vmr.alive && vmr.memberships.contains_key(&GROUP.into());
                if asked && (0..end).contains(&number) {
                    let endpoint = vmr.endpoint.to_string();
                    self.send(&endpoint, SOURCE, GROUP, &number.to_be_bytes());
                }
            }
            self.run(Duration::from_millis(10));
        }
    }

    fn drain_vmrs(&mut self, vmrs: &[usize]) {
        let ids = vmrs.iter().map(|index| id(*index)).collect();
        self.input(Input::Draining(ids));
    }

    /// An agent at the first of two VMRs that the admin has named.
    fn named() -> Self {
        let mut bed = Self::new();
        let named = |index| Candidate { id: Some(id(index)), ..bed.candidate(index) };
        let candidates = vec![named(0), named(1)];
        bed.input(Input::Candidates(candidates));
        bed.run(Duration::from_secs(1));
        bed.join(GROUP);
        bed
    }

    fn numbers(&self) -> Vec<i32> {
        let number = |packet: &Vec<u8>| i32::from_be_bytes(*packet.last_chunk().expect("a number"));
        self.data.iter().map(number).collect()
    }
}

fn id(index: usize) -> NodeId {
    format!("v{index}").parse().expect("an id")
}

#[test]
fn an_agent_leaves_a_vmr_that_goes_without_losing_or_doubling_a_packet_or_changing_their_order() {
    // proves A7, E3
    for ahead in [-20, -3, -1, 0, 1, 3, 20] {
        let mut bed = Bed::named();
        bed.flow_numbered(0..100, ahead);
        bed.drain_vmrs(&[0]);
        bed.flow_numbered(100..400, ahead);
        assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint), "ahead {ahead}");
        assert!(bed.vmrs[0].memberships.is_empty(), "the VMR that goes has no member");
        let last = bed.numbers().last().copied().expect("packets") + 1;
        assert!(last >= 380, "ahead {ahead}: the stream flows on to {last}");
        assert_eq!(bed.numbers(), (0..last).collect::<Vec<_>>(), "ahead {ahead}");
        let left = bed.events.iter().filter(|event| matches!(event, Event::Left(_))).count();
        let downs = bed.events.iter().filter(|event| matches!(event, Event::Down(..))).count();
        assert_eq!((left, downs), (1, 0));
        assert!(bed.vmrs[2].memberships.is_empty() && bed.vmrs[2].tunnels == 0);
    }
}

#[test]
fn an_agent_stays_at_a_vmr_that_goes_until_another_one_answers() {
    // proves A7, E3
    let mut bed = Bed::named();
    bed.vmrs[1].alive = false;
    bed.flow_numbered(0..100, 0);
    bed.drain_vmrs(&[0]);
    bed.flow_numbered(100..2_000, 0);
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
    assert_eq!(bed.numbers(), (0..2_000).collect::<Vec<_>>());
    bed.restart(1);
    bed.flow_numbered(2_000..20_000, 0);
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint), "the other one is tried again");
    assert_eq!(bed.numbers(), (0..20_000).collect::<Vec<_>>());
}

#[test]
fn a_vmr_that_dies_while_it_is_left_interrupts_nothing_that_comes_from_the_other() {
    // proves A7, E3
    let mut bed = Bed::named();
    bed.flow_numbered(0..100, 0);
    bed.drain_vmrs(&[0]);
    bed.vmrs[0].alive = false;
    bed.flow_numbered(100..200, 0);
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint));
    let numbers = bed.numbers();
    assert!(numbers.is_sorted_by(|one, next| one < next), "in order, each once");
    assert_eq!(numbers.last(), Some(&199));
}

#[test]
fn where_nothing_flows_a_vmr_that_goes_is_left_at_once_and_what_is_joined_meanwhile_goes_along() {
    // proves A7
    let mut bed = Bed::named();
    bed.drain_vmrs(&[0]);
    bed.report(3, OTHER_GROUP, &[SOURCE]);
    bed.run(Duration::from_secs(1));
    assert_eq!(bed.current(), Some(bed.vmrs[1].endpoint));
    assert_eq!(bed.wanted_at(1, OTHER_GROUP), Some(&include(SOURCE)));
    assert!(bed.vmrs[0].memberships.is_empty());
    // One that is back in service is a VMR like others.
    bed.drain_vmrs(&[]);
    bed.vmrs[1].alive = false;
    bed.run(Duration::from_secs(60));
    assert_eq!(bed.current(), Some(bed.vmrs[0].endpoint));
}

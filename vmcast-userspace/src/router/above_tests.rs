//! A proxy with a network above (RFC 4605 §4.2).

use std::{collections::BTreeSet, net::Ipv6Addr};

use vmcast_dataplane::{Fib, FibStream};

use super::*;
use crate::router::kept;

const UP: IfIndex = IfIndex(11);
const DOWN: IfIndex = IfIndex(12);
const UP_OUTPUT: Output = Output::Interface(UP);

fn network(ifindex: IfIndex) -> [(IpAddr, u8); 2] {
    let last = u8::try_from(ifindex.0).expect("a small number");
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, last.into(), 0, 0, 0, 1);
    [([10, 9, last, 1].into(), 24), (v6.into(), 64)]
}

fn v4(source: u8) -> Stream {
    Stream { source: Some([10, 9, 12, source].into()), group: GROUP }
}

fn v6() -> Stream {
    let source = Ipv6Addr::new(0x2001, 0xdb8, 0, 12, 0, 0, 0, 9);
    let group = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 9);
    Stream { source: Some(source.into()), group: group.into() }
}

impl Bed {
    fn proxy() -> Self {
        let mut bed = Self::new(1);
        for (ifindex, is_upstream) in [(UP, true), (DOWN, false)] {
            let interface = Interface { ifindex, device: ifindex, ..lan(true) };
            let queriers = Queriers { is_upstream, ..Queriers::default() };
            bed.core.set_interface(bed.now, interface, &network(ifindex), queriers).expect("no querier");
        }
        bed.settle();
        bed.take();
        bed
    }

    fn hear(&mut self, reason: PuntReason, stream: Stream, input: IfIndex) -> Vec<FibOp> {
        self.core.punt(self.now, Punt { reason, input: Input::Interface(input), stream });
        self.settle();
        self.fib()
    }
}

fn goes_up(stream: Stream) -> [FibOp; 2] {
    let rpf = Rpf::Exact(Input::Interface(DOWN));
    [FibOp::SetStream(stream, rpf, Members::Own), FibOp::AddMember(stream, UP_OUTPUT)]
}

// proves RFC 4605 §4.2: upstream, whoever has joined or not, and never the way that it came
#[test]
fn a_stream_from_below_goes_up_though_nobody_has_joined_it_and_one_from_above_does_not() {
    let mut bed = Bed::proxy();
    for stream in [v4(9), v6()] {
        assert_eq!(bed.hear(PuntReason::UnknownGroup, stream, UP), []);
        assert_eq!(bed.hear(PuntReason::UnknownGroup, stream, DOWN), goes_up(stream));
        assert_eq!(bed.hear(PuntReason::UnknownGroup, stream, DOWN), [], "it is known");
        let wanted = reconcile::wanted(&bed.core);
        assert_eq!(wanted.streams[&stream].outputs, BTreeSet::from([UP_OUTPUT]));
    }
    let asked = bed.take();
    let asked = asked.iter().any(|effect| matches!(effect, Effect::HostMembership { .. }));
    assert!(!asked, "nobody is asked for what goes up");
}

// proves RFC 4605 §4.2, D4: what may not send goes nowhere
#[test]
fn a_source_below_that_may_not_send_does_not_go_up_and_one_that_no_longer_may_is_cut() {
    let mut bed = Bed::proxy();
    bed.hear(PuntReason::UnknownGroup, v4(8), DOWN);
    let rule = Rule {
        who: Some("10.9.12.8/31".parse().expect("a prefix")),
        ..Rule::new(1, vmcast_proto::policy::Effect::Deny, Action::Send)
    };
    assert!(bed.core.set_policy(bed.now, Policy { version: 1, rules: vec![rule], ..Policy::default() }));
    bed.settle();
    let [FibOp::SetStream(stream, Rpf::Exact(Input::Tunnel(_)), Members::Own)] = bed.fib()[..] else {
        panic!("it is cut, and nothing else is done")
    };
    assert_eq!(stream, v4(8));
    assert_eq!(bed.hear(PuntReason::UnknownGroup, v4(9), DOWN), []);
    assert_eq!(bed.hear(PuntReason::UnknownGroup, v4(10), DOWN), goes_up(v4(10)));
}

#[test]
fn what_went_up_goes_on_doing_so_when_the_router_is_started_again() {
    let mut bed = Bed::proxy();
    let state = FibStream {
        rpf: Rpf::Exact(Input::Interface(DOWN)),
        members: Members::Own,
        priority: Priority::default(),
        outputs: [UP_OUTPUT].into(),
    };
    let kept = Fib { streams: [(v4(9), state.clone()), (v6(), state)].into(), ..Fib::default() };
    kept::inherit(&mut bed.core, bed.now, &kept, &[]);
    bed.settle();
    let wanted = reconcile::wanted(&bed.core);
    assert_eq!(wanted.streams, kept.streams, "nothing is to be changed");
}

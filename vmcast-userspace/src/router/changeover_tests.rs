//! From one upstream to another under a stream, in virtual time.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use vmcast_proto::{
    Filter,
    amt::relay::{self, Relay},
};

use super::*;

const GROUP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(232, 1, 2, 3));
const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));
const STREAM: Stream = Stream { source: Some(SOURCE), group: GROUP };
const STEP: Duration = Duration::from_millis(1);
/// Steps from one packet of the stream to the next.
const APART: u64 = 5;

/// An upstream.
struct Vmr {
    endpoint: SocketAddr,
    /// Our end.
    local: SocketAddr,
    relay: Relay,
    alive: bool,
    /// Steps on the way of the stream.
    delay: u64,
    under_way: VecDeque<(u64, u64)>,
    joined: bool,
}

impl Vmr {
    fn new(now: Instant, last: u8, delay: u64) -> Self {
        Self {
            endpoint: SocketAddr::from(([203, 0, 113, last], 2268)),
            local: SocketAddr::from(([192, 0, 2, 1], 40_000 + u16::from(last))),
            relay: Relay::new(now, relay::Config::new([last; 16])),
            alive: true,
            delay,
            under_way: VecDeque::new(),
            joined: false,
        }
    }
}

/// A VMR, those above it, and what its data plane does.
struct Bed {
    now: Instant,
    steps: u64,
    core: Core,
    vmrs: Vec<Vmr>,
    tunnels: BTreeMap<TunnelId, SocketAddr>,
    rpf: Option<Rpf>,
    counters: StreamCounters,
    /// The packets that members got.
    got: Vec<u64>,
    sent: u64,
    changed_over: u32,
    downs: Vec<SocketAddr>,
    paused: bool,
}

impl Bed {
    fn new(delays: &[u64]) -> Self {
        let now = crate::clock::now();
        let settings = super::super::core::Settings {
            relay: relay::Config::new([1; 16]),
            mrib: mrib::Config::default(),
            discover: false,
            relays: None,
            seed: [2; 16],
            record: None,
        };
        let vmrs: Vec<_> = (1..).zip(delays).map(|(last, delay)| Vmr::new(now, last, *delay)).collect();
        let mut core = Core::new(now, settings);
        core.set_upstream(now, Some((vmrs[0].local, vmrs[0].endpoint)));
        core.set_another_upstream(true);
        let member = vmcast_common::fib::Output::Interface(vmcast_common::fib::IfIndex(4));
        let filter = Filter::Include([SOURCE].into());
        core.mrib.handle_input(now, mrib::Input::Membership { member, group: GROUP, filter, account: None });
        core.settle(now);
        Self {
            now,
            steps: 0,
            core,
            vmrs,
            tunnels: BTreeMap::new(),
            rpf: None,
            counters: StreamCounters::default(),
            got: Vec::new(),
            sent: 0,
            changed_over: 0,
            downs: Vec::new(),
            paused: false,
        }
    }

    /// Turns to another upstream beside the present one.
    fn turn_to(&mut self, at: usize) {
        let (local, named) = (self.vmrs[at].local, self.vmrs[at].endpoint);
        self.core.set_successor(self.now, local, named);
    }

    fn serving(&self) -> SocketAddr {
        self.core.upstream.as_ref().expect("an upstream").named
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::SendGateway { local, remote, bytes } => {
                    let vmr = self.vmrs.iter_mut().find(|vmr| vmr.endpoint == remote).expect("a VMR");
                    assert_eq!(vmr.local, local, "each by its own socket");
                    if vmr.alive {
                        let input = relay::Input::Datagram { local: remote, remote: local, bytes: &bytes };
                        vmr.relay.handle_input(self.now, input);
                    }
                }
                Effect::Fib(FibOp::SetTunnel(id, tunnel)) => {
                    self.tunnels.insert(id, tunnel.remote);
                }
                Effect::Fib(FibOp::RemoveTunnel(id)) => {
                    self.tunnels.remove(&id);
                }
                Effect::Fib(FibOp::SetStream(STREAM, rpf, _)) => self.rpf = Some(rpf),
                Effect::ChangedOver => self.changed_over += 1,
                Effect::UpstreamDown { named, reason } if reason != "stopped" => self.downs.push(named),
                _ => {}
            }
        }
    }

    fn step(&mut self) {
        let sends = !self.paused && self.steps.is_multiple_of(APART);
        for at in 0..self.vmrs.len() {
            while let Some(output) = self.vmrs[at].relay.poll_output() {
                match output {
                    relay::Output::Transmit { bytes, .. } => {
                        let (local, remote) = (self.vmrs[at].local, self.vmrs[at].endpoint);
                        let input = gateway::Input::Datagram { remote, tos: 0, bytes: &bytes };
                        self.core.gateway_heard_at(self.now, local, input);
                    }
                    relay::Output::Event(relay::Event::Membership { filter, .. }) => {
                        self.vmrs[at].joined = !filter.is_none();
                    }
                    relay::Output::Event(relay::Event::TunnelDown { .. }) => self.vmrs[at].joined = false,
                    relay::Output::Event(_) => {}
                }
            }
            self.carry_out();
            let vmr = &mut self.vmrs[at];
            if sends && vmr.alive && vmr.joined {
                vmr.under_way.push_back((self.steps + vmr.delay, self.sent));
            }
            while let Some((due, number)) = self.vmrs[at].under_way.front().copied() {
                if due > self.steps {
                    break;
                }
                self.vmrs[at].under_way.pop_front();
                let endpoint = self.vmrs[at].endpoint;
                let Some((id, _)) = self.tunnels.iter().find(|(_, remote)| **remote == endpoint) else {
                    continue;
                };
                if self.rpf == Some(Rpf::Exact(Input::Tunnel(*id))) {
                    self.counters.packets += 1;
                    self.got.push(number);
                } else {
                    self.counters.drop(DropReason::WrongInput);
                }
            }
        }
        self.sent += u64::from(sends);
        for stream in self.core.overlapping(self.now) {
            let before = self.counters;
            if self.core.overlap(self.now, stream, Some(&before)) {
                self.carry_out();
                self.core.note_move([before, self.counters]);
            }
        }
        self.core.handle_timeout(self.now);
        self.carry_out();
        self.steps += 1;
        self.now += STEP;
    }

    fn run(&mut self, time: Duration) {
        for _ in 0..time.as_millis() {
            self.step();
        }
    }

    /// In order, each once, and up to the last that can have come.
    fn check_whole(&self) {
        let first = self.got.first().copied().expect("packets");
        let last = self.got.last().copied().expect("packets");
        assert_eq!(self.got, (first..=last).collect::<Vec<_>>());
        assert!(last + 10 > self.sent, "{last} of {}", self.sent);
    }
}

// proves A6, E3
#[test]
fn a_vmr_turns_to_another_upstream_without_losing_or_doubling_a_packet_whichever_is_ahead() {
    for delays in [[1, 1], [1, 2], [2, 1], [1, 3], [3, 1]] {
        let mut bed = Bed::new(&[delays[0], delays[1], 0]);
        bed.run(Duration::from_secs(1));
        let old = bed.serving();
        bed.turn_to(1);
        bed.run(Duration::from_millis(400));
        assert_eq!((bed.serving(), bed.changed_over), (bed.vmrs[1].endpoint, 1), "{delays:?}");
        bed.run(Duration::from_secs(1));
        bed.check_whole();
        let moves = Moves { between_packets: 1, ..Moves::default() };
        assert_eq!(bed.core.moves, moves);
        assert!(!bed.vmrs[0].joined && bed.vmrs[1].joined, "the old one is left");
        assert!(bed.tunnels.values().all(|remote| *remote != old) && bed.tunnels.len() == 1);
        assert!(!bed.vmrs[2].joined && bed.downs.is_empty(), "nobody else was asked, and none was given up");
    }
}

// proves E3: a move that may have cost packets says how many at most
#[test]
fn copies_that_come_while_a_stream_moves_are_counted_by_whichever_way_they_came() {
    let mut bed = Bed::new(&[1, 1]);
    let before = StreamCounters { packets: 7, ..StreamCounters::default() };
    let mut after = StreamCounters { packets: 9, ..before };
    after.drop(DropReason::WrongInput);
    after.drop(DropReason::TtlExpired);
    bed.core.note_move([before, after]);
    bed.core.note_move([after, after]);
    let moves = Moves { between_packets: 1, amid_packets: 1, copies_amid: 3, ..Moves::default() };
    assert_eq!(bed.core.moves, moves);
}

// proves A6, E3
#[test]
fn a_vmr_stays_at_its_upstream_until_the_other_one_answers_and_goes_back_if_that_dies_meanwhile() {
    let mut bed = Bed::new(&[1, 1]);
    bed.run(Duration::from_secs(1));
    bed.vmrs[1].alive = false;
    bed.turn_to(1);
    bed.run(Duration::from_secs(20));
    assert_eq!((bed.serving(), bed.changed_over), (bed.vmrs[0].endpoint, 0));
    assert_eq!(bed.downs, [bed.vmrs[1].endpoint], "so that another one is looked for");
    bed.check_whole();
    bed.core.drop_successor(bed.now);
    bed.run(Duration::from_secs(1));
    bed.check_whole();
    assert_eq!(bed.tunnels.len(), 1);
}

// proves A6, E3
#[test]
fn an_upstream_that_dies_while_it_is_left_holds_up_nothing() {
    let mut bed = Bed::new(&[1, 1]);
    bed.run(Duration::from_secs(1));
    bed.vmrs[0].alive = false;
    bed.turn_to(1);
    bed.run(Duration::from_millis(300));
    assert_eq!(bed.serving(), bed.vmrs[1].endpoint);
    assert!(bed.got.is_sorted_by(|one, next| one < next), "in order, each once");
    assert!(bed.got.last().is_some_and(|last| last + 10 > bed.sent));
}

// proves A6
#[test]
fn a_stream_that_pauses_is_not_waited_for_longer_than_five_seconds_and_none_at_all_half_of_one() {
    let mut bed = Bed::new(&[1, 1]);
    bed.run(Duration::from_secs(1));
    bed.paused = true;
    bed.turn_to(1);
    bed.run(Duration::from_millis(4_900));
    assert_eq!(bed.serving(), bed.vmrs[0].endpoint);
    bed.run(Duration::from_millis(200));
    assert_eq!(bed.serving(), bed.vmrs[1].endpoint);
    assert_eq!(bed.core.moves, Moves { unwatched: 1, ..Moves::default() });
    bed.paused = false;
    bed.run(Duration::from_secs(1));
    bed.check_whole();

    let mut bed = Bed::new(&[1, 1]);
    let member = vmcast_common::fib::Output::Interface(vmcast_common::fib::IfIndex(4));
    bed.core.mrib.handle_input(bed.now, mrib::Input::MemberGone { member });
    bed.run(Duration::from_millis(100));
    bed.turn_to(1);
    bed.run(Duration::from_millis(600));
    assert_eq!(bed.serving(), bed.vmrs[1].endpoint);
}

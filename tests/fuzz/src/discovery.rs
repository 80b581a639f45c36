use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_proto::{
    Filter, Machine,
    amt::discovery::{Answer, Config, Discovery, Input, Output, Place, Prefer, Question, Routes},
};
use vmcast_wire::{
    amt::Message,
    amtrelay::{Record, Relay},
    igmp, ipv4,
};

use crate::script::{Script, pause, start};

const PORT: u16 = vmcast_common::AMT_PORT;
const MAX_SOURCES: usize = 4;
const MAX_TUNNELS: usize = 3;
/// Outputs that one step can cause.
const MAX_BURST: usize = 2_000;
/// Questions in any 100 ms (RFC 8777 §3.2.2).
const MAX_QUESTIONS: usize = 10;

/// The discovery of relays under a script: the first byte configures it, each step is something that is wanted, an
/// answer of the DNS, a datagram to a tunnel, whole, broken, or answering what was asked; a change of what is around it;
/// or time.
pub fn discovery(data: &[u8]) {
    let Some((&settings, script)) = data.split_first() else { return };
    let mut script = Script::new(script);
    let mut bed = Bed::new(settings);
    while let Some((step, argument)) = script.step() {
        match step % 8 {
            0 | 1 => bed.now += pause(step % 8 == 1, argument),
            2 => bed.want(step >> 3, argument, script.bytes(step >> 5)),
            3 => bed.answer(step >> 3, argument, script.bytes(argument & 31)),
            4 => bed.deliver(step >> 3, argument, script.bytes(argument & 63)),
            5 => bed.grant(step >> 3, argument),
            6 => bed.change(step >> 3, argument),
            _ => bed.happen(step >> 3, argument),
        }
        bed.settle();
    }
    bed.input(Input::Stop);
    bed.settle();
    while let Some(next) = bed.discovery.poll_timeout() {
        bed.now = next;
        bed.settle();
    }
    assert!(bed.discovery.is_finished() && bed.open.is_empty() && bed.routes.is_empty());
}

/// Everything is reached but one relay.
struct Here;

impl Routes for Here {
    fn source(&self, destination: IpAddr) -> Option<IpAddr> {
        (destination != relay(5)).then_some(IpAddr::from([192, 0, 2, 1]))
    }
}

struct Bed {
    discovery: Discovery,
    now: Instant,
    asked: BTreeMap<u64, Question>,
    questions: Vec<Instant>,
    /// The tunnels that have a port, where they send to and with what nonce they last asked.
    open: BTreeMap<u32, (SocketAddr, u32)>,
    /// What was sent last, by which tunnel.
    last_sent: Option<(u32, Vec<u8>)>,
    routes: BTreeMap<(IpAddr, IpAddr), u32>,
    default: BTreeMap<IpAddr, Filter>,
}

impl Bed {
    fn new(settings: u8) -> Self {
        let prefer = if settings & 1 == 0 { Prefer::Records } else { Prefer::Default };
        let (max_sources, max_tunnels) = (MAX_SOURCES, MAX_TUNNELS);
        let config = Config { prefer, max_sources, max_tunnels, ..Config::new([5; 16]) };
        Self {
            discovery: Discovery::new(config),
            now: start(),
            asked: BTreeMap::new(),
            questions: Vec::new(),
            open: BTreeMap::new(),
            last_sent: None,
            routes: BTreeMap::new(),
            default: BTreeMap::new(),
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.discovery.handle_input(self.now, input);
    }

    fn want(&mut self, which: u8, mode: u8, sources: &[u8]) {
        let sources = sources.iter().map(|last| source(*last)).collect();
        let filter = if mode & 7 == 7 { Filter::Exclude(sources) } else { Filter::Include(sources) };
        self.input(Input::SetMembership { group: group(which), filter: &filter });
    }

    /// An answer to some question, or to one that was never asked.
    fn answer(&mut self, which: u8, argument: u8, bytes: &[u8]) {
        let query = self.asked.keys().nth(usize::from(which)).copied().unwrap_or(u64::from(which));
        self.asked.remove(&query);
        let ttl = pause(argument & 128 != 0, argument);
        let record = |last: &u8| {
            let relay = if last & 192 == 192 { Relay::None } else { Relay::Address(relay(last & 7)) };
            Record { precedence: last >> 3, discovery_optional: last & 1 != 0, relay }.to_vec()
        };
        let records: Vec<_> = bytes.iter().map(record).collect();
        let addresses: Vec<_> = bytes.iter().map(|last| relay(*last)).collect();
        let answer = match argument >> 5 {
            0 | 1 => Answer::Records { data: &[bytes.to_vec()], ttl },
            2..=4 => Answer::Records { data: &records, ttl },
            5 => Answer::Addresses { addresses: &addresses, ttl },
            6 => Answer::Nothing { ttl: (argument & 1 == 0).then_some(ttl) },
            _ => Answer::Failed,
        };
        self.input(Input::Answer { query, answer, routes: &Here });
    }

    fn tunnel(&self, which: u8) -> u32 {
        self.open.keys().nth(usize::from(which & 3)).copied().unwrap_or(u32::from(which))
    }

    fn deliver(&mut self, which: u8, argument: u8, bytes: &[u8]) {
        let tunnel = self.tunnel(which);
        let remote = self.open.get(&tunnel).map_or_else(|| (relay(1), PORT).into(), |(remote, _)| *remote);
        let remote = if argument & 64 == 0 { remote } else { (relay(argument), PORT).into() };
        self.input(Input::Datagram { tunnel, remote, tos: argument, bytes });
    }

    /// What a relay answers to the last message of a tunnel.
    fn grant(&mut self, which: u8, argument: u8) {
        let tunnel = self.tunnel(which);
        let Some(&(remote, nonce)) = self.open.get(&tunnel) else { return };
        let query = igmp::Message::QueryV3(igmp::QueryV3 {
            max_resp_time: Duration::from_secs(10),
            group: Ipv4Addr::UNSPECIFIED,
            suppress_router_side_processing: false,
            robustness_variable: 2,
            query_interval: Duration::from_secs(u64::from(argument)),
            sources: Vec::new(),
        });
        let query = ipv4::encapsulate(Ipv4Addr::UNSPECIFIED, igmp::ALL_SYSTEMS, 1, 0, 2, true, &query.emit());
        let bytes = if argument & 1 == 0 {
            let limit = argument & 6 == 6;
            Message::MembershipQuery { response_mac: [1; 6], nonce, limit, gateway: None, query: &query }
                .to_vec()
        } else {
            Message::RelayAdvertisement { nonce, relay: relay(argument >> 1) }.to_vec()
        };
        self.input(Input::Datagram { tunnel, remote, tos: 0, bytes: &bytes });
    }

    fn change(&mut self, which: u8, argument: u8) {
        match which & 3 {
            0 => {
                let networks = [(source(argument), 32), (source(0), 24 + (argument & 7))];
                self.input(Input::SetNative(&networks[..usize::from(which >> 2 & 3).min(2)]));
            }
            1 => self.input(Input::SetOwn(&[relay(argument), relay(argument >> 4)])),
            2 => self.input(Input::SetDefault(Some((relay(argument), PORT).into()))),
            _ => self.input(Input::SetDefault(None)),
        }
    }

    fn happen(&mut self, which: u8, argument: u8) {
        match which & 3 {
            0 => self.input(Input::Traffic { source: source(argument) }),
            1 => self.unreachable(argument),
            2 => self.input(Input::Lost { tunnel: self.tunnel(argument) }),
            _ => self.input(Input::LocalChanged),
        }
    }

    /// ICMP says that what was sent last was not delivered, or that the same of another tunnel was not.
    fn unreachable(&mut self, argument: u8) {
        let Some((tunnel, sent)) = self.last_sent.clone() else { return };
        let tunnel = if argument & 1 == 0 { tunnel } else { self.tunnel(argument >> 1) };
        let remote = self.open.get(&tunnel).map_or_else(|| (relay(1), PORT).into(), |(remote, _)| *remote);
        let quoted = if argument & 64 == 0 { &sent[..] } else { &sent[..sent.len().min(7)] };
        self.input(Input::Unreachable { tunnel, remote, quoted });
    }

    fn settle(&mut self) {
        self.discovery.handle_timeout(self.now);
        let mut outputs = 0;
        while let Some(output) = self.discovery.poll_output() {
            outputs += 1;
            assert!(outputs < MAX_BURST, "a step causes no flood");
            self.on_output(output);
        }
        assert!(self.discovery.poll_timeout().is_none_or(|next| next > self.now));
        assert!(self.discovery.sources(self.now).count() <= MAX_SOURCES);
        assert!(self.discovery.tunnels().count() <= MAX_TUNNELS);
        for ((group, source), tunnel) in &self.routes {
            assert!(self.open.contains_key(tunnel), "{tunnel} is not open");
            let doubled = self.default.get(group).is_some_and(|filter| filter.wants(*source));
            assert!(!doubled, "{source} is asked of {tunnel} and of the default");
        }
        let used: BTreeSet<_> = self.routes.values().copied().collect();
        let placed = self.discovery.sources(self.now).filter_map(|info| match info.place {
            Place::Tunnel(number) => Some(number),
            Place::Nowhere | Place::Default(_) => None,
        });
        let placed: BTreeSet<_> = placed.collect();
        assert!(used.is_subset(&placed));
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Query { query, question } => {
                let period = self.now.checked_sub(Duration::from_millis(99));
                let recent = self.questions.iter().filter(|at| period.is_some_and(|since| **at >= since));
                assert!(recent.count() < MAX_QUESTIONS, "too many questions");
                self.questions.push(self.now);
                assert!(self.asked.insert(query, question).is_none());
            }
            Output::Open { tunnel, remote } => {
                assert!(self.open.insert(tunnel, (remote, 0)).is_none(), "{tunnel} was opened twice");
            }
            Output::Close { tunnel } => assert!(self.open.remove(&tunnel).is_some(), "{tunnel} is not open"),
            Output::Transmit { tunnel, remote, bytes } => {
                let (to, nonce) = self.open.get_mut(&tunnel).expect("it is open");
                *to = remote;
                self.last_sent = Some((tunnel, bytes.clone()));
                match Message::parse(&bytes).expect("a message") {
                    Message::RelayDiscovery { nonce: of } | Message::Request { nonce: of, .. } => *nonce = of,
                    Message::MembershipUpdate { .. } | Message::Teardown { .. } => {}
                    other => panic!("a gateway sends no {other:?}"),
                }
            }
            Output::Data { tunnel, .. } => assert!(self.open.contains_key(&tunnel)),
            Output::Default { group, filter } => {
                self.default.insert(group, filter);
            }
            Output::Route { group, source, tunnel: Some(tunnel) } => {
                self.routes.insert((group, source), tunnel);
            }
            Output::Route { group, source, tunnel: None } => {
                assert!(self.routes.remove(&(group, source)).is_some());
            }
            Output::Event(_) => {}
        }
    }
}

fn group(which: u8) -> IpAddr {
    IpAddr::from([232, 1, 1, which & 3])
}

fn source(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last & 7])
}

fn relay(last: u8) -> IpAddr {
    IpAddr::from([203, 0, 113, last & 7])
}

//! Random messages in random order never panic and never get past a limit.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use proptest::prelude::*;
use vmcast_proto::{
    Filter, Machine,
    amt::{gateway, relay},
    host_state::Limits,
};
use vmcast_sim::Node;
use vmcast_wire::{
    amt::Message,
    igmp, ipv4, ipv6,
    membership::{self, Record, RecordType},
    mld,
};

use crate::support::{GatewayNode, RELAY, RELAY6, RelayNode, packet, relay_config};

const LIMITS: Limits = Limits { groups: 2, sources: 3, listed: usize::MAX };
const MAX_TUNNELS: u32 = 4;
const MAX_PER_SOURCE: u32 = 2;

/// What a record says: its type, the last numbers of its group and of its sources.
type Said = (u8, u8, Vec<u8>);

/// What a peer of the relay does next.
#[derive(Clone, Debug)]
enum Move {
    Request {
        peer: u8,
        mld: bool,
    },
    Update {
        peer: u8,
        mld: bool,
        records: Vec<Said>,
    },
    Teardown {
        peer: u8,
        of: u8,
    },
    Bytes {
        peer: u8,
        bytes: Vec<u8>,
    },
    Flip {
        peer: u8,
        mld: bool,
        at: u16,
        bit: u8,
    },
    /// From here on the peers come to the first or the second address of the relay.
    Turn {
        second: bool,
    },
    /// The relay has all its addresses, the second ones only, or others.
    Addresses {
        are: u8,
    },
    Sleep {
        seconds: u16,
    },
}

fn moves() -> impl Strategy<Value = Move> {
    let peer = 0u8..8;
    let record = (1u8..8, 0u8..4, proptest::collection::vec(0u8..6, 0..5));
    prop_oneof![
        2 => (peer.clone(), any::<bool>()).prop_map(|(peer, mld)| Move::Request { peer, mld }),
        6 => (peer.clone(), any::<bool>(), proptest::collection::vec(record, 0..4))
            .prop_map(|(peer, mld, records)| Move::Update { peer, mld, records }),
        1 => (peer.clone(), 0u8..8).prop_map(|(peer, of)| Move::Teardown { peer, of }),
        1 => (peer.clone(), proptest::collection::vec(any::<u8>(), 0..64))
            .prop_map(|(peer, bytes)| Move::Bytes { peer, bytes }),
        1 => (peer, any::<bool>(), any::<u16>(), 0u8..8)
            .prop_map(|(peer, mld, at, bit)| Move::Flip { peer, mld, at, bit }),
        1 => any::<bool>().prop_map(|second| Move::Turn { second }),
        1 => (0u8..3).prop_map(|are| Move::Addresses { are }),
        1 => (0u16..400).prop_map(|seconds| Move::Sleep { seconds }),
    ]
}

/// Eight peers behind six addresses, of either version of IP.
fn address(peer: u8) -> SocketAddr {
    let (host, port) = (peer % 3, 1_000 + u16::from(peer));
    if peer.is_multiple_of(2) {
        SocketAddr::from(([10, 0, 0, host], port))
    } else {
        // Each in a network of its own.
        SocketAddr::from(([0x2001, 0xdb8, 5, u16::from(host) << 8, 0, 0, 0, 1], port))
    }
}

/// Where a peer reaches the relay.
fn relay_of(peer: u8, second: bool) -> SocketAddr {
    let [first, other] = if peer.is_multiple_of(2) {
        [RELAY, SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)), 2268)]
    } else {
        [RELAY6, SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 77)), 2268)]
    };
    if second { other } else { first }
}

fn record_type(number: u8) -> RecordType {
    match number {
        1 => RecordType::ModeIsInclude,
        2 => RecordType::ModeIsExclude,
        3 => RecordType::ChangeToIncludeMode,
        4 => RecordType::ChangeToExcludeMode,
        5 => RecordType::AllowNewSources,
        6 => RecordType::BlockOldSources,
        other => RecordType::Unrecognized(other),
    }
}

fn group(mld: bool, last: u8) -> IpAddr {
    if mld {
        Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 1, last.into()).into()
    } else {
        Ipv4Addr::new(239, 0, 0, last).into()
    }
}

fn source(mld: bool, last: u8) -> IpAddr {
    if mld {
        Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 1, last.into()).into()
    } else {
        Ipv4Addr::new(198, 51, 100, last).into()
    }
}

/// A report of the newest version in its datagram.
fn update(mld: bool, records: &[Said]) -> Vec<u8> {
    let record = |(kind, last, sources): &Said| Record {
        record_type: record_type(*kind),
        group: group(mld, *last),
        sources: sources.iter().map(|last| source(mld, *last)).collect(),
    };
    let report = membership::Message::ReportV3 { records: records.iter().map(record).collect() };
    if mld {
        let (from, to) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), mld::ALL_MLDV2_ROUTERS);
        let report = report.emit(from.into(), to.into()).expect("records of IPv6");
        ipv6::encapsulate(from, to, 1, 0, mld::NEXT_ICMPV6, true, &report)
    } else {
        let (from, to) = (Ipv4Addr::UNSPECIFIED, igmp::ALL_IGMPV3_ROUTERS);
        let report = report.emit(from.into(), to.into()).expect("records of IPv4");
        ipv4::encapsulate(from, to, 1, 0, 2, true, &report)
    }
}

/// What the only host of a tunnel wants after one of its own records: filters as sets, without any state beside.
fn host_after(before: &Filter, kind: u8, listed: &BTreeSet<IpAddr>) -> Filter {
    match (kind, before) {
        (1 | 3, _) => Filter::Include(listed.clone()),
        (2 | 4, _) => Filter::Exclude(listed.clone()),
        (5, Filter::Include(sources)) => Filter::Include(sources | listed),
        (5, Filter::Exclude(sources)) => Filter::Exclude(sources - listed),
        (6, Filter::Include(sources)) => Filter::Include(sources - listed),
        (6, Filter::Exclude(sources)) => Filter::Exclude(sources | listed),
        (_, before) => before.clone(),
    }
}

fn check(relay: &RelayNode) {
    assert!(relay.relay.tunnel_count() <= MAX_TUNNELS);
    assert_eq!(relay.relay.tunnel_count() as usize, relay.tunnels.len());
    for tunnel in relay.relay.tunnels() {
        assert!(tunnel.id <= MAX_TUNNELS, "ids stay dense");
        assert_eq!(relay.tunnels.get(&tunnel.id), Some(&tunnel.remote));
        assert!(tunnel.groups.len() <= LIMITS.groups);
        for (group, filter) in tunnel.groups {
            let (Filter::Include(sources) | Filter::Exclude(sources)) = &filter;
            assert!(sources.len() <= LIMITS.sources);
            assert_eq!(relay.wanted.get(&(tunnel.id, group)), Some(&filter));
        }
        let of_address = relay.tunnels.values().filter(|remote| remote.ip() == tunnel.remote.ip());
        assert!(of_address.count() <= MAX_PER_SOURCE as usize);
    }
}

proptest! {
    #[test]
    fn a_relay_bears_any_sequence_of_messages(moves in proptest::collection::vec(moves(), 0..120)) {
        let mut now = vmcast_sim::epoch();
        let config = relay::Config {
            max_tunnels: MAX_TUNNELS,
            max_tunnels_per_source: MAX_PER_SOURCE,
            limits: LIMITS,
            secret_lifetime: Duration::from_secs(500),
            ..relay_config()
        };
        let mut relay = RelayNode::new(now, config);
        let (mut macs, mut second) = ([[0; 6]; 8], false);
        for step in moves {
            match step {
                Move::Request { peer, mld } => {
                    let nonce = u32::from(peer);
                    let request = Message::Request { ipv6: mld, ecn: false, nonce };
                    relay.take_sent();
                    relay.inject_at(now, relay_of(peer, second), address(peer), &request.to_vec());
                    for sent in relay.take_sent() {
                        prop_assert_eq!((sent.from, sent.to), (relay_of(peer, second), address(peer)));
                        if let Ok(Message::MembershipQuery { response_mac, .. }) = Message::parse(&sent.bytes) {
                            macs[usize::from(peer)] = response_mac;
                        }
                    }
                }
                Move::Update { peer, mld, records } => {
                    let response_mac = macs[usize::from(peer)];
                    let update = update(mld, &records);
                    let message = Message::MembershipUpdate { response_mac, nonce: peer.into(), update: &update };
                    relay.inject_at(now, relay_of(peer, second), address(peer), &message.to_vec());
                }
                Move::Teardown { peer, of } => {
                    let response_mac = macs[usize::from(of)];
                    let gateway = address(of).into();
                    let message = Message::Teardown { response_mac, nonce: of.into(), gateway };
                    relay.inject_at(now, relay_of(peer, second), address(peer), &message.to_vec());
                }
                Move::Bytes { peer, bytes } => {
                    relay.inject_at(now, relay_of(peer, second), address(peer), &bytes);
                }
                Move::Flip { peer, mld, at, bit } => {
                    let update = update(mld, &[(4, 1, vec![1, 2])]);
                    let response_mac = macs[usize::from(peer)];
                    let message = Message::MembershipUpdate { response_mac, nonce: peer.into(), update: &update };
                    let mut bytes = message.to_vec();
                    let at = usize::from(at) % bytes.len();
                    bytes[at] ^= 1 << bit;
                    relay.inject_at(now, relay_of(peer, second), address(peer), &bytes);
                }
                Move::Turn { second: turned } => second = turned,
                Move::Addresses { are } => {
                    let of = |second| [0, 1].map(|peer| relay_of(peer, second).ip());
                    relay.relay.advertise(match are {
                        0 => [of(false), of(true)].concat(),
                        1 => of(true).to_vec(),
                        _ => vec![Ipv4Addr::new(192, 0, 2, 99).into()],
                    });
                }
                Move::Sleep { seconds } => {
                    now += Duration::from_secs(seconds.into());
                    relay.wake(now);
                    let next = relay.relay.poll_timeout();
                    prop_assert!(next.is_some_and(|next| next > now));
                }
            }
            check(&relay);
        }
        // Silence ends all of it, whatever was said.
        now += Duration::from_secs(10_000);
        relay.wake(now);
        prop_assert_eq!(relay.relay.tunnel_count(), 0);
    }

    /// A tunnel has one host, so what is forwarded into it is what that host's own records say, at once.
    // proves A7, and RFC 9776 §5.1, RFC 9777 §6.1 as a relay hears them
    #[test]
    fn what_is_wanted_of_a_tunnel_is_what_a_model_of_its_host_wants(
        outside: bool,
        steps in proptest::collection::vec(
            (any::<bool>(), 1u8..8, 0u8..3, proptest::collection::vec(0u8..6, 0..5)), 1..60),
    ) {
        let now = vmcast_sim::epoch();
        let peer = u8::from(outside);
        let mut relay = RelayNode::new(now, relay_config());
        let mut model: BTreeMap<IpAddr, Filter> = BTreeMap::new();
        for (nonce, (mld, kind, last, listed)) in (0..).zip(steps) {
            // Another round for each: a list may come in several records of one.
            let request = Message::Request { ipv6: mld, ecn: false, nonce };
            relay.inject_at(now, relay_of(peer, false), address(peer), &request.to_vec());
            let sent = relay.take_sent();
            let Ok(Message::MembershipQuery { response_mac, .. }) = Message::parse(&sent[0].bytes) else {
                panic!("no query");
            };
            let update = update(mld, &[(kind, last, listed.clone())]);
            let message = Message::MembershipUpdate { response_mac, nonce, update: &update };
            relay.inject_at(now, relay_of(peer, false), address(peer), &message.to_vec());
            let group = group(mld, last);
            let listed = listed.into_iter().map(|last| source(mld, last)).collect();
            let after = host_after(&model.remove(&group).unwrap_or_default(), kind, &listed);
            if !after.is_none() {
                model.insert(group, after);
            }
            prop_assert_eq!(&relay.wants(address(peer)), &model);
        }
    }

    #[test]
    fn a_gateway_bears_any_sequence_of_bytes_and_wishes(
        steps in proptest::collection::vec(
            (0u8..8, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..48)),
            0..80,
        ),
        discover: bool,
        keep_warm: bool,
    ) {
        let mut now = vmcast_sim::epoch();
        let config = gateway::Config { discover, keep_warm, ..gateway::Config::new(RELAY, [3; 16]) };
        let mut gateway = GatewayNode::new(now, 0, config);
        let mut relay = RelayNode::new(now, relay_config());
        for (kind, number, mut bytes) in steps {
            match kind {
                0 => {
                    let mld = number & 512 != 0;
                    let group = group(mld, number as u8 % 4);
                    let sources = bytes.iter().map(|last| source(mld, *last)).collect();
                    let filter = if number & 256 == 0 { Filter::Include(sources) } else { Filter::Exclude(sources) };
                    gateway.input(now, gateway::Input::SetMembership { group, filter });
                }
                1 => gateway.input(now, gateway::Input::LocalChanged),
                2 if number % 16 == 0 => gateway.input(now, gateway::Input::Stop),
                2 | 3 => {
                    now += Duration::from_millis(u64::from(number % 60_000));
                    gateway.wake(now);
                    prop_assert!(gateway.gateway.poll_timeout().is_none_or(|next| next > now));
                }
                4 => {
                    let data = packet(Ipv4Addr::from(number), Ipv4Addr::new(239, 0, 0, 1), 0);
                    let data = Message::MulticastData { packet: &data }.to_vec();
                    gateway.input(now, gateway::Input::Datagram { remote: RELAY, tos: 0, bytes: &data });
                }
                5 => {
                    if let Some(first) = bytes.first_mut() {
                        *first %= 8;
                    }
                    gateway.input(now, gateway::Input::Datagram { remote: RELAY, tos: 0, bytes: &bytes });
                }
                _ => {
                    let remote = gateway.address;
                    for sent in gateway.take_sent() {
                        prop_assert!(sent.bytes.len() + 28 <= 1280);
                        relay.inject(now, remote, &sent.bytes);
                    }
                    for answer in relay.take_sent() {
                        gateway.input(now, gateway::Input::Datagram { remote: RELAY, tos: 0, bytes: &answer.bytes });
                    }
                }
            }
            prop_assert!(gateway.received.iter().all(|(_, packet)| packet[16] == 239));
        }
    }
}

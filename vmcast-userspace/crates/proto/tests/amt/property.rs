//! Random messages in random order never panic and never get past a limit.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
    igmp::{self, Record, RecordType},
    ipv4,
};

use crate::support::{GatewayNode, RELAY, RelayNode, packet, relay_config};

const LIMITS: Limits = Limits { groups: 2, sources: 3 };
const MAX_TUNNELS: u32 = 4;
const MAX_PER_SOURCE: u32 = 2;

/// What a peer of the relay does next.
#[derive(Clone, Debug)]
enum Move {
    Request { peer: u8 },
    Update { peer: u8, records: Vec<(u8, u8, Vec<u8>)> },
    Teardown { peer: u8, of: u8 },
    Bytes { peer: u8, bytes: Vec<u8> },
    Flip { peer: u8, at: u16, bit: u8 },
    Sleep { seconds: u16 },
}

fn moves() -> impl Strategy<Value = Move> {
    let peer = 0u8..8;
    let record = (1u8..8, 0u8..4, proptest::collection::vec(0u8..6, 0..5));
    prop_oneof![
        2 => peer.clone().prop_map(|peer| Move::Request { peer }),
        6 => (peer.clone(), proptest::collection::vec(record, 0..4))
            .prop_map(|(peer, records)| Move::Update { peer, records }),
        1 => (peer.clone(), 0u8..8).prop_map(|(peer, of)| Move::Teardown { peer, of }),
        1 => (peer.clone(), proptest::collection::vec(any::<u8>(), 0..64))
            .prop_map(|(peer, bytes)| Move::Bytes { peer, bytes }),
        1 => (peer, any::<u16>(), 0u8..8).prop_map(|(peer, at, bit)| Move::Flip { peer, at, bit }),
        1 => (0u16..400).prop_map(|seconds| Move::Sleep { seconds }),
    ]
}

/// Eight peers behind three addresses.
fn address(peer: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, peer % 3], 1_000 + u16::from(peer)))
}

fn update(records: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
    let record = |(kind, group, sources): &(u8, u8, Vec<u8>)| Record {
        record_type: match kind {
            1 => RecordType::ModeIsInclude,
            2 => RecordType::ModeIsExclude,
            3 => RecordType::ChangeToIncludeMode,
            4 => RecordType::ChangeToExcludeMode,
            5 => RecordType::AllowNewSources,
            6 => RecordType::BlockOldSources,
            other => RecordType::Unrecognized(*other),
        },
        group: Ipv4Addr::new(239, 0, 0, *group),
        sources: sources.iter().map(|last| Ipv4Addr::new(198, 51, 100, *last)).collect(),
    };
    let report = igmp::Message::ReportV3 { records: records.iter().map(record).collect() }.emit();
    ipv4::encapsulate(Ipv4Addr::UNSPECIFIED, igmp::ALL_IGMPV3_ROUTERS, 1, 0, 2, true, &report)
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
        let mut macs = [[0; 6]; 8];
        for step in moves {
            match step {
                Move::Request { peer } => {
                    let nonce = u32::from(peer);
                    relay.inject(now, address(peer), &Message::Request { ipv6: false, ecn: false, nonce }.to_vec());
                    for sent in relay.take_sent() {
                        if let Ok(Message::MembershipQuery { response_mac, .. }) = Message::parse(&sent.bytes) {
                            macs[usize::from(peer)] = response_mac;
                        }
                    }
                }
                Move::Update { peer, records } => {
                    let response_mac = macs[usize::from(peer)];
                    let update = update(&records);
                    let message = Message::MembershipUpdate { response_mac, nonce: peer.into(), update: &update };
                    relay.inject(now, address(peer), &message.to_vec());
                }
                Move::Teardown { peer, of } => {
                    let response_mac = macs[usize::from(of)];
                    let gateway = address(of).into();
                    let message = Message::Teardown { response_mac, nonce: of.into(), gateway };
                    relay.inject(now, address(peer), &message.to_vec());
                }
                Move::Bytes { peer, bytes } => relay.inject(now, address(peer), &bytes),
                Move::Flip { peer, at, bit } => {
                    let update = update(&[(4, 1, vec![1, 2])]);
                    let response_mac = macs[usize::from(peer)];
                    let message = Message::MembershipUpdate { response_mac, nonce: peer.into(), update: &update };
                    let mut bytes = message.to_vec();
                    let at = usize::from(at) % bytes.len();
                    bytes[at] ^= 1 << bit;
                    relay.inject(now, address(peer), &bytes);
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
                    let group = IpAddr::from([239, 0, 0, number as u8 % 4]);
                    let sources = bytes.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect();
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

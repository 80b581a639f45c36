use std::net::Ipv4Addr;

use vmcast_common::{
    fib::Priority,
    forward::{Tables, decide},
    hdr::{amt, eth, ipv4, link::LinkId, udp},
    maps::{
        Address, EndpointEntry, EndpointKey, InputId, InterfaceEntry, InterfaceKey, Marks, SharedKey,
        StreamEntry, StreamKey, TunnelEntry, TunnelKey,
    },
    rewrite::{Ends, readdress},
    verdict::Verdict,
};

use crate::seal_ipv4;

const US: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR_END: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const PORT: [u8; 2] = vmcast_common::AMT_PORT.to_be_bytes();
/// Where a stream comes in by unicast.
const INPUT_PORT: [u8; 2] = [0x17, 0x70];
const IFINDEX: u32 = 7;
/// The class of the stream that comes out of a tunnel.
const EF: u8 = 46;
const TUNNEL: u32 = 9;
const ANY_SOURCE_TABLE: u32 = 2;
/// Where the inner packet starts when no header has options.
const INNER: usize = eth::LEN + ipv4::MIN_LEN + udp::LEN + amt::DATA_LEN;

/// One tunnel, one (S,G) from it, one (*,G), one interface that accepts sources, one unicast input.
struct Known;

impl Tables for Known {
    fn stream(&self, key: &StreamKey) -> Option<StreamEntry> {
        if *key == StreamKey::v4(SOURCE, GROUP) {
            let rpf = InputId::tunnel(TUNNEL).0;
            return Some(StreamEntry {
                table: 1,
                list: 0,
                stats: 1,
                rpf,
                encapsulated_max: 1470,
                whole_max: 1504,
                kernel_max: u32::MAX,
                marks: Marks::of(&Priority { dscp: Some(EF), pcp: 5, ..Priority::default() }),
            });
        }
        let any_source = *key == StreamKey::v4(SOURCE, GROUP).any_source();
        any_source.then_some(StreamEntry {
            table: ANY_SOURCE_TABLE,
            list: 0,
            stats: 2,
            rpf: 0,
            encapsulated_max: 0,
            whole_max: 1504,
            kernel_max: u32::MAX,
            marks: Marks::NONE,
        })
    }

    fn tunnel(&self, key: &TunnelKey) -> Option<TunnelEntry> {
        let known = TunnelKey {
            local: Address::v4(US),
            remote: Address::v4(FAR_END),
            local_port: PORT,
            remote_port: PORT,
            kind: TunnelKey::KIND_AMT,
        };
        (*key == known).then_some(TunnelEntry { id: TUNNEL, accepts_sources: 1, ecn_normal: 0 })
    }

    fn endpoint(&self, key: &EndpointKey) -> Option<EndpointEntry> {
        if *key == EndpointKey::at(Address::v4(US), INPUT_PORT) {
            return Some(EndpointEntry::input_to((GROUP, 5004).into()));
        }
        (*key == EndpointKey::at(Address::v4(US), PORT)).then_some(EndpointEntry::OF_TUNNELS)
    }

    fn interface(&self, key: &InterfaceKey) -> Option<InterfaceEntry> {
        let known = InterfaceKey::new(IFINDEX, LinkId::PLAIN);
        (*key == known).then_some(InterfaceEntry {
            ifindex: IFINDEX,
            accepts_sources: 1,
            flags: InterfaceEntry::SHARES_GROUPS,
        })
    }

    fn shared_group(&self, key: &SharedKey) -> Option<bool> {
        (key.group == Address::v4(GROUP) && key.ifindex == IFINDEX).then_some(true)
    }
}

/// The forwarding decision: over the bytes as a frame, as the payload of a frame to a known group,
/// and as what comes out of a known tunnel.
pub fn forward(data: &[u8]) {
    check(data);

    let mut native = vec![0; eth::LEN];
    native[12..].copy_from_slice(&eth::TYPE_IPV4.to_be_bytes());
    native.extend_from_slice(data);
    check(&native);
    address(&mut native[eth::LEN..]);
    check(&native);
    to_input(&mut native[eth::LEN..]);
    check(&native);

    let mut tunnelled = vec![0; INNER];
    tunnelled.extend_from_slice(data);
    tunnelled[12..14].copy_from_slice(&eth::TYPE_IPV4.to_be_bytes());
    let length = tunnelled.len();
    let outer = &mut tunnelled[eth::LEN..];
    outer[0] = 0x45;
    outer[2..4].copy_from_slice(&((length - eth::LEN) as u16).to_be_bytes());
    outer[8] = 64;
    outer[9] = ipv4::PROTO_UDP;
    outer[12..16].copy_from_slice(&FAR_END.octets());
    outer[16..20].copy_from_slice(&US.octets());
    seal_ipv4(outer);
    let datagram = &mut tunnelled[eth::LEN + ipv4::MIN_LEN..];
    datagram[0..2].copy_from_slice(&PORT);
    datagram[2..4].copy_from_slice(&PORT);
    datagram[4..6].copy_from_slice(&((length - eth::LEN - ipv4::MIN_LEN) as u16).to_be_bytes());
    datagram[udp::LEN] = amt::DATA_TYPE;
    check(&tunnelled);
    address(&mut tunnelled[INNER..]);
    check(&tunnelled);
}

/// Makes an IPv4 packet one of the known stream, with a header checksum that fits.
fn address(packet: &mut [u8]) {
    if packet.len() >= ipv4::MIN_LEN {
        packet[12..16].copy_from_slice(&SOURCE.octets());
        packet[16..20].copy_from_slice(&GROUP.octets());
        seal_ipv4(packet);
    }
}

/// Sends an IPv4 packet to where a stream comes in by unicast.
fn to_input(packet: &mut [u8]) {
    if packet.len() >= ipv4::MIN_LEN + udp::LEN {
        packet[9] = ipv4::PROTO_UDP;
        packet[16..20].copy_from_slice(&US.octets());
        packet[ipv4::MIN_LEN + 2..ipv4::MIN_LEN + 4].copy_from_slice(&INPUT_PORT);
        seal_ipv4(packet);
    }
}

fn check(frame: &[u8]) {
    match decide(frame, IFINDEX, &Known) {
        Verdict::Replicate(copy) => {
            assert!(copy.ip_offset >= eth::LEN && copy.ip_len >= ipv4::MIN_LEN);
            assert!(copy.ip_offset + copy.ip_len <= frame.len());
            let natively = copy.input == InputId::interface(IFINDEX) && copy.new_ports.is_none();
            assert_eq!((copy.shared, copy.left_to_tc), (natively, natively));
            assert!(copy.ttl >= 2, "a copy would leave with a time to live of 0");
            assert_eq!(copy.stream.group, Address::v4(GROUP));
            if let Some(ports) = copy.new_ports {
                let mut packet = frame[copy.ip_offset..][..copy.ip_len].to_vec();
                let done = readdress(&mut packet[..], 0, &Ends::of_input(&copy.stream, copy.is_ipv6, ports));
                assert!(done.is_some() && packet[16..20] == GROUP.octets(), "it has ports");
            }
            if copy.stream == StreamKey::v4(SOURCE, GROUP) {
                assert_eq!((copy.table, copy.input), (1, InputId::tunnel(TUNNEL)));
                assert_eq!(copy.new_tos >> 2, EF);
            } else {
                assert_eq!((copy.table, copy.new_source), (ANY_SOURCE_TABLE, true));
                assert_eq!(copy.new_tos >> 2, copy.tos >> 2);
            }
        }
        Verdict::Refuse(refusal) => assert!(!refusal.reason.label().is_empty()),
        Verdict::Pass | Verdict::PassAndPunt(..) => {}
    }
}

//! Sound inputs of the targets whose inputs are too much for chance: where a fuzzer starts.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType},
};
use prost::Message as _;
use vmcast_api::{
    Group, GroupState, Groups, Node, Nodes, Page, Place, Request, Response, Role, SigningOrder, Stats, Taken,
    TokenOrder, encode,
};
use vmcast_signal::v1;
use vmcast_wire::{igmp, ipv4, ipv6, mld};

/// Makes the seeds of one target.
pub type Seeds = fn() -> Vec<Vec<u8>>;

/// The targets that have seeds.
pub const ALL: [(&str, Seeds); 11] = [
    ("relay", relay),
    ("gateway", gateway),
    ("prober", prober),
    ("registry", registry),
    ("control", control),
    ("netlink", netlink),
    ("config", config),
    ("line", line),
    ("join", join),
    ("host_packet", host_packet),
    ("etcd_row", etcd_row),
];

const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 2268);
/// Length of a netlink message header in bytes.
const NETLINK_HEADER: usize = 16;

/// The sample configuration of every role, and one that says too much.
#[must_use]
pub fn config() -> Vec<Vec<u8>> {
    [
        include_str!("../../../vmcast-userspace/config/router.toml"),
        include_str!("../../../vmcast-userspace/config/admin.toml"),
        include_str!("../../../vmcast-userspace/config/agent.toml"),
        "rank = 1\ncolour = \"ü\"\n[tunnel]\naddress = [\"192.0.2.300\"]\n[[interface]]\nname = \"a/b\"\n",
        "listen = \"0.0.0.0:0\"\ndatabase = \"x\"\nlease_seconds = 0\ncache_prefix_v4 = 99\n",
        "[upstream]\nfrom = \"static\"\nvmr = [\"192.0.2.1:2268\"]\n[interface]\nmtu = 1\ngroups = [\"232.0.0.0/8\", \"232.1.0.0/16\"]\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// Every question, and answers.
#[must_use]
pub fn control() -> Vec<Vec<u8>> {
    let page = |after: &str| Page { after: Some(after.to_owned()), limit: 3 };
    let group = Some([232, 1, 1, 1].into());
    let signing = SigningOrder {
        node: "n1".to_owned(),
        role: Role::Agent,
        certificate_request: "MIGA".to_owned(),
        ttl_seconds: None,
    };
    let order = TokenOrder { role: Role::Agent, ttl_seconds: 3600, uses: 2, name: None, urls: vec![] };
    let requests = [
        Request::Status,
        Request::GroupList { group: None, source: None, page: Page::default() },
        Request::GroupList { group, source: Some([192, 0, 2, 9].into()), page: page("7") },
        Request::MemberList { group, page: page("7") },
        Request::TunnelList { page: page("18446744073709551615") },
        Request::SourceList { page: page("1") },
        Request::InterfaceList,
        Request::Stats,
        Request::NodeList { page: page("vmr-1") },
        Request::NodeDrain { node: "n1".to_owned(), drain: true },
        Request::TokenCreate { order },
        Request::NodeSign { order: signing },
        Request::TokenList { page: page("t1") },
        Request::TokenRevoke { id: "t1".to_owned() },
        Request::NodeRevoke { node: "n1".to_owned() },
        Request::PolicyList,
        Request::PolicyRemove { id: 1 },
        Request::CacheList { page: page("0@192.0.2.0/24") },
    ];
    requests.iter().map(encode).chain(answers().iter().map(encode)).collect()
}

fn answers() -> Vec<Response> {
    let group = Group {
        group: [232, 1, 1, 1].into(),
        source: Some([192, 0, 2, 9].into()),
        rpf: Some(Place::Tunnel { id: 4, name: None, local: RELAY, remote: RELAY }),
        members: 3,
        packets: u64::MAX,
        bytes: 1,
        drops: BTreeMap::from([("wrong_input".to_owned(), 1)]),
        bits_per_second: Some(8_000_000),
        last_packet_ms: Some(2),
        state: GroupState::Forwarding,
        priority: None,
        refused: None,
        taken: Some(Taken { at: "tc".to_owned(), reason: Some("a listener".to_owned()) }),
    };
    let counters = BTreeMap::from([("bad_checksum".to_owned(), 1)]);
    let stats = Stats {
        engine: None,
        drops: counters.clone(),
        streams: Vec::new(),
        control: BTreeMap::from([("igmp".to_owned(), counters)]),
        resident_bytes: 9_000_000,
    };
    let node = Node {
        id: "n1".to_owned(),
        name: "ü".to_owned(),
        role: Role::Router,
        rank: Some(1),
        endpoints: vec![RELAY],
        age_ms: 1,
        lease_left_ms: 2,
        draining: true,
        rtt_us: Some(900),
        connections: 3,
        capacity: 10,
        software: "vmcast 1".to_owned(),
        capabilities: vec!["amt".to_owned()],
        source_prefixes: vec!["10.1.0.0/16".to_owned()],
        tunnel_ends: vec![],
        proofs: vec![],
    };
    vec![
        Response::Groups(Groups { next: Some("1".to_owned()), groups: vec![group] }),
        Response::Stats(stats),
        Response::Nodes(Nodes { next: None, nodes: vec![node] }),
        Response::error("no"),
    ]
}

/// Notifications and answers of the kernel: as datagrams, and the body of each.
#[must_use]
pub fn netlink() -> Vec<Vec<u8>> {
    let mut link = LinkMessage::default();
    link.header.index = 7;
    link.attributes = vec![
        LinkAttribute::IfName("eth7".to_owned()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
    ];
    let mut address = AddressMessage::default();
    (address.header.family, address.header.prefix_len, address.header.index) = (AddressFamily::Inet, 24, 7);
    let own = Ipv4Addr::new(192, 0, 2, 7).into();
    address.attributes = vec![AddressAttribute::Address(own), AddressAttribute::Local(own)];
    let mut route = RouteMessage::default();
    (route.header.address_family, route.header.kind) = (AddressFamily::Inet, RouteType::Unicast);
    route.attributes = vec![
        RouteAttribute::Oif(7),
        RouteAttribute::Gateway(RouteAddress::Inet([192, 0, 2, 1].into())),
        RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]),
    ];
    let mut neighbour = NeighbourMessage::default();
    (neighbour.header.family, neighbour.header.ifindex) = (AddressFamily::Inet, 7);
    neighbour.header.state = NeighbourState::Reachable;
    neighbour.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet([192, 0, 2, 1].into())),
        NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
    ];
    let messages = [
        RouteNetlinkMessage::NewLink(link.clone()),
        RouteNetlinkMessage::DelLink(link),
        RouteNetlinkMessage::NewAddress(address),
        RouteNetlinkMessage::NewRoute(route),
        RouteNetlinkMessage::NewNeighbour(neighbour.clone()),
        RouteNetlinkMessage::DelNeighbour(neighbour),
    ];
    let mut datagrams: Vec<Vec<u8>> = messages.into_iter().map(datagram).collect();
    datagrams.push(group_joined());
    let bodies: Vec<_> = datagrams.iter().map(|datagram| datagram[NETLINK_HEADER..].to_vec()).collect();
    let all = datagrams.concat();
    datagrams.into_iter().chain(bodies).chain([all]).collect()
}

fn datagram(message: RouteNetlinkMessage) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// `RTM_NEWMULTICAST` of an IPv4 group, which the decoder does not know.
fn group_joined() -> Vec<u8> {
    let mut body = vec![2, 32, 128, 0];
    body.extend(7u32.to_ne_bytes());
    body.extend([8u16.to_ne_bytes(), 7u16.to_ne_bytes()].concat());
    body.extend([239, 192, 1, 2]);
    let mut bytes = ((NETLINK_HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(56u16.to_ne_bytes());
    bytes.resize(NETLINK_HEADER, 0);
    bytes.extend(body);
    bytes
}

/// Steps of the registry's script, each with its message.
#[must_use]
pub fn registry_steps() -> Vec<Vec<u8>> {
    let mut steps = Vec::new();
    for (number, role) in [(1, v1::Role::Vmr), (2, v1::Role::Vmr), (3, v1::Role::Agent), (4, v1::Role::Agent)]
    {
        let node = v1::Node {
            id: format!("n{number}"),
            role: role.into(),
            endpoints: vec![format!("192.0.2.{number}:2268")],
            rank: number - 1,
            name: "ü".to_owned(),
            software: "v 1".to_owned(),
            capabilities: vec!["amt".to_owned()],
            tunnel_ends: vec![v1::TunnelEnd { kind: 4, endpoint: format!("192.0.2.{number}:0") }],
            source_prefixes: vec!["10.1.0.0/16".to_owned()],
            load: Some(v1::Load { connections: number, capacity: 4 }),
            own_tunnels: vec![v1::OwnTunnel {
                vmr_id: "n1".to_owned(),
                tunnel: format!("198.51.100.{number}:2268"),
                nonce: number,
                response_mac: vec![1; 6],
            }],
        };
        steps.push(step(
            1,
            v1::RegisterRequest { node: Some(node), ..v1::RegisterRequest::default() }.encode_to_vec(),
        ));
    }
    let measured = |hops| v1::Measurement {
        vmr_id: "n1".to_owned(),
        endpoint: "192.0.2.1:2268".to_owned(),
        hops,
        rtt_micros: 900,
    };
    let node_id = || "n3".to_owned();
    let addresses = || vec!["198.51.100.3".to_owned()];
    let nearest = v1::NearestRequest {
        node_id: node_id(),
        addresses: addresses(),
        excluded: vec!["n2".to_owned()],
        limit: 1,
        after: "8@n0".to_owned(),
        ..v1::NearestRequest::default()
    };
    let report = v1::ReportNearestRequest {
        node_id: node_id(),
        addresses: addresses(),
        chosen: Some(measured(3)),
        measurements: vec![measured(3), measured(300)],
        arrived: vec![measured(3), measured(2)],
    };
    let vmr = v1::Vmr {
        id: "n1".to_owned(),
        endpoints: vec!["[2001:db8::1]:2268".to_owned()],
        ..v1::Vmr::default()
    };
    let told = v1::NearestResponse {
        kind: v1::AnswerKind::All.into(),
        vmrs: vec![vmr],
        ..v1::NearestResponse::default()
    };
    steps.extend([
        step(2, v1::DeregisterRequest { node_id: "n2".to_owned() }.encode_to_vec()),
        step(3, nearest.encode_to_vec()),
        step(4, report.encode_to_vec()),
        step(5, v1::ListNodesRequest { limit: 2, after: "n1".to_owned() }.encode_to_vec()),
        step(6, v1::ListCacheRequest { limit: 2, after: "0@198.51.100.0/24".to_owned() }.encode_to_vec()),
        step(7, told.encode_to_vec()),
    ]);
    steps
}

fn step(kind: u8, message: Vec<u8>) -> Vec<u8> {
    let length = u8::try_from(message.len()).expect("a short message");
    [vec![kind, 0x83, length], message].concat()
}

/// A script of the registry: all steps.
#[must_use]
pub fn registry() -> Vec<Vec<u8>> {
    vec![registry_steps().concat()]
}

/// Handshake, join, another join, leave, teardown, and silence; and data that is not delivered.
#[must_use]
pub fn relay() -> Vec<Vec<u8>> {
    let report =
        |kind: u8, last: u8| vec![0x22, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, 1, 239, 1, 2, last, 198, 51, 100, 9];
    let update = |report: Vec<u8>| [vec![5, 0, report.len() as u8], report].concat();
    let joined = [vec![0, 4, 1], update(report(5, 1)), update(report(3, 2))].concat();
    vec![
        [joined.clone(), update(report(6, 1)), vec![7, 0]].concat(),
        [joined.clone(), vec![1, 255]].concat(),
        [joined, [3, 0, 0, 0, 60].repeat(4), vec![3, 1, 1, 9, 3, 2, 0]].concat(),
        vec![0, 2, 8, 1, 0, 0, 0, 1, 2, 3, 4],
    ]
}

/// A join, discovery, handshake, data, a change of address, and the end.
#[must_use]
pub fn gateway() -> Vec<Vec<u8>> {
    let steps =
        vec![7, 10, 3, 0x41, 4, 1, 6, 2, 0xaa, 0xbb, 0, 100, 1, 40, 4, 2, 7, 251, 1, 1, 4, 1, 7, 255, 0, 200];
    // The first Request is not delivered, or an Update.
    let refused = vec![7, 10, 7, 240, 0, 20, 7, 240, 0, 60, 7, 240, 4, 2, 7, 240, 7, 246, 7, 249, 1, 2, 3];
    let scripts = [0, 1, 2, 16].map(|settings| [vec![settings], steps.clone()].concat());
    let refusals = [0, 1].map(|settings| [vec![settings], refused.clone()].concat());
    scripts.into_iter().chain(refusals).collect()
}

/// Three relays of which one answers, one answers late and one never.
#[must_use]
pub fn prober() -> Vec<Vec<u8>> {
    vec![vec![0x26, 3, 4, 60, 0, 40, 0x14, 250, 1, 4, 0x24, 3]]
}

/// A request for a certificate, signed by its key; made once, for keys are random.
const CERTIFICATE_REQUEST: [u8; 201] = [
    0x30, 0x81, 0xc6, 0x30, 0x6f, 0x02, 0x01, 0x00, 0x30, 0x0d, 0x31, 0x0b, 0x30, 0x09, 0x06, 0x03, 0x55,
    0x04, 0x03, 0x0c, 0x02, 0x6e, 0x31, 0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d,
    0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04, 0xa1,
    0x3e, 0x46, 0xaa, 0xf9, 0x5a, 0x41, 0xa2, 0x3b, 0xb4, 0x41, 0xce, 0x7a, 0xdd, 0x8c, 0x7c, 0x49, 0x9b,
    0x4f, 0xf7, 0xdb, 0x09, 0x41, 0x8f, 0x98, 0xbb, 0x83, 0x56, 0x12, 0x84, 0x9a, 0xe9, 0x5c, 0x11, 0x7b,
    0x1e, 0x01, 0x40, 0xa1, 0x04, 0xb5, 0xf9, 0x92, 0x44, 0xcd, 0x34, 0x4e, 0x60, 0x42, 0x53, 0xf0, 0x0f,
    0xc6, 0x12, 0x53, 0x3e, 0x7c, 0x7f, 0xda, 0x4d, 0xc4, 0x6a, 0x7e, 0x48, 0xa0, 0x00, 0x30, 0x0a, 0x06,
    0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02, 0x03, 0x47, 0x00, 0x30, 0x44, 0x02, 0x20, 0x1e,
    0x72, 0xd6, 0x6d, 0x2c, 0x61, 0xce, 0x34, 0x01, 0xeb, 0x38, 0x79, 0xeb, 0x70, 0xf1, 0xad, 0xd5, 0x22,
    0x10, 0xa4, 0x5c, 0x91, 0xb6, 0x70, 0x5a, 0x0f, 0xbe, 0x90, 0xc9, 0x59, 0x17, 0xb3, 0x02, 0x20, 0x6e,
    0xc7, 0x82, 0xa2, 0x86, 0xcf, 0x09, 0x74, 0xaf, 0x77, 0xfb, 0x56, 0xbf, 0xd2, 0x4d, 0x32, 0xbf, 0x22,
    0x23, 0xaa, 0x98, 0x16, 0x62, 0xa1, 0x43, 0xf4, 0x0d, 0x96, 0x62, 0x11, 0xcc, 0x11,
];

/// What the admin and a VMR say on their line.
#[must_use]
pub fn line() -> Vec<Vec<u8>> {
    let noted =
        |tag: u32| v1::Noted { tag, nonces: (0..3).map(|half| tag << 16 | (tag + 1 + half)).collect() };
    let refused = v1::RefusedJoin {
        tunnel: "198.51.100.3:1".to_owned(),
        group: "232.1.1.1".to_owned(),
        reason: "rule 3".to_owned(),
    };
    let said = |noted, refused| {
        let beside = true;
        v1::AttendRequest { node_id: "n1".to_owned(), answered: 7, noted, refused, beside }
    };
    let rule = v1::PolicyRule {
        id: 3,
        deny: true,
        action: v1::PolicyAction::Send.into(),
        node_id: "n1".to_owned(),
        addresses: vec!["192.0.2.1".to_owned()],
        who: "10.0.0.0/8".to_owned(),
        groups: "ff3e::/32".to_owned(),
        source: "192.0.2.0/24".to_owned(),
        max_groups: Some(2),
        ..v1::PolicyRule::default()
    };
    let own = v1::OwnTunnel {
        vmr_id: "v".to_owned(),
        tunnel: "198.51.100.1:2268".to_owned(),
        nonce: 7,
        response_mac: vec![1; 6],
    };
    let claims = vec![v1::Claim { node_id: "n".to_owned(), tunnel: Some(own) }];
    let policy = v1::Policy {
        version: 9,
        deny_by_default: true,
        rules: vec![rule],
        claims,
        known_by_tunnels: vec!["n".to_owned()],
    };
    let proof = v1::Proof {
        endpoint: "192.0.2.1:2268".to_owned(),
        found: v1::Found::Silent.into(),
        since_unix_millis: 7,
    };
    let told = |what| v1::Command { number: 1, what: Some(what) }.encode_to_vec();
    let steps = [
        step(1, said(Some(noted(0x0101)), None).encode_to_vec()),
        vec![0, 20, 0],
        step(1, said(Some(noted(0x0101)), None).encode_to_vec()),
        step(1, said(None, Some(v1::RefusedJoins { joins: vec![refused.clone()] })).encode_to_vec()),
        step(2, told(v1::command::What::Policy(policy.clone()))),
        step(2, told(v1::command::What::Proofs(v1::Proofs { endpoints: vec![proof] }))),
        step(2, told(v1::command::What::Going("n2".to_owned()))),
        step(2, v1::RefusedJoinsResponse { joins: vec![refused] }.encode_to_vec()),
        step(3, policy.encode_to_vec()),
    ];
    steps.iter().cloned().chain([steps.concat()]).collect()
}

/// A join, the request in it, a renewal, and a join token.
#[must_use]
pub fn join() -> Vec<Vec<u8>> {
    let request = v1::JoinRequest {
        token_id: "0a".to_owned(),
        token_secret: "00ff".to_owned(),
        node_id: "n1".to_owned(),
        certificate_request: CERTIFICATE_REQUEST.to_vec(),
    };
    let renewal = v1::RenewRequest { certificate_request: CERTIFICATE_REQUEST.to_vec() };
    let token = vmcast::identity::JoinToken {
        admins: vec!["https://192.0.2.1:8440".to_owned()],
        fingerprint: vmcast::identity::Fingerprint::of(&CERTIFICATE_REQUEST),
        id: "0a".to_owned(),
        secret: "00ff".to_owned(),
    };
    vec![
        request.encode_to_vec(),
        renewal.encode_to_vec(),
        CERTIFICATE_REQUEST.to_vec(),
        token.to_string().into_bytes(),
    ]
}

/// Reports of IGMP and MLD, and data for groups.
#[must_use]
pub fn host_packet() -> Vec<Vec<u8>> {
    let (source, group) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(239, 1, 2, 3));
    let report = igmp::Message::ReportV2 { group }.emit();
    let (source6, group6) =
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 1));
    let report6 = mld::Message::ReportV1 { group: group6 }.emit(source6, group6);
    vec![
        ipv4::encapsulate(source, group, 1, 0xc0, 2, true, &report),
        ipv4::encapsulate(source, group, 1, 0, 17, false, &[0; 12]),
        ipv6::encapsulate(source6, group6, 1, 0, mld::NEXT_ICMPV6, true, &report6),
        ipv6::encapsulate(source6, group6, 1, 0, 17, false, &[0; 12]),
    ]
}

/// A node, an entry of the cache, and records.
#[must_use]
pub fn etcd_row() -> Vec<Vec<u8>> {
    let node = v1::Node {
        id: "n1".to_owned(),
        role: v1::Role::Vmr.into(),
        endpoints: vec!["192.0.2.1:2268".to_owned()],
        ..v1::Node::default()
    };
    let node =
        v1::NodeEntry { node: Some(node), seen_address: "192.0.2.1".to_owned(), ..v1::NodeEntry::default() };
    let measured = |vmr: &str, hops| v1::Measurement {
        vmr_id: vmr.to_owned(),
        endpoint: "192.0.2.1:2268".to_owned(),
        hops,
        rtt_micros: 900,
    };
    let entry = v1::CacheEntry {
        prefix: "192.0.2.0/24".to_owned(),
        scope: v1::Role::Agent.into(),
        nearest: Some(measured("n1", 3)),
        others: vec![measured("n2", 4)],
        reporter: "n3".to_owned(),
        ..v1::CacheEntry::default()
    };
    let row = |table: u8, key: &str, value: Vec<u8>| {
        let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("a short row");
        [&[table, 0, length(key.as_bytes())], key.as_bytes(), &[length(&value)], &value].concat()
    };
    let rows = [
        row(0, "n1", node.encode_to_vec()),
        row(1, "0@192.0.2.0/24", entry.encode_to_vec()),
        row(2, "certificate/n1/0a", b"{}".to_vec()),
        row(3, "0a", b"{}".to_vec()),
        row(4, "claim/192.0.2.1:2268", b"n1".to_vec()),
    ];
    rows.iter().cloned().chain([rows.concat()]).collect()
}

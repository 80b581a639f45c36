//! Against the kernel, in network namespaces.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::time::timeout;
use vmcast_common::hdr::eth::Mac;
use vmcast_dataplane::shares::{Rates, SocketShares};
use vmcast_proto::{Filter, membership::Family};
use vmcast_wire::{ipv4, ipv6, mld};

use super::*;
use crate::netlink::{
    Links,
    netns::{NetNs, skip_without_root},
};

/// Longer than anything here takes, so that a broken test ends.
const PATIENCE: Duration = Duration::from_secs(20);

fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn sources(addresses: impl IntoIterator<Item = u8>) -> std::collections::BTreeSet<IpAddr> {
    addresses.into_iter().map(|n| Ipv4Addr::new(192, 0, 2, n).into()).collect()
}

/// The two filters that a packet socket may have: its own, and the kernel's program where that is taken.
fn filters() -> impl Iterator<Item = Option<Arc<SocketShares>>> {
    let shares = SocketShares::open(Rates { source: 1, strangers: 1, link_strangers: 1_000_000 });
    if let Err(error) = &shares {
        eprintln!("SKIPPED: shares before sockets: {error}");
    }
    std::iter::once(None).chain(shares.ok().map(|shares| Some(Arc::new(shares))))
}

pub(super) fn pair() -> (NetNs, NetNs) {
    let (near, far) = (NetNs::new(), NetNs::new());
    near.connect("near0", "10.1.0.1/24", &far, "far0", "10.1.0.2/24");
    (near, far)
}

/// The IGMP records of one host that a socket on its wire sees: report type, group, sources.
async fn next_record(socket: &MembershipSocket, group: Ipv4Addr) -> (u8, Vec<Ipv4Addr>) {
    let mut buffer = vec![0; RECEIVE_LEN];
    loop {
        let (bytes, _) =
            timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("in time").expect("a datagram");
        let datagram = ipv4::decapsulate(bytes).expect("IPv4");
        assert_eq!((datagram.protocol, datagram.ttl, datagram.router_alert), (2, 1, true));
        let mut records = datagram.payload.get(8..).filter(|_| datagram.payload[0] == 0x22).unwrap_or(&[]);
        while let [kind, _, high, low, rest @ ..] = records {
            let count = usize::from(u16::from_be_bytes([*high, *low]));
            let address = |at: usize| Ipv4Addr::from(*rest[at * 4..].first_chunk::<4>().expect("4 bytes"));
            if address(0) == group {
                return (*kind, (1..=count).map(address).collect());
            }
            records = &rest[4 + 4 * count..];
        }
    }
}

#[test]
fn a_datagram_names_the_address_it_came_to_and_is_answered_from_there() {
    if skip_without_root("addresses of datagrams") {
        return;
    }
    let (near, far) = pair();
    near.ip("address add 10.1.0.9/24 dev near0");
    near.ip("address add 2001:db8:1::1/64 dev near0 nodad");
    near.ip("address add 2001:db8:1::9/64 dev near0 nodad");
    far.ip("address add 2001:db8:1::2/64 dev far0 nodad");
    for (any, peer, addresses) in [
        ("0.0.0.0", "10.1.0.2", ["10.1.0.9", "10.1.0.1"]),
        ("::", "2001:db8:1::2", ["2001:db8:1::9", "2001:db8:1::1"]),
    ] {
        answers_from_where_it_was_asked(&near, &far, [any, peer], addresses);
    }
}

fn answers_from_where_it_was_asked(near: &NetNs, far: &NetNs, [any, peer]: [&str; 2], addresses: [&str; 2]) {
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    far.block_on(async || {
        let peer = UdpEndpoint::bind(SocketAddr::new(ip(peer), 0)).expect("the peer");
        let endpoint = near.run(|| UdpEndpoint::bind(SocketAddr::new(ip(any), 2268)));
        let endpoint = endpoint.expect("the endpoint");
        let mut buffer = Buffer::new();
        for address in addresses {
            let to = SocketAddr::new(ip(address), 2268);
            peer.send(ip(any), to, b"question").expect("sent");
            let got =
                timeout(PATIENCE, endpoint.recv(&mut buffer)).await.expect("in time").expect("received");
            let got = got.datagram().expect("a datagram");
            assert_eq!((got.remote, got.ttl, got.bytes), (peer.local(), Some(64), &b"question"[..]));
            assert_eq!(got.tos, 0);
            let local = got.local;
            assert_eq!(local, to);
            endpoint.send(local.ip(), peer.local(), b"answer").expect("sent");
            let mut room = Buffer::new();
            let got = timeout(PATIENCE, peer.recv(&mut room)).await.expect("in time").expect("received");
            let got = got.datagram().expect("a datagram");
            assert_eq!((got.remote, got.bytes), (to, &b"answer"[..]));
        }
        assert_eq!(peer.try_recv(&mut buffer).expect("nothing more"), None);

        // What the outer header says of congestion is told (RFC 6040 §4.2).
        let marking = std::net::UdpSocket::bind(SocketAddr::new(peer.local().ip(), 0)).expect("a socket");
        if marking.local_addr().expect("its address").is_ipv4() {
            setsockopt(&marking, sockopt::Ipv4Tos, &0xbb).expect("a type of service");
        } else {
            setsockopt(&marking, sockopt::Ipv6TClass, &0xbb).expect("a traffic class");
        }
        marking.send_to(b"marked", SocketAddr::new(ip(addresses[0]), 2268)).expect("sent");
        let got = timeout(PATIENCE, endpoint.recv(&mut buffer)).await.expect("in time").expect("received");
        let got = got.datagram().expect("a datagram");
        assert_eq!((got.tos, got.ttl, got.bytes), (0xbb, Some(64), &b"marked"[..]));
    });
}

/// Takes datagrams until there are so many, with where each came from; nothing else may be heard.
async fn take_many(socket: &UdpEndpoint, room: &Mutex<Batch>, most: usize, count: usize) -> Vec<(u16, u8)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let before = taken.len();
        let heard = socket.recv_many(room, most, |heard| {
            let got = heard.datagram().expect("a datagram");
            assert_eq!(got.local, socket.local());
            taken.push((got.remote.port(), got.bytes[0]));
            assert_eq!(got.bytes.len(), usize::from(got.bytes[0]) + 1);
        });
        timeout(PATIENCE, heard).await.expect("in time").expect("received");
        assert!((1..=most).contains(&(taken.len() - before)), "{most} at most");
    }
    taken
}

#[tokio::test]
async fn many_datagrams_leave_and_come_together_in_their_order() {
    for address in ["127.0.0.1", "::1"] {
        let any_port = SocketAddr::new(address.parse().expect("an address"), 0);
        let [from, to, beside] =
            [(); 3].map(|()| UdpEndpoint::bind_behind(None, any_port).expect("loopback"));
        let room = Mutex::new(Batch::new());
        let bytes: Vec<Vec<u8>> = (0..100).map(|number| vec![number; usize::from(number) + 1]).collect();
        let to_one: Vec<_> = bytes.iter().map(|bytes| (to.local(), bytes.as_slice())).collect();
        assert_eq!(from.send_many(any_port.ip(), &to_one), 0);
        let port = from.local().port();
        let expected: Vec<_> = (0..100).map(|number| (port, number)).collect();
        assert_eq!(take_many(&to, &room, 3, 50).await, expected[..51]);
        assert_eq!(take_many(&to, &room, AT_ONCE, 49).await, expected[51..]);

        // What is not delivered is told by itself, and keeps none of the others back.
        let nobody = SocketAddr::new(any_port.ip(), 9);
        let mixed: Vec<_> = to_one[..4].iter().flat_map(|one| [(nobody, &[0][..]), *one]).collect();
        assert_eq!(from.send_many(any_port.ip(), &mixed), 0);
        assert_eq!(take_many(&to, &room, AT_ONCE, 4).await, expected[..4]);
        let mut told = 0;
        while told < 4 {
            let heard = from.recv_many(&room, AT_ONCE, |heard| {
                assert!(matches!(heard, Heard::Undelivered(news) if news.remote == nobody), "{heard:?}");
                told += 1;
            });
            timeout(PATIENCE, heard).await.expect("in time").expect("news");
        }
        let mut buffer = Buffer::new();
        for socket in [&from, &to, &beside] {
            assert_eq!(socket.try_recv(&mut buffer).expect("nothing more"), None);
        }
        // The kernel takes none of these, and all of those around them.
        let too_long = vec![0; 70_000];
        let around = [to_one[0], (to.local(), too_long.as_slice()), to_one[1]];
        assert_eq!(from.send_many(any_port.ip(), &around), 1);
        assert_eq!(take_many(&to, &room, AT_ONCE, 2).await, expected[..2]);
    }
}

#[test]
fn what_is_not_delivered_is_told_and_keeps_nobody_from_sending() {
    if skip_without_root("ICMP about datagrams") {
        return;
    }
    let (near, far) = pair();
    near.ip("address add 2001:db8:1::1/64 dev near0 nodad");
    far.ip("address add 2001:db8:1::2/64 dev far0 nodad");
    for [ours, theirs] in [["10.1.0.1", "10.1.0.2"], ["2001:db8:1::1", "2001:db8:1::2"]] {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let [ours, theirs] = [ours, theirs].map(ip);
        far.block_on(async || {
            let peer = UdpEndpoint::bind(SocketAddr::new(theirs, 0)).expect("the peer");
            let gone = near.run(|| UdpEndpoint::bind(SocketAddr::new(ours, 0))).expect("the endpoint");
            let nobody = SocketAddr::new(theirs, 9);
            let mut buffer = Buffer::new();
            for number in 0..3u8 {
                gone.send(ours, nobody, &[7, number]).expect("sent");
                // The message has come by the time that this one is sent.
                gone.send(ours, peer.local(), &[8, number]).expect("sent in spite of the error");
                let heard = timeout(PATIENCE, gone.recv(&mut buffer)).await.expect("in time").expect("news");
                let Heard::Undelivered(about) = heard else { panic!("{heard:?}") };
                assert_eq!(
                    (about.remote, about.local, about.quoted),
                    (nobody, gone.local(), &[7, number][..])
                );
                assert_eq!(gone.try_recv(&mut buffer).expect("nothing more"), None);
                let mut room = Buffer::new();
                let got = timeout(PATIENCE, peer.recv(&mut room)).await.expect("in time").expect("received");
                assert_eq!(got.datagram().expect("a datagram").bytes, [8, number]);
            }
            // Datagrams come as ever between them.
            gone.send(ours, nobody, &[9]).expect("sent");
            peer.send(theirs, gone.local(), b"hello").expect("sent");
            let mut heard = [0; 2];
            for _ in 0..2 {
                let all = timeout(PATIENCE, gone.recv(&mut buffer)).await.expect("in time").expect("news");
                heard[usize::from(all.datagram().is_some())] += 1;
            }
            assert_eq!(heard, [1, 1]);
        });
    }
}

#[test]
fn igmp_is_seen_whole_and_nothing_else_is_and_queries_are_answered() {
    if !skip_without_root("IGMP sockets") {
        filters().for_each(igmp_is_seen_whole);
    }
}

fn igmp_is_seen_whole(shares: Option<Arc<SocketShares>>) {
    let (near, far) = pair();
    let socket = far.run(|| {
        let udp = std::net::UdpSocket::bind("10.1.0.2:0").expect("a socket");
        udp.set_multicast_loop_v4(false).expect("no loop");
        udp
    });
    near.block_on(async || {
        let near0 = Links::open().expect("links").find("near0").await.expect("near0");
        let igmp = MembershipSocket::open(Family::V4, near0.ifindex, shares).expect("a socket");
        // Neither multicast data nor our own report passes the filter: the first thing seen is the
        // report of the other host.
        socket.send_to(b"data", "232.1.1.1:5000").ok();
        let mut own = HostMembership::new(near0.ifindex);
        own.set(v4("239.9.9.9").into(), &Filter::any()).expect("our own join");
        let member = far.run(|| {
            let member = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
            member.join_multicast_v4(&v4("239.1.2.3"), &v4("10.1.0.2")).expect("a join");
            member
        });
        let mut buffer = vec![0; RECEIVE_LEN];
        let (bytes, _) = timeout(PATIENCE, igmp.recv(&mut buffer)).await.expect("in time").expect("a report");
        let report = ipv4::decapsulate(bytes).expect("IPv4");
        assert_eq!((report.source, report.protocol), (v4("10.1.0.2"), 2));

        // A general query (RFC 9776 §4.1) brings the membership up again.
        while timeout(Duration::from_millis(1500), igmp.recv(&mut buffer)).await.is_ok() {}
        let query = [0x11, 1, 0xec, 0xfe, 0, 0, 0, 0, 2, 0, 0, 0];
        let mut query = query.to_vec();
        let sum = query.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
        let fixed = vmcast_common::checksum::fold(sum - 0xecfe);
        query[2..4].copy_from_slice(&fixed.to_be_bytes());
        igmp.send(v4("10.1.0.1").into(), v4("224.0.0.1").into(), &query).expect("sent");
        let (kind, _) = next_record(&igmp, v4("239.1.2.3")).await;
        assert_eq!(kind, 2, "MODE_IS_EXCLUDE");
        drop(member);
        let (kind, _) = next_record(&igmp, v4("239.1.2.3")).await;
        assert_eq!(kind, 3, "CHANGE_TO_INCLUDE of nothing: a leave");
    });
}

#[test]
fn host_memberships_change_their_sources_without_leaving_and_go_beyond_one_socket() {
    if skip_without_root("host memberships") {
        return;
    }
    let (near, far) = pair();
    far.block_on(async || {
        let far0 = Links::open().expect("links").find("far0").await.expect("far0");
        let wire = MembershipSocket::open(Family::V4, far0.ifindex, None).expect("a socket");
        let ifindex =
            near.block_on(async || Links::open().expect("links").find("near0").await.expect("near0").ifindex);
        near.run(|| HostMembershipProof { held: HostMembership::new(ifindex) }.fill());
        // An include-mode join names its source and never every source.
        let (mut held, group) = (HostMembership::new(ifindex), v4("232.5.5.5"));
        let set = |held: &mut HostMembership, filter: Filter| {
            near.run(|| held.set(group.into(), &filter)).expect("a membership");
        };
        set(&mut held, Filter::Include(sources([1])));
        assert_eq!(next_record(&wire, group).await, (5, vec![v4("192.0.2.1")]));
        set(&mut held, Filter::Include(sources([1, 2])));
        loop {
            // The kernel repeats its reports (robustness 2): wait for the one about the change.
            let (kind, list) = next_record(&wire, group).await;
            assert_eq!(kind, 5, "ALLOW_NEW_SOURCES");
            if list.contains(&v4("192.0.2.2")) {
                break;
            }
        }
        set(&mut held, Filter::none());
        loop {
            let (kind, list) = next_record(&wire, group).await;
            if kind == 6 && list.len() == 2 {
                break;
            }
        }
        assert_eq!(near.run(joined), 1, "only 224.0.0.1 is left");
    });
}

/// Fills sockets beyond the kernel's limits.
struct HostMembershipProof {
    held: HostMembership,
}

impl HostMembershipProof {
    fn fill(mut self) {
        for n in 1..=100 {
            self.held.set(Ipv4Addr::new(239, 7, 7, n).into(), &Filter::any()).expect("beyond 20 groups");
        }
        let wide = Filter::Include(sources(1..=25));
        self.held.set(v4("232.7.7.7").into(), &wide).expect("beyond 10 sources");
        self.held.set(v4("232.7.7.7").into(), &wide).expect("once more changes nothing");
        self.held.set(v4("239.7.7.1").into(), &Filter::Exclude(sources(1..=25))).expect("excluding too many");
        assert_eq!(joined(), 102, "101 groups and 224.0.0.1");
        for n in 1..=100 {
            self.held.set(Ipv4Addr::new(239, 7, 7, n).into(), &Filter::none()).expect("left");
        }
        assert_eq!(joined(), 2);
        self.held.set(v4("192.0.2.1").into(), &Filter::any()).expect_err("not a group");
    }
}

/// Groups joined on near0 according to the kernel.
fn joined() -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/igmp").expect("the kernel's table");
    let near = table.lines().skip_while(|line| !line.contains("near0")).skip(1);
    near.take_while(|line| line.starts_with('\t')).count()
}

#[test]
fn a_message_is_sent_with_a_checksum_and_nothing_is_received() {
    if skip_without_root("raw ICMPv6") {
        return;
    }
    NetNs::new().run(|| {
        use socket2::{Domain, Protocol, Socket, Type};
        let Ok(receiver) = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)) else {
            eprintln!("SKIPPED: this host has no IPv6");
            return;
        };
        receiver.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let sender = Icmpv6Sender::open().expect("a raw socket");
        let message = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &[0x60; 40]].concat();
        sender.send(std::net::Ipv6Addr::LOCALHOST, &message).expect("sending");
        let mut received = [0; 128];
        let len = std::io::Read::read(&mut &receiver, &mut received).expect("the message");
        assert_eq!(len, message.len());
        assert_eq!((&received[..2], &received[4..len]), (&message[..2], &message[4..]));
        assert_ne!(received[2..4], [0, 0], "a checksum");
    });
}

fn v6(text: &str) -> std::net::Ipv6Addr {
    text.parse().expect("an address")
}

/// The MLDv2 records of one group that a socket on the wire sees next: types with their sources.
async fn next_listener_record(socket: &MembershipSocket, group: &str) -> (mld::RecordType, Vec<IpAddr>) {
    let mut buffer = vec![0; RECEIVE_LEN];
    loop {
        let (bytes, _) =
            timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("in time").expect("a datagram");
        let datagram = ipv6::decapsulate(bytes).expect("IPv6");
        assert_eq!((datagram.protocol, datagram.hop_limit, datagram.router_alert), (58, 1, true));
        let message = mld::Message::parse(datagram.source, datagram.destination, datagram.payload);
        if let mld::Message::ReportV2 { records } = message.expect("nothing but MLD passes the filter")
            && let Some(record) = records.into_iter().find(|record| record.group == v6(group))
        {
            return (record.record_type, record.sources.into_iter().map(IpAddr::from).collect());
        }
    }
}

// proves E2: MLD off the wire, and the kernel as a host of MLD
#[test]
fn mld_of_other_hosts_is_heard_and_queries_are_answered() {
    if !skip_without_root("MLD off the wire") {
        filters().for_each(mld_is_heard);
    }
}

fn mld_is_heard(shares: Option<Arc<SocketShares>>) {
    let (near, far) = pair();
    near.block_on(async || {
        let links = Links::open().expect("links");
        let near0 = links.find("near0").await.expect("near0");
        let far0 =
            far.block_on(async || Links::open().expect("links").find("far0").await.expect("far0").ifindex);
        let socket = MembershipSocket::open(Family::V6, near0.ifindex, shares).expect("a socket");
        let mut held = HostMembership::new(far0);
        let group = "ff3e::8000:5";
        let source = |last: u16| IpAddr::from(v6(&format!("2001:db8::{last:x}")));
        let set = |held: &mut HostMembership, filter: Filter| {
            far.run(|| held.set(v6(group).into(), &filter)).expect("a membership");
        };
        set(&mut held, Filter::Include([source(1)].into()));
        let (kind, listed) = next_listener_record(&socket, group).await;
        assert_eq!((kind, listed), (mld::RecordType::AllowNewSources, vec![source(1)]));
        set(&mut held, Filter::Include([source(1), source(2)].into()));
        while !next_listener_record(&socket, group).await.1.contains(&source(2)) {}

        // A general query brings it up again, once our address is known to be ours (RFC 4862 §5.4).
        let own = async {
            loop {
                match links.find("near0").await.expect("near0").link_local() {
                    Some(own) => break own,
                    None => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        };
        let own = timeout(PATIENCE, own).await.expect("it is ours in time");
        let query = mld::Message::QueryV2(mld::QueryV2 {
            max_resp_time: Duration::from_millis(10),
            group: std::net::Ipv6Addr::UNSPECIFIED,
            suppress_router_side_processing: false,
            robustness_variable: 2,
            query_interval: Duration::from_secs(125),
            sources: vec![],
        });
        socket.send(own.into(), mld::ALL_NODES.into(), &query.emit(own, mld::ALL_NODES)).expect("sent");
        loop {
            let (kind, listed) = next_listener_record(&socket, group).await;
            if kind == mld::RecordType::ModeIsInclude {
                assert_eq!(listed, [source(1), source(2)]);
                break;
            }
        }
        set(&mut held, Filter::none());
        loop {
            let (kind, listed) = next_listener_record(&socket, group).await;
            if kind == mld::RecordType::BlockOldSources && listed.len() == 2 {
                break;
            }
        }
        // Many more groups than one socket takes.
        for last in 1..=100 {
            let group = v6(&format!("ff0e::7:{last:x}"));
            far.run(|| held.set(group.into(), &Filter::any())).expect("beyond one socket's memory");
            assert!(held.memberships(group.into()) == 1);
        }
        socket.send(v4("10.1.0.1").into(), v4("224.0.0.1").into(), b"").expect_err("another family");
    });
}

// proves that a frame for this host alone is told from one that the hosts of the link hear
#[test]
fn a_frame_for_us_alone_is_none_for_all() {
    if skip_without_root("IGMP sockets") {
        return;
    }
    let (near, far) = pair();
    let (ours, theirs) = ([2, 9, 0, 0, 0, 1], [2, 9, 0, 0, 0, 2]);
    near.ip(&format!("link set near0 address {}", crate::mac::text(ours)));
    far.ip(&format!("link set far0 address {}", crate::mac::text(theirs)));
    let query = ipv4::encapsulate(v4("10.1.0.2"), v4("224.0.0.1"), 1, 0xc0, 2, true, &[0x11; 12]);
    near.block_on(async || {
        let near0 = Links::open().expect("links").find("near0").await.expect("near0");
        let socket = MembershipSocket::open(Family::V4, near0.ifindex, None).expect("a socket");
        far.block_on(async || {
            let far0 = Links::open().expect("links").find("far0").await.expect("far0");
            let sender = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::DGRAM, None);
            let sender = sender.expect("a packet socket");
            for mac in [ours, [1, 0, 0x5e, 0, 0, 1], [0xff; 6]] {
                sys::send_packet(&sender, libc::ETH_P_IP as u16, far0.ifindex, mac, &query).expect("sent");
            }
        });
        let mut buffer = vec![0; RECEIVE_LEN];
        let mut heard = Vec::new();
        while heard.len() < 3 {
            let next = timeout(PATIENCE, socket.recv(&mut buffer)).await;
            let (bytes, ends) = next.expect("in time").expect("a datagram");
            heard.extend((bytes == query).then_some(ends));
        }
        let frame = |unicast| LinkEnds { source: Some(theirs), unicast };
        assert_eq!(heard, [frame(true), frame(false), frame(false)]);
    });
}

// proves that a host that floods is thinned, and its neighbours and all else are not
#[test]
fn only_thinned_hosts_are_thinned() {
    if !skip_without_root("IGMP sockets") {
        filters().for_each(only_thinned_hosts);
    }
}

fn only_thinned_hosts(shares: Option<Arc<SocketShares>>) {
    let (near, far) = pair();
    near.block_on(async || {
        let near0 = Links::open().expect("links").find("near0").await.expect("near0");
        let socket = MembershipSocket::open(Family::V4, near0.ifindex, shares).expect("a socket");
        let sender = far.block_on(async || {
            let far0 = Links::open().expect("links").find("far0").await.expect("far0");
            MembershipSocket::open(Family::V4, far0.ifindex, None).expect("a socket")
        });
        let report = [0x22, 0, 0xdd, 0xff, 0, 0, 0, 0];
        let send = |from: Mac, times: usize| {
            far.ip(&format!("link set far0 address {}", crate::mac::text(from)));
            for _ in 0..times {
                sender.send(v4("10.1.0.2").into(), v4("224.0.0.22").into(), &report).expect("sent");
            }
        };
        let (loud, louder, quiet) = ([2, 7, 0, 0, 0, 1], [2, 7, 0, 0, 0, 2], [2, 8, 0, 0, 0, 1]);
        socket.thin([(loud, 15), (louder, 15)].into_iter()).expect("a filter");
        send(loud, 20);
        send(louder, 20);
        send(quiet, 1);
        let mut heard = Vec::new();
        let mut buffer = vec![0; RECEIVE_LEN];
        loop {
            let next = timeout(PATIENCE, socket.recv(&mut buffer)).await;
            let (_, ends) = next.expect("in time").expect("a datagram");
            let from = ends.source.expect("the sender's address");
            if from == quiet {
                break;
            }
            heard.extend([loud, louder].contains(&from).then_some(from));
        }
        // Two of 40 come through in one run of a million.
        assert!(heard.len() < 2, "{heard:?} came through");
        socket.thin(std::iter::empty()).expect("a filter");
        send(loud, 1);
        while timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("in time").expect("a datagram").1
            != (LinkEnds { source: Some(loud), unicast: false })
        {}
    });
}

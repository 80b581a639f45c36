//! Bad input at a running router: it is counted, and the streams are not touched.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use vmcast_lab::{
    Namespace,
    roles::{Engine, wait_ready},
    traffic::{Carriage, GroupPort, Witness},
};
use vmcast_wire::{
    amt::{Message, PORT, ResponseMac},
    igmp::{self, Record, RecordType},
    ipv4, ipv6, mld,
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engine},
    over_ipv6,
    small::{IGMP, Router, SOURCE, STREAM, Small, VMR, client_address, gateway_of, static_agent},
    stream::{Listener, Sender, payload},
};

pub(super) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> =
        trials_by_engine("bad messages of tunnels are counted and no stream is touched", |bed, engine| {
            at_the_relay(bed, engine, |client| gateway_of(client).into())
        })
        .into();
    trials.extend(trials_by_engine(
        "bad messages of tunnels over IPv6 are counted and no stream is touched",
        |bed, engine| at_the_relay(bed, engine, |client| over_ipv6::ends(client.into())[0].into()),
    ));
    trials.push(trial("bad IGMP on a link is counted and no stream is touched", on_a_link));
    trials.push(trial(
        "IGMP without Router Alert is refused where it is required, and there alone",
        plain_igmp,
    ));
    trials.push(trial("data from upstream that nobody joined is counted and goes nowhere", from_upstream));
    trials
}

const IGMP_PROTOCOL: u8 = 2;
const UDP: u8 = 17;
const SOME: u64 = 150;

/// Waits until each of these counters, as `relay.bad_mac` or `drops.not_joined`, is above zero.
pub(super) fn until_counted(bed: &Bed, router: &vmcast_lab::roles::Role, counters: &[&str]) -> Outcome {
    let missing = |answer: &Value| -> BTreeSet<String> {
        let zero = |counter: &&&str| {
            let (table, label) = counter.split_once('.').unwrap_or_default();
            let value =
                if table == "drops" { &answer["drops"][label] } else { &answer["control"][table][label] };
            value.as_u64().unwrap_or(0) == 0
        };
        counters.iter().filter(zero).map(|counter| (*counter).to_owned()).collect()
    };
    let mut last = BTreeSet::new();
    bed.until("everything bad is counted", || {
        last = router.ask(&["stats"]).map_or_else(BTreeSet::new, |answer| missing(&answer));
        Ok(last.is_empty())
    })
    .map_err(|_| format!("not counted were {last:?}").into())
}

/// An IP packet with UDP to a group.
fn data(source: Ipv4Addr, group: Ipv4Addr) -> Vec<u8> {
    let mut udp = vec![0x13, 0x8c, 0x13, 0x8c, 0, 20, 0, 0];
    udp.extend([7; 12]);
    ipv4::encapsulate(source, group, 9, 0, UDP, false, &udp)
}

/// An IGMPv3 report in its IP datagram.
pub(super) fn report(records: Vec<Record>) -> Vec<u8> {
    let message = igmp::Message::ReportV3 { records }.emit();
    ipv4::encapsulate(Ipv4Addr::UNSPECIFIED, igmp::ALL_IGMPV3_ROUTERS, 1, 0xc0, IGMP_PROTOCOL, true, &message)
}

pub(super) fn join(group: Ipv4Addr) -> Record {
    Record { record_type: RecordType::ChangeToExcludeMode, group, sources: Vec::new() }
}

/// A gateway made by hand, to do what none should.
pub(super) struct Peer {
    socket: UdpSocket,
}

impl Peer {
    pub(super) fn new(node: &Namespace, relay: impl Into<IpAddr>) -> Result<Self, Failed> {
        let relay = relay.into();
        let own: IpAddr = match relay {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = node.enter(|| UdpSocket::bind((own, 0)))??;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect((relay, PORT))?;
        Ok(Self { socket })
    }

    /// Its own end.
    pub(super) fn local(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self.socket.send(bytes) {
            // The answer to what was sent before, from a host that has nothing on the port.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => other.map(drop),
        }
    }

    pub(super) fn update(&self, response_mac: ResponseMac, nonce: u32, update: &[u8]) -> io::Result<()> {
        self.send(&Message::MembershipUpdate { response_mac, nonce, update }.to_vec())
    }

    /// Requests a query and takes the Response MAC out of it.
    pub(super) fn handshake(&self, nonce: u32) -> Result<ResponseMac, Failed> {
        self.send(&Message::Request { ipv6: false, ecn: false, nonce }.to_vec())?;
        let mut buffer = [0; 2048];
        loop {
            let length = self.socket.recv(&mut buffer)?;
            if let Ok(Message::MembershipQuery { response_mac, nonce: answered, .. }) =
                Message::parse(&buffer[..length])
                && answered == nonce
            {
                return Ok(response_mac);
            }
        }
    }
}

/// Sends in bursts that fit the ring of a veth.
fn send_all(peer: &Peer, messages: impl IntoIterator<Item = Vec<u8>>) -> io::Result<()> {
    for (number, message) in (1..).zip(messages) {
        peer.send(&message)?;
        if number % 64 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// Each type and version of AMT, cut at each length, over bytes of all ones and of noise.
fn garbage() -> impl Iterator<Item = Vec<u8>> {
    let lengths = (0..48).chain([100, 500, 1300]);
    lengths.flat_map(|length| {
        (0..=u8::MAX).filter(move |first| first >> 4 <= 1 || length < 4).flat_map(move |first| {
            let noise = payload(u64::from(first) << 16 | length as u64);
            [vec![0xff; length], noise[..length].to_vec()].map(|mut bytes| {
                if let Some(start) = bytes.first_mut() {
                    *start = first;
                }
                bytes
            })
        })
    })
}

/// A report whose datagram, message or records lie about their lengths, with checksums that fit.
fn lying() -> impl Iterator<Item = Vec<u8>> {
    let message = igmp::Message::ReportV3 { records: vec![join(STREAM.group)] }.emit();
    let of_igmp = [6..8, 10..12].map(|counts| {
        let mut message = message.clone();
        message[counts].fill(0xff);
        message[2..4].fill(0);
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let to = igmp::ALL_IGMPV3_ROUTERS;
        ipv4::encapsulate(Ipv4Addr::UNSPECIFIED, to, 1, 0xc0, IGMP_PROTOCOL, true, &message)
    });
    let report_v6 = report_v6("ff0e::7:1".parse().expect("a group"), Vec::new());
    let of_datagram =
        [(report(vec![join(STREAM.group)]), 2..4), (report_v6, 4..6)].map(|(mut datagram, at)| {
            datagram[at].fill(0xff);
            datagram
        });
    of_igmp.into_iter().chain(of_datagram)
}

const CHANNEL: Ipv4Addr = Ipv4Addr::new(232, 9, 9, 9);
const CHANNEL_V6: Ipv6Addr = Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 9);

/// An MLDv2 report in its IPv6 datagram.
fn report_v6(group: Ipv6Addr, sources: Vec<Ipv6Addr>) -> Vec<u8> {
    let (from, to) = (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7), mld::ALL_MLDV2_ROUTERS);
    let record = mld::Record { record_type: RecordType::AllowNewSources, group, sources };
    let message = mld::Message::ReportV2 { records: vec![record] }.emit(from, to);
    ipv6::encapsulate(from, to, 1, 0xc0, mld::NEXT_ICMPV6, true, &message)
}

/// Thousands of sources of a channel, by IGMP and by MLD.
fn hoard() -> impl Iterator<Item = Vec<u8>> {
    let of_igmp = (0..20_u32).map(|page| {
        let first = Ipv4Addr::new(10, 77, 1, 0).to_bits() + page * 128;
        let sources = (0..128).map(|number| Ipv4Addr::from(first + number)).collect();
        report(vec![Record { record_type: RecordType::AllowNewSources, group: CHANNEL, sources }])
    });
    let of_mld = (0..40_u16).map(|page| {
        let source = |number| Ipv6Addr::new(0x2001, 0xdb8, 9, page, 0, 0, 0, number);
        report_v6(CHANNEL_V6, (1..=64).map(source).collect())
    });
    of_igmp.chain(of_mld)
}

// proves that each kind of bad AMT raises its counter while a stream flows whole
fn at_the_relay(bed: &mut Bed, engine: Engine, relay_of: fn(u8) -> IpAddr) -> Outcome {
    let small = Small::build(bed, 3)?;
    over_ipv6::number(&small)?;
    let mut router = small.router(bed, Router { engine, ..Router::default() })?;
    let mut agents = Vec::new();
    for client in [1, 3] {
        agents.push(static_agent(bed, small.client(client), relay_of(client), "")?);
    }
    wait_ready(&mut agents, bed.clock)?;
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    let stranger = Peer::new(small.client(2), relay_of(2))?;
    send_all(&stranger, garbage())?;
    // Whole messages of a stranger: data, what only relays say, and joins without a handshake.
    stranger.send(&Message::MulticastData { packet: &data(SOURCE, STREAM.group) }.to_vec())?;
    stranger.send(&Message::RelayAdvertisement { nonce: 1, relay: VMR.into() }.to_vec())?;
    stranger.update([1, 2, 3, 4, 5, 6], 77, &report(vec![join(STREAM.group)]))?;

    // With a right MAC, but a wrong report; and with a MAC that is right for another nonce.
    let peer = Peer::new(small.client(2), relay_of(2))?;
    let mac = peer.handshake(9)?;
    peer.update(mac, 10, &report(vec![join(STREAM.group)]))?;
    peer.update(mac, 9, &[])?;
    peer.update(mac, 9, &report(vec![join(STREAM.group)])[..30])?;
    peer.update(mac, 9, &report(Vec::new()))?;
    let mut wrong_ttl = report(vec![join(STREAM.group)]);
    let message = ipv4::decapsulate(&wrong_ttl)?.payload.to_vec();
    wrong_ttl = ipv4::encapsulate(
        Ipv4Addr::UNSPECIFIED,
        igmp::ALL_IGMPV3_ROUTERS,
        7,
        0xc0,
        IGMP_PROTOCOL,
        true,
        &message,
    );
    peer.update(mac, 9, &wrong_ttl)?;
    let elsewhere =
        ipv4::encapsulate(Ipv4Addr::UNSPECIFIED, client_address(1), 1, 0xc0, IGMP_PROTOCOL, true, &message);
    peer.update(mac, 9, &elsewhere)?;

    // A member that joins a group without a source, asks for far too much, and sends data upwards.
    let own = Ipv4Addr::new(239, 192, 100, 0);
    peer.update(mac, 9, &report(vec![join(own)]))?;
    bed.until_answer("the peer is a member", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 2)
    })?;
    let many = |offset: u32| {
        let group = |number: u32| Ipv4Addr::from(own.to_bits() + 1000 * offset + number);
        (0..170).map(|number| join(group(number))).collect::<Vec<_>>()
    };
    for offset in 0..8 {
        peer.update(mac, 9, &report(many(offset)))?;
    }
    let link_local = Record { group: Ipv4Addr::new(224, 0, 0, 251), ..join(own) };
    peer.update(mac, 9, &report(vec![link_local]))?;
    // What needs a source without one, and a source that nobody has.
    let source_specific = Record { group: Ipv4Addr::new(232, 1, 1, 1), ..join(own) };
    let record_type = RecordType::AllowNewSources;
    let nobody = Record { record_type, sources: vec![Ipv4Addr::LOCALHOST], ..source_specific.clone() };
    peer.update(mac, 9, &report(vec![source_specific, nobody]))?;
    // Another one, so that there is room for its groups.
    let hoarder = Peer::new(small.client(2), relay_of(2))?;
    let its_mac = hoarder.handshake(11)?;
    for update in lying().chain(hoard()) {
        hoarder.update(its_mac, 11, &update)?;
    }
    for _ in 0..10 {
        peer.send(&Message::MulticastData { packet: &data(SOURCE, STREAM.group) }.to_vec())?;
    }
    until_counted(
        bed,
        &router,
        &[
            "relay.malformed",
            "relay.unexpected",
            "relay.bad_mac",
            "relay.bad_report",
            "relay.bad_report_address",
            "relay.bad_ttl",
            "relay.nothing_joined",
            "relay.refused_groups",
            "relay.refused_sources",
            "relay.ignored_records",
            "relay.source_specific_group",
            "relay.bad_listed_source",
            "drops.unknown_tunnel",
            "drops.sender_not_allowed",
        ],
    )?;
    router.check_alive()?;
    let groups = router.ask(&["tunnel", "list"]).unwrap_or_default();
    let most = groups["tunnels"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|tunnel| tunnel["groups"].as_u64())
        .max();
    ensure!(most <= Some(64), "a tunnel has {most:?} groups");
    for channel in [CHANNEL.to_string(), CHANNEL_V6.to_string()] {
        bed.until_answer(
            "as many sources as there is room for are wanted",
            &router,
            &["member", "list"],
            |answer| {
                let members = answer["members"].as_array().map(Vec::as_slice).unwrap_or_default();
                let of_channel = members.iter().filter(|member| member["group"] == channel);
                of_channel.filter_map(|member| member["filter"]["sources"].as_array().map(Vec::len)).eq([256])
            },
        )?;
    }

    listener.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// Sends IGMP as it is given, with these options in its IP header.
fn send_igmp(node: &Namespace, to: Ipv4Addr, ttl: u8, router_alert: bool, messages: &[Vec<u8>]) -> Outcome {
    send_igmp_from(node, client_address(2), to, ttl, router_alert, messages)
}

/// The same from any address.
pub(super) fn send_igmp_from(
    node: &Namespace,
    from: Ipv4Addr,
    to: Ipv4Addr,
    ttl: u8,
    router_alert: bool,
    messages: &[Vec<u8>],
) -> Outcome {
    node.enter(|| -> io::Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(IGMP_PROTOCOL))))?;
        // So that the kernel sends the header as it is.
        socket.set_header_included_v4(true)?;
        for message in messages {
            let datagram = ipv4::encapsulate(from, to, ttl, 0xc0, IGMP_PROTOCOL, router_alert, message);
            socket.send_to(&datagram, &SocketAddr::from((to, 0)).into())?;
        }
        Ok(())
    })??;
    Ok(())
}

fn on_a_link(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let mut router = small.router(bed, Router { querier: true, ..Router::default() })?;
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    let node = small.client(2);
    let right = igmp::Message::ReportV3 { records: vec![join(STREAM.group)] }.emit();
    let to = igmp::ALL_IGMPV3_ROUTERS;
    let mut broken = right.clone();
    broken[2] ^= 0x55;
    let with_checksum = |mut bytes: Vec<u8>| {
        if bytes.len() >= 4 {
            bytes[2..4].fill(0);
            let checksum = checksum(&bytes);
            bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    };
    let mut bad = vec![broken];
    // Cut at each length, an unknown type, and counts of records and of sources that lie.
    bad.extend((0..right.len()).map(|length| with_checksum(right[..length].to_vec())));
    bad.push(with_checksum([&[0x99][..], &right[1..]].concat()));
    let mut records = right.clone();
    records[6..8].fill(0xff);
    bad.push(with_checksum(records));
    let mut sources = right.clone();
    sources[10..12].fill(0xff);
    bad.push(with_checksum(sources));
    bad.extend((0..64).map(|number| with_checksum(payload(number)[..number as usize + 1].to_vec())));
    send_igmp(node, to, 1, true, &bad)?;
    send_igmp(node, to, 5, true, std::slice::from_ref(&right))?;
    let version_2 = igmp::Message::ReportV2 { group: STREAM.group }.emit();
    send_igmp(node, Ipv4Addr::new(224, 0, 0, 5), 1, true, &[version_2])?;
    let odd = |record_type, group: Ipv4Addr, sources: &[Ipv4Addr]| {
        igmp::Message::ReportV3 { records: vec![Record { record_type, group, sources: sources.to_vec() }] }
            .emit()
    };
    let odd = [
        odd(RecordType::ChangeToExcludeMode, Ipv4Addr::new(224, 0, 0, 251), &[]),
        odd(RecordType::ChangeToExcludeMode, Ipv4Addr::new(10, 1, 1, 1), &[]),
        odd(RecordType::AllowNewSources, Ipv4Addr::new(232, 1, 1, 1), &[Ipv4Addr::new(239, 1, 1, 1)]),
        odd(RecordType::Unrecognized(77), STREAM.group, &[]),
    ];
    send_igmp(node, to, 1, true, &odd)?;
    // Reports as large as a frame takes: one group of many sources, and many groups.
    let giant: Vec<Vec<u8>> = (0..40_u32)
        .map(|page| {
            let group =
                |number: u32| Ipv4Addr::from(Ipv4Addr::new(239, 193, 0, 0).to_bits() + page * 180 + number);
            igmp::Message::ReportV3 { records: (0..180).map(|number| join(group(number))).collect() }.emit()
        })
        .collect();
    let hoard: Vec<Vec<u8>> = (0..20_u32)
        .map(|page| {
            let source =
                |number: u32| Ipv4Addr::from(Ipv4Addr::new(10, 77, 0, 0).to_bits() + page * 360 + number);
            let sources = (1..=360).map(source).collect();
            let record_type = RecordType::AllowNewSources;
            let record = Record { record_type, group: Ipv4Addr::new(232, 9, 9, 9), sources };
            igmp::Message::ReportV3 { records: vec![record] }.emit()
        })
        .collect();
    // All that comes at once is taken for a flood, whose groups have a quarter of the room: the one of many sources first.
    send_igmp(node, to, 1, true, &hoard)?;
    send_igmp(node, to, 1, true, &giant)?;
    until_counted(
        bed,
        &router,
        &[
            "igmp.malformed",
            "igmp.bad_checksum",
            "igmp.unknown_type",
            "igmp.bad_ttl",
            "igmp.bad_destination",
            "igmp.not_multicast",
            "igmp.link_local_group",
            "igmp.bad_listed_source",
            "igmp.unknown_record_type",
            "igmp.too_many_sources",
        ],
    )?;
    router.check_alive()?;
    listener.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the other link was sent {:?}", bystander.stray());
    Ok(())
}

// proves RFC 2236 §10: what has no Router Alert may be forged, and says nothing where the operator has it so
fn plain_igmp(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let pins = bed.lab.bpffs()?.join(small.vmr.node());
    let tables = format!(
        "[dataplane]\npin_path = \"{}\"\n{IGMP}[[interface]]\nname = \"src0\"\naccepts_sources = true\n\
         [[interface]]\nname = \"acc1\"\nquerier = true\nrequire_router_alert = true\n\
         [[interface]]\nname = \"acc2\"\nquerier = true\n",
        pins.display()
    );
    let mut router = bed.launcher.start(&small.vmr, "router", "rank = 0\n", &tables)?;
    wait_ready([&mut router], bed.clock)?;
    let groups = [1, 2].map(|last| GroupPort { group: Ipv4Addr::new(239, 192, 70, last), port: STREAM.port });
    let senders = [STREAM, groups[0], groups[1]].map(|stream| Sender::start(&small.source, SOURCE, stream));
    let senders = senders.into_iter().collect::<Result<Vec<_>, _>>()?;
    // The kernel's host says Router Alert.
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let witness = |client: u8, stream| Witness::start(small.client(client), "eth0", stream, bed.clock);
    let refused = [witness(1, groups[0])?, witness(1, groups[1])?];
    refused.iter().for_each(|witness| witness.forbid(true));
    let taken = [witness(2, groups[0])?, witness(2, groups[1])?];

    let say = |client: u8, router_alert: bool| -> Outcome {
        let (node, from) = (small.client(client), client_address(client));
        let version_3 = igmp::Message::ReportV3 { records: vec![join(groups[0].group)] }.emit();
        send_igmp_from(node, from, igmp::ALL_IGMPV3_ROUTERS, 1, router_alert, &[version_3])?;
        let version_2 = igmp::Message::ReportV2 { group: groups[1].group }.emit();
        send_igmp_from(node, from, groups[1].group, 1, router_alert, &[version_2])
    };
    say(1, false)?;
    until_counted(bed, &router, &["igmp.no_router_alert"])?;
    say(2, false)?;
    bed.until("the streams come where it is not required", || {
        Ok(taken.iter().all(|witness| witness.incoming(Carriage::Native).packets >= SOME))
    })?;
    let stats = router.ask(&["stats"]).unwrap_or_default();
    let counted = &stats["control"]["igmp"]["no_router_alert"];
    ensure!(*counted == 2, "{counted} messages were refused, 2 were sent");
    for witness in &refused {
        ensure!(witness.stray().packets == 0, "where it is required came {:?}", witness.stray());
        witness.forbid(false);
    }
    say(1, true)?;
    bed.until("the streams come to who says Router Alert", || {
        Ok(refused.iter().all(|witness| witness.incoming(Carriage::Native).packets >= SOME))
    })?;
    listener.heard().is_whole()?;
    drop(senders);
    Ok(())
}

fn checksum(bytes: &[u8]) -> u16 {
    super::untouched::internet_checksum(bytes)
}

/// A relay made by hand, to send what none should. It serves one gateway.
struct Upstream {
    socket: UdpSocket,
    gateway: SocketAddr,
}

impl Upstream {
    /// Waits for a gateway's Request and answers it.
    fn serve(node: &Namespace) -> Result<Self, Failed> {
        let socket = node.enter(|| UdpSocket::bind((SOURCE, PORT)))??;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let query = igmp::Message::QueryV3(igmp::QueryV3 {
            max_resp_time: Duration::from_secs(1),
            group: Ipv4Addr::UNSPECIFIED,
            suppress_router_side_processing: false,
            robustness_variable: 2,
            query_interval: Duration::from_secs(125),
            sources: Vec::new(),
        });
        let query = ipv4::encapsulate(SOURCE, igmp::ALL_SYSTEMS, 1, 0xc0, IGMP_PROTOCOL, true, &query.emit());
        let mut buffer = [0; 2048];
        loop {
            let (length, gateway) = socket.recv_from(&mut buffer)?;
            if let Ok(Message::Request { nonce, .. }) = Message::parse(&buffer[..length]) {
                let response_mac = [9; 6];
                let answer = Message::MembershipQuery {
                    response_mac,
                    nonce,
                    limit: false,
                    gateway: None,
                    query: &query,
                };
                socket.send_to(&answer.to_vec(), gateway)?;
                return Ok(Self { socket, gateway });
            }
        }
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(&Message::MulticastData { packet }.to_vec(), self.gateway).map(drop)
    }
}

fn from_upstream(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let tables = format!(
        "[upstream]\nfrom = \"static\"\naddress = \"{SOURCE}\"\n{IGMP}[[interface]]\nname = \"src0\"\n\
         [[interface]]\nname = \"acc1\"\n[[interface]]\nname = \"acc2\"\n"
    );
    let mut router = bed.launcher.start(&small.vmr, "router", "rank = 1\n", &tables)?;
    let upstream = Upstream::serve(&small.source)?;
    let mut agent = static_agent(bed, small.client(1), gateway_of(1), "")?;
    wait_ready([&mut router, &mut agent], bed.clock)?;
    let bystander = small.forbid(bed, 2)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    bed.until_answer("the join has arrived", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|members| members.len() == 1)
    })?;
    let wire = Witness::start(small.client(1), "eth0", STREAM, bed.clock)?;

    let sender = Ipv4Addr::new(192, 0, 2, 5);
    let numbered = |number: u64, group: Ipv4Addr| {
        let body = payload(number);
        let length = (8 + body.len()) as u16;
        let header =
            [&STREAM.port.to_be_bytes()[..], &STREAM.port.to_be_bytes(), &length.to_be_bytes(), &[0; 2]];
        ipv4::encapsulate(sender, group, 9, 0, UDP, false, &[header.concat(), body].concat())
    };
    for number in 0..SOME {
        upstream.send(&numbered(number, STREAM.group))?;
        // Between the packets that are wanted: another group, no group, a broken header, IGMP.
        upstream.send(&numbered(number, Ipv4Addr::new(239, 192, 200, 1)))?;
        upstream.send(&numbered(number, client_address(1)))?;
        let mut broken = numbered(number, STREAM.group);
        broken[10] ^= 0xff;
        upstream.send(&broken)?;
        upstream.send(&broken[..19])?;
        upstream.send(&report(vec![join(STREAM.group)]))?;
        thread::sleep(Duration::from_millis(2));
    }
    listener.until_last(bed, SOME - 1)?;
    let heard = listener.heard();
    heard.is_whole()?;
    ensure!(heard.packets.len() as u64 == SOME, "{} of {SOME} packets came", heard.packets.len());
    until_counted(
        bed,
        &router,
        &["drops.not_joined", "drops.not_multicast", "drops.bad_checksum", "drops.malformed"],
    )?;
    router.check_alive()?;
    let tunnelled = wire.incoming(Carriage::Amt).packets;
    ensure!(tunnelled == SOME, "{tunnelled} packets went to the member");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

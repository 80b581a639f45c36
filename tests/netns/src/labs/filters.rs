//! Source filters of each tunnel, as forwarding honours them: gateways that look at every datagram of their relay, and
//! IPv6 streams to players behind agents. Both versions of IP inside and outside.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddrV6},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use libtest_mimic::Trial;
use vmcast_lab::{
    roles::{Engine, wait_ready},
    traffic::{Carriage, Witness},
};
use vmcast_proto::Filter;

use super::{
    amt_gateway::{AmtGateway, epoch},
    bed::{Bed, Outcome, ensure, trials_by_engines},
    over_ipv6,
    small::{Router, SOURCE, SOURCE2, STREAM, Small, gateway_of, static_agent},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    let engines = [Engine::Xdp, Engine::Tc, Engine::Software];
    [
        trials_by_engines(
            engines,
            "each tunnel gets the sources of its own filter and no other packet",
            filters,
        ),
        trials_by_engines(engines, "IPv6 streams reach players over IPv4 and IPv6 and nobody else", players),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A source-specific group of IPv6 (RFC 4607 §1).
pub(super) const GROUP6: SocketAddrV6 =
    SocketAddrV6::new(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 0x77), 5004, 0, 0);
/// A group of IPv6 that can be joined by any source as well.
const ANY_SOURCE_GROUP6: SocketAddrV6 =
    SocketAddrV6::new(Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0, 0x77), 5004, 0, 0);
/// The VMR on the source's network, and two addresses of the source.
const VMR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub(super) const SOURCES6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2), Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 3)];
const SOME: u64 = 100;

/// Gives every link IPv6 addresses.
pub(super) fn number(small: &Small) -> Outcome {
    over_ipv6::number(small)?;
    small.vmr.ip(&format!("addr add {VMR6}/64 dev src0 nodad"))?;
    for source in SOURCES6 {
        small.source.ip(&format!("addr add {source}/64 dev eth0 nodad"))?;
    }
    Ok(())
}

/// What came to a gateway: packets by source, and datagrams with data in any way.
#[derive(Clone, Debug, Default)]
struct Came {
    packets: BTreeMap<IpAddr, u64>,
    data: u64,
}

/// The source of an IP packet.
fn source_of(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?.into()),
        _ => Some(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?.into()),
    }
}

/// Four filters of two sources, with those that each wants.
fn choices(sources: [IpAddr; 2]) -> [(Filter, [bool; 2]); 4] {
    let [first, second] = sources;
    [
        (Filter::Include([first].into()), [true, false]),
        (Filter::Exclude([first].into()), [false, true]),
        (Filter::Include([first, second].into()), [true, true]),
        (Filter::any(), [true, true]),
    ]
}

// proves A7: what a tunnel's filter does not want is not sent to it
fn filters(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 1)?;
    number(&small)?;
    let router = small.router(bed, Router { engine, ..Router::default() })?;
    let sources4 = [SOURCE, SOURCE2].map(IpAddr::V4);
    let sources6 = SOURCES6.map(IpAddr::V6);
    // One gateway for each filter, group and version of IP outside.
    let mut wanted = Vec::new();
    for relay in [IpAddr::from(gateway_of(1)), over_ipv6::ends(1)[0].into()] {
        for (group, sources) in
            [(IpAddr::V4(STREAM.group), sources4), (IpAddr::V6(*ANY_SOURCE_GROUP6.ip()), sources6)]
        {
            for (filter, wants) in choices(sources) {
                wanted.push((relay, group, filter, sources, wants));
            }
        }
    }
    let (came, stop) =
        (Arc::new(Mutex::new(vec![Came::default(); wanted.len()])), Arc::new(AtomicBool::new(false)));
    let (theirs, ended, plan, clock) = (Arc::clone(&came), Arc::clone(&stop), wanted.clone(), bed.clock);
    let start = epoch(clock);
    let gateways = small.client(1).thread("gateways", move || {
        let mut gateways = Vec::new();
        for (index, (relay, group, filter, ..)) in plan.into_iter().enumerate() {
            let mut gateway = AmtGateway::open(relay, index, start + clock.now())?;
            gateway.set_filter(start + clock.now(), group, filter);
            gateways.push(gateway);
        }
        while !ended.load(Ordering::Relaxed) {
            for (gateway, index) in gateways.iter_mut().zip(0..) {
                let turn = gateway.turn(start + clock.now())?;
                let mut came = theirs.lock().expect("the judge does not panic while it holds this");
                let came: &mut Came = &mut came[index];
                came.data += turn.data;
                for source in turn.packets.iter().filter_map(|packet| source_of(packet)) {
                    *came.packets.entry(source).or_default() += 1;
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok::<(), std::io::Error>(())
    })?;
    let members = wanted.len();
    bed.until_answer("every gateway has joined", &router, &["member", "list"], |answer| {
        answer["members"].as_array().is_some_and(|list| list.len() == members)
    })?;
    let senders = [
        Sender::start(&small.source, SOURCE, STREAM)?,
        Sender::start(&small.source, SOURCE2, STREAM)?,
        Sender::start_v6(&small.source, SOURCES6[0], ANY_SOURCE_GROUP6, "eth0")?,
        Sender::start_v6(&small.source, SOURCES6[1], ANY_SOURCE_GROUP6, "eth0")?,
    ];
    for sender in &senders {
        sender.more(bed, SOME)?;
    }
    let mut sent = BTreeMap::new();
    let [first, second, third, fourth] = senders;
    for (sender, source) in
        [first, second, third, fourth].into_iter().zip(sources4.into_iter().chain(sources6))
    {
        sent.insert(source, sender.stop()?);
    }
    let expected: Vec<BTreeMap<IpAddr, u64>> = wanted
        .iter()
        .map(|(.., sources, wants)| {
            let of = |(source, wants): (&IpAddr, &bool)| wants.then(|| (*source, sent[source]));
            sources.iter().zip(wants).filter_map(of).collect()
        })
        .collect();
    let snapshot = || came.lock().expect("the gateways do not panic").clone();
    let complete = bed.until("every gateway has what it wants", || {
        Ok(snapshot().iter().zip(&expected).all(|(came, expected)| came.packets == *expected))
    });
    // What comes late is a leak.
    thread::sleep(Duration::from_millis(200));
    stop.store(true, Ordering::Relaxed);
    gateways.join().map_err(|_| "the gateways panicked")???;
    for ((came, expected), (relay, group, filter, ..)) in snapshot().iter().zip(&expected).zip(&wanted) {
        let of = format!("{group} {filter:?} by {relay}");
        ensure!(came.packets == *expected, "{of}: {:?} came, {expected:?} was wanted", came.packets);
        let all: u64 = expected.values().sum();
        ensure!(came.data == all, "{of}: {} datagrams with data came, {all} were wanted", came.data);
    }
    complete
}

// proves A7, A9 for IPv6 streams: the player's join by MLD, the tunnel's by MLD inside AMT
fn players(bed: &mut Bed, engine: Engine) -> Outcome {
    let small = Small::build(bed, 3)?;
    number(&small)?;
    let _router = small.router(bed, Router { engine, ..Router::default() })?;
    let mut roles = vec![
        static_agent(bed, small.client(1), gateway_of(1), "")?,
        static_agent(bed, small.client(2), over_ipv6::ends(2)[0], "")?,
        static_agent(bed, small.client(3), over_ipv6::ends(3)[0], "")?,
    ];
    wait_ready(&mut roles, bed.clock)?;
    let wires = [1, 2, 3]
        .map(|client| Witness::start(small.client(client), "eth0", GROUP6, bed.clock))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let listeners = [
        Listener::join_source_v6(small.client(1), GROUP6, SOURCES6[0], "vmcast0")?,
        Listener::join_source_v6(small.client(2), GROUP6, SOURCES6[1], "vmcast0")?,
    ];
    let senders = [
        Sender::start_v6(&small.source, SOURCES6[0], GROUP6, "eth0")?,
        Sender::start_v6(&small.source, SOURCES6[1], GROUP6, "eth0")?,
    ];
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let mut last = Vec::new();
    for sender in senders {
        last.push(sender.stop()? - 1);
    }
    for ((listener, source), last) in listeners.iter().zip(SOURCES6).zip(&last) {
        listener.until_last(bed, *last)?;
        let heard = listener.heard();
        heard.is_whole()?;
        ensure!(heard.packets.iter().all(|(from, _)| *from == source), "not {source} alone was heard");
    }
    let crossed: Vec<u64> = wires.iter().map(|wire| wire.incoming(Carriage::Amt).packets).collect();
    let heard = [listeners[0].count(), listeners[1].count(), 0];
    ensure!(crossed == heard, "the wires carried {crossed:?}, the players heard {heard:?}");
    // A leave ends it.
    let [first, second] = listeners;
    drop(first);
    thread::sleep(Duration::from_secs(1));
    wires[0].forbid(true);
    let sender = Sender::start_v6(&small.source, SOURCES6[0], GROUP6, "eth0")?;
    sender.more(bed, SOME)?;
    sender.stop()?;
    ensure!(wires[0].stray().packets == 0, "who left was sent {:?}", wires[0].stray());
    drop(second);
    Ok(())
}

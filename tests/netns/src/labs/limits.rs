//! Limits that an operator sets: what is beyond is refused and counted, and everybody else is served.

use std::net::Ipv4Addr;

use libtest_mimic::Trial;
use vmcast_lab::traffic::{Carriage, GroupPort, Witness};
use vmcast_wire::igmp;

use super::{
    bad_input::{Peer, join, report, send_igmp_from, until_counted},
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, SOURCE, STREAM, Small, client_address, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("tunnels and groups beyond the limits are refused and all others are served", limited)]
}

const SOME: u64 = 150;

// proves A7: limits of tunnels of an address, and of groups of an interface
fn limited(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 4)?;
    let router =
        Router { querier: true, tables: "[tunnel]\nmax_tunnels_per_address = 1\n", ..Router::default() };
    let mut router = small.router_with_timers(bed, router, "", "max_groups = 2\n")?;
    let bystander = small.forbid(bed, 4)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;

    // Two gateways at one address, and an agent at another.
    let tunnelled = Witness::start(small.client(2), "eth0", STREAM, bed.clock)?;
    let first = Peer::new(small.client(2), gateway_of(2))?;
    let mac = first.handshake(9)?;
    first.update(mac, 9, &report(vec![join(STREAM.group)]))?;
    bed.until("the first gateway of an address is sent the stream", || {
        Ok(tunnelled.incoming(Carriage::Amt).packets >= SOME)
    })?;
    let second = Peer::new(small.client(2), gateway_of(2))?;
    let mac = second.handshake(10)?;
    second.update(mac, 10, &report(vec![join(STREAM.group)]))?;
    until_counted(bed, &router, &["relay.refused_tunnels_per_source"])?;
    let _agents = small.agents(bed, [1])?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let tunnels =
        bed.until_answer("there is a tunnel of each address", &router, &["tunnel", "list"], |answer| {
            answer["tunnels"].as_array().is_some_and(|tunnels| tunnels.len() == 2)
        })?;
    let from = |address: Ipv4Addr| {
        let of = |tunnel: &&serde_json::Value| {
            tunnel["remote"].as_str().is_some_and(|remote| remote.starts_with(&format!("{address}:")))
        };
        tunnels["tunnels"].as_array().into_iter().flatten().filter(of).count()
    };
    ensure!([1, 2].map(|client| from(client_address(client))) == [1, 1], "the tunnels are {tunnels}");

    // A host that asks for one group more than its link may have.
    let groups =
        [1, 2, 3].map(|last| GroupPort { group: Ipv4Addr::new(239, 192, 71, last), port: STREAM.port });
    let senders = groups.map(|group| Sender::start(&small.source, SOURCE, group));
    let senders = senders.into_iter().collect::<Result<Vec<_>, _>>()?;
    let wires = groups.map(|group| Witness::start(small.client(3), "eth0", group, bed.clock));
    let [one, two, three] = wires;
    let (one, two, three) = (one?, two?, three?);
    three.forbid(true);
    let ask = |client: u8, group: GroupPort| {
        let report = igmp::Message::ReportV3 { records: vec![join(group.group)] }.emit();
        let from = client_address(client);
        send_igmp_from(small.client(client), from, igmp::ALL_IGMPV3_ROUTERS, 1, true, &[report])
    };
    ask(3, groups[0])?;
    ask(3, groups[1])?;
    bed.until("the groups within the limit come", || {
        Ok([&one, &two].iter().all(|wire| wire.incoming(Carriage::Native).packets >= SOME))
    })?;
    ask(3, groups[2])?;
    until_counted(bed, &router, &["igmp.too_many_groups"])?;
    senders[2].more(bed, SOME)?;
    ensure!(three.stray().packets == 0, "of the group beyond the limit came {:?}", three.stray());
    // The limit is the link's: another one has its own.
    let elsewhere = Witness::start(small.client(1), "eth0", groups[2], bed.clock)?;
    ask(1, groups[2])?;
    bed.until(
        "the group comes to another link",
        || Ok(elsewhere.incoming(Carriage::Native).packets >= SOME),
    )?;

    router.check_alive()?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(three.stray().packets == 0, "of the group beyond the limit came {:?}", three.stray());
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

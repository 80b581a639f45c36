//! Against the kernel, in network namespaces.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    process::Command,
    time::Duration,
};

use tokio::{sync::mpsc::UnboundedReceiver, time::timeout};
use vmcast_common::{
    fib::{NextHop, NextHopId},
    hdr::eth::Mac,
};

use super::{
    Error, HostGroupEvent, HostGroups, Links, NextHopEvent, NextHops, Setup, connect,
    links::LinkEvent,
    netns::{NetNs, skip_without_root},
    next_hops::use_neighbour,
    route_copy::{RouteCopy, Routes},
    route_dump::RouteDump,
    route_lookups::RouteLookups,
    table::{Neighbour, Unresolvable},
};

/// Longer than anything here takes, so that a broken test ends.
const PATIENCE: Duration = Duration::from_secs(20);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

async fn next(events: &mut UnboundedReceiver<NextHopEvent>) -> NextHopEvent {
    timeout(PATIENCE, events.recv()).await.expect("an event in time").expect("the service runs")
}

/// Waits until a next hop has this address.
async fn until_mac(
    events: &mut UnboundedReceiver<NextHopEvent>,
    wanted: Option<Mac>,
) -> (NextHopId, NextHop) {
    loop {
        if let NextHopEvent::Set { id, hop } = next(events).await
            && hop.destination_mac == wanted
        {
            return (id, hop);
        }
    }
}

async fn until_assigned(
    events: &mut UnboundedReceiver<NextHopEvent>,
    wanted: IpAddr,
) -> Result<NextHopId, Unresolvable> {
    loop {
        if let NextHopEvent::Assign { destination, hop, .. } = next(events).await
            && destination == wanted
        {
            return hop;
        }
    }
}

/// What the kernel has of a neighbour on the wire.
fn shown(near: &NetNs, address: &str) -> String {
    let show = || Command::new("ip").args(["neighbour", "show", address, "dev", "near0"]).output();
    String::from_utf8(near.run(show).expect("ip is installed").stdout).expect("text")
}

/// Two hosts on one wire; the second is also a gateway.
fn pair() -> (NetNs, NetNs) {
    let (near, far) = (NetNs::new(), NetNs::new());
    near.connect("near0", "10.1.0.1/24", &far, "far0", "10.1.0.2/24");
    far.ip("link set far0 address 02:00:00:00:00:02");
    near.ip("link set near0 address 02:00:00:00:00:01");
    (near, far)
}

#[test]
fn many_destinations_are_looked_up_together_and_each_hears_of_its_own_way_once() {
    const EACH: usize = 100;
    if skip_without_root("next-hop resolution") {
        return;
    }
    let (near, _far) = pair();
    near.ip("route add 10.9.0.0/16 via 10.1.0.2");
    near.ip("route add unreachable 10.8.0.0/16");
    near.ip("route add 10.8.1.0/24 via 10.1.0.2 mtu 1400");
    near.block_on(async || {
        let (hops, mut events) = NextHops::spawn().expect("the service");
        let mut open = BTreeSet::new();
        for n in 1..=EACH {
            for network in ["10.9.0.", "10.8.0.", "10.8.1.", "fd00:9::"] {
                let destination = ip(&format!("{network}{n}"));
                hops.watch(destination);
                open.insert(destination);
            }
        }
        let (mut wide, mut narrow) = (BTreeSet::new(), BTreeSet::new());
        while !open.is_empty() {
            let NextHopEvent::Assign { destination, hop, direct } = next(&mut events).await else { continue };
            assert!(open.remove(&destination), "{destination} hears twice");
            assert!(!direct);
            match destination {
                IpAddr::V4(address) if address.octets()[1] == 9 => {
                    wide.insert(hop.expect("a way").0);
                }
                IpAddr::V4(address) if address.octets()[2] == 1 => {
                    narrow.insert(hop.expect("a way").0);
                }
                IpAddr::V4(_) | IpAddr::V6(_) => assert_eq!(hop, Err(Unresolvable::NoRoute)),
            }
        }
        assert_eq!((wide.len(), narrow.len()), (1, 1), "a next hop for each MTU");
        assert_ne!(wide, narrow);
    });
}

/// What the kernel's routes are now, copied.
fn copied() -> Routes {
    let mut dump = RouteDump::begin().expect("the kernel tells its routes");
    loop {
        if let Some(routes) = dump.read().expect("what the kernel tells") {
            return routes;
        }
    }
}

/// Compares the copy with the kernel; the addresses that the copy knows the way to.
fn known(addresses: &[String]) -> BTreeSet<&str> {
    let mut copy = RouteCopy::default();
    copy.set(copied());
    let mut asked: Vec<_> = addresses.iter().map(|address| ip(address)).collect();
    let mut answers = std::collections::BTreeMap::new();
    while !asked.is_empty() {
        let mut some = asked.split_off(asked.len().saturating_sub(32));
        let mut lookups = RouteLookups::open().expect("a socket");
        lookups.look_up(&mut some, |address, route| {
            answers.insert(address, route);
        });
        assert!(some.is_empty(), "without an answer: {some:?}");
    }
    let known = addresses.iter().filter(|address| {
        let found = copy.find(ip(address));
        if let Some(route) = found {
            assert_eq!(Ok(route), answers[&ip(address)], "{address}");
        }
        found.is_some()
    });
    known.map(String::as_str).collect()
}

#[test]
fn a_copy_of_the_routes_says_what_the_kernel_says_or_nothing() {
    if skip_without_root("a copy of the routes") {
        return;
    }
    let (near, _far) = pair();
    near.ip("address add 2001:db8:1::1/64 dev near0 nodad");
    for route in [
        "10.9.0.0/16 via 10.1.0.2",
        "10.9.1.0/24 via 10.1.0.3 mtu 1400",
        "10.9.1.128/25 dev near0",
        "unreachable 10.9.2.0/24",
        "10.9.3.0/24 nexthop via 10.1.0.3 nexthop via 10.1.0.4",
        "throw 10.9.4.0/24",
        "10.9.5.0/24 via 10.1.0.3 metric 20",
        "10.9.5.0/24 via 10.1.0.4 metric 10",
        "10.9.6.0/24 tos 0x10 via 10.1.0.3",
        "10.9.7.0/24 via 10.1.0.9 onlink dev near0 src 10.1.0.1",
        "10.9.8.0/24 via 10.1.0.3 table 100",
        "10.9.9.0/24 via inet6 2001:db8:1::9 dev near0",
        "2001:db8:9::/48 via 2001:db8:1::2",
        "2001:db8:9:1::/64 dev near0 mtu 1400",
        "2001:db8:9:2::/64 via 2001:db8:1::3",
        "unreachable 2001:db8:9:3::/64",
        "2001:db8:a::/48 via 2001:db8:1::4 expires 1000",
    ] {
        near.ip(&format!("route add {route}"));
    }
    near.ip("nexthop add id 7 via 10.1.0.7 dev near0");
    near.ip("route add 10.9.10.0/24 nhid 7");
    let of_networks = (0..=11).flat_map(|network| [1, 200].map(|host| format!("10.9.{network}.{host}")));
    let others = [
        "10.1.0.1",
        "10.1.0.2",
        "10.1.0.255",
        "10.1.0.0",
        "10.2.0.1",
        "127.0.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "2001:db8:1::1",
        "2001:db8:1::2",
        "2001:db8:1::",
        "2001:db8:9::1",
        "2001:db8:9:1::1",
        "2001:db8:9:2::1",
        "2001:db8:9:3::1",
        "2001:db8:a::1",
        "2001:db8:b::1",
        "::1",
        "ff0e::1",
        "fe80::1",
    ];
    let addresses: Vec<String> = of_networks.chain(others.map(str::to_owned)).collect();
    near.run(|| {
        let mut without_default = known(&addresses);
        // Somebody's, or everybody's, as the kernel has it: it says so itself.
        without_default.retain(|address| !matches!(*address, "10.1.0.0" | "2001:db8:1::"));
        let plain = [
            "10.1.0.2",
            "10.9.0.1",
            "10.9.0.200",
            "10.9.1.1",
            "10.9.1.200",
            "10.9.7.1",
            "10.9.7.200",
            "10.9.8.1",
            "10.9.8.200",
            "10.9.11.1",
            "10.9.11.200",
            "2001:db8:1::2",
            "2001:db8:9::1",
            "2001:db8:9:1::1",
        ];
        assert_eq!(without_default, BTreeSet::from(plain));
    });
    near.ip("route add default via 10.1.0.2");
    near.ip("route add default via 2001:db8:1::2");
    near.run(|| {
        let with_default = known(&addresses);
        assert!(
            ["10.2.0.1", "10.9.0.1", "2001:db8:b::1", "2001:db8:9:1::1"]
                .iter()
                .all(|to| with_default.contains(to))
        );
        // Of two gateways that lead there the kernel may take the one that it reaches.
        assert!(
            !with_default.contains("2001:db8:9::1") && !with_default.contains("10.9.3.1"),
            "{with_default:?}"
        );
    });
    // A rule beyond those that every kernel has: the copy of that version of IP is of no use, while it is there.
    near.ip("rule add to 10.9.8.0/24 table 100");
    near.run(|| assert!(known(&addresses).iter().all(|address| address.contains(':'))));
    near.ip("rule del to 10.9.8.0/24 table 100");
    near.ip("-6 rule add to 2001:db8:b::/48 table 100");
    near.run(|| {
        let known = known(&addresses);
        assert!(known.contains("10.9.0.1") && known.iter().all(|address| !address.contains(':')));
    });
}

// Ways that were found in the copy of the routes follow the kernel's as those do that it was asked for.
#[test]
fn very_many_destinations_move_with_their_route_and_new_ones_take_the_new_way() {
    const COUNT: u32 = 300;
    if skip_without_root("a copy of the routes") {
        return;
    }
    let (near, _far) = pair();
    near.ip("route add 10.9.0.0/16 via 10.1.0.2");
    let address = |number: u32| IpAddr::V4(Ipv4Addr::from(0x0a09_0000 + number));
    near.block_on(async || {
        let (hops, mut events) = NextHops::spawn().expect("the service");
        let mut ways = Vec::new();
        for number in 1..=COUNT {
            hops.watch(address(number));
            ways.push(until_assigned(&mut events, address(number)).await.expect("a way"));
        }
        ways.dedup();
        let [first] = ways[..] else { panic!("{ways:?}") };
        near.ip("route replace 10.9.0.0/16 via 10.1.0.3");
        let mut moved = BTreeSet::new();
        while moved.len() < COUNT as usize {
            if let NextHopEvent::Assign { destination, hop, .. } = next(&mut events).await {
                assert_ne!(hop.expect("a way"), first);
                assert!(moved.insert(destination), "{destination} hears twice");
            }
        }
        for number in COUNT + 1..=2 * COUNT {
            hops.watch(address(number));
            assert_ne!(until_assigned(&mut events, address(number)).await, Ok(first));
        }
        near.ip("route del 10.9.0.0/16");
        let mut gone = BTreeSet::new();
        while gone.len() < 2 * COUNT as usize {
            if let NextHopEvent::Assign { destination, hop, .. } = next(&mut events).await {
                assert_eq!(hop, Err(Unresolvable::NoRoute));
                assert!(gone.insert(destination), "{destination} hears twice");
            }
        }
    });
}

#[test]
fn a_neighbour_and_what_is_behind_it_resolve_and_follow_the_kernel() {
    if skip_without_root("next-hop resolution") {
        return;
    }
    let (near, far) = pair();
    near.ip("route add 10.9.0.0/16 via 10.1.0.2");
    near.block_on(async || {
        let (hops, mut events) = NextHops::spawn().expect("the service");
        let near0 = Links::open().expect("links").find("near0").await.expect("near0");
        hops.watch(ip("10.1.0.2"));
        let (id, hop) = until_mac(&mut events, Some([2, 0, 0, 0, 0, 2])).await;
        assert_eq!(hop.ifindex, near0.ifindex);
        assert_eq!((hop.source_mac, hop.mtu), ([2, 0, 0, 0, 0, 1], 1500));

        // Behind a gateway that is resolved: the same next hop.
        for n in 1..=50 {
            let destination = ip(&format!("10.9.0.{n}"));
            hops.watch(destination);
            assert_eq!(
                next(&mut events).await,
                NextHopEvent::Assign { destination, hop: Ok(id), direct: false }
            );
        }

        // The neighbour's address changes: one write, for all of them.
        far.ip("link set far0 address 02:00:00:00:00:22");
        far.run(|| {
            let socket = std::net::UdpSocket::bind("10.1.0.2:0").expect("a socket");
            socket.send_to(b"", "10.1.0.1:9").expect("something to make it ask for us");
        });
        near.ip("neighbour flush dev near0");
        let (changed, _) = until_mac(&mut events, Some([2, 0, 0, 0, 0, 0x22])).await;
        assert_eq!(changed, id);

        // A deleted entry is resolved again without anybody sending.
        let resolved = async {
            while !shown(&near, "10.1.0.2").contains("lladdr") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, resolved).await.expect("it is resolved in time");
        near.ip("neighbour del 10.1.0.2 dev near0");
        until_mac(&mut events, None).await;
        until_mac(&mut events, Some([2, 0, 0, 0, 0, 0x22])).await;
    });
}

#[test]
fn a_route_change_moves_its_destinations_to_another_next_hop() {
    if skip_without_root("route changes") {
        return;
    }
    let (near, far) = pair();
    far.ip("address add 10.1.0.3/24 dev far0");
    near.ip("route add 10.9.0.0/16 via 10.1.0.2");
    near.block_on(async || {
        let (hops, mut events) = NextHops::spawn().expect("the service");
        hops.watch(ip("10.9.0.1"));
        let first = until_assigned(&mut events, ip("10.9.0.1")).await.expect("a next hop");
        until_mac(&mut events, Some([2, 0, 0, 0, 0, 2])).await;
        near.ip("route replace 10.9.0.0/16 via 10.1.0.3 mtu 1400");
        let (second, hop) = until_mac(&mut events, None).await;
        assert_ne!(first, second);
        assert_eq!(hop.mtu, 1400);
        assert_eq!(until_assigned(&mut events, ip("10.9.0.1")).await, Ok(second));
        assert_eq!(next(&mut events).await, NextHopEvent::Removed { id: first });
        until_mac(&mut events, Some([2, 0, 0, 0, 0, 2])).await;
        near.ip("route del 10.9.0.0/16");
        assert_eq!(until_assigned(&mut events, ip("10.9.0.1")).await, Err(Unresolvable::NoRoute));
        assert_eq!(next(&mut events).await, NextHopEvent::Removed { id: second });
    });
}

// the kernel is asked anew again and again, which must not make it forget what the operator has said
#[test]
fn a_neighbour_that_the_operator_has_stated_stays_so() {
    if skip_without_root("stated neighbours") {
        return;
    }
    let (near, _far) = pair();
    near.ip("neighbour replace 10.1.0.9 lladdr 02:00:00:00:00:09 dev near0 nud permanent");
    near.block_on(async || {
        let near0 = Links::open().expect("links").find("near0").await.expect("near0");
        let neighbour = Neighbour { ifindex: near0.ifindex, address: ip("10.1.0.9") };
        for _ in 0..3 {
            use_neighbour(connect().expect("netlink"), neighbour).await;
        }
        let (hops, mut events) = NextHops::spawn().expect("the service");
        hops.watch(ip("10.1.0.9"));
        until_mac(&mut events, Some([2, 0, 0, 0, 0, 9])).await;
    });
    let shown = shown(&near, "10.1.0.9");
    assert!(shown.contains("PERMANENT"), "{shown}");
}

#[test]
fn an_absent_neighbour_stays_unresolved_and_appears_when_it_comes_up() {
    if skip_without_root("absent neighbours") {
        return;
    }
    let (near, far) = pair();
    near.block_on(async || {
        let (hops, mut events) = NextHops::spawn().expect("the service");
        hops.watch(ip("10.1.0.7"));
        let (_, hop) = until_mac(&mut events, None).await;
        assert_eq!(hop.destination_mac, None);
        far.ip("address add 10.1.0.7/24 dev far0");
        until_mac(&mut events, Some([2, 0, 0, 0, 0, 2])).await;
    });
}

#[test]
fn own_and_unroutable_addresses_are_refused_with_a_reason() {
    if skip_without_root("unresolvable addresses") {
        return;
    }
    let (near, _far) = pair();
    near.ip("route add blackhole 10.66.0.0/16");
    near.ip("tuntap add dev tun0 mode tun");
    near.ip("link set tun0 up");
    near.ip("route add 10.77.0.0/16 dev tun0");
    near.block_on(async || {
        let (hops, mut events) = NextHops::spawn().expect("the service");
        for (destination, reason) in [
            ("127.0.0.1", Unresolvable::Local),
            ("10.1.0.1", Unresolvable::Local),
            ("10.1.0.255", Unresolvable::NotUnicast),
            ("203.0.113.1", Unresolvable::NoRoute),
            ("10.66.0.1", Unresolvable::NoRoute),
        ] {
            hops.watch(ip(destination));
            assert_eq!(until_assigned(&mut events, ip(destination)).await, Err(reason), "{destination}");
        }
        // A TUN device has no link-layer addresses, and needs none.
        hops.watch(ip("10.77.0.1"));
        assert!(until_assigned(&mut events, ip("10.77.0.1")).await.is_ok());
    });
}

#[test]
fn links_are_found_described_and_watched_and_configured() {
    if skip_without_root("links") {
        return;
    }
    let (near, _far) = pair();
    near.block_on(async || {
        let links = Links::open().expect("links");
        let near0 = links.find("near0").await.expect("near0");
        assert_eq!(near0.mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(near0.addresses, [("10.1.0.1".parse().expect("an address"), 24)]);
        assert_eq!((near0.mtu, near0.up, near0.kind.as_deref()), (1500, true, Some("veth")));
        assert!(matches!(links.find("nothing0").await, Err(Error::NoSuchLink(name)) if name == "nothing0"));
        let names: Vec<_> = links.list().await.expect("a list").into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["lo", "near0"]);

        let mut watch = links.watch().expect("a watch");
        let setup = Setup::open().expect("setup");
        let address = "192.0.2.9".parse().expect("an address");
        setup.add_address(near0.ifindex, address, 32).await.expect("the address");
        let event = timeout(PATIENCE, watch.next()).await.expect("in time").expect("the watch runs");
        assert_eq!(event, LinkEvent::Changed(near0.ifindex));
        setup.bring_up(near0.ifindex, 1400).await.expect("the MTU");
        let group = ("232.0.0.0".parse().expect("a prefix"), 8);
        setup.add_route(near0.ifindex, group, address).await.expect("the route");
        let again = setup.add_route(near0.ifindex, group, address).await;
        assert!(again.expect_err("somebody's route stays").to_string().contains("232.0.0.0/8"));
        let near0 = links.find("near0").await.expect("near0");
        assert_eq!((near0.mtu, near0.addresses.len()), (1400, 2));
    });
}

#[test]
fn joins_and_leaves_of_a_hosts_sockets_are_told_at_once_for_their_interface_alone() {
    if skip_without_root("the host's memberships") {
        return;
    }
    let (near, _far) = pair();
    near.ip("link add near1 type veth peer name far1");
    near.ip("address add 10.2.0.1/24 dev near1");
    near.ip("link set near1 up");
    near.block_on(async || {
        let near0 = Links::open().expect("links").find("near0").await.expect("near0");
        let Some(mut groups) = HostGroups::watch(near0.ifindex).expect("a watch") else {
            eprintln!("SKIPPED: this kernel does not tell of memberships");
            return;
        };
        let [own, other]: [Ipv4Addr; 2] = [[10, 1, 0, 1], [10, 2, 0, 1]].map(Into::into);
        let any = Ipv4Addr::new(239, 192, 1, 1);
        let specific = Ipv4Addr::new(232, 1, 1, 1);
        let source = Ipv4Addr::new(192, 0, 2, 9);
        let socket = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        let (first, second) = (socket(), socket());
        first.join_multicast_v4(&any, &other).expect("joined elsewhere");
        first.join_multicast_v4(&any, &own).expect("joined");
        second.join_multicast_v4(&any, &own).expect("joined, too");
        let third = socket2::Socket::from(socket());
        third.join_ssm_v4(&source, &specific, &own).expect("joined for a source");
        drop((first, second));
        drop(third);
        let mut told = Vec::new();
        while told.len() < 4 {
            told.push(timeout(PATIENCE, groups.next()).await.expect("in time").expect("the watch runs"));
        }
        // The source's line is gone with the socket: what is listed is read after the event.
        assert_eq!(
            told,
            [
                HostGroupEvent::Joined { group: any, sources: BTreeSet::new() },
                HostGroupEvent::Joined { group: specific, sources: BTreeSet::new() },
                HostGroupEvent::Left(any),
                HostGroupEvent::Left(specific),
            ]
        );
        let fourth = socket2::Socket::from(socket());
        fourth.join_ssm_v4(&source, &specific, &own).expect("joined again");
        let event = timeout(PATIENCE, groups.next()).await.expect("in time").expect("the watch runs");
        assert_eq!(event, HostGroupEvent::Joined { group: specific, sources: BTreeSet::from([source]) });
    });
}

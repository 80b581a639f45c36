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
        while !shown(&near, "10.1.0.2").contains("lladdr") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
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
            ("10.77.0.1", Unresolvable::NoLinkLayer),
        ] {
            hops.watch(ip(destination));
            assert_eq!(until_assigned(&mut events, ip(destination)).await, Err(reason), "{destination}");
        }
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

use vmcast_common::fib::{EngineWish, Link, Tag, TagProtocol};

use super::*;

const MAC: Mac = [2, 0, 0, 0, 0, 1];
const GATEWAY_MAC: Mac = [2, 0, 0, 0, 0, 9];
const OTHER_MAC: Mac = [2, 0, 0, 0, 0, 8];
const ETH: IfIndex = IfIndex(2);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ethernet() -> TableLink {
    TableLink { mac: Some(MAC), mtu: 1500, up: true, loopback: false, bare: false, is_ppp: false, vlan: None }
}

fn via(gateway: &str) -> Result<Route, Unresolvable> {
    Ok(Route { ifindex: ETH, neighbour: ip(gateway), mtu: 0 })
}

fn neighbour(address: &str) -> Neighbour {
    Neighbour { ifindex: ETH, address: ip(address) }
}

/// A table and a kernel that answers as told.
struct Bed {
    now: Instant,
    table: Table,
    events: Vec<NextHopEvent>,
    uses: Vec<Neighbour>,
    lookups: usize,
    route: fn(IpAddr) -> Result<Route, Unresolvable>,
    mac: Option<Mac>,
}

impl Bed {
    #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
    fn new(route: fn(IpAddr) -> Result<Route, Unresolvable>, mac: Option<Mac>) -> Self {
        let now = Instant::now();
        let table = Table::new(now);
        let mut bed = Self { now, table, events: vec![], uses: vec![], lookups: 0, route, mac };
        assert_eq!(bed.table.poll_output(), Some(TableOutput::DumpLinks));
        bed.input(TableInput::Links(vec![(ETH, ethernet())]));
        bed
    }

    fn input(&mut self, input: TableInput) {
        self.table.handle_input(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.table.poll_output() {
            let answer = match output {
                TableOutput::Event(event) => {
                    self.events.push(event);
                    continue;
                }
                TableOutput::Use(neighbour) => {
                    self.uses.push(neighbour);
                    continue;
                }
                TableOutput::DumpLinks => TableInput::Links(vec![(ETH, ethernet())]),
                TableOutput::LookupRoute(destination) => {
                    self.lookups += 1;
                    TableInput::RouteAnswer(destination, (self.route)(destination))
                }
                TableOutput::LookupNeighbour(neighbour) => TableInput::NeighbourAnswer(neighbour, self.mac),
            };
            self.table.handle_input(self.now, answer);
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.table.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.table.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    fn take(&mut self) -> Vec<NextHopEvent> {
        std::mem::take(&mut self.events)
    }
}

fn hop(destination_mac: Option<Mac>) -> NextHop {
    NextHop {
        ifindex: ETH,
        link: vmcast_common::fib::Link::PLAIN,
        source_mac: MAC,
        destination_mac,
        mtu: 1500,
    }
}

const FIRST: NextHopId = NextHopId(0);

#[test]
fn a_hundred_thousand_destinations_behind_one_gateway_share_one_next_hop() {
    let mut bed = Bed::new(|_| via("192.0.2.1"), Some(GATEWAY_MAC));
    for n in 0..100_000u32 {
        bed.input(TableInput::Watch(Ipv4Addr::from(0x0a00_0000 + n).into()));
    }
    bed.run(Duration::from_secs(10));
    let events = bed.take();
    let sets = events.iter().filter(|event| matches!(event, NextHopEvent::Set { .. })).count();
    let assigned =
        events.iter().filter(|event| matches!(event, NextHopEvent::Assign { hop: Ok(FIRST), .. })).count();
    assert_eq!((sets, assigned, events.len()), (2, 100_000, 100_002));
    assert_eq!(bed.lookups, 100_000);

    bed.input(TableInput::NeighbourChanged(neighbour("192.0.2.1"), Some(OTHER_MAC)));
    assert_eq!(bed.take(), [NextHopEvent::Set { id: FIRST, hop: hop(Some(OTHER_MAC)) }]);
    // A B-tree node is at least half full, and one in seven is an inner node with twelve edges.
    assert!((size_of::<Key>() + size_of::<Watch>()) * 2 + 8 <= 64);
}

#[test]
fn an_unresolved_neighbour_is_used_at_once_and_again_after_doubling_pauses() {
    let mut bed = Bed::new(|_| via("192.0.2.1"), None);
    bed.input(TableInput::Watch(ip("198.51.100.7")));
    assert_eq!(
        bed.take(),
        [
            NextHopEvent::Set { id: FIRST, hop: hop(None) },
            NextHopEvent::Assign { destination: ip("198.51.100.7"), hop: Ok(FIRST), direct: false },
        ]
    );
    assert_eq!(bed.uses, [neighbour("192.0.2.1")]);
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        bed.uses.clear();
        bed.run(Duration::from_secs(pause) - Duration::from_millis(1));
        assert_eq!(bed.uses, []);
        bed.run(Duration::from_millis(1));
        assert_eq!(bed.uses.len(), 1, "after {pause} s");
    }
    assert_eq!(bed.take(), []);
    bed.input(TableInput::NeighbourChanged(neighbour("192.0.2.1"), Some(GATEWAY_MAC)));
    assert_eq!(bed.take(), [NextHopEvent::Set { id: FIRST, hop: hop(Some(GATEWAY_MAC)) }]);
}

#[test]
fn a_resolved_neighbour_is_kept_alive_and_a_deleted_one_is_resolved_again_at_once() {
    let mut bed = Bed::new(|_| via("192.0.2.1"), Some(GATEWAY_MAC));
    bed.input(TableInput::Watch(ip("198.51.100.7")));
    bed.take();
    assert_eq!(bed.uses, []);
    bed.run(Duration::from_secs(90));
    assert_eq!(bed.uses.len(), 3);
    bed.uses.clear();
    bed.input(TableInput::NeighbourChanged(neighbour("192.0.2.1"), Some(GATEWAY_MAC)));
    assert_eq!(bed.take(), []);
    bed.input(TableInput::NeighbourChanged(neighbour("192.0.2.1"), None));
    assert_eq!(bed.take(), [NextHopEvent::Set { id: FIRST, hop: hop(None) }]);
    assert_eq!(bed.uses, [neighbour("192.0.2.1")]);
    bed.input(TableInput::NeighbourChanged(neighbour("192.0.2.77"), Some(OTHER_MAC)));
    assert_eq!(bed.take(), [], "a neighbour that nobody uses is nobody's business");
}

#[test]
fn a_route_change_moves_destinations_and_a_storm_of_changes_is_one_sweep() {
    let mut bed = Bed::new(|_| via("192.0.2.1"), Some(GATEWAY_MAC));
    for n in 1..=200u8 {
        bed.input(TableInput::Watch(Ipv4Addr::new(198, 51, 100, n).into()));
    }
    bed.run(Duration::from_secs(1));
    bed.take();
    bed.lookups = 0;
    bed.route = |destination| match destination {
        IpAddr::V4(address) if address.octets()[3] <= 100 => via("192.0.2.1"),
        _ => via("192.0.2.2"),
    };
    for _ in 0..1000 {
        bed.input(TableInput::RoutesChanged);
    }
    bed.run(Duration::from_secs(1));
    assert_eq!(bed.lookups, 200);
    let moved = bed.take();
    let new = NextHopId(1);
    let assigned =
        moved.iter().filter(|event| matches!(event, NextHopEvent::Assign { hop: Ok(id), .. } if *id == new));
    assert_eq!(assigned.count(), 100);
    assert!(!moved.iter().any(|event| matches!(event, NextHopEvent::Assign { hop: Ok(FIRST), .. })));
    assert!(
        matches!(moved[0], NextHopEvent::Set { id, .. } if id == new),
        "a next hop is set before it is used"
    );

    bed.route = |_| via("192.0.2.2");
    bed.input(TableInput::RoutesChanged);
    bed.run(Duration::from_secs(1));
    assert_eq!(bed.take().last(), Some(&NextHopEvent::Removed { id: FIRST }));
}

#[test]
fn requests_in_flight_are_bounded_and_paced() {
    let mut bed = Bed::new(|_| via("192.0.2.1"), Some(GATEWAY_MAC));
    for n in 0..4 * BURST {
        bed.table.handle_input(bed.now, TableInput::Watch(Ipv4Addr::from(0x0a00_0000 + n).into()));
    }
    let mut in_flight = 0;
    while let Some(TableOutput::LookupRoute(_)) = bed.table.poll_output() {
        in_flight += 1;
    }
    assert_eq!(in_flight, WINDOW);
    for n in 0..WINDOW as u32 {
        let destination = Ipv4Addr::from(0x0a00_0000 + n).into();
        bed.table.handle_input(bed.now, TableInput::RouteAnswer(destination, via("192.0.2.1")));
    }
    bed.drain();
    assert!(bed.lookups < BURST as usize);
    bed.run(PACE);
    assert!(bed.lookups > BURST as usize && bed.lookups < 2 * BURST as usize, "{}", bed.lookups);
}

#[test]
fn what_cannot_be_resolved_says_why() {
    let mut bed = Bed::new(|_| Err(Unresolvable::Local), None);
    let destination = ip("127.0.0.1");
    bed.input(TableInput::Watch(destination));
    assert_eq!(
        bed.take(),
        [NextHopEvent::Assign { destination, hop: Err(Unresolvable::Local), direct: false }]
    );
    bed.input(TableInput::Watch(destination));
    assert_eq!(
        bed.take(),
        [NextHopEvent::Assign { destination, hop: Err(Unresolvable::Local), direct: false }]
    );

    bed.input(TableInput::LinkChanged(IfIndex(3), TableLink { mac: None, ..ethernet() }));
    bed.route = |_| Ok(Route { ifindex: IfIndex(3), neighbour: ip("192.0.2.1"), mtu: 0 });
    bed.run(Duration::from_secs(1));
    assert_eq!(
        bed.take(),
        [NextHopEvent::Assign { destination, hop: Err(Unresolvable::NoLinkLayer), direct: false }]
    );
    bed.input(TableInput::LinkRemoved(IfIndex(3)));
    bed.run(Duration::from_secs(1));
    assert_eq!(
        bed.take(),
        [NextHopEvent::Assign { destination, hop: Err(Unresolvable::NoLink), direct: false }]
    );
}

#[test]
fn the_last_unwatch_removes_the_next_hop_and_its_number_is_given_again() {
    let mut bed = Bed::new(via_itself, Some(GATEWAY_MAC));
    bed.input(TableInput::Watch(ip("192.0.2.5")));
    bed.input(TableInput::Watch(ip("192.0.2.5")));
    bed.take();
    bed.input(TableInput::Unwatch(ip("192.0.2.5")));
    assert_eq!(bed.take(), []);
    bed.input(TableInput::Unwatch(ip("192.0.2.5")));
    assert_eq!(bed.take(), [NextHopEvent::Removed { id: FIRST }]);
    bed.input(TableInput::Unwatch(ip("192.0.2.5")));
    assert_eq!(bed.table.poll_timeout(), None, "nothing is left to do");
    bed.input(TableInput::Watch(ip("192.0.2.6")));
    assert!(matches!(bed.take()[0], NextHopEvent::Set { id: FIRST, .. }));
}

fn via_itself(destination: IpAddr) -> Result<Route, Unresolvable> {
    Ok(Route { ifindex: ETH, neighbour: destination, mtu: 0 })
}

#[test]
fn a_changed_link_changes_its_next_hops_and_the_route_mtu_bounds_theirs() {
    let mut bed = Bed::new(
        |destination| {
            let mtu = if destination == ip("192.0.2.7") { 1400 } else { 0 };
            Ok(Route { ifindex: ETH, neighbour: ip("192.0.2.1"), mtu })
        },
        Some(GATEWAY_MAC),
    );
    bed.input(TableInput::Watch(ip("192.0.2.5")));
    bed.input(TableInput::Watch(ip("192.0.2.7")));
    bed.take();
    bed.input(TableInput::LinkChanged(ETH, TableLink { mac: Some(OTHER_MAC), mtu: 1450, ..ethernet() }));
    let changed = NextHop { source_mac: OTHER_MAC, mtu: 1450, ..hop(Some(GATEWAY_MAC)) };
    assert_eq!(
        bed.take(),
        [
            NextHopEvent::Set { id: FIRST, hop: changed },
            NextHopEvent::Set { id: NextHopId(1), hop: NextHop { mtu: 1400, ..changed } },
        ]
    );
}

#[test]
fn after_lost_notifications_everything_is_read_anew() {
    let mut bed = Bed::new(|_| via("192.0.2.1"), Some(GATEWAY_MAC));
    bed.input(TableInput::Watch(ip("198.51.100.7")));
    bed.take();
    bed.mac = Some(OTHER_MAC);
    bed.route = |_| Err(Unresolvable::NoRoute);
    bed.input(TableInput::Lost);
    assert_eq!(bed.take(), [NextHopEvent::Set { id: FIRST, hop: hop(Some(OTHER_MAC)) }]);
    bed.run(Duration::from_secs(1));
    assert_eq!(
        bed.take(),
        [
            NextHopEvent::Assign {
                destination: ip("198.51.100.7"),
                hop: Err(Unresolvable::NoRoute),
                direct: false
            },
            NextHopEvent::Removed { id: FIRST },
        ]
    );
}

/// A customer's VLAN on the provider's, on the Ethernet device, and a PPPoE session beside them.
const OUTER: IfIndex = IfIndex(3);
const INNER: IfIndex = IfIndex(4);
const PPP: IfIndex = IfIndex(5);

fn stacked() -> Vec<(IfIndex, TableLink)> {
    let vlan = |on, protocol, id| Some(Vlan { on, tag: Tag { protocol, id } });
    vec![
        (ETH, ethernet()),
        (OUTER, TableLink { vlan: vlan(ETH, TagProtocol::Dot1ad, 200), ..ethernet() }),
        (INNER, TableLink { mtu: 1496, vlan: vlan(OUTER, TagProtocol::Dot1q, 5), ..ethernet() }),
        (PPP, TableLink { mac: None, mtu: 1492, bare: true, is_ppp: true, ..ethernet() }),
    ]
}

#[test]
fn a_next_hop_behind_two_vlans_leaves_by_the_device_with_both_tags() {
    let mut bed = Bed::new(|_| Ok(Route { ifindex: INNER, neighbour: ip("10.5.0.2"), mtu: 0 }), None);
    bed.input(TableInput::Links(stacked()));
    bed.input(TableInput::Watch(ip("10.5.0.2")));
    let tag = |protocol, id| Some(Tag { protocol, id });
    let tags = [tag(TagProtocol::Dot1ad, 200), tag(TagProtocol::Dot1q, 5)];
    let hop = NextHop { link: Link { tags, session: None }, mtu: 1496, ..hop(None) };
    let assigned = NextHopEvent::Assign { destination: ip("10.5.0.2"), hop: Ok(FIRST), direct: true };
    assert_eq!(bed.take(), [NextHopEvent::Set { id: FIRST, hop }, assigned]);
    let neighbour = Neighbour { ifindex: INNER, address: ip("10.5.0.2") };
    bed.input(TableInput::NeighbourChanged(neighbour, Some(GATEWAY_MAC)));
    let hop = NextHop { destination_mac: Some(GATEWAY_MAC), ..hop };
    assert_eq!(bed.take(), [NextHopEvent::Set { id: FIRST, hop }]);
}

#[test]
fn a_session_is_a_way_for_every_destination_as_long_as_it_lasts() {
    let mut bed = Bed::new(|address| Ok(Route { ifindex: PPP, neighbour: address, mtu: 0 }), None);
    bed.input(TableInput::Links(stacked()));
    let destinations = [ip("10.5.0.2"), ip("10.5.0.3")];
    bed.input(TableInput::Watch(destinations[0]));
    let lost =
        |destination| NextHopEvent::Assign { destination, hop: Err(Unresolvable::Unplaced), direct: false };
    // The link has just come up: nobody has said how packets leave by it.
    assert_eq!(bed.take(), [lost(destinations[0])]);

    let link = Link { tags: [None, None], session: Some(7) };
    let session = |session| Interface {
        ifindex: PPP,
        device: ETH,
        link: Link { session: Some(session), ..link },
        peer: Some(GATEWAY_MAC),
        mac: MAC,
        mtu: 1492,
        accepts_sources: false,
        shared: false,
        engine: EngineWish::Any,
        xdp_members: None,
    };
    bed.input(TableInput::Sessions([(PPP, Some(session(7)))].into()));
    bed.run(ROUTE_SETTLE);
    bed.input(TableInput::Watch(destinations[1]));
    let way = |session| NextHop {
        link: Link { session: Some(session), ..link },
        mtu: 1492,
        ..hop(Some(GATEWAY_MAC))
    };
    let assigned = |destination| NextHopEvent::Assign { destination, hop: Ok(FIRST), direct: false };
    assert_eq!(
        bed.take(),
        [NextHopEvent::Set { id: FIRST, hop: way(7) }, assigned(destinations[0]), assigned(destinations[1])]
    );
    // Notifications that were lost do not cost it its peer, and nobody is looked up.
    bed.input(TableInput::Lost);
    bed.input(TableInput::Links(stacked()));
    bed.run(Duration::from_secs(60));
    assert_eq!((bed.take(), bed.uses.len()), (vec![], 0));

    bed.input(TableInput::Sessions([(PPP, Some(session(8)))].into()));
    bed.run(ROUTE_SETTLE);
    assert_eq!(bed.take(), [NextHopEvent::Set { id: FIRST, hop: way(8) }]);
    // Of two sessions the kernel does not tell which is whose.
    bed.input(TableInput::Sessions([(PPP, None)].into()));
    bed.run(ROUTE_SETTLE);
    let as_it_is = NextHop {
        ifindex: PPP,
        link: Link::PLAIN,
        source_mac: Mac::default(),
        destination_mac: Some(Mac::default()),
        mtu: 1492,
    };
    assert_eq!(bed.take(), [NextHopEvent::Set { id: FIRST, hop: as_it_is }]);
    bed.input(TableInput::Sessions(SessionWays::new()));
    bed.run(ROUTE_SETTLE);
    assert_eq!(
        bed.take(),
        [lost(destinations[0]), lost(destinations[1]), NextHopEvent::Removed { id: FIRST }]
    );
}

#[test]
fn a_device_without_a_link_layer_header_is_one_way_for_every_destination() {
    let mut bed = Bed::new(|address| Ok(Route { ifindex: PPP, neighbour: address, mtu: 0 }), None);
    let tun = |mtu| (PPP, TableLink { mac: None, mtu, bare: true, ..ethernet() });
    bed.input(TableInput::Links(vec![tun(1420)]));
    let destinations = [ip("10.5.0.2"), ip("fd05::3")];
    let way = |mtu| NextHop {
        ifindex: PPP,
        link: Link::PLAIN,
        source_mac: Mac::default(),
        destination_mac: Some(Mac::default()),
        mtu,
    };
    let assigned = |destination| NextHopEvent::Assign { destination, hop: Ok(FIRST), direct: false };
    destinations.into_iter().for_each(|destination| bed.input(TableInput::Watch(destination)));
    assert_eq!(
        bed.take(),
        [
            NextHopEvent::Set { id: FIRST, hop: way(1420) },
            assigned(destinations[0]),
            assigned(destinations[1])
        ]
    );
    // Nobody is looked up, and what is said of neighbours there changes nothing.
    let neighbour = Neighbour { ifindex: PPP, address: destinations[0] };
    bed.input(TableInput::NeighbourChanged(neighbour, Some(GATEWAY_MAC)));
    bed.input(TableInput::NeighbourChanged(neighbour, None));
    bed.run(Duration::from_secs(60));
    assert_eq!((bed.take(), bed.uses.len()), (vec![], 0));

    let (ifindex, link) = tun(1280);
    bed.input(TableInput::LinkChanged(ifindex, link));
    assert_eq!(bed.take(), [NextHopEvent::Set { id: FIRST, hop: way(1280) }]);
    bed.input(TableInput::LinkRemoved(PPP));
    bed.run(ROUTE_SETTLE);
    let lost =
        |destination| NextHopEvent::Assign { destination, hop: Err(Unresolvable::NoLink), direct: false };
    assert_eq!(
        bed.take(),
        [lost(destinations[0]), lost(destinations[1]), NextHopEvent::Removed { id: FIRST }]
    );
}

//! The tables, to the character.

use std::{collections::BTreeMap, net::IpAddr};

use vmcast_api::{
    AdminLink, AdminLinkState, CacheEntries, CacheEntry, ClockStep, Direction, EndpointProof, Engine, Filter,
    FilterMode, Group, GroupState, Groups, Interface, Interfaces, Member, Members, NextHop, NextHopState,
    Node, Nodes, Place, Priority, ProofState, Querier, RankedNode, Role, Stats, Status, StreamStats, Taken,
    Tunnel, TunnelEnd, TunnelKind, Tunnels, Upstream, UpstreamState,
};

/// Fails with both texts in full, and checks that the table fits a terminal.
#[track_caller]
fn assert_shown(shown: &str, expected: &str) {
    assert_eq!(shown, expected, "\n--- shown\n{shown}--- expected\n{expected}");
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "wider than 100 columns");
    assert!(shown.lines().all(|line| line == line.trim_end()), "spaces at the end of a line");
    assert!(shown.ends_with('\n'));
}

fn tunnel_to(last: u8, port: u16) -> Place {
    Place::Tunnel {
        id: 1,
        name: None,
        local: ([198, 51, 100, 1], 2268).into(),
        remote: ([203, 0, 113, last], port).into(),
    }
}

fn group(last: u8, source: Option<IpAddr>, rpf: Option<Place>, state: GroupState) -> Group {
    Group {
        group: [232, 1, 1, last].into(),
        source,
        rpf,
        members: 3,
        packets: 123_456,
        bytes: 162_000_000,
        drops: BTreeMap::new(),
        bits_per_second: Some(8_000_000),
        last_packet_ms: Some(12_000),
        state,
        priority: None,
        refused: None,
        taken: None,
    }
}

#[test]
fn groups_are_shown() {
    let source = Some([192, 0, 2, 9].into());
    let groups = vec![
        group(1, source, Some(tunnel_to(1, 2268)), GroupState::Forwarding),
        group(2, None, None, GroupState::Silent),
        Group {
            packets: 98_765_432_100,
            ..group(3, source, Some(tunnel_to(2, 40_000)), GroupState::NoMember)
        },
        Group {
            packets: 0,
            bits_per_second: None,
            last_packet_ms: None,
            ..group(4, source, Some(Place::Interface { name: "eth0".into() }), GroupState::Waiting)
        },
    ];
    assert_shown(
        &super::groups(&Groups { next: None, groups }),
        "\
         GROUP      SOURCE     FROM               MEMBERS  PACKETS         RATE  STATE\n\
         232.1.1.1  192.0.2.9  203.0.113.1              3   123456  8.00 Mbit/s  forwarding\n\
         232.1.1.2  *          any                      3   123456  8.00 Mbit/s  silent 12s\n\
         232.1.1.3  192.0.2.9  203.0.113.2:40000        3   98.8 G  8.00 Mbit/s  no member\n\
         232.1.1.4  192.0.2.9  eth0                     3        0            -  waiting\n",
    );
}

#[test]
fn what_was_dropped_is_shown_where_there_is_some() {
    let drops = BTreeMap::from([("oversize".to_owned(), 2), ("wrong_input".to_owned(), 40)]);
    let dropped = Group { drops, ..group(1, Some([192, 0, 2, 9].into()), None, GroupState::Forwarding) };
    let groups = Groups { next: None, groups: vec![dropped, group(2, None, None, GroupState::Silent)] };
    assert_shown(
        &super::groups(&groups),
        "\
         GROUP      SOURCE     FROM  MEMBERS  PACKETS  DROPPED         RATE  STATE\n\
         232.1.1.1  192.0.2.9  any         3   123456       42  8.00 Mbit/s  forwarding\n\
         232.1.1.2  *          any         3   123456        0  8.00 Mbit/s  silent 12s\n",
    );
    assert_shown(
        &super::group(&groups),
        "\
         group       232.1.1.1\n\
         source      192.0.2.9\n\
         from        any\n\
         state       forwarding\n\
         members     3\n\
         packets     123456\n\
         bytes       162 MB\n\
         rate        8.00 Mbit/s\n\
         last packet 12s ago\n\
         dropped     oversize 2\n\
         \x20           wrong_input 40\n\
         \n\
         group       232.1.1.2\n\
         source      *\n\
         from        any\n\
         state       silent 12s\n\
         members     3\n\
         packets     123456\n\
         bytes       162 MB\n\
         rate        8.00 Mbit/s\n\
         last packet 12s ago\n\
         dropped     none\n",
    );
}

#[test]
fn where_packets_are_taken_in_is_shown_with_the_reason() {
    let of = |last, taken| Group { taken, ..group(last, None, None, GroupState::Forwarding) };
    let reason = "on eth0 an application of this host listens to the group".to_owned();
    let groups = vec![
        of(1, Some(Taken { at: "tc".into(), reason: Some(reason) })),
        of(2, Some(Taken { at: "xdp".into(), reason: None })),
    ];
    let text = super::group(&Groups { next: None, groups });
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("taken in")).collect();
    assert_eq!(
        lines,
        ["taken in    tc: on eth0 an application of this host listens to the group", "taken in    xdp",]
    );
}

// proves E6: the operator sees what packets are marked with.
#[test]
fn priorities_are_shown_where_there_are_some() {
    let priority =
        Priority { dscp: Some(34), pcp: 4, skb_priority: Some(0x1_0010), queue: Some(3), at_tc: true };
    let numbers = Priority { dscp: Some(33), skb_priority: Some(6), ..Priority::default() };
    let of = |last, priority| Group { priority, ..group(last, None, None, GroupState::Forwarding) };
    let groups = vec![of(1, Some(priority)), of(2, Some(numbers)), of(3, None)];
    assert_eq!(
        super::groups(&Groups { next: None, groups }),
        "\
         GROUP      SOURCE  FROM  MEMBERS  PACKETS         RATE  STATE       PRIORITY\n\
         232.1.1.1  *       any         3   123456  8.00 Mbit/s  forwarding  af41, pcp 4, class 1:10, queue 3, at TC\n\
         232.1.1.2  *       any         3   123456  8.00 Mbit/s  forwarding  dscp 33, priority 6\n\
         232.1.1.3  *       any         3   123456  8.00 Mbit/s  forwarding  -\n",
    );
}

#[test]
fn the_longest_addresses_of_version_4_fit_the_terminal() {
    let wide = Group {
        group: [239, 255, 255, 249].into(),
        source: Some([198, 151, 100, 199].into()),
        rpf: Some(Place::Tunnel {
            id: 99_999,
            name: None,
            local: ([198, 151, 100, 101], 2268).into(),
            remote: ([203, 100, 113, 200], 2268).into(),
        }),
        members: 100_000,
        packets: 9_999_999,
        bytes: 1,
        drops: BTreeMap::new(),
        bits_per_second: Some(888_000_000),
        last_packet_ms: Some(3_599_000),
        state: GroupState::Silent,
        priority: None,
        refused: None,
        taken: None,
    };
    let shown = super::groups(&Groups { next: None, groups: vec![wide] });
    assert!(shown.lines().all(|line| line.len() <= 100), "{shown}");
}

fn member(output: Place, filter: Filter, packets: u64) -> Member {
    Member {
        group: [232, 1, 1, 1].into(),
        source: Some([192, 0, 2, 9].into()),
        output,
        filter,
        configured: false,
        waits: false,
        refused: None,
        age_ms: 65_000,
        packets,
        bytes: packets * 1344,
        dropped: packets / 1000,
        tracked_hosts: 0,
        hosts: vec![],
    }
}

#[test]
fn hosts_that_are_told_apart_are_counted_with_their_interface() {
    let any = Filter { mode: FilterMode::Exclude, sources: vec![] };
    let place = Place::Interface { name: "eth1".into() };
    let members = vec![Member { tracked_hosts: 3, ..member(place, any, 1) }];
    let shown = super::members(&Members { next: None, members }, None);
    assert!(shown.contains(" eth1 (3 hosts) "), "{shown}");
}

#[test]
fn members_are_shown() {
    let include = Filter { mode: FilterMode::Include, sources: vec![[192, 0, 2, 9].into()] };
    let exclude = |count| Filter { mode: FilterMode::Exclude, sources: vec![[192, 0, 2, 66].into(); count] };
    let members = vec![
        member(Place::Interface { name: "eth1".into() }, include, 1),
        member(tunnel_to(7, 40_001), exclude(0), 65_000),
        Member { source: None, ..member(tunnel_to(8, 2268), exclude(2), 0) },
    ];
    assert_shown(
        &super::members(&Members { next: None, members }, None),
        "\
         GROUP      SOURCE     OUTPUT             WANTS       FOR    PACKETS    BYTES  DROPPED\n\
         232.1.1.1  192.0.2.9  eth1               include 1   1m05s        1  1.34 kB        0\n\
         232.1.1.1  192.0.2.9  203.0.113.7:40001  any source  1m05s    65000  87.4 MB       65\n\
         232.1.1.1  *          203.0.113.8        exclude 2   1m05s        0      0 B        0\n",
    );
}

#[test]
fn tunnels_are_shown() {
    let tunnel = |id, direction, port, next_hop| Tunnel {
        id,
        name: None,
        kind: TunnelKind::Amt,
        key: None,
        local: ([198, 51, 100, 1], 2268).into(),
        remote: ([203, 0, 113, 7], port).into(),
        direction,
        next_hop,
        age_ms: 3_900_000,
        groups: 2,
    };
    let hop = |mac: Option<&str>, state| {
        Some(NextHop { interface: "eth0".into(), mac: mac.map(str::to_owned), state })
    };
    let tunnels = vec![
        tunnel(1, Direction::Upstream, 2268, hop(Some("02:00:00:00:00:01"), NextHopState::Resolved)),
        tunnel(2, Direction::Member, 40_001, hop(None, NextHopState::Unresolved)),
        tunnel(10_003, Direction::Member, 40_002, None),
    ];
    assert_shown(
        &super::tunnels(&Tunnels { next: None, tunnels }),
        "\
         \x20  ID  TUNNEL        LOCAL         REMOTE             NEXT HOP                GROUPS  FOR\n\
         \x20   1  amt upstream  198.51.100.1  203.0.113.7        eth0 02:00:00:00:00:01       2  1h05m\n\
         \x20   2  amt member    198.51.100.1  203.0.113.7:40001  eth0 unresolved              2  1h05m\n\
         10003  amt member    198.51.100.1  203.0.113.7:40002  -                            2  1h05m\n",
    );
}

#[test]
fn interfaces_are_shown() {
    let querier = |address, ours| Some(Querier { address, ours, serving: ours, version: 3, groups: 4 });
    let interface = |name: &str, ifindex, up, querier| Interface {
        name: name.into(),
        ifindex,
        device: None,
        vlan: vec![],
        pppoe_session: None,
        up,
        mtu: 1500,
        mac: None,
        addresses: vec![[198, 51, 100, 1].into(), [10, 0, 0, 1].into()],
        attached: Some("xdp".into()),
        queues: None,
        egress: Some(Engine {
            label: "xdp-broadcast".into(),
            reason: "it takes frames redirected at XDP".into(),
        }),
        accepts_sources: ifindex == Some(2),
        upstream: ifindex == Some(6),
        refused: None,
        querier,
        mld_querier: None,
    };
    let at_tc = Engine { label: "tc-clone".into(), reason: "it takes no frames redirected at XDP".into() };
    let interfaces = vec![
        interface("eth0", Some(2), true, None),
        Interface {
            mld_querier: Some(Querier { address: None, ours: true, serving: true, version: 2, groups: 3 }),
            ..interface("eth1", Some(3), true, querier(None, true))
        },
        interface("eth2", Some(4), false, querier(Some([10, 0, 0, 9].into()), false)),
        interface("eth3", Some(6), true, None),
        Interface { egress: Some(at_tc), ..interface("lan0", Some(5), true, None) },
        Interface {
            refused: Some("INTERFACES is full at 5 entries, as dataplane.max_interfaces says".into()),
            attached: None,
            egress: None,
            ..interface("lan1", Some(7), true, None)
        },
        Interface {
            addresses: vec![],
            attached: None,
            egress: None,
            mtu: 0,
            ..interface("eth9", None, false, querier(None, false))
        },
    ];
    assert_shown(
        &super::interfaces(&Interfaces { interfaces }),
        "\
         INTERFACE  STATE     MTU  ADDRESS          ATTACHED  COPIES  SOURCES   IGMP         MLD      GROUPS\n\
         eth0       up       1500  198.51.100.1 +1  xdp       xdp     accepted  -            -             -\n\
         eth1       up       1500  198.51.100.1 +1  xdp       xdp     -         this v3      this v2       7\n\
         eth2       down     1500  198.51.100.1 +1  xdp       xdp     -         10.0.0.9 v3  -             4\n\
         eth3       up       1500  198.51.100.1 +1  xdp       xdp     above     -            -             -\n\
         lan0       up       1500  198.51.100.1 +1  xdp       tc      -         -            -             -\n\
         lan1       refused  1500  198.51.100.1 +1  -         -       -         -            -             -\n\
         eth9       missing     0  -                -         -       -         none         -             4\n\
         \n\
         COPIES BY      WHY                                   INTERFACES\n\
         tc-clone       it takes no frames redirected at XDP  lan0\n\
         xdp-broadcast  it takes frames redirected at XDP     eth0, eth1, eth2 +1\n\
         \n\
         refused: lan1: INTERFACES is full at 5 entries, as dataplane.max_interfaces says\n",
    );
}

#[test]
fn nodes_and_the_cache_are_shown() {
    let node = |id: &str, name: &str, role, rank, endpoints| Node {
        id: id.into(),
        name: name.into(),
        role,
        rank,
        endpoints,
        age_ms: 187_200_000,
        lease_left_ms: 21_000,
        draining: id == "7f3a",
        rtt_us: None,
        connections: 0,
        capacity: 0,
        software: String::new(),
        capabilities: vec![],
        source_prefixes: vec![],
        tunnel_ends: vec![],
        proofs: vec![],
    };
    let nodes = vec![
        node("core-1", "core-1", Role::Router, Some(0), vec![([198, 51, 100, 1], 2268).into(); 2]),
        node("7f3a", "client-7", Role::Agent, None, vec![]),
    ];
    assert_shown(
        &super::nodes(&Nodes { next: None, nodes }),
        "\
         NODE             ROLE    RANK  TUNNELS TO       REGISTERED  LEASE  STATE\n\
         core-1           router     0  198.51.100.1 +1  2d04h ago     21s  live\n\
         client-7 (7f3a)  agent      -  -                2d04h ago     21s  drained\n",
    );
    let ranked = |node: &str| RankedNode {
        node: node.into(),
        endpoint: ([198, 51, 100, 2], 2268).into(),
        hops: 3,
        rtt_us: 700,
    };
    let entry = |prefix: &str, rank, hops, rtt_us| CacheEntry {
        prefix: prefix.into(),
        rank,
        endpoint: ([198, 51, 100, 1], 2268).into(),
        reporter: "client-7".into(),
        node: "edge-1".into(),
        hops,
        rtt_us,
        others: if rtt_us.is_some() { vec![ranked("edge-2"), ranked("core-1")] } else { vec![] },
        age_ms: 65_000,
        left_ms: 3_535_000,
    };
    let entries =
        vec![entry("203.0.113.0/24", None, Some(2), Some(350)), entry("203.0.113.7/32", Some(2), None, None)];
    assert_shown(
        &super::cache(&CacheEntries { next: None, entries }),
        "\
         REQUESTERS      WHO     NEAREST  ADDRESS       HOPS      RTT  THEN            FOUND        KEPT\n\
         203.0.113.0/24  agents  edge-1   198.51.100.1     2  0.35 ms  edge-2, core-1  1m05s ago  58m55s\n\
         203.0.113.7/32  rank 2  edge-1   198.51.100.1     -        -  -               1m05s ago  58m55s\n",
    );
}

fn router_status() -> Status {
    Status {
        role: Role::Router,
        name: "edge-1".into(),
        rank: Some(1),
        version: "0.1.0".into(),
        pid: 4711,
        uptime_ms: 3_900_000,
        engine: Some(Engine {
            label: "xdp-broadcast".into(),
            reason: "every interface takes native XDP".into(),
        }),
        admin: Some(AdminLink {
            url: "http://192.0.2.2:8443".into(),
            state: AdminLinkState::Unreachable,
            age_ms: 12_000,
            others: vec!["http://192.0.2.3:8443".into(), "http://192.0.2.4:8443".into()],
            error: Some("connection refused".into()),
            endpoints: Some(vec![
                EndpointProof {
                    endpoint: ([192, 0, 2, 9], 2268).into(),
                    found: ProofState::Proved,
                    age_ms: 60_000,
                },
                EndpointProof {
                    endpoint: ([192, 0, 2, 10], 2268).into(),
                    found: ProofState::Silent,
                    age_ms: 3000,
                },
            ]),
        }),
        upstream: Some(Upstream {
            remote: Some(([198, 51, 100, 1], 2268).into()),
            name: Some("core-1".into()),
            from: "admin".into(),
            state: UpstreamState::Up,
            age_ms: 3_800_000,
            stands_in: None,
        }),
        groups: 1,
        members: 3,
        tunnels: 4,
        nodes: BTreeMap::new(),
        cache_entries: None,
        registry_stale: None,
        registry_kept: None,
        clock_step: None,
        policy_version: None,
        refused: Vec::new(),
        interfaces_refused: BTreeMap::new(),
    }
}

#[test]
fn the_status_of_each_role_is_shown() {
    assert_shown(
        &super::status(&router_status()),
        "\
         node      edge-1 (router, rank 1)\n\
         program   vmcast 0.1.0, process 4711, up for 1h05m\n\
         engine    xdp-broadcast: every interface takes native XDP\n\
         admin     http://192.0.2.2:8443, unreachable for 12s, trying again: connection refused\n\
         or        http://192.0.2.3:8443, http://192.0.2.4:8443\n\
         endpoint  192.0.2.9, proved for 1m00s\n\
         endpoint  192.0.2.10, nobody answers there for 3s; others are not given it\n\
         upstream  core-1 (198.51.100.1), up for 1h03m, from admin\n\
         carries   1 group, 3 members, 4 tunnels\n",
    );
    let reason = "interfaces is full at 4 entries, as dataplane.max_interfaces says";
    let refusing = Status {
        interfaces_refused: BTreeMap::from([("acc9".to_owned(), reason.to_owned())]),
        ..router_status()
    };
    let shown = super::status(&refusing);
    assert!(shown.ends_with(&format!("tunnels\nrefused   interface acc9: {reason}\n")), "{shown}");
    let agent = Status {
        role: Role::Agent,
        rank: None,
        engine: None,
        admin: None,
        upstream: None,
        ..router_status()
    };
    assert_shown(
        &super::status(&agent),
        "\
         node      edge-1 (agent)\n\
         program   vmcast 0.1.0, process 4711, up for 1h05m\n\
         admin     none configured\n\
         upstream  none\n\
         carries   1 group, 3 members, 4 tunnels\n",
    );
    assert_shown(
        &super::status(&Status {
            role: Role::Admin,
            nodes: BTreeMap::from([(Role::Router, 2), (Role::Agent, 1)]),
            cache_entries: Some(1),
            registry_stale: Some(true),
            registry_kept: Some(false),
            clock_step: Some(ClockStep { by_ms: -86_400_000, age_ms: 90_000 }),
            ..agent
        }),
        "\
         node      edge-1 (admin)\n\
         program   vmcast 0.1.0, process 4711, up for 1h05m\n\
         knows     2 routers, 1 agent, 1 cached answer\n\
         registry  stale: etcd does not answer, and no registration is taken\n\
         clock     set back by 1d00h, 1m30s ago; certificates and tokens go by it\n",
    );
}

#[test]
fn counters_that_are_zero_are_left_out() {
    let stats = Stats {
        engine: router_status().engine,
        drops: BTreeMap::from([
            ("ttl_expired".into(), 3),
            ("member_gone".into(), 1200),
            ("oversize".into(), 0),
        ]),
        streams: vec![StreamStats {
            group: [232, 1, 1, 1].into(),
            source: Some([192, 0, 2, 9].into()),
            packets: 123_456,
            bytes: 162_000_000,
            drops: BTreeMap::from([("ttl_expired".into(), 1_200), ("wrong_input".into(), 2)]),
            last_packet_ms: Some(40),
        }],
        control: BTreeMap::from([(
            "igmp".into(),
            BTreeMap::from([("bad_checksum".into(), 1), ("queries".into(), 0)]),
        )]),
        resident_bytes: 9_000_000,
    };
    assert_shown(
        &super::stats(&stats),
        "\
         engine    xdp-broadcast: every interface takes native XDP\n\
         memory    9.00 MB resident\n\
         \n\
         streams\n\
         \x20 GROUP      SOURCE     PACKETS   BYTES  LAST  NOT FORWARDED\n\
         \x20 232.1.1.1  192.0.2.9   123456  162 MB  40ms  ttl_expired 1200, wrong_input 2\n\
         \n\
         packets and copies not forwarded\n\
         \x20 member_gone  1200\n\
         \x20 ttl_expired     3\n\
         \n\
         control plane\n\
         \x20 igmp.bad_checksum  1\n",
    );
    assert_shown(
        &super::stats(&Stats::default()),
        "\
         memory    0 B resident\n\
         \n\
         control plane: none\n",
    );
}

#[test]
fn empty_lists_say_so_and_what_to_do() {
    for shown in [
        super::groups(&Groups::default()),
        super::members(&Members::default(), None),
        super::members(&Members::default(), Some([232, 1, 1, 1].into())),
        super::tunnels(&Tunnels::default()),
        super::interfaces(&Interfaces::default()),
        super::nodes(&Nodes::default()),
        super::cache(&CacheEntries::default()),
    ] {
        assert!(shown.starts_with("No ") || shown.starts_with("The cache is empty"), "{shown}");
        assert!(shown.ends_with(".\n") && shown.lines().all(|line| line.len() <= 100), "{shown}");
    }
}

#[test]
fn all_that_is_known_of_a_node_is_shown() {
    let at = |text: &str| text.parse::<std::net::SocketAddr>().expect("an address and a port");
    let node = Node {
        id: "core-1".into(),
        name: "core-1".into(),
        role: Role::Router,
        rank: Some(0),
        endpoints: vec![at("198.51.100.1:2268")],
        age_ms: 65_000,
        lease_left_ms: 21_000,
        draining: false,
        rtt_us: Some(350),
        connections: 3,
        capacity: 100_000,
        software: "vmcast 0.1.0".into(),
        capabilities: vec!["amt".into(), "drain".into()],
        source_prefixes: vec!["10.1.0.0/24".into(), "2001:db8::/64".into()],
        tunnel_ends: vec![
            TunnelEnd { kind: TunnelKind::Gre, endpoint: at("198.51.100.1:0") },
            TunnelEnd { kind: TunnelKind::Amt, endpoint: at("198.51.100.1:4000") },
        ],
        proofs: vec![],
    };
    assert_shown(
        &super::node(&node),
        "\
         node        core-1\n\
         name        core-1\n\
         role        router\n\
         rank        0\n\
         state       live\n\
         software    vmcast 0.1.0\n\
         tunnels to  198.51.100.1:2268\n\
         static      gre 198.51.100.1, amt 198.51.100.1:4000\n\
         sources in  10.1.0.0/24, 2001:db8::/64\n\
         abilities   amt, drain\n\
         load        3 of 100000 tunnels\n\
         round trip  0.35 ms\n\
         registered  1m05s ago\n\
         lease       21s\n",
    );
}

#[test]
fn what_the_configuration_states_is_shown_as_such() {
    let (local, remote) = (([192, 0, 2, 1], 0).into(), ([203, 0, 113, 9], 0).into());
    let tunnel = Tunnel {
        id: 268_435_456,
        name: Some("pop-west".into()),
        kind: TunnelKind::Gre,
        key: Some(7),
        local,
        remote,
        direction: Direction::Static,
        next_hop: None,
        age_ms: 3000,
        groups: 2,
    };
    let shown = super::tunnels(&Tunnels { next: None, tunnels: vec![tunnel] });
    for word in ["gre key 7 static pop-west", " 192.0.2.1 ", " 203.0.113.9 "] {
        assert!(shown.contains(word), "{word:?} is not in\n{shown}");
    }
    let member = Member {
        group: [239, 1, 1, 1].into(),
        source: None,
        output: Place::Tunnel { id: 268_435_456, name: Some("pop-west".into()), local, remote },
        filter: Filter { mode: FilterMode::Exclude, sources: vec![] },
        configured: true,
        waits: true,
        refused: Some("rule 3 of the policy forbids it".into()),
        age_ms: 3000,
        packets: 4,
        bytes: 5376,
        dropped: 0,
        tracked_hosts: 0,
        hosts: vec![],
    };
    let shown = super::members(&Members { next: None, members: vec![member] }, None);
    assert!(
        shown.contains("pop-west") && shown.contains("any source, configured, waits for room, refused"),
        "{shown}"
    );
}

#[test]
fn conversions_and_unicast_inputs_are_shown_by_their_addresses() {
    let end = |text: &str| text.parse::<std::net::SocketAddr>().expect("an address and a port");
    let to = |destination, source: Option<&str>, interface: Option<&str>, mac: Option<&str>| {
        let (interface, mac) = (interface.map(str::to_owned), mac.map(str::to_owned));
        let (destination, source) = (end(destination), source.map(end));
        let any = Filter { mode: FilterMode::Exclude, sources: vec![] };
        member(Place::Conversion { id: 3, destination, source, interface, mac }, any, 1)
    };
    let some_mac = Some("02:00:5e:00:53:01");
    let all = vec![
        to("239.9.9.9:5004", Some("10.5.0.1:5000"), Some("eth1"), None),
        to("10.5.0.11:5004", None, Some("eth2"), some_mac),
        to("10.5.0.12:5004", None, Some("eth3"), None),
        to("[2001:db8::1]:5004", None, None, None),
    ];
    let shown = super::members(&Members { next: None, members: all }, None);
    for words in [
        " eth1 as 239.9.9.9:5004 from 10.5.0.1:5000 ",
        " eth2 as 10.5.0.11:5004 ",
        " eth3 unresolved as 10.5.0.12:5004 ",
        " unresolved as [2001:db8::1]:5004 ",
    ] {
        assert!(shown.contains(words), "{words:?} is not in\n{shown}");
    }
    let unicast = |open| Some(Place::Unicast { endpoint: end("10.1.0.1:6000"), open });
    let groups = [true, false].map(|open| group(1, None, unicast(open), GroupState::Waiting));
    let shown = super::groups(&Groups { next: None, groups: groups.into() });
    assert!(shown.contains(" unicast 10.1.0.1:6000  ") && shown.contains(" unicast 10.1.0.1:6000 absent "));
}

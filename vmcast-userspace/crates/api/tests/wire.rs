//! What stands on the control socket, and what releases owe each other.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    thread,
};

use vmcast_api::{
    AdminLink, AdminLinkState, CacheEntries, CacheEntry, Client, ClientError, ClockStep, DecodeError,
    Direction, EndpointProof, Engine, ErrorReply, Filter, FilterMode, Group, GroupState, Groups, Interface,
    Interfaces, Member, MemberHost, Members, NextHop, NextHopState, Node, Nodes, Page, Place, PolicyAction,
    PolicyEffect, PolicyQuestion, PolicyRule, Priority, ProofState, Querier, RankedNode, Refused, Request,
    Response, Role, SigningOrder, Source, SourcePlace, SourceRelay, SourceRelayState, Sources, StandIn,
    Stats, Status, StreamStats, Taken, TokenOrder, Tunnel, TunnelEnd, TunnelKind, Tunnels, Upstream,
    UpstreamState, decode, encode,
};

fn requests() -> Vec<Request> {
    let page = || Page { after: Some("7".into()), limit: 20 };
    vec![
        Request::Status,
        Request::GroupList { group: None, source: None, page: page() },
        Request::GroupList {
            group: Some([232, 1, 1, 1].into()),
            source: Some([192, 0, 2, 9].into()),
            page: page(),
        },
        Request::MemberList { group: Some([232, 1, 1, 1].into()), page: page() },
        Request::MemberList { group: None, page: page() },
        Request::TunnelList { page: page() },
        Request::SourceList { page: page() },
        Request::InterfaceList,
        Request::Stats,
        Request::NodeList { page: page() },
        Request::NodeDrain { node: "vmr".into(), drain: true },
        Request::TokenCreate {
            order: TokenOrder { role: Role::Agent, ttl_seconds: 3600, uses: 2, name: None, urls: vec![] },
        },
        Request::TokenList { page: page() },
        Request::TokenRevoke { id: "t".into() },
        Request::NodeRevoke { node: "vmr".into() },
        Request::NodeSign {
            order: SigningOrder {
                node: "client7".into(),
                role: Role::Agent,
                certificate_request: "MIGA".into(),
                ttl_seconds: Some(3600),
            },
        },
        Request::PolicyList,
        Request::PolicyAdd { rule: policy_rule(), before: Some(3) },
        Request::PolicyRemove { id: 7 },
        Request::PolicyDefault { effect: PolicyEffect::Deny },
        Request::PolicyTest {
            question: PolicyQuestion {
                action: PolicyAction::Receive,
                who: [198, 51, 100, 9].into(),
                group: [232, 1, 1, 1].into(),
                source: None,
            },
        },
        Request::CacheList { page: page() },
    ]
}

fn policy_rule() -> PolicyRule {
    PolicyRule {
        id: 7,
        effect: PolicyEffect::Allow,
        action: PolicyAction::Receive,
        node: Some("client1".into()),
        shared_with: vec!["client2".into()],
        who: Some("198.51.100.0/24".into()),
        groups: Some("232.0.0.0/8".into()),
        source: Some("192.0.2.9/32".into()),
        max_groups: Some(4),
        max_bits_per_second: Some(8_000_000),
        stream_bits_per_second: Some(2_000_000),
    }
}

fn tunnel_place() -> Place {
    Place::Tunnel {
        id: 4,
        name: None,
        local: ([192, 0, 2, 1], 2268).into(),
        remote: ([198, 51, 100, 9], 40001).into(),
    }
}

fn group() -> Group {
    Group {
        group: [232, 1, 1, 1].into(),
        source: Some([192, 0, 2, 9].into()),
        rpf: Some(tunnel_place()),
        members: 3,
        packets: u64::MAX,
        bytes: 1,
        drops: [("oversize".into(), 2), ("wrong_input".into(), u64::MAX)].into(),
        bits_per_second: Some(8_000_000),
        last_packet_ms: Some(2),
        state: GroupState::Forwarding,
        priority: Some(Priority { dscp: Some(46), pcp: 5, skb_priority: Some(6), queue: None, at_tc: true }),
        refused: Some("rule 7 of the policy forbids it".into()),
        taken: Some(Taken { at: "tc".into(), reason: Some("on eth0 an application listens".into()) }),
    }
}

fn responses() -> Vec<Response> {
    let engine = Engine { label: "xdp-broadcast".into(), reason: "every interface takes native XDP".into() };
    vec![
        Response::Status(Status {
            role: Role::Router,
            name: "edge-1".into(),
            rank: Some(1),
            version: "0.1.0".into(),
            pid: 77,
            uptime_ms: 1,
            engine: Some(engine.clone()),
            admin: Some(AdminLink {
                url: "http://192.0.2.2:8443".into(),
                state: AdminLinkState::Unreachable,
                age_ms: 9,
                others: vec!["http://192.0.2.3:8443".into()],
                error: Some("connection refused".into()),
                endpoints: Some(vec![EndpointProof {
                    endpoint: ([192, 0, 2, 1], 2268).into(),
                    found: ProofState::Silent,
                    age_ms: 4,
                }]),
            }),
            upstream: Some(Upstream {
                remote: Some(([192, 0, 2, 1], 2268).into()),
                name: None,
                from: "admin".into(),
                state: UpstreamState::Up,
                age_ms: 5,
                stands_in: Some(StandIn::Kept),
            }),
            groups: 1,
            members: 2,
            tunnels: 3,
            nodes: [(Role::Agent, 4)].into(),
            cache_entries: Some(5),
            registry_stale: Some(false),
            registry_kept: Some(true),
            clock_step: Some(ClockStep { by_ms: -90_000, age_ms: 7 }),
            policy_version: Some(7),
            refused: vec![Refused {
                group: [232, 1, 1, 1].into(),
                who: Some([198, 51, 100, 9].into()),
                reason: "rule 7 of the policy forbids it".into(),
            }],
            interfaces_refused: [("acc9".into(), "interfaces is full at 3 entries".into())].into(),
        }),
        Response::Groups(Groups { next: None, groups: vec![group()] }),
        Response::Members(Members {
            next: None,
            members: vec![Member {
                group: [239, 1, 1, 1].into(),
                source: None,
                output: Place::Interface { name: "eth1".into() },
                filter: Filter { mode: FilterMode::Exclude, sources: vec![[192, 0, 2, 66].into()] },
                configured: true,
                waits: true,
                refused: Some("rule 7 of the policy forbids it".into()),
                age_ms: 3,
                packets: 4,
                bytes: 5,
                dropped: 6,
                tracked_hosts: 2,
                hosts: vec![MemberHost {
                    address: [10, 0, 0, 7].into(),
                    mac: Some("02:00:00:00:00:07".into()),
                    filter: Filter { mode: FilterMode::Exclude, sources: vec![] },
                    expires_ms: 260_000,
                }],
            }],
        }),
        Response::Tunnels(Tunnels {
            next: None,
            tunnels: vec![Tunnel {
                id: 4,
                name: None,
                kind: TunnelKind::Amt,
                key: None,
                local: ([192, 0, 2, 1], 2268).into(),
                remote: ([198, 51, 100, 9], 40001).into(),
                direction: Direction::Member,
                next_hop: Some(NextHop {
                    interface: "eth0".into(),
                    mac: None,
                    state: NextHopState::Unresolved,
                }),
                age_ms: 1,
                groups: 2,
            }],
        }),
        Response::Sources(Sources {
            next: None,
            sources: vec![Source {
                source: [192, 0, 2, 9].into(),
                place: SourcePlace::Upstream,
                reason: Some("no-answer".into()),
                tunnel: Some(7),
                flows: true,
                asking: false,
                relays: vec![SourceRelay {
                    precedence: 10,
                    discovery_optional: true,
                    remote: ([198, 51, 100, 9], 2268).into(),
                    name: Some("relay.example.".into()),
                    state: SourceRelayState::HeldDown,
                    held_ms: Some(9),
                }],
            }],
        }),
        Response::Interfaces(Interfaces {
            interfaces: vec![Interface {
                name: "eth1".into(),
                ifindex: Some(3),
                device: Some("eth1".into()),
                vlan: vec!["802.1ad:200".into(), "5".into()],
                pppoe_session: Some(7),
                up: true,
                mtu: 1500,
                mac: Some("02:00:00:00:00:01".into()),
                addresses: vec![[10, 0, 0, 1].into()],
                attached: Some("xdp-native".into()),
                queues: Some(true),
                egress: Some(engine.clone()),
                accepts_sources: false,
                upstream: false,
                refused: Some("interfaces is full at 3 entries".into()),
                querier: Some(Querier { address: None, ours: true, serving: true, version: 3, groups: 0 }),
                mld_querier: Some(Querier {
                    address: None,
                    ours: false,
                    serving: false,
                    version: 2,
                    groups: 1,
                }),
            }],
        }),
        Response::Stats(Stats {
            engine: Some(engine),
            drops: BTreeMap::from([("ttl_expired".into(), 3)]),
            streams: vec![StreamStats {
                group: [232, 1, 1, 1].into(),
                source: None,
                packets: 1,
                bytes: 2,
                drops: BTreeMap::from([("wrong_input".into(), 3)]),
                last_packet_ms: Some(4),
            }],
            control: BTreeMap::from([("igmp".into(), BTreeMap::from([("bad_checksum".into(), 1)]))]),
            resident_bytes: 9_000_000,
        }),
        Response::Nodes(Nodes {
            next: None,
            nodes: vec![Node {
                id: "edge-1".into(),
                name: "edge-1".into(),
                role: Role::Router,
                rank: Some(1),
                endpoints: vec![([192, 0, 2, 1], 2268).into()],
                age_ms: 1,
                lease_left_ms: 2,
                draining: true,
                rtt_us: Some(900),
                connections: 3,
                capacity: 10,
                software: "vmcast 1".into(),
                capabilities: vec!["amt".into()],
                source_prefixes: vec!["10.1.0.0/16".into()],
                tunnel_ends: vec![TunnelEnd { kind: TunnelKind::Gre, endpoint: ([192, 0, 2, 1], 0).into() }],
                proofs: vec![EndpointProof {
                    endpoint: ([192, 0, 2, 1], 2268).into(),
                    found: ProofState::Foreign,
                    age_ms: 4,
                }],
            }],
        }),
        Response::Cache(CacheEntries {
            next: None,
            entries: vec![CacheEntry {
                prefix: "192.0.2.0/24".into(),
                rank: None,
                endpoint: ([192, 0, 2, 1], 2268).into(),
                reporter: "client-7".into(),
                node: "edge-1".into(),
                hops: Some(2),
                rtt_us: Some(350),
                others: vec![RankedNode {
                    node: "edge-2".into(),
                    endpoint: ([192, 0, 2, 2], 2268).into(),
                    hops: 3,
                    rtt_us: 700,
                }],
                age_ms: 1,
                left_ms: 2,
            }],
        }),
        Response::Error(ErrorReply { error: "no".into(), hint: Some("try".into()) }),
    ]
}

#[test]
fn every_request_and_response_is_one_line_and_reads_back_the_same() {
    for request in requests() {
        let line = encode(&request);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "{request:?}");
        assert_eq!(decode::<Request>(&line).unwrap(), request);
    }
    for response in responses() {
        let line = encode(&response);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "{response:?}");
        assert_eq!(decode::<Response>(&line).unwrap(), response);
    }
}

#[test]
fn the_lines_of_version_1_stay_as_they_are() {
    let line = |request: &Request| String::from_utf8(encode(request)).unwrap();
    assert_eq!(line(&Request::Status), "{\"v\":1,\"request\":\"status\"}\n");
    assert_eq!(
        line(&Request::MemberList {
            group: Some([232, 1, 1, 1].into()),
            page: Page { after: Some("x".into()), limit: 5 }
        }),
        "{\"v\":1,\"request\":\"member-list\",\"group\":\"232.1.1.1\",\"after\":\"x\",\"limit\":5}\n"
    );
    for request in requests() {
        assert!(line(&request).contains(&format!("\"request\":\"{}\"", request.name())));
    }
    let groups = Response::Groups(Groups {
        next: None,
        groups: vec![Group { rpf: None, priority: None, refused: None, taken: None, ..group() }],
    });
    assert_eq!(
        String::from_utf8(encode(&groups)).unwrap(),
        "{\"v\":1,\"response\":\"groups\",\"groups\":[{\"group\":\"232.1.1.1\",\"source\":\"192.0.2.9\",\
         \"rpf\":null,\"members\":3,\"packets\":18446744073709551615,\"bytes\":1,\
         \"drops\":{\"oversize\":2,\"wrong_input\":18446744073709551615},\"bits_per_second\":8000000,\
         \"last_packet_ms\":2,\"state\":\"forwarding\"}]}\n"
    );
}

#[test]
fn addresses_of_conversions_and_unicast_inputs_are_on_the_wire() {
    let way = Place::Conversion {
        id: 3,
        destination: ([10, 5, 0, 11], 5004).into(),
        source: None,
        interface: None,
        mac: None,
    };
    let groups = [way, Place::Unicast { endpoint: ([10, 1, 0, 1], 6000).into(), open: true }]
        .map(|place| Group { rpf: Some(place), ..group() });
    let response = Response::Groups(Groups { next: None, groups: groups.into() });
    let text = String::from_utf8(encode(&response)).unwrap();
    for place in [
        "{\"kind\":\"conversion\",\"id\":3,\"destination\":\"10.5.0.11:5004\",\"interface\":null}",
        "{\"kind\":\"unicast\",\"endpoint\":\"10.1.0.1:6000\",\"open\":true}",
    ] {
        assert!(text.contains(place), "{place} is not in {text}");
    }
    assert_eq!(decode::<Response>(text.as_bytes()).unwrap(), response);
}

#[test]
fn a_request_without_its_page_asks_for_the_first_one() {
    let request = decode::<Request>(br#"{"v":1,"request":"group-list"}"#).unwrap();
    assert_eq!(request, Request::GroupList { group: None, source: None, page: Page::default() });
}

#[test]
fn a_newer_peer_is_understood_as_far_as_its_content_is_known() {
    let request = decode::<Request>(br#"{"v":9,"request":"status","trace":true}"#).unwrap();
    assert_eq!(request, Request::Status);
    let line =
        br#"{"v":9,"response":"groups","colour":"red","groups":[{"group":"232.1.1.1","members":1,"packets":2,
        "bytes":3,"state":"teleporting","rpf":{"kind":"quic","cid":"ab"},"priority":{"dscp":46}}]}"#;
    let Response::Groups(groups) = decode(line).unwrap() else { panic!("another response") };
    assert_eq!(groups.groups[0].state, GroupState::Unknown);
    assert_eq!(groups.groups[0].rpf, Some(Place::Unknown));
    assert_eq!(groups.groups[0].source, None);
    assert_eq!(groups.groups[0].drops, BTreeMap::new());
}

#[test]
fn a_question_only_a_newer_version_knows_is_refused_by_its_version() {
    let error = decode::<Request>(br#"{"v":9,"request":"levitate"}"#).unwrap_err();
    assert!(matches!(error, DecodeError::Version { theirs: 9, .. }), "{error}");
    let error = decode::<Request>(br#"{"v":1,"request":"levitate"}"#).unwrap_err();
    assert!(matches!(error, DecodeError::Json(_)), "{error}");
}

#[test]
fn garbage_is_an_error_at_every_length() {
    for request in requests() {
        let line = encode(&request);
        for length in 0..line.len() - 1 {
            assert!(decode::<Request>(&line[..length]).is_err(), "{length} bytes of {request:?}");
        }
    }
    for garbage in
        [&b"\xff\xfe"[..], b"[]", b"null", b"{}", b"{\"v\":\"1\",\"request\":\"status\"}", b"{\"v\":-1}"]
    {
        assert!(decode::<Request>(garbage).is_err());
    }
}

/// A daemon that gives these answers, one to each line it gets, and returns the lines.
fn daemon(answers: Vec<Vec<u8>>) -> (tempfile::TempDir, std::path::PathBuf, thread::JoinHandle<Vec<String>>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("daemon.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut asked = Vec::new();
        for answer in answers {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            asked.push(line);
            reader.get_mut().write_all(&answer).unwrap();
        }
        asked
    });
    (dir, path, thread)
}

fn page_of_groups(count: usize, next: Option<&str>) -> Vec<u8> {
    let next = next.map(str::to_owned);
    encode(&Response::Groups(Groups { next, groups: (0..count).map(|_| group()).collect() }))
}

#[test]
fn a_client_collects_a_long_list_page_by_page() {
    let (_dir, path, thread) = daemon(vec![page_of_groups(1000, Some("here")), page_of_groups(500, None)]);
    let groups = Client::connect(&path).unwrap().groups(None, None).unwrap();
    assert_eq!((groups.next, groups.groups.len()), (None, 1500));
    let asked = thread.join().unwrap();
    assert!(!asked[0].contains("after") && asked[1].contains("\"after\":\"here\""), "{asked:?}");
}

#[test]
fn a_client_ends_when_a_list_shrinks_under_it() {
    let (_dir, path, thread) = daemon(vec![page_of_groups(1000, Some("a")), page_of_groups(0, Some("a"))]);
    assert_eq!(Client::connect(&path).unwrap().groups(None, None).unwrap().groups.len(), 1000);
    assert_eq!(thread.join().unwrap().len(), 2);
}

#[test]
fn a_client_tells_apart_nobody_there_a_refusal_a_broken_line_and_the_wrong_answer() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = Client::connect(&dir.path().join("none.sock")).unwrap_err();
    assert!(matches!(nobody, ClientError::Unreachable { .. }), "{nobody}");

    let (_dir, path, thread) = daemon(vec![encode(&Response::error("not now"))]);
    let refused = Client::connect(&path).unwrap().status().unwrap_err();
    assert!(matches!(&refused, ClientError::Refused(reply) if reply.error == "not now"), "{refused}");
    thread.join().unwrap();

    let (_dir, path, thread) = daemon(vec![b"{\"v\":1,\"response\":\"sta".to_vec()]);
    let broken = Client::connect(&path).unwrap().status().unwrap_err();
    assert!(matches!(broken, ClientError::Decode(_)), "{broken}");
    thread.join().unwrap();

    let (_dir, path, thread) = daemon(vec![vec![]]);
    let gone = Client::connect(&path).unwrap().status().unwrap_err();
    assert!(matches!(gone, ClientError::Lost { .. }), "{gone}");
    thread.join().unwrap();

    let (_dir, path, thread) = daemon(vec![encode(&Response::Stats(Stats::default()))]);
    let other = Client::connect(&path).unwrap().status().unwrap_err();
    assert!(matches!(other, ClientError::Mismatch("status")), "{other}");
    thread.join().unwrap();
}

#[test]
fn a_role_names_the_question_it_does_not_answer() {
    let Response::Error(reply) =
        Response::not_this_role(Role::Router, &Request::NodeList { page: Page::default() })
    else {
        panic!("not an error")
    };
    assert_eq!(reply.error, "the router does not answer node-list");
    assert_eq!(reply.hint.unwrap(), "ask the admin: --socket PATH chooses the daemon");
}

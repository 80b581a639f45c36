//! What monitoring finds, over a real connection.

use std::collections::{BTreeMap, BTreeSet};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use vmcast_api::{
    AdminLink, AdminLinkState, Engine, Interface, Interfaces, Querier, Request, Response, Role, StandIn,
    Stats, Status, StreamStats, Upstream, UpstreamState,
};
use vmcast_common::verdict::DropReason;

use super::{
    Metrics,
    encode::encode,
    families::{FAMILIES, Family, Figures, Kind},
};
use crate::{
    control::{Asker, Call},
    daemon::Process,
};

/// The README's list of families, and the dashboard made of them.
const README: &str = include_str!("../../../README.md");
const LABELS: &str = include_str!("../../grafana/labels.md");
const DASHBOARD: &str = include_str!("../../grafana/vmcast.json");

/// The name that a family has on the page.
fn on_page(family: &Family) -> String {
    let unit = family.unit.encoded().map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
    let total = match family.kind {
        Kind::Counter(_) => "_total",
        Kind::Gauge(_) => "",
    };
    format!("{}{unit}{total}", family.name)
}

fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(label, count)| (label.to_owned(), count)).into()
}

fn status(role: Role) -> Status {
    Process::new(role, "edge \"1\"").status()
}

/// A router that has everything that a router can have.
fn router() -> Figures {
    let admin = AdminLink {
        url: "https://192.0.2.1".to_owned(),
        state: AdminLinkState::Registered,
        age_ms: 5,
        others: Vec::new(),
        error: None,
        endpoints: None,
    };
    let upstream = Upstream {
        remote: Some(([192, 0, 2, 2], 2268).into()),
        name: None,
        from: "static".to_owned(),
        state: UpstreamState::Up,
        age_ms: 5,
        stands_in: Some(StandIn::Kept),
    };
    let engine = Engine { label: "xdp-broadcast".to_owned(), reason: "every device can".to_owned() };
    let status = Status {
        uptime_ms: 1500,
        engine: Some(engine),
        admin: Some(admin),
        upstream: Some(upstream),
        groups: 2,
        members: 3,
        tunnels: 4,
        ..status(Role::Router)
    };
    let stream = |source: Option<[u8; 4]>| StreamStats {
        group: [232, 1, 1, 1].into(),
        source: source.map(Into::into),
        packets: 7,
        bytes: u64::MAX,
        drops: counts([("no_member", 1)]),
        last_packet_ms: source.map(|_| 250),
    };
    let stats = Stats {
        drops: counts([("ttl_expired", 9)]),
        streams: vec![stream(Some([10, 0, 0, 1])), stream(None)],
        control: BTreeMap::from([("igmp".to_owned(), counts([("bad_checksum", 2)]))]),
        resident_bytes: 4096,
        ..Stats::default()
    };
    let querier = Querier { address: None, ours: true, serving: true, version: 3, groups: 6 };
    let interface = Interface {
        name: "acc1".to_owned(),
        ifindex: Some(4),
        device: None,
        vlan: Vec::new(),
        pppoe_session: None,
        up: true,
        mtu: 1500,
        mac: None,
        addresses: Vec::new(),
        attached: None,
        queues: None,
        egress: None,
        accepts_sources: false,
        upstream: false,
        refused: None,
        querier: Some(querier),
        mld_querier: None,
    };
    Figures { status, stats, interfaces: vec![interface] }
}

fn admin() -> Figures {
    let nodes = BTreeMap::from([(Role::Router, 2), (Role::Agent, 5)]);
    let status = Status { nodes, cache_entries: Some(8), registry_stale: Some(false), ..status(Role::Admin) };
    Figures { status, stats: Stats::default(), interfaces: Vec::new() }
}

#[test]
fn a_page_has_each_value_once_with_its_labels() {
    let page = encode(router());
    for line in [
        "vmcast_build_info{role=\"router\",node=\"edge \\\"1\\\"\",version=\"0.1.0\"} 1.0",
        "vmcast_uptime_seconds 1.5",
        "vmcast_resident_memory_bytes 4096.0",
        "vmcast_engine_info{engine=\"xdp-broadcast\"} 1.0",
        "vmcast_admin_link{state=\"registered\"} 1.0",
        "vmcast_admin_link{state=\"refused\"} 0.0",
        "vmcast_upstream{state=\"up\"} 1.0",
        "vmcast_upstream_stands_in{by=\"kept\"} 1.0",
        "vmcast_upstream_stands_in{by=\"fallback\"} 0.0",
        "vmcast_groups 2.0",
        "vmcast_members 3.0",
        "vmcast_tunnels 4.0",
        "vmcast_drops_total{reason=\"ttl_expired\"} 9",
        "vmcast_stream_packets_total{group=\"232.1.1.1\",source=\"10.0.0.1\"} 7",
        "vmcast_stream_packets_total{group=\"232.1.1.1\",source=\"*\"} 7",
        "vmcast_stream_bytes_total{group=\"232.1.1.1\",source=\"*\"} 18446744073709551615",
        "vmcast_stream_drops_total{group=\"232.1.1.1\",source=\"*\",reason=\"no_member\"} 1",
        "vmcast_stream_last_packet_age_seconds{group=\"232.1.1.1\",source=\"10.0.0.1\"} 0.25",
        "vmcast_events_total{subsystem=\"igmp\",event=\"bad_checksum\"} 2",
        "vmcast_interface_up{interface=\"acc1\"} 1.0",
        "vmcast_interface_groups{interface=\"acc1\",protocol=\"igmp\"} 6.0",
        "vmcast_interface_querier{interface=\"acc1\",protocol=\"igmp\"} 1.0",
        "vmcast_ready 1.0",
    ] {
        assert_eq!(page.lines().filter(|found| *found == line).count(), 1, "{line}\n{page}");
    }
    assert!(page.ends_with("# EOF\n") && !page.contains("vmcast_registered_nodes"), "{page}");

    let page = encode(admin());
    for line in [
        "vmcast_registered_nodes{role=\"agent\"} 5.0",
        "vmcast_cache_entries 8.0",
        "vmcast_registry_stale 0.0",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
    assert!(!page.contains("vmcast_members"), "{page}");
}

#[test]
fn every_family_is_served_by_some_role_and_stands_in_the_readme() {
    let pages = encode(router()) + &encode(admin());
    let families: BTreeSet<String> = FAMILIES.iter().map(on_page).collect();
    for name in &families {
        assert!(pages.lines().any(|line| line.starts_with(name)), "nobody serves {name}");
    }
    let rows = README.lines().filter_map(|line| line.strip_prefix("| `vmcast_")?.split_once('`'));
    let listed: Vec<String> = rows.map(|(name, _)| format!("vmcast_{name}")).collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), families, "README.md has another list");
    assert_eq!(listed.len(), families.len(), "README.md lists one twice");
}

#[test]
fn every_reason_of_a_drop_stands_in_the_list_and_none_that_there_is_not() {
    let (_, list) = LABELS.split_once("\n## Reasons\n").unwrap();
    let (list, _) = list.split_once("\n## ").unwrap();
    let rows = list.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: Vec<&str> = rows.map(|(label, _)| label).collect();
    let of_agents = crate::agent::drop_labels();
    assert_eq!(
        listed,
        DropReason::ALL.map(DropReason::label).into_iter().chain(of_agents).collect::<Vec<_>>()
    );
}

#[test]
fn the_dashboard_is_json_and_asks_for_families_that_there_are() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 10));
    let known: BTreeSet<String> = FAMILIES.iter().map(on_page).collect();
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let asked: BTreeSet<String> =
        DASHBOARD.split(word).filter(|word| word.starts_with("vmcast_")).map(str::to_owned).collect();
    assert!(asked.len() > 10 && asked.is_subset(&known), "{:?}", asked.difference(&known));
}

/// The labels of each family, as the README lists them.
fn listed_labels() -> BTreeMap<String, BTreeSet<String>> {
    let rows = README.lines().filter_map(|line| line.strip_prefix("| `vmcast_"));
    let row = |row: &str| {
        let (name, rest) = row.split_once('`')?;
        let labels = rest.split('|').nth(1)?.split(':').next()?;
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned);
        // What Prometheus adds.
        Some((format!("vmcast_{name}"), labels.chain(["instance".to_owned()]).collect()))
    };
    rows.filter_map(row).collect()
}

/// The words within the first brackets behind `start`, as far as each stands before one of `ends`.
fn words<'a>(text: &'a str, start: &str, end: char, ends: &[char]) -> Option<Vec<&'a str>> {
    let (_, inner) = text.split_once(start)?;
    let (inner, _) = inner.split_once(end)?;
    let word = |part: &'a str| part.split(ends).next().unwrap_or_default().trim();
    Some(inner.split(',').map(word).filter(|word| !word.is_empty()).collect())
}

#[test]
fn the_dashboard_asks_by_labels_that_the_families_have() {
    let known = listed_labels();
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets: Vec<_> =
        panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten()).collect();
    assert!(targets.len() > 20);
    for target in targets {
        let (expression, legend) =
            (target["expr"].as_str().unwrap(), target["legendFormat"].as_str().unwrap());
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            let count = |bracket| expression.matches(bracket).count();
            assert_eq!(count(open), count(close), "{expression}");
        }
        let name = expression.find("vmcast_").map(|at| &expression[at..]).unwrap();
        let name = name.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap();
        assert_eq!(expression.matches("vmcast_").count(), 1, "of two families this test knows nothing");
        let labels = &known[name];
        let asked = words(expression, &format!("{name}{{"), '}', &['=', '!']).unwrap();
        let kept = words(expression, "by (", ')', &[]);
        for label in asked.iter().chain(kept.iter().flatten()) {
            assert!(labels.contains(*label), "{name} has no {label}: {expression}");
        }
        for shown in legend.split("{{").skip(1) {
            let shown = shown.split("}}").next().unwrap();
            let is_left = match &kept {
                Some(kept) => kept.contains(&shown),
                None => labels.contains(shown),
            };
            assert!(is_left, "{shown} is shown of {expression}");
        }
    }
}

/// A role that answers for these figures.
fn asker(figures: Figures) -> Asker {
    let (calls, mut questions) = mpsc::channel::<Call>(4);
    tokio::spawn(async move {
        while let Some((request, answer)) = questions.recv().await {
            let response = match request {
                Request::Status => Response::Status(figures.status.clone()),
                Request::Stats => Response::Stats(figures.stats.clone()),
                Request::InterfaceList => {
                    Response::Interfaces(Interfaces { interfaces: figures.interfaces.clone() })
                }
                other => Response::not_this_role(figures.status.role, &other),
            };
            // Who asked may be gone.
            let _ = answer.send(response);
        }
    });
    Asker::new(calls)
}

/// Status line, headers and body of an answer.
async fn get(metrics: &Metrics, path: &str) -> String {
    let mut stream = TcpStream::connect(metrics.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn start(asker: Asker) -> Metrics {
    Metrics::start(Some(([127, 0, 0, 1], 0).into()), asker).await.unwrap().expect("an address was given")
}

#[tokio::test]
async fn monitoring_is_answered_over_http() {
    let metrics = start(asker(router())).await;
    let page = get(&metrics, "/metrics").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("content-type: application/openmetrics-text; version=1.0.0"), "{page}");
    assert!(page.contains("vmcast_members 3.0\n"), "{page}");
    for path in ["/healthz", "/readyz"] {
        assert!(get(&metrics, path).await.starts_with("HTTP/1.1 200 OK\r\n"), "{path}");
    }
    assert!(get(&metrics, "/").await.starts_with("HTTP/1.1 404 "));
    assert!(get(&start(asker(admin())).await, "/metrics").await.contains("vmcast_cache_entries 8.0\n"));
}

#[tokio::test]
async fn who_has_lost_its_upstream_lives_and_is_not_ready() {
    let mut figures = router();
    figures.status.upstream.as_mut().expect("it has one").state = UpstreamState::Down;
    let metrics = start(asker(figures)).await;
    assert!(get(&metrics, "/healthz").await.starts_with("HTTP/1.1 200 OK\r\n"));
    let page = get(&metrics, "/readyz").await;
    assert!(page.starts_with("HTTP/1.1 503 ") && page.contains("192.0.2.2:2268, does not answer"), "{page}");
    assert!(get(&metrics, "/metrics").await.contains("vmcast_ready 0.0\n"));
}

#[tokio::test]
async fn an_admin_that_keeps_no_changes_is_not_ready() {
    for (stale, why) in [(true, "etcd does not answer"), (false, "disk is full")] {
        let mut figures = admin();
        figures.status.registry_stale = Some(stale);
        figures.status.registry_kept = Some(false);
        let metrics = start(asker(figures)).await;
        let page = get(&metrics, "/readyz").await;
        assert!(page.starts_with("HTTP/1.1 503 ") && page.contains(why), "{page}");
        assert!(get(&metrics, "/metrics").await.contains("vmcast_ready 0.0\n"));
    }
}

#[tokio::test]
async fn a_daemon_that_is_ending_says_so() {
    let (calls, questions) = mpsc::channel(1);
    drop(questions);
    let metrics = start(Asker::new(calls)).await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        let page = get(&metrics, path).await;
        assert!(page.starts_with("HTTP/1.1 503 ") && page.contains("the daemon is ending"), "{path}: {page}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_named_with_what_to_do() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let listen = taken.local_addr().unwrap();
    let error = Metrics::start(Some(listen), asker(admin())).await.unwrap_err().to_string();
    assert!(error.contains(&listen.to_string()) && error.contains("[metrics]"), "{error}");
    assert!(Metrics::start(None, asker(admin())).await.unwrap().is_none());
}

#[tokio::test]
async fn those_who_ask_nothing_do_not_fill_the_memory_and_a_place_that_is_free_is_given_away() {
    let metrics = start(asker(admin())).await;
    let mut silent = Vec::new();
    for _ in 0..super::MAX_CONNECTIONS {
        silent.push(TcpStream::connect(metrics.address()).await.unwrap());
    }
    let waits = get(&metrics, "/healthz");
    tokio::pin!(waits);
    let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut waits).await;
    assert!(early.is_err(), "there is a place too many");
    silent.pop();
    assert!(waits.await.starts_with("HTTP/1.1 200 OK\r\n"));
}

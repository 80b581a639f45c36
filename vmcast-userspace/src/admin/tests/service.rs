//! The service over real connections.

use std::{net::SocketAddr, time::Duration};

use rusqlite::Connection;
use vmcast_proto::{
    policy::{Action, Effect, Policy, Reason, Rule},
    registry::{Config, RefusalReason},
};
use vmcast_signal::{
    tonic::{Code, transport::Channel},
    v1::{self, AnswerKind, registry_client::RegistryClient},
};

use super::bed::Bed;
use crate::admin::{Admin, Handle, Kept, Mirror, Settings, Way, store::SqliteStore};

const V0: [u8; 4] = [127, 1, 0, 1];
const V1: [u8; 4] = [127, 1, 1, 1];
const A: [u8; 4] = [127, 2, 0, 5];
const NEIGHBOUR: [u8; 4] = [127, 2, 0, 6];
const STRANGER: [u8; 4] = [127, 3, 0, 5];

fn node(id: &str, role: v1::Role, rank: u32, endpoints: &[&str]) -> v1::RegisterRequest {
    v1::RegisterRequest {
        node: Some(v1::Node {
            id: id.to_owned(),
            role: role.into(),
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            rank,
            name: format!("the {id}"),
            software: "vmcast".to_owned(),
            ..Default::default()
        }),
        upstreams: vec![],
    }
}

fn nearest(id: &str) -> v1::NearestRequest {
    v1::NearestRequest { node_id: id.to_owned(), ..Default::default() }
}

fn report(id: &str, vmr: &str, endpoint: &str) -> v1::ReportNearestRequest {
    let chosen =
        v1::Measurement { vmr_id: vmr.to_owned(), endpoint: endpoint.to_owned(), hops: 3, rtt_micros: 1500 };
    v1::ReportNearestRequest {
        node_id: id.to_owned(),
        addresses: vec![],
        chosen: Some(chosen.clone()),
        measurements: vec![chosen],
        arrived: vec![],
    }
}

async fn ask(client: &mut RegistryClient<Channel>, id: &str) -> (AnswerKind, Vec<String>) {
    let answer = client.nearest(nearest(id)).await.expect("answer").into_inner();
    (answer.kind(), answer.vmrs.into_iter().map(|vmr| vmr.id).collect())
}

/// Two VMRs, one below the other, and three agents, each calling from its own address.
async fn population<S: Kept>(bed: &Bed<S>) {
    let vmr = v1::Role::Vmr;
    let mut v0 = bed.client(V0).await;
    let lease = v0.register(node("v0", vmr, 0, &["127.1.0.1:2268"])).await.expect("granted").into_inner();
    assert_eq!((lease.lease_seconds, lease.seen_address.as_str()), (60, "127.1.0.1"));
    let mut v1 = bed.client(V1).await;
    v1.register(node("v1", vmr, 1, &["127.1.1.1:2268"])).await.expect("granted");
    for (id, from) in [("a", A), ("neighbour", NEIGHBOUR), ("stranger", STRANGER)] {
        let request = node(id, v1::Role::Agent, 0, &[]);
        bed.client(from).await.register(request).await.expect("granted");
    }
}

// proves A2
// proves A3
// proves A4
#[tokio::test]
async fn from_registration_to_a_cached_answer_and_its_end_by_expiry() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(&directory.path().join("registry.db")).expect("open");
    let bed = Bed::start(Config::default(), store, ([127, 0, 0, 1], 0).into()).await;
    population(&bed).await;
    let (mut a, mut v1) = (bed.client(A).await, bed.client(V1).await);
    let (mut neighbour, mut stranger) = (bed.client(NEIGHBOUR).await, bed.client(STRANGER).await);
    let all = (AnswerKind::All, vec!["v0".to_owned(), "v1".to_owned()]);
    let only = |kind, id: &str| (kind, vec![id.to_owned()]);

    assert_eq!(ask(&mut a, "a").await, all);
    assert_eq!(ask(&mut v1, "v1").await, only(AnswerKind::All, "v0"), "not itself");
    let reported = a.report_nearest(report("a", "v1", "127.1.1.1:2268")).await.expect("taken");
    assert_eq!(reported.into_inner().prefix, "127.2.0.0/24");
    assert_eq!(ask(&mut a, "a").await, only(AnswerKind::CachedAddress, "v1"));
    assert_eq!(ask(&mut neighbour, "neighbour").await, only(AnswerKind::CachedPrefix, "v1"));
    assert_eq!(ask(&mut stranger, "stranger").await, all);
    assert_eq!(ask(&mut v1, "v1").await, only(AnswerKind::All, "v0"), "the agents' entry is not for VMRs");

    let cache = a.list_cache(v1::ListCacheRequest::default()).await.expect("cache").into_inner();
    let prefixes: Vec<_> = cache.entries.iter().map(|entry| entry.prefix.as_str()).collect();
    assert_eq!(prefixes, ["127.2.0.0/24", "127.2.0.5/32"]);
    assert_eq!((cache.entries[0].reporter.as_str(), cache.entries[0].scope()), ("a", v1::Role::Agent));

    bed.pass(Duration::from_secs(59));
    a.register(node("a", v1::Role::Agent, 0, &[])).await.expect("renewed");
    bed.client(V0).await.register(node("v0", v1::Role::Vmr, 0, &["127.1.0.1:2268"])).await.expect("renewed");
    bed.pass(Duration::from_secs(1));
    assert_eq!(ask(&mut a, "a").await, only(AnswerKind::All, "v0"), "v1 has expired");
    let unknown = stranger.nearest(nearest("stranger")).await.expect_err("expired");
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(bed.ids().await, ["a", "v0"]);

    let status = bed.handle.status();
    let counters = status.counters;
    assert_eq!((counters.registrations, counters.renewals, counters.reports), (5, 2, 1));
    let answers = (counters.nearest_cached_address, counters.nearest_cached_prefix, counters.nearest_all);
    assert_eq!(answers, (1, 1, 5));
    assert_eq!(counters.refusals.of(RefusalReason::NotRegistered), 1);
    bed.stop().await;
}

#[tokio::test]
async fn a_duplicate_is_refused_with_its_holder_until_the_lease_has_run_out() {
    let bed = Bed::new().await;
    population(&bed).await;
    let mut thief = bed.client(STRANGER).await;
    let request = node("thief", v1::Role::Vmr, 0, &["127.1.0.1:2268"]);
    let refused = thief.register(request.clone()).await.expect_err("duplicate");
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(refused.message().contains("127.1.0.1:2268") && refused.message().contains("v0"), "{refused}");
    let status = bed.handle.status();
    assert_eq!(status.counters.refusals.of(RefusalReason::Duplicate), 1);
    assert!(!bed.ids().await.contains(&"thief".to_owned()));

    bed.pass(Duration::from_secs(60));
    thief.register(request).await.expect("the lease has run out");
    assert_eq!(bed.ids().await, ["thief"]);
    bed.stop().await;
}

#[tokio::test]
async fn malformed_requests_are_refused_by_field_and_counted() {
    let bed = Bed::new().await;
    population(&bed).await;
    let mut client = bed.client(A).await;
    let agent = v1::Role::Agent;
    let mut wrong = Vec::new();
    for request in [
        v1::RegisterRequest::default(),
        node("", agent, 0, &[]),
        node("a b", agent, 0, &[]),
        node(&"x".repeat(65), agent, 0, &[]),
        node("n", v1::Role::Unspecified, 0, &[]),
        node("n", agent, 0, &["192.0.2.1"]),
        node("n", agent, 0, &["example:2268"]),
    ] {
        wrong.push(client.register(request).await.expect_err("malformed"));
    }
    let mut unknown_role = node("n", agent, 0, &[]);
    unknown_role.node.as_mut().expect("a node").role = 77;
    wrong.push(client.register(unknown_role).await.expect_err("malformed"));
    let addresses = vec!["no address".to_owned()];
    let request = v1::NearestRequest { addresses, ..nearest("a") };
    wrong.push(client.nearest(request).await.expect_err("malformed"));
    let mut request = report("a", "v0", "127.1.0.1:2268");
    request.chosen = None;
    wrong.push(client.report_nearest(request).await.expect_err("malformed"));
    let mut request = report("a", "v0", "127.1.0.1:2268");
    request.chosen.as_mut().expect("chosen").hops = 256;
    wrong.push(client.report_nearest(request).await.expect_err("malformed"));
    let after = "no key".to_owned();
    wrong.push(client.list_cache(v1::ListCacheRequest { limit: 0, after }).await.expect_err("malformed"));

    for status in &wrong {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    assert!(wrong[2].message().starts_with("node.id: "), "{}", wrong[2]);
    assert_eq!(bed.handle.status().malformed, wrong.len() as u64);
    assert_eq!(bed.ids().await.len(), 5, "nobody came in");
    bed.stop().await;
}

#[tokio::test]
async fn a_request_above_the_size_limit_is_refused_and_the_server_goes_on() {
    let bed = Bed::new().await;
    let mut client = bed.client(A).await;
    let mut request = node("n", v1::Role::Agent, 0, &[]);
    request.node.as_mut().expect("a node").name = "x".repeat(1024 * 1024);
    let refused = client.register(request).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    client.register(node("n", v1::Role::Agent, 0, &[])).await.expect("granted");
    assert_eq!(bed.ids().await, ["n"]);
    bed.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_http_do_not_disturb_the_others() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let bed = Bed::new().await;
    let mut noise = tokio::net::TcpStream::connect(bed.address).await.expect("connect");
    noise.write_all(&[0xff; 4096]).await.expect("write");
    let mut answer = Vec::new();
    // Closed or reset, both are an end.
    let _ = noise.read_to_end(&mut answer).await;
    bed.client(A).await.register(node("n", v1::Role::Agent, 0, &[])).await.expect("granted");
    bed.stop().await;
}

#[tokio::test]
async fn deregistration_ends_the_lease_and_lists_come_in_pages() {
    let bed = Bed::new().await;
    population(&bed).await;
    let mut client = bed.client(V0).await;
    let gone = v1::DeregisterRequest { node_id: "stranger".to_owned() };
    assert!(client.deregister(gone.clone()).await.expect("done").into_inner().existed);
    assert!(!client.deregister(gone).await.expect("done").into_inner().existed);

    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let request = v1::ListNodesRequest { limit: 3, after };
        let page = client.list_nodes(request).await.expect("page").into_inner();
        found.extend(page.nodes.into_iter().map(|entry| entry.node.expect("a node").id));
        after = page.next;
        if after.is_empty() {
            break;
        }
    }
    assert_eq!(found, ["a", "neighbour", "v0", "v1"]);
    bed.stop().await;
}

#[tokio::test]
async fn a_database_that_fails_makes_the_service_unavailable_without_its_particulars() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("registry.db");
    drop(SqliteStore::open(&path).expect("open"));
    let raw = Connection::open(&path).expect("open");
    // What a full disk does to a transaction, and what a broken row does to a statement.
    raw.execute_batch(
        "CREATE TRIGGER full BEFORE INSERT ON node WHEN new.id = 'full' BEGIN SELECT RAISE(ROLLBACK, 'rank'); END;
         CREATE TRIGGER broken BEFORE INSERT ON node WHEN new.id = 'broken' BEGIN SELECT RAISE(FAIL, 'rank'); END;",
    )
    .expect("triggers");
    drop(raw);

    let store = SqliteStore::open(&path).expect("open");
    let bed = Bed::start(Config::default(), store, ([127, 0, 0, 1], 0).into()).await;
    bed.client(A).await.register(node("a", v1::Role::Agent, 0, &[])).await.expect("before");
    for name in ["full", "broken"] {
        let request = node(name, v1::Role::Agent, 0, &[]);
        let refused = bed.client(A).await.register(request).await.expect_err(name);
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(!refused.message().contains("rank"), "{refused}");
        assert_eq!(bed.ids().await, ["a"], "who was granted is there, and nobody else");
    }
    bed.client(A).await.register(node("b", v1::Role::Agent, 0, &[])).await.expect("others are served");
    bed.stop().await;
}

#[tokio::test]
async fn the_server_makes_its_database_and_ends_although_clients_are_connected() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = directory.path().join("state/vmcast/registry.db");
    let listen: SocketAddr = ([127, 0, 0, 1], 0).into();
    let settings = Settings {
        listen,
        database: database.clone(),
        etcd: None,
        registry: Config::default(),
        nearest: Way::default(),
        identity: directory.path().join("identity"),
        urls: Vec::new(),
        names: Vec::new(),
        authority_secret: None,
        certificate: crate::identity::LIFETIME,
        insecure: true,
        limits: crate::admin::Limits::default(),
    };
    let admin = Admin::bind(settings.clone()).await.expect("bind");
    let (address, handle) = (admin.local_addr().expect("address"), admin.handle());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(admin.serve(async move {
        let _ = stopped.await;
    }));
    let mut client = RegistryClient::connect(format!("http://{address}")).await.expect("connect");
    client.register(node("n", v1::Role::Agent, 0, &[])).await.expect("granted");
    assert_eq!(handle.nodes(None, 9).len(), 1);
    stop.send(()).expect("the server runs");
    server.await.expect("no panic").expect("no error");
    drop(handle);

    assert!(client.register(node("n", v1::Role::Agent, 0, &[])).await.is_err(), "nobody listens");
    let again = Admin::bind(settings.clone()).await.expect("bind");
    assert_eq!(again.handle().nodes(None, 9).len(), 1, "the lease goes on");
    crate::admin::run(
        Settings {
            database: directory.path().join("other.db"),
            identity: directory.path().join("other"),
            ..settings
        },
        std::future::ready(()),
    )
    .await
    .expect("ends at once");
}

#[tokio::test]
async fn an_address_in_use_is_a_clear_error() {
    let bed = Bed::new().await;
    let registry = vmcast_proto::registry::Registry::new(Config::default(), Mirror::default());
    let handle = Handle::new(registry, bed.clock.clone(), Way::default()).expect("a thread");
    let failure = Admin::bind_with(bed.address, handle, bed.gate.clone()).await.expect_err("in use");
    assert!(failure.to_string().contains(&bed.address.to_string()), "{failure}");
    bed.stop().await;
}

// gRPC's own services: a generic client finds out what the server can do, and whether it is well.
#[tokio::test]
async fn the_server_says_that_it_is_well_and_what_it_can_do() {
    let bed = Bed::new().await;
    let endpoint = vmcast_signal::tonic::transport::Endpoint::from_shared(bed.url()).unwrap();
    says_that_it_is_well(endpoint.connect().await.unwrap()).await;
    bed.stop().await;
}

// A monitor has no certificate; that the admin is well, and its schema, is all that it is told without one.
#[tokio::test]
async fn over_tls_the_server_says_so_too_to_callers_without_a_certificate() {
    use super::identity::{count, joined, order, token};
    use crate::{
        identity::{Refusal, Role, TlsClient},
        link::tls_channel,
    };
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().unwrap();
    let node = joined(&bed, "a", Role::Agent, directory.path()).await;
    let fingerprint = token(&bed, order(Role::Agent)).await.fingerprint;
    let monitor = TlsClient::of_bearer(fingerprint, bed.clock.clone()).unwrap();
    for tls in [node.tls(), monitor.clone()] {
        let stream = tokio::net::TcpStream::connect(bed.address).await.unwrap();
        let name = rustls::pki_types::ServerName::from(bed.address.ip());
        let stream = tls.connector().connect(name, stream).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        says_that_it_is_well(tls_channel(&bed.url(), tls).unwrap()).await;
    }
    let channel = tls_channel(&bed.url(), monitor).unwrap();
    let refused = RegistryClient::new(channel).list_nodes(v1::ListNodesRequest::default()).await;
    assert_eq!(refused.expect_err("refused").code(), Code::Unauthenticated);
    assert_eq!(count(&bed, Refusal::NoCertificate), 1);
    bed.stop().await;
}

async fn says_that_it_is_well(channel: vmcast_signal::tonic::transport::Channel) {
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    };
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let mut health = HealthClient::new(channel.clone());
    for service in ["", "vmcast.v1.Registry", "vmcast.v1.Identity"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    let request = HealthCheckRequest { service: "vmcast.v1.Nothing".to_owned() };
    assert_eq!(health.check(request).await.unwrap_err().code(), Code::NotFound);

    let mut reflection = ServerReflectionClient::new(channel);
    let ask = |message_request| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message_request),
    };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("vmcast.v1.Registry.Nearest".to_owned())),
    ];
    let questions = futures_util::stream::iter(questions);
    let mut answers = reflection.server_reflection_info(questions).await.unwrap().into_inner();
    let listed = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else { panic!("{listed:?}") };
    for service in ["vmcast.v1.Registry", "vmcast.v1.Identity", "grpc.health.v1.Health"] {
        assert!(listed.service.iter().any(|known| known.name == service), "{service} of {listed:?}");
    }
    let file = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::FileDescriptorResponse(file)) = file else { panic!("{file:?}") };
    assert!(!file.file_descriptor_proto.is_empty());
}

// What a rule for one of them says holds for all who are behind one translator.
#[tokio::test]
async fn nodes_at_one_address_are_named_to_the_operator() {
    let bed = Bed::new().await;
    for (name, from) in [("a", 2), ("b", 2), ("c", 3), ("d", 2)] {
        let mut client = bed.client([127, 0, 0, from]).await;
        client.register(node(name, v1::Role::Agent, 0, &[])).await.expect("granted");
    }
    let at = |name: &str, most| {
        let others = bed.handle.at_address_of(&name.parse().expect("an id"), most);
        others.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!((at("a", 9), at("a", 1)), (vec!["b".to_owned(), "d".to_owned()], vec!["b".to_owned()]));
    assert_eq!((at("c", 9), at("nobody", 9)), (vec![], vec![]));
    // A rule for one of them is one for its address, where an operator asks about that.
    let deny = |policy: &mut Policy| {
        let node = Some("c".parse().map_err(|_| "no id")?);
        policy.rules = vec![Rule { node, ..Rule::new(1, Effect::Deny, Action::Receive) }];
        Ok(())
    };
    bed.handle.change_policy(deny).await.expect("changed");
    let policy = bed.handle.policy_in_force().expect("memory");
    let refused = |last: u8| {
        let who = Some(std::net::IpAddr::from([127, 0, 0, last]));
        policy.receive(who, [239, 1, 1, 1].into(), &vmcast_proto::Filter::any(), 0).refused
    };
    assert_eq!((refused(2), refused(3)), (None, Some(Reason::Rule(1))));
    // What is kept names no addresses: they are others soon.
    assert_eq!(bed.handle.policy().expect("memory").rules[0].addresses, [] as [std::net::IpAddr; 0]);
    bed.stop().await;
}

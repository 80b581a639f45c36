//! The link against a real server and relays on loopback; a relay's own time to live makes its
//! distance.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use vmcast_proto::{
    nearest,
    policy::{Action, Effect, Policy, Rule},
    registry::{About, AnswerKind, NodeId, OwnTunnel, RefusalReason, Registration, Role},
};
use vmcast_signal::v1;
use vmcast_wire::amt::Message;

use super::*;
use crate::admin::tests::bed::Bed;

/// A test that waits longer than this hangs; nothing is measured by it.
const HANG: Duration = Duration::from_secs(60);

/// A relay that answers discoveries with a time to live of its own.
struct Relay {
    endpoint: SocketAddr,
    asked: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start(address: [u8; 4], ttl: u32) -> Self {
        let socket = UdpSocket::bind((IpAddr::from(address), 0)).await.expect("bind");
        socket.set_ttl(ttl).expect("ttl");
        Self::serve(socket)
    }

    fn serve(socket: UdpSocket) -> Self {
        let endpoint = socket.local_addr().expect("address");
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.expect("receive");
                let Ok(Message::RelayDiscovery { nonce }) = Message::parse(&buffer[..length]) else {
                    panic!("a discovery: {:?}", &buffer[..length]);
                };
                count.fetch_add(1, Ordering::SeqCst);
                let answer = Message::RelayAdvertisement { nonce, relay: endpoint.ip() }.to_vec();
                socket.send_to(&answer, from).await.expect("send");
            }
        });
        Self { endpoint, asked, task }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn id(text: &str) -> NodeId {
    text.parse().expect("an id")
}

fn settings(admins: &[String], name: &str, role: Role, local: [u8; 4], endpoints: &[SocketAddr]) -> Settings {
    Settings {
        admins: admins.to_vec(),
        registration: Registration {
            id: id(name),
            role,
            endpoints: endpoints.to_vec(),
            name: name.parse().expect("a name"),
            software: "vmcast".parse().expect("a name"),
            about: About::default(),
        },
        requery: Settings::REQUERY,
        local: Some(local.into()),
        probe: nearest::Config::default(),
        seed: name.bytes().map(u64::from).sum(),
        identity: None,
    }
}

fn vmr(bed: &Bed, name: &str, rank: u32, relay: &Relay) -> Attachment {
    let IpAddr::V4(local) = relay.endpoint.ip() else {
        panic!("an IPv4 relay");
    };
    let role = Role::Vmr { rank };
    attach(settings(&[bed.url()], name, role, local.octets(), &[relay.endpoint])).expect("attach")
}

fn agent(bed: &Bed, name: &str, local: [u8; 4]) -> Attachment {
    attach(settings(&[bed.url()], name, Role::Agent, local, &[])).expect("attach")
}

/// Waits until a watched value is as wanted.
async fn wait<T: Clone>(receiver: &mut watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) -> T {
    let value = tokio::time::timeout(HANG, receiver.wait_for(wanted)).await.expect("it hangs");
    value.expect("the link runs").clone()
}

async fn registered(attachment: &Attachment) {
    let is_registered = |status: &LinkStatus| matches!(status.state, LinkState::Registered { .. });
    wait(&mut attachment.status(), is_registered).await;
}

/// Waits for something that only asking tells.
async fn until(condition: impl AsyncFn() -> bool) {
    let asking = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, asking).await.expect("it hangs");
}

async fn upstreams(attachment: &Attachment) -> RankedVmrs {
    let known = wait(&mut attachment.upstreams(), Option::is_some).await;
    known.expect("it is known")
}

fn names(ranked: &RankedVmrs) -> Vec<&str> {
    ranked.vmrs.iter().map(|vmr| vmr.id.as_str()).collect()
}

fn hops(ranked: &RankedVmrs) -> BTreeMap<&str, Option<u8>> {
    ranked.vmrs.iter().map(|vmr| (vmr.id.as_str(), vmr.distance.map(|(hops, _)| hops))).collect()
}

// proves A1
// proves A3
// proves A4
#[tokio::test]
async fn an_agent_measures_all_vmrs_and_its_neighbour_is_told_the_nearest_without_measuring() {
    let bed = Bed::new().await;
    let far = Relay::start([127, 1, 0, 1], 59).await;
    let near = Relay::start([127, 1, 1, 1], 126).await;
    let (v0, v1) = (vmr(&bed, "v0", 0, &far), vmr(&bed, "v1", 1, &near));
    registered(&v0).await;
    let above = upstreams(&v1).await;
    assert_eq!((names(&above), hops(&above)["v0"]), (vec!["v0"], Some(5)));
    assert_eq!(names(&upstreams(&v0).await), [""; 0], "nobody is above the source");
    assert_eq!((far.asked(), near.asked()), (1, 0), "no VMR measures itself or one below");

    let a = agent(&bed, "a", [127, 2, 0, 5]);
    let ranked = upstreams(&a).await;
    assert_eq!((ranked.kind, names(&ranked)), (AnswerKind::All, vec!["v1", "v0"]));
    assert_eq!(hops(&ranked), BTreeMap::from([("v0", Some(5)), ("v1", Some(2))]));
    assert_eq!(ranked.vmrs[0].endpoint, near.endpoint);
    assert_eq!((far.asked(), near.asked()), (2, 1));

    let neighbour = agent(&bed, "neighbour", [127, 2, 0, 6]);
    let told = upstreams(&neighbour).await;
    assert_eq!((told.kind, names(&told)), (AnswerKind::CachedPrefix, vec!["v1", "v0"]));
    assert_eq!((far.asked(), near.asked()), (2, 1), "nobody was measured for it");

    let stranger = agent(&bed, "stranger", [127, 3, 0, 5]);
    assert_eq!(upstreams(&stranger).await.kind, AnswerKind::All);
    assert_eq!((far.asked(), near.asked()), (3, 2));
    assert_eq!(bed.ids().await, ["a", "neighbour", "stranger", "v0", "v1"]);
    bed.stop().await;
}

// proves A4: who did not measure holds the same ranked list, so it needs nobody when its VMR is lost
#[tokio::test]
async fn whoever_is_told_from_the_cache_holds_the_list_in_the_order_that_its_neighbour_measured() {
    let bed = Bed::new().await;
    let mut relays = Vec::new();
    for (name, address, ttl) in [
        ("v0", [127, 2, 0, 1], 55),
        ("v1", [127, 2, 1, 1], 61),
        ("v2", [127, 2, 128, 1], 57),
        ("v3", [127, 1, 0, 1], 63),
    ] {
        let relay = Relay::start(address, ttl).await;
        let vmr = vmr(&bed, name, 0, &relay);
        registered(&vmr).await;
        relays.push((relay, vmr));
    }
    let measured = ["v3", "v1", "v2", "v0"];
    let a = agent(&bed, "a", [127, 2, 0, 5]);
    assert_eq!(names(&upstreams(&a).await), measured);
    let asked: Vec<_> = relays.iter().map(|(relay, _)| relay.asked()).collect();
    let neighbour = agent(&bed, "neighbour", [127, 2, 0, 6]);
    let told = upstreams(&neighbour).await;
    assert_eq!((told.kind, names(&told)), (AnswerKind::CachedPrefix, measured.to_vec()));
    let asked_since: Vec<_> = relays.iter().map(|(relay, _)| relay.asked()).collect();
    assert_eq!(asked_since, asked, "nobody was measured for it");
    bed.stop().await;
}

// proves A1
#[tokio::test]
async fn an_admin_that_is_down_at_start_is_tried_until_it_is_up() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = reserved.local_addr().expect("address");
    drop(reserved);
    let relay = Relay::start([127, 1, 0, 1], 62).await;
    let url = format!("http://{address}");
    let vmr =
        settings(std::slice::from_ref(&url), "v0", Role::Vmr { rank: 0 }, [127, 1, 0, 1], &[relay.endpoint]);
    let (v0, a) = (attach(vmr), attach(settings(&[url], "a", Role::Agent, [127, 2, 0, 5], &[])));
    let (v0, a) = (v0.expect("attach"), a.expect("attach"));
    for link in [&v0, &a] {
        let lost = wait(&mut link.status(), |status| matches!(status.state, LinkState::Lost { .. })).await;
        let LinkState::Lost { reason } = lost.state else { unreachable!() };
        assert!(reason.contains(&address.to_string()), "{reason}");
        assert_eq!(*link.upstreams().borrow(), None);
    }

    let bed = Bed::listening_on(address).await;
    registered(&v0).await;
    let found =
        wait(&mut a.upstreams(), |known| known.as_ref().is_some_and(|known| !known.vmrs.is_empty())).await;
    assert_eq!(hops(&found.expect("found")), BTreeMap::from([("v0", Some(2))]));
    bed.stop().await;
}

// proves A1
#[tokio::test]
async fn when_the_admin_dies_what_is_known_stays_and_its_successor_gets_the_registration() {
    let bed = Bed::start(
        vmcast_proto::registry::Config { lease: Duration::from_secs(3), ..Default::default() },
        crate::admin::Mirror::default(),
        ([127, 0, 0, 1], 0).into(),
    )
    .await;
    let address = bed.address;
    let relay = Relay::start([127, 1, 0, 1], 62).await;
    let v0 = vmr(&bed, "v0", 0, &relay);
    registered(&v0).await;
    let a = agent(&bed, "a", [127, 2, 0, 5]);
    let before = upstreams(&a).await;
    let mut upstreams = a.upstreams();
    upstreams.mark_unchanged();
    bed.stop().await;
    wait(&mut a.status(), |status| matches!(status.state, LinkState::Lost { .. })).await;
    assert_eq!(*upstreams.borrow(), Some(before));

    let successor = Bed::listening_on(address).await;
    until(async || successor.ids().await == ["a", "v0"]).await;
    assert!(!upstreams.has_changed().expect("the link runs"), "the role was not disturbed");
    successor.stop().await;
}

#[tokio::test]
async fn of_several_admins_the_first_that_answers_is_used() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let nobody = format!("http://{}", reserved.local_addr().expect("address"));
    drop(reserved);
    let bed = Bed::new().await;
    let link = attach(settings(&[nobody, bed.url()], "a", Role::Agent, [127, 2, 0, 5], &[])).expect("attach");
    let status = wait(&mut link.status(), |status| status.state != LinkState::Connecting).await;
    assert_eq!(status.state, LinkState::Registered { admin: bed.url() });
    bed.stop().await;
}

#[tokio::test]
async fn a_dead_vmr_leaves_the_list_at_once_and_is_left_out_of_the_next_search() {
    let bed = Bed::new().await;
    let (near, far) = (Relay::start([127, 1, 0, 1], 64).await, Relay::start([127, 1, 1, 1], 60).await);
    let links = [vmr(&bed, "near", 0, &near), vmr(&bed, "far", 0, &far)];
    for link in &links {
        registered(link).await;
    }
    let a = agent(&bed, "a", [127, 2, 0, 5]);
    assert_eq!(names(&upstreams(&a).await), ["near", "far"]);
    let asked = far.asked();

    a.vmr_dead(id("near"), near.endpoint);
    let first = |wanted: &'static str| {
        move |known: &Option<RankedVmrs>| known.as_ref().is_some_and(|known| names(known) == [wanted])
    };
    wait(&mut a.upstreams(), first("far")).await;
    until(async || far.asked() != asked).await;
    assert_eq!(near.asked(), 1, "the dead one is not asked again");
    until(async || bed.handle.status().counters.reports == 2).await;
    let cache = bed.handle.cache(None, 9);
    assert!(cache.iter().all(|entry| entry.nearest.vmr == id("far")), "{cache:?}");
    bed.stop().await;
}

#[tokio::test]
async fn the_only_vmr_is_found_where_it_is_now_and_not_where_it_did_not_serve() {
    let bed = Bed::new().await;
    let (before, after) = (Relay::start([127, 1, 0, 1], 64).await, Relay::start([127, 1, 0, 2], 64).await);
    let near = vmr(&bed, "near", 0, &before);
    registered(&near).await;
    let a = agent(&bed, "a", [127, 2, 0, 5]);
    assert_eq!(upstreams(&a).await.vmrs[0].endpoint, before.endpoint);
    // It is asked for again while it is where it was, and nothing changes.
    a.look_again();
    until(async || bed.handle.status().counters.reports == 1).await;
    near.moved(vec![after.endpoint]);
    a.vmr_dead(id("near"), before.endpoint);
    let at_last = |wanted: Option<SocketAddr>| {
        move |known: &Option<RankedVmrs>| {
            known.as_ref().is_some_and(|known| known.vmrs.first().map(|vmr| vmr.endpoint) == wanted)
        }
    };
    wait(&mut a.upstreams(), at_last(Some(after.endpoint))).await;
    let asked = before.asked();
    a.vmr_dead(id("near"), after.endpoint);
    wait(&mut a.upstreams(), at_last(None)).await;
    assert_eq!(before.asked(), asked, "where it was it is not looked for");
    bed.stop().await;
}

#[tokio::test]
async fn a_duplicate_is_told_why_and_gets_in_once_the_other_has_gone() {
    let bed = Bed::new().await;
    let relay = Relay::start([127, 1, 0, 1], 64).await;
    let first = vmr(&bed, "first", 0, &relay);
    registered(&first).await;
    let second = vmr(&bed, "second", 0, &relay);
    let refused = |status: &LinkStatus| matches!(status.state, LinkState::Refused { .. });
    let LinkState::Refused { reason, admin, shut_out } = wait(&mut second.status(), refused).await.state
    else {
        unreachable!()
    };
    assert_eq!((admin, shut_out), (bed.url(), false));
    assert!(reason.contains("first") && reason.contains(&relay.endpoint.to_string()), "{reason}");
    assert_eq!(bed.ids().await, ["first"]);
    assert!(bed.handle.status().counters.refusals.of(RefusalReason::Duplicate) >= 1);

    first.close().await;
    registered(&second).await;
    assert_eq!(bed.ids().await, ["second"]);
    bed.stop().await;
}

#[tokio::test]
async fn a_node_that_the_admin_has_forgotten_registers_again() {
    let bed = Bed::new().await;
    let mut forgetful = settings(&[bed.url()], "a", Role::Agent, [127, 2, 0, 5], &[]);
    forgetful.requery = Duration::from_millis(50);
    let a = attach(forgetful).expect("attach");
    registered(&a).await;
    bed.pass(Duration::from_secs(60));
    assert_eq!(bed.ids().await, [""; 0]);
    until(async || !bed.ids().await.is_empty()).await;
    bed.stop().await;
}

#[tokio::test]
async fn a_moved_node_registers_where_it_is_and_a_closed_one_is_gone() {
    let bed = Bed::new().await;
    let (here, there) = (Relay::start([127, 1, 0, 1], 64).await, Relay::start([127, 1, 0, 1], 64).await);
    let v0 = vmr(&bed, "v0", 0, &here);
    registered(&v0).await;
    v0.moved(vec![there.endpoint]);
    until(async || bed.handle.status().counters.moves > 0).await;
    let nodes = bed.handle.nodes(None, 9);
    assert_eq!(nodes[0].registration.endpoints, [there.endpoint]);
    v0.close().await;
    assert_eq!(bed.ids().await, [""; 0]);
    bed.stop().await;
}

// proves A1: what a VMR says of itself follows what its interfaces have
#[tokio::test]
async fn networks_of_sources_are_registered_when_they_change_and_nothing_else_is_disturbed() {
    let bed = Bed::new().await;
    let relay = Relay::start([127, 1, 0, 1], 64).await;
    let v0 = vmr(&bed, "v0", 0, &relay);
    registered(&v0).await;
    let told = async || bed.handle.nodes(None, 9)[0].registration.about.source_prefixes.clone();
    let prefixes =
        |texts: &[&str]| -> Vec<_> { texts.iter().map(|text| text.parse().expect("a prefix")).collect() };
    for texts in [&["10.1.0.0/24"][..], &["10.1.0.0/24", "2001:db8::/64"], &[]] {
        v0.has_sources(prefixes(texts));
        until(async || told().await == prefixes(texts)).await;
    }
    // What is the same is not registered again.
    let renewals = bed.handle.status().counters.renewals;
    v0.has_sources(vec![]);
    v0.has_sources(prefixes(&["10.2.0.0/24"]));
    until(async || told().await == prefixes(&["10.2.0.0/24"])).await;
    let counters = bed.handle.status().counters;
    assert_eq!((counters.renewals, counters.moves), (renewals + 1, 0));
    bed.stop().await;
}

// proves A3: the list is whole, however many pages it has
#[tokio::test]
async fn all_vmrs_are_read_over_several_pages_each_once() {
    const VMRS: u16 = 600;
    let bed = Bed::new().await;
    let client = AdminClient::new(&[bed.url()], Some([127, 2, 0, 5].into()), None).expect("a client");
    let mut expected = BTreeSet::new();
    for number in 0..VMRS {
        let [high, low] = number.to_be_bytes();
        let endpoint = SocketAddr::from(([198, 18, high, low], 2268));
        let name = format!("v{number:03}");
        let settings = settings(&[bed.url()], &name, Role::Vmr { rank: 0 }, [127, 2, 0, 5], &[endpoint]);
        client.register(&settings.registration).await.expect("registered");
        expected.insert(id(&name));
    }
    client
        .register(&settings(&[], "a", Role::Agent, [127, 2, 0, 5], &[]).registration)
        .await
        .expect("registered");
    let ask = Ask {
        id: id("a"),
        addresses: vec![[127, 2, 0, 5].into()],
        excluded: [id("v007")].into(),
        current: None,
        others: 0,
    };
    let pages = bed.handle.status().counters.nearest_all;
    let answer = client.nearest(&ask).await.expect("an answer");
    expected.remove(&id("v007"));
    assert_eq!((answer.kind, answer.vmrs.len(), answer.next), (AnswerKind::All, expected.len(), None));
    assert_eq!(answer.vmrs.iter().map(|vmr| vmr.id.clone()).collect::<BTreeSet<_>>(), expected);
    assert_eq!(bed.handle.status().counters.nearest_all, pages + 3, "pages of 256");
    bed.stop().await;
}

#[tokio::test]
async fn urls_that_are_none_are_refused_at_once() {
    let refused = |urls: &[&str]| {
        let urls: Vec<_> = urls.iter().map(ToString::to_string).collect();
        attach(settings(&urls, "a", Role::Agent, [127, 0, 0, 1], &[])).expect_err("refused")
    };
    assert!(matches!(refused(&[]), AdminError::NoAdmin));
    for url in ["", "127.0.0.1:8443", "https://127.0.0.1:8443", "http://", "no url"] {
        let failure = refused(&["http://127.0.0.1:1", url]);
        assert!(matches!(&failure, AdminError::Url { url: named, .. } if named == url), "{url:?}: {failure}");
    }
}

// proves A4
#[tokio::test]
async fn the_probe_reads_the_ttl_of_both_families_and_names_the_silent() {
    let v4 = Relay::start([127, 1, 0, 1], 61).await;
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None).expect("socket");
    let loopback: SocketAddr = "[::1]:0".parse().expect("an address");
    socket.bind(&loopback.into()).expect("bind");
    socket.set_unicast_hops_v6(250).expect("hops");
    socket.set_nonblocking(true).expect("nonblocking");
    let v6 = Relay::serve(UdpSocket::from_std(socket.into()).expect("register"));
    let silent = UdpSocket::bind("127.1.0.2:0").await.expect("bind");
    let bystander = Relay::start([127, 1, 0, 3], 64).await;

    let config = nearest::Config { response_timeout: Duration::from_millis(50), ..Default::default() };
    let relays = [v4.endpoint, v6.endpoint, silent.local_addr().expect("address")];
    let (findings, counters) = probe(&relays, config, 1, None).await.expect("sockets");
    let found: Vec<_> = findings.measured.iter().map(|m| (m.endpoint, m.hops)).collect();
    assert_eq!(found, [(v4.endpoint, 3), (v6.endpoint, 5)]);
    assert_eq!(findings.unanswered, [relays[2]]);
    assert_eq!((counters.answers, counters.sent), (2, 5));
    assert_eq!(bystander.asked(), 0);
}

#[tokio::test]
async fn a_relay_of_a_family_that_the_local_address_cannot_reach_is_one_that_does_not_answer() {
    let config = nearest::Config { response_timeout: Duration::from_millis(20), ..Default::default() };
    let relay: SocketAddr = "[::1]:9".parse().expect("an endpoint");
    let local = Some(IpAddr::from([127, 0, 0, 1]));
    let (findings, _) = probe(&[relay], config, 1, local).await.expect("sockets");
    assert_eq!(findings.unanswered, [relay]);
}

/// A VMR of the second way: it notes who discovers it, and probes when it is told to. How far it is from the
/// requester is a delay of its probes.
async fn probing_vmr(bed: &Bed, name: &str, rank: u32, address: [u8; 4], delay: Duration) -> Attachment {
    let socket = UdpSocket::bind((IpAddr::from(address), 0)).await.expect("bind");
    let endpoint = socket.local_addr().expect("address");
    let role = Role::Vmr { rank };
    let mut attachment = attach(settings(&[bed.url()], name, role, address, &[endpoint])).expect("attach");
    let mut orders = attachment.take_orders().expect("a VMR has a line");
    tokio::spawn(async move {
        let mut volley = nearest::rtt::Volley::default();
        let mut buffer = [0; 1500];
        loop {
            let timeout = volley.poll_timeout().map(tokio::time::Instant::from_std);
            let due = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let now = || tokio::time::Instant::now().into_std();
            tokio::select! {
                received = socket.recv_from(&mut buffer) => {
                    let (length, from) = received.expect("receive");
                    let Ok(Message::RelayDiscovery { nonce }) = Message::parse(&buffer[..length]) else {
                        panic!("a discovery");
                    };
                    volley.on_discovery(now(), endpoint, from, nonce);
                }
                Some(order) = orders.recv() => if let VmrOrder::Probe(order, at) = order {
                    volley.on_order(at.into_std(), order);
                },
                () = due => volley.handle_timeout(now()),
            }
            while let Some(probe) = volley.poll_probe() {
                tokio::time::sleep(delay).await;
                socket.send_to(&probe.bytes, probe.remote).await.expect("send");
            }
        }
    });
    attachment
}

// proves A5
#[tokio::test]
async fn by_round_trip_time_all_vmrs_probe_the_requester_and_the_first_probe_names_the_nearest() {
    use vmcast_proto::{nearest::rtt::WaitRule, registry::Config};

    let (store, listen) = (crate::admin::Mirror::default(), ([127, 0, 0, 1], 0).into());
    let way = crate::admin::Way::Rtt(WaitRule::Half);
    let bed = Bed::start_by(Config::default(), store, listen, way).await;
    let far = probing_vmr(&bed, "far", 0, [127, 1, 0, 1], Duration::from_millis(150)).await;
    let near = probing_vmr(&bed, "near", 0, [127, 1, 1, 1], Duration::ZERO).await;
    let drained = probing_vmr(&bed, "drained", 0, [127, 1, 2, 1], Duration::ZERO).await;
    for vmr in [&far, &near, &drained] {
        registered(vmr).await;
    }
    until(async || bed.handle.status().lines.pings >= 3).await;
    assert!(bed.handle.rtt(&id("far")).is_some());
    bed.handle.drain(id("drained"), true).await.expect("drained");

    let a = agent(&bed, "a", [127, 2, 0, 5]);
    let ranked = upstreams(&a).await;
    assert_eq!(names(&ranked), ["near", "far"], "in the order of arrival, and not the drained one");
    let cached = agent(&bed, "neighbour", [127, 2, 0, 6]);
    until(async || bed.handle.status().counters.reports > 0).await;
    let told = upstreams(&cached).await;
    assert_eq!(names(&told), ["near", "far"]);
    let others: Vec<_> = bed.handle.cache(None, 9).iter().map(|entry| entry.others.len()).collect();
    assert!(
        !others.is_empty() && others.iter().all(|others| *others == 1),
        "the list of arrivals: {others:?}"
    );
    let status = bed.handle.status();
    assert!(status.lines.orders >= 2 && status.counters.drains == 1, "{:?}", status.lines);
    bed.stop().await;
}

// proves A5: what a node measured by itself since no probe came is not told to others as what probes found
#[tokio::test]
async fn by_round_trip_time_a_node_that_no_probe_comes_to_measures_for_itself_alone() {
    use vmcast_proto::{nearest::rtt::WaitRule, registry::Config};

    let (store, listen) = (crate::admin::Mirror::default(), ([127, 0, 0, 1], 0).into());
    let way = crate::admin::Way::Rtt(WaitRule::Half);
    let bed = Bed::start_by(Config::default(), store, listen, way).await;
    // They answer, and do not probe.
    let relays = [Relay::start([127, 1, 0, 1], 58).await, Relay::start([127, 1, 1, 1], 62).await];
    let vmrs = [vmr(&bed, "far", 0, &relays[0]), vmr(&bed, "near", 0, &relays[1])];
    for vmr in &vmrs {
        registered(vmr).await;
    }
    until(async || bed.handle.status().lines.pings >= 2).await;
    let a = agent(&bed, "a", [127, 2, 0, 5]);
    assert_eq!(names(&upstreams(&a).await), ["near", "far"], "by hops");
    assert!(bed.handle.status().lines.orders > 0, "they were told to probe");
    // It has told what it was going to before anybody hears whom it has found.
    assert_eq!((bed.handle.status().counters.reports, bed.handle.census().entries), (0, 0));
    bed.stop().await;
}

// proves D4: a join that a VMR refuses is told to the node that made it, and to nobody else, until it is allowed
#[tokio::test]
async fn a_node_hears_why_its_join_is_refused_and_when_no_longer() {
    let bed = Bed::new().await;
    let relay = Relay::start([127, 1, 0, 9], 60).await;
    let vmr = vmr(&bed, "core", 0, &relay);
    let (agent, other) = (agent(&bed, "a", [127, 1, 0, 2]), agent(&bed, "b", [127, 1, 0, 3]));
    for attachment in [&vmr, &agent, &other] {
        registered(attachment).await;
    }
    let group: IpAddr = [239, 1, 1, 1].into();
    let tunnel = SocketAddr::from(([127, 1, 0, 2], 5000));
    let question = |tunnel| RefusedQuestion { vmr: id("core"), tunnel, missing: [group].into() };
    agent.ask_refused(Some(question(tunnel)));
    // Whose tunnel begins elsewhere is not told of it.
    other.ask_refused(Some(question(tunnel)));
    let join = |tunnel: &str| v1::RefusedJoin {
        tunnel: tunnel.to_owned(),
        group: group.to_string(),
        reason: "rule 1 of the policy forbids it".to_owned(),
    };
    vmr.refuses(v1::RefusedJoins { joins: vec![join("127.1.0.2:5001"), join("127.1.0.2:5000")] });
    let refused = wait(&mut agent.refused(), |refused| !refused.is_empty()).await;
    assert_eq!(refused, [(group, "rule 1 of the policy forbids it".to_owned())].into());
    assert!(other.refused().borrow().is_empty());
    vmr.refuses(v1::RefusedJoins { joins: vec![join("127.1.0.2:5001")] });
    wait(&mut agent.refused(), RefusedGroups::is_empty).await;

    // What cannot be read changes nothing, and is counted.
    vmr.refuses(v1::RefusedJoins { joins: vec![join("nowhere")] });
    until(async || bed.handle.status().malformed == 1).await;
    let of = |port| bed.handle.refused_joins(&id("core"), SocketAddr::from(([127, 1, 0, 2], port))).len();
    assert_eq!((of(5000), of(5001)), (0, 1));
    // A VMR that leaves refuses nothing.
    vmr.close().await;
    until(async || of(5001) == 0).await;
    bed.stop().await;
}

// proves D4: a VMR hears at which tunnels of its the nodes are that rules name, and those beside them
#[tokio::test]
async fn a_vmr_hears_who_is_at_its_tunnels_as_far_as_rules_by_identity_need_it() {
    let bed = Bed::new().await;
    let relays = [Relay::start([127, 1, 0, 9], 60).await, Relay::start([127, 1, 0, 8], 60).await];
    let mut vmrs = [vmr(&bed, "core", 0, &relays[0]), vmr(&bed, "other", 0, &relays[1])];
    let [named, beside, afar] = ["named", "beside", "afar"].map(|name| agent(&bed, name, [127, 1, 0, 2]));
    for attachment in vmrs.iter().chain([&named, &beside, &afar]) {
        registered(attachment).await;
    }
    let [mut orders, mut of_other] = vmrs.each_mut().map(|vmr| vmr.take_orders().expect("a line"));
    let own = |vmr: &str, text: &str, nonce| OwnTunnel {
        vmr: id(vmr),
        tunnel: text.parse().expect("a tunnel"),
        nonce,
        response_mac: [7; 6],
    };
    let of_named = own("core", "198.51.100.1:1", 1);
    let of_beside = own("core", "198.51.100.1:2", 2);
    named.at(vec![of_named.clone()]);
    beside.at(vec![of_beside.clone(), own("other", "198.51.100.1:3", 3)]);
    afar.at(vec![own("core", "198.51.100.2:1", 4)]);
    let told = async |name: &str| {
        let nodes = bed.handle.nodes(None, 9);
        nodes
            .iter()
            .find(|node| node.id() == &id(name))
            .map(|node| node.registration.about.own_tunnels.clone())
    };
    until(async || told("beside").await.is_some_and(|own| own.len() == 2)).await;
    until(async || told("named").await.is_some_and(|own| own.len() == 1)).await;
    until(async || told("afar").await.is_some_and(|own| own.len() == 1)).await;

    // Nobody needs to know before a rule names somebody.
    assert_eq!(policy_of(&mut orders, |_| true).await.claims, []);
    let rule = Rule { node: Some(id("named")), ..Rule::new(1, Effect::Deny, Action::Receive) };
    let change = move |policy: &mut Policy| {
        policy.rules = vec![rule.clone()];
        Ok(())
    };
    let version = bed.handle.change_policy(change).await.expect("changed").version;
    let policy = policy_of(&mut orders, |policy| policy.version == version).await;
    assert_eq!(policy.claims, [(id("named"), of_named), (id("beside"), of_beside.clone())]);
    let policy = policy_of(&mut of_other, |policy| policy.version == version).await;
    assert_eq!(policy.claims, [(id("beside"), own("other", "198.51.100.1:3", 3))]);

    // Who goes to another tunnel is found there at once; the VMR that this is not about hears nothing.
    let moved = own("core", "198.51.100.1:9", 5);
    named.at(vec![moved.clone()]);
    let policy = policy_of(&mut orders, |policy| policy.claims.iter().any(|(_, own)| *own == moved)).await;
    assert_eq!(policy.claims, [(id("named"), moved.clone()), (id("beside"), of_beside)]);
    assert!(!matches!(of_other.try_recv(), Ok(VmrOrder::Policy(_))));
    // Another proof of the same is told with the next renewal, and to lines that begin.
    let renewals = bed.handle.status().counters.renewals;
    named.at(vec![own("core", "198.51.100.1:9", 6)]);
    named.at(vec![]);
    policy_of(&mut orders, |policy| policy.claims.is_empty()).await;
    assert_eq!(bed.handle.status().counters.renewals, renewals + 1, "the other proof was not hurried");
    bed.stop().await;
}

// proves D4: a node is believed again after the router forgot what proved where it is
#[tokio::test]
async fn a_vmr_hears_other_proofs_of_a_tunnel_that_it_knows() {
    let bed = Bed::new().await;
    let relay = Relay::start([127, 1, 0, 9], 60).await;
    let mut vmr = vmr(&bed, "core", 0, &relay);
    registered(&vmr).await;
    let mut orders = vmr.take_orders().expect("a line");
    let rule = Rule { node: Some(id("named")), ..Rule::new(1, Effect::Allow, Action::Receive) };
    let change = move |policy: &mut Policy| {
        policy.rules = vec![rule.clone()];
        Ok(())
    };
    bed.handle.change_policy(change).await.expect("changed");
    let mut client = bed.client([127, 1, 0, 2]).await;
    for nonce in 1..=3 {
        let own = v1::OwnTunnel {
            vmr_id: "core".to_owned(),
            tunnel: "198.51.100.1:1".to_owned(),
            nonce,
            response_mac: vec![7; 6],
        };
        let node = v1::Node {
            id: "named".to_owned(),
            role: v1::Role::Agent.into(),
            own_tunnels: vec![own],
            ..v1::Node::default()
        };
        let request = v1::RegisterRequest { node: Some(node), ..v1::RegisterRequest::default() };
        client.register(request).await.expect("granted");
        let is_it = |policy: &Policy| policy.claims.iter().any(|(_, own)| own.nonce == nonce);
        let policy = policy_of(&mut orders, is_it).await;
        assert_eq!((policy.claims.len(), policy.known_by_tunnels), (1, [id("named")].into()));
    }
    bed.stop().await;
}

/// The next policy that is told on a line and is as wanted.
async fn policy_of(orders: &mut mpsc::Receiver<VmrOrder>, wanted: impl Fn(&Policy) -> bool) -> Policy {
    let next = async {
        loop {
            match orders.recv().await.expect("the line stands") {
                VmrOrder::Policy(policy) if wanted(&policy) => return policy,
                _ => {}
            }
        }
    };
    tokio::time::timeout(HANG, next).await.expect("it hangs")
}

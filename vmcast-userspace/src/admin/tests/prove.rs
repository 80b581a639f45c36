//! Return probes, between a real server and real links.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{net::UdpSocket, task::JoinHandle};
use vmcast_api::{EndpointProof, ProofState};
use vmcast_proto::{
    nearest,
    registry::{About, Config, Found, NodeId, Registration, Role},
};
use vmcast_signal::v1;
use vmcast_wire::amt::Message;

use super::bed::Bed;
use crate::{
    admin::{Mirror, Way, convert::proof_state},
    link::{AdminClient, Ask, Attachment, Settings, attach},
};

/// A test that waits longer than this hangs; nothing is measured by it.
const HANG: Duration = Duration::from_secs(60);

/// A relay with some endpoints, which belongs to a VMR or to nobody.
struct Relay {
    endpoints: Vec<SocketAddr>,
    owner: Arc<Mutex<Option<Attachment>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Relay {
    async fn start(addresses: &[&str]) -> Self {
        let (mut endpoints, mut tasks, owner) = (Vec::new(), Vec::new(), Arc::default());
        for address in addresses {
            let address: IpAddr = address.parse().expect("an address");
            let socket = UdpSocket::bind((address, 0)).await.expect("bind");
            endpoints.push(socket.local_addr().expect("address"));
            tasks.push(tokio::spawn(serve(socket, Arc::clone(&owner))));
        }
        Self { endpoints, owner, tasks }
    }

    fn belongs_to(&self, vmr: Attachment) {
        *self.owner.lock().unwrap() = Some(vmr);
    }
}

impl Relay {
    /// What its owner was told of its endpoints, once that is as wanted.
    async fn told(
        &self,
        wanted: impl Fn(&BTreeMap<SocketAddr, ProofState>) -> bool,
    ) -> BTreeMap<SocketAddr, ProofState> {
        let look = async {
            loop {
                let link = self.owner.lock().unwrap().as_ref().expect("its owner").admin_link();
                let of = |proof: EndpointProof| (proof.endpoint, proof.found);
                match link.endpoints.map(|endpoints| endpoints.into_iter().map(of).collect()) {
                    Some(told) if wanted(&told) => return told,
                    Some(_) | None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(HANG, look).await.expect("it is told")
    }
}

async fn serve(socket: UdpSocket, owner: Arc<Mutex<Option<Attachment>>>) {
    let endpoint = socket.local_addr().expect("address");
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.expect("receive");
        let Ok(Message::RelayDiscovery { nonce }) = Message::parse(&buffer[..length]) else {
            panic!("a discovery: {:?}", &buffer[..length]);
        };
        if let Some(vmr) = &*owner.lock().unwrap() {
            vmr.discovered(nonce);
        }
        let answer = Message::RelayAdvertisement { nonce, relay: endpoint.ip() }.to_vec();
        socket.send_to(&answer, from).await.expect("send");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn bed() -> Bed {
    bed_that(true).await
}

async fn bed_that(return_probe: bool) -> Bed {
    let config = Config { return_probe, ..Config::default() };
    Bed::start_by(config, Mirror::default(), ([127, 0, 0, 1], 0).into(), Way::Hops).await
}

fn registration(name: &str, role: Role, endpoints: &[SocketAddr]) -> Registration {
    Registration {
        id: name.parse().expect("an id"),
        role,
        endpoints: endpoints.to_vec(),
        name: name.parse().expect("a name"),
        software: "vmcast".parse().expect("a name"),
        about: About::default(),
    }
}

fn vmr(bed: &Bed, name: &str, endpoints: &[SocketAddr]) -> Attachment {
    let settings = Settings {
        admins: vec![bed.url()],
        registration: registration(name, Role::Vmr { rank: 0 }, endpoints),
        requery: Settings::REQUERY,
        local: None,
        probe: nearest::Config::default(),
        seed: 1,
        identity: None,
    };
    attach(settings).expect("attached")
}

/// What was found at an endpoint of a node, once it is something else than `Awaited`.
async fn found(bed: &Bed, name: &str, endpoint: SocketAddr) -> Found {
    let id: NodeId = name.parse().expect("an id");
    let look = async {
        loop {
            let nodes = bed.handle.nodes(None, 100);
            let node = nodes.iter().find(|node| *node.id() == id);
            match node.and_then(|node| node.found(&endpoint)) {
                Some(found) if found != Found::Awaited => return found,
                Some(_) | None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(HANG, look).await.expect("it is probed")
}

/// Who is given to an agent, and by what.
async fn given(bed: &Bed) -> Vec<(String, Vec<SocketAddr>)> {
    let client = AdminClient::new(&[bed.url()], None, None).expect("a client");
    client.register(&registration("agent", Role::Agent, &[])).await.expect("registered");
    let id = "agent".parse().expect("an id");
    let ask = Ask { id, addresses: vec![], excluded: Default::default(), current: None, others: 0 };
    let answer = client.nearest(&ask).await.expect("an answer");
    answer.vmrs.into_iter().map(|vmr| (vmr.id.to_string(), vmr.endpoints)).collect()
}

// proves A2: a VMR that lies about its address is found by a return probe, over IPv4 and IPv6
#[tokio::test]
async fn a_vmr_is_given_by_the_addresses_at_which_it_is_and_a_liar_is_not() {
    let bed = bed().await;
    let own = Relay::start(&["127.1.0.1", "::1"]).await;
    let victim = Relay::start(&["127.1.0.2", "::1"]).await;
    let nobody = UdpSocket::bind("127.1.0.9:0").await.expect("bind");
    let silent = nobody.local_addr().expect("address");

    let claimed = [&victim.endpoints[..], &[silent], &own.endpoints].concat();
    own.belongs_to(vmr(&bed, "liar", &claimed));
    let expected = [Found::Foreign, Found::Foreign, Found::Silent, Found::Proved, Found::Proved];
    for (endpoint, expected) in claimed.iter().zip(expected) {
        assert_eq!(found(&bed, "liar", *endpoint).await, expected, "{endpoint}");
    }
    assert_eq!(given(&bed).await, [("liar".to_owned(), own.endpoints.clone())]);
    let told = own.told(|told| told.iter().all(|(_, found)| *found != ProofState::Awaited)).await;
    let shown = expected.map(proof_state);
    assert_eq!(told, claimed.iter().copied().zip(shown).collect(), "the VMR knows it, too");

    // Whose address it is comes, is let in, and the liar is out.
    victim.belongs_to(vmr(&bed, "honest", &victim.endpoints));
    for endpoint in &victim.endpoints {
        assert_eq!(found(&bed, "honest", *endpoint).await, Found::Proved, "{endpoint}");
    }
    assert_eq!(given(&bed).await, [("honest".to_owned(), victim.endpoints.clone())]);
    let counters = bed.handle.status().counters;
    assert_eq!((counters.evictions, counters.proofs_foreign, counters.proofs_silent), (1, 2, 1));
    assert_eq!(counters.proofs, 4);
    bed.stop().await;
}

// proves A2
#[tokio::test]
async fn a_vmr_that_moves_is_proved_where_it_is_now() {
    let bed = bed().await;
    let relay = Relay::start(&["127.1.0.1", "127.1.0.2"]).await;
    let [before, after] = relay.endpoints[..] else { panic!("two endpoints") };
    relay.belongs_to(vmr(&bed, "v", &[before]));
    assert_eq!(found(&bed, "v", before).await, Found::Proved);
    relay.owner.lock().unwrap().as_ref().expect("its owner").moved(vec![after]);
    let moved = async {
        while bed.handle.nodes(None, 9).iter().all(|node| node.found(&after).is_none()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, moved).await.expect("it moves");
    assert_eq!(found(&bed, "v", after).await, Found::Proved);
    assert_eq!(given(&bed).await, [("v".to_owned(), vec![after])]);
    relay.told(|told| *told == [(after, ProofState::Proved)].into()).await;
    bed.stop().await;
}

#[tokio::test]
async fn a_vmr_hears_that_nobody_probes_so_that_it_waits_for_nothing() {
    let bed = bed_that(false).await;
    let relay = Relay::start(&["127.1.0.1"]).await;
    relay.belongs_to(vmr(&bed, "v", &relay.endpoints));
    assert_eq!(relay.told(|_| true).await, [].into());
    assert_eq!(given(&bed).await, [("v".to_owned(), relay.endpoints.clone())]);
    bed.stop().await;
}

// proves A2: an older VMR, which does not know of return probes, answers its line all the same
#[tokio::test]
async fn a_vmr_that_does_not_take_part_is_given_to_nobody_and_the_operator_sees_why() {
    let bed = bed().await;
    let registration = registration("old", Role::Vmr { rank: 0 }, &["127.1.0.1:9".parse().unwrap()]);
    let client = AdminClient::new(&[bed.url()], None, None).expect("a client");
    client.register(&registration).await.expect("registered");
    let (answers, queue) = tokio::sync::mpsc::channel(8);
    let says =
        |node: &str, answered| v1::AttendRequest { node_id: node.to_owned(), answered, ..Default::default() };
    answers.send(says("old", 0)).await.expect("room");
    let outgoing = futures_util::stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
    let mut commands = client.attend(outgoing).await.expect("a line");
    tokio::spawn(async move {
        while let Ok(Some(command)) = commands.message().await {
            answers.send(says("", command.number)).await.expect("room");
        }
    });
    assert_eq!(found(&bed, "old", registration.endpoints[0]).await, Found::Mute);
    assert_eq!(given(&bed).await, []);
    assert_eq!(bed.handle.status().counters.proofs_mute, 1);
    bed.stop().await;
}

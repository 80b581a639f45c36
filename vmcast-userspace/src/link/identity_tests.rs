//! A node that has yet to join, and one that is shut out.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use vmcast_proto::{
    nearest,
    registry::{About, NodeId, Registration, Role},
};

use super::{identity::join_in_time, *};
use crate::{
    admin::tests::bed::Bed,
    config::Fallback,
    identity::{CertificateRequest, JoinToken, NodeIdentity, Prepared, Role as NodeRole, TokenOrder},
};

/// A test that waits longer than this hangs; nothing is measured by it.
pub(super) const HANG: Duration = Duration::from_secs(60);

/// A way to an admin that is open when a test wants it to be.
pub(super) struct Way {
    address: SocketAddr,
    is_open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Way {
    /// Nobody answers there yet.
    pub(super) async fn closed(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
        let address = listener.local_addr().expect("an address");
        let is_open = watch::Sender::new(false);
        let open = is_open.subscribe();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.expect("accept");
                if *open.borrow() {
                    connections.spawn(carry(near, to, open.clone()));
                }
            }
        });
        Self { address, is_open, task }
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(super) fn open(&self) {
        self.is_open.send_replace(true);
    }

    pub(super) fn close(&self) {
        self.is_open.send_replace(false);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries a connection on as long as the way is open.
async fn carry(mut near: TcpStream, to: SocketAddr, mut open: watch::Receiver<bool>) {
    let mut far = TcpStream::connect(to).await.expect("the admin");
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = open.wait_for(|open| !open) => {}
    }
}

pub(super) fn id(text: &str) -> NodeId {
    text.parse().expect("an id")
}

pub(super) async fn token(bed: &Bed, url: String) -> JoinToken {
    let order = TokenOrder { role: NodeRole::Agent, ttl: Duration::from_secs(3600), uses: 1, node: None };
    let made = bed.gate.with(move |roster, now| {
        let (id, secret) = roster.create_token(now, &order).expect("a token");
        JoinToken { admins: vec![url], fingerprint: roster.authority().fingerprint(), id, secret }
    });
    made.await.expect("TLS")
}

pub(super) fn settings(url: String, identity: &Arc<NodeIdentity>) -> Settings {
    Settings {
        admins: vec![url],
        registration: Registration {
            id: identity.certified().node,
            role: Role::Agent,
            endpoints: Vec::new(),
            name: "a".parse().expect("a name"),
            software: "vmcast".parse().expect("a name"),
            about: About::default(),
        },
        requery: Settings::REQUERY,
        local: None,
        probe: nearest::Config::default(),
        seed: 7,
        identity: Some(Arc::clone(identity)),
    }
}

/// Waits until a watched value is as wanted.
pub(super) async fn wait<T: Clone>(receiver: &mut watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) -> T {
    let value = tokio::time::timeout(HANG, receiver.wait_for(wanted)).await.expect("it hangs");
    value.expect("it runs").clone()
}

pub(super) async fn joined(bed: &Bed, directory: &Path) -> Arc<NodeIdentity> {
    let token = token(bed, bed.url()).await;
    let failing = watch::Sender::new(None);
    let joined = join_in_time(&token, &id("a"), directory, &failing, bed.clock.clone()).await;
    Arc::new(joined.expect("joined"))
}

/// What an admin has named to a node before.
pub(super) fn keep_a_list(identity: &NodeIdentity) {
    let vmr = serde_json::json!({ "id": "core", "name": "core", "endpoint": "127.1.0.9:2268", "rank": 0 });
    identity.keep_ranked_vmrs(&[vmr]).expect("a file");
}

pub(super) fn kept(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("vmrs.json")).expect("a list")
}

// proves D4: who has yet to join waits for an admin, and ends only if one refuses
#[tokio::test]
async fn a_node_that_has_yet_to_join_waits_until_an_admin_answers() {
    let bed = Bed::secure().await;
    let way = Way::closed(bed.address).await;
    let token = token(&bed, way.url()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let (failing, mut failure) = watch::channel(None);
    let joining = tokio::spawn({
        let (token, path, clock) = (token.clone(), directory.path().to_owned(), bed.clock.clone());
        async move { join_in_time(&token, &id("a"), &path, &failing, clock).await }
    });
    let reason = wait(&mut failure, Option::is_some).await.expect("a reason");
    assert!(reason.contains("no admin can be reached"), "{reason}");
    way.open();
    let joined = tokio::time::timeout(HANG, joining).await.expect("it hangs").expect("no panic");
    assert_eq!(joined.expect("joined").certified().node, id("a"));
    // A refusal is none that time helps against.
    let other = tempfile::tempdir().expect("a directory");
    let failing = watch::Sender::new(None);
    let name = id("b");
    let refused = join_in_time(&token, &name, other.path(), &failing, bed.clock.clone());
    let refused = tokio::time::timeout(HANG, refused).await.expect("it ends").expect_err("refused");
    assert!(refused.to_string().contains("used already"), "{refused:#}");
    assert_eq!(*failing.borrow(), None);
    bed.stop().await;
}

fn joins(bed: &Bed) -> u64 {
    bed.gate.tally().counters().find(|(name, _)| *name == "joined").expect("a counter").1
}

/// Carries connections to an admin, and of the first join all but the answer: ends that connection before it.
async fn lose_the_first_answer(listener: TcpListener, bed: &Bed) {
    loop {
        let (near, _) = listener.accept().await.expect("accept");
        let far = TcpStream::connect(bed.address).await.expect("the admin");
        let loses = joins(bed) == 0;
        let (mut near_read, mut near_write) = near.into_split();
        let (mut far_read, mut far_write) = far.into_split();
        let there = async { tokio::io::copy(&mut near_read, &mut far_write).await.map(drop) };
        let back = async {
            let mut bytes = [0; 4096];
            loop {
                let n = far_read.read(&mut bytes).await?;
                // The admin counts the join before it answers.
                if n == 0 || loses && joins(bed) > 0 {
                    return Ok::<_, std::io::Error>(());
                }
                near_write.write_all(&bytes[..n]).await?;
            }
        };
        tokio::select! {
            _ = there => {}
            _ = back => {}
        }
    }
}

// proves D4: an answer that is lost costs a node neither its token nor its name
#[tokio::test]
async fn a_join_whose_answer_is_lost_is_made_again_with_the_same_key() {
    let bed = Bed::secure().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let token = token(&bed, url).await;
    let directory = tempfile::tempdir().expect("a directory");
    let failing = watch::Sender::new(None);
    let name = id("a");
    let joining = join_in_time(&token, &name, directory.path(), &failing, bed.clock.clone());
    let joined = tokio::select! {
        joined = tokio::time::timeout(HANG, joining) => joined.expect("it hangs").expect("joined"),
        () = lose_the_first_answer(listener, &bed) => unreachable!("it goes on for ever"),
    };
    assert_eq!((joined.certified().node, joins(&bed)), (id("a"), 2));
    assert!(failing.borrow().is_some(), "the first answer was lost");
    let files: Vec<_> = std::fs::read_dir(directory.path()).expect("a directory").collect();
    assert_eq!(files.len(), 1, "the key is in the identity alone: {files:?}");
    bed.stop().await;
}

// proves D4: nor does a restart before the answer
#[tokio::test]
async fn a_node_that_starts_again_joins_with_the_key_that_it_began_to_join_with() {
    let bed = Bed::secure().await;
    let (first, second) = (token(&bed, bed.url()).await, token(&bed, bed.url()).await);
    let directory = tempfile::tempdir().expect("a directory");
    let request = Prepared::to_join(&first, directory.path()).expect("a key").request;
    let word = first.clone();
    let unheard = bed
        .gate
        .with(move |roster, now| roster.join(now, (&word.id, &word.secret), &id("a"), &request).map(drop));
    unheard.await.expect("TLS").expect("joined");
    let failing = watch::Sender::new(None);
    let joined = join_in_time(&first, &id("a"), directory.path(), &failing, bed.clock.clone()).await;
    joined.expect("joined with the same key");

    // Each token has a key of its own, and what cannot be read is none.
    let key = |token: &JoinToken| {
        let prepared = Prepared::to_join(token, directory.path()).expect("a key");
        CertificateRequest::parse(&prepared.request).expect("a request").key()
    };
    let (one, other) = (key(&first), key(&second));
    assert_ne!(one, other);
    assert_eq!(other, key(&second));
    std::fs::write(directory.path().join("joining.json"), "nothing").expect("a file");
    assert_ne!(other, key(&second));
    bed.stop().await;
}

// proves A2 and D4: a kept list is for want of an admin, and for nobody who is shut out
#[tokio::test]
async fn a_node_that_is_revoked_does_not_go_on_by_its_kept_list() {
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().expect("a directory");
    let identity = joined(&bed, directory.path()).await;
    let way = Way::closed(bed.address).await;

    // No admin at all: it goes by the list, and what it registers with later does not take that away.
    keep_a_list(&identity);
    let attachment = attach(settings(way.url(), &identity)).expect("a link");
    let mut naming = attachment.naming(Fallback::default(), "a");
    let named = tokio::time::timeout(HANG, naming.changed()).await.expect("it hangs");
    assert_eq!(named.len(), 1, "{named:?}");
    way.open();
    let is_registered = |status: &LinkStatus| matches!(status.state, LinkState::Registered { .. });
    wait(&mut attachment.status(), is_registered).await;
    assert!(kept(directory.path()).contains("core"));
    attachment.close().await;
    way.close();

    // The same while it is shut out: as soon as an admin says so, the list is withdrawn, here and in the file.
    bed.gate.revoke_node(id("a")).await.expect("the store").expect("it was in");
    let attachment = attach(settings(way.url(), &identity)).expect("a link");
    let mut naming = attachment.naming(Fallback::default(), "a");
    let named = tokio::time::timeout(HANG, naming.changed()).await.expect("it hangs");
    assert_eq!(named.len(), 1, "{named:?}");
    way.open();
    let is_refused = |status: &LinkStatus| matches!(status.state, LinkState::Refused { .. });
    let status = wait(&mut attachment.status(), is_refused).await;
    let LinkState::Refused { reason, .. } = status.state else { panic!("{status:?}") };
    assert!(reason.contains("revoked"), "{reason}");
    let named = tokio::time::timeout(HANG, naming.changed()).await.expect("it hangs");
    assert_eq!(named, []);
    assert_eq!(*attachment.upstreams().borrow(), None);
    assert!(!kept(directory.path()).contains("core"), "{}", kept(directory.path()));
    attachment.close().await;
    bed.stop().await;
}

// proves D4: what the admin says by an alert of TLS is a refusal, and none of a stranger on the way
#[tokio::test]
async fn an_admin_that_does_not_take_a_certificate_is_not_taken_for_none() {
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().expect("a directory");
    let identity = joined(&bed, directory.path()).await;
    let registers = async |identity: &Arc<NodeIdentity>| {
        let client = AdminClient::new(&[bed.url()], None, Some(identity)).expect("a client");
        client.register(&settings(bed.url(), identity).registration).await
    };
    registers(&identity).await.expect("in");
    // Its time is over by the admin's clock. The test's own clock, that of this host, is somewhere before or behind.
    bed.pass(Duration::from_secs(40 * 86_400));
    let failure = registers(&identity).await.expect_err("expired");
    assert!(failure.to_string().contains("set the clock right"), "{failure}");
    let is_over = crate::clock::unix_millis() >= identity.certified().expires.0;
    match &failure {
        AdminError::NotTaken { .. } => assert!(is_over, "{failure:?}"),
        AdminError::Unreachable { .. } => {
            assert!(!is_over, "clocks that disagree are no refusal: {failure:?}")
        }
        other => panic!("{other:?}"),
    }

    // Somebody else at the address says the same before he has shown who he is.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind");
    let address = listener.local_addr().expect("an address");
    let stranger = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            // A fatal alert, unknown_ca (RFC 8446 §6).
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &[21, 3, 3, 0, 2, 2, 48]).await;
        }
    });
    let url = format!("https://{address}");
    let client = AdminClient::new(std::slice::from_ref(&url), None, Some(&identity)).expect("a client");
    let failure = client.register(&settings(url, &identity).registration).await.expect_err("a stranger");
    assert!(matches!(failure, AdminError::Unreachable { .. }), "{failure:?}");
    stranger.abort();
    bed.stop().await;
}

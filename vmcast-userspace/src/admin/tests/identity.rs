//! TLS, tokens and certificates over real connections, with a clock that the test moves.

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use vmcast_proto::registry::{Config, NodeId, Registration, Registry, Role as NodeRole, UnixMillis};
use vmcast_signal::{
    tonic::{Code, Status},
    v1::{self, registry_client::RegistryClient},
};

use super::bed::Bed;
use crate::{
    admin::{Clock, Handle, SqliteStore, Way},
    identity::{
        IdentityError, JoinToken, NodeIdentity, Refusal, Role, Roster, SharedError, Standing, TokenOrder,
        join, shared_authority,
    },
    link::{AdminClient, AdminError, Ask, renew},
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// A test that waits longer than this hangs.
const HANG: Duration = Duration::from_secs(60);

pub(super) fn id(text: &str) -> NodeId {
    text.parse().expect("an id")
}

pub(super) fn order(role: Role) -> TokenOrder {
    TokenOrder { role, ttl: HOUR, uses: 1, node: None }
}

pub(super) async fn token(bed: &Bed, order: TokenOrder) -> JoinToken {
    let url = bed.url();
    let make = bed.gate.with(move |roster, now| {
        let (id, secret) = roster.create_token(now, &order).expect("a token");
        JoinToken { admins: vec![url], fingerprint: roster.authority().fingerprint(), id, secret }
    });
    make.await.expect("TLS")
}

pub(super) async fn joined(bed: &Bed, name: &str, role: Role, directory: &Path) -> Arc<NodeIdentity> {
    let token = token(bed, order(role)).await;
    Arc::new(join(&token, &id(name), directory, bed.clock.clone()).await.expect("joined"))
}

pub(super) fn count(bed: &Bed, refusal: Refusal) -> u64 {
    let label = refusal.label();
    bed.gate.tally().counters().find(|(name, _)| *name == label).map(|(_, n)| n).unwrap()
}

/// Waits until a refused handshake is counted, which the other end may hear of before that.
async fn counted(bed: &Bed, refusal: Refusal) {
    let counting = async {
        while count(bed, refusal) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(HANG, counting).await.expect("counted");
}

/// Why somebody did not get in; it was counted once, and nobody has a certificate by it.
async fn refused(bed: &Bed, token: &JoinToken, name: &str, refusal: Refusal) -> AdminError {
    let directory = tempfile::tempdir().unwrap();
    let before = count(bed, refusal);
    let error = join(token, &id(name), directory.path(), bed.clock.clone()).await.expect_err("refused");
    assert_eq!(count(bed, refusal), before + 1, "{refusal:?}: {error}");
    assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none(), "something was stored");
    let IdentityError::Admin(error) = error else { panic!("{error}") };
    assert!(error.to_string().contains(&refusal.to_string()), "{error}");
    error
}

/// A token does not give away a name that is taken.
pub(super) async fn refused_name(bed: &Bed, name: &str) {
    let token = token(bed, order(Role::Agent)).await;
    refused(bed, &token, name, Refusal::NameTaken).await;
}

pub(super) fn client(bed: &Bed, identity: &Arc<NodeIdentity>) -> AdminClient {
    AdminClient::new(&[bed.url()], None, Some(identity)).expect("a client")
}

pub(super) fn registration(name: &str, role: NodeRole) -> Registration {
    let endpoints = match role {
        NodeRole::Vmr { .. } => vec!["127.1.0.1:2268".parse().unwrap()],
        NodeRole::Agent => vec![],
    };
    Registration {
        id: id(name),
        role,
        endpoints,
        name: name.parse().unwrap(),
        software: "x".parse().unwrap(),
        about: Default::default(),
    }
}

fn ask(name: &str) -> Ask {
    let (addresses, excluded) = (Vec::new(), Default::default());
    Ask { id: id(name), addresses, excluded, current: None, others: 0 }
}

/// What a VMR says at first on its line, which it holds.
fn says(name: &str) -> impl Stream<Item = v1::AttendRequest> + Send + 'static {
    let first = v1::AttendRequest { node_id: name.to_owned(), answered: 0, ..v1::AttendRequest::default() };
    stream::once(std::future::ready(first)).chain(stream::pending())
}

pub(super) fn code(error: &AdminError) -> Code {
    match error {
        AdminError::Refused { code, .. } => *code,
        AdminError::NotTaken { .. } => Code::Unauthenticated,
        AdminError::Unreachable { .. } => Code::Unavailable,
        other => panic!("{other}"),
    }
}

// proves D4
#[tokio::test]
async fn a_token_brings_a_node_in_once_with_a_key_that_never_left_it() {
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().unwrap();
    let token = token(&bed, order(Role::Agent)).await;
    let word = token.to_string().parse::<JoinToken>().unwrap();
    let identity = join(&word, &id("a"), directory.path(), bed.clock.clone()).await.expect("joined");
    assert_eq!((identity.certified().node, identity.certified().role), (id("a"), Role::Agent));
    // What was stored is as good.
    let stored = NodeIdentity::load(directory.path(), bed.clock.clone()).unwrap().expect("an identity");
    let client = client(&bed, &Arc::new(stored));
    client.register(&registration("a", NodeRole::Agent)).await.expect("registered");
    assert_eq!(bed.ids().await, ["a"]);

    refused(&bed, &token, "b", Refusal::TokenUsed).await;
    let mut forged = token.clone();
    forged.secret = "00".repeat(16);
    refused(&bed, &forged, "b", Refusal::TokenUnknown).await;
    forged.id = "nobody".into();
    refused(&bed, &forged, "b", Refusal::TokenUnknown).await;
    bed.stop().await;
}

#[tokio::test]
async fn tokens_that_are_over_revoked_or_for_others_let_nobody_in() {
    let bed = Bed::secure().await;
    let for_b = token(&bed, TokenOrder { node: Some(id("b")), ..order(Role::Router) }).await;
    refused(&bed, &for_b, "a", Refusal::TokenOfAnotherNode).await;
    let revoked = token(&bed, order(Role::Agent)).await;
    let of = revoked.id.clone();
    assert!(bed.gate.with(move |roster, _| roster.revoke_token(&of)).await.unwrap().unwrap());
    refused(&bed, &revoked, "a", Refusal::TokenRevoked).await;
    // A clock that jumps ahead ends a token for good, once that was seen.
    bed.pass(2 * HOUR);
    refused(&bed, &for_b, "b", Refusal::TokenExpired).await;
    bed.gate.with(|roster, now| roster.sweep(now, now)).await.unwrap().unwrap();
    bed.turn_back(2 * HOUR);
    refused(&bed, &for_b, "b", Refusal::TokenExpired).await;
    bed.stop().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_not_given_away() {
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().unwrap();
    let _router = joined(&bed, "core", Role::Router, directory.path()).await;
    let agent = token(&bed, TokenOrder { uses: 5, ..order(Role::Agent) }).await;
    let failure = refused(&bed, &agent, "core", Refusal::NameTaken).await;
    assert!(matches!(failure, AdminError::Duplicate(_)), "{failure}");
    // Revoked, the name is free, but not for those who had a token before.
    bed.pass(Duration::from_secs(1));
    bed.gate.revoke_node(id("core")).await.unwrap().expect("it was in");
    refused(&bed, &agent, "core", Refusal::NodeRevoked).await;
    bed.pass(Duration::from_secs(1));
    joined(&bed, "core", Role::Router, tempfile::tempdir().unwrap().path()).await;
    bed.stop().await;
}

// A node may only act as itself.
#[tokio::test]
async fn a_request_that_names_another_node_or_role_is_refused_and_counted() {
    let bed = Bed::secure().await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let a = client(&bed, &joined(&bed, "a", Role::Agent, one.path()).await);
    let b = client(&bed, &joined(&bed, "b", Role::Agent, two.path()).await);
    b.register(&registration("b", NodeRole::Agent)).await.unwrap();
    let failure = a.register(&registration("b", NodeRole::Agent)).await.expect_err("not itself");
    assert_eq!(code(&failure), Code::PermissionDenied);
    let failure = a.deregister(&id("b")).await.expect_err("not itself");
    assert_eq!(code(&failure), Code::PermissionDenied);
    let failure = a.nearest(&ask("b")).await.expect_err("not itself");
    assert_eq!(code(&failure), Code::PermissionDenied);
    let failure = a.probe_me(&id("b"), v1::Probing::default()).await.expect_err("not itself");
    assert_eq!(code(&failure), Code::PermissionDenied);
    assert_eq!(count(&bed, Refusal::NotItself), 4);
    let failure = a.register(&registration("a", NodeRole::Vmr { rank: 0 })).await.expect_err("an agent");
    assert_eq!(code(&failure), Code::PermissionDenied);
    assert_eq!(count(&bed, Refusal::AnotherRole), 1);
    assert_eq!(bed.ids().await, ["b"]);
    bed.stop().await;
}

#[tokio::test]
async fn a_line_is_for_the_router_of_the_certificate_and_ends_with_it() {
    let bed = Bed::secure().await;
    let (one, two, three) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let agent = client(&bed, &joined(&bed, "a", Role::Agent, one.path()).await);
    let core = client(&bed, &joined(&bed, "core", Role::Router, two.path()).await);
    let other = client(&bed, &joined(&bed, "other", Role::Router, three.path()).await);
    core.register(&registration("core", NodeRole::Vmr { rank: 0 })).await.expect("registered");

    let failure = agent.attend(says("a")).await.expect_err("an agent");
    assert_eq!((code(&failure), count(&bed, Refusal::AnotherRole)), (Code::PermissionDenied, 1));
    let failure = other.attend(says("core")).await.expect_err("not itself");
    assert_eq!((code(&failure), count(&bed, Refusal::NotItself)), (Code::PermissionDenied, 1));
    assert_eq!(bed.handle.status().lines.lines, 0);

    let mut line = core.attend(says("core")).await.expect("a line");
    line.message().await.expect("a ping").expect("a ping");
    assert_eq!(bed.handle.status().lines.lines, 1);
    bed.gate.revoke_node(id("core")).await.unwrap().expect("it was in");
    let ended = async {
        loop {
            match line.message().await {
                Ok(command) => assert!(command.is_some(), "it ends with the reason"),
                Err(status) => break status,
            }
        }
    };
    let ended = tokio::time::timeout(HANG, ended).await.expect("it ends");
    assert_eq!((ended.code(), count(&bed, Refusal::CertificateRevoked)), (Code::Unauthenticated, 1));
    // The peer goes on to hold its own end.
    let gone = async {
        while bed.handle.status().lines.lines > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(HANG, gone).await.expect("it is gone");
    core.attend(says("core")).await.expect_err("revoked");
    bed.stop().await;
}

#[tokio::test]
async fn without_a_certificate_nothing_but_joining_is_possible() {
    let bed = Bed::secure().await;
    let token = token(&bed, order(Role::Agent)).await;
    let tls = crate::identity::TlsClient::of_bearer(token.fingerprint, bed.clock.clone()).unwrap();
    let channel = crate::link::tls_channel(&bed.url(), tls).unwrap();
    let mut anonymous = RegistryClient::new(channel);
    let status: Status = anonymous.list_nodes(v1::ListNodesRequest::default()).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(count(&bed, Refusal::NoCertificate), 1);
    // Nor is there anything in the clear.
    let plain = AdminClient::new(&[format!("http://{}", bed.address)], None, None).unwrap();
    plain.register(&registration("a", NodeRole::Agent)).await.expect_err("TLS is spoken here");
    assert_eq!(bed.ids().await, [""; 0]);
    bed.stop().await;
}

#[tokio::test]
async fn revocation_counts_on_connections_that_stand_and_on_new_ones() {
    let bed = Bed::secure().await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let identity = joined(&bed, "a", Role::Agent, one.path()).await;
    let other = client(&bed, &joined(&bed, "b", Role::Agent, two.path()).await);
    let standing = client(&bed, &identity);
    standing.register(&registration("a", NodeRole::Agent)).await.unwrap();
    other.register(&registration("b", NodeRole::Agent)).await.unwrap();
    bed.gate.revoke_node(id("a")).await.unwrap().expect("it was in");
    assert_eq!(bed.gate.revoke_node(id("a")).await.unwrap(), None);
    for client in [standing, client(&bed, &identity)] {
        let failure = client.register(&registration("a", NodeRole::Agent)).await.expect_err("revoked");
        assert_eq!(code(&failure), Code::Unauthenticated);
        assert!(failure.to_string().contains("revoked"), "{failure}");
        renew(&identity, &client).await.expect_err("revoked");
    }
    assert_eq!(count(&bed, Refusal::CertificateRevoked), 4);
    other.register(&registration("b", NodeRole::Agent)).await.expect("others do not notice");
    bed.stop().await;
}

// A year in which certificates last a month each.
#[tokio::test]
async fn rotation_keeps_a_node_in_for_ever_and_without_it_the_certificate_ends() {
    let bed = Bed::secure().await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let identity = joined(&bed, "a", Role::Agent, one.path()).await;
    let idle = joined(&bed, "idle", Role::Agent, two.path()).await;
    let (rotating, lazy) = (client(&bed, &identity), client(&bed, &idle));
    lazy.register(&registration("idle", NodeRole::Agent)).await.unwrap();
    let mut serials = std::collections::BTreeSet::new();
    for _day in 0..365 {
        bed.pass(DAY);
        bed.gate.sweep(bed.clock.now()).await;
        if identity.renew_at(0.5) <= bed.clock.now() {
            renew(&identity, &rotating).await.expect("renewed");
        }
        serials.insert(identity.certified().serial);
        // When the one before ends, so do its connections, perhaps under a call; the next has another certificate.
        let mut outcome = rotating.register(&registration("a", NodeRole::Agent)).await;
        if let Err(AdminError::Unreachable { .. }) = outcome {
            outcome = rotating.register(&registration("a", NodeRole::Agent)).await;
        }
        outcome.expect("in");
        assert!(identity.certified().expires > bed.clock.now());
    }
    assert!((15..=22).contains(&serials.len()), "{} certificates", serials.len());
    let failure = lazy.register(&registration("idle", NodeRole::Agent)).await.expect_err("expired");
    assert!(!failure.to_string().is_empty());
    counted(&bed, Refusal::HandshakeExpired).await;
    // What was stored last is in force after a restart.
    let stored = NodeIdentity::load(one.path(), bed.clock.clone()).unwrap().expect("an identity");
    assert_eq!(stored.certified(), identity.certified());
    bed.stop().await;
}

#[tokio::test]
async fn nodes_of_another_authority_and_admins_of_another_are_strangers() {
    let (ours, theirs) = (Bed::secure().await, Bed::secure().await);
    let directory = tempfile::tempdir().unwrap();
    let stranger = joined(&theirs, "a", Role::Agent, directory.path()).await;
    let failure = client(&ours, &stranger).register(&registration("a", NodeRole::Agent)).await;
    assert!(matches!(failure, Err(AdminError::Unreachable { .. })), "{failure:?}");
    // A token whose fingerprint is another authority's does not reach anybody with its secret.
    let mut token = token(&ours, order(Role::Agent)).await;
    token.fingerprint = theirs.gate.with(|roster, _| roster.authority().fingerprint()).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let failure = join(&token, &id("b"), elsewhere.path(), ours.clock.clone()).await.expect_err("a stranger");
    assert!(failure.to_string().contains("UnknownIssuer"), "{failure}");
    assert_eq!(ours.ids().await, [""; 0]);
    assert_eq!(count(&ours, Refusal::TokenUnknown), 0);
    ours.stop().await;
    theirs.stop().await;
}

// proves D4: the rules of one network are none of another, whenever a node that moves is killed
#[tokio::test]
async fn a_node_leaves_its_policy_behind_before_it_moves_to_another_authority() {
    let (ours, theirs) = (Bed::secure().await, Bed::secure().await);
    let directory = tempfile::tempdir().unwrap();
    let identity = joined(&ours, "a", Role::Router, directory.path()).await;
    let path = |name: &str| directory.path().join(name);
    let moves = async |file: &str| {
        let token = token(&theirs, order(Role::Router)).await;
        let name = id(&format!("a-{file}"));
        let failure =
            join(&token, &name, directory.path(), theirs.clock.clone()).await.expect_err("a directory");
        assert!(failure.to_string().contains(file), "{failure}");
        let stands = NodeIdentity::load(directory.path(), ours.clock.clone()).unwrap().expect("an identity");
        assert_eq!(stands.certified(), identity.certified());
    };
    // Neither can be removed as a file can.
    std::fs::create_dir(path("policy")).unwrap();
    moves("policy").await;
    std::fs::remove_dir(path("policy")).unwrap();
    std::fs::write(path("policy"), "of ours").unwrap();
    std::fs::create_dir(path("identity.json.new")).unwrap();
    moves("identity.json").await;
    assert!(!path("policy").exists());
    // At its own admin it keeps what it has.
    std::fs::write(path("policy"), "of ours").unwrap();
    std::fs::remove_dir(path("identity.json.new")).unwrap();
    joined(&ours, "b", Role::Router, directory.path()).await;
    assert!(path("policy").exists());
    ours.stop().await;
    theirs.stop().await;
}

#[tokio::test]
async fn a_handshake_that_stalls_is_cut_and_holds_up_nobody() {
    let bed = Bed::secure().await;
    let mut slow = TcpStream::connect(bed.address).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let identity = joined(&bed, "a", Role::Agent, directory.path()).await;
    client(&bed, &identity).register(&registration("a", NodeRole::Agent)).await.expect("in meanwhile");
    let cut = tokio::time::timeout(HANG, slow.read(&mut [0; 16])).await.expect("cut");
    assert!(matches!(cut, Ok(0) | Err(_)), "{cut:?}");
    counted(&bed, Refusal::HandshakeSlow).await;
    assert_eq!(count(&bed, Refusal::HandshakeSlow), 1);
    bed.stop().await;
}

// Whoever is nobody has a while to join, and no more.
#[tokio::test]
async fn a_connection_without_a_certificate_ends_after_a_while_and_that_of_a_node_does_not() {
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().unwrap();
    let node = client(&bed, &joined(&bed, "a", Role::Agent, directory.path()).await);
    node.register(&registration("a", NodeRole::Agent)).await.unwrap();
    let token = token(&bed, order(Role::Agent)).await;
    let tls = crate::identity::TlsClient::of_bearer(token.fingerprint, bed.clock.clone()).unwrap();
    let tcp = TcpStream::connect(bed.address).await.unwrap();
    let name = "127.0.0.1".to_owned().try_into().unwrap();
    let mut stranger = tls.connector().connect(name, tcp).await.unwrap();
    let ended = async {
        let mut bytes = [0; 256];
        // The server's own settings come first.
        while !matches!(stranger.read(&mut bytes).await, Ok(0) | Err(_)) {}
    };
    tokio::time::timeout(HANG, ended).await.expect("it ends");
    assert!(count(&bed, Refusal::StrangerStayed) + count(&bed, Refusal::HandshakeSlow) >= 1);
    node.register(&registration("a", NodeRole::Agent)).await.expect("a node stays");
    bed.stop().await;
}

#[tokio::test]
async fn a_lost_answer_costs_no_second_use() {
    let bed = Bed::secure().await;
    let token = token(&bed, order(Role::Agent)).await;
    let request = crate::identity::certificate_request();
    let again = bed.gate.with(move |roster, now| {
        let mut ask = |node: &str, request: &[u8]| {
            roster
                .join(now, (&token.id, &token.secret), &id(node), request)
                .map(|signed| signed.certified.serial)
        };
        let first = ask("a", &request).expect("in");
        let second = ask("a", &request).expect("the same node with the same key");
        assert_ne!(first, second);
        assert!(ask("b", &request).is_err());
        assert!(ask("a", b"nonsense").is_err());
        roster.tokens(now, "", 10).unwrap()
    });
    let tokens = again.await.unwrap();
    assert_eq!((tokens[0].used, tokens[0].uses_left), (1, 0));
    bed.stop().await;
}

fn stored(path: &Path) -> Handle<SqliteStore> {
    let registry = Registry::new(Config::default(), SqliteStore::open(path).expect("a store"));
    Handle::new(registry, Clock::system(), Way::default()).expect("a thread")
}

#[test]
fn what_was_decided_survives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let now = UnixMillis(1_790_000_000_000);
    let path = directory.path().join("admin.db");
    let open = || {
        let mut records = stored(&path);
        let authority = shared_authority(&mut records, directory.path(), None, now).unwrap();
        Roster::new(Box::new(records), authority)
    };
    let mut roster = open();
    let fingerprint = roster.authority().fingerprint();
    let (token, secret) = roster.create_token(now, &order(Role::Agent)).unwrap();
    let request = crate::identity::certificate_request();
    let signed = roster.join(now, (&token, &secret), &id("a"), &request).unwrap();
    roster.revoke_node(now, &id("a")).unwrap().expect("it was in");
    drop(roster);
    let roster = open();
    assert_eq!(roster.authority().fingerprint(), fingerprint);
    assert_eq!(roster.standing(&id("a"), &signed.certified.serial).unwrap(), Standing::Revoked);
    assert_eq!(roster.standing(&id("a"), "00").unwrap(), Standing::Unknown);
    assert_eq!(roster.standing(&id("b"), &signed.certified.serial).unwrap(), Standing::Unknown);
    assert_eq!(roster.tokens(now, "", 10).unwrap()[0].uses_left, 0);
    drop(roster);
    let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
    assert!(!text.contains(&secret), "the secret is stored");
}

#[test]
fn the_authority_of_a_registry_is_one_by_file_or_by_secret() {
    let directory = tempfile::tempdir().unwrap();
    let (now, path) = (UnixMillis(1_790_000_000_000), directory.path().join("admin.db"));
    let (mine, empty) = (directory.path().join("mine"), directory.path().join("empty"));
    let mut records = stored(&path);
    let mut open = |directory: &Path, secret: Option<&[u8]>| {
        shared_authority(&mut records, directory, secret, now).map(|authority| authority.fingerprint())
    };
    let first = open(&mine, None).unwrap();
    assert!(mine.join("ca.key").exists());
    // Another admin without the files does not go on with an authority of its own.
    let failure = open(&empty, None).unwrap_err();
    assert!(
        failure.to_string().contains(&first.to_string()) && failure.to_string().contains("ca.key"),
        "{failure}"
    );
    assert!(!empty.exists());
    // With a secret, who has the files puts them under it, and the others need none.
    assert_eq!(open(&mine, Some(b"a long enough secret")).unwrap(), first);
    assert_eq!(open(&empty, Some(b"a long enough secret")).unwrap(), first);
    assert!(matches!(open(&empty, Some(b"another secret")), Err(SharedError::WrongSecret)));
    assert!(matches!(open(&empty, None), Err(SharedError::Sealed)));
    assert_eq!(open(&mine, None).unwrap(), first, "who has the files needs no secret");
    assert!(!empty.exists());
    drop(records);
    let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
    assert!(!text.contains("PRIVATE KEY"), "the key is stored as it is");
}

// proves A2: a client knows the admins that an admin names, if they can be some, and forgets those that are named no more
#[tokio::test]
async fn a_node_learns_of_admins_from_the_one_that_it_has() {
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().unwrap();
    let identity = joined(&bed, "a", Role::Agent, directory.path()).await;
    let client = client(&bed, &identity);
    let agent = registration("a", NodeRole::Agent);
    client.register(&agent).await.unwrap();
    assert_eq!(client.urls(), [bed.url()], "an admin that does not say");
    let name = |number: usize| format!("https://admin{number}.example.net:8443");
    let long = format!("https://{}.net:8443", "a".repeat(300));
    let wrong = [
        "http://192.0.2.1:8443",
        "https://",
        "https://a@192.0.2.1:8443",
        "https://192.0.2.1/x",
        "é",
        "",
        &long,
    ];
    let named: Vec<_> = wrong.iter().map(ToString::to_string).collect();
    let named = [named, vec![bed.url(), name(1), format!("{}/", name(1)), name(2)]].concat();
    bed.handle.list_admin(named).await.unwrap();
    client.register(&agent).await.unwrap();
    assert_eq!(client.urls(), [bed.url(), name(1), name(2)]);
    bed.handle.list_admin((0..1000).map(name).collect()).await.unwrap();
    client.register(&agent).await.unwrap();
    assert_eq!(client.urls().len(), 1 + crate::admin::MOST_ADMINS);
    bed.handle.list_admin(vec![bed.url(), name(2)]).await.unwrap();
    client.register(&agent).await.unwrap();
    assert_eq!((client.urls(), client.url()), (vec![bed.url(), name(2)], bed.url()));
    // Who says nothing, as an admin of an older release, takes nothing back.
    bed.handle.list_admin(vec![]).await.unwrap();
    client.register(&agent).await.unwrap();
    assert_eq!(client.urls(), [bed.url(), name(2)]);
    bed.stop().await;
}

// proves A2: a node that starts again knows the admins that it had learnt, also where those that were stated are dead
#[tokio::test]
async fn a_node_that_starts_again_knows_the_admins_that_it_learnt() {
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().unwrap();
    let identity = joined(&bed, "a", Role::Agent, directory.path()).await;
    let name = |number: usize| format!("https://admin{number}.example.net:8443");
    let dead = "https://127.0.0.1:1".to_owned();
    bed.handle.list_admin(vec![bed.url(), name(1), name(2)]).await.unwrap();
    let agent = registration("a", NodeRole::Agent);
    client(&bed, &identity).register(&agent).await.unwrap();
    let again = || Arc::new(NodeIdentity::load(directory.path(), bed.clock.clone()).unwrap().unwrap());
    let start = |urls: &[String]| AdminClient::new(urls, None, Some(&again())).unwrap();
    // Those of the configuration come first.
    assert_eq!(start(&[bed.url()]).urls(), [bed.url(), name(1), name(2)]);

    // Its only admin is gone, and the one that it had learnt of says who is there now.
    again().keep_learnt_admins(&[bed.url(), name(1)]).unwrap();
    bed.handle.list_admin(vec![bed.url(), name(3)]).await.unwrap();
    let client = start(std::slice::from_ref(&dead));
    client.register(&agent).await.expect("at the one that it had learnt of");
    assert_eq!(client.url(), bed.url());
    let after = start(std::slice::from_ref(&dead));
    assert_eq!(after.urls(), [dead.clone(), bed.url(), name(3)], "the first is known no more");

    // A file that is nothing, or too much, is as none; so is that of another authority.
    let file = directory.path().join("admins.json");
    for content in ["[", "{}", &format!("[\"{}\"]", "a".repeat(20_000))] {
        std::fs::write(&file, content).unwrap();
        assert_eq!(start(&[bed.url()]).urls(), [bed.url()]);
    }
    again().keep_learnt_admins(&(0..100).map(name).collect::<Vec<_>>()).unwrap();
    assert_eq!(start(&[bed.url()]).urls().len(), 1 + crate::admin::MOST_ADMINS);
    joined(&bed, "b", Role::Agent, directory.path()).await;
    assert!(!file.exists());
    bed.stop().await;
}

// Without TLS nobody knows who says so.
#[tokio::test]
async fn what_is_said_in_the_clear_names_no_admin() {
    let bed = Bed::new().await;
    bed.handle
        .list_admin(vec!["http://127.0.0.1:1".to_owned(), "https://127.0.0.1:2".to_owned()])
        .await
        .unwrap();
    let client = AdminClient::new(&[bed.url()], None, None).unwrap();
    client.register(&registration("a", NodeRole::Agent)).await.unwrap();
    assert_eq!(client.urls(), [bed.url()]);
}

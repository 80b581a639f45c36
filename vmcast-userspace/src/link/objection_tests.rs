//! What one admin has against a node's certificate, and another has not.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    identity::join_in_time,
    identity_tests::{HANG, Way, id, joined, keep_a_list, kept, settings, token, wait},
    *,
};
use crate::{
    admin::tests::bed::Bed,
    config::{Fallback, Remote},
    identity::{Kind, NodeIdentity, Records as _, Refusal, Write},
};

/// An admin hears of the certificates of a node that another has signed.
async fn hears_of(bed: &Bed, from: &Bed, node: &str) {
    let (mut to, from, under) = (bed.handle.clone(), from.handle.clone(), format!("{node}/"));
    let copy = move || {
        let list = from.list(Kind::Certificate, &under, "", 9).expect("records");
        let write = |(key, value)| Write { kind: Kind::Certificate, key, value: Some(value) };
        let writes: Vec<_> = list.into_iter().map(write).collect();
        assert!(to.commit(&[], &writes).expect("kept"));
    };
    tokio::task::spawn_blocking(copy).await.expect("no panic");
}

fn registration(identity: &Arc<NodeIdentity>) -> vmcast_proto::registry::Registration {
    settings(String::new(), identity).registration
}

fn unknown(bed: &Bed) -> u64 {
    let label = Refusal::CertificateUnknown.label();
    bed.gate.tally().counters().find(|(name, _)| *name == label).expect("counted").1
}

// proves D4: an admin that has not heard of a node yet does not keep it out of another
#[tokio::test]
async fn a_node_that_one_admin_does_not_know_yet_goes_to_another() {
    let bed = Bed::secure().await;
    let behind = bed.behind().await;
    let directory = tempfile::tempdir().expect("a directory");
    let identity = joined(&bed, directory.path()).await;
    let client = AdminClient::new(&[behind.url(), bed.url()], None, Some(&identity)).expect("a client");
    client.register(&registration(&identity)).await.expect("one knows it");
    assert_eq!((client.url(), unknown(&behind)), (bed.url(), 1));
    assert_eq!((bed.ids().await, behind.ids().await), (vec!["a".to_owned()], vec![]));

    // A revocation is heard, and not only who has not heard of it.
    bed.gate.revoke_node(id("a")).await.expect("the store").expect("it was in");
    for urls in [[behind.url(), bed.url()], [bed.url(), behind.url()]] {
        let client = AdminClient::new(&urls, None, Some(&identity)).expect("a client");
        let failure = client.register(&registration(&identity)).await.expect_err("out");
        assert!(failure.shuts_out() && failure.to_string().contains("revoked"), "{failure}");
    }
    assert_eq!(unknown(&behind), 3);
    bed.stop().await;
    behind.stop().await;
}

// proves D4: what stands is in as soon as the admin knows of it
#[tokio::test]
async fn who_is_connected_before_the_admin_hears_of_it_is_let_in_on_the_same_connection() {
    let bed = Bed::secure().await;
    let behind = bed.behind().await;
    let directory = tempfile::tempdir().expect("a directory");
    let identity = joined(&bed, directory.path()).await;
    let client = AdminClient::new(&[behind.url()], None, Some(&identity)).expect("a client");
    // As a router does: its connection does not end by itself.
    client.each()[0].keep();
    client.register(&registration(&identity)).await.expect_err("it is not known there");
    hears_of(&behind, &bed, "a").await;
    client.register(&registration(&identity)).await.expect("known");
    assert_eq!((behind.ids().await, unknown(&behind)), (vec!["a".to_owned()], 1));

    // Who is out stays out there.
    behind.gate.revoke_node(id("a")).await.expect("the store").expect("it was in");
    let failure = client.register(&registration(&identity)).await.expect_err("out");
    assert!(failure.shuts_out() && failure.to_string().contains("revoked"), "{failure}");
    bed.stop().await;
    behind.stop().await;
}

// proves A2 and D4: who is not known goes by what it has, and loses nothing of it
#[tokio::test]
async fn a_node_that_the_only_admin_that_answers_does_not_know_goes_on() {
    let bed = Bed::secure().await;
    let behind = bed.behind().await;
    let directory = tempfile::tempdir().expect("a directory");
    let identity = joined(&bed, directory.path()).await;
    let dead = Way::closed(bed.address).await;
    keep_a_list(&identity);
    let mut settings = settings(behind.url(), &identity);
    settings.admins.insert(0, dead.url());
    let attachment = attach(settings).expect("a link");
    let is_refused = |status: &LinkStatus| matches!(status.state, LinkState::Refused { .. });
    let status = wait(&mut attachment.status(), is_refused).await;
    let LinkState::Refused { admin, reason, shut_out } = status.state else { panic!("{status:?}") };
    assert_eq!((admin, shut_out), (behind.url(), false), "{reason}");
    let fallback: SocketAddr = "192.0.2.2:2268".parse().expect("an address");
    let named = Fallback { address: Some(Remote::Address(fallback)), domain: None };
    let named = tokio::time::timeout(HANG, attachment.naming(named, "a").changed()).await.expect("it hangs");
    let endpoints: Vec<_> = named.iter().map(|vmr| vmr.endpoint.to_string()).collect();
    assert_eq!(endpoints, ["127.1.0.9:2268", "192.0.2.2:2268"]);
    assert!(kept(directory.path()).contains("core"));
    attachment.close().await;
    bed.stop().await;
    behind.stop().await;
}

// proves D4: of two clocks that disagree nobody knows which is wrong, on a connection that stands, too
#[tokio::test]
async fn an_admin_whose_clock_jumps_ahead_shuts_nobody_out_who_is_connected() {
    let bed = Bed::secure().await;
    // The node's clock is that of this host, by which its certificate is in its time.
    if let Some(behind) = crate::clock::unix_millis().checked_sub(bed.clock.now().0) {
        bed.pass(Duration::from_millis(behind));
    }
    let words = Refusal::CertificateExpired.to_string();
    for round in 0..20 {
        let directory = tempfile::tempdir().expect("a directory");
        let identity = joined(&bed, directory.path()).await;
        let client = AdminClient::new(&[bed.url()], None, Some(&identity)).expect("a client");
        client.register(&registration(&identity)).await.expect("in");
        let time = Duration::from_secs(40 * 86_400);
        bed.pass(time);
        let failure = client.register(&registration(&identity)).await.expect_err("expired");
        assert!(matches!(failure, AdminError::Unreachable { .. }), "{failure:?}");
        assert!(!failure.is_refusal() && !failure.shuts_out());
        bed.turn_back(time);
        client.register(&registration(&identity)).await.expect("the clock is right again");
        // Else the admin has ended the connection first, which it does now and then.
        if failure.to_string().contains(&words) {
            break;
        }
        assert!(round < 19, "{failure}");
        bed.gate.revoke_node(id("a")).await.expect("the store").expect("it was in");
        bed.pass(Duration::from_secs(1));
    }
    bed.stop().await;
}

// proves D4: a wait that only the operator can end says what is wrong
#[tokio::test]
async fn a_node_with_the_token_of_another_authority_says_that_none_of_that_answers() {
    let (bed, other) = (Bed::secure().await, Bed::secure().await);
    let token = token(&bed, other.url()).await;
    let directory = tempfile::tempdir().expect("a directory");
    let (failing, mut failure) = tokio::sync::watch::channel(None);
    let clock = bed.clock.clone();
    let joining = tokio::spawn(async move {
        join_in_time(&token, &id("a"), directory.path(), &failing, clock).await.map(|_| ())
    });
    let reason = wait(&mut failure, Option::is_some).await.expect("a reason");
    assert!(reason.starts_with("no admin of the authority of this node's token"), "{reason}");
    assert!(reason.contains(&other.url()) && reason.contains("is the URL right?"), "{reason}");
    joining.abort();
    bed.stop().await;
    other.stop().await;
}

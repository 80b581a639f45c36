//! Refusals of tokens and certificates that only odd callers meet: each is counted once, with its reason.

use std::{sync::Arc, time::Duration};

use vmcast_proto::registry::Role as NodeRole;
use vmcast_signal::{
    tonic::Code,
    v1::{self, identity_client::IdentityClient},
};

use super::{
    bed::Bed,
    identity::{client, code, count, id, joined, order, registration, token},
};
use crate::{
    identity::{Kind, Records as _, Refusal, Role, Roster, RosterError, TlsClient, Write},
    link::{renew, tls_channel},
};

// proves D4: a connection does not outlive its certificate
#[tokio::test]
async fn a_request_on_a_connection_that_stands_is_refused_once_the_certificate_has_expired() {
    let bed = Bed::secure().await;
    let words = Refusal::CertificateExpired.to_string();
    for round in 0.. {
        let (name, directory) = (format!("a{round}"), tempfile::tempdir().unwrap());
        let standing = client(&bed, &joined(&bed, &name, Role::Agent, directory.path()).await);
        standing.register(&registration(&name, NodeRole::Agent)).await.expect("registered");
        bed.pass(crate::identity::LIFETIME + Duration::from_secs(1));
        let failure = standing.register(&registration(&name, NodeRole::Agent)).await.expect_err("it is over");
        // Once for the connection, whether the admin cuts it first or a request comes first.
        bed.gate.sweep(bed.clock.now()).await;
        assert_eq!(count(&bed, Refusal::CertificateExpired), round + 1);
        // For the node that is no refusal if its own clock says otherwise.
        if failure.to_string().contains(&words) {
            break;
        }
        // The admin looks now and then which connections are over, and was faster.
        assert_eq!((round < 20, code(&failure)), (true, Code::Unavailable), "{failure}");
    }
    // One on which nothing is asked.
    let directory = tempfile::tempdir().unwrap();
    let idle = client(&bed, &joined(&bed, "idle", Role::Agent, directory.path()).await);
    idle.register(&registration("idle", NodeRole::Agent)).await.expect("registered");
    let before = count(&bed, Refusal::CertificateExpired);
    bed.pass(crate::identity::LIFETIME + Duration::from_secs(1));
    for _ in 0..2 {
        bed.gate.sweep(bed.clock.now()).await;
        assert_eq!(count(&bed, Refusal::CertificateExpired), before + 1);
    }
    let directory = tempfile::tempdir().unwrap();
    let other = client(&bed, &joined(&bed, "b", Role::Agent, directory.path()).await);
    other.register(&registration("b", NodeRole::Agent)).await.expect("whose certificate is new is in");
    bed.stop().await;
}

// proves D4: a certificate of our authority that no record speaks of counts for nothing
#[tokio::test]
async fn a_certificate_that_nobody_has_a_record_of_lets_nobody_in() {
    let bed = Bed::secure().await;
    let directory = tempfile::tempdir().unwrap();
    let identity = joined(&bed, "a", Role::Agent, directory.path()).await;
    // As after a database from before the join was put back.
    let mut records = bed.handle.clone();
    let forget = move || {
        for (key, _) in records.list(Kind::Certificate, "a/", "", 9).expect("records") {
            records.commit(&[], &[Write { kind: Kind::Certificate, key, value: None }]).expect("kept");
        }
    };
    tokio::task::spawn_blocking(forget).await.unwrap();
    let client = client(&bed, &identity);
    let failure = client.register(&registration("a", NodeRole::Agent)).await.expect_err("unknown");
    assert_eq!((code(&failure), count(&bed, Refusal::CertificateUnknown)), (Code::Unauthenticated, 1));
    assert!(failure.to_string().contains(&Refusal::CertificateUnknown.to_string()), "{failure}");
    renew(&identity, &client).await.expect_err("unknown");
    assert_eq!((count(&bed, Refusal::CertificateUnknown), bed.ids().await), (2, vec![]));
    bed.stop().await;
}

#[tokio::test]
async fn a_request_for_a_certificate_that_is_none_is_refused_and_uses_up_no_token() {
    let bed = Bed::secure().await;
    let token = token(&bed, order(Role::Agent)).await;
    let tls = TlsClient::of_bearer(token.fingerprint, bed.clock.clone()).unwrap();
    let mut bearer = IdentityClient::new(tls_channel(&bed.url(), tls).unwrap());
    let mut spoiled = crate::identity::certificate_request();
    // Its last byte is of the signature.
    *spoiled.last_mut().unwrap() ^= 1;
    for (certificate_request, number) in [(vec![], 1), (b"no request".to_vec(), 2), (spoiled, 3)] {
        let request = v1::JoinRequest {
            token_id: token.id.clone(),
            token_secret: token.secret.clone(),
            node_id: "a".to_owned(),
            certificate_request,
        };
        let status = bearer.join(request).await.expect_err("no request");
        assert_eq!((status.code(), count(&bed, Refusal::BadRequest)), (Code::InvalidArgument, number));
    }
    let directory = tempfile::tempdir().unwrap();
    crate::identity::join(&token, &id("a"), directory.path(), bed.clock.clone()).await.expect("still good");
    bed.stop().await;
}

#[tokio::test]
async fn there_are_so_many_tokens_and_no_more() {
    let bed = Bed::secure().await;
    token(&bed, order(Role::Agent)).await;
    let mut records = bed.handle.clone();
    let fill = move || {
        let write =
            |number| Write { kind: Kind::Token, key: format!("t{number}"), value: Some(b"{}".to_vec()) };
        records.commit(&[], &(1..10_000).map(write).collect::<Vec<_>>()).expect("kept");
    };
    tokio::task::spawn_blocking(fill).await.unwrap();
    let one_more =
        async || bed.gate.with(|roster, now| roster.create_token(now, &order(Role::Agent))).await.unwrap();
    let Err(RosterError::Refused(refusal)) = one_more().await else { panic!("it is one too many") };
    assert_eq!((refusal, count(&bed, Refusal::TooManyTokens)), (Refusal::TooManyTokens, 1));
    // The first one is over: it makes room for one.
    bed.pass(Duration::from_secs(86_400));
    one_more().await.expect("there is room");
    assert_eq!(bed.handle.list(Kind::Token, "", "", usize::MAX).expect("records").len(), 10_000);
    one_more().await.expect_err("there is none");
    bed.stop().await;
}

// proves A3: who is in fills the registry with no certificates, whichever way it asks for them
#[tokio::test]
async fn a_node_has_so_many_certificates_and_with_one_more_the_oldest_goes() {
    let bed = Bed::secure().await;
    let (word, directory) = (token(&bed, order(Role::Agent)).await, tempfile::tempdir().unwrap());
    let first = crate::identity::join(&word, &id("a"), directory.path(), bed.clock.clone()).await.unwrap();
    let beside = tempfile::tempdir().unwrap();
    joined(&bed, "b", Role::Agent, beside.path()).await;
    let held = async |node: &str| {
        let (records, prefix) = (bed.handle.clone(), format!("{node}/"));
        let list = move || records.list(Kind::Certificate, &prefix, "", 99).expect("records").len();
        tokio::task::spawn_blocking(list).await.unwrap()
    };
    let dropped = || {
        let mut counters = bed.gate.tally().counters();
        counters.find(|(name, _)| *name == "certificates_dropped").expect("a counter").1
    };
    assert_eq!((held("a").await, held("b").await, dropped()), (1, 1, 0));
    let client = client(&bed, &Arc::new(first));
    let records = bed.handle.clone();
    let keys = move || records.list(Kind::Certificate, "a/", "", 9).expect("records");
    let in_use = tokio::task::spawn_blocking(keys).await.unwrap().remove(0).0;
    let serial = in_use.strip_prefix("a/").expect("a serial number").to_owned();
    for round in 1..=20 {
        bed.pass(Duration::from_secs(1));
        let request = crate::identity::certificate_request();
        let serial = serial.clone();
        let renew = move |roster: &mut Roster, now| roster.renew(now, &id("a"), &serial, &request).map(drop);
        bed.gate.with(renew).await.expect("TLS").expect("renewed");
        assert_eq!((held("a").await, dropped()), ((round + 1).min(8), (round as u64).saturating_sub(7)));
    }
    // The one in use is still good.
    client.register(&registration("a", NodeRole::Agent)).await.expect("registered");
    // By its token again and again, since the answer was lost, with the same key.
    let request = crate::identity::certificate_request();
    let third = token(&bed, order(Role::Agent)).await;
    for round in 1..=20 {
        bed.pass(Duration::from_secs(1));
        let (word, request) = (third.clone(), request.clone());
        let join = move |roster: &mut Roster, now| {
            roster.join(now, (&word.id, &word.secret), &id("c"), &request).map(drop)
        };
        bed.gate.with(join).await.expect("TLS").expect("joined");
        assert_eq!(held("c").await, round.min(8));
    }
    assert_eq!((held("a").await, held("b").await, dropped()), (8, 1, 13 + 12));
    bed.stop().await;
}

//! Session tickets (RFC 8446 §4.6.1) of one admin at another of the same registry.

use std::net::SocketAddr;

use rustls::{HandshakeKind, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use vmcast_proto::registry::Role as NodeRole;
use vmcast_signal::tonic::Code;

use super::{
    bed::Bed,
    identity::{client, code, count, id, joined, registration},
};
use crate::identity::{NodeIdentity, Refusal, Role};

/// How an HTTP/2 client begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// How much of a handshake there was, once the server has said something, a ticket before that.
async fn handshake(node: &NodeIdentity, address: SocketAddr) -> HandshakeKind {
    let stream = TcpStream::connect(address).await.expect("connect");
    let connect = node.tls().connector().connect(ServerName::from(address.ip()), stream);
    let mut stream = connect.await.expect("a handshake");
    stream.write_all(PREFACE).await.expect("sent");
    assert!(stream.read(&mut [0; 64]).await.expect("an answer") > 0);
    stream.get_ref().1.handshake_kind().expect("it is over")
}

// proves D2 and D4: any admin takes a node back without the signatures, and none takes one back that is revoked
#[tokio::test]
async fn a_node_resumes_at_another_admin_of_the_registry_and_a_revoked_one_is_refused_there() {
    let one = Bed::secure().await;
    let (other, stranger) = (one.beside().await, Bed::secure().await);
    let directory = tempfile::tempdir().unwrap();
    let node = joined(&one, "a", Role::Agent, directory.path()).await;
    assert_eq!(handshake(&node, one.address).await, HandshakeKind::Full);
    assert_eq!(handshake(&node, other.address).await, HandshakeKind::Resumed);
    let agent = registration("a", NodeRole::Agent);
    client(&other, &node).register(&agent).await.expect("it is in");
    assert_eq!(one.ids().await, ["a"]);

    // Whoever has another authority can make nothing of the ticket, nor show a certificate.
    client(&stranger, &node).register(&agent).await.expect_err("another authority");
    assert_eq!(stranger.ids().await, [""; 0]);

    // The stranger may have had the last ticket.
    handshake(&node, one.address).await;
    assert_eq!(count(&other, Refusal::CertificateRevoked), 0);
    one.gate.revoke_node(id("a")).await.expect("the store").expect("it was in");
    assert_eq!(handshake(&node, other.address).await, HandshakeKind::Resumed);
    let failure = client(&other, &node).register(&agent).await.expect_err("revoked");
    assert_eq!(code(&failure), Code::Unauthenticated);
    assert!(count(&other, Refusal::CertificateRevoked) > 0);
    for bed in [one, other, stranger] {
        bed.stop().await;
    }
}

//! What takes too much: bytes, time, connections. By raw sockets, for a client of gRPC would not do it.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;
use vmcast_proto::registry::{Config, Role as NodeRole};
use vmcast_signal::{tonic::Code, v1};

use super::{
    bed::Bed,
    identity::{client, count, id, joined, registration},
};
use crate::{
    admin::{Limits, Mirror, Way, gate::MOST_OF_NODE},
    identity::{Kind, NodeIdentity, Records as _, Refusal, Role, Write},
};

/// A test that waits longer than this hangs; nothing is measured by it.
const HANG: Duration = Duration::from_secs(60);
const A: [u8; 4] = [127, 2, 0, 5];
/// What a client of HTTP/2 says first (RFC 9113 §3.4), its settings empty.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of a frame with headers (RFC 9113 §6.2), and its flag that they are whole.
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;

async fn bed(limits: Limits, is_secure: bool) -> Bed {
    let listen = ([127, 0, 0, 1], 0).into();
    Bed::start_within(Config::default(), Mirror::default(), listen, Way::Hops, is_secure, limits).await
}

/// A frame of stream 1 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame_of(1, kind, flags, payload)
}

/// The same of any stream.
fn frame_of(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short one").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call of `Register`, in HPACK without compression (RFC 7541 §6.2.2).
fn call_headers() -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    [
        // :method POST, :scheme http, :path, :authority, content-type
        vec![0x83, 0x86, 0x04],
        text("/vmcast.v1.Registry/Register"),
        vec![0x01],
        text("admin"),
        vec![0x0f, 0x10],
        text("application/grpc"),
        vec![0x00],
        text("te"),
        text("trailers"),
    ]
    .concat()
}

async fn connect(bed: &Bed) -> TcpStream {
    TcpStream::connect(bed.address).await.expect("connect")
}

/// Waits until the server has ended a connection.
async fn ended(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // Closed or reset, both are an end.
    let _ = tokio::time::timeout(HANG, stream.read_to_end(&mut rest)).await.expect("it is ended");
}

async fn others_are_served(bed: &Bed, name: &str) {
    let node = v1::Node { id: name.to_owned(), role: v1::Role::Agent.into(), ..v1::Node::default() };
    let request = v1::RegisterRequest { node: Some(node), upstreams: vec![] };
    bed.client(A).await.register(request).await.expect("granted");
}

async fn until(mut done: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, waiting).await.expect("it becomes so");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_counted() {
    let bed = bed(Limits::default(), false).await;
    let name = "x".repeat(1024 * 1024);
    let node = v1::Node { id: "n".to_owned(), role: v1::Role::Agent.into(), name, ..v1::Node::default() };
    let request = v1::RegisterRequest { node: Some(node), upstreams: vec![] };
    let refused = bed.client(A).await.register(request).await.expect_err("too large");
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let status = bed.handle.status();
    assert_eq!((status.oversize, status.slow), (1, 0));
    others_are_served(&bed, "b").await;
    assert_eq!(bed.ids().await, ["b"], "it did not come in");
    bed.stop().await;
}

#[tokio::test]
async fn a_request_whose_body_does_not_come_is_answered_in_time_and_counted() {
    let bed = bed(Limits { request: Duration::from_millis(200), ..Limits::default() }, false).await;
    let mut stream = connect(&bed).await;
    stream.write_all(PREFACE).await.expect("write");
    stream.write_all(&frame(HEADERS, END_HEADERS, &call_headers())).await.expect("write");
    // The first byte of a message of 100 bytes, of which no more come.
    stream.write_all(&frame(0, 0, &[0, 0, 0, 0, 100, 10])).await.expect("write");
    let answered = async {
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).await.expect("a frame");
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.expect("its payload");
            if (header[3], header[8]) == (HEADERS, 1) {
                return;
            }
        }
    };
    tokio::time::timeout(HANG, answered).await.expect("an answer");
    let status = bed.handle.status();
    assert_eq!((status.slow, status.oversize), (1, 0));
    others_are_served(&bed, "b").await;
    assert_eq!(bed.ids().await, ["b"]);
    bed.stop().await;
}

#[tokio::test]
async fn a_connection_has_so_many_requests_under_way_and_the_next_is_refused_alone() {
    const RST_STREAM: u8 = 3;
    const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
    let bed = bed(Limits::default(), false).await;
    let mut stream = connect(&bed).await;
    stream.write_all(PREFACE).await.expect("write");
    // None of them is whole: their bodies do not come.
    for number in 0..=32 {
        stream
            .write_all(&frame_of(1 + 2 * number, HEADERS, END_HEADERS, &call_headers()))
            .await
            .expect("write");
    }
    let refused = async {
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).await.expect("a frame");
            let [a, b, c, kind, _, id @ ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            stream.read_exact(&mut payload).await.expect("its payload");
            if kind == RST_STREAM {
                return (u32::from_be_bytes(id), payload);
            }
        }
    };
    let refused = tokio::time::timeout(HANG, refused).await.expect("one is refused");
    assert_eq!(refused, (1 + 2 * 32, REFUSED_STREAM.to_vec()));
    others_are_served(&bed, "b").await;
    bed.stop().await;
}

#[tokio::test]
async fn headers_that_never_end_and_silence_end_the_connection() {
    let bed = bed(Limits { silence: Duration::from_millis(200), ..Limits::default() }, false).await;
    for bytes in [frame(HEADERS, 0, &[0x83]), vec![0, 0, 40, 1]] {
        let mut stream = connect(&bed).await;
        stream.write_all(PREFACE).await.expect("write");
        stream.write_all(&bytes).await.expect("write");
        ended(stream).await;
    }
    let mut stream = connect(&bed).await;
    stream.write_all(PREFACE).await.expect("write");
    // More headers than a request may have, without an end.
    let flood = async {
        let header = [vec![0, 1, b'x', 120], vec![b'y'; 120]].concat();
        stream.write_all(&frame(HEADERS, 0, &call_headers())).await?;
        for _ in 0..100_000 {
            stream.write_all(&frame(9, 0, &header.repeat(64))).await?;
        }
        std::io::Result::Ok(())
    };
    let flooded = tokio::time::timeout(HANG, flood).await.expect("it is not taken for ever");
    assert!(flooded.is_err(), "the server has taken 800 MB of headers");
    others_are_served(&bed, "b").await;
    bed.stop().await;
}

// proves D4: whoever it is, a place is kept by nobody who says nothing
#[tokio::test]
async fn a_connection_that_does_not_begin_to_speak_is_ended() {
    let bed = bed(Limits { silence: Duration::from_millis(200), ..Limits::default() }, false).await;
    for length in [0, 1, 23, 24, PREFACE.len() - 1, PREFACE.len()] {
        let mut stream = connect(&bed).await;
        stream.write_all(&PREFACE[..length]).await.expect("write");
        ended(stream).await;
    }
    // Those that had begun were asked whether they live.
    let label = Refusal::HandshakeSlow.label();
    assert_eq!(bed.gate.tally().counters().find(|(name, _)| *name == label), Some((label, 3)));
    others_are_served(&bed, "b").await;
    bed.stop().await;
}

/// The type of a TLS record with an alert (RFC 8446 §5.1).
const ALERT: u8 = 21;

// proves D4: who is not let in can read why, whatever it has sent meanwhile
#[tokio::test]
async fn an_alert_is_not_lost_with_what_is_left_unread() {
    let bed = bed(Limits { connections: 8, strangers: 1, ..Limits::default() }, true).await;
    let counted = |refusal: Refusal| {
        let label = refusal.label();
        bed.gate.tally().counters().find(|(name, _)| *name == label).map(|(_, count)| count)
    };
    // There is one place, which is free again when the connection has ended.
    let mut told = 0;
    until(async || {
        let mut stream = connect(&bed).await;
        // No record of TLS, and more behind it than is read at a time. Who is turned away cannot send it.
        let sent = stream.write_all(&[b'x'; 48 * 1024]).await;
        let mut said = Vec::new();
        let end = tokio::time::timeout(HANG, stream.read_to_end(&mut said)).await.expect("it is ended");
        if said.is_empty() {
            return false;
        }
        sent.expect("all of it is taken");
        end.expect("it is closed, not reset");
        assert_eq!(said.first(), Some(&ALERT), "{said:?}");
        told += 1;
        told == 20
    })
    .await;
    assert_eq!(counted(Refusal::HandshakeFailed), Some(20));
    // Who does not stop is not listened to for ever, nor for longer than it may.
    let mut stream = connect(&bed).await;
    let flood = async { while stream.write_all(&[b'x'; 64 * 1024]).await.is_ok() {} };
    tokio::time::timeout(HANG, flood).await.expect("it is reset");
    bed.stop().await;
}

// proves D4: strangers leave room for others, and who comes beyond their share is turned away and counted
#[tokio::test]
async fn strangers_have_a_share_of_the_connections() {
    let bed = bed(Limits { connections: 8, strangers: 2, ..Limits::default() }, true).await;
    let turned_away = || {
        let label = Refusal::TooManyStrangers.label();
        bed.gate.tally().counters().find(|(name, _)| *name == label).map(|(_, count)| count)
    };
    // They have connected, and say nothing.
    let first = [connect(&bed).await, connect(&bed).await];
    ended(connect(&bed).await).await;
    until(async || turned_away() == Some(1)).await;
    drop(first);
    // The places are free again: of some that come one after the other, one is not ended.
    until(async || {
        let mut stream = connect(&bed).await;
        let mut byte = [0];
        tokio::time::timeout(Duration::from_millis(300), stream.read(&mut byte)).await.is_err()
    })
    .await;
    bed.stop().await;
}

/// A connection of a node that says no more than it has to, and is served.
async fn idle(node: &NodeIdentity, bed: &Bed) -> std::io::Result<TlsStream<TcpStream>> {
    let name = bed.address.ip().into();
    let mut stream = node.tls().connector().connect(name, connect(bed).await).await?;
    stream.write_all(PREFACE).await?;
    match stream.read(&mut [0; 64]).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(stream),
    }
}

// proves D4: one certificate does not take the places of all
#[tokio::test]
async fn a_node_has_a_share_of_the_connections_and_who_was_revoked_has_none_of_it() {
    let bed = Bed::secure().await;
    let [first, second, other] = std::array::from_fn(|_| tempfile::tempdir().expect("a directory"));
    let node = joined(&bed, "a", Role::Agent, first.path()).await;
    let other = joined(&bed, "b", Role::Agent, other.path()).await;
    let mut held = Vec::new();
    for _ in 0..MOST_OF_NODE {
        held.push(idle(&node, &bed).await.expect("it has room"));
    }
    for _ in 0..3 {
        idle(&node, &bed).await.expect_err("one too many");
    }
    until(async || count(&bed, Refusal::HandshakeFailed) == 3).await;
    client(&bed, &other).register(&registration("b", NodeRole::Agent)).await.expect("others have room");
    held.pop();
    until(async || match idle(&node, &bed).await {
        Ok(stream) => {
            held.push(stream);
            true
        }
        Err(_) => false,
    })
    .await;
    bed.gate.revoke_node(id("a")).await.expect("the store").expect("it was in");
    let again = joined(&bed, "a", Role::Agent, second.path()).await;
    client(&bed, &again).register(&registration("a", NodeRole::Agent)).await.expect("it has room");
    assert_eq!(held.len(), MOST_OF_NODE);
    bed.stop().await;
}

// proves D4: a certificate that does not count is no better than none
#[tokio::test]
async fn who_has_no_certificate_that_counts_is_a_stranger_and_stays_no_longer() {
    let limits =
        Limits { connections: 64, strangers: 8, silence: Duration::from_secs(600), ..Limits::default() };
    let bed = bed(limits, true).await;
    let directories: [_; 4] = std::array::from_fn(|_| tempfile::tempdir().expect("a directory"));
    let mut nodes = Vec::new();
    for (name, directory) in ["out", "unknown", "goes", "stays"].into_iter().zip(&directories) {
        nodes.push(joined(&bed, name, Role::Agent, directory.path()).await);
    }
    bed.gate.revoke_node(id("out")).await.expect("the store").expect("it was in");
    let mut records = bed.handle.clone();
    let forget = move || {
        for (key, _) in records.list(Kind::Certificate, "unknown/", "", 9).expect("records") {
            records.commit(&[], &[Write { kind: Kind::Certificate, key, value: None }]).expect("kept");
        }
    };
    tokio::task::spawn_blocking(forget).await.expect("forgotten");
    let (goes, mut stays) =
        (idle(&nodes[2], &bed).await.expect("in"), idle(&nodes[3], &bed).await.expect("in"));
    let mut strangers = Vec::new();
    until(async || {
        // Those that joined may still be here.
        strangers.extend(idle(&nodes[strangers.len() % 2], &bed).await.ok());
        strangers.len() == 8
    })
    .await;
    let before = count(&bed, Refusal::TooManyStrangers);
    idle(&nodes[0], &bed).await.expect_err("there is no room");
    assert_eq!(count(&bed, Refusal::TooManyStrangers), before + 1);
    bed.gate.revoke_node(id("goes")).await.expect("the store").expect("it was in");
    for mut stream in strangers.into_iter().chain([goes]) {
        let end = async { while !matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_)) {} };
        tokio::time::timeout(HANG, end).await.expect("it is ended");
    }
    assert_eq!(count(&bed, Refusal::StrangerStayed), 9);
    // They have left their places.
    idle(&nodes[0], &bed).await.expect("there is room");
    let said = tokio::time::timeout(Duration::from_millis(100), async {
        while !matches!(stays.read(&mut [0; 64]).await, Ok(0) | Err(_)) {}
    });
    said.await.expect_err("it stays");
    bed.stop().await;
}

#[tokio::test]
async fn a_burst_of_connections_waits_in_the_kernel_until_there_is_room() {
    // By default it would be 128; a kernel may allow less.
    const BURST: usize = 1000;
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("read");
    let burst = BURST.min(most.trim().parse().expect("a number"));
    let bed = bed(Limits { connections: 1, ..Limits::default() }, false).await;
    let first = connect(&bed).await;
    let burst = async {
        let mut waiting = Vec::new();
        for _ in 0..burst {
            waiting.push(connect(&bed).await);
        }
        waiting
    };
    let waiting = tokio::time::timeout(HANG, burst).await.expect("nobody has to come again and again");
    drop((first, waiting));
    others_are_served(&bed, "a").await;
    bed.stop().await;
}

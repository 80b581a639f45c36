//! The control socket against clients that behave badly.

use std::{
    fs,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::PathBuf,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::mpsc,
};
use vmcast_api::{Groups, MAX_REQUEST_BYTES, Page, Request, Response, decode, encode};

use super::{BindError, Call, Control, MAX_CONNECTIONS};

struct Bench {
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run").join("router.sock");
        Self { dir, path }
    }

    /// A control socket whose role answers a list of groups with none and the cursor of the question,
    /// and nothing else.
    fn start(&self) -> Control {
        let (control, calls) = Control::start(&self.path).unwrap();
        tokio::spawn(role(calls));
        control
    }

    async fn connect(&self) -> BufReader<UnixStream> {
        BufReader::new(UnixStream::connect(&self.path).await.unwrap())
    }
}

async fn role(mut calls: mpsc::Receiver<Call>) {
    while let Some((request, answer)) = calls.recv().await {
        let response = match request {
            Request::GroupList { page, .. } => {
                Response::Groups(Groups { next: page.after, groups: Vec::new() })
            }
            other => Response::not_this_role(vmcast_api::Role::Router, &other),
        };
        // A client that is gone needs no answer.
        let _ = answer.send(response);
    }
}

fn question(number: u64) -> Vec<u8> {
    let page = Page { after: Some(number.to_string()), limit: 1 };
    encode(&Request::GroupList { group: None, source: None, page })
}

async fn next(client: &mut BufReader<UnixStream>) -> Response {
    let mut line = Vec::new();
    client.read_until(b'\n', &mut line).await.unwrap();
    decode(&line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&line)))
}

async fn ask(client: &mut BufReader<UnixStream>, line: &[u8]) -> Response {
    client.get_mut().write_all(line).await.unwrap();
    next(client).await
}

fn answer_to(number: u64) -> Response {
    Response::Groups(Groups { next: Some(number.to_string()), groups: Vec::new() })
}

fn error_of(response: Response) -> String {
    match response {
        Response::Error(reply) => reply.error,
        other => panic!("no error: {other:?}"),
    }
}

#[tokio::test]
async fn questions_of_one_connection_are_answered_in_order_also_when_they_come_in_one_piece_or_in_many() {
    let bench = Bench::new();
    let _control = bench.start();
    let mut client = bench.connect().await;
    client.get_mut().write_all(&[question(1), question(2)].concat()).await.unwrap();
    assert_eq!(next(&mut client).await, answer_to(1));
    assert_eq!(next(&mut client).await, answer_to(2));
    for byte in question(3) {
        client.get_mut().write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(next(&mut client).await, answer_to(3));
}

#[tokio::test]
async fn garbage_gets_an_error_each_line_and_the_connection_goes_on() {
    let bench = Bench::new();
    let _control = bench.start();
    let mut client = bench.connect().await;
    for garbage in
        [&b"\n"[..], b"hello\n", b"\xff\x00\xfe\n", b"[]\n", b"{\"v\":1}\n", b"{\"v\":1,\"request\":\"x\"}\n"]
    {
        assert!(error_of(ask(&mut client, garbage).await).contains("not an object of the control protocol"));
    }
    assert!(error_of(ask(&mut client, b"{\"v\":7,\"request\":\"x\"}\n").await).contains("version 7"));
    assert_eq!(ask(&mut client, &question(5)).await, answer_to(5));
}

#[tokio::test]
async fn a_line_may_be_as_long_as_the_limit_and_one_byte_more_ends_the_connection() {
    let bench = Bench::new();
    let _control = bench.start();
    let padded = |length: usize| {
        let line = question(1);
        let mut padded = vec![b' '; length - line.len()];
        padded.extend(line);
        padded
    };
    let mut client = bench.connect().await;
    assert_eq!(ask(&mut client, &padded(MAX_REQUEST_BYTES)).await, answer_to(1));
    client.get_mut().write_all(&padded(MAX_REQUEST_BYTES + 1)).await.unwrap();
    assert!(error_of(next(&mut client).await).contains("longer than 65536 bytes"));
    let mut rest = Vec::new();
    // The end is a plain one or a reset, since not all was read.
    let _ = client.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");

    let mut endless = bench.connect().await;
    while endless.get_mut().write_all(&[b'x'; 4096]).await.is_ok() {}
    assert!(error_of(next(&mut endless).await).contains("longer than 65536 bytes"));
    assert_eq!(ask(&mut bench.connect().await, &question(2)).await, answer_to(2));
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_line_or_of_an_answer_disturbs_nobody() {
    let bench = Bench::new();
    let _control = bench.start();
    for length in [1, 10] {
        let mut client = bench.connect().await;
        client.get_mut().write_all(&question(1)[..length]).await.unwrap();
    }
    let mut client = bench.connect().await;
    client.get_mut().write_all(&question(1)).await.unwrap();
    drop(client);
    assert_eq!(ask(&mut bench.connect().await, &question(2)).await, answer_to(2));
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_the_others_go_on() {
    let bench = Bench::new();
    let _control = bench.start();
    let mut clients = Vec::new();
    for number in 0..MAX_CONNECTIONS as u64 {
        let mut client = bench.connect().await;
        assert_eq!(ask(&mut client, &question(number)).await, answer_to(number));
        clients.push(client);
    }
    for _ in 0..20 {
        assert!(error_of(next(&mut bench.connect().await).await).contains("serves 32 connections already"));
    }
    for client in &mut clients {
        assert_eq!(ask(client, &question(7)).await, answer_to(7));
    }
    // A place that is given up is free for the next.
    let mut gone = clients.pop().unwrap();
    gone.get_mut().shutdown().await.unwrap();
    assert_eq!(gone.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    let mut client = bench.connect().await;
    assert_eq!(ask(&mut client, &question(8)).await, answer_to(8));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_asks_nothing_is_closed() {
    let bench = Bench::new();
    let _control = bench.start();
    let mut client = bench.connect().await;
    client.get_mut().write_all(b"{\"v\":1,").await.unwrap();
    assert_eq!(client.read_to_end(&mut Vec::new()).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_role_that_does_not_answer_or_has_ended_is_reported_to_the_client() {
    let bench = Bench::new();
    let (_control, calls) = Control::start(&bench.path).unwrap();
    let mut client = bench.connect().await;
    assert!(error_of(ask(&mut client, &question(1)).await).contains("did not answer within 10 s"));
    drop(calls);
    assert!(error_of(ask(&mut client, &question(1)).await).contains("is ending"));
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let control = bench.start();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bench.path), 0o600);
    // The umask of whoever runs the test may take more away.
    assert_eq!(mode(bench.path.parent().unwrap()) & !0o755, 0);
    let mut client = bench.connect().await;
    assert_eq!(ask(&mut client, &question(1)).await, answer_to(1));
    assert_eq!(control.path(), bench.path);
    drop(control);
    assert_eq!(fs::read_dir(bench.path.parent().unwrap()).unwrap().count(), 0);
    assert_eq!(client.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    // The place is free again at once.
    let _control = bench.start();
    assert_eq!(ask(&mut bench.connect().await, &question(2)).await, answer_to(2));
}

#[tokio::test]
async fn the_socket_of_a_killed_daemon_is_replaced() {
    let bench = Bench::new();
    fs::create_dir(bench.path.parent().unwrap()).unwrap();
    // Closing a listener leaves its file, as a killed process does.
    drop(StdListener::bind(&bench.path).unwrap());
    assert!(StdStream::connect(&bench.path).is_err());
    let _control = bench.start();
    assert_eq!(ask(&mut bench.connect().await, &question(1)).await, answer_to(1));
}

#[tokio::test]
async fn a_second_daemon_refuses_to_start_and_the_first_goes_on() {
    let bench = Bench::new();
    let _control = bench.start();
    let error = Control::start(&bench.path).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    assert_eq!(ask(&mut bench.connect().await, &question(1)).await, answer_to(1));
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let bench = Bench::new();
    let path = bench.dir.path().join("precious");
    fs::write(&path, "data").unwrap();
    let error = Control::start(&path).unwrap_err();
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    let below = path.join("router.sock");
    let error = Control::start(&below).unwrap_err();
    assert!(error.to_string().contains("cannot make the directory"), "{error}");
}

#[tokio::test]
async fn an_ending_daemon_leaves_the_socket_of_its_successor() {
    let bench = Bench::new();
    let first = bench.start();
    fs::remove_file(&bench.path).unwrap();
    let _second = bench.start();
    drop(first);
    assert_eq!(ask(&mut bench.connect().await, &question(1)).await, answer_to(1));
}

//! The connections of the server: how many there may be, what protects them, and what happens when the kernel has
//! no more.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::{Stream, unfold};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, Sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tracing::warn;
use vmcast_signal::tonic::transport::server::{Connected, TcpConnectInfo};

use super::{
    gate::{Caller, ConnectionInfo, Gate, Peer, cut},
    gathered::{Gathered, can_wait},
};
use crate::identity::Refusal;

/// How much who calls may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at most, those that shake hands included; further ones wait in the kernel's queue.
    pub connections: usize,
    /// Of these, so many at most of whom nobody knows who they are: that shake hands, or have no certificate that counts.
    /// The others are left to nodes.
    pub strangers: usize,
    /// A request may take so long, from its headers to its answer.
    pub request: Duration,
    /// A connection that is silent for so long is asked whether it lives, and has as long to answer.
    pub silence: Duration,
}

impl Limits {
    /// Connections at most that can be asked for.
    pub const MOST_CONNECTIONS: usize = 1_000_000;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            strangers: 12_288,
            request: Duration::from_secs(10),
            silence: Duration::from_secs(30),
        }
    }
}

/// Who has no certificate joins, which is one call, and goes; who has one that does not count hears so, and goes.
const STRANGER_TIME: Duration = Duration::from_secs(30);
/// How long to leave a kernel alone that is out of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The other end has so long to read why the handshake failed, and to close.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes that it may send meanwhile: what a node says before it knows.
const MOST_UNREAD: usize = 64 * 1024;
/// What a connection says unasked waits for its first answer so long. Whoever sends no request before it has heard of the
/// server's settings, as some libraries do, waits as long.
const GREETING: Duration = Duration::from_millis(20);
/// The length in bytes of what a client says first (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Connections that wait to be served.
const WAITING: usize = 64;

/// A connection that counts as one until it is dropped.
pub(super) struct Connection {
    stream: Protected,
    info: ConnectionInfo,
    /// Ready when what it has said unasked is to wait no longer.
    greeting: Option<Pin<Box<Sleep>>>,
    /// What is to come yet of the other end's preface, and when it has to be there, once the greeting waits no longer:
    /// before that the server does not ask whether it lives.
    preface: (usize, Option<Pin<Box<Sleep>>>),
    gate: Gate,
    /// Ready when the connection has to end.
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    places: Places,
}

/// The places of all connections, and those of strangers. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// As in [`Limits`].
    silence: Duration,
}

impl Room {
    pub(super) fn new(limits: Limits) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { all: places(limits.connections), strangers: places(limits.strangers), silence: limits.silence }
    }
}

/// A connection's place among all, and among those of strangers if it is one.
struct Places {
    _place: OwnedSemaphorePermit,
    stranger: Option<OwnedSemaphorePermit>,
    /// As in [`Limits`].
    silence: Duration,
}

enum Protected {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

/// What is beneath.
pub(super) type Socket = Gathered<TcpStream>;

impl Protected {
    fn socket(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }
}

impl Connection {
    /// One whose first words wait for its first answer.
    fn new(
        mut stream: Protected,
        info: ConnectionInfo,
        over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
        (gate, places): (&Gate, Places),
    ) -> Self {
        stream.socket().hold();
        let greeting = Some(Box::pin(tokio::time::sleep(GREETING)));
        Self { stream, info, greeting, preface: (PREFACE, None), gate: gate.clone(), over, places }
    }

    /// What was said unasked waits no longer.
    fn release(&mut self) {
        let timer = self.greeting.take();
        if self.preface.0 > 0
            && let Some(mut timer) = timer
        {
            timer.as_mut().reset(Instant::now() + self.places.silence);
            self.preface.1 = Some(timer);
        }
        self.stream.socket().release();
    }

    /// So many bytes were read.
    fn note_read(&mut self, length: usize) {
        self.preface.0 = self.preface.0.saturating_sub(length);
        if self.preface.0 == 0 {
            self.preface.1 = None;
        }
    }
}

/// The connections that come to a listener and pass the gate.
///
/// Failing to accept one is no end: the server goes on with those it has.
pub(super) fn incoming(
    listener: TcpListener,
    gate: Gate,
    room: Room,
) -> impl Stream<Item = io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(listener, gate, room, &ready) => {}
            () = ready.closed() => {}
        }
    });
    unfold(connections, async |mut connections| Some((Ok(connections.recv().await?), connections)))
}

/// Accepts until it is dropped. Handshakes run side by side, so that a slow one holds up no other.
async fn accept(listener: TcpListener, gate: Gate, room: Room, ready: &mpsc::Sender<Connection>) {
    let mut failing = false;
    // Where it is known, the kernel need not be asked for each.
    let listens_on = listener.local_addr().ok().filter(|address| !address.ip().is_unspecified());
    while let Ok(place) = room.all.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, remote)) => {
                failing = false;
                let Ok(stranger) = room.strangers.clone().try_acquire_owned() else {
                    gate.turn_away();
                    continue;
                };
                let places = Places { _place: place, stranger: Some(stranger), silence: room.silence };
                let (gate, ready) = (gate.clone(), ready.clone());
                let local_addr = listens_on.or_else(|| stream.local_addr().ok());
                let tcp = TcpConnectInfo { local_addr, remote_addr: Some(remote) };
                tokio::spawn(async move {
                    if let Some(connection) = establish(stream, tcp, &gate, places).await {
                        // The server ends and takes no more.
                        let _ = ready.send(connection).await;
                    }
                });
            }
            Err(error) => {
                if !failing {
                    warn!(%error, "cannot accept connections; trying on");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn establish(
    stream: TcpStream,
    tcp: TcpConnectInfo,
    gate: &Gate,
    mut places: Places,
) -> Option<Connection> {
    let stream = Gathered::new(stream);
    if !gate.is_secure() {
        // Nobody is anybody there.
        places.stranger = None;
        let info = ConnectionInfo { tcp, caller: Caller::Insecure };
        return Some(Connection::new(Protected::Plain(stream), info, None, (gate, places)));
    }
    // Without an address it is gone already.
    let local = tcp.local_addr?.ip().to_canonical();
    match gate.handshake(stream, local).await {
        Ok((stream, caller)) => {
            let over: Option<Pin<Box<dyn Future<Output = ()> + Send>>> = match &caller {
                Caller::Node(peer) => {
                    let stranger = places.stranger.take().filter(|_| !peer.counts());
                    Some(Box::pin(out(Arc::clone(peer), stranger, gate.clone())))
                }
                Caller::Anonymous => {
                    let gate = gate.clone();
                    Some(Box::pin(async move {
                        tokio::time::sleep(STRANGER_TIME).await;
                        gate.send_away();
                    }))
                }
                Caller::Insecure => None,
            };
            let stream = Protected::Tls(Box::new(stream));
            Some(Connection::new(stream, ConnectionInfo { tcp, caller }, over, (gate, places)))
        }
        Err((failure, stream)) => {
            gate.handshake_failed(tcp.remote_addr, &failure);
            if let Some(stream) = stream {
                // In its place among the strangers.
                let _ = timeout(LINGER, let_read(stream)).await;
            }
            None
        }
    }
}

/// Ready when the connection of a node has to end. Where its certificate does not count yet it stays among the strangers.
async fn out(peer: Arc<Peer>, stranger: Option<OwnedSemaphorePermit>, gate: Gate) {
    if stranger.is_some() {
        tokio::time::sleep(STRANGER_TIME).await;
        if !peer.counts() {
            return gate.send_away();
        }
        drop(stranger);
    }
    if peer.shut_out().await != Refusal::CertificateExpired {
        // With one that has expired it comes again by the next.
        tokio::time::sleep(STRANGER_TIME).await;
        gate.send_away();
    }
}

/// Ends a connection so that the other end reads why: if what it has sent were left unread, the kernel would reset the
/// connection, and the alert be lost. Whoever sends on and on is reset all the same.
async fn let_read(mut stream: Socket) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let (mut buffer, mut left) = ([0; 1024], MOST_UNREAD);
    while left > 0 {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => left = left.saturating_sub(length),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(over) = &mut self.over
            && over.as_mut().poll(context).is_ready()
        {
            self.over = None;
            return Poll::Ready(Err(cut(
                "the certificate has expired or does not count, or there is none and the time to join is over",
            )));
        }
        if let Some(greeting) = &mut self.greeting
            && greeting.as_mut().poll(context).is_ready()
        {
            self.release();
            if let Poll::Ready(Err(error)) = Pin::new(self.stream.socket()).poll_flush(context) {
                return Poll::Ready(Err(error));
            }
        }
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Protected::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Protected::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        self.note_read(buffer.filled().len() - before);
        // What has come counts, however late this host looks at it: it may have stood still.
        if read.is_pending()
            && let Some(late) = &mut self.preface.1
            && late.as_mut().poll(context).is_ready()
        {
            self.preface.1 = None;
            self.gate.end_silent();
            return Poll::Ready(Err(cut("the other end did not begin to speak HTTP/2")));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.greeting.is_some() && !can_wait(bytes) {
            self.release();
        }
        match &mut self.stream {
            Protected::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Protected::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Protected::Plain(stream) => Pin::new(stream).poll_flush(context),
            Protected::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Protected::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Protected::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.greeting.is_some() && !buffers.iter().all(|buffer| can_wait(buffer)) {
            self.release();
        }
        match &mut self.stream {
            Protected::Plain(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
            Protected::Tls(stream) => Pin::new(stream).poll_write_vectored(context, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Protected::Plain(stream) => stream.is_write_vectored(),
            Protected::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Clock;

    // proves D4: what came in time counts also where this host looks at it late
    #[tokio::test]
    async fn who_has_spoken_is_not_cut_by_a_host_that_stood_still() {
        let silence = Duration::from_secs(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let gate = Gate::insecure(Clock::system());
        for speaks in [true, false] {
            let mut client =
                TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connect");
            let (stream, remote) = listener.accept().await.expect("accept");
            let tcp = TcpConnectInfo { local_addr: None, remote_addr: Some(remote) };
            let info = ConnectionInfo { tcp, caller: Caller::Insecure };
            let room = Room::new(Limits { silence, ..Limits::default() });
            let place = room.all.acquire_owned().await.expect("a place");
            let places = Places { _place: place, stranger: None, silence };
            let stream = Protected::Plain(Gathered::new(stream));
            let mut connection = Connection::new(stream, info, None, (&gate, places));
            connection.release();
            let mut said = [0; 64];
            timeout(Duration::ZERO, connection.read(&mut said)).await.expect_err("nothing was said yet");
            if speaks {
                client.write_all(&[b'x'; PREFACE]).await.expect("sent");
            }
            // Nothing of this thread runs meanwhile.
            std::thread::sleep(silence * 2);
            match connection.read(&mut said).await {
                Ok(length) => assert_eq!((length, speaks), (PREFACE, true)),
                Err(error) => {
                    assert_eq!((error.to_string().contains("HTTP/2"), speaks), (true, false), "{error}")
                }
            }
            let counted = gate.tally().counters().find(|(name, _)| *name == Refusal::HandshakeSlow.label());
            assert_eq!(counted.map(|(_, count)| count), Some(u64::from(!speaks)));
        }
    }
}

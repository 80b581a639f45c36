//! An ordinary player's socket: a plain `IP_ADD_MEMBERSHIP` that knows nothing of vmcast.

use std::{
    io::Read as _,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Continuity, Counts, GroupPort, POLL, fingerprint};
use crate::{LabError, Namespace, clock::Clock};

/// Room for bursts, in bytes.
const RECEIVE_BUFFER: usize = 8 << 20;

/// What a client received between a join and its leave.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// When it joined.
    pub joined_at: Duration,
    /// When the first packet came.
    pub first_at: Option<Duration>,
    /// When it left, if it has.
    pub left_at: Option<Duration>,
    /// Identities of the payloads, in the order of their arrival.
    pub received: Vec<u64>,
    /// Packets and bytes, headers of IP and UDP included.
    pub counts: Counts,
    /// Continuity of the transport stream.
    pub continuity: Continuity,
}

impl Session {
    /// From the join to the first packet.
    #[must_use]
    pub fn join_to_first(&self) -> Option<Duration> {
        self.first_at.map(|first| first.saturating_sub(self.joined_at))
    }
}

#[derive(Debug)]
struct Shared {
    session: Mutex<Session>,
    stop: AtomicBool,
}

/// A client's membership and its socket, until [`Receiver::leave`].
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    clock: Clock,
    thread: Option<JoinHandle<Result<(), LabError>>>,
}

impl Receiver {
    /// Joins, on the interface that the namespace's routes choose for the group.
    ///
    /// # Errors
    /// If there is no route to the group, or the system refuses the socket.
    pub fn join(namespace: &Namespace, stream: GroupPort, clock: Clock) -> Result<Self, LabError> {
        let what = format!("joining {} in {}", stream.group, namespace.node());
        let socket = namespace.enter(|| open(stream))?.map_err(LabError::io(what.clone()))?;
        let session = Session { joined_at: clock.now(), ..Session::default() };
        socket.join_multicast_v4(&stream.group, &Ipv4Addr::UNSPECIFIED).map_err(LabError::io(what))?;
        let shared = Arc::new(Shared { session: Mutex::new(session), stop: AtomicBool::new(false) });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("{}-player", namespace.node()))
            .spawn(move || receive(socket, clock, &theirs))
            .map_err(LabError::io("starting a receiver"))?;
        Ok(Self { shared, clock, thread: Some(thread) })
    }

    /// Looks at the session so far.
    pub fn look<T>(&self, look: impl FnOnce(&Session) -> T) -> T {
        look(&self.shared.session.lock().expect("a receiver does not panic"))
    }

    /// Leaves by closing the socket, and gives what was received.
    ///
    /// # Errors
    /// If the socket had failed.
    pub fn leave(mut self) -> Result<Session, LabError> {
        let left_at = self.clock.now();
        self.close()?;
        let mut session =
            std::mem::take(&mut *self.shared.session.lock().expect("a receiver does not panic"));
        session.left_at = Some(left_at);
        Ok(session)
    }

    fn close(&mut self) -> Result<(), LabError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(LabError::Panicked("receiver".to_owned())),
            None => Ok(()),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Nobody asked for the session; its error goes with it.
        let _ = self.close();
    }
}

fn open(stream: GroupPort) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    socket.set_read_timeout(Some(POLL))?;
    socket.bind(&SockAddr::from(stream.socket_addr()))?;
    Ok(socket)
}

fn receive(mut socket: Socket, clock: Clock, shared: &Shared) -> Result<(), LabError> {
    let mut buffer = vec![0; 65536];
    while !shared.stop.load(Ordering::Relaxed) {
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => continue,
            Err(error) => return Err(LabError::io("receiving")(error)),
        };
        let at = clock.now();
        let payload = &buffer[..length];
        let mut session = shared.session.lock().expect("a receiver does not panic");
        session.first_at.get_or_insert(at);
        session.received.push(fingerprint(payload));
        session.counts.add(length + 28);
        session.continuity.push(payload);
    }
    Ok(())
}

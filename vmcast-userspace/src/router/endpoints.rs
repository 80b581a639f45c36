//! The sockets of the tunnels: those of the relay on our addresses, and the gateway's.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Context as _;
use tokio::{sync::mpsc, task::AbortHandle};
use vmcast_dataplane::shares::{RelayCuts, SocketShares};

use super::run::Event;
use crate::{
    clock,
    sockets::{AT_ONCE, Batch, Heard, Throttle, UdpEndpoint},
};

/// Datagrams that are taken from an endpoint in a second: twice those of 50,000 joins.
const DATAGRAMS_PER_SECOND: u32 = 200_000;

/// Where datagrams stand until they have been passed on: one task at a time reads.
type Room = Arc<Mutex<Batch>>;

/// A socket and the task that reads it; dropped, both end.
#[derive(Debug)]
pub(super) struct Reading {
    socket: Arc<UdpEndpoint>,
    task: AbortHandle,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reading {
    /// Our end.
    pub(super) fn local(&self) -> SocketAddr {
        self.socket.local()
    }

    fn start(
        local: SocketAddr,
        shares: Option<&SocketShares>,
        room: Room,
        events: &mpsc::Sender<Event>,
        event: fn(&Heard<'_>) -> Event,
    ) -> io::Result<Self> {
        let socket = Arc::new(UdpEndpoint::bind_behind(shares.map(SocketShares::relay_filter), local)?);
        let task = tokio::spawn(read(Arc::clone(&socket), room, events.clone(), event)).abort_handle();
        Ok(Self { socket, task })
    }
}

async fn read(
    socket: Arc<UdpEndpoint>,
    room: Room,
    events: mpsc::Sender<Event>,
    event: fn(&Heard<'_>) -> Event,
) {
    let mut throttle = Throttle::new(DATAGRAMS_PER_SECOND);
    let most = AT_ONCE.min(events.max_capacity());
    let mut batch = Vec::with_capacity(most);
    loop {
        let most = most.min(throttle.left());
        if let Err(error) = socket.recv_many(&room, most, |heard| batch.push(event(&heard))).await {
            tracing::debug!(%error, "reading a tunnel endpoint");
            continue;
        }
        let next = throttle.take(clock::now(), batch.len());
        let Ok(permits) = events.reserve_many(batch.len()).await else { return };
        permits.zip(batch.drain(..)).for_each(|(permit, event)| permit.send(event));
        if next.is_some() {
            clock::sleep_until(next).await;
        }
    }
}

/// The endpoints of the relay.
pub(super) struct Relays {
    port: u16,
    /// Where only Relay Discovery is answered; no endpoint of a tunnel.
    discovery: Vec<IpAddr>,
    sockets: BTreeMap<SocketAddr, Reading>,
    /// What stands before them in the kernel, if it takes that.
    shares: Option<Arc<SocketShares>>,
    room: Room,
    /// Datagrams that the kernel dropped at endpoints that are gone.
    dropped_before: u64,
    /// Those that were known to be dropped because too many waited.
    overrun: AtomicU64,
}

/// Endpoints that came and went.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pub(super) added: Vec<SocketAddr>,
    pub(super) removed: Vec<SocketAddr>,
    /// Those that could not be had.
    pub(super) refused: Vec<(SocketAddr, io::Error)>,
}

impl Relays {
    pub(super) fn new(port: u16, discovery: Vec<IpAddr>, shares: Option<Arc<SocketShares>>) -> Self {
        let (sockets, overrun) = (BTreeMap::new(), AtomicU64::new(0));
        Self { port, discovery, sockets, shares, room: new_room(), dropped_before: 0, overrun }
    }

    /// Takes tunnels at these addresses and no others.
    pub(super) fn follow(&mut self, addresses: &[IpAddr], events: &mpsc::Sender<Event>) -> Moves {
        let mut moves = Moves::default();
        let Self { port, discovery, sockets, shares, room, dropped_before, .. } = self;
        sockets.retain(|endpoint, reading| {
            let ip = endpoint.ip();
            let stays = addresses.contains(&ip) || discovery.contains(&ip);
            if !stays {
                *dropped_before += reading.socket.drops();
                moves.removed.push(*endpoint);
            }
            stays
        });
        for address in addresses.iter().chain(&*discovery) {
            let local = SocketAddr::new(*address, *port);
            if sockets.contains_key(&local) {
                continue;
            }
            match Reading::start(local, shares.as_deref(), Arc::clone(room), events, Event::of_relay) {
                Ok(socket) => {
                    sockets.insert(local, socket);
                    if !discovery.contains(address) {
                        moves.added.push(local);
                    }
                }
                Err(error) => moves.refused.push((local, error)),
            }
        }
        moves
    }

    /// Where tunnels are taken.
    pub(super) fn endpoints(&self) -> Vec<SocketAddr> {
        let is_of_tunnels = |endpoint: &&SocketAddr| !self.discovery.contains(&endpoint.ip());
        self.sockets.keys().filter(is_of_tunnels).copied().collect()
    }

    /// Datagrams that the kernel dropped because more came than are taken.
    pub(super) fn overrun(&self) -> u64 {
        let dropped = self.sockets.values().map(|reading| reading.socket.drops()).sum::<u64>();
        // What is cut counts as dropped, too, and is read last, so this is never too much; nor does it go back.
        let RelayCuts { source, strangers } = self.cuts();
        let overrun = (self.dropped_before + dropped).saturating_sub(source + strangers);
        self.overrun.fetch_max(overrun, Ordering::Relaxed).max(overrun)
    }

    /// Datagrams that were cut because their sources sent more than their shares.
    pub(super) fn cuts(&self) -> RelayCuts {
        self.shares.as_ref().map_or_else(RelayCuts::default, |shares| shares.relay_cuts())
    }

    /// A tunnel of a gateway is there, or gone.
    pub(super) fn note_tunnel(&self, gateway: IpAddr, is_up: bool) {
        match &self.shares {
            Some(shares) if is_up => shares.add_gateway(gateway),
            Some(shares) => shares.remove_gateway(gateway),
            None => {}
        }
    }

    /// Shares what the sockets take with the gateways whose tunnels came since the last call.
    pub(super) fn share_out(&self) {
        if let Some(shares) = &self.shares {
            shares.share_out();
        }
    }

    /// Sends datagrams from an endpoint; says how many were not sent. What is lost here is repeated by its protocol.
    pub(super) fn send(&self, local: SocketAddr, datagrams: &[(SocketAddr, &[u8])]) -> usize {
        let reading = self.sockets.get(&local);
        reading.map_or(datagrams.len(), |reading| reading.socket.send_many(local.ip(), datagrams))
    }
}

fn new_room() -> Room {
    Arc::new(Mutex::new(Batch::new()))
}

/// Sends a datagram; what is lost here is repeated by its protocol.
pub(super) fn send(reading: &Reading, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) -> bool {
    match reading.socket.send(local.ip(), remote, bytes) {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(%remote, %error, "datagram not sent");
            false
        }
    }
}

/// A socket for the gateway; port 0 takes a free one.
///
/// # Errors
/// If the address is not ours or the port is taken.
pub(super) fn open_gateway(local: SocketAddr, events: &mpsc::Sender<Event>) -> anyhow::Result<Reading> {
    Reading::start(local, None, new_room(), events, Event::of_gateway)
        .with_context(|| format!("a socket on {local}"))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};

    use super::*;

    const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 44, 0, 1));
    const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 44, 0, 2));

    /// A port that is free on an address at the moment.
    fn free_port() -> u16 {
        let socket = UdpSocket::bind((FIRST, 0)).expect("a loopback address");
        socket.local_addr().expect("it is bound").port()
    }

    #[tokio::test]
    async fn endpoints_follow_the_addresses_and_one_that_stays_is_not_touched() {
        let (events, mut received) = mpsc::channel(4);
        let port = free_port();
        let [first, second] = [FIRST, SECOND].map(|address| SocketAddr::from((address, port)));
        let mut relays = Relays::new(port, Vec::new(), None);
        assert!(relays.endpoints().is_empty());
        assert_eq!(relays.follow(&[FIRST], &events).added, [first]);
        let moves = relays.follow(&[FIRST, SECOND], &events);
        assert_eq!((moves.added, moves.removed), (vec![second], vec![]));

        let member = UdpSocket::bind((FIRST, 0)).expect("a loopback address");
        member.send_to(b"hello", second).expect("loopback");
        let Some(Event::Relay { local, bytes, .. }) = received.recv().await else { panic!("a datagram") };
        assert_eq!((local, bytes.as_slice()), (second, b"hello".as_slice()));

        assert_eq!(relays.follow(&[FIRST], &events).removed, [second]);
        assert_eq!(relays.endpoints(), [first]);
        let to = member.local_addr().expect("it is bound");
        assert_eq!(relays.send(second, &[(to, b"too late")]), 1);
    }

    #[tokio::test]
    async fn what_comes_faster_than_it_is_read_is_counted_for_good() {
        let (events, _received) = mpsc::channel(1);
        let port = free_port();
        let mut relays = Relays::new(port, Vec::new(), None);
        relays.follow(&[FIRST], &events);
        assert_eq!(relays.overrun(), 0);
        let member = UdpSocket::bind((FIRST, 0)).expect("a loopback address");
        // Nothing is read meanwhile: there is one thread, and it is here.
        let datagram = vec![0; 60_000];
        let sent = 2 * 2 * (8 << 20) / datagram.len();
        for _ in 0..sent {
            member.send_to(&datagram, (FIRST, port)).expect("loopback");
        }
        let lost = relays.overrun();
        assert!(lost > 0 && lost < sent as u64, "{lost} of {sent}");
        relays.follow(&[], &events);
        assert_eq!(relays.overrun(), lost, "also when the endpoint is gone");
    }

    #[tokio::test]
    async fn an_endpoint_that_cannot_be_had_is_told_and_the_others_serve() {
        let (events, _received) = mpsc::channel(4);
        let port = free_port();
        let _taken = UdpSocket::bind((SECOND, port)).expect("a free port");
        let mut relays = Relays::new(port, Vec::new(), None);
        let moves = relays.follow(&[FIRST, SECOND], &events);
        assert_eq!(moves.added, [SocketAddr::from((FIRST, port))]);
        assert_eq!(moves.refused.len(), 1);
    }
}

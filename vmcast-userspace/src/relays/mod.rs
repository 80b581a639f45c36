//! What the discovery of relays by DNS (RFC 8777) needs of the host: names resolved, and a port for each tunnel.

mod dns;
mod port;
mod service;
mod show;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use tokio::sync::mpsc;
use vmcast_proto::amt::discovery::{self, Answer, Question};

use crate::{config::AmtrelayConfig, sockets::source_towards};
pub(crate) use dns::{Dns, Resolved};
use port::Port;
pub(crate) use service::Service;
pub(crate) use show::{source, sources};

/// Datagrams and answers that wait for the role's loop; more wait in the sockets.
const EVENTS: usize = 1024;

/// Something for the machine.
#[derive(Debug)]
pub(crate) enum Event {
    /// A datagram came to a tunnel's port.
    Datagram { tunnel: u32, remote: SocketAddr, tos: u8, bytes: Vec<u8> },
    /// One that was sent from there was not delivered.
    Undelivered { tunnel: u32, remote: SocketAddr, quoted: Vec<u8> },
    /// The DNS has answered.
    Answer { query: u64, resolved: Resolved },
}

/// What a role's discovery wants of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RelayEffect {
    /// Ask the DNS.
    Query { query: u64, question: Question },
    /// A tunnel begins; it needs a port.
    Open { tunnel: u32, remote: SocketAddr },
    /// It has ended.
    Close { tunnel: u32 },
    /// Send a datagram from its port.
    Send { tunnel: u32, remote: SocketAddr, bytes: Vec<u8> },
    /// For the operator.
    Event(discovery::Event),
}

/// The resolver and the ports of the tunnels.
pub(crate) struct Relays {
    dns: Arc<Dns>,
    ports: BTreeMap<u32, Port>,
    events: mpsc::Sender<Event>,
    queue: mpsc::Receiver<Event>,
}

impl Relays {
    /// Starts without tunnels.
    pub(crate) fn new(config: &AmtrelayConfig) -> Self {
        let (events, queue) = mpsc::channel(EVENTS);
        Self { dns: Arc::new(Dns::new(config.servers())), ports: BTreeMap::new(), events, queue }
    }

    /// Waits for something. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Event {
        match self.queue.recv().await {
            Some(event) => event,
            // A sender is here as well.
            None => std::future::pending().await,
        }
    }

    /// Asks the DNS; the answer comes as an event, whatever it is.
    pub(crate) fn ask(&self, query: u64, question: Question) {
        let (dns, events) = (Arc::clone(&self.dns), self.events.clone());
        tokio::spawn(async move {
            let resolved = dns.ask(&question).await;
            if let Resolved::Failed(error) = &resolved {
                tracing::debug!(?question, %error, "the DNS does not answer");
            }
            // Only a role that has ended does not listen.
            let _ = events.send(Event::Answer { query, resolved }).await;
        });
    }

    /// Opens a port for a tunnel, at this address, chosen for packets to `towards`.
    ///
    /// # Errors
    /// If the address is not ours.
    pub(crate) fn open(&mut self, tunnel: u32, local: IpAddr, towards: SocketAddr) -> io::Result<SocketAddr> {
        let port = Port::open(tunnel, SocketAddr::new(local, 0), towards, &self.events)?;
        let local = port.local();
        self.ports.insert(tunnel, port);
        Ok(local)
    }

    /// The tunnels that would get another address of ours now, and which; `None` if no way leads to the relay. Asked with
    /// the address that each was opened for: the relay that has answered there may be another one.
    pub(crate) fn strayed(&self) -> Vec<(u32, Option<IpAddr>)> {
        self.ports.iter().filter_map(|(tunnel, port)| Some((*tunnel, port.strayed_to()?))).collect()
    }

    /// Opens another port for a tunnel, at this address, in place of the one that it has.
    ///
    /// # Errors
    /// If there is none, or the address is not ours.
    pub(crate) fn reopen(&mut self, tunnel: u32, local: IpAddr) -> io::Result<SocketAddr> {
        let towards = self.ports.get(&tunnel).ok_or(io::ErrorKind::NotConnected)?.towards();
        self.open(tunnel, local, towards)
    }

    /// Closes it.
    pub(crate) fn close(&mut self, tunnel: u32) {
        self.ports.remove(&tunnel);
    }

    /// Sends from a tunnel's port; what is lost here is repeated by its protocol.
    ///
    /// # Errors
    /// If the kernel does not take it, or there is no such port.
    pub(crate) fn send(&self, tunnel: u32, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.ports.get(&tunnel).ok_or(io::ErrorKind::NotConnected)?.send(remote, bytes)
    }

    /// Our end of a tunnel.
    pub(crate) fn local(&self, tunnel: u32) -> Option<SocketAddr> {
        self.ports.get(&tunnel).map(Port::local)
    }
}

/// The ways of this host.
pub(crate) struct HostRoutes;

impl discovery::Routes for HostRoutes {
    fn source(&self, destination: IpAddr) -> Option<IpAddr> {
        source_towards(SocketAddr::new(destination, vmcast_wire::amt::PORT))
    }
}

/// Every address of this host, of the version of another.
pub(crate) const fn any_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

impl Resolved {
    /// As the machine takes it.
    pub(crate) fn answer(&self) -> Answer<'_> {
        match self {
            Self::Records { data, ttl } => Answer::Records { data, ttl: *ttl },
            Self::Addresses { addresses, ttl } => Answer::Addresses { addresses, ttl: *ttl },
            Self::Nothing { ttl } => Answer::Nothing { ttl: *ttl },
            Self::Failed(_) => Answer::Failed,
        }
    }
}

/// What the log says of a relay or source.
pub(crate) fn log(event: &discovery::Event) {
    match event {
        discovery::Event::Up { tunnel, relay } => {
            tracing::info!(tunnel, %relay, "the relay of a source answers")
        }
        discovery::Event::Down { tunnel, relay, reason } => {
            tracing::warn!(tunnel, %relay, reason, "the relay of a source is given up");
        }
        discovery::Event::Turned { source, place } => tracing::debug!(%source, ?place, "a source is joined"),
    }
}

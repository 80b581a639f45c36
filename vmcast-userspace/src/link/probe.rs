//! Drives the prober over UDP sockets that tell the time to live of what they receive.

use std::{
    future::Future,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};
use tokio::{io::Interest, net::UdpSocket, time::sleep_until};
use tracing::{debug, trace};
use vmcast_proto::{
    Machine,
    nearest::{
        Config, Counters, Findings, Input, Output, Prober,
        rtt::{Arrival, Awaiting, AwaitingConfig, AwaitingOutput},
    },
};
use vmcast_signal::v1;

/// Bytes of an answer that are looked at; a Relay Advertisement has 24 at most.
const BUFFER: usize = 64;

/// Measures the distance of `relays`, from the address `local` if it matters.
///
/// A relay that cannot even be sent to is one that does not answer.
///
/// # Errors
/// If no socket can be had.
pub async fn probe(
    relays: &[SocketAddr],
    config: Config,
    seed: u64,
    local: Option<IpAddr>,
) -> io::Result<(Findings, Counters)> {
    let needs = |v4: bool| relays.iter().any(|relay| relay.is_ipv4() == v4);
    let v4 = if needs(true) { open(local, Ipv4Addr::UNSPECIFIED.into())? } else { None };
    let v6 = if needs(false) { open(local, Ipv6Addr::UNSPECIFIED.into())? } else { None };

    let mut prober = Prober::new(config, seed, now(), relays.iter().copied());
    loop {
        while let Some(output) = prober.poll_output() {
            match output {
                Output::Transmit { to, bytes } => {
                    let socket = if to.is_ipv4() { &v4 } else { &v6 };
                    if let Some(Err(error)) = match socket {
                        Some(socket) => Some(socket.send_to(&bytes, to).await),
                        None => None,
                    } {
                        debug!(relay = %to, %error, "cannot send");
                    }
                }
                Output::Done(findings) => {
                    let counters = *prober.counters();
                    debug!(?counters, "probing has ended");
                    return Ok((findings, counters));
                }
            }
        }
        let Some(timeout) = prober.poll_timeout() else {
            return Err(io::Error::other("the prober waits for nothing"));
        };
        tokio::select! {
            received = receive(v4.as_ref()) => on_received(&mut prober, received),
            received = receive(v6.as_ref()) => on_received(&mut prober, received),
            () = sleep_until(timeout.into()) => prober.handle_timeout(now()),
        }
    }
}

/// Opens the ways to `relays`, has the admin asked by `ask`, and waits for their probes; the first that
/// arrived comes first.
///
/// # Errors
/// If no socket can be had.
pub async fn probed(
    relays: &[SocketAddr],
    probing: v1::Probing,
    local: Option<IpAddr>,
    ask: impl Future<Output = ()>,
) -> io::Result<Vec<Arrival>> {
    let needs = |v4: bool| relays.iter().any(|relay| relay.is_ipv4() == v4);
    let v4 = if needs(true) { open(local, Ipv4Addr::UNSPECIFIED.into())? } else { None };
    let v6 = if needs(false) { open(local, Ipv6Addr::UNSPECIFIED.into())? } else { None };
    let nonces = [probing.opening_nonce, probing.probe_nonce];
    let wait = Duration::from_micros(probing.longest_wait_micros.into());
    let relays = relays.iter().copied();
    let mut awaiting = Awaiting::new(AwaitingConfig::default(), now(), nonces, wait, relays);
    let mut asking = std::pin::pin!(ask);
    let (mut opened, mut asked) = (false, false);
    loop {
        while let Some(output) = awaiting.poll_output() {
            match output {
                AwaitingOutput::Transmit { to, bytes } => {
                    let socket = if to.is_ipv4() { &v4 } else { &v6 };
                    if let Some(socket) = socket
                        && let Err(error) = socket.send_to(&bytes, to).await
                    {
                        debug!(relay = %to, %error, "cannot send");
                    }
                }
                AwaitingOutput::Opened => opened = true,
                AwaitingOutput::Done(arrivals) => return Ok(arrivals),
            }
        }
        let Some(timeout) = awaiting.poll_timeout() else {
            return Err(io::Error::other("the search waits for nothing"));
        };
        let received = tokio::select! {
            () = &mut asking, if opened && !asked => {
                asked = true;
                continue;
            }
            received = receive(v4.as_ref()) => received,
            received = receive(v6.as_ref()) => received,
            () = sleep_until(timeout.into()) => {
                awaiting.handle_timeout(now());
                continue;
            }
        };
        match received {
            Ok(Received { from, ttl, bytes, length }) => {
                awaiting.on_received(now(), from, ttl, &bytes[..length]);
            }
            Err(error) => debug!(%error, "cannot receive"),
        }
    }
}

/// One datagram.
struct Received {
    from: SocketAddr,
    ttl: u8,
    bytes: [u8; BUFFER],
    length: usize,
}

fn on_received(prober: &mut Prober, received: io::Result<Received>) {
    match received {
        Ok(Received { from, ttl, bytes, length }) => {
            trace!(%from, ttl, length, "answer");
            prober.handle_input(now(), Input::Received { from, ttl, bytes: &bytes[..length] });
        }
        Err(error) => debug!(%error, "cannot receive"),
    }
}

/// A socket of the family of `any`, `None` if `local` is of the other one.
fn open(local: Option<IpAddr>, any: IpAddr) -> io::Result<Option<UdpSocket>> {
    let address = local.unwrap_or(any);
    if address.is_ipv4() != any.is_ipv4() {
        return Ok(None);
    }
    let socket = std::net::UdpSocket::bind((address, 0))?;
    socket.set_nonblocking(true)?;
    if any.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    }
    UdpSocket::from_std(socket).map(Some)
}

/// The next datagram that has a time to live; never without a socket.
async fn receive(socket: Option<&UdpSocket>) -> io::Result<Received> {
    match socket {
        Some(socket) => socket.async_io(Interest::READABLE, || receive_now(socket.as_raw_fd())).await,
        None => std::future::pending().await,
    }
}

fn receive_now(socket: RawFd) -> io::Result<Received> {
    let mut bytes = [0; BUFFER];
    let mut control = cmsg_space!(i32);
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let message =
        recvmsg::<SockaddrStorage>(socket, &mut buffers, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let length = message.bytes;
    let ttl = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => u8::try_from(ttl).ok(),
        _ => None,
    });
    let from = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), v4.port())));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port()))))
    });
    match (from, ttl) {
        (Some(from), Some(ttl)) => Ok(Received { from, ttl, bytes, length }),
        (None, _) | (_, None) => Err(Errno::ENODATA.into()),
    }
}

/// The runtime's clock, which a test can hold.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

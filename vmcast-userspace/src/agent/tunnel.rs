//! The sockets of the agent's tunnel: one of each version of IP that the host speaks.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::sockets::{Buffer, Heard, UdpEndpoint};

/// A socket for VMRs over IPv4, one for those over IPv6, or both.
pub(super) struct TunnelSockets {
    v4: Option<UdpEndpoint>,
    v6: Option<UdpEndpoint>,
}

/// Room for a datagram of each.
pub(super) struct Buffers {
    v4: Buffer,
    v6: Buffer,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { v4: Buffer::new(), v6: Buffer::new() }
    }
}

impl TunnelSockets {
    /// Opens them at free ports.
    ///
    /// # Errors
    /// If the host gives neither.
    pub(super) fn open() -> io::Result<Self> {
        let v4 = UdpEndpoint::bind((Ipv4Addr::UNSPECIFIED, 0).into());
        let v6 = UdpEndpoint::bind((Ipv6Addr::UNSPECIFIED, 0).into());
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok(Self { v4: v4.ok(), v6: v6.ok() }),
        }
    }

    /// Waits for a datagram, or news of one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If a socket fails.
    pub(super) async fn recv<'a>(&self, buffers: &'a mut Buffers) -> io::Result<Heard<'a>> {
        tokio::select! {
            heard = recv(self.v4.as_ref(), &mut buffers.v4) => heard,
            heard = recv(self.v6.as_ref(), &mut buffers.v6) => heard,
        }
    }

    /// Takes what is there already; `None` if there is nothing.
    ///
    /// # Errors
    /// If a socket fails.
    pub(super) fn try_recv<'a>(&self, buffers: &'a mut Buffers) -> io::Result<Option<Heard<'a>>> {
        for (socket, buffer) in [(&self.v4, &mut buffers.v4), (&self.v6, &mut buffers.v6)] {
            if let Some(socket) = socket
                && let Some(heard) = socket.try_recv(buffer)?
            {
                return Ok(Some(heard));
            }
        }
        Ok(None)
    }

    /// Sends a datagram from the address that the routes choose.
    ///
    /// # Errors
    /// If the kernel does not take it, or the host does not speak that version of IP.
    pub(super) fn send(&self, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        let (socket, any): (_, IpAddr) = match remote {
            SocketAddr::V4(_) => (&self.v4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&self.v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        socket.as_ref().ok_or(io::ErrorKind::Unsupported)?.send(any, remote, bytes)
    }

    /// Where the socket of this address's version speaks from it; `None` if there is none.
    pub(super) fn endpoint(&self, address: IpAddr) -> Option<SocketAddr> {
        let socket = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        socket.as_ref().map(|socket| SocketAddr::new(address, socket.local().port()))
    }

    /// The ports, that of IPv4 first.
    pub(super) fn ports(&self) -> Vec<u16> {
        [&self.v4, &self.v6].into_iter().flatten().map(|socket| socket.local().port()).collect()
    }
}

async fn recv<'a>(socket: Option<&UdpEndpoint>, buffer: &'a mut Buffer) -> io::Result<Heard<'a>> {
    match socket {
        Some(socket) => socket.recv(buffer).await,
        None => std::future::pending().await,
    }
}

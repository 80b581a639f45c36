//! A tunnel's own port.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::{sync::mpsc, task::AbortHandle};

use super::Event;
use crate::sockets::{Buffer, Heard, Received, UdpEndpoint, Undelivered, source_towards};

/// A socket and the task that reads it; dropped, both end.
pub(super) struct Port {
    socket: Arc<UdpEndpoint>,
    /// Where its address was chosen for.
    towards: SocketAddr,
    task: AbortHandle,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Port {
    pub(super) fn open(
        tunnel: u32,
        local: SocketAddr,
        towards: SocketAddr,
        events: &mpsc::Sender<Event>,
    ) -> io::Result<Self> {
        let socket = Arc::new(UdpEndpoint::bind(local)?);
        let task = tokio::spawn(read(tunnel, Arc::clone(&socket), events.clone())).abort_handle();
        Ok(Self { socket, towards, task })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.socket.local()
    }

    /// Where its address was chosen for.
    pub(super) const fn towards(&self) -> SocketAddr {
        self.towards
    }

    /// The address, if another one, that packets to where its address was chosen for would leave from now, or none.
    pub(super) fn strayed_to(&self) -> Option<Option<IpAddr>> {
        let now = source_towards(self.towards);
        (now != Some(self.local().ip())).then_some(now)
    }

    pub(super) fn send(&self, remote: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.socket.send(self.local().ip(), remote, bytes)
    }
}

async fn read(tunnel: u32, socket: Arc<UdpEndpoint>, events: mpsc::Sender<Event>) {
    let mut buffer = Buffer::new();
    loop {
        match socket.recv(&mut buffer).await {
            Ok(heard) => {
                let event = match heard {
                    Heard::Datagram(Received { remote, tos, bytes, .. }) => {
                        Event::Datagram { tunnel, remote, tos, bytes: bytes.to_vec() }
                    }
                    Heard::Undelivered(Undelivered { remote, quoted, .. }) => {
                        Event::Undelivered { tunnel, remote, quoted: quoted.to_vec() }
                    }
                };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::debug!(tunnel, %error, "reading a tunnel's port"),
        }
    }
}

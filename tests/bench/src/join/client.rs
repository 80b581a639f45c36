//! The client: joins, waits for the first packet, leaves; and pings the source.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, SockAddr, Socket, Type};
use vmcast_lab::{Namespace, clock::Clock};

use super::source::ECHO_PORT;

/// How long the first packet may take before the join counts as failed.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) struct Client {
    namespace: Namespace,
    source: Ipv4Addr,
    clock: Clock,
}

impl Client {
    pub(super) fn new(namespace: &Namespace, source: Ipv4Addr, clock: Clock) -> Self {
        Self { namespace: namespace.clone(), source, clock }
    }

    /// Round-trip times to the source, in milliseconds.
    pub(super) fn round_trips(&self, count: usize) -> Result<Vec<f64>> {
        let socket = self.namespace.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        socket.connect((self.source, ECHO_PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut times = Vec::with_capacity(count);
        for number in 0..count as u64 {
            let start = self.clock.now();
            socket.send(&number.to_be_bytes())?;
            let mut answer = [0; 8];
            socket.recv(&mut answer).context("the source does not answer pings")?;
            ensure!(answer == number.to_be_bytes(), "an answer to another ping");
            times.push(milliseconds(self.clock.now() - start));
        }
        Ok(times)
    }

    /// Joins a stream as any player does, and leaves after the first packet; how long that took, in
    /// milliseconds.
    pub(super) fn join(&self, stream: SocketAddrV4) -> Result<f64> {
        let mut socket = self.namespace.enter(|| open(stream))??;
        let start = self.clock.now();
        socket.join_multicast_v4(stream.ip(), &Ipv4Addr::UNSPECIFIED)?;
        let mut packet = [0; 2048];
        let got = socket.read(&mut packet);
        let first = self.clock.now();
        got.with_context(|| format!("{stream}: no packet within {} s of the join", PATIENCE.as_secs()))?;
        Ok(milliseconds(first - start))
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn open(stream: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.bind(&SockAddr::from(stream))?;
    Ok(socket)
}

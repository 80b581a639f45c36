//! AMT gateways without a host behind them, as many as a test wants, each on a port of its own.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Instant,
};

use nix::sys::socket::{setsockopt, sockopt};
use vmcast_lab::clock::Clock;
use vmcast_proto::{
    Filter, Machine as _,
    amt::gateway::{Config, Gateway, Input, Output},
};
use vmcast_wire::amt::{Message, PORT};

/// Room for bursts, in bytes.
const RECEIVE_BUFFER: usize = 1 << 20;

/// The moment from which a clock of the lab counts, for machines that want an instant.
#[expect(clippy::disallowed_methods, reason = "gateways on real sockets live in real time")]
pub(super) fn epoch(clock: Clock) -> Instant {
    Instant::now() - clock.now()
}

/// A gateway and its socket. It does nothing unless it is turned.
pub(super) struct AmtGateway {
    socket: UdpSocket,
    gateway: Gateway,
}

/// What came to a gateway in a turn.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// The inner packets that it wanted.
    pub(super) packets: Vec<Vec<u8>>,
    /// Multicast data in any way, wanted or not.
    pub(super) data: u64,
}

impl AmtGateway {
    /// A gateway of the relay at this address, in the calling thread's namespace. The number sets it apart.
    pub(super) fn open(relay: Ipv4Addr, number: usize, now: Instant) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&(number as u64 + 1).to_ne_bytes());
        Ok(Self { socket, gateway: Gateway::new(now, Config::new(SocketAddr::from((relay, PORT)), seed)) })
    }

    /// Wants every source of the group, or none any more.
    pub(super) fn set(&mut self, now: Instant, group: Ipv4Addr, joined: bool) {
        let filter = if joined { Filter::any() } else { Filter::none() };
        self.gateway.handle_input(now, Input::SetMembership { group: group.into(), filter });
    }

    /// Says farewell in the turns to come.
    pub(super) fn stop(&mut self, now: Instant) {
        self.gateway.handle_input(now, Input::Stop);
    }

    /// Receives what waits, lets time pass, and sends what there is to say.
    pub(super) fn turn(&mut self, now: Instant) -> io::Result<Came> {
        let mut came = Came::default();
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, remote)) => {
                    let bytes = &buffer[..length];
                    came.data +=
                        u64::from(matches!(Message::parse(bytes), Ok(Message::MulticastData { .. })));
                    self.gateway.handle_input(now, Input::Datagram { remote, tos: 0, bytes });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.gateway.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.gateway.handle_timeout(now);
        }
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Transmit { remote, bytes } => {
                    self.socket.send_to(&bytes, remote)?;
                }
                Output::Data { packet } => came.packets.push(packet),
                Output::Event(_) => {}
            }
        }
        Ok(came)
    }
}

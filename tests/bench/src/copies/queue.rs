//! What relay daemons in user space have in common: packets out of one socket, in batches, and headers
//! in front of each.
//!
//! The copies have the same bytes on the wire as those of the planes: AMT data with the whole inner
//! packet. The queue of the receiving socket is filled before the clock starts, so that a relay never
//! waits and pays for its own work alone: taking a packet out of the queue, and for each member the way
//! through the socket, the stack and the device.

use std::{
    io, mem::zeroed, net::Ipv4Addr, net::SocketAddrV4, net::UdpSocket, os::fd::AsRawFd as _, ptr::null_mut,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::PacketBuilder;
use nix::sys::socket::{setsockopt, sockopt};
use vmcast_lab::clock::Clock;
use vmcast_wire::amt;

use super::{
    case::Case,
    core_time::CoreTime,
    engine::{Receiver, Run},
    stand::{Stand, member_port, port_receiver},
    stream,
};
use crate::kernel::layout::TAIL_LEN;

/// Datagrams taken out of the queue at a time.
pub(super) const BATCH: usize = 32;
/// Packets that wait at most.
const MAX_PACKETS: usize = 2_000;
/// Room for the queue, in bytes.
const RECEIVE_BUFFER: usize = 64 << 20;
/// The AMT data message (RFC 7450 §5.1.6) and the headers of the inner packet in front of its payload.
pub(super) const HEADROOM: usize = 2 + 20 + 8;
/// The message's type.
const AMT_DATA: u8 = 6;
const MAX_PAYLOAD: usize = 2_048;

/// The queue of a relay, and its AMT endpoint.
pub(super) struct Queue {
    clock: Clock,
    core: CoreTime,
    /// Where the stream comes in.
    socket: UdpSocket,
    source: UdpSocket,
    pub(super) amt: UdpSocket,
    number: u64,
}

/// A relay's way of sending a batch of equally long messages to every member.
pub(super) trait Send {
    fn send(&mut self, socket: &UdpSocket, messages: &mut [&mut [u8]]) -> io::Result<()>;
}

impl Queue {
    pub(super) fn open(stand: &Stand) -> Result<Self> {
        stand.dut.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("room for the queue")?;
            let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            source.connect(socket.local_addr()?)?;
            let amt = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, amt::PORT))?;
            Ok(Self { clock: Clock::start(), core: CoreTime::of(0), socket, source, amt, number: 0 })
        })?
    }

    /// Relays packets for `at_least` so long; zero asks for a few.
    pub(super) fn relay(&mut self, case: &Case, send: &mut impl Send, at_least: Duration) -> Result<Run> {
        let mut receive = Receive::new(&headers(case.payload)?);
        let mut run = Run { first: self.number, ..Run::default() };
        let packets = case.packets(at_least, MAX_PACKETS).next_multiple_of(BATCH as u32);
        loop {
            self.fill(case.payload, packets)?;
            run.time += self.drain(packets, &mut receive, send)?;
            run.packets += u64::from(packets);
            if run.time >= at_least {
                return Ok(run);
            }
        }
    }

    fn fill(&mut self, payload: usize, packets: u32) -> Result<()> {
        let mut payload = vec![0x47; payload];
        let tail = payload.len().checked_sub(TAIL_LEN).context("a payload that is too short")?;
        for _ in 0..packets {
            payload[tail..].copy_from_slice(&self.number.to_be_bytes());
            self.source.send(&payload).context("filling the queue")?;
            self.number += 1;
        }
        Ok(())
    }

    /// Empties the queue; gives the time that it took.
    fn drain(&self, packets: u32, receive: &mut Receive, send: &mut impl Send) -> Result<Duration> {
        let (start, waited, softirqs) = (self.clock.now(), self.core.waited(), self.core.softirqs());
        let mut done = 0;
        while done < packets as usize {
            let got = receive.receive(&self.socket).context("the queue ended early")?;
            send.send(&self.amt, &mut receive.messages(got)).context("sending copies")?;
            done += got;
        }
        let elapsed = self.clock.now() - start;
        let waited = self.core.waited() - waited;
        Ok(elapsed.saturating_sub(waited) + (self.core.softirqs() - softirqs))
    }
}

/// The members' addresses in the form that the kernel takes them.
pub(super) fn addresses(stand: &Stand, case: &Case) -> Result<Vec<libc::sockaddr_in>> {
    let member = |number: usize| {
        let cable = &stand.egress[number % case.devices()];
        let address = SocketAddrV4::new(cable.far, member_port(number)?);
        Ok(libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: address.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
            sin_zero: [0; 8],
        })
    };
    (0..case.members).map(member).collect()
}

/// Everybody who gets the copies of a relay.
pub(super) fn receivers(case: &Case) -> Result<Vec<Receiver>> {
    (0..case.members).map(port_receiver).collect()
}

/// What stands in front of each payload: AMT data, then IPv4 and UDP of the inner packet.
fn headers(payload: usize) -> Result<[u8; HEADROOM]> {
    ensure!(payload <= MAX_PAYLOAD, "a payload of {payload} bytes");
    let builder = PacketBuilder::ipv4(stream::SOURCE.octets(), stream::group(0, 0).octets(), 254)
        .udp(stream::PORT, stream::PORT);
    let mut bytes = vec![AMT_DATA, 0];
    builder.write(&mut bytes, &vec![0x47; payload])?;
    Ok(*bytes.first_chunk().expect("the headers have this length"))
}

/// Buffers for a batch of datagrams, each behind the headers of its copies.
struct Receive {
    buffers: Vec<[u8; HEADROOM + MAX_PAYLOAD]>,
    lengths: [usize; BATCH],
}

impl Receive {
    fn new(headers: &[u8; HEADROOM]) -> Self {
        let mut buffer = [0; HEADROOM + MAX_PAYLOAD];
        buffer[..HEADROOM].copy_from_slice(headers);
        Self { buffers: vec![buffer; BATCH], lengths: [0; BATCH] }
    }

    /// Takes what is there, at least one datagram; gives their number.
    fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        // SAFETY: the headers and vectors are plain C structures for which zeros are valid.
        let mut vectors: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for ((buffer, vector), message) in self.buffers.iter_mut().zip(&mut vectors).zip(&mut messages) {
            let room = &mut buffer[HEADROOM..];
            *vector = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            message.msg_hdr.msg_iov = vector;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: each message points to one vector, each vector to a buffer of its length; all of
        // them outlive the call.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                null_mut(),
            )
        };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (length, message) in self.lengths.iter_mut().zip(&messages[..got]) {
            *length = HEADROOM + message.msg_len as usize;
        }
        Ok(got)
    }

    fn messages(&mut self, count: usize) -> Vec<&mut [u8]> {
        self.buffers
            .iter_mut()
            .zip(&self.lengths)
            .take(count)
            .map(|(buffer, length)| &mut buffer[..*length])
            .collect()
    }
}

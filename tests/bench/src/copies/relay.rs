//! What relay daemons do: `recvmmsg` from one socket, `sendmmsg` to every member.
//!
//! The copies have the same bytes on the wire as those of the XDP plane: AMT data with the whole
//! inner packet. The queue of the receiving socket is filled before the clock starts, so that the
//! relay never waits and pays for its own work alone: taking a packet out of the queue, and for each
//! member the way through the socket, the stack and the device.

use std::{
    io,
    mem::zeroed,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    ptr::null_mut,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::PacketBuilder;
use nix::sys::socket::{setsockopt, sockopt};
use vmcast_common::{AMT_PORT, hdr::amt, rewrite::AMT_V4_OVERHEAD};
use vmcast_lab::clock::Clock;

use super::{
    core_time::CoreTime,
    rig::{NATIVE_PORT, Rig},
    run::{Engine, Run},
};

/// Datagrams taken out of the queue at a time.
const RECEIVE_BATCH: usize = 32;
/// Packets in the queue when the clock starts.
const QUEUE: usize = 2_000;
/// Room for the queue, in bytes.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Headers of the inner packet and the AMT data message in front of its payload.
const HEADROOM: usize = AMT_V4_OVERHEAD;
const MAX_PAYLOAD: usize = 2_048;

pub(super) struct Relay {
    clock: Clock,
    core: CoreTime,
    /// Where the stream comes in.
    socket: UdpSocket,
    /// The relay's AMT endpoint.
    amt: UdpSocket,
    source: UdpSocket,
}

impl Relay {
    /// Opens the sockets. The calling thread must be in the namespace under test.
    pub(super) fn new() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("room for the queue")?;
        let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        source.connect(socket.local_addr()?)?;
        let amt = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, AMT_PORT))?;
        Ok(Self { clock: Clock::start(), core: CoreTime::of(0), socket, amt, source })
    }

    fn fill(&self, payload: usize) -> Result<()> {
        let payload = vec![0x47; payload];
        (0..QUEUE).try_for_each(|_| self.source.send(&payload).map(drop)).context("filling the queue")
    }

    /// Empties the queue; gives the time that it took.
    fn drain(&self, receive: &mut Receive, send: &mut Send) -> Result<Duration> {
        let (start, waited, softirqs) = (self.clock.now(), self.core.waited(), self.core.softirqs());
        let mut packets = 0;
        while packets < QUEUE {
            let got = receive.receive(&self.socket).context("the queue ended early")?;
            for index in 0..got {
                send.send(&self.amt, receive.message(index))?;
            }
            packets += got;
        }
        let elapsed = self.clock.now() - start;
        let waited = self.core.waited() - waited;
        Ok(elapsed.saturating_sub(waited) + (self.core.softirqs() - softirqs))
    }
}

impl Engine for Relay {
    fn label(&self) -> &'static str {
        "sendmmsg relay"
    }

    fn burst(&self, _members: usize) -> usize {
        RECEIVE_BATCH
    }

    fn run(&mut self, rig: &Rig, members: usize, payload: usize, at_least: Duration) -> Result<Run> {
        let members: Vec<SocketAddrV4> = (0..members).map(|member| rig.member(member)).collect();
        let mut receive = Receive::new(&headers(payload)?);
        let mut send = Send::new(&members);
        let before = rig.arrived(members.len())?;
        let mut run = Run::default();
        loop {
            self.fill(payload)?;
            run.time += self.drain(&mut receive, &mut send)?;
            run.packets += QUEUE as u64;
            if run.time >= at_least {
                break;
            }
        }
        let arrived = rig.arrived(members.len())?;
        run.copies = arrived.iter().zip(&before).map(|(after, before)| after - before).collect();
        Ok(run)
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("`sendmmsg` reported no error".to_owned())
    }
}

/// What stands in front of each payload: AMT data, then IPv4 and UDP of the inner packet.
fn headers(payload: usize) -> Result<[u8; HEADROOM]> {
    ensure!(payload <= MAX_PAYLOAD, "a payload of {payload} bytes");
    let builder = PacketBuilder::ipv4([10, 99, 0, 1], [232, 1, 0, 64], 254).udp(NATIVE_PORT, NATIVE_PORT);
    let mut bytes = vec![amt::DATA_TYPE, 0];
    builder.write(&mut bytes, &vec![0x47; payload])?;
    Ok(*bytes.first_chunk().expect("the headers have this length"))
}

/// Buffers for a batch of datagrams, each behind the headers of its copies.
struct Receive {
    buffers: Vec<[u8; HEADROOM + MAX_PAYLOAD]>,
    lengths: [usize; RECEIVE_BATCH],
}

impl Receive {
    fn new(headers: &[u8; HEADROOM]) -> Self {
        let mut buffer = [0; HEADROOM + MAX_PAYLOAD];
        buffer[..HEADROOM].copy_from_slice(headers);
        Self { buffers: vec![buffer; RECEIVE_BATCH], lengths: [0; RECEIVE_BATCH] }
    }

    /// Takes what is there, at least one datagram; gives their number.
    fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        // SAFETY: the headers and vectors are plain C structures for which zeros are valid.
        let mut vectors: [libc::iovec; RECEIVE_BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; RECEIVE_BATCH] = unsafe { zeroed() };
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
                RECEIVE_BATCH as libc::c_uint,
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

    fn message(&mut self, index: usize) -> &mut [u8] {
        &mut self.buffers[index][..self.lengths[index]]
    }
}

/// The members' addresses, in the form that `sendmmsg` takes them.
struct Send {
    members: Vec<libc::sockaddr_in>,
    messages: Vec<libc::mmsghdr>,
}

impl Send {
    fn new(members: &[SocketAddrV4]) -> Self {
        let members: Vec<_> = members
            .iter()
            .map(|member| libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: member.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*member.ip()).to_be() },
                sin_zero: [0; 8],
            })
            .collect();
        // SAFETY: zeros are valid for this plain C structure.
        let messages = vec![unsafe { zeroed() }; members.len()];
        Self { members, messages }
    }

    /// Sends one message to every member.
    fn send(&mut self, socket: &UdpSocket, message: &mut [u8]) -> io::Result<()> {
        let mut vector = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() };
        for (header, member) in self.messages.iter_mut().zip(&mut self.members) {
            header.msg_hdr.msg_name = (member as *mut libc::sockaddr_in).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let mut done = 0;
        while done < self.messages.len() {
            let rest = &mut self.messages[done..];
            // SAFETY: each message points to the address of its member and to one vector over
            // `message`; all of them outlive the call.
            let sent = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0)
            };
            done += usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
        }
        Ok(())
    }
}

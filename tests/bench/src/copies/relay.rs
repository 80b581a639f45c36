//! What relay daemons do: `recvmmsg` from one socket, for each packet a `sendmmsg` to every member.

use std::{io, mem::zeroed, net::UdpSocket, os::fd::AsRawFd as _, time::Duration};

use anyhow::Result;
use vmcast_lab::Lab;

use super::{
    case::Case,
    engine::{Engine, Receiver, Run},
    queue::{self, BATCH, Queue},
    stand::Stand,
};
use crate::kernel::sink::Sink;

pub(super) struct RelayEngine {
    stand: Stand,
    queue: Queue,
}

impl RelayEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink, outputs: usize) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, "relay", outputs)?;
        let queue = Queue::open(&stand)?;
        Ok(Self { stand, queue })
    }
}

impl Engine for RelayEngine {
    fn label(&self) -> &'static str {
        "sendmmsg relay"
    }

    fn output(&self, _case: &Case) -> &'static str {
        "AMT"
    }

    fn burst(&self, _case: &Case) -> usize {
        BATCH
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        queue::receivers(case)
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        let mut send = OneByOne::new(queue::addresses(&self.stand, case)?);
        self.queue.relay(case, &mut send, at_least)
    }

    fn clear(&mut self) -> Result<()> {
        Ok(())
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("`sendmmsg` reported no error".to_owned())
    }
}

/// Sends a batch packet by packet.
struct OneByOne {
    members: Vec<libc::sockaddr_in>,
    messages: Vec<libc::mmsghdr>,
}

impl OneByOne {
    fn new(members: Vec<libc::sockaddr_in>) -> Self {
        // SAFETY: zeros are valid for this plain C structure.
        let messages = vec![unsafe { zeroed() }; members.len()];
        Self { members, messages }
    }

    /// Sends one message to every member.
    fn send_one(&mut self, socket: &UdpSocket, message: &mut [u8]) -> io::Result<()> {
        let mut vector = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() };
        for (header, member) in self.messages.iter_mut().zip(&mut self.members) {
            header.msg_hdr.msg_name = (member as *mut libc::sockaddr_in).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_hdr.msg_iov = &raw mut vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: each message points to the address of its member and to one vector over `message`;
        // all of them outlive the call.
        unsafe { send_all(socket, &mut self.messages) }
    }
}

impl queue::Send for OneByOne {
    fn send(&mut self, socket: &UdpSocket, messages: &mut [&mut [u8]]) -> io::Result<()> {
        messages.iter_mut().try_for_each(|message| self.send_one(socket, message))
    }
}

/// Hands messages to the kernel until it has them all.
///
/// # Safety
/// Whatever the messages point to must be valid.
pub(super) unsafe fn send_all(socket: &UdpSocket, messages: &mut [libc::mmsghdr]) -> io::Result<()> {
    let mut done = 0;
    while done < messages.len() {
        let rest = &mut messages[done..];
        // SAFETY: what they point to is valid, as the caller has promised.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0) };
        done += usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
    }
    Ok(())
}

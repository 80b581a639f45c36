//! A relay daemon that saves system calls: the packets of a batch go to each member as one super-packet
//! (`UDP_SEGMENT`, udp(7)), which the kernel cuts where the device does not.

use std::{io, mem::zeroed, net::UdpSocket, time::Duration};

use anyhow::Result;
use vmcast_lab::Lab;

use super::{
    case::Case,
    engine::{Engine, Receiver, Run},
    queue::{self, BATCH, Queue},
    relay::send_all,
    stand::Stand,
};
use crate::kernel::sink::Sink;

/// Bytes of a super-packet at most (the length field of UDP).
const MAX_LENGTH: usize = 65_507;
/// Messages of one system call at most (`UIO_MAXIOV`).
const MESSAGES: usize = 1_024;

pub(super) struct GsoEngine {
    stand: Stand,
    queue: Queue,
}

impl GsoEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink, outputs: usize) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, "gso", outputs)?;
        let queue = Queue::open(&stand)?;
        Ok(Self { stand, queue })
    }
}

impl Engine for GsoEngine {
    fn label(&self) -> &'static str {
        "GSO relay"
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
        let mut send = SuperPackets { members: queue::addresses(&self.stand, case)? };
        self.queue.relay(case, &mut send, at_least)
    }

    fn clear(&mut self) -> Result<()> {
        Ok(())
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("`sendmmsg` reported no error".to_owned())
    }
}

struct SuperPackets {
    members: Vec<libc::sockaddr_in>,
}

/// A control message with the length of a segment.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Segment {
    header: libc::cmsghdr,
    length: u16,
    padding: [u8; 6],
}

impl queue::Send for SuperPackets {
    fn send(&mut self, socket: &UdpSocket, messages: &mut [&mut [u8]]) -> io::Result<()> {
        let Some(length) = messages.first().map(|message| message.len()) else { return Ok(()) };
        let mut segment = Segment {
            header: libc::cmsghdr {
                cmsg_len: size_of::<libc::cmsghdr>() + size_of::<u16>(),
                cmsg_level: libc::SOL_UDP,
                cmsg_type: libc::UDP_SEGMENT,
            },
            length: u16::try_from(length).map_err(io::Error::other)?,
            padding: [0; 6],
        };
        for batch in messages.chunks_mut(MAX_LENGTH / length) {
            let mut vectors: Vec<libc::iovec> = batch
                .iter_mut()
                .map(|message| libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() })
                .collect();
            for members in self.members.chunks_mut(MESSAGES) {
                let mut headers: Vec<libc::mmsghdr> = members
                    .iter_mut()
                    .map(|member| {
                        // SAFETY: zeros are valid for this plain C structure.
                        let mut header: libc::mmsghdr = unsafe { zeroed() };
                        header.msg_hdr.msg_name = (member as *mut libc::sockaddr_in).cast();
                        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                        header.msg_hdr.msg_iov = vectors.as_mut_ptr();
                        header.msg_hdr.msg_iovlen = vectors.len();
                        header.msg_hdr.msg_control = (&raw mut segment).cast();
                        header.msg_hdr.msg_controllen = size_of::<Segment>();
                        header
                    })
                    .collect();
                // SAFETY: each message points to the address of its member, to vectors over the batch
                // and to the control message; all of them outlive the call.
                unsafe { send_all(socket, &mut headers)? };
            }
        }
        Ok(())
    }
}

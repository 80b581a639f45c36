//! A packet socket that sends to and reads from one interface.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::{
        socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socket, sockopt},
        time::TimeVal,
    },
};

/// An EtherType for local experiments (IEEE 802 local experimental 2): no program of ours looks at it.
const SENTINEL_TYPE: [u8; 2] = [0x88, 0xb6];

/// One end of a cable, as a packet socket sees it. It does not see what it sends itself.
pub(crate) struct Wire {
    fd: OwnedFd,
}

impl Wire {
    /// Opens it in the calling thread's namespace.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(2, 0))?;
        setsockopt(&fd, sockopt::RcvBufForce, &(16 << 20))?;
        ignore_outgoing(&fd)?;
        bind(&fd, if_nametoindex(interface)?)?;
        Ok(Self { fd })
    }

    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.fd.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// Sends a frame that only says "everything before me has passed".
    pub(crate) fn send_sentinel(&self, number: u32) -> io::Result<()> {
        self.send(&sentinel(number))
    }

    /// Every frame up to the sentinel of this number.
    ///
    /// # Panics
    /// If the sentinel does not come within two seconds.
    pub(crate) fn until_sentinel(&self, number: u32) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 10_000];
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if buffer[..length] == sentinel(number) => return frames,
                // One of an earlier frame that came late.
                Ok(length) if length >= 14 && buffer[12..14] == SENTINEL_TYPE => {}
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(Errno::EINTR) => {}
                Err(error) => panic!("the sentinel did not come: {error}; before it: {frames:02x?}"),
            }
        }
    }

    /// Everything that has come and waits.
    pub(crate) fn drain(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 10_000];
        while let Ok(length) = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            frames.push(buffer[..length].to_vec());
        }
        frames
    }
}

fn sentinel(number: u32) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6] = 0x02;
    frame[12..14].copy_from_slice(&SENTINEL_TYPE);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

fn ignore_outgoing(fd: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn bind(fd: &OwnedFd, index: libc::c_uint) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is a complete `sockaddr_ll` that outlives the call, and its size is given.
    let result = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! A packet socket that sends to and reads from one interface.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{MsgFlags, send};
use vmcast_lab::{clock::Clock, traffic::packet_socket};

/// An EtherType for local experiments (IEEE 802 local experimental 2): no program of ours looks at it.
const SENTINEL_TYPE: [u8; 2] = [0x88, 0xb6];

/// How long a sentinel is waited for before it is sent again, where nothing else comes.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it is waited for while other frames come.
const HANG: Duration = Duration::from_secs(60);

/// One end of a cable, as a packet socket sees it. It does not see what it sends itself.
pub(crate) struct Wire {
    fd: OwnedFd,
}

impl Wire {
    /// Opens it in the calling thread's namespace.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let fd = packet_socket(interface, PATIENCE)?;
        set(&fd, libc::PACKET_IGNORE_OUTGOING)?;
        set(&fd, libc::PACKET_AUXDATA)?;
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

    /// Every frame up to the sentinel of this number, which `from` sends again if it does not come: a cable
    /// that a program was just put on may lose it.
    ///
    /// # Panics
    /// If none of them comes.
    pub(crate) fn until_sentinel(&self, number: u32, from: &Self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let clock = Clock::start();
        let mut again = 10;
        let mut buffer = vec![0; 10_000];
        loop {
            assert!(clock.now() < HANG, "{} frames came, and not the sentinel", frames.len());
            match receive(&self.fd, &mut buffer, 0) {
                Ok(length) if buffer[..length] == sentinel(number) => return frames,
                // One of an earlier frame that came late.
                Ok(length) if length >= 14 && buffer[12..14] == SENTINEL_TYPE => {}
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && again > 0 => {
                    again -= 1;
                    from.send_sentinel(number).expect("sending on the wire");
                }
                Err(error) => panic!("the sentinel did not come: {error}; before it: {frames:02x?}"),
            }
        }
    }

    /// Everything that has come and waits.
    pub(crate) fn drain(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 10_000];
        while let Ok(length) = receive(&self.fd, &mut buffer, libc::MSG_DONTWAIT) {
            if length < 14 || buffer[12..14] != SENTINEL_TYPE {
                frames.push(buffer[..length].to_vec());
            }
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

fn set(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The next frame as it was on the wire: the kernel takes the outer VLAN tag out and tells it apart.
fn receive(fd: &OwnedFd, buffer: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    const TAG: usize = 4;
    const TAG_AT: usize = 12;
    // Room for the one control message, aligned as its header wants.
    let mut control = [0u64; 8];
    let room = buffer.len() - TAG;
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: room };
    // SAFETY: a message header of zeros is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: the header points to one vector and to room for control messages, which outlive the call.
    let length = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled the header in.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if first.is_null() {
        return Ok(length);
    }
    // SAFETY: a control message begins there, and the only ones asked for have this form.
    let (kind, data) = unsafe {
        let kind = ((*first).cmsg_level, (*first).cmsg_type);
        (kind, libc::CMSG_DATA(first).cast::<libc::tpacket_auxdata>().read_unaligned())
    };
    let tagged = kind == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
        && data.tp_status & libc::TP_STATUS_VLAN_VALID != 0
        && length >= TAG_AT;
    if !tagged {
        return Ok(length);
    }
    buffer.copy_within(TAG_AT..length, TAG_AT + TAG);
    buffer[TAG_AT..TAG_AT + 2].copy_from_slice(&data.tp_vlan_tpid.to_be_bytes());
    buffer[TAG_AT + 2..TAG_AT + TAG].copy_from_slice(&data.tp_vlan_tci.to_be_bytes());
    Ok(length + TAG)
}

//! What the drivers of devices do at XDP, as the kernel says it.
//!
//! Since Linux 6.3 the generic netlink family `netdev` tells it (Documentation/netlink/specs/netdev.yaml).
//! What it says of a veth depends on its peer, and changes with it.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use vmcast_common::fib::IfIndex;

/// Length of `nlmsghdr` and `genlmsghdr` together.
const HEADER: usize = 20;
const ATTRIBUTE_HEADER: usize = 4;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `GENL_ID_CTRL` with `CTRL_CMD_GETFAMILY`, and its attributes.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET` of the family `netdev`, and its attributes.
const GET_DEVICE: u8 = 1;
const DEVICE_IFINDEX: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;

/// What a device's driver does at XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    const BASIC: u64 = 1;
    const NDO_XMIT: u64 = 4;

    /// Whether programs run in the driver.
    #[must_use]
    pub const fn is_native(self) -> bool {
        self.0 & Self::BASIC != 0
    }

    /// Whether it sends frames that a program on another device redirects to it. The kernel leaves a device
    /// that does not out of a broadcast, and counts nothing.
    #[must_use]
    pub const fn takes_redirected(self) -> bool {
        self.0 & Self::NDO_XMIT != 0
    }
}

/// Asks the kernel.
#[derive(Debug)]
pub struct Features {
    socket: OwnedFd,
    family: u16,
}

impl Features {
    /// Prepares questions about devices of the calling thread's network namespace.
    ///
    /// # Errors
    /// If the kernel does not tell: `NotFound` before Linux 6.3.
    pub fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        )?;
        let id = ask(&socket, CONTROL, GET_FAMILY, (FAMILY_NAME, b"netdev\0"), FAMILY_ID)?;
        let family = id.first_chunk().copied().map(u16::from_ne_bytes);
        Ok(Self { socket, family: family.ok_or(io::ErrorKind::InvalidData)? })
    }

    /// What a device's driver does.
    ///
    /// # Errors
    /// If there is no such device, or the answer cannot be read.
    pub fn of(&self, device: IfIndex) -> io::Result<XdpFeatures> {
        let about = (DEVICE_IFINDEX, &device.0.to_ne_bytes()[..]);
        let features = ask(&self.socket, self.family, GET_DEVICE, about, DEVICE_XDP_FEATURES)?;
        let features = features.first_chunk().copied().map(u64::from_ne_bytes);
        Ok(XdpFeatures(features.ok_or(io::ErrorKind::InvalidData)?))
    }
}

/// Sends a question with one attribute and returns one attribute of the answer.
fn ask(
    socket: &OwnedFd,
    family: u16,
    command: u8,
    (kind, value): (u16, &[u8]),
    wanted: u16,
) -> io::Result<Vec<u8>> {
    let attribute_len = ATTRIBUTE_HEADER + value.len();
    let len = HEADER + attribute_len.next_multiple_of(4);
    let mut question = Vec::with_capacity(len);
    question.extend((len as u32).to_ne_bytes());
    question.extend(family.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    // Sequence number and port, which the kernel fills in.
    question.extend([0; 8]);
    question.extend([command, 1, 0, 0]);
    question.extend((attribute_len as u16).to_ne_bytes());
    question.extend(kind.to_ne_bytes());
    question.extend(value);
    question.resize(len, 0);
    sendto(socket.as_raw_fd(), &question, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = vec![0; 16 << 10];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    read(&answer[..len], wanted)
}

/// Finds an attribute in an answer.
fn read(answer: &[u8], wanted: u16) -> io::Result<Vec<u8>> {
    let word = |at: usize| Some(u16::from_ne_bytes(*answer.get(at..)?.first_chunk()?));
    let code = answer.get(16..).and_then(|rest| rest.first_chunk()).copied().map(i32::from_ne_bytes);
    if word(4) == Some(ERROR) {
        return Err(io::Error::from_raw_os_error(code.map_or(libc::EBADMSG, i32::wrapping_neg)));
    }
    let mut at = HEADER;
    while let (Some(len), Some(kind)) = (word(at), word(at + 2)) {
        let len = usize::from(len);
        if len < ATTRIBUTE_HEADER {
            break;
        }
        if kind == wanted {
            let value = answer.get(at + ATTRIBUTE_HEADER..at + len);
            return value.map(<[u8]>::to_vec).ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
        at += len.next_multiple_of(4);
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_loopback_takes_no_redirected_frames() {
        let features = match Features::open() {
            Ok(features) => features,
            Err(error) => {
                eprintln!("SKIPPED: the kernel does not tell: {error}");
                return;
            }
        };
        let loopback = features.of(IfIndex(1)).unwrap();
        assert!(!loopback.is_native() && !loopback.takes_redirected());
        assert!(features.of(IfIndex(0x7fff_fff0)).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_panics(answer: Vec<u8>) {
            let _ = read(&answer, DEVICE_XDP_FEATURES);
        }
    }

    #[test]
    fn an_attribute_behind_another_is_found() {
        let mut answer = vec![0; HEADER];
        answer.extend([6, 0, 1, 0, 9, 9, 0, 0]);
        answer.extend([12, 0, 3, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        let features = read(&answer, DEVICE_XDP_FEATURES).unwrap();
        assert_eq!(features, 7u64.to_le_bytes());
        assert!(read(&answer, 4).is_err());
    }
}

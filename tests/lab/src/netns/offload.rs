//! Offloads of an interface, by the ethtool ioctl.

use std::{io, os::fd::AsRawFd as _};

use socket2::{Domain, Socket, Type};

use crate::LabError;

/// An offload that decides what frames look like on a veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Generic receive offload. On a veth it also prepares the rings without which frames that XDP
    /// redirects to the peer are dropped.
    Gro,
    /// Transmit checksums. On, a veth passes on UDP packets with a partial checksum that nobody completes
    /// if XDP forwards them.
    TxChecksum,
    /// TCP segmentation.
    Tso,
    /// Generic segmentation.
    Gso,
}

impl Offload {
    /// The legacy ethtool command that sets it (`linux/ethtool.h`).
    const fn command(self) -> u32 {
        match self {
            Self::Gro => 0x2c,
            Self::TxChecksum => 0x17,
            Self::Tso => 0x1f,
            Self::Gso => 0x24,
        }
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Sets an offload of an interface in the calling thread's namespace.
pub(super) fn set(interface: &str, offload: Offload, on: bool) -> Result<(), LabError> {
    let what = || format!("setting {offload:?} of {interface} to {on}");
    if interface.len() >= libc::IFNAMSIZ {
        return Err(LabError::io(what())(io::ErrorKind::InvalidInput.into()));
    }
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(LabError::io(what()))?;
    let mut value = EthtoolValue { cmd: offload.command(), data: u32::from(on) };
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // SAFETY: the request carries a terminated name and points to an `ethtool_value`, both of which
    // outlive the call; the kernel reads and writes within them.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(LabError::io(what())(io::Error::last_os_error())) } else { Ok(()) }
}

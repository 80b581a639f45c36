//! Offloads of an interface, by the ethtool ioctl.

#![expect(unsafe_code, reason = "a raw ioctl")]

use std::{io, os::fd::AsRawFd as _};

use socket2::{Domain, Socket, Type};

/// `ETHTOOL_GTXCSUM` (linux/ethtool.h).
const GET_TX_CHECKSUM: u32 = 0x16;
/// `ETHTOOL_GFLAGS`.
const GET_FLAGS: u32 = 0x25;
/// `ETH_FLAG_RXVLAN`.
const FLAG_RX_VLAN: u32 = 1 << 8;
/// `ETH_FLAG_LRO`.
const FLAG_LRO: u32 = 1 << 15;

/// Offloads that decide what a program at XDP sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Offloads {
    /// Large receive offload: packets of a flow are merged.
    pub(crate) lro: bool,
    /// VLAN tags are taken out of frames that come in.
    pub(crate) rx_vlan: bool,
    /// Checksums are left to the device, or, on a veth, to whoever gets the packet.
    pub(crate) tx_checksum: bool,
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// The offloads of an interface of the calling thread's namespace.
///
/// # Errors
/// If there is no such interface, or it does not tell.
pub(crate) fn offloads(interface: &str) -> io::Result<Offloads> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let flags = get(&socket, interface, GET_FLAGS)?;
    Ok(Offloads {
        lro: flags & FLAG_LRO != 0,
        rx_vlan: flags & FLAG_RX_VLAN != 0,
        tx_checksum: get(&socket, interface, GET_TX_CHECKSUM)? != 0,
    })
}

fn get(socket: &Socket, interface: &str, command: u32) -> io::Result<u32> {
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut value = Value { command, data: 0 };
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // SAFETY: the request carries a terminated name and points to an `ethtool_value`, both of which outlive
    // the call; the kernel reads and writes within them.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_tells_and_what_is_not_there_is_an_error() {
        assert!(!offloads("lo").unwrap().lro);
        assert!(offloads("no-such-if").is_err());
        assert!(offloads("a-name-that-is-too-long").is_err());
    }
}

//! What the kernel says of a network device by ioctl(2), and what it is told.

#![expect(unsafe_code, reason = "a raw system call")]

use std::{io, os::fd::AsRawFd as _};

use libc::__c_anonymous_ifr_ifru as Answer;

use crate::device;

/// How a device sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transmit {
    /// Frames that its transmit ring holds.
    ring: u32,
    /// Megabits that its link carries in a second, if its driver says.
    speed: Option<u32>,
}

impl Transmit {
    /// From this speed on a link carries full frames off as fast as a core makes copies, Mbit/s.
    const FAST: u32 = 50_000;

    /// How many copies of a packet it takes in one go; `None` for any number.
    pub(super) fn room(self) -> Option<u32> {
        let is_fast = self.speed.is_some_and(|speed| speed >= Self::FAST);
        (!is_fast && self.ring > 0).then_some(self.ring)
    }
}

/// `ETHTOOL_GSET`, `ETHTOOL_GDRVINFO` and `ETHTOOL_GRINGPARAM` (linux/ethtool.h).
const ETHTOOL_GSET: u32 = 1;
const ETHTOOL_GDRVINFO: u32 = 3;
const ETHTOOL_GRINGPARAM: u32 = 0x10;

/// `struct ethtool_ringparam` (linux/ethtool.h).
#[repr(C)]
#[derive(Default)]
struct EthtoolRingparam {
    cmd: u32,
    /// What the rings for reception and transmission may be.
    max: [u32; 4],
    rx_pending: [u32; 3],
    tx_pending: u32,
}

/// `struct ethtool_cmd` (linux/ethtool.h).
#[repr(C)]
#[derive(Default)]
struct EthtoolCmd {
    cmd: u32,
    supported: u32,
    advertising: u32,
    speed: u16,
    settings: [u8; 6],
    max_packets: [u32; 2],
    speed_hi: u16,
    mdix: [u8; 2],
    lp_advertising: u32,
    reserved: [u32; 2],
}

impl EthtoolCmd {
    /// Megabits in a second, `None` if they are not known.
    fn speed(&self) -> Option<u32> {
        let speed = u32::from(self.speed_hi) << 16 | u32::from(self.speed);
        (speed != 0 && speed != u32::MAX && speed != u32::from(u16::MAX)).then_some(speed)
    }
}

/// `struct ethtool_drvinfo` (linux/ethtool.h).
#[repr(C)]
struct EthtoolDrvinfo {
    cmd: u32,
    driver: [u8; 32],
    /// Versions and more texts, and how many statistics there are.
    rest: [u8; 160],
}
const _: () = assert!(size_of::<EthtoolDrvinfo>() == 196);

/// A device of this network namespace, and a socket to ask by.
pub(crate) struct NetDevice {
    name: Vec<u8>,
    socket: socket2::Socket,
}

impl NetDevice {
    /// The device of a number, `None` if there is none.
    pub(crate) fn of(ifindex: u32) -> Option<Self> {
        let name = device::name_of(ifindex)?.into_bytes();
        Some(Self { name, socket: datagram_socket().ok()? })
    }

    /// Its MTU, as the kernel's broadcast looks at it.
    pub(super) fn mtu(&self) -> Option<u16> {
        let answer = self.ask(libc::SIOCGIFMTU, Answer { ifru_mtu: 0 }).ok()?;
        // SAFETY: the call has set this member of the union.
        u16::try_from(unsafe { answer.ifru_mtu }).ok()
    }

    /// Whether it is set up, whatever its cable does; one that does not say is.
    pub(super) fn is_up(&self) -> bool {
        let Ok(answer) = self.ask(libc::SIOCGIFFLAGS, Answer { ifru_flags: 0 }) else { return true };
        // SAFETY: the call has set this member of the union.
        i32::from(unsafe { answer.ifru_flags }) & libc::IFF_UP != 0
    }

    /// What kind of link-layer addresses it has: an `ARPHRD_` number (linux/if_arp.h).
    pub(crate) fn link_layer_type(&self) -> Option<u16> {
        let answer = self.ask(libc::SIOCGIFHWADDR, Answer { ifru_mtu: 0 }).ok()?;
        // SAFETY: the call has set this member of the union.
        Some(unsafe { answer.ifru_hwaddr.sa_family })
    }

    /// How it sends; `None` for one without a ring of its own, such as a veth.
    pub(super) fn transmit(&self) -> Option<Transmit> {
        let mut ring = EthtoolRingparam { cmd: ETHTOOL_GRINGPARAM, ..EthtoolRingparam::default() };
        self.ethtool(&mut ring).ok()?;
        let mut link = EthtoolCmd { cmd: ETHTOOL_GSET, ..EthtoolCmd::default() };
        let told = self.ethtool(&mut link);
        Some(Transmit { ring: ring.tx_pending, speed: told.ok().and_then(|()| link.speed()) })
    }

    /// Whether it is one end of a veth.
    pub(super) fn is_veth(&self) -> bool {
        let mut info = EthtoolDrvinfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
        self.ethtool(&mut info).is_ok() && info.driver.starts_with(b"veth\0")
    }

    /// Asks the driver; `question` is one of the structures of linux/ethtool.h, with its command.
    fn ethtool<Q>(&self, question: &mut Q) -> io::Result<()> {
        // The structure has the layout and size of its command, and the kernel reads and writes within it.
        self.ask(libc::SIOCETHTOOL, Answer { ifru_data: std::ptr::from_mut(question).cast() }).map(drop)
    }

    /// Asks one question; the member of the union that belongs to it is what the kernel writes, and all of it was set
    /// before.
    fn ask(&self, request: libc::Ioctl, question: Answer) -> io::Result<Answer> {
        let mut ifr_name = [0; libc::IFNAMSIZ];
        for (place, byte) in ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(&self.name) {
            *place = byte.cast_signed();
        }
        let mut about = libc::ifreq { ifr_name, ifr_ifru: question };
        // SAFETY: an initialised `ifreq` with a terminated name that outlives the call, and so does what it points to.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), request, &raw mut about) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(about.ifr_ifru) }
    }
}

/// An offload of a device, as the command that sets it (linux/ethtool.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Offload {
    /// `ETHTOOL_STXCSUM`: checksums that the device is to complete.
    TxChecksum = 0x17,
    /// `ETHTOOL_SGRO`: generic receive offload. On a veth it also prepares the rings without which frames that
    /// XDP redirects to the peer are dropped.
    Gro = 0x2c,
}

/// `struct ethtool_value` (linux/ethtool.h).
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Sets an offload of a device in this network namespace.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_offload(name: &str, offload: Offload, on: bool) -> io::Result<()> {
    let device = NetDevice { name: name.as_bytes().to_vec(), socket: datagram_socket()? };
    device.ethtool(&mut EthtoolValue { cmd: offload as u32, data: u32::from(on) })
}

fn datagram_socket() -> io::Result<socket2::Socket> {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_told_of_and_one_that_is_not_there_is_none() {
        let device = NetDevice::of(1).expect("every namespace has one");
        assert!(!device.is_veth(), "nor has it a ring: {:?}", device.transmit());
        assert_eq!(device.link_layer_type(), Some(libc::ARPHRD_LOOPBACK));
        assert!(NetDevice::of(0x7fff_fff0).is_none());
    }
}

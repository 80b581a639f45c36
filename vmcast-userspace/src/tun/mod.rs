//! A TUN device: the kernel's end carries whole IP packets to and from this process.
//!
//! One `ioctl` makes the device; its address, MTU and routes are set over netlink like those of any
//! other interface, so no library for devices of many systems is needed.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::OpenOptionsExt,
    },
};

use tokio::io::{Interest, unix::AsyncFd};

nix::ioctl_write_ptr_bad!(
    /// Makes a device out of an open `/dev/net/tun`.
    tun_set_interface,
    libc::TUNSETIFF,
    libc::ifreq
);

/// The device that clones TUN devices.
const CLONE_DEVICE: &str = "/dev/net/tun";

/// A TUN device; it goes away, with its addresses and routes, when this is dropped.
#[derive(Debug)]
pub(crate) struct Tun {
    file: AsyncFd<File>,
}

impl Tun {
    /// Makes the device `name` in the present network namespace. It is down and has no address.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`, without `/dev/net/tun`, if the name is taken or not possible.
    pub(crate) fn create(name: &str) -> io::Result<Self> {
        let name = CString::new(name)?;
        let bytes = name.as_bytes_with_nul();
        if bytes.len() == 1 || bytes.len() > libc::IFNAMSIZ {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} is no name for an interface: 1 to 15 bytes"),
            ));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(CLONE_DEVICE)?;
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_flags: (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as libc::c_short,
            },
        };
        for (place, byte) in request.ifr_name.iter_mut().zip(bytes) {
            *place = *byte as libc::c_char;
        }
        // SAFETY: the request is an initialised `ifreq` that outlives the call.
        unsafe { tun_set_interface(file.as_fd().as_raw_fd(), &raw const request) }?;
        // SAFETY: the file owns its descriptor, and nothing replaces or closes it before it is dropped
        // together with its registration.
        let file = unsafe { AsyncFd::register(file) }?;
        Ok(Self { file })
    }

    /// Waits for a packet that the host sends into the device. Dropping the future loses nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) async fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let len = self.file.async_io(Interest::READABLE, |mut file| file.read(buffer)).await?;
        Ok(&buffer[..len])
    }

    /// Takes a packet that is there already; `None` if there is none.
    ///
    /// # Errors
    /// If the device fails.
    pub(crate) fn try_recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.file.try_io(Interest::READABLE, |mut file| file.read(buffer)) {
            Ok(len) => Ok(Some(&buffer[..len])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands a packet to the host, as if it came in by the device. It never waits.
    ///
    /// # Errors
    /// If the host does not take the packet.
    pub(crate) fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&mut self.file.get_ref()).write(packet).map(|_| ())
    }
}

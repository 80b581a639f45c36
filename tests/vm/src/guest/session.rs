//! A PPPoE session inside the machine, made of the kernel's own PPPoE and PPP without any negotiation.

use std::{
    ffi::c_int,
    fs::File,
    io::{self, Write as _},
    mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use libtest_mimic::Failed;
use nix::{ioctl_read, ioctl_readwrite, ioctl_write_ptr};

use super::agent::own_files;
use crate::bed::ensure;

/// How often it looks whether it shall end.
const POLL: Duration = Duration::from_millis(50);

/// The system's numbers, of `linux/if_pppox.h`.
const AF_PPPOX: u16 = 24;
const PX_PROTO_OE: c_int = 0;

/// A session as the system has it, `sockaddr_pppox`.
#[repr(C, packed)]
struct Address {
    family: u16,
    protocol: c_int,
    session: [u8; 2],
    remote: [u8; 6],
    interface: [u8; libc::IFNAMSIZ],
}

// Of `linux/ppp-ioctl.h`.
ioctl_read!(channel, b't', 55, c_int);
ioctl_write_ptr!(attach_channel, b't', 56, c_int);
ioctl_write_ptr!(connect_channel, b't', 58, c_int);
ioctl_readwrite!(new_unit, b't', 62, c_int);

/// `session NUMBER PEER INTERFACE`; says what the device is called, and keeps it until it is told to end.
pub(super) fn run(arguments: &[&str]) -> Result<(), Failed> {
    let [number, peer, interface] = arguments else {
        return Err("session needs a number, a link-layer address and an interface".into());
    };
    let stop = own_files()?.stop();
    let socket = connect(&address(number.parse()?, peer, interface)?)?;
    let mut number = 0;
    // SAFETY: the kernel writes a number that is ours.
    unsafe { channel(socket.as_raw_fd(), &raw mut number) }?;
    let open = || File::options().read(true).write(true).open("/dev/ppp");
    let (device, channel) = (open()?, open()?);
    let mut unit = -1;
    // SAFETY: the kernel reads and writes a number that is ours.
    unsafe { new_unit(device.as_raw_fd(), &raw mut unit) }?;
    // SAFETY: the kernel reads a number that is ours.
    unsafe { attach_channel(channel.as_raw_fd(), &raw const number) }?;
    // SAFETY: likewise.
    unsafe { connect_channel(channel.as_raw_fd(), &raw const unit) }?;
    println!("ppp{unit}");
    io::stdout().flush()?;
    while !stop.exists() {
        thread::sleep(POLL);
    }
    Ok(())
}

fn address(session: u16, peer: &str, interface: &str) -> Result<Address, Failed> {
    let remote: Vec<u8> =
        peer.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    ensure!(interface.len() < libc::IFNAMSIZ, "{interface} is no name of an interface");
    let mut name = [0; libc::IFNAMSIZ];
    name[..interface.len()].copy_from_slice(interface.as_bytes());
    Ok(Address {
        family: AF_PPPOX,
        protocol: PX_PROTO_OE,
        session: session.to_be_bytes(),
        remote: remote.as_slice().try_into()?,
        interface: name,
    })
}

fn connect(address: &Address) -> io::Result<OwnedFd> {
    // SAFETY: it takes numbers alone.
    let socket =
        unsafe { libc::socket(AF_PPPOX.into(), libc::SOCK_STREAM | libc::SOCK_CLOEXEC, PX_PROTO_OE) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nobody else has the descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let length = libc::socklen_t::try_from(mem::size_of::<Address>()).map_err(io::Error::other)?;
    // SAFETY: the address is as long as is said.
    match unsafe { libc::connect(socket.as_raw_fd(), (&raw const *address).cast(), length) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

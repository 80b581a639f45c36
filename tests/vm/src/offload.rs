//! What an interface leaves to its hardware, by the ethtool ioctl.

use std::{io, os::fd::AsRawFd as _};

use libtest_mimic::Failed;
use socket2::{Domain, Socket, Type};

use crate::bed::ensure;

// Of `linux/ethtool.h`.
const GET_STRINGS: u32 = 0x1b;
const SET_FEATURES: u32 = 0x3b;
const FEATURE_NAMES: u32 = 4;
/// Length of a name.
const NAME: usize = 32;
/// Features that fit into the words of [`Features`].
const MOST: usize = 64;

/// `struct ethtool_gstrings` with room for every name.
#[repr(C)]
struct Names {
    command: u32,
    set: u32,
    count: u32,
    names: [[u8; NAME]; 4 * MOST],
}

/// `struct ethtool_sfeatures`: for each word of features which are meant, and which of these shall be on.
#[repr(C)]
struct Features {
    command: u32,
    words: u32,
    masks: [[u32; 2]; MOST / 32],
}

/// Turns features on or off, of an interface in the calling thread's namespace.
pub(crate) fn turn(on: bool, interface: &str, features: &[&str]) -> Result<(), Failed> {
    let mut names =
        Names { command: GET_STRINGS, set: FEATURE_NAMES, count: 0, names: [[0; NAME]; 4 * MOST] };
    call(interface, &mut names)?;
    let mut change = Features { command: SET_FEATURES, words: 2, masks: [[0; 2]; MOST / 32] };
    for feature in features {
        let is_it = |name: &[u8; NAME]| name.split(|byte| *byte == 0).next() == Some(feature.as_bytes());
        let place = names.names.iter().position(is_it).filter(|place| *place < MOST);
        let place = place.ok_or_else(|| format!("{interface} has no feature {feature}"))?;
        let bit = 1 << (place % 32);
        change.masks[place / 32][0] |= bit;
        change.masks[place / 32][1] |= if on { bit } else { 0 };
    }
    call(interface, &mut change)
}

/// Hands a command to the kernel.
fn call<T>(interface: &str, command: &mut T) -> Result<(), Failed> {
    ensure!(interface.len() < libc::IFNAMSIZ, "{interface} is no name of an interface");
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut *command).cast() },
    };
    // SAFETY: the request carries a terminated name and points to one of the commands above, both of which
    // outlive the call and are as long as the kernel's own.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(format!("ethtool of {interface}: {}", io::Error::last_os_error()).into());
    }
    Ok(())
}

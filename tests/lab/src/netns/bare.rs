//! Links between namespaces whose ends are TUN devices: packets on them have no link-layer header.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::OpenOptionsExt as _,
    },
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Namespace, Plug};
use crate::LabError;

nix::ioctl_write_ptr_bad!(
    /// Makes a device out of an open `/dev/net/tun`.
    tun_set_interface,
    libc::TUNSETIFF,
    libc::ifreq
);

/// The device that clones TUN devices.
const CLONE_DEVICE: &str = "/dev/net/tun";
/// How often a link looks whether it is to end, in milliseconds.
const LOOK: u16 = 20;

/// Two TUN devices, each of which gets what the other sends, while this exists; both go with it.
#[derive(Debug)]
pub struct BareLink {
    /// What passed from the first end to the second, as it was.
    passed: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BareLink {
    /// Makes the devices of these names, which are up, and begins to carry packets between them.
    ///
    /// # Errors
    /// If a device cannot be made: without `/dev/net/tun`, or if its name is taken.
    pub fn start(first: Plug<'_>, second: Plug<'_>) -> Result<Self, LabError> {
        let ends = [open(first)?, open(second)?];
        let (passed, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (theirs, ended) = (Arc::clone(&passed), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("bare-link".to_owned())
            .spawn(move || {
                while !ended.load(Ordering::Relaxed) {
                    carry(&ends, &theirs);
                }
            })
            .map_err(LabError::io("starting a link"))?;
        Ok(Self { passed, stop, thread: Some(thread) })
    }

    /// The packets that passed from the first end to the second since this was asked last.
    pub fn take_passed(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.passed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for BareLink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it panicked of was shown.
            let _ = thread.join();
        }
    }
}

/// Waits a little for packets of either end, and hands those that wait to the other.
fn carry([first, second]: &[File; 2], passed: &Mutex<Vec<Vec<u8>>>) {
    let mut waiting = [first, second].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
    let _ = poll(&mut waiting, PollTimeout::from(LOOK));
    let mut packet = vec![0; 1 << 16];
    for (mut from, mut to, noted) in [(first, second, true), (second, first, false)] {
        while let Ok(length) = from.read(&mut packet) {
            if noted {
                passed.lock().unwrap_or_else(PoisonError::into_inner).push(packet[..length].to_vec());
            }
            // An end that is down takes nothing, as a cable that is not plugged in.
            let _ = to.write(&packet[..length]);
        }
    }
}

fn open((node, name): (&Namespace, &str)) -> Result<File, LabError> {
    let what = || format!("making the TUN device {name}");
    let file = node.enter(|| create(name))?.map_err(LabError::io(what()))?;
    node.ip(&format!("link set {name} up"))?;
    Ok(file)
}

fn create(name: &str) -> io::Result<File> {
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
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
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed();
    }
    // SAFETY: the request is an initialised `ifreq` with a terminated name that outlives the call.
    unsafe { tun_set_interface(file.as_raw_fd(), &raw const request) }?;
    Ok(file)
}

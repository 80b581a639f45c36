//! Whether interfaces have taken up their queues.
//!
//! The kernel activates the end of a cable that came up first some time after the other end did, on a busy machine much
//! later, and until then drops what is sent by it without an error.

use std::{collections::BTreeSet, io, thread, time::Duration};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};

use super::Namespace;
use crate::{LabError, clock::Clock};

/// How long that may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);

/// Waits until these interfaces of a namespace run.
pub(super) fn wait(namespace: &Namespace, interfaces: &BTreeSet<&str>) -> Result<(), LabError> {
    let clock = Clock::start();
    namespace.enter(|| {
        loop {
            let running = running().map_err(LabError::errno("listing interfaces"))?;
            let missing: Vec<_> = interfaces.iter().filter(|name| !running.contains(**name)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            if clock.now() > PATIENCE {
                let what = format!("waiting until {missing:?} of {} run", namespace.node());
                return Err(LabError::io(what)(io::ErrorKind::TimedOut.into()));
            }
            thread::sleep(POLL);
        }
    })?
}

/// The interfaces of this namespace that run. The kernel lists them under the lock under which it activates them.
fn running() -> nix::Result<BTreeSet<String>> {
    let all = getifaddrs()?;
    let running = all.filter(|entry| entry.flags.contains(InterfaceFlags::IFF_RUNNING));
    Ok(running.map(|entry| entry.interface_name).collect())
}

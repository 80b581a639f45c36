//! Whether interfaces have taken up their queues.
//!
//! The kernel activates the end of a cable that came up first some time after the other end did, on a busy machine much
//! later, and until then drops what is sent by it without an error. That it counts one as running may come a second later
//! still, which nobody needs.

use std::{collections::BTreeSet, io, process::Command, thread, time::Duration};

use serde::Deserialize;

use super::Namespace;
use crate::{LabError, clock::Clock};

/// How long that may take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);

/// The queue of an interface that is not active.
const NONE: &str = "noop";

#[derive(Deserialize)]
struct Link {
    ifname: String,
    qdisc: String,
}

/// Waits until these interfaces of a namespace are active.
pub(super) fn wait(namespace: &Namespace, interfaces: &BTreeSet<&str>) -> Result<(), LabError> {
    let clock = Clock::start();
    loop {
        let active = active(namespace)?;
        let missing: Vec<_> = interfaces.iter().filter(|name| !active.contains(**name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        if clock.now() > PATIENCE {
            let what = format!("waiting until {missing:?} of {} are active", namespace.node());
            return Err(LabError::io(what)(io::ErrorKind::TimedOut.into()));
        }
        thread::sleep(POLL);
    }
}

/// The active interfaces of a namespace. The kernel lists them under the lock under which it activates them.
fn active(namespace: &Namespace) -> Result<BTreeSet<String>, LabError> {
    let mut command = Command::new("ip");
    command.args(["-n", namespace.name(), "-json", "link", "show"]);
    let output = command.output().map_err(LabError::io("starting `ip` (package iproute2)"))?;
    LabError::check(&format!("ip -n {} -json link show", namespace.name()), &output)?;
    let links: Vec<Link> = serde_json::from_slice(&output.stdout)
        .map_err(|error| LabError::io("reading what `ip` says")(error.into()))?;
    Ok(links.into_iter().filter(|link| link.qdisc != NONE).map(|link| link.ifname).collect())
}

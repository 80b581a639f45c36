//! Memory of a router daemon with a great many members: each has a tunnel of its own and made it by
//! the real handshake.

mod gateways;
mod router;

use std::{path::Path, thread, time::Duration};

use anyhow::{Result, ensure};
use indicatif::ProgressBar;
use vmcast_lab::{Lab, clock::Clock, signals};

use crate::report::{Bound, MemoryRow, Ratio, Report};

use gateways::Gateways;
use router::Router;

/// Addresses that the members are behind; each joins a group of its own.
const ADDRESSES: u16 = 100;
/// Members behind each address, on ports of their own.
const PORTS: u16 = 1_000;
/// How much memory the daemon may take with all members, in MB.
const TARGET_MB: f64 = 40.0;
/// How long the daemon may need for the last joins.
const SETTLE: Duration = Duration::from_secs(60);

/// Steps of the progress bar: one for each member.
pub(crate) const fn steps() -> u64 {
    ADDRESSES as u64 * PORTS as u64
}

/// Measures, and puts the row and the target into the report.
pub(crate) fn measure(program: &Path, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    let mut lab = Lab::new("bench-memory")?;
    let [vmr, members] = lab.namespaces(["vmr", "members"])?;
    lab.veths(&[((&vmr, "acc0"), (&members, "eth0"))])?;
    vmr.ip(&format!("addr add {}/16 dev acc0", router::ADDRESS))?;
    members.ip(&gateways::addresses(ADDRESSES))?;

    let clock = Clock::start();
    let mut router = Router::start(&lab, &vmr, program)?;
    let engine = router.wait_ready(clock)?;
    let empty = router.memory()?;

    let start = clock.now();
    let wanted = steps();
    bar.set_message(format!("{wanted} members join"));
    let gateways = Gateways { relay: router::ADDRESS, addresses: ADDRESSES, ports: PORTS };
    members.enter(|| {
        gateways.join_all(|joined| {
            bar.inc(joined);
            Ok(signals::check()?)
        })
    })??;
    bar.set_message("waiting until the router shows them all");
    let deadline = clock.now() + SETTLE;
    let (mut shown, mut groups) = router.members()?;
    while shown < wanted && clock.now() < deadline {
        signals::check()?;
        thread::sleep(Duration::from_millis(100));
        (shown, groups) = router.members()?;
    }
    let filled_in_s = (clock.now() - start).as_secs_f64();
    ensure!(
        shown == wanted,
        "{wanted} members joined, the router shows {shown} after {} s\n{}",
        SETTLE.as_secs(),
        router.log_tail()
    );
    let full = router.memory()?;
    report.memory.push(MemoryRow {
        engine,
        members: shown,
        groups,
        empty_mb: megabytes(empty.resident),
        resident_mb: megabytes(full.resident),
        anonymous_mb: megabytes(full.anonymous),
        bytes_per_member: full.resident.saturating_sub(empty.resident) as f64 / shown as f64,
        filled_in_s,
    });
    report.ratios.push(Ratio::new(
        format!("resident memory of the router daemon with {shown} members"),
        megabytes(full.resident),
        "MB",
        Bound::AtMost(TARGET_MB),
    ));
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

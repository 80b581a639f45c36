//! Memory of a router daemon with a great many members: each has a tunnel of its own and made it by
//! the real handshake.

mod gateways;

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::Result;
use indicatif::ProgressBar;
use vmcast_lab::{Lab, clock::Clock, signals};

use crate::{
    daemon::{Measured as _, Router},
    report::{Bound, MemoryRow, Ratio, Report},
};

use gateways::Gateways;

/// Addresses that the members are behind; each joins a group of its own.
const ADDRESSES: u16 = 100;
/// Members behind each address, on ports of their own.
const PORTS: u16 = 1_000;
/// Where the tunnels end.
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 1);
/// How much memory the daemon may allocate with all members, in MB.
const TARGET_MB: f64 = 40.0;
/// How much each idle tunnel may take of it, in bytes, with all that is kept for it.
const TARGET_TUNNEL: f64 = 512.0;
/// After so long without joins its tunnels are idle.
const IDLE: Duration = Duration::from_secs(5);
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
    vmr.ip(&format!("addr add {}/16 dev acc0", RELAY))?;
    members.ip(&gateways::addresses(ADDRESSES))?;

    let clock = Clock::start();
    let tables = format!(
        "[tunnel]\naddress = \"{RELAY}\"\nmax_tunnels = 110000\nmax_tunnels_per_address = 1100\n\
         max_tunnels_per_prefix = 110000\n[[interface]]\nname = \"acc0\"\naccepts_sources = true\n"
    );
    let mut router = Router::start(&lab, &vmr, program, &tables)?;
    let engine = router.wait_ready(clock)?;
    let empty = router.process().memory()?;

    let start = clock.now();
    let wanted = steps();
    bar.set_message(format!("{wanted} members join"));
    let gateways = Gateways { relay: RELAY, addresses: ADDRESSES, ports: PORTS };
    members.enter(|| {
        gateways.join_all(|joined| {
            bar.inc(joined);
            Ok(signals::check()?)
        })
    })??;
    bar.set_message("waiting until the router shows them all");
    let groups = router.wait_members(wanted, SETTLE, clock)?;
    let filled_in_s = (clock.now() - start).as_secs_f64();
    // Tunnels are idle when the router has looked once more at what was written.
    std::thread::sleep(IDLE);
    let full = router.process().memory()?;
    report.memory.push(MemoryRow {
        engine,
        members: wanted,
        groups,
        empty_mb: megabytes(empty.resident),
        resident_mb: megabytes(full.resident),
        anonymous_mb: megabytes(full.anonymous),
        bytes_per_tunnel: full.resident.saturating_sub(empty.resident) as f64 / wanted as f64,
        filled_in_s,
    });
    report.ratios.push(Ratio::new(
        format!("memory that the router daemon allocates, with {wanted} members"),
        megabytes(full.anonymous),
        "MB",
        Bound::AtMost(TARGET_MB),
    ));
    report.ratios.push(Ratio::new(
        format!("user-space memory of the router daemon per idle tunnel, {wanted} of them with a group each"),
        full.resident as f64 / wanted as f64,
        "bytes",
        Bound::AtMost(TARGET_TUNNEL),
    ));
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

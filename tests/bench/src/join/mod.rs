//! Join to first packet: an ordinary socket joins a stream that flows already.
//!
//! The way is that of the main topology: source, VMR, a backbone of two routers, the client with its
//! agent; once with the first VMR alone, once with a second one at the far edge of the backbone. Each
//! join is for a group that nobody has joined yet.

mod client;
mod source;

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressBar;
use vmcast_lab::{
    Lab,
    clock::Clock,
    netns::stop_all,
    roles::{Engine, Launcher, Role, RouterConfig, RouterInterface, wait_ready},
    signals,
    topology::{MainTopology, address},
};

use crate::{
    report::{Bound, JoinRow, Ratio, Report},
    stats::percentile,
};

use client::Client;

pub(crate) use source::{NUMBER_LEN, Source, stream};

/// How long after the round-trip time the first packet may come, 99 times of 100, in milliseconds.
const TARGET_MS: f64 = 5.0;
/// How long a stream flows before it is joined.
const FLOWS: Duration = Duration::from_millis(30);

/// How often to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Joins on each path.
    joins: usize,
    ways: &'static [Way],
}

impl Effort {
    pub(crate) const FULL: Self = Self { joins: 300, ways: &[Way::One, Way::Two] };
    pub(crate) const QUICK: Self = Self { joins: 30, ways: &[Way::Two] };

    /// Steps of the progress bar.
    pub(crate) const fn steps(&self) -> u64 {
        (self.joins * self.ways.len()) as u64
    }
}

/// The VMRs on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    One,
    Two,
}

impl Way {
    const fn label(self) -> &'static str {
        match self {
            Self::One => "source, VMR, agent",
            Self::Two => "source, VMR, VMR, agent",
        }
    }
}

/// Measures, and puts rows and targets into the report.
pub(crate) fn measure(program: &Path, effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    for &path in effort.ways {
        bar.set_message(format!("joins: {}", path.label()));
        let row = measure_path(program, path, effort, bar).with_context(|| path.label())?;
        report.ratios.push(Ratio::new(
            format!("join to first packet beyond the round-trip time, p99, {}", row.path),
            row.p99_ms - row.rtt_ms,
            "ms",
            Bound::AtMost(TARGET_MS),
        ));
        report.joins.push(row);
    }
    Ok(())
}

fn measure_path(program: &Path, path: Way, effort: Effort, bar: &ProgressBar) -> Result<JoinRow> {
    let clock = Clock::start();
    let mut lab = Lab::new("bench-join")?;
    let topology = MainTopology::build(&mut lab)?;
    let launcher = Launcher::new(&lab, program)?;
    let client = &topology.clients[0];
    let mut roles = start_roles(&launcher, &topology, path)?;
    wait_ready(&mut roles, clock)?;
    let engine =
        roles.iter().filter_map(Role::engine).map(|(label, _)| label).next_back().unwrap_or_default();

    let source = Source::start(&topology.source)?;
    let measuring = Client::new(&client.node, address::SOURCE, clock);
    let rtt = measuring.round_trips(200)?;
    let mut joined = Vec::with_capacity(effort.joins);
    for number in 0..effort.joins {
        signals::check()?;
        let stream = source::stream(number);
        source.switch_to(number);
        thread::sleep(FLOWS);
        joined.push(measuring.join(stream)?);
        bar.inc(1);
    }
    roles.iter_mut().try_for_each(Role::check_alive)?;
    // Together: an admin that ends before its nodes waits for them.
    stop_all(roles.into_iter().map(Role::into_process));
    ensure!(!joined.is_empty(), "no join was measured");
    row(path, engine, &rtt, &joined)
}

fn start_roles(launcher: &Launcher, topology: &MainTopology, path: Way) -> Result<Vec<Role>> {
    let admin = address::ADMIN;
    let interface = |name, accepts_sources| RouterInterface { name, accepts_sources };
    let mut roles = vec![launcher.admin(&topology.admin, admin)?];
    roles.push(launcher.router(
        &topology.vmr1,
        RouterConfig {
            rank: 0,
            tunnel: address::VMR1,
            admin,
            engine: Engine::Auto,
            interfaces: &[interface("src0", true), interface("bb0", false)],
        },
    )?);
    if path == Way::Two {
        roles.push(launcher.router(
            &topology.vmr2,
            RouterConfig {
                rank: 1,
                tunnel: address::VMR2,
                admin,
                engine: Engine::Auto,
                interfaces: &[interface("bb0", false), interface("acc0", false)],
            },
        )?);
        // The agent is to find the second VMR, not the first.
        wait_ready(&mut roles, Clock::start())?;
    }
    roles.push(launcher.agent(&topology.clients[0].node, admin)?);
    Ok(roles)
}

fn row(path: Way, engine: String, rtt: &[f64], joined: &[f64]) -> Result<JoinRow> {
    let at = |percent| percentile(joined, percent).context("no join was measured");
    Ok(JoinRow {
        path: path.label().to_owned(),
        engine,
        joins: joined.len(),
        rtt_ms: percentile(rtt, 50.0).context("no round trip was measured")?,
        p50_ms: at(50.0)?,
        p99_ms: at(99.0)?,
    })
}

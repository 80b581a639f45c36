//! The administration server: questions from the cache by one core, a storm of registrations after a power cut,
//! memory with a great many agents, and how good the answers are in simulated networks.
//!
//! The server is the real program over its database file; clients talk gRPC to it on loopback.

mod connection;
mod population;
mod process;
mod questions;
mod simulated;
mod tls;

use std::{path::Path, thread::available_parallelism, time::Duration};

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use vmcast_lab::{Lab, Process, clock::Clock, signals};

use crate::{
    daemon::Measured as _,
    machine::{last_core, pin_to_core},
    report::{AdminRow, Bound, Ratio, RegistryRow, Report},
    stats::Summary,
};

use process::Security;
use questions::{Askers, CONNECTIONS, UNDER_WAY};
use tls::Node;

/// Questions that one core is to answer in a second.
const TARGET_QUESTIONS: f64 = 50_000.0;
/// Registrations in a second: 100,000 agents in 20 s.
const TARGET_STORM: f64 = 5_000.0;
/// Seconds in which 100,000 agents are to be registered that come by TLS; and what the admin may take of two cores for
/// each then, in microseconds, had it both for itself.
const TARGET_STORM_SECONDS: f64 = 20.0;
const TARGET_STORM_MICROS: f64 = 400.0;
/// How much memory the server may take with 100,000 agents, in MB; and each of them, in bytes.
const TARGET_MB: f64 = 300.0;
const TARGET_AGENT: f64 = 3_000.0;
/// Agents that the memory target is about.
const MANY: u32 = 100_000;
/// Agents that ask.
const ASKERS: u32 = 1000;
/// The core of the server.
const SERVERS_CORE: usize = 0;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Agents that register.
    agents: u32,
    rounds: usize,
    /// How long the questions of a round go on.
    round: Duration,
    /// Simulated networks for each way and disturbance.
    worlds: u64,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { agents: MANY, rounds: 5, round: Duration::from_secs(3), worlds: 100 };
    pub(crate) const QUICK: Self =
        Self { agents: 10_000, rounds: 3, round: Duration::from_millis(500), worlds: 2 };

    /// Steps of the progress bar.
    pub(crate) const fn steps(&self) -> u64 {
        2 * self.agents as u64 + 2 * self.rounds as u64 + simulated::steps(self.worlds)
    }
}

/// Measures, and puts rows and targets into the report.
pub(crate) fn measure(program: &Path, effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    let mut lab = Lab::new("bench-admin")?;
    let namespace = lab.namespace("admin")?;
    let process = process::start(&lab, &namespace, program, Security::None)?;
    // A thread of its own, so that what follows is neither in the namespace nor on one core.
    namespace.enter(|| {
        registrations(&process, effort, report, bar)?;
        population::report(ASKERS).context("reporting the nearest")?;
        answers(&process, effort, report, bar, || Askers::plain(ASKERS), "gRPC without TLS", None)
    })??;
    drop(process);
    let process = process::start(&lab, &namespace, program, Security::Tls)?;
    let node = Node::join(&lab, &namespace, program).context("joining")?;
    namespace.enter(|| registrations_by_tls(&process, &node, effort, report, bar))??;
    let connect = || {
        population::register_asker(&node, effort.agents).context("registering the asker")?;
        Askers::secure(ASKERS, &node)
    };
    let (what, target) = ("gRPC over TLS 1.3, resumed connections", Some(TARGET_QUESTIONS));
    namespace.enter(|| answers(&process, effort, report, bar, connect, what, target))??;
    drop(process);
    report.nearest.extend(simulated::measure(effort.worlds, bar));
    Ok(())
}

/// Everybody comes at once. Client and server share the machine's cores.
fn registrations(process: &Process, effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    let Effort { agents, .. } = effort;
    bar.set_message(format!("{agents} agents register"));
    population::register_vmr().context("registering a VMR")?;
    let empty = process.memory()?;
    let storm = || population::register_agents(agents, || bar.inc(1)).context("registering agents");
    let mut row = measure_storm(process, "gRPC without TLS, each another agent", agents, storm)?;
    let full = process.memory()?;
    let bytes_per_agent = full.resident.saturating_sub(empty.resident) as f64 / f64::from(agents);
    let per_s = row.per_s;
    row.empty_mb = Some(empty.resident as f64 / 1e6);
    row.resident_mb = Some(full.resident as f64 / 1e6);
    row.bytes_per_agent = Some(bytes_per_agent);
    report.registry.push(row);
    report.ratios.push(Ratio::new(
        format!("memory of the admin for each of {agents} registered agents"),
        bytes_per_agent,
        "bytes",
        Bound::AtMost(TARGET_AGENT),
    ));
    // Of fewer it is the jitter of their retries that takes the time.
    if agents == MANY {
        report.ratios.push(Ratio::new(
            format!("registrations in a second, {agents} agents at once, each by a new connection"),
            per_s,
            "/s",
            Bound::AtLeast(TARGET_STORM),
        ));
        report.ratios.push(Ratio::new(
            format!("resident memory of the admin with {agents} registered agents"),
            full.resident as f64 / 1e6,
            "MB",
            Bound::AtMost(TARGET_MB),
        ));
    }
    Ok(())
}

/// The same by TLS. One node comes again and again, since a certificate for each would take longer to make than to
/// prove: for TLS it is as many nodes, for the registry one that renews.
fn registrations_by_tls(
    process: &Process,
    node: &Node,
    effort: Effort,
    report: &mut Report,
    bar: &ProgressBar,
) -> Result<()> {
    let Effort { agents: connections, .. } = effort;
    bar.set_message(format!("{connections} connections by TLS register"));
    let how = "gRPC over TLS 1.3, all of each handshake, one node with its certificate";
    let storm =
        || population::register_by_tls(node, connections, || bar.inc(1)).context("registering by TLS");
    let row = measure_storm(process, how, connections, storm)?;
    if connections == MANY {
        // The admin could do nothing about what the client takes of the same cores.
        let clients =
            row.client_us_each * f64::from(connections) / 1e6 / available_parallelism()?.get() as f64;
        let took = Ratio::new(
            format!("until {connections} registrations were granted that came at once, {how}"),
            row.took_s,
            "s",
            Bound::AtMost(TARGET_STORM_SECONDS),
        );
        report.ratios.push(took.with_limit(clients));
        report.ratios.push(Ratio::new(
            format!("time of the admin's threads for each registration, {how}"),
            row.us_each,
            "µs",
            Bound::AtMost(TARGET_STORM_MICROS),
        ));
    }
    report.registry.push(row);
    Ok(())
}

/// Client and server share the cores, and each one's part is told.
fn measure_storm(
    process: &Process,
    how: &str,
    connections: u32,
    storm: impl FnOnce() -> Result<()>,
) -> Result<RegistryRow> {
    let (server, client, clock) = (process.core_time()?, own_core_time()?, Clock::start());
    storm()?;
    let took = clock.now().as_secs_f64();
    let (server, client) = (process.core_time()? - server, own_core_time()? - client);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(connections);
    Ok(RegistryRow {
        how: how.to_owned(),
        agents: connections,
        took_s: took,
        per_s: f64::from(connections) / took,
        us_each: each(server),
        client_us_each: each(client),
        cores: server.as_secs_f64() / took,
        client_cores: client.as_secs_f64() / took,
        empty_mb: None,
        resident_mb: None,
        bytes_per_agent: None,
    })
}

/// What this process has taken of the cores, with threads that have ended.
fn own_core_time() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    // Behind the name, which may hold anything, the third field is first; user and system time are 14 and 15.
    let behind = text.rsplit_once(')').context("no name in /proc/self/stat")?.1;
    let ticks = behind.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn answers(
    process: &Process,
    effort: Effort,
    report: &mut Report,
    bar: &ProgressBar,
    connect: impl FnOnce() -> Result<Askers>,
    how: &str,
    target: Option<f64>,
) -> Result<()> {
    bar.set_message(format!("questions for the nearest VMR by {how}"));
    process.pin(SERVERS_CORE)?;
    pin_to_core(last_core()).context("staying on one core")?;
    let mut askers = connect()?;
    let (mut of_core, mut in_all, mut count) = (Vec::new(), Vec::new(), 0);
    for _ in 0..effort.rounds {
        signals::check()?;
        let (core, clock) = (process.core_time()?, Clock::start());
        let answered = askers.ask(effort.round)?;
        let (took, core) = (clock.now(), process.core_time()? - core);
        of_core.push(answered as f64 / core.as_secs_f64());
        in_all.push(answered as f64 / took.as_secs_f64());
        count += answered;
        bar.inc(1);
    }
    let of_core = Summary::of(&of_core).context("no round was measured")?;
    let in_all = Summary::of(&in_all).context("no round was measured")?;
    report.admin.push(AdminRow {
        what: format!("nearest VMR, from the cache, {how}"),
        connections: CONNECTIONS,
        under_way: UNDER_WAY,
        count,
        per_s_core: of_core.median,
        least: of_core.least,
        most: of_core.most,
        us_each: 1e6 / of_core.median,
        per_s: in_all.median,
        rounds: of_core.count,
    });
    if let Some(target) = target {
        let name =
            format!("questions for the nearest VMR answered from the cache in a second of one core, {how}");
        let ratio = Ratio::new(name, of_core.median, "/s", Bound::AtLeast(target));
        report.ratios.push(ratio.with_spread(of_core));
    }
    Ok(())
}

//! The administration server: questions from the cache by one core, a storm of registrations after a power cut,
//! memory with a great many agents, and how good the answers are in simulated networks.
//!
//! The server is the real program over its database file; clients talk gRPC to it on loopback.

mod connection;
mod identities;
mod population;
mod process;
mod questions;
mod simulated;
mod swarm;
mod tls;

use std::{
    net::Ipv4Addr,
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use rustls::HandshakeKind;
use vmcast_lab::{Lab, Namespace, Process, clock::Clock, signals};

use crate::{
    daemon::Measured as _,
    machine::{last_core, pin_to_core},
    report::{AdminRow, Bound, Ratio, RegistryRow, Report},
    stats::Summary,
};

use process::{LISTEN, Security};
use questions::{Askers, CONNECTIONS, UNDER_WAY};
use swarm::Swarm;
use tls::Node;

/// Questions that one core is to answer in a second.
const TARGET_QUESTIONS: f64 = 50_000.0;
/// Registrations in a second: 100,000 agents in 20 s.
const TARGET_STORM: f64 = 5_000.0;
/// Seconds in which 100,000 agents are to be registered that come by TLS,
const TARGET_STORM_SECONDS: f64 = 20.0;
/// on so many cores.
const STORM_CORES: f64 = 2.0;
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
    /// Agents that register without TLS,
    agents: u32,
    /// and with a certificate each.
    certified: u32,
    rounds: usize,
    /// How long the questions of a round go on.
    round: Duration,
    /// Simulated networks for each way and disturbance.
    worlds: u64,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { agents: MANY, certified: MANY, rounds: 5, round: Duration::from_secs(3), worlds: 100 };
    pub(crate) const QUICK: Self =
        Self { agents: 10_000, certified: 2_000, rounds: 3, round: Duration::from_millis(300), worlds: 2 };

    /// Steps of the progress bar.
    pub(crate) const fn steps(&self) -> u64 {
        (self.agents + 2 * self.certified) as u64 + 2 * self.rounds as u64 + simulated::steps(self.worlds)
    }
}

/// Measures, and puts rows and targets into the report.
pub(crate) fn measure(program: &Path, effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    let mut lab = Lab::new("bench-admin")?;
    let namespace = lab.namespace("admin")?;
    let process = process::start(&lab, &namespace, program, Security::None, "admin")?;
    // A thread of its own, so that what follows is neither in the namespace nor on one core.
    namespace.enter(|| {
        registrations(&process, effort, report, bar)?;
        population::report(ASKERS).context("reporting the nearest")?;
        answers(&process, effort, report, bar, || Askers::plain(ASKERS), "gRPC without TLS", None)
    })??;
    drop(process);
    registrations_by_tls(&lab, &namespace, program, effort, report, bar)?;
    let process = process::start(&lab, &namespace, program, Security::Tls, "admin")?;
    let node = Node::join(&lab, &namespace, program, "asker").context("joining")?;
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
    let storm = |registered: &(dyn Fn() + Sync)| {
        let registered = || {
            bar.inc(1);
            registered();
        };
        population::register_agents(agents, registered).context("registering agents")
    };
    let how = "gRPC without TLS, each another agent";
    let (row, remembered) = measure_remembered_storm(process, how, agents, storm)?;
    let per_s = row.per_s;
    report.registry.push(row);
    report.ratios.push(Ratio::new(
        format!("memory that each agent adds to the admin, from {} of them to {agents}", agents / 2),
        remembered.each,
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
            remembered.resident_mb,
            "MB",
            Bound::AtMost(TARGET_MB),
        ));
    }
    Ok(())
}

/// The same by TLS, each agent with a certificate of its own, all of which are there before: they had joined.
fn registrations_by_tls(
    lab: &Lab,
    namespace: &Namespace,
    program: &Path,
    effort: Effort,
    report: &mut Report,
    bar: &ProgressBar,
) -> Result<()> {
    let Effort { certified: agents, .. } = effort;
    bar.set_message(format!("certificates for {agents} agents"));
    let process = process::start(lab, namespace, program, Security::Tls, "storm")?;
    let node = Node::join(lab, namespace, program, "first").context("joining")?;
    drop(process);
    let database = process::database(lab, "storm");
    let keys = identities::make(&database, &process::identity(lab), agents, population::agent)
        .context("making certificates")?;
    let mut process = process::start(lab, namespace, program, Security::Tls, "storm")?;
    bar.set_message(format!("{agents} agents register by TLS"));
    let how = "gRPC over TLS 1.3, all of each handshake, each another agent with its certificate";
    let admin =
        namespace.enter(|| node.verified(Ipv4Addr::LOCALHOST, LISTEN))?.context("verifying the admin")?;
    let swarm = Swarm::of(admin, &keys)?;
    drop(keys);
    let storm = |registered: &(dyn Fn() + Sync)| {
        let registered = || {
            bar.inc(1);
            registered();
        };
        population::register_by_tls(&swarm, HandshakeKind::Full, registered).context("registering by TLS")
    };
    let (row, remembered) = namespace.enter(|| measure_remembered_storm(&process, how, agents, storm))??;
    // The power cut is the admin's own: its nodes have kept their tickets, and it their leases.
    process.kill().context("killing the admin")?;
    let process = process::start(lab, namespace, program, Security::Tls, "storm")?;
    bar.set_message(format!("{agents} agents come back by their tickets"));
    let resumed =
        "gRPC over TLS 1.3, resumed after the admin was killed and started again, each another agent";
    let storm = || population::register_by_tls(&swarm, HandshakeKind::Resumed, || bar.inc(1));
    let back = namespace.enter(|| measure_storm(&process, resumed, agents, storm))?;
    let back = back.context("registering again by tickets")?;
    if agents == MANY {
        let (all, cores) = (f64::from(agents), available_parallelism()?.get() as f64);
        // The admin could do nothing about what the client takes of the same cores.
        let took = |storm: &RegistryRow, how: &str| {
            let clients = storm.client_us_each * all / 1e6 / cores;
            let what = format!(
                "until {agents} registrations were granted that came at once, the clients on the same cores, {how}"
            );
            Ratio::new(what, storm.took_s, "s", Bound::AtMost(TARGET_STORM_SECONDS)).with_limit(clients)
        };
        report.ratios.push(took(&row, how));
        report.ratios.push(Ratio::new(
            format!(
                "computed, not a run with both cores for the admin: time of its threads for {agents} registrations at \
                 once, divided by {STORM_CORES} cores, {how}"
            ),
            row.us_each * all / 1e6 / STORM_CORES,
            "s",
            Bound::AtMost(TARGET_STORM_SECONDS),
        ));
        report.ratios.push(took(&back, resumed));
        report.ratios.push(Ratio::new(
            format!(
                "resident memory of the admin with {agents} registered agents, each with its certificate"
            ),
            remembered.resident_mb,
            "MB",
            Bound::AtMost(TARGET_MB),
        ));
    }
    report.registry.extend([row, back]);
    Ok(())
}

/// What the admin holds after a storm.
struct Remembered {
    resident_mb: f64,
    /// Bytes that each agent of the second half added: what the process took for the first ones is not theirs.
    each: f64,
}

/// A storm of agents that were not there before; it calls what it is given for each that is registered.
fn measure_remembered_storm(
    process: &Process,
    how: &str,
    agents: u32,
    storm: impl FnOnce(&(dyn Fn() + Sync)) -> Result<()>,
) -> Result<(RegistryRow, Remembered)> {
    let empty = process.memory()?;
    let (count, with_half) = (AtomicU32::new(0), OnceLock::new());
    let registered = || {
        if count.fetch_add(1, Ordering::Relaxed) + 1 == agents / 2 {
            // It is reached once.
            let _ = with_half.set(process.memory());
        }
    };
    let row = measure_storm(process, how, agents, || storm(&registered))?;
    let full = process.memory()?;
    let half = with_half.into_inner().context("not half of them were registered")??;
    let resident_mb = full.resident as f64 / 1e6;
    let others = f64::from(agents - agents / 2);
    let each = full.resident.saturating_sub(half.resident) as f64 / others;
    let row = RegistryRow {
        empty_mb: Some(empty.resident as f64 / 1e6),
        resident_mb: Some(resident_mb),
        bytes_per_agent: Some(each),
        ..row
    };
    Ok((row, Remembered { resident_mb, each }))
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

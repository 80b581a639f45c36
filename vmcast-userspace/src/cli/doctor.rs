//! `vmcast doctor`.

use std::fmt::Write as _;

use nix::net::if_::if_nametoindex;
use vmcast_api::{Client, ClockStep, Envelope, Interface, Role, Source, SourcePlace, VERSION};
use vmcast_dataplane::Capacities;

use super::{Exit, Failure, args::DoctorArgs, find, show};
use crate::{
    config::{self, Converted, EngineChoice, PriorityRule, RouterConfig, Target},
    doctor::{self, Asked, Engine, Level, LookedUp, Report, Running},
};

/// Examines; returns what to print, and whether all is well.
pub(super) fn run(args: &DoctorArgs) -> Result<(String, Exit), Failure> {
    let failure = |error: anyhow::Error| Failure::new(Exit::Error, format!("{error:#}"));
    let daemon = ask(args)?;
    let running = daemon.as_ref().map(|(running, _)| running);
    let mut most_next_hops = Capacities::MOST.next_hops;
    let (engine, asked) = match (&args.config, &daemon) {
        (Some(file), _) => {
            let text = config::read(file)?;
            let (config, _) = config::parse::<RouterConfig>(file, &text)?;
            most_next_hops = config.dataplane.max_next_hops;
            (Engine::Chosen(config.dataplane.engine), Some(of_config(&config)))
        }
        (None, Some((running, asked))) => {
            (Engine::Running { is_xdp: running.engine.starts_with("xdp-broadcast") }, Some(asked.clone()))
        }
        (None, None) => (Engine::Chosen(EngineChoice::Auto), None),
    };
    let step = clock_step(args).map(show::clock_step);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failure(error.into()))?;
    let report =
        runtime.block_on(doctor::examine(&engine, running, asked, most_next_hops, step)).map_err(failure)?;
    let exit = if report.errors == 0 { Exit::Ok } else { Exit::Error };
    let text = if args.json { json(&report) } else { text(&report) };
    Ok((text, exit))
}

/// When and by how much the host's clock was set while its admin ran, if one runs.
fn clock_step(args: &DoctorArgs) -> Option<ClockStep> {
    let socket = match (&args.socket, &args.config) {
        (Some(socket), _) => socket.clone(),
        (None, Some(_)) => return None,
        (None, None) => find::socket(&[Role::Admin]).ok()?,
    };
    Client::connect(&socket).ok()?.status().ok()?.clock_step
}

/// The daemon that runs here, if one does, and its interfaces.
fn ask(args: &DoctorArgs) -> Result<Option<(Running, Vec<Asked>)>, Failure> {
    let socket = match (&args.socket, &args.config) {
        (Some(socket), _) => socket.clone(),
        // The file may be another's than that of the daemon.
        (None, Some(_)) => return Ok(None),
        (None, None) => match find::socket(&[Role::Router]) {
            Ok(socket) => socket,
            Err(failure) if failure.exit == Exit::Unreachable => return Ok(None),
            Err(failure) => return Err(failure),
        },
    };
    let mut client = match Client::connect(&socket) {
        Ok(client) => client,
        // A socket that a killed daemon left.
        Err(_) if args.socket.is_none() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let status = client.status()?;
    let Some(engine) = status.engine else {
        return Ok(None);
    };
    let interfaces = client.interfaces()?.interfaces;
    let name = |known: &Interface| match &known.device {
        // A link without an interface of the kernel is examined as its device.
        Some(device) if if_nametoindex(known.name.as_str()).is_err() => device.clone(),
        Some(_) | None => known.name.clone(),
    };
    let asked = merged(interfaces.iter().map(|known| Asked {
        name: name(known),
        accepts_sources: known.accepts_sources,
        copies: !known.accepts_sources || known.upstream || known.querier.is_some(),
        tagged: !known.vlan.is_empty(),
        queues: known.queues,
        configured: true,
        refused: known.refused.clone(),
    }));
    let hooks = interfaces.iter().map(|known| (name(known), known.attached.clone())).collect();
    // A daemon of an older release does not tell.
    let sources = client.sources().map(|list| looked_up(&list.sources)).unwrap_or_default();
    Ok(Some((Running { engine: engine.label, reason: engine.reason, hooks, sources }, asked)))
}

fn looked_up(sources: &[Source]) -> LookedUp {
    let because = |reason: &str| sources.iter().filter(|of| of.reason.as_deref() == Some(reason)).count();
    LookedUp {
        all: sources.len(),
        at_relays: sources.iter().filter(|of| of.place == SourcePlace::Relay).count(),
        unserved: because("no-answer"),
        unanswered: because("dns-failed"),
    }
}

fn of_config(config: &RouterConfig) -> Vec<Asked> {
    let queued = config.priorities.iter().any(PriorityRule::needs_tc);
    let targets = || config.forwards.iter().flat_map(|forward| &forward.to);
    // What a pattern stands for is asked of the router.
    let named = config.interfaces.iter().filter(|known| !known.name.is_pattern());
    merged(named.map(|known| {
        let is_target = |target: &Target| match target {
            Target::Named(name) => name == known.name.as_str(),
            Target::Host { interface, .. }
            | Target::Converted(Converted { interface: Some(interface), .. }) => *interface == known.name,
            Target::Neighbour(_) | Target::Converted(Converted { interface: None, .. }) => false,
        };
        Asked {
            name: known.device.as_ref().unwrap_or(&known.name).as_str().to_owned(),
            accepts_sources: known.takes_sources(),
            copies: !known.accepts_sources || known.querier || known.upstream || targets().any(is_target),
            tagged: !known.vlan.is_empty(),
            queues: queued.then_some(known.engine.is_some()),
            configured: true,
            refused: None,
        }
    }))
}

/// Several links of a device are examined once.
fn merged(all: impl Iterator<Item = Asked>) -> Vec<Asked> {
    let mut merged: Vec<Asked> = Vec::new();
    for asked in all {
        match merged.iter_mut().find(|other| other.name == asked.name) {
            None => merged.push(asked),
            Some(other) => {
                other.accepts_sources |= asked.accepts_sources;
                other.copies |= asked.copies;
                other.tagged |= asked.tagged;
                // One link's wish for TC is the device's.
                other.queues = other.queues.max(asked.queues);
                other.refused = other.refused.take().or(asked.refused);
            }
        }
    }
    merged
}

fn json(report: &Report) -> String {
    let envelope = Envelope { version: VERSION, body: report };
    let mut text = serde_json::to_string_pretty(&envelope).expect("plain data serializes");
    text.push('\n');
    text
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut about = None;
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes all");
    for finding in &report.findings {
        let name = finding.interface.as_deref().unwrap_or("this host");
        if about != Some(name) {
            if about.is_some() {
                line(String::new());
            }
            line(name.to_owned());
            about = Some(name);
        }
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        line(format!("  {level:<8} {}", finding.found));
        for (what, said) in [("means", &finding.means), ("do", &finding.mend)] {
            if let Some(said) = said {
                line(format!("           {what}: {said}"));
            }
        }
    }
    let count = |number: usize, one: &str| match number {
        0 => format!("no {one}"),
        1 => format!("1 {one}"),
        several => format!("{several} {one}s"),
    };
    line(format!("\n{}, {}", count(report.errors, "error"), count(report.warnings, "warning")));
    text
}

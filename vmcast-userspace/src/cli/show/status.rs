//! How a daemon is doing.

use std::{collections::BTreeMap, fmt::Write as _};

use vmcast_api::{
    AdminLink, AdminLinkState, ClockStep, EndpointProof, Engine, ProofState, Role, StandIn, Stats, Status,
    Upstream, UpstreamState,
};

use super::{
    table::Rows,
    unit::{bytes, count, duration, endpoint, plural, source},
};

/// `vmcast status`.
pub(crate) fn status(status: &Status) -> String {
    let mut lines = Lines::default();
    let rank = status.rank.map_or_else(String::new, |rank| format!(", rank {rank}"));
    lines.add("node", format!("{} ({}{rank})", status.name, status.role.label()));
    lines.add(
        "program",
        format!("vmcast {}, process {}, up for {}", status.version, status.pid, duration(status.uptime_ms)),
    );
    if let Some(shown) = &status.engine {
        lines.add("engine", engine(shown));
    }
    if status.role != Role::Admin {
        lines.add("admin", status.admin.as_ref().map_or_else(|| "none configured".to_owned(), admin));
        let others = status.admin.iter().flat_map(|admin| &admin.others).map(String::as_str);
        let others = others.collect::<Vec<_>>().join(", ");
        if !others.is_empty() {
            lines.add("or", others);
        }
        for proof in status.admin.iter().flat_map(|admin| admin.endpoints.iter().flatten()) {
            lines.add("endpoint", endpoint_proof(proof));
        }
        let none = if status.role == Role::Router { "none: local sources only" } else { "none" };
        lines.add("upstream", status.upstream.as_ref().map_or_else(|| none.to_owned(), upstream));
        lines.add(
            "carries",
            format!(
                "{}, {}, {}",
                plural(status.groups, "group"),
                plural(status.members, "member"),
                plural(status.tunnels, "tunnel")
            ),
        );
    }
    if !status.nodes.is_empty() || status.cache_entries.is_some() {
        let nodes = status.nodes.iter().map(|(role, number)| plural(*number, role.label()));
        let cached = status.cache_entries.iter().map(|number| plural(*number, "cached answer"));
        lines.add("knows", nodes.chain(cached).collect::<Vec<_>>().join(", "));
    }
    for refused in &status.refused {
        let who = refused.who.map_or_else(|| "this node".to_owned(), |who| who.to_string());
        lines.add("refused", format!("{} of {}: {}", refused.group, who, refused.reason));
    }
    for (interface, reason) in &status.interfaces_refused {
        lines.add("refused", format!("interface {interface}: {reason}"));
    }
    if status.registry_stale == Some(true) {
        lines.add("registry", "stale: etcd does not answer, and no registration is taken");
    } else if status.registry_kept == Some(false) {
        lines.add(
            "registry",
            "the last change could not be kept: the log says why; see whether the disk is full",
        );
    }
    if let Some(step) = status.clock_step {
        lines.add("clock", format!("{}; certificates and tokens go by it", clock_step(step)));
    }
    lines.0
}

/// `vmcast stats`.
pub(crate) fn stats(stats: &Stats) -> String {
    let mut lines = Lines::default();
    if let Some(shown) = &stats.engine {
        lines.add("engine", engine(shown));
    }
    lines.add("memory", format!("{} resident", bytes(stats.resident_bytes)));
    let mut text = lines.0;

    if !stats.streams.is_empty() {
        let mut rows = Rows::new(&["GROUP", "SOURCE", ">PACKETS", ">BYTES", ">LAST", "NOT FORWARDED"]);
        for stream in &stats.streams {
            rows.row([
                stream.group.to_string(),
                source(stream.source),
                count(stream.packets),
                bytes(stream.bytes),
                stream.last_packet_ms.map_or_else(String::new, duration),
                reasons(&stream.drops),
            ]);
        }
        text += "\nstreams\n";
        text += &rows.text(2);
    }
    let drops = stats.drops.iter().map(|(label, value)| (label.clone(), *value));
    if stats.engine.is_some() || !stats.drops.is_empty() {
        text += &counters("packets and copies not forwarded", drops);
    }
    let control = stats.control.iter().flat_map(|(subsystem, counters)| {
        counters.iter().map(move |(label, value)| (format!("{subsystem}.{label}"), *value))
    });
    text += &counters("control plane", control);
    text
}

/// How many packets of a stream were not forwarded, by reason.
fn reasons(drops: &BTreeMap<String, u64>) -> String {
    let each: Vec<String> =
        drops.iter().map(|(reason, packets)| format!("{reason} {}", count(*packets))).collect();
    each.join(", ")
}

/// Counters that are not zero, below each other.
fn counters(title: &str, counters: impl Iterator<Item = (String, u64)>) -> String {
    let shown: Vec<(String, u64)> = counters.filter(|(_, value)| *value > 0).collect();
    let label_width = shown.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let width = shown.iter().map(|(_, value)| value.to_string().len()).max().unwrap_or(0);
    let mut text = format!("\n{title}{}\n", if shown.is_empty() { ": none" } else { "" });
    for (label, value) in shown {
        writeln!(text, "  {label:label_width$}  {value:>width$}").expect("a String takes all");
    }
    text
}

fn engine(engine: &Engine) -> String {
    format!("{}: {}", engine.label, engine.reason)
}

/// When and by how much a clock was set.
pub(crate) fn clock_step(ClockStep { by_ms, age_ms }: ClockStep) -> String {
    let way = if by_ms < 0 { "back" } else { "forward" };
    format!("set {way} by {}, {} ago", duration(by_ms.unsigned_abs()), duration(age_ms))
}

fn admin(admin: &AdminLink) -> String {
    let age = duration(admin.age_ms);
    let state = match admin.state {
        AdminLinkState::Connecting => format!("connecting for {age}"),
        AdminLinkState::Registered => format!("registered for {age}"),
        AdminLinkState::Refused => format!("refused for {age}"),
        AdminLinkState::Unreachable => format!("unreachable for {age}, trying again"),
        AdminLinkState::Unknown => format!("in a state this command does not know for {age}"),
    };
    let error = admin.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
    format!("{}, {state}{error}", admin.url)
}

fn endpoint_proof(proof: &EndpointProof) -> String {
    let EndpointProof { endpoint: at, found, age_ms } = proof;
    let given = if *found == ProofState::Proved { "" } else { "; others are not given it" };
    format!("{}, {} for {}{given}", endpoint(*at), found.meaning(), duration(*age_ms))
}

fn upstream(upstream: &Upstream) -> String {
    let remote = match (&upstream.name, upstream.remote) {
        (Some(name), Some(remote)) => format!("{name} ({}), ", endpoint(remote)),
        (Some(name), None) => format!("{name}, "),
        (None, Some(remote)) => format!("{}, ", endpoint(remote)),
        (None, None) => String::new(),
    };
    let state = match upstream.state {
        UpstreamState::Finding => "being found",
        UpstreamState::Idle => "idle",
        UpstreamState::Up => "up",
        UpstreamState::Down => "down",
        UpstreamState::Unknown => "in a state this command does not know",
    };
    let from = match upstream.stands_in {
        None => &upstream.from,
        Some(StandIn::Kept) => "a list that the admin gave before and that may be stale: it does not answer",
        Some(StandIn::Fallback) => "the fallback: the admin names none",
        Some(StandIn::Unknown) => "somebody in the admin's place whom this command does not know",
    };
    format!("{remote}{state} for {}, from {from}", duration(upstream.age_ms))
}

/// Lines of a key and a value.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, key: &str, value: impl AsRef<str>) {
        writeln!(self.0, "{key:<10}{}", value.as_ref()).expect("a String takes all");
    }
}

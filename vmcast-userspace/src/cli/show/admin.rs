//! What the admin knows.

use std::net::SocketAddr;

use vmcast_api::{CacheEntries, Drained, EndpointProof, Node, Nodes, ProofState, TunnelEnd};

use super::{
    table::Rows,
    unit::{NONE, duration, endpoint},
};

/// `vmcast node list`.
pub(crate) fn nodes(nodes: &Nodes) -> String {
    if nodes.nodes.is_empty() {
        return "No nodes: nobody is registered.\n\
                Routers and agents register when [admin] urls in their configuration names this server.\n"
            .to_owned();
    }
    let mut rows = Rows::new(&["NODE", "ROLE", ">RANK", "TUNNELS TO", "REGISTERED", ">LEASE", "STATE"]);
    for node in &nodes.nodes {
        let name =
            if node.id == node.name { node.id.clone() } else { format!("{} ({})", node.name, node.id) };
        let endpoints = match node.endpoints.as_slice() {
            [] => NONE.to_owned(),
            [one] => endpoint(*one),
            [first, more @ ..] => format!("{} +{}", endpoint(*first), more.len()),
        };
        rows.row([
            name,
            node.role.label().to_owned(),
            node.rank.map_or_else(|| NONE.to_owned(), |rank| rank.to_string()),
            endpoints,
            format!("{} ago", duration(node.age_ms)),
            duration(node.lease_left_ms),
            state(node).to_owned(),
        ]);
    }
    rows.text(0)
}

fn state(node: &Node) -> &'static str {
    let is_found = |proof: &EndpointProof| proof.found == ProofState::Proved;
    match (node.draining, node.connections) {
        (true, 0) => "drained",
        (true, _) => "draining",
        (false, _) if node.proofs.is_empty() || node.proofs.iter().any(is_found) => "live",
        // It is given to nobody.
        (false, _) => "unproved",
    }
}

/// An endpoint, and why nobody is given it.
fn tunnel_end(node: &Node, at: &SocketAddr) -> String {
    match node.proofs.iter().find(|proof| proof.endpoint == *at) {
        None | Some(EndpointProof { found: ProofState::Proved, .. }) => at.to_string(),
        Some(proof) => {
            format!("{at} (given to nobody for {}: {})", duration(proof.age_ms), proof.found.meaning())
        }
    }
}

/// A static tunnel's end: its kind, and the port where it has one.
fn stated_end(end: &TunnelEnd) -> String {
    let at = match end.endpoint.port() {
        0 => end.endpoint.ip().to_string(),
        _ => end.endpoint.to_string(),
    };
    format!("{} {at}", end.kind.label())
}

/// `vmcast node show`.
pub(crate) fn node(node: &Node) -> String {
    let list = |items: &[String]| if items.is_empty() { NONE.to_owned() } else { items.join(", ") };
    let endpoints: Vec<_> = node.endpoints.iter().map(|at| tunnel_end(node, at)).collect();
    let stated: Vec<_> = node.tunnel_ends.iter().map(stated_end).collect();
    let load = match (node.connections, node.capacity) {
        (_, 0) => NONE.to_owned(),
        (connections, capacity) => format!("{connections} of {capacity} tunnels"),
    };
    let rtt = node.rtt_us.map_or_else(|| NONE.to_owned(), |rtt| format!("{:.2} ms", rtt as f64 / 1000.0));
    let mut text = String::new();
    for (key, value) in [
        ("node", node.id.clone()),
        ("name", node.name.clone()),
        ("role", node.role.label().to_owned()),
        ("rank", node.rank.map_or_else(|| NONE.to_owned(), |rank| rank.to_string())),
        ("state", state(node).to_owned()),
        ("software", if node.software.is_empty() { NONE.to_owned() } else { node.software.clone() }),
        ("tunnels to", list(&endpoints)),
        ("static", list(&stated)),
        ("sources in", list(&node.source_prefixes)),
        ("abilities", list(&node.capabilities)),
        ("load", load),
        ("round trip", rtt),
        ("registered", format!("{} ago", duration(node.age_ms))),
        ("lease", duration(node.lease_left_ms)),
    ] {
        text.push_str(&format!("{key:<11} {value}\n"));
    }
    text
}

/// `vmcast node drain`.
pub(crate) fn drained(drained: &Drained) -> String {
    let Drained { node, draining, changed } = drained;
    match (draining, changed) {
        (true, true) => {
            format!(
                "{node} goes out of service: it is given to nobody, takes no new members, and its members move to \
                 others. It is drained when its state says so: vmcast node show {node}\n"
            )
        }
        (true, false) => format!("{node} was out of service before.\n"),
        (false, true) => format!("{node} is back in service.\n"),
        (false, false) => format!("{node} was in service before.\n"),
    }
}

/// `vmcast cache list`.
pub(crate) fn cache(cache: &CacheEntries) -> String {
    if cache.entries.is_empty() {
        return "The cache is empty: no node has reported its nearest router yet.\n".to_owned();
    }
    let mut rows =
        Rows::new(&["REQUESTERS", "WHO", "NEAREST", "ADDRESS", ">HOPS", ">RTT", "THEN", "FOUND", ">KEPT"]);
    for entry in &cache.entries {
        rows.row([
            entry.prefix.clone(),
            entry.rank.map_or_else(|| "agents".to_owned(), |rank| format!("rank {rank}")),
            entry.node.clone(),
            endpoint(entry.endpoint),
            entry.hops.map_or_else(|| NONE.to_owned(), |hops| hops.to_string()),
            entry.rtt_us.map_or_else(|| NONE.to_owned(), |rtt| format!("{:.2} ms", rtt as f64 / 1000.0)),
            match entry.others.as_slice() {
                [] => NONE.to_owned(),
                others => others.iter().map(|other| other.node.as_str()).collect::<Vec<_>>().join(", "),
            },
            format!("{} ago", duration(entry.age_ms)),
            duration(entry.left_ms),
        ]);
    }
    rows.text(0)
}

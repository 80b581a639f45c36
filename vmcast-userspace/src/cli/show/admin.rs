//! What the admin knows.

use vmcast_api::{CacheEntries, Nodes};

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
    let mut rows = Rows::new(&["NODE", "ROLE", ">RANK", "TUNNELS TO", "REGISTERED", ">LEASE"]);
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
        ]);
    }
    rows.text(0)
}

/// `vmcast cache list`.
pub(crate) fn cache(cache: &CacheEntries) -> String {
    if cache.entries.is_empty() {
        return "The cache is empty: no node has reported its nearest router yet.\n".to_owned();
    }
    let mut rows = Rows::new(&["REQUESTERS", "WHO", "NEAREST", "ADDRESS", ">HOPS", ">RTT", "FOUND", ">KEPT"]);
    for entry in &cache.entries {
        rows.row([
            entry.prefix.clone(),
            entry.rank.map_or_else(|| "agents".to_owned(), |rank| format!("rank {rank}")),
            entry.node.clone(),
            endpoint(entry.endpoint),
            entry.hops.map_or_else(|| NONE.to_owned(), |hops| hops.to_string()),
            entry.rtt_us.map_or_else(|| NONE.to_owned(), |rtt| format!("{:.2} ms", rtt as f64 / 1000.0)),
            format!("{} ago", duration(entry.age_ms)),
            duration(entry.left_ms),
        ]);
    }
    rows.text(0)
}

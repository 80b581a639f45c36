//! Groups, members, tunnels and interfaces.

use std::{collections::BTreeMap, net::IpAddr};

use vmcast_api::{
    Direction, Engine, Filter, FilterMode, Group, GroupState, Groups, Interface, Interfaces, Members,
    NextHop, NextHopState, Place, Priority, Querier, Taken, Tunnels,
};

use crate::config::DSCP_NAMES;

use super::{
    table::Rows,
    unit::{NONE, bit_rate, bytes, count, duration, endpoint, source},
};

/// Most interfaces that are named where many share something.
const NAMES: usize = 3;

/// `vmcast group list`.
pub(crate) fn groups(groups: &Groups) -> String {
    if groups.groups.is_empty() {
        return "No groups: nobody has joined one, and no source sends.\n\
                An application joins by opening the group, as `ffplay udp://239.192.1.1:5000`.\n"
            .to_owned();
    }
    // Most operators state none, and mostly nothing is dropped.
    let marked = groups.groups.iter().any(|group| group.priority.is_some());
    let dropped = groups.groups.iter().any(|group| !group.drops.is_empty());
    let mut columns = vec!["GROUP", "SOURCE", "FROM", ">MEMBERS", ">PACKETS"];
    columns.extend(dropped.then_some(">DROPPED"));
    columns.extend([">RATE", "STATE"]);
    columns.extend(marked.then_some("PRIORITY"));
    let mut rows = Rows::new(&columns);
    for group in &groups.groups {
        let priority = marked.then(|| group.priority.as_ref().map_or_else(|| NONE.to_owned(), priority));
        let cells = [
            group.group.to_string(),
            source(group.source),
            group.rpf.as_ref().map_or_else(|| "any".to_owned(), place),
            group.members.to_string(),
            count(group.packets),
        ];
        let drops = dropped.then(|| count(group.drops.values().sum()));
        let rate = group.bits_per_second.map_or_else(|| NONE.to_owned(), bit_rate);
        rows.row(cells.into_iter().chain(drops).chain([rate, state(group)]).chain(priority));
    }
    rows.text(0)
}

/// `vmcast group show`.
pub(crate) fn group(groups: &Groups) -> String {
    let shown = groups.groups.iter().map(|group| {
        let last = group.last_packet_ms.map_or_else(|| "none".to_owned(), |age| duration(age) + " ago");
        let mut drops = group.drops.iter();
        let (first, more) = (drops.next().map(dropped), drops.map(|drop| ("", dropped(drop))));
        let lines = [
            ("group", group.group.to_string()),
            ("source", source(group.source)),
            ("from", group.rpf.as_ref().map_or_else(|| "any".to_owned(), place)),
            ("state", state(group)),
            ("members", group.members.to_string()),
            ("packets", group.packets.to_string()),
            ("bytes", bytes(group.bytes)),
            ("rate", group.bits_per_second.map_or_else(|| NONE.to_owned(), bit_rate)),
            ("last packet", last),
            ("dropped", first.unwrap_or_else(|| "none".to_owned())),
        ];
        let priority = group.priority.as_ref().map(|marks| ("priority", priority(marks)));
        let refused = group.refused.clone().map(|reason| ("refused", reason));
        let taken = group.taken.as_ref().map(|taken| ("taken in", taken_in(taken)));
        let lines = lines.into_iter().chain(more).chain(taken).chain(priority).chain(refused);
        lines.map(|(key, value)| format!("{key:<11} {value}\n")).collect::<String>()
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// Where packets are taken in, and why there.
fn taken_in(Taken { at, reason }: &Taken) -> String {
    reason.as_ref().map_or_else(|| at.clone(), |reason| format!("{at}: {reason}"))
}

/// How many packets and copies were dropped for a reason.
fn dropped((reason, packets): (&String, &u64)) -> String {
    format!("{reason} {packets}")
}

fn state(group: &Group) -> String {
    let age = group.last_packet_ms.map_or_else(String::new, |age| format!(" {}", duration(age)));
    match group.state {
        GroupState::Forwarding => "forwarding".to_owned(),
        GroupState::Waiting if group.refused.is_some() => "refused".to_owned(),
        GroupState::Waiting => "waiting".to_owned(),
        GroupState::Silent => format!("silent{age}"),
        GroupState::NoMember => "no member".to_owned(),
        GroupState::Unknown => "?".to_owned(),
    }
}

/// What packets are marked with, as `af41, pcp 4, class 1:10, queue 3, at TC`.
fn priority(priority: &Priority) -> String {
    let Priority { dscp, pcp, skb_priority, queue, at_tc } = *priority;
    let class = dscp.map(|dscp| {
        let named = DSCP_NAMES.iter().find(|(_, number)| *number == dscp);
        named.map_or_else(|| format!("dscp {dscp}"), |(name, _)| (*name).to_owned())
    });
    let code_point = (pcp > 0).then(|| format!("pcp {pcp}"));
    let waits = skb_priority.map(|number| match (number >> 16, number & 0xffff) {
        (0, number) => format!("priority {number}"),
        (major, minor) => format!("class {major:x}:{minor:x}"),
    });
    let queue = queue.map(|queue| format!("queue {queue}"));
    let at_tc = at_tc.then(|| "at TC".to_owned());
    [class, code_point, waits, queue, at_tc].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// `vmcast member list`.
pub(crate) fn members(members: &Members, group: Option<IpAddr>) -> String {
    if members.members.is_empty() {
        return match group {
            Some(group) => {
                format!("No members of {group}.\n`vmcast group list` shows the groups that have some.\n")
            }
            None => "No members: nobody below this node has joined a group.\n\
                     `vmcast tunnel list` shows who is connected.\n"
                .to_owned(),
        };
    }
    let mut rows =
        Rows::new(&["GROUP", "SOURCE", "OUTPUT", "WANTS", "FOR", ">PACKETS", ">BYTES", ">DROPPED"]);
    for member in &members.members {
        rows.row([
            member.group.to_string(),
            source(member.source),
            match member.tracked_hosts {
                0 => place(&member.output),
                1 => format!("{} (1 host)", place(&member.output)),
                more => format!("{} ({more} hosts)", place(&member.output)),
            },
            format!(
                "{}{}{}{}",
                wants(&member.filter),
                if member.configured { ", configured" } else { "" },
                if member.waits { ", waits for room" } else { "" },
                if member.refused.is_some() { ", refused" } else { "" }
            ),
            duration(member.age_ms),
            count(member.packets),
            bytes(member.bytes),
            count(member.dropped),
        ]);
    }
    rows.text(0)
}

/// `vmcast tunnel list`.
pub(crate) fn tunnels(tunnels: &Tunnels) -> String {
    if tunnels.tunnels.is_empty() {
        return "No tunnels: no member is connected, and nothing is joined upstream.\n\
                `vmcast status` shows the upstream.\n"
            .to_owned();
    }
    let mut rows = Rows::new(&[">ID", "TUNNEL", "LOCAL", "REMOTE", "NEXT HOP", ">GROUPS", "FOR"]);
    for tunnel in &tunnels.tunnels {
        let kind = tunnel.kind.label();
        let key = tunnel.key.map_or_else(String::new, |key| format!(" key {key}"));
        let name = tunnel.name.as_ref().map_or_else(String::new, |name| format!(" {name}"));
        let direction = match tunnel.direction {
            Direction::Upstream => "upstream",
            Direction::Member => "member",
            Direction::Static => "static",
            Direction::Unknown => "?",
        };
        rows.row([
            tunnel.id.to_string(),
            format!("{kind}{key} {direction}{name}"),
            endpoint(tunnel.local),
            endpoint(tunnel.remote),
            tunnel.next_hop.as_ref().map_or_else(|| NONE.to_owned(), next_hop),
            tunnel.groups.to_string(),
            duration(tunnel.age_ms),
        ]);
    }
    rows.text(0)
}

/// `vmcast interface list`.
pub(crate) fn interfaces(interfaces: &Interfaces) -> String {
    if interfaces.interfaces.is_empty() {
        return "No interfaces: the daemon works on none.\nA router has one [[interface]] table for each.\n"
            .to_owned();
    }
    let mut rows = Rows::new(&[
        "INTERFACE",
        "STATE",
        ">MTU",
        "ADDRESS",
        "ATTACHED",
        "COPIES",
        "SOURCES",
        "IGMP",
        "MLD",
        ">GROUPS",
    ]);
    for interface in &interfaces.interfaces {
        let state = match (interface.ifindex, interface.up) {
            (None, _) => "missing",
            _ if interface.refused.is_some() => "refused",
            (Some(_), true) => "up",
            (Some(_), false) => "down",
        };
        let address = match interface.addresses.as_slice() {
            [] => NONE.to_owned(),
            [one] => one.to_string(),
            [first, more @ ..] => format!("{first} +{}", more.len()),
        };
        rows.row([
            link(interface),
            state.to_owned(),
            interface.mtu.to_string(),
            address,
            interface.attached.clone().unwrap_or_else(|| NONE.to_owned()),
            interface.egress.as_ref().map_or(NONE, |engine| short(&engine.label)).to_owned(),
            match (interface.accepts_sources, interface.upstream) {
                (_, true) => "above",
                (true, false) => "accepted",
                (false, false) => NONE,
            }
            .to_owned(),
            interface.querier.as_ref().map_or_else(|| NONE.to_owned(), querier),
            interface.mld_querier.as_ref().map_or_else(|| NONE.to_owned(), querier),
            groups_of(interface).map_or_else(|| NONE.to_owned(), |groups| groups.to_string()),
        ]);
    }
    rows.text(0) + &engines(interfaces) + &refused(interfaces)
}

/// Why interfaces are not used.
fn refused(interfaces: &Interfaces) -> String {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for interface in &interfaces.interfaces {
        if let Some(reason) = &interface.refused {
            reasons.entry(reason).or_default().push(&interface.name);
        }
    }
    let line = |(reason, names): (&str, Vec<&str>)| format!("\nrefused: {}: {reason}\n", few(&names));
    reasons.into_iter().map(line).collect()
}

/// Some of these names, and how many more there are.
fn few(names: &[&str]) -> String {
    let (shown, more) = names.split_at(names.len().min(NAMES));
    let more = if more.is_empty() { String::new() } else { format!(" +{}", more.len()) };
    shown.join(", ") + &more
}

/// The kind of an engine, without how it works: `tc` of `tc-clone`.
fn short(label: &str) -> &str {
    label.split_once('-').map_or(label, |(kind, _)| kind)
}

/// Which engines make the copies that leave by interfaces, and why.
fn engines(interfaces: &Interfaces) -> String {
    let mut engines: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for interface in &interfaces.interfaces {
        if let Some(Engine { label, reason }) = &interface.egress {
            engines.entry((label, reason)).or_default().push(&interface.name);
        }
    }
    if engines.is_empty() {
        return String::new();
    }
    let mut rows = Rows::new(&["COPIES BY", "WHY", "INTERFACES"]);
    for ((label, reason), names) in engines {
        rows.row([label.to_owned(), reason.to_owned(), few(&names)]);
    }
    format!("\n{}", rows.text(0))
}

/// Groups with members on its network, of both families; `None` where nobody is asked.
fn groups_of(interface: &Interface) -> Option<u64> {
    let queriers = [&interface.querier, &interface.mld_querier];
    queriers.into_iter().flatten().map(|querier| querier.groups).reduce(|all, more| all + more)
}

/// Its name, and which link of which device it is.
fn link(interface: &Interface) -> String {
    let Some(device) = &interface.device else {
        return interface.name.clone();
    };
    let session = interface.pppoe_session.map(|session| format!("session {session}"));
    let parts: Vec<&str> = interface.vlan.iter().chain(&session).map(String::as_str).collect();
    format!("{} ({device} {})", interface.name, parts.join(" "))
}

fn place(place: &Place) -> String {
    match place {
        Place::Interface { name } => name.clone(),
        Place::Neighbour { interface, mac } => {
            format!("{interface} {}", mac.as_deref().unwrap_or("unresolved"))
        }
        Place::Tunnel { name: Some(name), .. } => name.clone(),
        Place::Tunnel { name: None, remote, .. } => endpoint(*remote),
        Place::Conversion { destination, source, interface, mac, .. } => {
            let source = source.map_or_else(String::new, |source| format!(" from {source}"));
            let is_reached = mac.is_some() || destination.ip().is_multicast();
            let way = match interface {
                Some(interface) if is_reached => interface.clone(),
                Some(interface) => format!("{interface} unresolved"),
                None => "unresolved".to_owned(),
            };
            format!("{way} as {destination}{source}")
        }
        Place::Unicast { endpoint, open: true } => format!("unicast {endpoint}"),
        Place::Unicast { endpoint, open: false } => format!("unicast {endpoint} absent"),
        Place::Unknown => "?".to_owned(),
    }
}

/// RFC words, shortened: `any`, `include 1`, `exclude 2`.
fn wants(filter: &Filter) -> String {
    match (filter.mode, filter.sources.len()) {
        (FilterMode::Exclude, 0) => "any source".to_owned(),
        (FilterMode::Exclude, sources) => format!("exclude {sources}"),
        (FilterMode::Include, sources) => format!("include {sources}"),
    }
}

fn next_hop(hop: &NextHop) -> String {
    let way = match hop.state {
        NextHopState::Resolved => hop.mac.as_deref().unwrap_or("resolved"),
        NextHopState::Unresolved => "unresolved",
        NextHopState::Down => "down",
        NextHopState::Unknown => "?",
    };
    format!("{} {way}", hop.interface)
}

fn querier(querier: &Querier) -> String {
    let version = querier.version;
    match (querier.ours, querier.address) {
        (true, _) => format!("this v{version}"),
        (false, Some(address)) if querier.serving => format!("{address} v{version} (served here)"),
        (false, Some(address)) => format!("{address} v{version}"),
        (false, None) => "none".to_owned(),
    }
}

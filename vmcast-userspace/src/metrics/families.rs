//! The families of figures: name, meaning, and where each value comes from.

use std::{collections::BTreeMap, net::IpAddr};

use vmcast_api::{
    AdminLinkState, Interface, Querier, Role, StandIn, Stats, Status, StreamStats, Upstream, UpstreamState,
};

/// What a role said of itself at one time.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) status: Status,
    pub(super) stats: Stats,
    /// Empty for the admin.
    pub(super) interfaces: Vec<Interface>,
}

/// What tells the values of one family apart: names and values of labels.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Values of a family, each with its labels.
pub(super) type Values<T> = Vec<(Labels, T)>;

/// Whether a figure only rises, and how its values are read.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// It rises until the daemon ends; its name is followed by `_total`.
    Counter(fn(&Figures) -> Values<u64>),
    /// It rises and falls.
    Gauge(fn(&Figures) -> Values<f64>),
}

/// What a figure is counted in; the end of its name says so.
#[derive(Clone, Copy)]
pub(super) enum Units {
    /// Things.
    None,
    Seconds,
    Bytes,
}

/// Figures of one meaning.
pub(super) struct Family {
    /// Its name without the unit at its end, and without `_total`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Units,
    /// One sentence without its full stop.
    pub(super) help: &'static str,
}

const fn counter(name: &'static str, help: &'static str, values: fn(&Figures) -> Values<u64>) -> Family {
    Family { name, kind: Kind::Counter(values), unit: Units::None, help }
}

const fn gauge(name: &'static str, help: &'static str, values: fn(&Figures) -> Values<f64>) -> Family {
    Family { name, kind: Kind::Gauge(values), unit: Units::None, help }
}

const fn in_unit(family: Family, unit: Units) -> Family {
    Family { unit, ..family }
}

/// Every family, in the order in which they are served.
pub(super) static FAMILIES: [Family; 23] = [
    gauge("vmcast_build_info", "Role, name and version of the daemon; always 1", |figures| {
        let Status { role, name, version, .. } = &figures.status;
        let labels = [("role", role.label()), ("node", name), ("version", version)];
        vec![(labels.map(|(label, value)| (label, value.to_owned())).to_vec(), 1.0)]
    }),
    in_unit(
        gauge("vmcast_uptime", "Time since the daemon started", |figures| {
            alone(seconds(figures.status.uptime_ms))
        }),
        Units::Seconds,
    ),
    in_unit(
        gauge("vmcast_resident_memory", "Resident memory of the daemon", |figures| {
            alone(figures.stats.resident_bytes as f64)
        }),
        Units::Bytes,
    ),
    gauge("vmcast_engine_info", "What replicates packets; always 1", |figures| {
        let engine = figures.status.engine.iter();
        engine.map(|engine| (vec![("engine", engine.label.clone())], 1.0)).collect()
    }),
    gauge("vmcast_admin_link", "How the link to the admin is: 1 for the state that it is in", |figures| {
        let state = figures.status.admin.as_ref().map(|link| link.state);
        states(state, &ADMIN_LINK_STATES)
    }),
    gauge(
        "vmcast_upstream",
        "How the VMR is that streams come from: 1 for the state that it is in",
        |figures| {
            let state = figures.status.upstream.as_ref().map(|upstream: &Upstream| upstream.state);
            states(state, &UPSTREAM_STATES)
        },
    ),
    gauge(
        "vmcast_upstream_stands_in",
        "Whether the VMR that streams come from was named in the admin's place: 1 for whoever has named it",
        |figures| {
            let Some(upstream) = figures.status.upstream.as_ref() else { return Vec::new() };
            let value = |by: StandIn| if upstream.stands_in == Some(by) { 1.0 } else { 0.0 };
            STAND_INS.iter().map(|(by, label)| (vec![("by", (*label).to_owned())], value(*by))).collect()
        },
    ),
    gauge("vmcast_groups", "Streams that are known, (S,G) and (*,G)", |figures| {
        forwards(figures, figures.status.groups)
    }),
    gauge("vmcast_members", "Members over all streams", |figures| forwards(figures, figures.status.members)),
    gauge("vmcast_tunnels", "Tunnels that are up", |figures| forwards(figures, figures.status.tunnels)),
    counter(
        "vmcast_drops",
        "Packets, or copies where the reason speaks of one copy, that were dropped",
        |figures| by_label("reason", &figures.stats.drops),
    ),
    counter("vmcast_stream_packets", "Packets of a stream that were accepted and replicated", |figures| {
        of_streams(figures, |stream| stream.packets)
    }),
    in_unit(
        counter("vmcast_stream", "IP length of those packets", |figures| {
            of_streams(figures, |stream| stream.bytes)
        }),
        Units::Bytes,
    ),
    counter(
        "vmcast_stream_drops",
        "Packets of a stream, and copies for its members, that went nowhere",
        |figures| {
            let streams = figures.stats.streams.iter();
            let drops = streams.flat_map(|stream| {
                stream.drops.iter().map(|(reason, count)| {
                    ([stream_labels(stream), vec![("reason", reason.clone())]].concat(), *count)
                })
            });
            drops.collect()
        },
    ),
    in_unit(
        gauge("vmcast_stream_last_packet_age", "Time since the last packet of a stream", |figures| {
            let streams = figures.stats.streams.iter();
            streams
                .filter_map(|stream| Some((stream_labels(stream), seconds(stream.last_packet_ms?))))
                .collect()
        }),
        Units::Seconds,
    ),
    counter("vmcast_events", "What the control plane did and met, by subsystem", |figures| {
        let control = figures.stats.control.iter();
        let events = control.flat_map(|(subsystem, events)| {
            let labels = |event: &String| vec![("subsystem", subsystem.clone()), ("event", event.clone())];
            events.iter().map(move |(event, count)| (labels(event), *count))
        });
        events.collect()
    }),
    gauge("vmcast_interface_up", "Whether an interface in use is up: 1 or 0", |figures| {
        of_interfaces(figures, |interface| f64::from(u8::from(interface.up)))
    }),
    gauge(
        "vmcast_interface_groups",
        "Groups with members on the network of an interface, by protocol",
        |figures| of_queriers(figures, |querier| querier.groups as f64),
    ),
    gauge(
        "vmcast_interface_querier",
        "Whether this daemon is the querier of an interface's network: 1 or 0",
        |figures| of_queriers(figures, |querier| f64::from(u8::from(querier.ours))),
    ),
    gauge("vmcast_registered_nodes", "Nodes whose lease runs, by role; the admin only", |figures| {
        let nodes = figures.status.nodes.iter();
        nodes.map(|(role, count)| (vec![("role", role.label().to_owned())], *count as f64)).collect()
    }),
    gauge("vmcast_cache_entries", "Entries of the cache of nearest VMRs; the admin only", |figures| {
        figures.status.cache_entries.map(|count| (Vec::new(), count as f64)).into_iter().collect()
    }),
    gauge("vmcast_registry_stale", "Whether etcd is lost to the admin: 1 or 0; the admin only", |figures| {
        let stale = figures.status.registry_stale.into_iter();
        stale.map(|stale| (Vec::new(), f64::from(u8::from(stale)))).collect()
    }),
    gauge("vmcast_ready", "Whether the node can do its work now: 1 or 0, as /readyz says", |figures| {
        alone(f64::from(u8::from(super::readiness(&figures.status).is_ok())))
    }),
];

const ADMIN_LINK_STATES: [(AdminLinkState, &str); 4] = [
    (AdminLinkState::Connecting, "connecting"),
    (AdminLinkState::Registered, "registered"),
    (AdminLinkState::Refused, "refused"),
    (AdminLinkState::Unreachable, "unreachable"),
];

const UPSTREAM_STATES: [(UpstreamState, &str); 4] = [
    (UpstreamState::Finding, "finding"),
    (UpstreamState::Idle, "idle"),
    (UpstreamState::Up, "up"),
    (UpstreamState::Down, "down"),
];

const STAND_INS: [(StandIn, &str); 2] = [(StandIn::Kept, "kept"), (StandIn::Fallback, "fallback")];

/// One value for each state, nothing where there is no such thing.
fn states<S: Copy + PartialEq>(present: Option<S>, all: &[(S, &str)]) -> Values<f64> {
    let Some(present) = present else { return Vec::new() };
    let value = |state: S| if state == present { 1.0 } else { 0.0 };
    all.iter().map(|(state, label)| (vec![("state", (*label).to_owned())], value(*state))).collect()
}

fn alone(value: f64) -> Values<f64> {
    vec![(Vec::new(), value)]
}

/// A number of those roles that forward.
fn forwards(figures: &Figures, count: u64) -> Values<f64> {
    match figures.status.role {
        Role::Router | Role::Agent => alone(count as f64),
        Role::Admin => Vec::new(),
    }
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

fn by_label(label: &'static str, counts: &BTreeMap<String, u64>) -> Values<u64> {
    counts.iter().map(|(name, count)| (vec![(label, name.clone())], *count)).collect()
}

fn of_streams(figures: &Figures, value: impl Fn(&StreamStats) -> u64) -> Values<u64> {
    figures.stats.streams.iter().map(|stream| (stream_labels(stream), value(stream))).collect()
}

/// A stream's group and source, which is `*` where every source is meant.
fn stream_labels(stream: &StreamStats) -> Labels {
    let source = stream.source.as_ref().map_or_else(|| "*".to_owned(), IpAddr::to_string);
    vec![("group", stream.group.to_string()), ("source", source)]
}

fn of_interfaces(figures: &Figures, value: impl Fn(&Interface) -> f64) -> Values<f64> {
    let interfaces = figures.interfaces.iter();
    interfaces.map(|interface| (vec![("interface", interface.name.clone())], value(interface))).collect()
}

fn of_queriers(figures: &Figures, value: impl Fn(&Querier) -> f64) -> Values<f64> {
    let of_interface = |interface: &Interface| -> Values<f64> {
        [("igmp", &interface.querier), ("mld", &interface.mld_querier)]
            .into_iter()
            .filter_map(|(protocol, querier)| {
                let labels = vec![("interface", interface.name.clone()), ("protocol", protocol.to_owned())];
                Some((labels, value(querier.as_ref()?)))
            })
            .collect()
    };
    figures.interfaces.iter().flat_map(of_interface).collect()
}

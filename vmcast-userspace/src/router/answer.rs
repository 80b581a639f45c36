//! Answers to the operator.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_api as api;
use vmcast_common::{
    fib::{
        Conversion, ConversionId, IfIndex, Input, NextHop, NextHopId, Output, Priority, Rpf, Stream, Tunnel,
        TunnelId, TunnelKind, Way,
    },
    verdict::DropReason,
};
use vmcast_dataplane::{Engine, EngineInfo, device, shares::RelayCuts};
use vmcast_proto::{
    Filter,
    membership::{self, Family},
};

use super::{
    changeover::Moves,
    interfaces::Unread,
    relays::{Relays, relay_tunnel},
    run::Router,
    shown::SILENT,
    stated::Static,
    upstream::State,
};
use crate::{
    clock,
    config::{PriorityRule, UpstreamFrom, VlanTag},
    daemon::resident_bytes,
    link::Attachment,
    mac,
};

/// Answers one question.
pub(super) fn answer(router: &Router, request: &api::Request) -> api::Response {
    let now = clock::now();
    match request {
        api::Request::Status => api::Response::Status(status(router, now)),
        api::Request::GroupList { group, source, page } => {
            api::Response::Groups(groups(router, (*group, *source), page, now))
        }
        api::Request::MemberList { group, page } => {
            api::Response::Members(members(router, *group, page, now))
        }
        api::Request::TunnelList { page } => api::Response::Tunnels(tunnels(router, page, now)),
        api::Request::SourceList { page } => {
            let discovery = router.core.relays.as_deref().map(|relays| &relays.discovery);
            api::Response::Sources(crate::relays::sources(discovery, page, now, |number| {
                relay_tunnel(number).0
            }))
        }
        api::Request::InterfaceList => api::Response::Interfaces(interfaces(router)),
        api::Request::Stats => api::Response::Stats(stats(router, now)),
        api::Request::NodeList { .. }
        | api::Request::NodeDrain { .. }
        | api::Request::CacheList { .. }
        | api::Request::TokenCreate { .. }
        | api::Request::TokenList { .. }
        | api::Request::TokenRevoke { .. }
        | api::Request::NodeRevoke { .. }
        | api::Request::NodeSign { .. }
        | api::Request::PolicyList
        | api::Request::PolicyAdd { .. }
        | api::Request::PolicyRemove { .. }
        | api::Request::PolicyDefault { .. }
        | api::Request::PolicyTest { .. } => api::Response::not_this_role(api::Role::Router, request),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Refusals in a status.
const MOST_REFUSED: usize = 100;

fn status(router: &Router, now: Instant) -> api::Status {
    let groups = router.core.mrib.groups();
    let (mut count, mut members) = (0, 0);
    for group in groups {
        count += 1;
        members += group.members as u64;
    }
    let upstreams = router.core.upstreams().count() as u64;
    api::Status {
        rank: Some(router.config.rank),
        engine: Some(engine(router)),
        admin: router.attachment.as_ref().map(Attachment::admin_link),
        upstream: upstream(router, now),
        groups: count,
        members,
        tunnels: u64::from(router.core.relay.tunnel_count())
            + router.core.stated.tunnels().len() as u64
            + upstreams,
        policy_version: Some(router.core.policed.policy().version),
        refused: refused(router),
        interfaces_refused: router
            .not_taken
            .interfaces()
            .take(MOST_REFUSED)
            .map(|(ifindex, reason)| (interface_name(router, ifindex), reason.to_owned()))
            .collect(),
        ..router.process.status()
    }
}

/// What the upstream refuses; of the joins that the policy refuses here as many as a person reads, and the sources.
fn refused(router: &Router) -> Vec<api::Refused> {
    let policed = &router.core.policed;
    let joins = policed.refused().map(|(_, group, refused)| api::Refused {
        group,
        who: refused.who,
        reason: refused.reason.to_string(),
    });
    let sources = router.core.mrib.refused().filter_map(|stream| {
        let reason = policed.policy().send(stream.source?, stream.group).err()?;
        Some(api::Refused { group: stream.group, who: stream.source, reason: reason.to_string() })
    });
    let above = router.core.refused_above().iter();
    let above =
        above.map(|(group, reason)| api::Refused { group: *group, who: None, reason: reason.clone() });
    above.chain(joins).chain(sources).take(MOST_REFUSED).collect()
}

fn engine(router: &Router) -> api::Engine {
    shown_engine(router.plane.engine())
}

fn shown_engine(EngineInfo { engine, reason }: EngineInfo) -> api::Engine {
    api::Engine { label: engine.label().to_owned(), reason }
}

fn upstream(router: &Router, now: Instant) -> Option<api::Upstream> {
    let from = match router.config.upstream.from {
        UpstreamFrom::None => return None,
        from => from.label(),
    };
    let upstream = router.core.upstream.as_ref();
    let state = match upstream.map(|upstream| upstream.state) {
        None => api::UpstreamState::Finding,
        Some(State::Waiting) => api::UpstreamState::Idle,
        Some(State::Up) => api::UpstreamState::Up,
        Some(State::Down) => api::UpstreamState::Down,
    };
    Some(api::Upstream {
        remote: upstream.map(|upstream| upstream.relay.unwrap_or(upstream.named)),
        name: router.upstream_named.as_ref().and_then(|named| named.name.clone()),
        from: from.to_owned(),
        state,
        age_ms: upstream.map_or(0, |upstream| millis(now.saturating_duration_since(upstream.since))),
        stands_in: router.upstream_named.as_ref().and_then(|named| named.stands_in),
    })
}

/// All streams, or those of one group or one source.
fn groups(
    router: &Router,
    (group, source): (Option<IpAddr>, Option<IpAddr>),
    page: &api::Page,
    now: Instant,
) -> api::Groups {
    let mrib = &router.core.mrib;
    let all = group.is_none().then(|| mrib.groups().map(|info| info.group));
    let streams = group.into_iter().chain(all.into_iter().flatten()).flat_map(|group| mrib.streams(group));
    let asked = streams.filter(|info| source.is_none() || source == info.stream.source);
    let (groups, next) = page.cut(asked, |info| {
        let shown = router.shown.streams.get(&info.stream).cloned().unwrap_or_default();
        let silence = shown.last.map(|last| now.saturating_duration_since(last));
        let state = match silence {
            _ if info.members == 0 => api::GroupState::NoMember,
            None => api::GroupState::Waiting,
            Some(silence) if silence < SILENT => api::GroupState::Forwarding,
            Some(_) => api::GroupState::Silent,
        };
        api::Group {
            group: info.stream.group,
            source: info.stream.source,
            rpf: match info.rpf {
                Rpf::Exact(Input::Interface(ifindex)) => Some(interface_place(router, ifindex)),
                Rpf::Exact(Input::Tunnel(id)) => Some(tunnel_place(router, id)),
                Rpf::AnyUpstream => unicast_place(router, info.stream),
            },
            members: info.members as u64,
            packets: shown.packets,
            bytes: shown.bytes,
            drops: by_label(&shown.drops),
            bits_per_second: shown.rate,
            last_packet_ms: silence.map(millis),
            state,
            priority: priority(router.core.priorities.of(&info.stream)),
            refused: router.core.refused_above().get(&info.stream.group).cloned(),
            taken: taken(router, info.stream.group, info.rpf),
        }
    });
    api::Groups { next, groups }
}

/// Where packets of a group are taken in that come natively: by the one interface that they are accepted from, or by one
/// where they are shared with this host.
fn taken(router: &Router, group: IpAddr, rpf: Rpf) -> Option<api::Taken> {
    let take = |ifindex| {
        let (hook, why) = router.plane.intake(&router.core.interfaces.get(&ifindex)?.interface, group)?;
        let reason = why.map(|why| format!("on {} {why}", interface_name(router, ifindex)));
        Some(api::Taken { at: hook.label().to_owned(), reason })
    };
    match rpf {
        Rpf::Exact(Input::Interface(ifindex)) => take(ifindex),
        Rpf::Exact(Input::Tunnel(_)) => None,
        Rpf::AnyUpstream => router
            .core
            .interfaces
            .keys()
            .filter_map(|ifindex| take(*ifindex))
            .find(|taken| taken.reason.is_some()),
    }
}

/// Counts by the labels of their reasons.
fn by_label(drops: &BTreeMap<DropReason, u64>) -> BTreeMap<String, u64> {
    drops.iter().map(|(reason, count)| (reason.label().to_owned(), *count)).collect()
}

fn priority(Priority { dscp, pcp, skb_priority, queue, at_tc }: Priority) -> Option<api::Priority> {
    let shown = api::Priority { dscp, pcp, skb_priority, queue, at_tc };
    (shown != api::Priority::default()).then_some(shown)
}

fn members(router: &Router, group: Option<IpAddr>, page: &api::Page, now: Instant) -> api::Members {
    let wanted = router.core.mrib.groups().filter(|info| group.is_none_or(|group| group == info.group));
    let all = wanted.flat_map(|info| router.core.mrib.members_of(info.group));
    let waiting = router.core.mrib.waiting().filter(|info| group.is_none_or(|group| group == info.group));
    let all = all.chain(waiting);
    let readings = router.shown.readings(router.plane.as_ref());
    let (members, next) = page.cut(all, |info| {
        let joined = router.shown.joined(info.group, info.member, &info.filter, &readings);
        let sent = joined.map(|joined| joined.sent).unwrap_or_default();
        let dropped = joined.map(|joined| joined.dropped).unwrap_or_default();
        let hosts = match info.member {
            Output::Interface(ifindex) => tracked_hosts(router, ifindex, info.group, now),
            Output::Neighbour(_) | Output::Tunnel(_) | Output::Converted(_) => Vec::new(),
        };
        api::Member {
            group: info.group,
            source: None,
            output: match info.member {
                Output::Interface(ifindex) => interface_place(router, ifindex),
                Output::Neighbour(id) => neighbour_place(router, id),
                Output::Tunnel(id) => tunnel_place(router, id),
                Output::Converted(id) => conversion_place(router, id),
            },
            filter: filter(&info.filter),
            configured: info.is_stated,
            waits: info.waits,
            refused: router.core.refused_above().get(&info.group).cloned(),
            age_ms: joined.map_or(0, |joined| millis(now.saturating_duration_since(joined.at))),
            packets: sent.packets,
            bytes: sent.bytes,
            dropped: dropped.packets,
            tracked_hosts: hosts.len() as u64,
            hosts: hosts.iter().take(api::MAX_HOSTS).map(shown_host).collect(),
        }
    });
    api::Members { next, members }
}

/// The hosts on an interface that are known to be in a group.
fn tracked_hosts(
    router: &Router,
    ifindex: IfIndex,
    group: IpAddr,
    now: Instant,
) -> Vec<membership::HostInfo> {
    let state = router.core.interfaces.get(&ifindex);
    let querier = state.and_then(|state| state.queriers.get(&Family::of(group)));
    querier.map_or_else(Vec::new, |querier| querier.hosts(now, group))
}

fn shown_host(info: &membership::HostInfo) -> api::MemberHost {
    let (filter, expires_ms) = (filter(&info.filter), millis(info.expires));
    api::MemberHost { address: info.host, mac: info.link.map(mac::text), filter, expires_ms }
}

fn filter(filter: &Filter) -> api::Filter {
    match filter {
        Filter::Include(sources) => {
            api::Filter { mode: api::FilterMode::Include, sources: sources.iter().copied().collect() }
        }
        Filter::Exclude(sources) => {
            api::Filter { mode: api::FilterMode::Exclude, sources: sources.iter().copied().collect() }
        }
    }
}

fn interface_place(router: &Router, ifindex: IfIndex) -> api::Place {
    let name = interface_name(router, ifindex);
    api::Place::Interface { name }
}

fn interface_name(router: &Router, ifindex: IfIndex) -> String {
    match router.interfaces.get(&ifindex) {
        Some(attached) => attached.name.clone(),
        None => format!("#{}", ifindex.0),
    }
}

/// Name of the interface that a next hop leads out of, which is one of its device's links.
fn way_name(router: &Router, hop: &NextHop) -> String {
    let interfaces = router.core.interfaces.values().map(|state| state.interface);
    let known = interfaces.into_iter().find(|known| known.device == hop.ifindex && known.link == hop.link);
    interface_name(router, known.map_or(hop.ifindex, |known| known.ifindex))
}

fn neighbour_place(router: &Router, id: NextHopId) -> api::Place {
    match router.core.next_hops.get(&id) {
        Some(hop) => api::Place::Neighbour {
            interface: way_name(router, hop),
            mac: hop.destination_mac.map(mac::text),
        },
        None => api::Place::Unknown,
    }
}

fn conversion_place(router: &Router, id: ConversionId) -> api::Place {
    let Some(Conversion { source, destination, way }) = router.core.stated.conversions().get(&id) else {
        return api::Place::Unknown;
    };
    let hop = match way {
        Way::Interface(_) | Way::NextHop(None) => None,
        Way::NextHop(Some(id)) => router.core.next_hops.get(id),
    };
    api::Place::Conversion {
        id: id.0,
        destination: *destination,
        source: *source,
        interface: match way {
            Way::Interface(ifindex) => Some(interface_name(router, *ifindex)),
            Way::NextHop(_) => hop.map(|hop| way_name(router, hop)),
        },
        mac: hop.and_then(|hop| hop.destination_mac).map(mac::text),
    }
}

/// Where a stream comes in by unicast, if it does.
fn unicast_place(router: &Router, stream: Stream) -> Option<api::Place> {
    let endpoint = router.core.stated.unicast_input(stream)?;
    let open = router.core.unicast_inputs.contains_key(&endpoint);
    Some(api::Place::Unicast { endpoint, open })
}

fn tunnel_place(router: &Router, id: TunnelId) -> api::Place {
    if let Some(known) = router.core.stated.tunnel(id) {
        let (name, Tunnel { local, remote, .. }) = (Some(known.name.clone()), known.tunnel);
        return api::Place::Tunnel { id: id.0, name, local, remote };
    }
    let of_relay = |relays: &Relays| relays.tunnels().find(|(of, _)| *of == id).map(|(_, tunnel)| tunnel);
    if let Some(Tunnel { local, remote, .. }) = router.core.relays.as_deref().and_then(of_relay) {
        return api::Place::Tunnel { id: id.0, name: None, local, remote };
    }
    let upstream = router.core.upstreams().find(|upstream| upstream.id == id);
    let ends: Option<(SocketAddr, SocketAddr)> = match upstream {
        Some(upstream) => Some((upstream.local, upstream.relay.unwrap_or(upstream.named))),
        None => router.core.relay.ends(id.0).map(|(local, remote, _)| (local, remote)),
    };
    match ends {
        Some((local, remote)) => api::Place::Tunnel { id: id.0, name: None, local, remote },
        None => api::Place::Unknown,
    }
}

fn tunnels(router: &Router, page: &api::Page, now: Instant) -> api::Tunnels {
    let upstream = router.core.upstreams().map(|upstream| api::Tunnel {
        id: upstream.id.0,
        name: None,
        key: None,
        kind: api::TunnelKind::Amt,
        local: upstream.local,
        remote: upstream.relay.unwrap_or(upstream.named),
        direction: api::Direction::Upstream,
        next_hop: None,
        age_ms: millis(now.saturating_duration_since(upstream.since)),
        groups: router.core.of_upstream().iter().filter(|(_, filter)| !filter.is_none()).count() as u64,
    });
    let relays =
        router.core.relays.iter().flat_map(|relays| relays.shown()).map(|(info, local)| api::Tunnel {
            id: relay_tunnel(info.tunnel).0,
            name: None,
            key: None,
            kind: api::TunnelKind::Amt,
            local,
            remote: info.remote,
            direction: api::Direction::Upstream,
            next_hop: None,
            age_ms: millis(now.saturating_duration_since(info.since)),
            groups: info.groups as u64,
        });
    let members = router.core.relay.tunnels().map(|info| {
        let next_hop = router.core.tunnels.next_hop(info.remote.ip());
        api::Tunnel {
            id: info.id,
            name: None,
            key: None,
            kind: api::TunnelKind::Amt,
            local: info.local,
            remote: info.remote,
            direction: api::Direction::Member,
            next_hop: next_hop.and_then(|id| shown_next_hop(router, id)),
            age_ms: millis(now.saturating_duration_since(info.since)),
            groups: info.groups.len() as u64,
        }
    });
    let stated = router.core.stated.tunnels().iter().map(|known| static_tunnel(router, known, now));
    let (tunnels, next) = page.cut(upstream.chain(relays).chain(stated).chain(members), |tunnel| tunnel);
    api::Tunnels { next, tunnels }
}

fn static_tunnel(router: &Router, known: &Static, now: Instant) -> api::Tunnel {
    let Tunnel { kind, local, remote, next_hop, .. } = known.tunnel;
    let (kind, key) = match kind {
        TunnelKind::Amt => (api::TunnelKind::Amt, None),
        TunnelKind::Gre(key) => (api::TunnelKind::Gre, key),
        TunnelKind::Ipip => (api::TunnelKind::Ipip, None),
    };
    api::Tunnel {
        id: known.id.0,
        name: Some(known.name.clone()),
        kind,
        key,
        local,
        remote,
        direction: api::Direction::Static,
        next_hop: next_hop.and_then(|id| shown_next_hop(router, id)),
        age_ms: millis(now.saturating_duration_since(known.since)),
        groups: router.core.stated.groups_of(known.id) as u64,
    }
}

fn shown_next_hop(router: &Router, id: NextHopId) -> Option<api::NextHop> {
    let hop = router.core.next_hops.get(&id)?;
    let state = match hop.destination_mac {
        Some(_) => api::NextHopState::Resolved,
        None => api::NextHopState::Unresolved,
    };
    Some(api::NextHop { interface: way_name(router, hop), mac: hop.destination_mac.map(mac::text), state })
}

fn interfaces(router: &Router) -> api::Interfaces {
    let named = router.config.interfaces.iter().filter(|table| !table.name.is_pattern());
    let named = named.map(|table| (table.name.as_str(), table));
    let of_patterns = router.interfaces.values().filter_map(|attached| {
        let table = router.config.interface_of(&attached.name)?;
        table.name.is_pattern().then_some((attached.name.as_str(), table))
    });
    let shown = named.chain(of_patterns).map(|(name, configured)| {
        let present = router.interfaces.iter().find(|(_, attached)| attached.name == name);
        let state = present.and_then(|(ifindex, _)| router.core.interfaces.get(ifindex));
        let hook = state.and_then(|state| router.plane.hook(state.interface.device));
        let egress = state.and_then(|state| router.plane.egress(state.interface.device));
        let beside_querier = configured.beside_querier;
        let querier = |family| {
            let querier = state?.queriers.get(&family)?;
            let own = Some(querier.config().address).filter(|address| !address.is_unspecified());
            Some(api::Querier {
                address: querier.querier().or(own),
                ours: querier.querier().is_none(),
                serving: querier.serves() || beside_querier,
                version: querier.config().version.number(family),
                groups: querier.groups(clock::now()).len() as u64,
            })
        };
        let place = state.map(|state| state.interface);
        let other = place.filter(|place| place.device != place.ifindex);
        let tags = place.into_iter().flat_map(|place| place.link.tags).flatten();
        api::Interface {
            name: name.to_owned(),
            ifindex: present.map(|(ifindex, _)| ifindex.0),
            device: other.map(|place| kernel_name(place.device)),
            vlan: tags.map(|tag| VlanTag(tag).to_string()).collect(),
            pppoe_session: place.and_then(|place| place.link.session),
            up: present.is_some_and(|(_, attached)| attached.link.up),
            mtu: present.map_or(0, |(_, attached)| attached.link.mtu),
            mac: present.and_then(|(_, attached)| attached.link.mac).map(mac::text),
            addresses: present.map_or_else(Vec::new, |(_, attached)| {
                attached.link.all_addresses().map(|(address, _)| address).collect()
            }),
            refused: present.and_then(|(ifindex, _)| router.not_taken.why(*ifindex)).map(str::to_owned),
            attached: hook.map(|hook| hook.label().to_owned()),
            queues: place.and_then(|place| queues(router, place.device)),
            egress: egress.map(shown_engine),
            accepts_sources: configured.takes_sources(),
            upstream: configured.upstream,
            querier: querier(Family::V4),
            mld_querier: querier(Family::V6),
        }
    });
    let mut interfaces: Vec<_> = shown.collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    api::Interfaces { interfaces }
}

/// Whether copies that leave by a device wait in queues as priorities say, if one does say so.
fn queues(router: &Router, device: IfIndex) -> Option<bool> {
    let rules = &router.config.priorities;
    let said = rules.iter().any(PriorityRule::needs_tc);
    let engine = router.plane.egress(device).filter(|_| said)?.engine;
    Some(match engine {
        Engine::TcClone => true,
        // A process has no say in the transmit queue.
        Engine::Software => rules.iter().all(|rule| rule.queue.is_none()),
        Engine::XdpBroadcast | Engine::Mixed | Engine::Recording => false,
    })
}

/// The kernel's name of an interface that need not be one of the configuration's.
fn kernel_name(ifindex: IfIndex) -> String {
    device::name_of(ifindex.0)
        .map_or_else(|| format!("#{}", ifindex.0), |name| name.to_string_lossy().into_owned())
}

fn stats(router: &Router, now: Instant) -> api::Stats {
    let mut streams: Vec<api::StreamStats> = router
        .shown
        .streams
        .iter()
        .map(|(stream, shown)| api::StreamStats {
            group: stream.group,
            source: stream.source,
            packets: shown.packets,
            bytes: shown.bytes,
            drops: by_label(&shown.drops),
            last_packet_ms: shown.last.map(|last| millis(now.saturating_duration_since(last))),
        })
        .collect();
    streams
        .sort_by(|a, b| b.packets.cmp(&a.packets).then(a.group.cmp(&b.group)).then(a.source.cmp(&b.source)));
    streams.truncate(api::MAX_PAGE as usize);
    api::Stats {
        engine: Some(engine(router)),
        drops: by_label(&router.shown.counters.drops),
        streams,
        control: control(router),
        resident_bytes: resident_bytes(),
    }
}

fn control(router: &Router) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut control: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    let mut count = |subsystem: &str, label: &str, value: u64| {
        *control.entry(subsystem.to_owned()).or_default().entry(label.to_owned()).or_default() += value;
    };
    for (label, value) in router.core.relay.counters().iter() {
        count("relay", label, value);
    }
    count("relay", "overrun", router.overrun());
    let RelayCuts { source, strangers } = router.relay_cuts();
    count("relay", "source_over_share", source);
    count("relay", "strangers_over_share", strangers);
    for (label, value) in router.core.policed.counters() {
        count("policy", label, value);
    }
    count("policy", "joins_refused_above", router.core.refused_above.told);
    for (label, value) in router.core.upstream.iter().flat_map(|upstream| upstream.counters()) {
        count("gateway", label, value);
    }
    if let Some(relays) = &router.core.relays {
        for (label, value) in relays.discovery.counters().iter() {
            count("amtrelay", label, value);
        }
        for (label, value) in relays.discovery.gateway_counters().iter() {
            count("amtrelay_gateways", label, value);
        }
    }
    count("gateway", "data_at_socket", router.core.data_at_socket);
    let Moves { between_packets, amid_packets, copies_amid, unwatched } = router.core.moves;
    count("gateway", "streams_moved", between_packets);
    count("gateway", "streams_moved_amid_packets", amid_packets);
    count("gateway", "copies_amid_moves", copies_amid);
    count("gateway", "streams_moved_unwatched", unwatched);
    for family in Family::ALL {
        let counters = router.core.querier_counters(family);
        let protocol = family.protocol();
        count(protocol, "queries_received", counters.queries_received);
        count(protocol, "older_queries_received", counters.older_queries_received);
        count(protocol, "newer_queries_received", counters.newer_queries_received);
        count(protocol, "reports_received", counters.reports_received);
        count(protocol, "leaves_received", counters.leaves_received);
        count(protocol, "queries_sent", counters.queries_sent);
        count(protocol, "queriers_missed", counters.queriers_missed);
        count(protocol, "handed_over", counters.handed_over);
        for (refusal, value) in counters.refusals() {
            count(protocol, refusal.label(), value);
        }
    }
    for family in Family::ALL {
        let bad = router.bad_datagrams.get(&family).copied().unwrap_or(0);
        count(family.protocol(), "bad_datagrams", bad);
        let Unread { overrun, thinned, strangers } = router.unread(family);
        count(family.protocol(), "overrun", overrun);
        count(family.protocol(), "thinned", thinned);
        count(family.protocol(), "strangers_over_share", strangers);
    }
    let mrib = router.core.mrib.counters();
    count("mrib", "new_source_wrong_input", mrib.wrong_input);
    count("mrib", "new_source_group_limit", mrib.group_limit);
    count("mrib", "new_source_total_limit", mrib.total_limit);
    count("mrib", "new_source_refused_limit", mrib.refused_limit);
    count("mrib", "any_source_closed", mrib.closed);
    count("mrib", "new_source_not_needed", mrib.not_needed);
    count("mrib", "streams_full", mrib.streams_full);
    count("mrib", "share_exceeded", mrib.share_exceeded);
    count("plane", "fragmented_copies", router.shown.counters.fragmented);
    count("plane", "reassembled", router.shown.counters.reassembled);
    count("plane", "waits_for_tables", router.shown.counters.waits_for_tables);
    count("router", "interfaces_refused", router.not_taken.interfaces_refused());
    count("router", "refused_changes", router.refused_changes);
    count("router", "packet_too_big_sent", router.too_big_sent);
    count("router", "unsent_datagrams", router.unsent);
    control
}

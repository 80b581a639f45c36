//! What the operator's commands are told.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_api::{
    AdminLink, Direction, Filter, FilterMode, Group, GroupState, Groups, Interface, Interfaces, Member,
    Members, Place, Querier, Refused, Request, Response, Role, Stats, Status, StreamStats, Tunnel,
    TunnelKind, Tunnels, Upstream, UpstreamState,
};
use vmcast_common::fib::IfIndex;
use vmcast_proto::{self as proto, amt::Discovery, membership::Family};

use super::core::{self, Core, Traffic};
use crate::{config::AgentConfig, daemon, relays};

/// A stream is silent after so long without a packet.
const SILENT: Duration = Duration::from_secs(5);
/// The number of the tunnel to the VMR.
const TUNNEL: u32 = 1;

/// Refusals in a status.
const MOST_REFUSED: usize = 100;

/// What the core does not know.
pub(super) struct Context<'a> {
    pub(super) config: &'a AgentConfig,
    pub(super) ifindex: IfIndex,
    /// Our end of the tunnel.
    pub(super) local: SocketAddr,
    /// Our end of a tunnel to the relay of a source.
    pub(super) local_of: &'a dyn Fn(u32) -> Option<SocketAddr>,
    pub(super) from: &'static str,
    pub(super) admin: Option<AdminLink>,
    pub(super) process: &'a daemon::Process,
    pub(super) now: Instant,
}

/// Answers one question.
pub(super) fn answer(core: &Core, context: &Context<'_>, request: &Request) -> Response {
    match request {
        Request::Status => Response::Status(status(core, context)),
        Request::GroupList { group, source, page } => {
            let is_asked = |(of, from): &(IpAddr, Option<IpAddr>)| {
                group.is_none_or(|group| group == *of) && (source.is_none() || source == from)
            };
            let (groups, next) = page.cut(streams(core).filter(is_asked), |(group, source)| {
                describe(core, context, group, source)
            });
            Response::Groups(Groups { groups, next })
        }
        Request::MemberList { group, page } => {
            let wanted = core.wanted().iter().filter(|(of, _)| group.is_none_or(|group| group == **of));
            let (members, next) = page.cut(wanted, |(of, wanted)| Member {
                group: *of,
                source: None,
                output: Place::Interface { name: context.config.interface.name.to_string() },
                filter: filter(&wanted.filter),
                configured: false,
                waits: false,
                refused: core.refused(*of).map(str::to_owned),
                age_ms: milliseconds(context.now, wanted.since),
                packets: of_group(core, *of).map(|(_, traffic)| traffic.packets).sum(),
                bytes: of_group(core, *of).map(|(_, traffic)| traffic.bytes).sum(),
                dropped: 0,
                tracked_hosts: 0,
                hosts: Vec::new(),
            });
            Response::Members(Members { members, next })
        }
        Request::TunnelList { page } => {
            let (tunnels, next) = page.cut(tunnels(core, context), |tunnel| tunnel);
            Response::Tunnels(Tunnels { tunnels, next })
        }
        Request::SourceList { page } => {
            Response::Sources(relays::sources(core.discovery(), page, context.now, relay_number))
        }
        Request::InterfaceList => {
            Response::Interfaces(Interfaces { interfaces: vec![interface(core, context)] })
        }
        Request::Stats => Response::Stats(stats(core, context.now)),
        Request::NodeList { .. }
        | Request::NodeDrain { .. }
        | Request::CacheList { .. }
        | Request::TokenCreate { .. }
        | Request::TokenList { .. }
        | Request::TokenRevoke { .. }
        | Request::NodeRevoke { .. }
        | Request::NodeSign { .. }
        | Request::PolicyList
        | Request::PolicyAdd { .. }
        | Request::PolicyRemove { .. }
        | Request::PolicyDefault { .. }
        | Request::PolicyTest { .. } => Response::not_this_role(Role::Agent, request),
    }
}

/// The number of a tunnel to the relay of a source: behind that to the VMR.
const fn relay_number(tunnel: u32) -> u32 {
    TUNNEL + 1 + tunnel
}

/// The tunnel to the VMR and those to relays of sources.
fn tunnels(core: &Core, context: &Context<'_>) -> impl Iterator<Item = Tunnel> {
    let tunnel = |id, local, remote, since, groups: usize| Tunnel {
        id,
        name: None,
        kind: TunnelKind::Amt,
        key: None,
        local,
        remote,
        direction: Direction::Upstream,
        next_hop: None,
        age_ms: milliseconds(context.now, since),
        groups: groups as u64,
    };
    let groups = core.of_vmr().len();
    let vmr = core
        .upstream()
        .map(|(candidate, since)| tunnel(TUNNEL, context.local, candidate.endpoint, since, groups));
    let relays = core.discovery().into_iter().flat_map(Discovery::tunnels).map(move |info| {
        let local = (context.local_of)(info.tunnel).unwrap_or(context.local);
        tunnel(relay_number(info.tunnel), local, info.remote, info.since, info.groups)
    });
    vmr.into_iter().chain(relays).collect::<Vec<_>>().into_iter()
}

/// The tunnel that a stream comes by.
fn tunnel_of(core: &Core, context: &Context<'_>, group: IpAddr, source: Option<IpAddr>) -> Option<Tunnel> {
    let route = |discovery: &Discovery| discovery.route(group, source?);
    let id = core.discovery().and_then(route).map_or(TUNNEL, relay_number);
    tunnels(core, context).find(|tunnel| tunnel.id == id)
}

/// The streams of a group, by source.
fn of_group(core: &Core, group: IpAddr) -> impl Iterator<Item = (IpAddr, &Traffic)> + '_ {
    let first = Family::of(group).unspecified();
    let streams = core.streams().range((group, first)..).take_while(move |((of, _), _)| *of == group);
    streams.map(|((_, source), traffic)| (*source, traffic))
}

/// Every stream that arrives, and every group that is wanted and has none.
fn streams(core: &Core) -> impl Iterator<Item = (IpAddr, Option<IpAddr>)> + '_ {
    core.wanted().keys().flat_map(|group| {
        let mut sources = of_group(core, *group).peekable();
        let none = sources.peek().is_none().then_some((*group, None));
        sources.map(|(source, _)| (*group, Some(source))).chain(none)
    })
}

fn describe(core: &Core, context: &Context<'_>, group: IpAddr, source: Option<IpAddr>) -> Group {
    let traffic = source.and_then(|source| core.streams().get(&(group, source)));
    let silence = traffic.map(|traffic| context.now.saturating_duration_since(traffic.last));
    Group {
        group,
        source,
        rpf: tunnel_of(core, context, group, source).map(|tunnel| Place::Tunnel {
            id: tunnel.id,
            name: None,
            local: tunnel.local,
            remote: tunnel.remote,
        }),
        members: 1,
        packets: traffic.map_or(0, |traffic| traffic.packets),
        bytes: traffic.map_or(0, |traffic| traffic.bytes),
        drops: BTreeMap::new(),
        bits_per_second: None,
        last_packet_ms: silence.map(|silence| silence.as_millis() as u64),
        state: match silence {
            None => GroupState::Waiting,
            Some(silence) if silence < SILENT => GroupState::Forwarding,
            Some(_) => GroupState::Silent,
        },
        priority: None,
        refused: core.refused(group).map(str::to_owned),
        taken: None,
    }
}

fn status(core: &Core, context: &Context<'_>) -> Status {
    let (state, since) = core.state();
    let upstream = core.upstream().map(|(candidate, _)| candidate);
    Status {
        admin: context.admin.clone(),
        upstream: Some(Upstream {
            remote: upstream.map(|candidate| candidate.endpoint),
            name: upstream.and_then(|candidate| candidate.name.clone()),
            from: context.from.to_owned(),
            state: match state {
                core::UpstreamState::Finding => UpstreamState::Finding,
                core::UpstreamState::Attaching => UpstreamState::Idle,
                core::UpstreamState::Up => UpstreamState::Up,
                core::UpstreamState::Down => UpstreamState::Down,
            },
            age_ms: milliseconds(context.now, since),
            stands_in: upstream.and_then(|candidate| candidate.stands_in),
        }),
        groups: core.wanted().len() as u64,
        members: core.wanted().len() as u64,
        tunnels: u64::from(state == core::UpstreamState::Up),
        refused: core.refused_groups().take(MOST_REFUSED).map(refused).collect(),
        ..context.process.status()
    }
}

fn refused((group, reason): (IpAddr, &str)) -> Refused {
    Refused { group, who: None, reason: reason.to_owned() }
}

fn interface(core: &Core, context: &Context<'_>) -> Interface {
    let config = &context.config.interface;
    Interface {
        name: config.name.to_string(),
        ifindex: Some(context.ifindex.0),
        device: None,
        vlan: Vec::new(),
        pppoe_session: None,
        up: true,
        mtu: config.mtu.into(),
        mac: None,
        addresses: vec![config.address.address.into()],
        attached: Some("tun".to_owned()),
        queues: None,
        egress: None,
        accepts_sources: false,
        upstream: false,
        refused: None,
        querier: Some(querier(core, context, Family::V4)),
        mld_querier: Some(querier(core, context, Family::V6)),
    }
}

fn querier(core: &Core, context: &Context<'_>, family: Family) -> Querier {
    let querier = core.querier(family);
    Querier {
        address: querier.querier(),
        ours: querier.querier().is_none(),
        serving: true,
        version: querier.config().version.number(family),
        groups: querier.groups(context.now).len() as u64,
    }
}

fn stats(core: &Core, now: Instant) -> Stats {
    let mut control: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for family in Family::ALL {
        let querier = core.querier(family).counters();
        let heard = [
            ("queries_sent", querier.queries_sent),
            ("queries_received", querier.queries_received),
            ("older_queries_received", querier.older_queries_received),
            ("newer_queries_received", querier.newer_queries_received),
            ("reports_received", querier.reports_received),
            ("leaves_received", querier.leaves_received),
        ];
        let refused = querier.refusals().map(|(reason, count)| (reason.label(), count));
        control.insert(family.protocol().to_owned(), counters(heard.into_iter().chain(refused)));
    }
    if let Some(gateway) = core.gateway_counters() {
        control.insert("amt_gateway".to_owned(), counters(gateway.iter()));
    }
    if let Some(discovery) = core.discovery() {
        control.insert("amtrelay".to_owned(), counters(discovery.counters().iter()));
        control.insert("amtrelay_gateways".to_owned(), counters(discovery.gateway_counters().iter()));
    }
    control.insert("policy".to_owned(), counters([("joins_refused", core.refusals_told())].into_iter()));
    let mut streams: Vec<_> = core
        .streams()
        .iter()
        .map(|((group, source), traffic)| StreamStats {
            group: *group,
            source: Some(*source),
            packets: traffic.packets,
            bytes: traffic.bytes,
            drops: BTreeMap::new(),
            last_packet_ms: Some(milliseconds(now, traffic.last)),
        })
        .collect();
    streams.sort_by_key(|stream| std::cmp::Reverse(stream.packets));
    streams.truncate(vmcast_api::MAX_PAGE as usize);
    Stats {
        engine: None,
        drops: counters(core.drops().iter().map(|(reason, count)| (reason.label(), count))),
        streams,
        control,
        resident_bytes: daemon::resident_bytes(),
    }
}

fn counters(counters: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
    counters.map(|(label, count)| (label.to_owned(), count)).collect()
}

fn filter(filter: &proto::Filter) -> Filter {
    let (mode, sources) = match filter {
        proto::Filter::Include(sources) => (FilterMode::Include, sources),
        proto::Filter::Exclude(sources) => (FilterMode::Exclude, sources),
    };
    Filter { mode, sources: sources.iter().copied().collect() }
}

fn milliseconds(now: Instant, since: Instant) -> u64 {
    now.saturating_duration_since(since).as_millis() as u64
}

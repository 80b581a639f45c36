//! What a router does before it serves.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::sync::mpsc;
use vmcast_common::fib::FibOp;
use vmcast_dataplane::Fib;
use vmcast_proto::{amt::relay, host_state, membership::Family, mrib, record::Budget, registry};

use super::Event;
use crate::{
    clock,
    config::{RouterConfig, RouterInterface, UpstreamFrom},
    identity::NodeIdentity,
    link::{self, Attachment},
    netlink::{NextHopEvent, NextHops},
    router::{
        core::{Core, Effect, Settings},
        endpoints::{self, Reading, Relays},
        interfaces::Wanted,
        kept,
    },
};

/// What comes of the first state, before there is a plane.
#[derive(Default)]
pub(super) struct Beginning {
    pub(super) first: Vec<FibOp>,
    pub(super) rest: Vec<Effect>,
}

impl Beginning {
    pub(super) fn take(&mut self, core: &mut Core, next_hops: &NextHops) {
        while let Some(effect) = core.poll_effect() {
            match effect {
                Effect::Fib(op) => self.first.push(op),
                Effect::Watch(address) => next_hops.watch(address),
                Effect::Unwatch(address) => next_hops.unwatch(address),
                // Nothing has been counted yet.
                Effect::MembershipChanged { .. } => {}
                other @ (Effect::NoRoom { .. }
                | Effect::SendRelay { .. }
                | Effect::SendGateway { .. }
                | Effect::SendMembership { .. }
                | Effect::HostMembership { .. }
                | Effect::Tunnel { .. }
                | Effect::Relay(_)
                | Effect::UpstreamUp(_)
                | Effect::UpstreamDown { .. }
                | Effect::ChangedOver) => self.rest.push(other),
            }
        }
    }

    /// Waits until the ways to all who are stated are known.
    pub(super) async fn find_ways(
        &mut self,
        core: &mut Core,
        successors: &mut kept::Successors,
        next_hops: &NextHops,
        events: &mut mpsc::UnboundedReceiver<NextHopEvent>,
    ) {
        while core.awaits_ways() {
            let Some(event) = events.recv().await else {
                return;
            };
            if let NextHopEvent::Assign { destination, hop: Err(reason), .. } = event {
                tracing::warn!(%destination, %reason, "no way to a member");
            }
            note_next_hop(core, successors, event);
            self.take(core, next_hops);
        }
    }
}

/// Passes on what the kernel tells of the ways to members.
pub(super) fn note_next_hop(core: &mut Core, successors: &mut kept::Successors, event: NextHopEvent) {
    let now = clock::now();
    match event {
        NextHopEvent::Set { id, hop } => successors.set(core, now, id, hop),
        NextHopEvent::Assign { destination, hop, direct } => {
            core.assign_stated(now, destination, hop.ok(), direct);
            successors.assign(core, now, destination, hop.ok());
        }
        NextHopEvent::Removed { id } => successors.remove(core, id),
    }
}

/// Takes over what an earlier process left forwarding. Returns the socket towards its upstream, at
/// the same port as before, so that the upstream's data comes on without a pause.
pub(super) fn inherit(
    core: &mut Core,
    now: Instant,
    kept: &Fib,
    endpoints: &[SocketAddr],
    from: UpstreamFrom,
    events: &mpsc::Sender<Event>,
) -> Option<Reading> {
    let inheritance = kept::inherit(core, now, kept, endpoints);
    tracing::info!(
        tunnels = inheritance.tunnels,
        streams = inheritance.streams,
        upstream = ?inheritance.upstream,
        "taking over what an earlier process left forwarding"
    );
    let (local, remote) = inheritance.upstream?;
    if from == UpstreamFrom::None {
        return None;
    }
    match endpoints::open_gateway(local, events) {
        Ok(gateway) => {
            core.inherit_upstream(now, local, remote);
            Some(gateway)
        }
        Err(error) => {
            tracing::warn!(%local, "the upstream's tunnel cannot be taken over: {error:#}");
            None
        }
    }
}

/// Our addresses that take tunnels.
pub(super) fn relay_addresses(config: &RouterConfig, wanted: &[Wanted]) -> Vec<IpAddr> {
    if !config.tunnel.address.is_empty() {
        return config.tunnel.address.clone();
    }
    let first_of_each = |wanted: &Wanted| {
        let Wanted { link, .. } = wanted;
        [link.address().map(IpAddr::V4), link.address_v6().map(IpAddr::V6)]
    };
    wanted.iter().flat_map(first_of_each).flatten().collect()
}

/// The first endpoints; that none can be had at a given address is for the operator to mend.
pub(super) fn bind_relays(
    mut relays: Relays,
    addresses: &[IpAddr],
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<Relays> {
    match relays.follow(addresses, events).refused.pop() {
        None => Ok(relays),
        Some((local, error)) => Err(error).with_context(|| {
            format!("taking tunnels at {local}: is the address this host's, and the port free?")
        }),
    }
}

pub(super) fn settings(config: &RouterConfig, addresses: &[IpAddr], seed: [u8; 16]) -> Settings {
    let relay::Times { query_interval, query_response_interval, robustness } =
        config.tunnel_times(Family::V4);
    let first_v4 = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let defaults = relay::Config::new(seed);
    let secret_lifetime = config.tunnel.secret_lifetime_seconds.map(|lifetime| lifetime.duration());
    let relay = relay::Config {
        secret_lifetime: secret_lifetime.unwrap_or(defaults.secret_lifetime),
        secret_age: Duration::from_millis(clock::unix_millis()),
        discovery: config.tunnel.discovery.clone(),
        query_source: first_v4.unwrap_or(Ipv4Addr::UNSPECIFIED),
        query_interval,
        query_response_interval,
        robustness,
        mld: Some(config.tunnel_times(Family::V6)),
        unreachable_ignored: config.tunnel.unreachable_ignored,
        max_tunnels: config.tunnel.max_tunnels,
        max_tunnels_per_source: config.tunnel.max_tunnels_per_address,
        max_tunnels_per_prefix: config.tunnel.max_tunnels_per_prefix,
        answers_per_second: config.tunnel.answers_per_second,
        answers_per_prefix_per_second: config.tunnel.answers_per_prefix_per_second,
        limits: host_state::Limits {
            groups: config.tunnel.max_groups_per_tunnel as usize,
            ..host_state::Limits::default()
        },
        ..defaults
    };
    let record = config.record.directory.as_ref().map(|_| Budget::new(config.record.bytes()));
    let relays = config.amtrelay.discovery(seed);
    let mrib = mrib::Config {
        groups_up: config.above().and_then(RouterInterface::allowed_groups),
        ..mrib::Config::with_streams(config.dataplane.max_streams as usize)
    };
    let discover = config.upstream.discovers(None);
    Settings { relay, mrib, discover, relays, seed, record }
}

/// Registers at the admin, if there is one.
pub(super) fn attach(
    config: &RouterConfig,
    endpoints: &[SocketAddr],
    about: registry::About,
    seed: [u8; 16],
    identity: Option<Arc<NodeIdentity>>,
) -> anyhow::Result<Option<Attachment>> {
    if config.admin.urls.is_empty() {
        return Ok(None);
    }
    let [a, b, c, d, e, f, g, h, ..] = seed;
    let registration = registry::Registration {
        id: config.node_id().as_str().parse()?,
        role: registry::Role::Vmr { rank: config.rank },
        endpoints: endpoints.to_vec(),
        name: config.name.as_str().parse()?,
        software: concat!("vmcast ", env!("CARGO_PKG_VERSION")).parse()?,
        about,
    };
    let settings = link::Settings {
        admins: config.admin.urls.iter().map(|url| url.as_str().to_owned()).collect(),
        registration,
        requery: link::Settings::REQUERY,
        local: None,
        probe: vmcast_proto::nearest::Config::default(),
        seed: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        identity,
    };
    Ok(Some(link::attach(settings)?))
}

#[cfg(test)]
mod tests {
    use vmcast_proto::membership::AddressRange;

    use super::*;

    // proves A7: each limit of the file is that of the machine
    #[test]
    fn every_key_of_the_file_reaches_the_machines() {
        let text = "rank = 0\n[tunnel]\ndiscovery = [\"192.52.193.1\"]\nmax_tunnels = 11\n\
                    max_tunnels_per_address = 12\nmax_tunnels_per_prefix = 13\nmax_groups_per_tunnel = 14\n\
                    answers_per_second = 15\nanswers_per_prefix_per_second = 16\nunreachable_ignored = 17\n\
                    secret_lifetime_seconds = 600\n[dataplane]\nmax_streams = 2000\n\
                    [igmp]\nrobustness_variable = 3\nquery_interval_seconds = 18\n\
                    query_response_interval_seconds = 4\n[mld]\nrobustness_variable = 4\n\
                    query_interval_seconds = 60\nquery_response_interval_seconds = 5\n[[interface]]\nname = \"a\"\nupstream = true\n\
                    groups = [\"239.1.0.0/16\"]\n";
        let (config, _) = crate::config::parse::<RouterConfig>(std::path::Path::new("t.toml"), text).unwrap();
        let addresses = ["2001:db8::1", "192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap());
        let Settings { relay, mrib, discover, relays, seed, record } = settings(&config, &addresses, [7; 16]);
        let expected = relay::Config {
            discovery: vec![Ipv4Addr::new(192, 52, 193, 1).into()],
            secret_age: relay.secret_age,
            query_source: Ipv4Addr::new(192, 0, 2, 1),
            query_interval: Duration::from_secs(18),
            query_response_interval: Duration::from_secs(4),
            robustness: 3,
            mld: Some(relay::Times {
                query_interval: Duration::from_secs(60),
                query_response_interval: Duration::from_secs(5),
                robustness: 4,
            }),
            max_tunnels: 11,
            max_tunnels_per_source: 12,
            max_tunnels_per_prefix: 13,
            limits: host_state::Limits { groups: 14, ..host_state::Limits::default() },
            answers_per_second: 15,
            answers_per_prefix_per_second: 16,
            unreachable_ignored: 17,
            secret_lifetime: Duration::from_secs(600),
            ..relay::Config::new([7; 16])
        };
        assert_eq!(relay, expected);
        let range = AddressRange { address: Ipv4Addr::new(239, 1, 0, 0).into(), prefix: 16 };
        let expected = mrib::Config { groups_up: Some(vec![range]), ..mrib::Config::with_streams(2000) };
        assert_eq!(mrib, expected);
        assert_eq!((discover, relays.is_none(), seed, record.is_none()), (false, true, [7; 16], true));
    }
}

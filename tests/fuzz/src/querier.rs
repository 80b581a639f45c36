use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use vmcast_proto::{
    Filter, Machine,
    membership::{Config, Event, Family, ImmediateLeave, Input, Output, Querier, Version},
};
use vmcast_wire::{igmp, mld};

use crate::{script::start, seal, seal_icmpv6};

const MAX_GROUPS: usize = 4;
const MAX_SOURCES: usize = 6;
/// Sources of all groups, but for the first of each.
const MAX_LISTED: usize = 9;
const MAX_TRACKED: usize = 5;

/// A host or router of the link.
const fn neighbour(family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last as u16)),
    }
}

/// The querier under a script: the first byte configures it, each step is a message with a checksum
/// that fits, a change of address, or time.
pub fn querier(data: &[u8]) {
    let Some((&settings, mut script)) = data.split_first() else { return };
    let family = if settings & 8 == 0 { Family::V4 } else { Family::V6 };
    let config = Config {
        address: neighbour(family, 10),
        version: if settings & 1 == 0 { Version::V3 } else { Version::V2 },
        immediate_leave: match (settings >> 4) % 3 {
            0 => ImmediateLeave::Never,
            1 => ImmediateLeave::Tracked,
            _ => ImmediateLeave::SingleHost,
        },
        require_router_alert: settings & 4 != 0,
        max_groups: MAX_GROUPS,
        max_sources_per_group: MAX_SOURCES,
        max_sources: MAX_LISTED,
        max_tracked: MAX_TRACKED,
        max_groups_per_host: (settings & 2 != 0).then_some(2),
        ..Config::new(family)
    };
    let mut now = start();
    let mut querier = Querier::new(now, config).expect("a configuration that works");
    let mut forwarded = BTreeMap::new();
    while let [step, argument, rest @ ..] = script {
        script = rest;
        match step % 8 {
            0 => now += Duration::from_millis(10) * u32::from(*argument),
            1 => now += Duration::from_secs(2) * u32::from(*argument),
            2 => {
                querier.handle_input(now, Input::SetAddress(neighbour(family, *argument)));
            }
            _ => {
                let (payload, rest) = rest.split_at(rest.len().min(usize::from(*argument)));
                script = rest;
                let mut payload = payload.to_vec();
                querier.handle_input(now, datagram(family, *step, &mut payload));
            }
        }
        querier.handle_timeout(now);
        assert!(querier.poll_timeout().is_some_and(|next| next > now), "some query is always ahead");
        drain(&mut querier, &mut forwarded);
        assert!(querier.groups(now).len() <= MAX_GROUPS);
        for info in querier.groups(now) {
            assert!(info.sources.len() <= MAX_SOURCES);
            assert_eq!(forwarded.get(&info.group), Some(&querier.filter(info.group)));
        }
        let listed = querier.groups(now).map(|info| info.sources.len().saturating_sub(1));
        assert!(listed.sum::<usize>() <= MAX_LISTED);
        assert_eq!(forwarded.len(), querier.groups(now).len());
        assert!(querier.groups(now).map(|info| info.hosts.len()).sum::<usize>() <= MAX_TRACKED);
    }
}

/// A message as the link could deliver it; what a report says decides where it should have gone.
fn datagram(family: Family, step: u8, payload: &mut [u8]) -> Input<'_> {
    let source = neighbour(family, step / 16);
    let (group, all_routers): (IpAddr, IpAddr) = match family {
        Family::V4 => {
            let group = payload.get(4..8).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            (group.map_or(family.unspecified(), IpAddr::from), igmp::ALL_IGMPV3_ROUTERS.into())
        }
        Family::V6 => {
            let group = payload.get(8..24).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
            (group.map_or(family.unspecified(), IpAddr::from), mld::ALL_MLDV2_ROUTERS.into())
        }
    };
    let destination = if step & 8 == 0 { all_routers } else { group };
    match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => seal_icmpv6(source, destination, payload),
        _ => seal(payload, 2),
    }
    Input::Datagram {
        source,
        link_source: Some([2, 0, 0, 0, 0, step & 1]),
        link_unicast: step & 6 == 6,
        stranger: step & 34 == 34,
        destination,
        ttl: 1,
        router_alert: step & 16 == 0 || family == Family::V6,
        payload,
    }
}

/// Takes every output: queries can be read, events are changes.
fn drain(querier: &mut Querier, forwarded: &mut BTreeMap<IpAddr, Filter>) {
    while let Some(output) = querier.poll_output() {
        match output {
            Output::Transmit { source, destination, payload } => {
                assert!(destination.is_multicast());
                let read = match (source, destination) {
                    (IpAddr::V6(source), IpAddr::V6(destination)) => {
                        mld::Message::parse(source, destination, &payload).is_ok()
                    }
                    _ => igmp::Message::parse(&payload).is_ok(),
                };
                assert!(read, "what is sent can be read");
            }
            Output::Event(Event::Membership { group, filter }) => {
                let before = if filter.is_none() {
                    forwarded.remove(&group)
                } else {
                    forwarded.insert(group, filter.clone())
                };
                assert_ne!(before.unwrap_or_default(), filter, "an event that changes nothing");
            }
            Output::Event(Event::OtherVersion { router: _, version }) => {
                assert_ne!(version, querier.config().version);
            }
            Output::Event(Event::Serving { serving }) => {
                assert_eq!(serving, querier.serves());
                assert!(serving || querier.querier().is_some(), "members are left to somebody");
            }
            Output::Event(Event::QuerierNotAllowed { router }) => {
                assert_ne!(querier.querier(), Some(router));
            }
            Output::Event(Event::QuerierChanged { querier: elected }) => {
                assert_ne!(elected, Some(querier.config().address), "we are told of others only");
            }
        }
    }
}

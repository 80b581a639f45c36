use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use vmcast_proto::{
    Filter, Machine,
    membership::{Config, Event, Input, Output, Querier, Version},
};
use vmcast_wire::igmp::Message;

use crate::{script::start, seal};

const MAX_GROUPS: usize = 4;
const MAX_SOURCES: usize = 6;
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

/// The IGMP querier under a script: the first byte configures it, each step is a message with a
/// checksum that fits, a change of address, or time.
pub fn querier(data: &[u8]) {
    let Some((&settings, mut script)) = data.split_first() else { return };
    let config = Config {
        address: ADDRESS,
        version: if settings & 1 == 0 { Version::V3 } else { Version::V2 },
        immediate_leave: settings & 2 != 0,
        require_router_alert: settings & 4 != 0,
        max_groups: MAX_GROUPS,
        max_sources_per_group: MAX_SOURCES,
        ..Config::default()
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
                let [a, b, c, _] = ADDRESS.octets();
                querier.handle_input(now, Input::SetAddress(Ipv4Addr::new(a, b, c, *argument)));
            }
            _ => {
                let (payload, rest) = rest.split_at(rest.len().min(usize::from(*argument)));
                script = rest;
                let mut payload = payload.to_vec();
                seal(&mut payload, 2);
                querier.handle_input(now, datagram(*step, &payload));
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
        assert_eq!(forwarded.len(), querier.groups(now).len());
    }
}

/// A message as the link could deliver it; what a report says decides where it should have gone.
fn datagram(step: u8, payload: &[u8]) -> Input<'_> {
    let group = payload.get(4..8).map_or(Ipv4Addr::UNSPECIFIED, |b| Ipv4Addr::new(b[0], b[1], b[2], b[3]));
    let all_routers = Ipv4Addr::new(224, 0, 0, 22);
    Input::Datagram {
        source: Ipv4Addr::new(192, 0, 2, step / 16),
        destination: if step & 8 == 0 { all_routers } else { group },
        ttl: 1,
        router_alert: step & 16 == 0,
        payload,
    }
}

/// Takes every output: queries can be read, events are changes.
fn drain(querier: &mut Querier, forwarded: &mut BTreeMap<Ipv4Addr, Filter>) {
    while let Some(output) = querier.poll_output() {
        match output {
            Output::Transmit { destination, payload } => {
                assert!(destination.is_multicast());
                Message::parse(&payload).expect("what is sent can be read");
            }
            Output::Event(Event::Membership { group, filter }) => {
                let before = if filter.is_none() {
                    forwarded.remove(&group)
                } else {
                    forwarded.insert(group, filter.clone())
                };
                assert_ne!(before.unwrap_or_default(), filter, "an event that changes nothing");
            }
            Output::Event(Event::QuerierChanged { querier: elected }) => {
                assert_ne!(elected, Some(querier.config().address), "we are told of others only");
            }
        }
    }
}

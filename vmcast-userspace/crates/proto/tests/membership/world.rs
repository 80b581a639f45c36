//! The link and who is on it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_proto::{
    Filter, Machine as _,
    membership::{Config, Event, Family, ImmediateLeave, Input, Output, Querier, Version},
};
use vmcast_sim::{Link, Network, epoch};
use vmcast_wire::{igmp, membership::Message, mld};

use crate::host::{Host, Said};

/// A router, and how often each group had lost its last member.
struct Router {
    querier: Querier,
    alive: bool,
    lost: BTreeMap<IpAddr, u32>,
}

pub(crate) struct World {
    family: Family,
    network: Network,
    routers: [Router; 2],
    hosts: Vec<Host>,
}

/// Groups and sources per group that a router keeps at most.
const LIMITS: (usize, usize) = (8, 6);

impl World {
    pub(crate) fn new(family: Family, seed: u64, link: Link) -> Self {
        Self::with(family, seed, link, ImmediateLeave::Never)
    }

    /// One whose routers act so when a host leaves.
    pub(crate) fn with(family: Family, seed: u64, link: Link, immediate_leave: ImmediateLeave) -> Self {
        let config = |number| Config { immediate_leave, ..config(family, number) };
        let routers = [0, 1].map(|number| Router {
            querier: Querier::new(epoch(), config(number)).expect("a good configuration"),
            alive: true,
            lost: BTreeMap::new(),
        });
        let hosts = (0..4).map(|number| Host::new(seed * 16 + number)).collect();
        let mut world = Self { family, network: Network::new(seed, link), routers, hosts };
        world.transmit();
        world
    }

    pub(crate) fn router(&self, number: usize) -> IpAddr {
        router(self.family, number)
    }

    pub(crate) fn group(&self, last: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(239, 1, 1, last).into(),
            Family::V6 => Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 1, last.into()).into(),
        }
    }

    pub(crate) fn source(&self, last: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(198, 51, 100, last).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }

    pub(crate) fn set_link(&mut self, link: Link) {
        self.network.set_link(link);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.network.now() - epoch()
    }

    /// Who each router takes for the querier; `None` for itself.
    pub(crate) fn queriers(&self) -> [Option<IpAddr>; 2] {
        [0, 1].map(|number: usize| self.routers[number].querier.querier())
    }

    /// Whether each router lives and serves the link's members.
    pub(crate) fn serving(&self) -> [bool; 2] {
        [0, 1].map(|number: usize| self.routers[number].alive && self.routers[number].querier.serves())
    }

    pub(crate) fn filter(&self, router: usize, group: IpAddr) -> Filter {
        self.routers[router].querier.filter(group)
    }

    pub(crate) fn groups(&self) -> [usize; 2] {
        [0, 1].map(|number: usize| self.routers[number].querier.groups(self.network.now()).len())
    }

    pub(crate) fn lost(&self, router: usize, group: IpAddr) -> u32 {
        self.routers[router].lost.get(&group).copied().unwrap_or(0)
    }

    /// What all hosts want together, by the rules of merging.
    pub(crate) fn wanted(&self, group: IpAddr) -> Filter {
        self.hosts.iter().fold(Filter::none(), |mut all, host| {
            all.merge(&host.wanted(group));
            all
        })
    }

    pub(crate) fn set(&mut self, host: usize, group: IpAddr, filter: Filter) {
        self.hosts[host].set(self.network.now(), group, filter);
    }

    /// Lets a host speak an older version.
    pub(crate) fn speak(&mut self, host: usize, version: Version) {
        self.hosts[host].speak(version);
    }

    pub(crate) fn check_bounds(&self) {
        for router in &self.routers {
            let groups: Vec<_> = router.querier.groups(self.network.now()).collect();
            assert!(groups.len() <= LIMITS.0);
            assert!(groups.iter().all(|group| group.sources.len() <= LIMITS.1));
        }
    }

    /// A router that is dead hears and says nothing, and forgets everything.
    pub(crate) fn kill(&mut self, router: usize) {
        self.routers[router].alive = false;
    }

    pub(crate) fn revive(&mut self, router: usize) {
        let now = self.network.now();
        self.routers[router].querier = Querier::new(now, config(self.family, router)).expect("as before");
        self.routers[router].alive = true;
        self.transmit();
    }

    /// Somebody with a lower address than the routers' says this to all.
    pub(crate) fn forge(&mut self, message: &Message) {
        let now = self.network.now();
        let (source, destination) = (neighbour(self.family, 0), everybody(self.family));
        let payload = message.emit(source, destination).expect("one family");
        let message = read(source, destination, &payload);
        self.hosts.iter_mut().for_each(|host| host.hear(now, &message));
        for router in self.routers.iter_mut().filter(|router| router.alive) {
            let input = Input::Datagram {
                source,
                link_source: None,
                link_unicast: false,
                stranger: false,
                destination,
                ttl: 1,
                router_alert: true,
                payload: &payload,
            };
            router.querier.handle_input(now, input);
        }
        self.transmit();
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.network.now() + duration;
        while self.step(end) {}
        self.network.advance_to(end);
    }

    pub(crate) fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = self.network.now() + Duration::from_secs(3600);
        while !done(self) {
            assert!(self.step(end), "waited in vain");
        }
    }

    /// Lets the next thing happen, if it does by `end`.
    fn step(&mut self, end: Instant) -> bool {
        let alive = self.routers.iter().filter(|router| router.alive);
        let routers = alive.filter_map(|router| router.querier.poll_timeout());
        let hosts = self.hosts.iter().filter_map(Host::next);
        let Some(next) =
            routers.chain(hosts).chain(self.network.next_arrival()).min().filter(|at| *at <= end)
        else {
            return false;
        };
        self.network.advance_to(next);
        let now = self.network.now();
        while let Some(datagram) = self.network.receive() {
            self.deliver(now, datagram.from.ip(), datagram.to, &datagram.bytes);
        }
        for router in self.routers.iter_mut().filter(|router| router.alive) {
            router.querier.handle_timeout(now);
        }
        self.transmit();
        true
    }

    fn deliver(&mut self, now: Instant, source: IpAddr, to: SocketAddr, bytes: &[u8]) {
        let (destination, payload) = unwrap(self.family, bytes);
        let hosts = self.hosts.len();
        let index = usize::from(to.port());
        if index < hosts {
            self.hosts[index].hear(now, &read(source, destination, payload));
        } else if self.routers[index - hosts].alive {
            let input = Input::Datagram {
                source,
                link_source: None,
                link_unicast: false,
                stranger: false,
                destination,
                ttl: 1,
                router_alert: true,
                payload,
            };
            self.routers[index - hosts].querier.handle_input(now, input);
        }
    }

    /// Sends what routers and hosts have to say.
    fn transmit(&mut self) {
        let now = self.network.now();
        let mut said: Vec<(usize, IpAddr, IpAddr, Vec<u8>)> = Vec::new();
        let hosts = self.hosts.len();
        for (number, router) in self.routers.iter_mut().enumerate() {
            while let Some(output) = router.querier.poll_output() {
                match output {
                    Output::Transmit { source, destination, payload } => {
                        said.push((hosts + number, source, destination, payload));
                    }
                    Output::Event(Event::Membership { group, filter }) if filter.is_none() => {
                        *router.lost.entry(group).or_default() += 1;
                    }
                    Output::Event(
                        Event::Membership { .. }
                        | Event::QuerierChanged { .. }
                        | Event::Serving { .. }
                        | Event::QuerierNotAllowed { .. }
                        | Event::OtherVersion { .. },
                    ) => {}
                }
            }
        }
        for (number, host) in self.hosts.iter_mut().enumerate() {
            let source = neighbour(self.family, 100 + number as u8);
            for said_now in host.say(now) {
                let (to, message) = match said_now {
                    Said::Records(records) => (all_routers(self.family), Message::ReportV3 { records }),
                    Said::Report(message) => match message {
                        Message::ReportV1 { group } | Message::ReportV2 { group } => (group, message),
                        _ => unreachable!("a report of an older version"),
                    },
                    Said::Leave(group) => (older_routers(self.family), Message::Leave { group }),
                };
                let payload = message.emit(source, to).expect("one family");
                said.push((number, source, to, payload));
            }
        }
        for (speaker, source, destination, payload) in said {
            let bytes = [&octets(destination)[..], &payload].concat();
            for listener in (0..hosts + 2).filter(|listener| *listener != speaker) {
                // Each hears or misses it by itself; its port says who it is.
                let to = SocketAddr::new(source, listener as u16);
                self.network.send(SocketAddr::new(source, 1000), to, bytes.clone());
            }
        }
    }
}

fn config(family: Family, number: usize) -> Config {
    Config {
        address: router(family, number),
        robustness_variable: 4,
        query_interval: Duration::from_secs(20),
        query_response_interval: Duration::from_secs(5),
        max_groups: LIMITS.0,
        max_sources_per_group: LIMITS.1,
        ..Config::new(family)
    }
}

fn router(family: Family, number: usize) -> IpAddr {
    neighbour(family, 1 + number as u8)
}

fn neighbour(family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, last).into(),
        Family::V6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last.into()).into(),
    }
}

fn all_routers(family: Family) -> IpAddr {
    match family {
        Family::V4 => igmp::ALL_IGMPV3_ROUTERS.into(),
        Family::V6 => mld::ALL_MLDV2_ROUTERS.into(),
    }
}

/// Where leaves of older versions go.
fn older_routers(family: Family) -> IpAddr {
    match family {
        Family::V4 => igmp::ALL_ROUTERS.into(),
        Family::V6 => mld::ALL_ROUTERS.into(),
    }
}

fn everybody(family: Family) -> IpAddr {
    match family {
        Family::V4 => igmp::ALL_SYSTEMS.into(),
        Family::V6 => mld::ALL_NODES.into(),
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Takes the group that a datagram went to off its front.
fn unwrap(family: Family, bytes: &[u8]) -> (IpAddr, &[u8]) {
    match family {
        Family::V4 => {
            let (group, payload) = bytes.split_first_chunk::<4>().expect("a group");
            (IpAddr::from(*group), payload)
        }
        Family::V6 => {
            let (group, payload) = bytes.split_first_chunk::<16>().expect("a group");
            (IpAddr::from(*group), payload)
        }
    }
}

fn read(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Message {
    match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            mld::Message::parse(source, destination, payload).expect("MLD").into()
        }
        _ => igmp::Message::parse(payload).expect("IGMP").into(),
    }
}

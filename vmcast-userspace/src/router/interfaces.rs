//! The interfaces of the configuration, as the kernel has them at present.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    num::NonZeroU32,
    ops::AddAssign,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tokio::{sync::mpsc, task::AbortHandle};
use vmcast_common::{
    fib::{EngineWish, IfIndex, Interface},
    hdr::eth::Mac,
};
use vmcast_dataplane::shares::SocketShares;
use vmcast_proto::membership::{self, Family, ImmediateLeave};

use crate::{
    clock,
    config::{InterfaceEngine, RouterConfig, RouterInterface},
    mac,
    netlink::{Link, LinkEvent, LinkWatch, Links, SessionWays, pppoe_sessions},
    sockets::{
        Acquaintances, Crowd, HostMembership, MembershipSocket, Narrowing, RECEIVE_LEN, Sender, Shares,
        Throttle,
    },
    telemetry::RateLimit,
};

use super::{
    core::Queriers,
    place::{Absent, Host, Place},
    pursuit::Pauses,
    run::Event,
};

/// IGMP or MLD messages that are taken from an interface in a second: ten thousand hosts answer in one.
pub(super) const MESSAGES_PER_SECOND: u32 = 10_000;
/// How often it is looked whether the kernel cut messages of hosts that are not known.
const STRANGERS_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is told of a link that a host floods it.
const FLOOD_WARNINGS: Duration = Duration::from_secs(10);
/// Least time between two readings of the interfaces, however many changes there are.
const READ_INTERVAL: Duration = Duration::from_millis(200);
/// First and longest pause after the kernel did not tell its interfaces.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Messages that were dropped before they were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unread {
    /// By the kernel, because more came than are taken.
    pub(super) overrun: u64,
    /// About so many of hosts that flooded the link, for the sake of the others there.
    pub(super) thinned: u64,
    /// Of hosts that were not known while such hosts sent more than their share together.
    pub(super) strangers: u64,
}

impl AddAssign for Unread {
    fn add_assign(&mut self, other: Self) {
        self.overrun += other.overrun;
        self.thinned += other.thinned;
        self.strangers += other.strangers;
    }
}

/// An interface in use, with its sockets.
pub(super) struct Attached {
    pub(super) name: String,
    pub(super) link: Link,
    pub(super) interface: Interface,
    /// Where IGMP and MLD are spoken, if they are.
    pub(super) speakers: Vec<(Family, Arc<MembershipSocket>)>,
    pub(super) host: Option<HostMembership>,
    /// Whether the data plane has taken it, and the operator was told so.
    pub(super) in_use: bool,
    /// Whether it is a port of a bridge.
    pub(super) bridged: bool,
    /// Whether others on this host need all that comes in there.
    pub(super) listened: bool,
    readers: Vec<AbortHandle>,
}

impl Attached {
    /// Messages of a family that were dropped before they were read.
    pub(super) fn unread(&self, family: Family) -> Unread {
        self.speaker(family).map_or_else(Unread::default, |socket| Unread {
            overrun: socket.drops(),
            thinned: socket.thinned(),
            strangers: socket.cut(),
        })
    }

    /// Where the protocol of a family is spoken.
    pub(super) fn speaker(&self, family: Family) -> Option<&MembershipSocket> {
        self.speakers.iter().find(|(of, _)| *of == family).map(|(_, socket)| socket.as_ref())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.readers.iter().for_each(AbortHandle::abort);
    }
}

/// An interface as the configuration and the kernel describe it together.
pub(super) struct Wanted {
    pub(super) link: Link,
    /// Whether it is the kernel's, so that sockets can be bound to it.
    pub(super) is_kernels: bool,
    pub(super) interface: Interface,
    pub(super) addresses: Vec<(IpAddr, u8)>,
    /// What is spoken there: IGMP and MLD, or nothing.
    pub(super) queriers: Queriers,
}

/// What of the configuration the host has.
pub(super) struct Present {
    /// The configured interfaces that exist.
    pub(super) wanted: Vec<Wanted>,
    /// The links of PPP sessions that are up, configured or not.
    ppp: Vec<IfIndex>,
    /// Links that have gone since the reading before; what has the number of one now is another.
    gone: BTreeSet<IfIndex>,
}

impl Present {
    /// Whether an interface that was in use is not there any more, or was made anew.
    pub(super) fn has_lost(&self, interface: &Interface) -> bool {
        let Interface { ifindex, device, .. } = interface;
        !self.wanted.iter().any(|wanted| wanted.link.ifindex == *ifindex)
            || self.gone.contains(ifindex)
            || self.gone.contains(device)
    }

    /// How packets leave by the links of sessions.
    pub(super) fn session_ways(&self) -> SessionWays {
        let as_they_are = self.ppp.iter().map(|ifindex| (*ifindex, None));
        let interfaces = self.wanted.iter().map(|wanted| wanted.interface);
        let in_session = interfaces.filter(|interface| interface.peer.is_some());
        as_they_are.chain(in_session.map(|interface| (interface.ifindex, Some(interface)))).collect()
    }
}

/// The configured interfaces that exist.
///
/// # Errors
/// If the kernel does not list its interfaces.
async fn present(config: &RouterConfig, links: &Links, gone: BTreeSet<IfIndex>) -> anyhow::Result<Present> {
    let (found, ppp) = find(config, links).await?;
    let mut wanted = Vec::new();
    for found in found {
        match found {
            Ok(found) => wanted.push(found),
            Err(Absent::Missing { .. }) => {}
            Err(absent) => tracing::warn!("{absent}"),
        }
    }
    Ok(Present { wanted, ppp, gone })
}

/// What the host has of the interfaces of the configuration, and the links of PPP sessions.
async fn find(
    config: &RouterConfig,
    links: &Links,
) -> anyhow::Result<(Vec<Result<Wanted, Absent>>, Vec<IfIndex>)> {
    let host = Host::new(links.list().await?, pppoe_sessions());
    let named = config.interfaces.iter().filter(|configured| !configured.name.is_pattern());
    let found = named.map(|configured| Ok(wanted(config, configured, host.place(configured)?)));
    let of_patterns = host.names().filter_map(|name| {
        let table = config.interface_of(name).filter(|table| table.name.is_pattern())?;
        let configured = RouterInterface { name: name.parse().ok()?, ..table.clone() };
        match host.place(&configured) {
            Ok(place) => Some(Ok(wanted(config, &configured, place))),
            // Others that fit may do.
            Err(absent) => {
                tracing::warn!("{absent}");
                None
            }
        }
    });
    let found = found.chain(of_patterns).collect();
    Ok((found, host.ppp_up().collect()))
}

/// The same, but each must exist.
///
/// # Errors
/// If one is missing, with those that are there.
pub(super) async fn all(config: &RouterConfig, links: &Links) -> anyhow::Result<Present> {
    let (found, ppp) = find(config, links).await?;
    Ok(Present { wanted: found.into_iter().collect::<Result<_, _>>()?, ppp, gone: BTreeSet::new() })
}

/// Tells the router what the interfaces are whenever they, or their addresses, have changed. Ends with
/// the router.
pub(super) async fn follow(
    config: RouterConfig,
    mut links: Links,
    mut watch: LinkWatch,
    events: mpsc::Sender<Event>,
) {
    let mut pauses = Pauses::new(RETRY.0, RETRY.1);
    let mut missed = false;
    let mut gone = BTreeSet::new();
    loop {
        let pause = match changed(&config, &links, &mut watch, missed, &mut gone).await {
            Ok(present) => {
                missed = false;
                gone.clear();
                if events.send(Event::Interfaces(present)).await.is_err() {
                    return;
                }
                pauses.reset();
                READ_INTERVAL
            }
            Err(error) => {
                tracing::error!("changes of interfaces are not seen: {error:#}");
                missed = true;
                if let Ok(fresh) = Links::open().and_then(|links| Ok((links.watch()?, links))) {
                    (watch, links) = fresh;
                }
                pauses.after_failure()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Waits for a change, unless one was missed, and reads what is there now. What has gone meanwhile stays in `gone`, so that
/// a reading which fails does not forget it.
async fn changed(
    config: &RouterConfig,
    links: &Links,
    watch: &mut LinkWatch,
    missed: bool,
    gone: &mut BTreeSet<IfIndex>,
) -> anyhow::Result<Present> {
    let mut note = |event| {
        if let LinkEvent::Removed(ifindex) = event {
            gone.insert(ifindex);
        }
    };
    if !missed {
        note(watch.next().await?);
    }
    // One reading covers all changes that wait; an error that stays is seen again.
    while let Some(Ok(event)) = watch.next().now_or_never() {
        note(event);
    }
    present(config, links, gone.clone()).await
}

fn wanted(config: &RouterConfig, configured: &RouterInterface, place: Place) -> Wanted {
    let Place { own, is_kernels, device, link, peer, mac, bridged: shared } = place;
    let interface = Interface {
        ifindex: own.ifindex,
        device,
        link,
        peer,
        mac,
        mtu: u16::try_from(own.mtu).unwrap_or(u16::MAX),
        accepts_sources: configured.takes_sources(),
        shared,
        engine: match configured.engine {
            None => EngineWish::Any,
            Some(InterfaceEngine::Xdp) => EngineWish::Xdp,
            Some(InterfaceEngine::Tc) => EngineWish::Tc,
        },
        xdp_members: configured.xdp_members.map(NonZeroU32::get),
    };
    let configs = if configured.querier && is_kernels {
        let addresses = [own.address().map(Into::into), own.link_local().map(Into::into)];
        Family::ALL
            .into_iter()
            .zip(addresses)
            .map(|(family, address)| querier_config(config, configured, family, address, interface.mtu))
            .collect()
    } else {
        Vec::new()
    };
    let queriers =
        Queriers { configs, beside_querier: configured.beside_querier, is_upstream: configured.upstream };
    let addresses = own.all_addresses().collect();
    Wanted { link: own, is_kernels, interface, addresses, queriers }
}

fn querier_config(
    config: &RouterConfig,
    configured: &RouterInterface,
    family: Family,
    address: Option<IpAddr>,
    mtu: u16,
) -> membership::Config {
    let defaults = config.timers_on(configured, family).apply(family);
    membership::Config {
        address: address.unwrap_or(defaults.address),
        mtu: mtu.max(family.least_mtu()),
        immediate_leave: if configured.immediate_leave {
            ImmediateLeave::Tracked
        } else {
            ImmediateLeave::Never
        },
        require_router_alert: configured.require_router_alert,
        allowed_queriers: configured.allowed_queriers(),
        steady_time: configured.steady_time(),
        allowed_groups: configured.allowed_groups(),
        max_groups: configured.max_groups,
        max_groups_per_host: configured.max_groups_per_host,
        ..defaults
    }
}

/// Opens what an interface needs: IGMP and MLD off the wire for a querier, memberships where sources are.
///
/// # Errors
/// If the kernel refuses a socket.
pub(super) fn attach(
    wanted: &Wanted,
    shares: Option<&Arc<SocketShares>>,
    events: &mpsc::Sender<Event>,
) -> anyhow::Result<Attached> {
    let ifindex = wanted.link.ifindex;
    let families = wanted.queriers.configs.iter().map(membership::Config::family);
    let speakers = families
        .map(|family| Ok((family, Arc::new(MembershipSocket::open(family, ifindex, shares.cloned())?))))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let readers = speakers
        .iter()
        .map(|(family, socket)| {
            tokio::spawn(read(Arc::clone(socket), *family, ifindex, events.clone())).abort_handle()
        })
        .collect();
    Ok(Attached {
        name: wanted.link.name.clone(),
        link: wanted.link.clone(),
        interface: wanted.interface,
        speakers,
        host: (wanted.interface.accepts_sources && wanted.is_kernels).then(|| HostMembership::new(ifindex)),
        in_use: false,
        bridged: wanted.interface.shared,
        listened: false,
        readers,
    })
}

async fn read(socket: Arc<MembershipSocket>, family: Family, ifindex: IfIndex, events: mpsc::Sender<Event>) {
    let mut buffer = vec![0; RECEIVE_LEN];
    let mut throttle = Throttle::new(MESSAGES_PER_SECOND);
    let (mut shares, mut warnings) = (Shares::default(), RateLimit::new(1, FLOOD_WARNINGS));
    let mut strangers = Strangers::default();
    loop {
        let next = shares.next().into_iter().chain(strangers.acquaintances.next()).min();
        let received = tokio::select! {
            received = socket.recv(&mut buffer) => Some(received),
            () = clock::sleep_until(next) => None,
        };
        let now = clock::now();
        let mut wait = None;
        match received {
            Some(Ok((datagram, ends))) => {
                wait = throttle.take(now, 1);
                let (crowd, sender) = strangers.note(now, &socket, wait.is_some(), ends.source);
                socket.note_thinned(shares.note(now, sender, crowd) - 1);
                let stranger =
                    sender.is_some_and(|sender| !sender.known) && strangers.acquaintances.is_disturbed(now);
                let datagram = datagram.to_vec();
                let event = Event::Membership { ifindex, family, ends, stranger, datagram };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Some(Err(error)) => {
                tracing::debug!(?ifindex, protocol = family.protocol(), %error, "reading memberships");
                wait = Some(now + Duration::from_millis(500));
            }
            None => strangers.settle(now, &socket),
        }
        if shares.look(now) {
            if let Err(error) = socket.thin(shares.thinned()) {
                tracing::debug!(?ifindex, %error, "a host that floods the link cannot be thinned");
            }
            if let Some((host, _)) = shares.thinned().max_by_key(|(_, shift)| *shift)
                && let Some(held_back) = warnings.admit(now)
            {
                let [host, protocol] = [&mac::text(host), family.protocol()];
                tracing::warn!(
                    ?ifindex,
                    protocol,
                    host,
                    held_back,
                    "a host floods the link: most of its messages are dropped, so that the others are heard"
                );
            }
        }
        if wait.is_some() {
            clock::sleep_until(wait).await;
        }
    }
}

/// Hosts that are not known, as long as a socket is read.
#[derive(Default)]
struct Strangers {
    acquaintances: Acquaintances,
    narrowing: Narrowing,
    /// How many messages of theirs were cut when it was looked last, how many of anybody had no room, and when that was.
    cut: u64,
    lost: u64,
    looked_at: Option<Instant>,
}

impl Strangers {
    /// Notes a message of a sender; `full` says that as many are there as may be read. Returns who sent more than is read,
    /// and what is known of this sender.
    fn note(
        &mut self,
        now: Instant,
        socket: &MembershipSocket,
        full: bool,
        sender: Option<Mac>,
    ) -> (Option<Crowd>, Option<Sender>) {
        let mut crowd = full.then_some(Crowd::Anybody);
        if self.looked_at.is_none_or(|at| now >= at + STRANGERS_INTERVAL) {
            self.looked_at = Some(now);
            let (came, narrowed) = self.look(now, socket.cut(), socket.drops());
            crowd = crowd.max(came);
            if let Some(shift) = narrowed {
                socket.narrow(shift);
            }
            let forgotten = self.acquaintances.forget(now);
            if !forgotten.is_empty() {
                socket.set_known(forgotten, false);
            }
        }
        if crowd.is_some() {
            self.acquaintances.disturb(now);
        } else {
            self.settle(now, socket);
        }
        let sender = sender.map(|mac| {
            self.acquaintances.note(now, mac);
            Sender { mac, known: self.acquaintances.knows(mac) }
        });
        (crowd, sender)
    }

    /// Lets those through, whatever others send, who are known from now on.
    fn settle(&mut self, now: Instant, socket: &MembershipSocket) {
        let known = self.acquaintances.settle(now);
        if !known.is_empty() {
            socket.set_known(known, true);
        }
    }

    /// Looks at how many messages were cut so far, and how many had no room. Says of whom there are more than before, and
    /// the power of two by which the share of who is not known is smaller from now on, if that is new.
    ///
    /// A machine that has other things to do reads less than it may: then what had no room is all that shows a flood.
    fn look(&mut self, now: Instant, cut: u64, lost: u64) -> (Option<Crowd>, Option<u32>) {
        let more_cut = std::mem::replace(&mut self.cut, cut) != cut;
        let more_lost = std::mem::replace(&mut self.lost, lost) != lost;
        let crowd = match (more_lost, more_cut) {
            (true, _) => Some(Crowd::Anybody),
            (false, true) => Some(Crowd::Strangers),
            (false, false) => None,
        };
        (crowd, self.narrowing.look(now, lost, more_cut))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use vmcast_proto::membership::{AddressRange, SteadyTime};

    use super::*;

    #[test]
    fn more_is_there_than_is_read_if_something_was_cut_or_had_no_room() {
        let (mut strangers, now) = (Strangers::default(), clock::now());
        assert_eq!(strangers.look(now, 0, 0), (None, None));
        assert_eq!(strangers.look(now, 7, 0), (Some(Crowd::Strangers), None), "cut");
        assert_eq!(strangers.look(now, 7, 0), (None, None), "no more than before");
        assert_eq!(strangers.look(now, 7, 1), (Some(Crowd::Anybody), Some(1)), "no room, whoever sent it");
        assert_eq!(strangers.look(now, 7, 1), (None, None));
    }

    #[test]
    fn every_key_of_an_interface_reaches_its_queriers() {
        let text = "rank = 0\n[[interface]]\nname = \"a\"\nquerier = true\nimmediate_leave = true\n\
                    require_router_alert = true\nqueriers = [\"192.0.2.9\"]\nquerier_steady_seconds = 21\n\
                    querier_starting_seconds = 22\ngroups = [\"239.0.1.0/24\"]\nmax_groups = 23\n\
                    max_groups_per_host = 24\n[interface.igmp]\nversion = 2\nrobustness_variable = 3\n\
                    query_interval_seconds = 25\n[[interface]]\nname = \"b\"\nquerier = true\n";
        let (config, _) = crate::config::parse::<RouterConfig>(std::path::Path::new("t.toml"), text).unwrap();
        let address = IpAddr::from([192, 0, 2, 1]);
        let of = |index: usize| {
            querier_config(&config, &config.interfaces[index], Family::V4, Some(address), 1500)
        };
        let range = |address: Ipv4Addr, prefix| Some(vec![AddressRange { address: address.into(), prefix }]);
        let defaults = membership::Config { address, mtu: 1500, ..membership::Config::new(Family::V4) };
        let expected = membership::Config {
            version: membership::Version::numbered(Family::V4, 2).unwrap(),
            robustness_variable: 3,
            query_interval: Duration::from_secs(25),
            immediate_leave: ImmediateLeave::Tracked,
            require_router_alert: true,
            allowed_queriers: range(Ipv4Addr::new(192, 0, 2, 9), 32),
            steady_time: SteadyTime {
                serving: Some(Duration::from_secs(21)),
                starting: Some(Duration::from_secs(22)),
            },
            allowed_groups: range(Ipv4Addr::new(239, 0, 1, 0), 24),
            max_groups: 23,
            max_groups_per_host: Some(24),
            ..defaults.clone()
        };
        assert_eq!(of(0), expected);
        assert_eq!(of(1), defaults);
    }
}

//! The next-hop table: which destinations share which link-layer way, without any I/O.
//!
//! A destination costs one entry of a B-tree; everything that is the same for all destinations
//! behind one gateway is kept once, in the next hop. Lookups are paced and their number in flight
//! is bounded, new destinations first, so that a route change with many destinations does not hold
//! up a join.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Bound,
    time::{Duration, Instant},
};

use vmcast_common::{
    fib::{IfIndex, Interface, Link, NextHop, NextHopId},
    hdr::eth::Mac,
};
use vmcast_proto::Machine;

use super::stack::{Vlan, device_under};

/// Requests to the kernel that may be in flight at once.
const WINDOW: usize = 32;
/// Requests per [`PACE`].
const BURST: u32 = 1024;
/// See [`BURST`].
const PACE: Duration = Duration::from_millis(10);
/// How long route changes are gathered before every destination is looked up again.
const ROUTE_SETTLE: Duration = Duration::from_millis(50);
/// How often the entry of a resolved neighbour is used, so that the kernel keeps and verifies it:
/// redirected frames do not count as use. Half the kernel's default `gc_stale_time` of 60 s.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Pause before the second attempt to resolve a neighbour; it doubles up to [`KEEP_ALIVE`].
const NEIGHBOUR_RETRY: Duration = Duration::from_secs(1);

/// What the table reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextHopEvent {
    /// A next hop is new or changed. It comes before the first [`NextHopEvent::Assign`] to it.
    Set {
        /// Its number.
        id: NextHopId,
        /// What it is now.
        hop: NextHop,
    },
    /// A watched destination is reached by another next hop than before, or not at all.
    Assign {
        /// The destination.
        destination: IpAddr,
        /// Its next hop, or why it has none.
        hop: Result<NextHopId, Unresolvable>,
        /// Whether the next hop is the destination itself, and no gateway.
        direct: bool,
    },
    /// No destination uses this next hop any more; its number may be given again.
    Removed {
        /// Its number.
        id: NextHopId,
    },
}

/// Why a destination has no next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unresolvable {
    /// The destination is one of this host's own addresses.
    #[error("the address is this host's own, so no frame leaves for it")]
    Local,
    /// The destination is a broadcast or group address.
    #[error("the address is not a unicast address")]
    NotUnicast,
    /// No route leads there, or one that refuses.
    #[error("no route leads to the address")]
    NoRoute,
    /// The route leaves by an interface whose link-layer addresses are not Ethernet's, or not looked up.
    #[error("the route leaves by an interface that is no Ethernet device, or looks up no neighbours")]
    NoLinkLayer,
    /// The route leaves by the link of a session that nobody has looked at yet.
    #[error("the route leaves by a ppp interface that has just come up")]
    Unplaced,
    /// The route leaves by an interface that is not known (any more).
    #[error("the route leaves by an interface that is gone")]
    NoLink,
    /// The route leaves by an interface on more VLANs than frames carry tags.
    #[error("the route leaves by an interface that stands on more than two VLANs")]
    TooManyTags,
}

/// An address on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// The link.
    pub ifindex: IfIndex,
    /// The address.
    pub address: IpAddr,
}

/// What the table knows of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLink {
    /// Its link-layer address; `None` if neighbours on it have none.
    pub(crate) mac: Option<Mac>,
    /// Its MTU in bytes.
    pub(crate) mtu: u16,
    /// Whether it is up.
    pub(crate) up: bool,
    /// Whether it is the loopback device.
    pub(crate) loopback: bool,
    /// Whether packets leave it without a link-layer header, all the same way.
    pub(crate) bare: bool,
    /// Whether it is the link of a PPP session, whose way [`TableInput::Sessions`] tells.
    pub(crate) is_ppp: bool,
    /// What it is a VLAN of, if it is one.
    pub(crate) vlan: Option<Vlan>,
}

/// The kernel's answer to a route lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface to leave by.
    pub(crate) ifindex: IfIndex,
    /// Gateway, or the destination itself.
    pub(crate) neighbour: IpAddr,
    /// MTU of the route in bytes, 0 if it is that of the link.
    pub(crate) mtu: u16,
}

/// What the table reacts to.
#[derive(Clone, Debug)]
pub(crate) enum TableInput {
    /// Starts to watch a destination, once more if it is watched already.
    Watch(IpAddr),
    /// Ends one [`TableInput::Watch`].
    Unwatch(IpAddr),
    /// Answers [`TableOutput::LookupRoute`].
    RouteAnswer(IpAddr, Result<Route, Unresolvable>),
    /// Answers [`TableOutput::LookupNeighbour`].
    NeighbourAnswer(Neighbour, Option<Mac>),
    /// A neighbour entry changed; `None` if it cannot be used.
    NeighbourChanged(Neighbour, Option<Mac>),
    /// Answers [`TableOutput::DumpLinks`].
    Links(Vec<(IfIndex, TableLink)>),
    /// A link is new or changed.
    LinkChanged(IfIndex, TableLink),
    /// A link is gone.
    LinkRemoved(IfIndex),
    /// Routes, rules or addresses changed.
    RoutesChanged,
    /// The ways of the links of PPP sessions are these now.
    Sessions(SessionWays),
    /// Notifications were lost.
    Lost,
}

/// How packets leave by the links of PPP sessions: with the session's header, by the interface below, or, at `None`, as
/// they are, by the link itself.
///
/// A link of the kernel's that is not among them has no way yet. It might be used as it is at once, but its members
/// would be moved to the session's header a moment later, and who is moved may miss a packet.
pub(crate) type SessionWays = HashMap<IfIndex, Option<Interface>>;

/// What the table wants done or known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableOutput {
    /// Look up the route to an address.
    LookupRoute(IpAddr),
    /// Look up a neighbour entry.
    LookupNeighbour(Neighbour),
    /// Make the kernel resolve, or verify, a neighbour.
    Use(Neighbour),
    /// Read all links.
    DumpLinks,
    /// Tell the data plane.
    Event(NextHopEvent),
}

/// Identity of a next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct HopKey {
    neighbour: Neighbour,
    mtu: u16,
}

#[derive(Debug)]
struct Hop {
    key: HopKey,
    /// Destinations that use it.
    users: u32,
    /// What was reported.
    reported: NextHop,
    /// Attempts to resolve it since it was last resolved.
    attempts: u32,
    /// When its neighbour entry is used next.
    next_use: Instant,
}

/// An address as 16 bytes in network order, IPv4 mapped (RFC 4291 §2.5.5.2).
type Key = [u8; 16];

fn key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn address(key: Key) -> IpAddr {
    Ipv6Addr::from(key).to_canonical()
}

#[derive(Clone, Copy, Debug)]
struct Watch {
    users: u32,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Unknown,
    Hop(NextHopId),
    None(Unresolvable),
}

/// A renewed lookup of every destination.
#[derive(Debug, Default)]
struct Sweep {
    /// When the next one starts.
    due: Option<Instant>,
    /// The last destination of the one that runs; `Some(None)` at its start.
    cursor: Option<Option<Key>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    now: Instant,
    /// Whether the links were read; before, no route can be judged.
    links_known: bool,
    links: HashMap<IfIndex, TableLink>,
    sessions: SessionWays,
    watches: BTreeMap<Key, Watch>,
    hops: Vec<Option<Hop>>,
    free: BTreeSet<u32>,
    index: BTreeMap<HopKey, NextHopId>,
    uses: BTreeSet<(Instant, NextHopId)>,
    new_destinations: VecDeque<Key>,
    new_neighbours: VecDeque<NextHopId>,
    sweep: Sweep,
    in_flight: usize,
    budget: u32,
    refill: Instant,
    outputs: VecDeque<TableOutput>,
}

impl Table {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            now,
            links_known: false,
            links: HashMap::new(),
            sessions: SessionWays::new(),
            watches: BTreeMap::new(),
            hops: Vec::new(),
            free: BTreeSet::new(),
            index: BTreeMap::new(),
            uses: BTreeSet::new(),
            new_destinations: VecDeque::new(),
            new_neighbours: VecDeque::new(),
            sweep: Sweep::default(),
            in_flight: 0,
            budget: BURST,
            refill: now + PACE,
            outputs: VecDeque::from([TableOutput::DumpLinks]),
        }
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.now >= self.refill {
            self.budget = BURST;
            self.refill = self.now + PACE;
        }
    }

    fn watch(&mut self, destination: IpAddr) {
        let key = key(destination);
        let watch = self.watches.entry(key).or_insert(Watch { users: 0, way: Way::Unknown });
        watch.users += 1;
        if watch.users == 1 {
            self.new_destinations.push_back(key);
            return;
        }
        // The caller who comes second hears at once what is known.
        let hop = match watch.way {
            Way::Unknown => return,
            Way::Hop(id) => Ok(id),
            Way::None(reason) => Err(reason),
        };
        self.report_way(destination, hop);
    }

    fn unwatch(&mut self, destination: IpAddr) {
        let key = key(destination);
        let Some(watch) = self.watches.get_mut(&key) else {
            return;
        };
        watch.users -= 1;
        if watch.users > 0 {
            return;
        }
        let way = watch.way;
        self.watches.remove(&key);
        self.release(way);
    }

    fn on_route(&mut self, destination: IpAddr, answer: Result<Route, Unresolvable>) {
        let key = key(destination);
        let Some(before) = self.watches.get(&key).map(|watch| watch.way) else {
            return;
        };
        let way = match answer.and_then(|route| self.hop_key(route)) {
            Ok((hop_key, hop)) => Way::Hop(self.acquire(hop_key, hop)),
            Err(reason) => Way::None(reason),
        };
        if way == before {
            return;
        }
        let hop = match way {
            Way::Hop(id) => {
                self.hop_mut(id).users += 1;
                Ok(id)
            }
            Way::None(reason) => Err(reason),
            Way::Unknown => return,
        };
        self.watches.insert(key, Watch { users: self.watches[&key].users, way });
        self.report_way(destination, hop);
        self.release(before);
    }

    fn report_way(&mut self, destination: IpAddr, hop: Result<NextHopId, Unresolvable>) {
        let direct = hop.is_ok_and(|id| self.hop_mut(id).key.neighbour.address == destination);
        self.report(NextHopEvent::Assign { destination, hop, direct });
    }

    /// The next hop of a route, and what it is as long as its neighbour is not known.
    fn hop_key(&self, route: Route) -> Result<(HopKey, NextHop), Unresolvable> {
        let mut neighbour = Neighbour { ifindex: route.ifindex, address: route.neighbour };
        if self.has_one_neighbour(route.ifindex) {
            // There is one neighbour, whatever the destination.
            neighbour.address = Ipv4Addr::UNSPECIFIED.into();
        }
        let key = HopKey { neighbour, mtu: route.mtu };
        Ok((key, self.describe(key)?))
    }

    /// Whether all that leaves by a link goes the same way, so that no neighbour is looked up.
    fn has_one_neighbour(&self, ifindex: IfIndex) -> bool {
        self.sessions.contains_key(&ifindex) || self.links.get(&ifindex).is_some_and(|link| link.bare)
    }

    fn describe(&self, key: HopKey) -> Result<NextHop, Unresolvable> {
        let ifindex = key.neighbour.ifindex;
        let link = *self.links.get(&ifindex).ok_or(Unresolvable::NoLink)?;
        let mtu = mtu(key, link);
        if link.loopback {
            return Err(Unresolvable::Local);
        }
        match self.sessions.get(&ifindex) {
            Some(Some(known)) => {
                let Interface { device, link, mac, peer, .. } = *known;
                return Ok(NextHop { ifindex: device, link, source_mac: mac, destination_mac: peer, mtu });
            }
            None if link.is_ppp => return Err(Unresolvable::Unplaced),
            Some(None) | None => {}
        }
        if link.bare {
            let destination_mac = Some(Mac::default());
            return Ok(NextHop {
                ifindex,
                link: Link::PLAIN,
                source_mac: Mac::default(),
                destination_mac,
                mtu,
            });
        }
        let source_mac = link.mac.ok_or(Unresolvable::NoLinkLayer)?;
        let vlan = |ifindex| self.links.get(&ifindex).and_then(|link| link.vlan);
        let (device, link) = device_under(ifindex, vlan).map_err(|_| Unresolvable::TooManyTags)?;
        Ok(NextHop { ifindex: device, link, source_mac, destination_mac: None, mtu })
    }

    /// Finds the next hop or makes it, without a user.
    fn acquire(&mut self, key: HopKey, reported: NextHop) -> NextHopId {
        if let Some(id) = self.index.get(&key) {
            return *id;
        }
        let next_use = self.now + NEIGHBOUR_RETRY;
        let hop = Hop { key, users: 0, reported, attempts: 0, next_use };
        let id = match self.free.pop_first() {
            Some(at) => {
                self.hops[at as usize] = Some(hop);
                NextHopId(at)
            }
            None => {
                self.hops.push(Some(hop));
                NextHopId((self.hops.len() - 1) as u32)
            }
        };
        self.index.insert(key, id);
        if reported.destination_mac.is_none() {
            self.uses.insert((next_use, id));
            self.new_neighbours.push_back(id);
        }
        self.report(NextHopEvent::Set { id, hop: reported });
        id
    }

    /// Takes one user from the next hop of `way`, and the next hop away with its last.
    fn release(&mut self, way: Way) {
        let Way::Hop(id) = way else {
            return;
        };
        let hop = self.hop_mut(id);
        hop.users -= 1;
        if hop.users > 0 {
            return;
        }
        let (key, next_use) = (hop.key, hop.next_use);
        self.index.remove(&key);
        self.uses.remove(&(next_use, id));
        self.hops[id.0 as usize] = None;
        self.free.insert(id.0);
        self.report(NextHopEvent::Removed { id });
    }

    fn hop_mut(&mut self, id: NextHopId) -> &mut Hop {
        self.hops[id.0 as usize].as_mut().expect("a next hop that is named has users")
    }

    /// Every next hop through a neighbour: one for each MTU of a route.
    fn hops_of(&self, neighbour: Neighbour) -> Vec<NextHopId> {
        let first = HopKey { neighbour, mtu: 0 };
        let last = HopKey { neighbour, mtu: u16::MAX };
        self.index.range(first..=last).map(|(_, id)| *id).collect()
    }

    fn hops_on(&self, ifindex: IfIndex) -> Vec<NextHopId> {
        let neighbour = Neighbour { ifindex, address: Ipv4Addr::UNSPECIFIED.into() };
        self.index
            .range(HopKey { neighbour, mtu: 0 }..)
            .take_while(|(key, _)| key.neighbour.ifindex == ifindex)
            .map(|(_, id)| *id)
            .collect()
    }

    fn on_neighbour(&mut self, neighbour: Neighbour, mac: Option<Mac>, looked_up: bool) {
        if self.has_one_neighbour(neighbour.ifindex) {
            return;
        }
        let now = self.now;
        for id in self.hops_of(neighbour) {
            let hop = self.hop_mut(id);
            let was = hop.reported.destination_mac;
            let next_use = match (was, mac) {
                (Some(_), Some(_)) => None,
                (None, Some(_)) => Some(now + KEEP_ALIVE),
                (Some(_), None) => Some(now),
                // Without an entry the first attempt need not wait for its timer.
                (None, None) => (looked_up && hop.attempts == 0).then_some(now),
            };
            if was != mac {
                hop.attempts = 0;
                hop.reported.destination_mac = mac;
                let hop = hop.reported;
                self.report(NextHopEvent::Set { id, hop });
            }
            if let Some(at) = next_use {
                self.use_at(id, at);
            }
        }
    }

    fn use_at(&mut self, id: NextHopId, at: Instant) {
        let hop = self.hop_mut(id);
        let before = std::mem::replace(&mut hop.next_use, at);
        self.uses.remove(&(before, id));
        self.uses.insert((at, id));
    }

    fn on_link(&mut self, ifindex: IfIndex, link: TableLink) {
        let before = self.links.insert(ifindex, link);
        if before == Some(link) {
            return;
        }
        self.describe_anew(ifindex);
        let same = before.is_some_and(|before| {
            before.up == link.up
                && before.mac.is_some() == link.mac.is_some()
                && (before.bare, before.vlan) == (link.bare, link.vlan)
        });
        if !same {
            self.routes_changed();
        }
    }

    /// States the next hops on a link again, if they have become others.
    fn describe_anew(&mut self, ifindex: IfIndex) {
        for id in self.hops_on(ifindex) {
            let (key, before) = (self.hop_mut(id).key, self.hop_mut(id).reported);
            // A link without a way left gets its destinations looked up again.
            let Ok(now) = self.describe(key) else {
                continue;
            };
            let now = NextHop { destination_mac: now.destination_mac.or(before.destination_mac), ..now };
            if now != before {
                self.hop_mut(id).reported = now;
                self.report(NextHopEvent::Set { id, hop: now });
            }
        }
    }

    fn on_sessions(&mut self, now: SessionWays) {
        let before = std::mem::replace(&mut self.sessions, now);
        if before == self.sessions {
            return;
        }
        let both: BTreeSet<IfIndex> = before.keys().chain(self.sessions.keys()).copied().collect();
        for ifindex in both {
            self.describe_anew(ifindex);
        }
        self.routes_changed();
    }

    fn routes_changed(&mut self) {
        if self.sweep.due.is_none() && !self.watches.is_empty() {
            self.sweep.due = Some(self.now + ROUTE_SETTLE);
        }
    }

    fn report(&mut self, event: NextHopEvent) {
        self.outputs.push_back(TableOutput::Event(event));
    }

    fn has_requests(&self) -> bool {
        !self.new_destinations.is_empty() || !self.new_neighbours.is_empty() || self.sweep.cursor.is_some()
    }

    /// The next request to the kernel, if the window and the pace allow one.
    fn next_request(&mut self) -> Option<TableOutput> {
        if !self.links_known || self.in_flight >= WINDOW || self.budget == 0 {
            return None;
        }
        let request = self.choose_request()?;
        self.in_flight += 1;
        self.budget -= 1;
        Some(request)
    }

    fn choose_request(&mut self) -> Option<TableOutput> {
        while let Some(id) = self.new_neighbours.pop_front() {
            if let Some(hop) = self.hops.get(id.0 as usize).and_then(Option::as_ref) {
                return Some(TableOutput::LookupNeighbour(hop.key.neighbour));
            }
        }
        while let Some(key) = self.new_destinations.pop_front() {
            if self.new_destinations.is_empty() {
                self.new_destinations.shrink_to(WINDOW);
            }
            if self.watches.contains_key(&key) {
                return Some(TableOutput::LookupRoute(address(key)));
            }
        }
        let from = match self.sweep.cursor? {
            Some(key) => Bound::Excluded(key),
            None => Bound::Unbounded,
        };
        let next = self.watches.range((from, Bound::Unbounded)).next().map(|(key, _)| *key);
        self.sweep.cursor = next.map(Some);
        next.map(|key| TableOutput::LookupRoute(address(key)))
    }

    /// When the earliest neighbour entry is to be used, not before the pace allows it.
    fn use_due(&self) -> Option<Instant> {
        let (at, _) = self.uses.first()?;
        Some(if self.budget == 0 { (*at).max(self.refill) } else { *at })
    }
}

/// The MTU of a next hop: the smaller one of its route and its link.
fn mtu(key: HopKey, link: TableLink) -> u16 {
    if key.mtu == 0 { link.mtu } else { key.mtu.min(link.mtu) }
}

impl Machine for Table {
    type Input<'a> = TableInput;
    type Output = TableOutput;

    fn handle_input(&mut self, now: Instant, input: TableInput) {
        self.advance(now);
        match input {
            TableInput::Watch(destination) => self.watch(destination),
            TableInput::Unwatch(destination) => self.unwatch(destination),
            TableInput::RouteAnswer(destination, answer) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.on_route(destination, answer);
            }
            TableInput::NeighbourAnswer(neighbour, mac) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.on_neighbour(neighbour, mac, true);
            }
            TableInput::NeighbourChanged(neighbour, mac) => self.on_neighbour(neighbour, mac, false),
            TableInput::Links(links) => {
                self.links_known = true;
                let present: HashMap<_, _> = links.iter().copied().collect();
                self.links.retain(|ifindex, _| present.contains_key(ifindex));
                for (ifindex, link) in links {
                    self.on_link(ifindex, link);
                }
            }
            TableInput::LinkChanged(ifindex, link) => self.on_link(ifindex, link),
            TableInput::LinkRemoved(ifindex) => {
                if self.links.remove(&ifindex).is_some() {
                    self.routes_changed();
                }
            }
            TableInput::RoutesChanged => self.routes_changed(),
            TableInput::Sessions(ways) => self.on_sessions(ways),
            TableInput::Lost => {
                self.outputs.push_back(TableOutput::DumpLinks);
                self.new_neighbours.clear();
                self.new_neighbours.extend(self.index.values());
                self.routes_changed();
            }
        }
        self.handle_timeout(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        if self.sweep.cursor.is_none() && self.sweep.due.is_some_and(|due| due <= self.now) {
            self.sweep = Sweep { due: None, cursor: Some(None) };
        }
        while self.use_due().is_some_and(|due| due <= self.now) && self.budget > 0 {
            let Some((_, id)) = self.uses.pop_first() else {
                break;
            };
            self.budget -= 1;
            let now = self.now;
            let hop = self.hop_mut(id);
            let pause = if hop.reported.destination_mac.is_some() {
                KEEP_ALIVE
            } else {
                hop.attempts += 1;
                (NEIGHBOUR_RETRY * 2u32.pow((hop.attempts - 1).min(5))).min(KEEP_ALIVE)
            };
            hop.next_use = now + pause;
            let neighbour = hop.key.neighbour;
            let next = (hop.next_use, id);
            self.uses.insert(next);
            self.outputs.push_back(TableOutput::Use(neighbour));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let sweep = self.sweep.due.filter(|_| self.sweep.cursor.is_none());
        let pace = (self.budget == 0 && self.has_requests()).then_some(self.refill);
        [sweep, pace, self.use_due()].into_iter().flatten().min()
    }

    fn poll_output(&mut self) -> Option<TableOutput> {
        self.outputs.pop_front().or_else(|| self.next_request())
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

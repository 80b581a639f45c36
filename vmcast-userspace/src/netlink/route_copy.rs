//! A copy of the kernel's routes: a relay whose gateways have an address each finds the ways to them without asking the
//! kernel for each.
//!
//! It answers only what it knows for certain: rules are those that every kernel begins with, and the longest prefix
//! that matches has one route, with one next hop and nothing special about it. All else the kernel is asked, and it is
//! asked everything from the moment that links, addresses, routes, rules or next-hop objects change, until they have
//! been read anew; so nothing has to be followed here.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType},
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use vmcast_common::fib::IfIndex;

use super::table::Route;

/// Lookups by the kernel for which it is worth while to read all routes.
const WORTH: usize = 64;
/// How often they are read at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long it is left alone when there are too many.
const TOO_MANY_INTERVAL: Duration = Duration::from_secs(600);

/// Tables that the kernel looks into by itself, in this order (`RT_TABLE_LOCAL`, `RT_TABLE_MAIN`, `RT_TABLE_DEFAULT`).
const LOCAL: u32 = 255;
const MAIN: u32 = 254;
const DEFAULT: u32 = 253;
/// The priority of a rule and the table that it leads to.
type Rule = (u32, u32);
const RULES_V4: [Rule; 3] = [(0, LOCAL), (32_766, MAIN), (32_767, DEFAULT)];
const RULES_V6: [Rule; 2] = [(0, LOCAL), (32_766, MAIN)];
/// `FIB_RULE_PERMANENT` (linux/fib_rules.h): nobody can remove the rule.
const PERMANENT: u32 = 1;

/// Prefixes of addresses, those of IPv4 in the upper bits.
#[derive(Debug, Default)]
struct Prefixes<V> {
    /// The lengths that there are, the longest first.
    lengths: Vec<u8>,
    entries: HashMap<(u8, u128), V>,
}

impl<V> Prefixes<V> {
    fn entry(&mut self, length: u8, bits: u128) -> std::collections::hash_map::Entry<'_, (u8, u128), V> {
        if let Err(at) = self.lengths.binary_search_by(|other| length.cmp(other)) {
            self.lengths.insert(at, length);
        }
        self.entries.entry((length, cut(bits, length)))
    }

    /// All that an address matches, the longest first.
    fn matching(&self, bits: u128) -> impl Iterator<Item = &V> {
        self.lengths.iter().filter_map(move |length| self.entries.get(&(*length, cut(bits, *length))))
    }
}

const fn cut(bits: u128, length: u8) -> u128 {
    match 128_u32.checked_sub(length as u32) {
        None | Some(0) => bits,
        Some(128) => 0,
        Some(host) => bits >> host << host,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => v6.into(),
    }
}

/// A route that is nothing but this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plain {
    ifindex: IfIndex,
    gateway: Option<IpAddr>,
    mtu: u16,
}

/// The routes of one family.
#[derive(Debug, Default)]
struct Family {
    rules: Vec<Option<Rule>>,
    /// Whether something was read that this does not know how to look up.
    is_odd: bool,
    local: Prefixes<()>,
    /// `None` where the kernel is to be asked.
    main: Prefixes<Option<Plain>>,
}

impl Family {
    fn find(&self, destination: IpAddr) -> Option<Route> {
        let bits = bits(destination);
        // Own addresses and broadcasts; and where such a prefix is shorter than one of another table, it depends.
        if self.is_odd || self.local.matching(bits).next().is_some() {
            return None;
        }
        let mut matching = self.main.matching(bits);
        let Plain { ifindex, gateway, mtu } = (*matching.next()?)?;
        // For IPv6 the kernel may rather take a gateway that it can reach.
        if destination.is_ipv6() && gateway.is_some() && matching.next().is_some() {
            return None;
        }
        Some(Route { ifindex, neighbour: gateway.unwrap_or(destination), mtu })
    }
}

/// All routes, as they were read.
#[derive(Debug, Default)]
pub(super) struct Routes {
    v4: Family,
    v6: Family,
}

impl Routes {
    fn family(&mut self, family: AddressFamily) -> Option<&mut Family> {
        match family {
            AddressFamily::Inet => Some(&mut self.v4),
            AddressFamily::Inet6 => Some(&mut self.v6),
            _ => None,
        }
    }

    /// Takes a rule in.
    pub(super) fn add_rule(&mut self, message: &RuleMessage) {
        if let Some(family) = self.family(message.header.family) {
            family.rules.push(simple_rule(message));
        }
    }

    /// Takes a route in.
    pub(super) fn add_route(&mut self, message: &RouteMessage) {
        let Some(family) = self.family(message.header.address_family) else { return };
        let (mut table, mut prefix) = (u32::from(message.header.table), None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => prefix = Some(IpAddr::V4(*v4)),
                RouteAttribute::Destination(RouteAddress::Inet6(v6)) => prefix = Some(IpAddr::V6(*v6)),
                RouteAttribute::Destination(_) => family.is_odd = true,
                _ => {}
            }
        }
        let (bits, length) = (prefix.map_or(0, bits), message.header.destination_prefix_length);
        match table {
            LOCAL => {
                family.local.entry(length, bits).or_default();
            }
            MAIN => {
                let several = |entry: &mut Option<Plain>| *entry = None;
                family.main.entry(length, bits).and_modify(several).or_insert_with(|| plain(message));
                family.is_odd |= message.header.source_prefix_length != 0;
            }
            // Only IPv4 looks there, and nearly nobody has any.
            DEFAULT => family.is_odd |= message.header.address_family == AddressFamily::Inet,
            _ => {}
        }
    }

    /// All has been read.
    pub(super) fn finish(mut self) -> Self {
        for (family, expected) in [(&mut self.v4, &RULES_V4[..]), (&mut self.v6, &RULES_V6[..])] {
            let rules = std::mem::take(&mut family.rules);
            family.is_odd |= !rules.into_iter().eq(expected.iter().copied().map(Some));
        }
        self
    }

    /// The way to an address; `None` if the kernel is to be asked.
    fn find(&self, destination: IpAddr) -> Option<Route> {
        match destination {
            IpAddr::V4(v4)
                if v4.is_multicast() || v4.is_broadcast() || v4.is_loopback() || v4.octets()[0] == 0 =>
            {
                None
            }
            IpAddr::V4(_) => self.v4.find(destination),
            IpAddr::V6(v6)
                if v6.is_multicast()
                    || v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_unicast_link_local() =>
            {
                None
            }
            IpAddr::V6(_) => self.v6.find(destination),
        }
    }
}

/// Priority and table of a rule that asks for nothing.
fn simple_rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let asks = header.dst_len != 0 || header.src_len != 0 || header.tos != 0;
    if asks || header.action != RuleAction::ToTable || header.flags.bits() & !PERMANENT != 0 {
        return None;
    }
    let (mut priority, mut table) = (0, u32::from(header.table));
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(u32::MAX) => {}
            _ => return None,
        }
    }
    Some((priority, table))
}

/// A route to one next hop, in force for as long as it stands in its table.
fn plain(message: &RouteMessage) -> Option<Plain> {
    let of_no_matter = RouteFlags::Onlink
        | RouteFlags::Prefix
        | RouteFlags::Offload
        | RouteFlags::Trap
        | RouteFlags::RtOffload
        | RouteFlags::RtTrap
        | RouteFlags::OffloadFailed;
    let header = &message.header;
    if header.kind != RouteType::Unicast
        || header.tos != 0
        || !header.flags.difference(of_no_matter).is_empty()
    {
        return None;
    }
    let (mut ifindex, mut gateway, mut mtu) = (None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(number) => ifindex = Some(IfIndex(*number)),
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
            RouteAttribute::Metrics(metrics) => {
                let told = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
                mtu = told.map_or(0, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX));
            }
            RouteAttribute::CacheInfo(info) if info.expires == 0 && info.error == 0 => {}
            RouteAttribute::Destination(_)
            | RouteAttribute::Table(_)
            | RouteAttribute::Priority(_)
            | RouteAttribute::PrefSource(_)
            | RouteAttribute::Preference(_) => {}
            _ => return None,
        }
    }
    Some(Plain { ifindex: ifindex?, gateway, mtu })
}

/// The copy, if there is one, and when it is worth while to make it.
#[derive(Debug, Default)]
pub(super) struct RouteCopy {
    routes: Option<Routes>,
    /// What the kernel was asked since something changed.
    asked: usize,
    /// Not to be read before.
    not_before: Option<Instant>,
}

impl RouteCopy {
    /// The way to an address; `None` if the kernel is to be asked.
    pub(super) fn find(&self, destination: IpAddr) -> Option<Route> {
        self.routes.as_ref()?.find(destination)
    }

    /// The kernel was asked for so many ways.
    pub(super) const fn note_asked(&mut self, count: usize) {
        self.asked = self.asked.saturating_add(count);
    }

    /// Something has changed that ways depend on, or may have.
    pub(super) fn forget(&mut self) {
        (self.routes, self.asked) = (None, 0);
    }

    /// Whether all routes are to be read now; if so, they are not for a while.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.routes.is_none()
            && self.asked >= WORTH
            && self.not_before.is_none_or(|not_before| now >= not_before);
        if is_due {
            self.not_before = Some(now + INTERVAL);
        }
        is_due
    }

    /// All routes have been read, and nothing has changed since it was begun.
    pub(super) fn set(&mut self, routes: Routes) {
        self.routes = Some(routes);
    }

    /// There are more than are worth while.
    pub(super) fn note_too_many(&mut self, now: Instant) {
        self.not_before = Some(now + TOO_MANY_INTERVAL);
    }
}

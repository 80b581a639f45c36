//! The querier on a link of virtual time, in the family that the module above names.

mod compatibility;
mod election;
mod handover;
mod leave;
mod limits;
mod model;
mod query;
mod tables;
mod tracking;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

pub(super) use vmcast_common::hdr::eth::Mac;
use vmcast_wire::{
    igmp,
    membership::{Message, QueryV3, Record, RecordType},
    mld,
};

use super::FAMILY;
pub(super) use crate::{Filter, Machine, membership::*};

pub(super) const NOBODY: IpAddr = FAMILY.unspecified();
pub(super) const US: IpAddr = neighbour(10);
pub(super) const HOST: IpAddr = neighbour(100);
pub(super) const OTHER_HOST: IpAddr = neighbour(101);
pub(super) const GROUP: IpAddr = group(3);
pub(super) const OTHER_GROUP: IpAddr = group(4);
pub(super) const EVERYBODY: IpAddr = match FAMILY {
    Family::V4 => IpAddr::V4(igmp::ALL_SYSTEMS),
    Family::V6 => IpAddr::V6(mld::ALL_NODES),
};
pub(super) const ALL_ROUTERS: IpAddr = match FAMILY {
    Family::V4 => IpAddr::V4(igmp::ALL_ROUTERS),
    Family::V6 => IpAddr::V6(mld::ALL_ROUTERS),
};
pub(super) const ALL_V3_ROUTERS: IpAddr = match FAMILY {
    Family::V4 => IpAddr::V4(igmp::ALL_IGMPV3_ROUTERS),
    Family::V6 => IpAddr::V6(mld::ALL_MLDV2_ROUTERS),
};
/// Group Membership Interval at the default values.
pub(super) const MEMBERSHIP: Duration = Duration::from_secs(270);

/// A host or router of the link.
pub(super) const fn neighbour(last: u8) -> IpAddr {
    match FAMILY {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last as u16)),
    }
}

/// A group of any sources, by a number of 16 bits.
pub(super) const fn group(last: u16) -> IpAddr {
    match FAMILY {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(239, 1, (last >> 8) as u8, last as u8)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 1, last)),
    }
}

/// A source-specific group.
pub(super) const fn source_specific(last: u8) -> IpAddr {
    match FAMILY {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(232, 1, 2, last)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, last as u16)),
    }
}

/// A source, by a number of 16 bits.
pub(super) const fn wide_source(last: u16) -> IpAddr {
    match FAMILY {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(198, 51, (last >> 8) as u8, last as u8)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)),
    }
}

pub(super) const IS_IN: RecordType = RecordType::ModeIsInclude;
pub(super) const IS_EX: RecordType = RecordType::ModeIsExclude;
pub(super) const TO_IN: RecordType = RecordType::ChangeToIncludeMode;
pub(super) const TO_EX: RecordType = RecordType::ChangeToExcludeMode;
pub(super) const ALLOW: RecordType = RecordType::AllowNewSources;
pub(super) const BLOCK: RecordType = RecordType::BlockOldSources;

/// The default values, with our address.
pub(super) fn config() -> Config {
    Config { address: US, ..Config::new(FAMILY) }
}

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn source(last: u8) -> IpAddr {
    wide_source(last.into())
}

pub(super) fn sources(last: &[u8]) -> Vec<IpAddr> {
    last.iter().copied().map(source).collect()
}

pub(super) fn include(last: &[u8]) -> Filter {
    Filter::Include(last.iter().map(|last| source(*last)).collect())
}

pub(super) fn exclude(last: &[u8]) -> Filter {
    Filter::Exclude(last.iter().map(|last| source(*last)).collect())
}

/// A query that was sent, reduced to what differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    General,
    Group { group: IpAddr, suppress: bool },
    Sources { group: IpAddr, suppress: bool, sources: Vec<IpAddr> },
}

pub(super) fn asked_group(suppress: bool) -> Asked {
    Asked::Group { group: GROUP, suppress }
}

pub(super) fn asked_sources(suppress: bool, last: &[u8]) -> Asked {
    Asked::Sources { group: GROUP, suppress, sources: sources(last) }
}

/// A querier, the time, and what it did when.
pub(super) struct Link {
    pub(super) querier: Querier,
    pub(super) start: Instant,
    pub(super) now: Instant,
    /// By which link-layer address messages come.
    pub(super) link_source: Option<Mac>,
    /// Whether nobody else on the link hears them.
    pub(super) link_unicast: bool,
    /// Whether they come from hosts that were heard in a flood alone.
    pub(super) stranger: bool,
    pub(super) asked: Vec<(Duration, Asked)>,
    pub(super) events: Vec<(Duration, Event)>,
}

impl Link {
    pub(super) fn new(config: Config) -> Self {
        let start = start();
        let querier = Querier::new(start, config).unwrap();
        let mut link = Self {
            querier,
            start,
            now: start,
            link_source: None,
            link_unicast: false,
            stranger: false,
            asked: Vec::new(),
            events: Vec::new(),
        };
        link.drain();
        link
    }

    /// A querier at the default values that has sent its startup queries.
    pub(super) fn settled() -> Self {
        Self::settled_with(config())
    }

    pub(super) fn settled_with(config: Config) -> Self {
        let mut link = Self::new(config);
        link.advance(secs(40));
        link.asked.clear();
        link
    }

    /// One whose startup queries the hosts have had time to answer.
    pub(super) fn answered_with(config: Config) -> Self {
        let mut link = Self::settled_with(config);
        link.advance(secs(15));
        link
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.querier.poll_output() {
            let at = self.elapsed();
            match output {
                Output::Event(event) => self.events.push((at, event)),
                Output::Transmit { source, destination, payload } => {
                    assert_eq!(source, self.querier.config().address);
                    let asked = match read(source, destination, &payload) {
                        Message::QueryV1 => Asked::General,
                        Message::QueryV2 { group, .. } if group.is_unspecified() => Asked::General,
                        Message::QueryV2 { group, .. } => Asked::Group { group, suppress: false },
                        Message::QueryV3(query) if query.group.is_unspecified() => Asked::General,
                        Message::QueryV3(QueryV3 {
                            group,
                            sources,
                            suppress_router_side_processing: suppress,
                            ..
                        }) if sources.is_empty() => Asked::Group { group, suppress },
                        Message::QueryV3(QueryV3 {
                            group,
                            sources,
                            suppress_router_side_processing: suppress,
                            ..
                        }) => Asked::Sources { group, suppress, sources },
                        other => panic!("a querier sent {other:?}"),
                    };
                    let expected = match &asked {
                        Asked::General => EVERYBODY,
                        Asked::Group { group, .. } | Asked::Sources { group, .. } => *group,
                    };
                    assert_eq!(destination, expected);
                    self.asked.push((at, asked));
                }
            }
        }
    }

    /// Lets time pass, every timer firing at its own moment.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.querier.poll_timeout().filter(|due| *due <= end) {
            assert!(due >= self.now, "a timer in the past");
            self.now = due;
            self.querier.handle_timeout(due);
            assert!(self.querier.poll_timeout().is_none_or(|next| next > due), "a due timer was left");
            self.drain();
        }
        self.now = end;
    }

    pub(super) fn datagram(&mut self, source: IpAddr, destination: IpAddr, message: &Message) {
        self.bytes(source, destination, 1, &message.emit(source, destination).unwrap());
    }

    pub(super) fn bytes(&mut self, source: IpAddr, destination: IpAddr, ttl: u8, payload: &[u8]) {
        let input = Input::Datagram {
            source,
            link_source: self.link_source,
            link_unicast: self.link_unicast,
            stranger: self.stranger,
            destination,
            ttl,
            router_alert: true,
            payload,
        };
        self.querier.handle_input(self.now, input);
        self.drain();
    }

    pub(super) fn report(&mut self, record_type: RecordType, last: &[u8]) {
        self.report_of(GROUP, record_type, sources(last));
    }

    pub(super) fn report_of(&mut self, group: IpAddr, record_type: RecordType, sources: Vec<IpAddr>) {
        let records = vec![Record { record_type, group, sources }];
        self.datagram(HOST, ALL_V3_ROUTERS, &Message::ReportV3 { records });
    }

    pub(super) fn report_from(&mut self, host: IpAddr, record_type: RecordType, last: &[u8]) {
        let records = vec![Record { record_type, group: GROUP, sources: sources(last) }];
        self.datagram(host, ALL_V3_ROUTERS, &Message::ReportV3 { records });
    }

    pub(super) fn report_v1(&mut self) {
        self.datagram(HOST, GROUP, &Message::ReportV1 { group: GROUP });
    }

    pub(super) fn report_v2(&mut self) {
        self.datagram(HOST, GROUP, &Message::ReportV2 { group: GROUP });
    }

    pub(super) fn leave(&mut self) {
        self.datagram(HOST, ALL_ROUTERS, &Message::Leave { group: GROUP });
    }

    /// What was asked since the last call.
    pub(super) fn take_asked(&mut self) -> Vec<Asked> {
        self.asked.drain(..).map(|(_, asked)| asked).collect()
    }

    /// What was asked since the last call, General Queries apart, with the time since `from`.
    pub(super) fn take_specific(&mut self, from: Duration) -> Vec<(Duration, Asked)> {
        self.asked
            .drain(..)
            .filter(|(_, asked)| *asked != Asked::General)
            .map(|(at, asked)| (at - from, asked))
            .collect()
    }

    /// Membership changes since the last call; each is of [`GROUP`], so nobody else got anything.
    pub(super) fn take_filters(&mut self) -> Vec<Filter> {
        self.events
            .drain(..)
            .map(|(_, event)| match event {
                Event::Membership { group, filter } => {
                    assert_eq!(group, GROUP, "another group changed");
                    filter
                }
                Event::QuerierChanged { querier } => panic!("the querier changed to {querier:?}"),
                Event::OtherVersion { router, version } => panic!("{router} speaks {version:?}"),
                Event::Serving { serving } => panic!("serving became {serving}"),
                Event::QuerierNotAllowed { router } => panic!("{router} may not ask"),
            })
            .collect()
    }

    pub(super) fn info(&self) -> GroupInfo {
        self.querier.groups(self.now).find(|info| info.group == GROUP).expect("the group has members")
    }

    pub(super) fn refused(&self, reason: Refusal) -> u64 {
        self.querier.counters().refused(reason)
    }

    pub(super) fn refusals(&self) -> BTreeSet<Refusal> {
        self.querier.counters().refusals().filter(|(_, count)| *count > 0).map(|(reason, _)| reason).collect()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can only be had from the clock; tests count from it"
)]
pub(super) fn start() -> Instant {
    Instant::now()
}

/// Reads a message of the family.
pub(super) fn read(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Message {
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => igmp::Message::parse(payload).unwrap().into(),
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            mld::Message::parse(source, destination, payload).unwrap().into()
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// Sends one message and says which reason it was refused for, if any.
pub(super) fn refusal(config: Config, send: impl FnOnce(&mut Link)) -> Option<Refusal> {
    let mut link = Link::settled_with(config);
    send(&mut link);
    assert_eq!(link.asked, []);
    let refusals = link.refusals();
    assert!(refusals.len() <= 1);
    assert_eq!(refusals.is_empty(), !link.events.is_empty(), "refused or acted upon, never both");
    refusals.first().copied()
}

//! The querier on a link of virtual time.

mod compatibility;
mod election;
mod leave;
mod limits;
mod model;
mod query;
mod tables;

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use vmcast_wire::igmp::{ALL_IGMPV3_ROUTERS, ALL_ROUTERS, ALL_SYSTEMS, Message, QueryV3, Record, RecordType};

use super::*;
use crate::{Filter, Machine};

const US: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const OTHER_GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 4);
/// Group Membership Interval at the default values.
const MEMBERSHIP: Duration = Duration::from_secs(260);

const IS_IN: RecordType = RecordType::ModeIsInclude;
const IS_EX: RecordType = RecordType::ModeIsExclude;
const TO_IN: RecordType = RecordType::ChangeToIncludeMode;
const TO_EX: RecordType = RecordType::ChangeToExcludeMode;
const ALLOW: RecordType = RecordType::AllowNewSources;
const BLOCK: RecordType = RecordType::BlockOldSources;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn source(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, last)
}

fn sources(last: &[u8]) -> Vec<Ipv4Addr> {
    last.iter().copied().map(source).collect()
}

fn include(last: &[u8]) -> Filter {
    Filter::Include(last.iter().map(|last| source(*last).into()).collect())
}

fn exclude(last: &[u8]) -> Filter {
    Filter::Exclude(last.iter().map(|last| source(*last).into()).collect())
}

/// A query that was sent, reduced to what differs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    General,
    Group { group: Ipv4Addr, suppress: bool },
    Sources { group: Ipv4Addr, suppress: bool, sources: Vec<Ipv4Addr> },
}

fn asked_group(suppress: bool) -> Asked {
    Asked::Group { group: GROUP, suppress }
}

fn asked_sources(suppress: bool, last: &[u8]) -> Asked {
    Asked::Sources { group: GROUP, suppress, sources: sources(last) }
}

/// A querier, the time, and what it did when.
struct Link {
    querier: Querier,
    start: Instant,
    now: Instant,
    asked: Vec<(Duration, Asked)>,
    events: Vec<(Duration, Event)>,
}

impl Link {
    fn new(config: Config) -> Self {
        let start = start();
        let querier = Querier::new(start, config).unwrap();
        let mut link = Self { querier, start, now: start, asked: Vec::new(), events: Vec::new() };
        link.drain();
        link
    }

    /// A querier at the default values that has sent its startup queries.
    fn settled() -> Self {
        Self::settled_with(Config { address: US, ..Config::default() })
    }

    fn settled_with(config: Config) -> Self {
        let mut link = Self::new(config);
        link.advance(secs(40));
        link.asked.clear();
        link
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn drain(&mut self) {
        while let Some(output) = self.querier.poll_output() {
            let at = self.elapsed();
            match output {
                Output::Event(event) => self.events.push((at, event)),
                Output::Transmit { destination, payload } => {
                    let asked = match Message::parse(&payload).unwrap() {
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
                        Asked::General => ALL_SYSTEMS,
                        Asked::Group { group, .. } | Asked::Sources { group, .. } => *group,
                    };
                    assert_eq!(destination, expected);
                    self.asked.push((at, asked));
                }
            }
        }
    }

    /// Lets time pass, every timer firing at its own moment.
    fn advance(&mut self, by: Duration) {
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

    fn datagram(&mut self, source: Ipv4Addr, destination: Ipv4Addr, message: &Message) {
        self.bytes(source, destination, 1, &message.emit());
    }

    fn bytes(&mut self, source: Ipv4Addr, destination: Ipv4Addr, ttl: u8, payload: &[u8]) {
        let input = Input::Datagram { source, destination, ttl, router_alert: true, payload };
        self.querier.handle_input(self.now, input);
        self.drain();
    }

    fn report(&mut self, record_type: RecordType, last: &[u8]) {
        self.report_of(GROUP, record_type, sources(last));
    }

    fn report_of(&mut self, group: Ipv4Addr, record_type: RecordType, sources: Vec<Ipv4Addr>) {
        let records = vec![Record { record_type, group, sources }];
        self.datagram(HOST, ALL_IGMPV3_ROUTERS, &Message::ReportV3 { records });
    }

    fn report_v1(&mut self) {
        self.datagram(HOST, GROUP, &Message::ReportV1 { group: GROUP });
    }

    fn report_v2(&mut self) {
        self.datagram(HOST, GROUP, &Message::ReportV2 { group: GROUP });
    }

    fn leave(&mut self) {
        self.datagram(HOST, ALL_ROUTERS, &Message::LeaveGroup { group: GROUP });
    }

    /// What was asked since the last call.
    fn take_asked(&mut self) -> Vec<Asked> {
        self.asked.drain(..).map(|(_, asked)| asked).collect()
    }

    /// What was asked since the last call, General Queries apart, with the time since `from`.
    fn take_specific(&mut self, from: Duration) -> Vec<(Duration, Asked)> {
        self.asked
            .drain(..)
            .filter(|(_, asked)| *asked != Asked::General)
            .map(|(at, asked)| (at - from, asked))
            .collect()
    }

    /// Membership changes since the last call; each is of [`GROUP`], so nobody else got anything.
    fn take_filters(&mut self) -> Vec<Filter> {
        self.events
            .drain(..)
            .map(|(_, event)| match event {
                Event::Membership { group, filter } => {
                    assert_eq!(group, GROUP, "another group changed");
                    filter
                }
                Event::QuerierChanged { querier } => panic!("the querier changed to {querier:?}"),
            })
            .collect()
    }

    fn info(&self) -> GroupInfo {
        self.querier.groups(self.now).find(|info| info.group == GROUP).expect("the group has members")
    }

    fn refused(&self, reason: Refusal) -> u64 {
        self.querier.counters().refused(reason)
    }

    fn refusals(&self) -> BTreeSet<Refusal> {
        self.querier.counters().refusals().filter(|(_, count)| *count > 0).map(|(reason, _)| reason).collect()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can only be had from the clock; tests count from it"
)]
fn start() -> Instant {
    Instant::now()
}

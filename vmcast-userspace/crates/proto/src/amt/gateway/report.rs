//! Reports in IP datagrams that fit the path.

use std::net::{Ipv4Addr, SocketAddr};

use vmcast_common::hdr::ipv4::PROTO_IGMP;
use vmcast_wire::{
    igmp::{self, Record, RecordType},
    ipv4,
};

/// Headers inside the tunnel: AMT, IPv4 with Router Alert, IGMPv3 report.
const INNER_HEADERS: usize = 12 + 24 + 8;
/// Headers outside: UDP, and IPv4 or IPv6.
const OUTER_V4: usize = 8 + 20;
const OUTER_V6: usize = 8 + 40;
/// A group record without sources.
const RECORD: usize = 8;
const SOURCE: usize = 4;

/// How many bytes of group records fit in a datagram to `relay`; always one record with a source.
pub(super) fn room(mtu: u16, relay: SocketAddr) -> usize {
    let outer = if relay.is_ipv4() { OUTER_V4 } else { OUTER_V6 };
    usize::from(mtu).saturating_sub(outer + INNER_HEADERS).max(RECORD + SOURCE)
}

/// Packs records into IP datagrams with at most `room` bytes of records each.
///
/// A list too long for one datagram is split: the first part has the record's own type, the rest
/// follows as ALLOW_NEW_SOURCES, which adds to it. An exclude list cannot be split and loses its
/// end (RFC 9776 §4.2.16).
pub(super) fn datagrams(source: Ipv4Addr, room: usize, records: Vec<Record>) -> Vec<Vec<u8>> {
    let mut reports = Vec::new();
    let mut report = Vec::new();
    let mut used = 0;
    for record in records.into_iter().flat_map(|record| split(record, (room - RECORD) / SOURCE)) {
        let length = RECORD + SOURCE * record.sources.len();
        if used + length > room && !report.is_empty() {
            reports.push(std::mem::take(&mut report));
            used = 0;
        }
        used += length;
        report.push(record);
    }
    if !report.is_empty() {
        reports.push(report);
    }
    reports.into_iter().map(|records| datagram(source, records)).collect()
}

/// An IGMPv2 Leave Group in an IP datagram.
///
/// It follows each record that tells the end of a membership, and tells a router nothing new: it means
/// `TO_IN({})` (RFC 9776 §7.3.2). Linux's relay (`drivers/net/amt.c`) sends none of the queries that would end
/// a membership it was told the end of by version 3, and forwards until the Group Membership Interval is over,
/// 260 s; by Leave Group it ends at once.
pub(super) fn leave(source: Ipv4Addr, group: Ipv4Addr) -> Vec<u8> {
    let leave = igmp::Message::LeaveGroup { group }.emit();
    let (to, tos) = (igmp::ALL_ROUTERS, ipv4::TOS_INTERNETWORK_CONTROL);
    ipv4::encapsulate(source, to, 1, tos, PROTO_IGMP, true, &leave)
}

fn split(mut record: Record, most: usize) -> Vec<Record> {
    if record.sources.len() <= most {
        return vec![record];
    }
    let mut rest = record.sources.split_off(most);
    let rest_type = match record.record_type {
        RecordType::ModeIsInclude | RecordType::ChangeToIncludeMode | RecordType::AllowNewSources => {
            RecordType::AllowNewSources
        }
        RecordType::BlockOldSources => RecordType::BlockOldSources,
        RecordType::ModeIsExclude | RecordType::ChangeToExcludeMode | RecordType::Unrecognized(_) => {
            rest.clear();
            record.record_type
        }
    };
    let group = record.group;
    let rest = rest.chunks(most).map(|part| Record { record_type: rest_type, group, sources: part.to_vec() });
    let rest: Vec<_> = rest.collect();
    std::iter::once(record).chain(rest).collect()
}

fn datagram(source: Ipv4Addr, records: Vec<Record>) -> Vec<u8> {
    let report = igmp::Message::ReportV3 { records }.emit();
    let (to, tos) = (igmp::ALL_IGMPV3_ROUTERS, ipv4::TOS_INTERNETWORK_CONTROL);
    ipv4::encapsulate(source, to, 1, tos, PROTO_IGMP, true, &report)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(record_type: RecordType, last: u8, sources: u16) -> Record {
        let source = |number: u16| Ipv4Addr::from(0xc633_0000 + u32::from(number));
        Record {
            record_type,
            group: Ipv4Addr::new(232, 1, 1, last),
            sources: (0..sources).map(source).collect(),
        }
    }

    fn unpack(datagrams: &[Vec<u8>]) -> Vec<Vec<Record>> {
        let records = |bytes: &Vec<u8>| {
            let datagram = ipv4::decapsulate(bytes).unwrap();
            assert!(
                datagram.router_alert
                    && datagram.ttl == 1
                    && datagram.destination == igmp::ALL_IGMPV3_ROUTERS
            );
            match igmp::Message::parse(datagram.payload).unwrap() {
                igmp::Message::ReportV3 { records } => records,
                other => panic!("{other:?}"),
            }
        };
        datagrams.iter().map(records).collect()
    }

    #[test]
    fn no_datagram_exceeds_the_mtu_and_no_record_is_lost() {
        let room = room(1280, "192.0.2.1:2268".parse().unwrap());
        let records: Vec<_> = (0..200).map(|last| record(RecordType::ModeIsExclude, last, 3)).collect();
        let datagrams = datagrams(Ipv4Addr::UNSPECIFIED, room, records.clone());
        assert_eq!(datagrams.len(), 4);
        assert!(datagrams.iter().all(|bytes| bytes.len() + 12 + OUTER_V4 <= 1280));
        assert_eq!(unpack(&datagrams).concat(), records);
        assert!(super::datagrams(Ipv4Addr::UNSPECIFIED, room, Vec::new()).is_empty());
    }

    #[test]
    fn a_long_include_list_goes_on_as_allow_records_and_a_long_exclude_list_is_cut() {
        let room = RECORD + SOURCE * 10;
        let long = record(RecordType::ChangeToIncludeMode, 1, 25);
        let sent = unpack(&datagrams(Ipv4Addr::UNSPECIFIED, room, vec![long.clone()])).concat();
        let types: Vec<_> = sent.iter().map(|record| record.record_type).collect();
        assert_eq!(
            types,
            [RecordType::ChangeToIncludeMode, RecordType::AllowNewSources, RecordType::AllowNewSources]
        );
        let sources: Vec<_> = sent.into_iter().flat_map(|record| record.sources).collect();
        assert_eq!(sources, long.sources);

        let long = record(RecordType::ChangeToExcludeMode, 1, 25);
        let sent = unpack(&datagrams(Ipv4Addr::UNSPECIFIED, room, vec![long.clone()])).concat();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].sources, long.sources[..10]);
    }
}

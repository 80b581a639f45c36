//! Reports in IP datagrams that fit the path.

use std::net::{IpAddr, SocketAddr};

use vmcast_wire::membership::{Message, Record, RecordType};

use crate::amt::encapsulated::{Protocol, encapsulate};

/// Headers inside the tunnel: AMT, IPv4 with Router Alert, IGMPv3 report.
const INNER_V4: usize = 12 + 24 + 8;
/// The same with IPv6 and its hop-by-hop options, MLDv2 report.
const INNER_V6: usize = 12 + 48 + 8;
/// Headers outside: UDP, and IPv4 or IPv6.
const OUTER_V4: usize = 8 + 20;
const OUTER_V6: usize = 8 + 40;
/// A group record without its addresses.
const RECORD: usize = 4;

/// Bytes of an address.
const fn address(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Igmp => 4,
        Protocol::Mld => 16,
    }
}

/// How many bytes of group records fit in a datagram to `relay`; always one record with a source.
pub(super) fn room(mtu: u16, relay: SocketAddr, protocol: Protocol) -> usize {
    let outer = if relay.is_ipv4() { OUTER_V4 } else { OUTER_V6 };
    let inner = match protocol {
        Protocol::Igmp => INNER_V4,
        Protocol::Mld => INNER_V6,
    };
    usize::from(mtu).saturating_sub(outer + inner).max(RECORD + 2 * address(protocol))
}

/// Packs records into IP datagrams with at most `room` bytes of records each.
///
/// A list too long for one datagram is split: the first part has the record's own type, the rest
/// follows as ALLOW_NEW_SOURCES, which adds to it. An exclude list cannot be split and loses its
/// end (RFC 9776 §4.2.16, RFC 9777 §5.2.15).
pub(super) fn datagrams(source: IpAddr, room: usize, records: Vec<Record<IpAddr>>) -> Vec<Vec<u8>> {
    let address = address(Protocol::of(source));
    let mut reports = Vec::new();
    let mut report = Vec::new();
    let mut used = 0;
    for record in records.into_iter().flat_map(|record| split(record, (room - RECORD - address) / address)) {
        let length = RECORD + address * (1 + record.sources.len());
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

/// An IGMPv2 Leave Group, or MLDv1 Done, in an IP datagram.
///
/// It follows each record that tells the end of a membership, and tells a router nothing new: it means
/// `TO_IN({})` (RFC 9776 §7.3.2, RFC 9777 §8.3.2). Linux's relay (`drivers/net/amt.c`) sends none of the queries
/// that would end a membership it was told the end of by version 3, and forwards until the Group Membership
/// Interval is over, 260 s; by Leave Group it ends at once.
pub(super) fn leave(source: IpAddr, group: IpAddr) -> Vec<u8> {
    encapsulate(source, Protocol::of(source).all_routers(), &Message::Leave { group })
}

fn split(mut record: Record<IpAddr>, most: usize) -> Vec<Record<IpAddr>> {
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

fn datagram(source: IpAddr, records: Vec<Record<IpAddr>>) -> Vec<u8> {
    encapsulate(source, Protocol::of(source).all_routers_v3(), &Message::ReportV3 { records })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::amt::encapsulated::Encapsulated;

    const PROTOCOLS: [Protocol; 2] = [Protocol::Igmp, Protocol::Mld];

    fn source(protocol: Protocol, number: u16) -> IpAddr {
        match protocol {
            Protocol::Igmp => Ipv4Addr::from(0xc633_0000 + u32::from(number)).into(),
            Protocol::Mld => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number).into(),
        }
    }

    fn record(protocol: Protocol, record_type: RecordType, last: u8, sources: u16) -> Record<IpAddr> {
        let group = match protocol {
            Protocol::Igmp => Ipv4Addr::new(232, 1, 1, last).into(),
            Protocol::Mld => Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, last.into()).into(),
        };
        Record { record_type, group, sources: (0..sources).map(|number| source(protocol, number)).collect() }
    }

    fn unpack(protocol: Protocol, datagrams: &[Vec<u8>]) -> Vec<Vec<Record<IpAddr>>> {
        let records = |bytes: &Vec<u8>| {
            let Encapsulated { message, destination, ttl, router_alert } =
                Encapsulated::parse(bytes).unwrap();
            assert_eq!((destination, ttl, router_alert), (protocol.all_routers_v3(), 1, true));
            match message {
                Message::ReportV3 { records } => records,
                other => panic!("{other:?}"),
            }
        };
        datagrams.iter().map(records).collect()
    }

    #[test]
    fn no_datagram_exceeds_the_mtu_and_no_record_is_lost() {
        for (protocol, expected) in [(Protocol::Igmp, 4), (Protocol::Mld, 12)] {
            for (relay, outer) in [("192.0.2.1:2268", OUTER_V4), ("[2001:db8::1]:2268", OUTER_V6)] {
                let room = room(1280, relay.parse().unwrap(), protocol);
                let record = |last| record(protocol, RecordType::ModeIsExclude, last, 3);
                let records: Vec<_> = (0..200).map(record).collect();
                let datagrams = datagrams(protocol.unspecified(), room, records.clone());
                let sizes: Vec<_> = datagrams.iter().map(|bytes| bytes.len() + 12 + outer).collect();
                assert!(sizes.iter().all(|size| *size <= 1280), "{sizes:?}");
                assert_eq!(datagrams.len(), expected, "{protocol:?} to {relay}");
                assert_eq!(unpack(protocol, &datagrams).concat(), records);
                assert!(super::datagrams(protocol.unspecified(), room, Vec::new()).is_empty());
            }
        }
    }

    #[test]
    fn a_long_include_list_goes_on_as_allow_records_and_a_long_exclude_list_is_cut() {
        for protocol in PROTOCOLS {
            let room = RECORD + address(protocol) * 11;
            let send =
                |record| unpack(protocol, &datagrams(protocol.unspecified(), room, vec![record])).concat();
            let long = record(protocol, RecordType::ChangeToIncludeMode, 1, 25);
            let sent = send(long.clone());
            let types: Vec<_> = sent.iter().map(|record| record.record_type).collect();
            assert_eq!(
                types,
                [RecordType::ChangeToIncludeMode, RecordType::AllowNewSources, RecordType::AllowNewSources]
            );
            let sources: Vec<_> = sent.into_iter().flat_map(|record| record.sources).collect();
            assert_eq!(sources, long.sources);

            let long = record(protocol, RecordType::ChangeToExcludeMode, 1, 25);
            let sent = send(long.clone());
            assert_eq!(sent.len(), 1);
            assert_eq!(sent[0].sources, long.sources[..10]);
        }
    }
}

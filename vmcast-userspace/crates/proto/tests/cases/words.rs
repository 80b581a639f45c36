//! Words of authors for messages of IGMP and MLD, and how lines are read.
//!
//! A message is one of `query1`, `query2 GROUP RESPONSE`, `query3 GROUP RESPONSE [S] [qrv=N] [qqi=N] [SOURCE,...]`,
//! `v1 GROUP`, `v2 GROUP`, `leave GROUP`, `report TYPE GROUP [SOURCE,...] [; TYPE GROUP ...]`; a query of all groups has
//! the group `-`. In front there may be `from ADDRESS`, `by` and a link-layer address as hexadecimal digits,
//! `to ADDRESS`, `ttl N` and `plain` for no Router Alert.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use vmcast_proto::{Filter, membership::Family};
use vmcast_wire::{
    igmp,
    membership::{Message, QueryV3, Record, RecordType},
    mld,
};

use super::case::{Config, time};

/// A message and what its datagram is to say.
pub(crate) struct Said {
    pub(crate) from: IpAddr,
    /// The link-layer address in hexadecimal digits, if it is known.
    pub(crate) by: Option<String>,
    pub(crate) to: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) alert: bool,
    pub(crate) message: Message,
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "half a byte in {text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("digits")).collect()
}

/// What is quoted of a datagram, `-` for nothing.
pub(crate) fn quoted_bytes(text: &str) -> Vec<u8> {
    if text == "-" { Vec::new() } else { unhex(text) }
}

pub(crate) fn parse<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("cannot read \"{text}\""))
}

pub(crate) fn duration(text: &str) -> Duration {
    time(text).unwrap_or_else(|| panic!("no time: {text}"))
}

pub(crate) fn filter(text: &str) -> Filter {
    let (mode, sources) = text.strip_suffix('}').and_then(|text| text.split_once('{')).expect("a filter");
    let sources = sources.split(',').filter(|source| !source.is_empty()).map(parse).collect();
    match mode {
        "include" => Filter::Include(sources),
        "exclude" => Filter::Exclude(sources),
        _ => panic!("no filter mode: {mode}"),
    }
}

/// Takes the one value of a key out of a configuration.
pub(crate) fn take<T: std::str::FromStr>(config: &mut Config, key: &str) -> Option<T> {
    config.remove(key).map(|values| parse(&values[0]))
}

pub(crate) fn take_duration(config: &mut Config, key: &str) -> Option<Duration> {
    config.remove(key).map(|values| duration(&values[0]))
}

pub(crate) fn all_hosts(family: Family) -> IpAddr {
    match family {
        Family::V4 => igmp::ALL_SYSTEMS.into(),
        Family::V6 => mld::ALL_NODES.into(),
    }
}

fn record_type(name: &str) -> RecordType {
    match name {
        "IS_IN" => RecordType::ModeIsInclude,
        "IS_EX" => RecordType::ModeIsExclude,
        "TO_IN" => RecordType::ChangeToIncludeMode,
        "TO_EX" => RecordType::ChangeToExcludeMode,
        "ALLOW" => RecordType::AllowNewSources,
        "BLOCK" => RecordType::BlockOldSources,
        other => RecordType::Unrecognized(parse(other)),
    }
}

fn addresses(text: Option<&&str>) -> Vec<IpAddr> {
    text.map(|text| text.split(',').map(parse).collect()).unwrap_or_default()
}

fn group(family: Family, text: &str) -> IpAddr {
    if text == "-" { family.unspecified() } else { parse(text) }
}

/// Reads a message in words; `from` is where it comes from unless it says so.
pub(crate) fn said(family: Family, from: IpAddr, words: &[&str]) -> Said {
    let (mut from, mut by, mut to, mut ttl, mut alert) = (from, None, None, 1, true);
    let mut words = words;
    loop {
        match words {
            ["from", address, rest @ ..] => (from, words) = (parse(address), rest),
            ["by", link, rest @ ..] => (by, words) = (Some((*link).to_owned()), rest),
            ["to", address, rest @ ..] => (to, words) = (Some(parse(address)), rest),
            ["ttl", number, rest @ ..] => (ttl, words) = (parse(number), rest),
            ["plain", rest @ ..] => (alert, words) = (false, rest),
            _ => break,
        }
    }
    let (all_routers, all_v3): (IpAddr, IpAddr) = match family {
        Family::V4 => (igmp::ALL_ROUTERS.into(), igmp::ALL_IGMPV3_ROUTERS.into()),
        Family::V6 => (mld::ALL_ROUTERS.into(), mld::ALL_MLDV2_ROUTERS.into()),
    };
    let (message, usual) = match words {
        ["query1"] => (Message::QueryV1, all_hosts(family)),
        ["query2", asked, time] => {
            let group = group(family, asked);
            let usual = if group.is_unspecified() { all_hosts(family) } else { group };
            (Message::QueryV2 { max_resp_time: duration(time), group }, usual)
        }
        ["query3", asked, time, options @ ..] => {
            let group = group(family, asked);
            let mut query = QueryV3 {
                max_resp_time: duration(time),
                group,
                suppress_router_side_processing: false,
                robustness_variable: 2,
                query_interval: Duration::from_secs(125),
                sources: Vec::new(),
            };
            for option in options {
                if *option == "S" {
                    query.suppress_router_side_processing = true;
                } else if let Some(value) = option.strip_prefix("qrv=") {
                    query.robustness_variable = parse(value);
                } else if let Some(value) = option.strip_prefix("qqi=") {
                    query.query_interval = duration(value);
                } else {
                    query.sources = addresses(Some(option));
                }
            }
            let usual = if group.is_unspecified() { all_hosts(family) } else { group };
            (Message::QueryV3(query), usual)
        }
        ["v1", group] => (Message::ReportV1 { group: parse(group) }, parse(group)),
        ["v2", group] => (Message::ReportV2 { group: parse(group) }, parse(group)),
        ["leave", group] => (Message::Leave { group: parse(group) }, all_routers),
        ["report", records @ ..] => {
            let record = |words: &[&str]| Record {
                record_type: record_type(words[0]),
                group: parse(words[1]),
                sources: addresses(words.get(2)),
            };
            (Message::ReportV3 { records: records.split(|word| *word == ";").map(record).collect() }, all_v3)
        }
        _ => panic!("no message: {words:?}"),
    };
    Said { from, by, to: to.unwrap_or(usual), ttl, alert, message }
}

/// Reads a message off the wire.
pub(crate) fn read(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Option<Message> {
    match (source, destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => Some(igmp::Message::parse(payload).ok()?.into()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Some(mld::Message::parse(source, destination, payload).ok()?.into())
        }
        _ => None,
    }
}

/// Bytes whose checksum, at the third and fourth, is made right.
pub(crate) fn summed(source: IpAddr, destination: IpAddr, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[2..4].fill(0);
    let mut all = match (source, destination) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = u32::try_from(bytes.len()).expect("a short message").to_be_bytes();
            [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, 58]].concat()
        }
        _ => Vec::new(),
    };
    all.extend(&bytes);
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let sum = vmcast_common::checksum::fold(all.chunks(2).map(word).sum());
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The unspecified address of a family, where a tunnel's messages come from.
pub(crate) fn nobody(group: IpAddr) -> IpAddr {
    match group {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

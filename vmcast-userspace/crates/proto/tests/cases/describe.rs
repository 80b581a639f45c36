//! What messages say, in few words.

use std::net::IpAddr;

use vmcast_proto::record::seconds;
use vmcast_wire::{
    amt, ipv4, ipv6,
    membership::{Message, RecordType},
};

use super::words::read;

fn listed(sources: &[IpAddr]) -> String {
    let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
    format!("{{{}}}", sources.join(","))
}

fn group(group: &IpAddr) -> String {
    if group.is_unspecified() { "general".to_owned() } else { group.to_string() }
}

pub(crate) fn message(message: &Message) -> String {
    match message {
        Message::QueryV1 => "query of version 1".to_owned(),
        Message::QueryV2 { max_resp_time, group: asked } => {
            format!("older query {} in {} s", group(asked), seconds(*max_resp_time))
        }
        Message::QueryV3(query) => format!(
            "query {}{} in {} s{} QRV {} QQI {}",
            group(&query.group),
            if query.sources.is_empty() { String::new() } else { listed(&query.sources) },
            seconds(query.max_resp_time),
            if query.suppress_router_side_processing { " S" } else { "" },
            query.robustness_variable,
            seconds(query.query_interval),
        ),
        Message::ReportV1 { group } => format!("report of version 1 {group}"),
        Message::ReportV2 { group } => format!("older report {group}"),
        Message::Leave { group } => format!("leave {group}"),
        Message::ReportV3 { records } => {
            let records: Vec<_> = records
                .iter()
                .map(|record| {
                    let name = match record.record_type {
                        RecordType::ModeIsInclude => "IS_IN",
                        RecordType::ModeIsExclude => "IS_EX",
                        RecordType::ChangeToIncludeMode => "TO_IN",
                        RecordType::ChangeToExcludeMode => "TO_EX",
                        RecordType::AllowNewSources => "ALLOW",
                        RecordType::BlockOldSources => "BLOCK",
                        RecordType::Unrecognized(_) => "unknown type",
                    };
                    format!("{name} {} {}", record.group, listed(&record.sources))
                })
                .collect();
            format!("report {}", records.join(", "))
        }
    }
}

pub(crate) fn membership(source: IpAddr, destination: IpAddr, payload: &[u8]) -> String {
    read(source, destination, payload).map_or_else(|| "not a good message".to_owned(), |it| message(&it))
}

/// An IP datagram within a tunnel.
fn inner(bytes: &[u8]) -> String {
    let parts = match bytes.first().map(|first| first >> 4) {
        Some(4) => {
            ipv4::decapsulate(bytes).ok().map(|it| (it.source.into(), it.destination.into(), it.payload))
        }
        Some(6) => {
            ipv6::decapsulate(bytes).ok().map(|it| (it.source.into(), it.destination.into(), it.payload))
        }
        _ => None,
    };
    let Some((source, destination, payload)): Option<(IpAddr, IpAddr, &[u8])> = parts else {
        return "no good datagram".to_owned();
    };
    match read(source, destination, payload) {
        Some(said) => message(&said),
        None => format!("{source} > {destination}"),
    }
}

pub(crate) fn amt(bytes: &[u8]) -> String {
    use amt::Message;
    let flag = |set: bool, name: &'static str| if set { name } else { "" };
    match amt::Message::parse(bytes) {
        Err(error) => error.to_string(),
        Ok(Message::RelayDiscovery { nonce }) => format!("Relay Discovery {nonce:08x}"),
        Ok(Message::RelayAdvertisement { nonce, relay }) => {
            format!("Relay Advertisement {nonce:08x} {relay}")
        }
        Ok(Message::Request { ipv6, ecn, nonce }) => {
            format!("Request {nonce:08x}{}{}", flag(ipv6, " P"), flag(ecn, " E"))
        }
        Ok(Message::MembershipQuery { nonce, limit, gateway, query, .. }) => {
            let gateway = gateway.map(|it| format!(" G {}", it.socket_addr())).unwrap_or_default();
            format!("Membership Query {nonce:08x}{}{gateway}: {}", flag(limit, " L"), inner(query))
        }
        Ok(Message::MembershipUpdate { nonce, update, .. }) => {
            format!("Membership Update {nonce:08x}: {}", inner(update))
        }
        Ok(Message::MulticastData { packet }) => format!("Multicast Data: {}", inner(packet)),
        Ok(Message::Teardown { nonce, gateway, .. }) => {
            format!("Teardown {nonce:08x} {}", gateway.socket_addr())
        }
    }
}

//! Words of authors for AMT messages.
//!
//! `discovery NONCE`, `advertisement NONCE ADDRESS`, `request NONCE [P] [E]`, `query NONCE [L] [G ADDRESS] MESSAGE`,
//! `update NONCE MESSAGE`, `teardown NONCE ADDRESS`, `data SOURCE GROUP`; nonces are eight digits. What has a Response
//! MAC is written without one.

use std::net::{IpAddr, SocketAddr};

use vmcast_proto::membership::Family;
use vmcast_wire::{amt::Message, ipv4, ipv6, mld};

use super::words::{Said, nobody, parse, said, unhex};

fn nonce(text: &str) -> u32 {
    u32::from_be_bytes(unhex(text).try_into().expect("four bytes"))
}

/// A message in the datagram that it has within a tunnel.
fn datagram(words: &[&str]) -> Vec<u8> {
    let mut words = words.to_vec();
    // It is of the version of IP that the first address in it is; a General Query says which.
    let sixth = words.first() == Some(&"mld");
    words.retain(|word| *word != "mld");
    let address = words.iter().find_map(|word| word.parse::<IpAddr>().ok());
    let family = if sixth { Family::V6 } else { address.map_or(Family::V4, Family::of) };
    let Said { from, to, ttl, alert, message, by: _ } = said(family, nobody(family.unspecified()), &words);
    let bytes = message.emit(from, to).expect("of one family");
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ipv4::encapsulate(from, to, ttl, ipv4::TOS_INTERNETWORK_CONTROL, 2, alert, &bytes)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let class = ipv6::CLASS_INTERNETWORK_CONTROL;
            ipv6::encapsulate(from, to, ttl, class, mld::NEXT_ICMPV6, alert, &bytes)
        }
        _ => panic!("two families"),
    }
}

/// A multicast packet with a few bytes.
fn packet(source: &str, group: &str) -> Vec<u8> {
    match (parse(source), parse(group)) {
        (IpAddr::V4(source), IpAddr::V4(group)) => {
            ipv4::encapsulate(source, group, 16, 0, 17, false, &[1, 2, 3, 4])
        }
        (IpAddr::V6(source), IpAddr::V6(group)) => {
            ipv6::encapsulate(source, group, 16, 0, 17, false, &[1, 2, 3, 4])
        }
        _ => panic!("two families"),
    }
}

/// The bytes of a message in words, with the given Response MAC; `None` if the words are no such message.
pub(crate) fn bytes(response_mac: [u8; 6], words: &[&str]) -> Option<Vec<u8>> {
    Some(match words {
        ["discovery", at] => Message::RelayDiscovery { nonce: nonce(at) }.to_vec(),
        ["advertisement", at, relay] => {
            Message::RelayAdvertisement { nonce: nonce(at), relay: parse(relay) }.to_vec()
        }
        ["request", at, flags @ ..] => {
            let flag = |name| flags.contains(&name);
            Message::Request { ipv6: flag("P"), ecn: flag("E"), nonce: nonce(at) }.to_vec()
        }
        ["query", at, rest @ ..] => {
            let (limit, rest) = match rest {
                ["L", rest @ ..] => (true, rest),
                _ => (false, rest),
            };
            let (gateway, rest) = match rest {
                ["G", address, rest @ ..] => (Some(parse::<SocketAddr>(address).into()), rest),
                _ => (None, rest),
            };
            let query = &datagram(rest);
            Message::MembershipQuery { response_mac, nonce: nonce(at), limit, gateway, query }.to_vec()
        }
        ["update", at, rest @ ..] => {
            let update = &datagram(rest);
            Message::MembershipUpdate { response_mac, nonce: nonce(at), update }.to_vec()
        }
        ["teardown", at, address] => {
            let gateway = parse::<SocketAddr>(address).into();
            Message::Teardown { response_mac, nonce: nonce(at), gateway }.to_vec()
        }
        ["data", source, group] => Message::MulticastData { packet: &packet(source, group) }.to_vec(),
        _ => return None,
    })
}

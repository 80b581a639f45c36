use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use vmcast::netlink::{message, notify};

/// Length of a netlink message header in bytes.
const HEADER: usize = 16;
/// The messages that are decoded: new and removed link, address, route, neighbour, rule, group.
const KINDS: [u16; 12] = [16, 17, 20, 21, 24, 25, 28, 29, 32, 33, 56, 57];

/// What the kernel sends over rtnetlink: the bytes as a datagram, and as the body of one message of
/// every kind.
pub fn netlink(data: &[u8]) {
    check(data);
    for kind in KINDS {
        let length = HEADER + data.len();
        let mut datagram = Vec::with_capacity(length);
        datagram.extend((length as u32).to_ne_bytes());
        datagram.extend(kind.to_ne_bytes());
        datagram.resize(HEADER, 0);
        datagram.extend(data);
        check(&datagram);
    }
}

fn check(datagram: &[u8]) {
    let mut notifications = VecDeque::new();
    notify::read(datagram, &mut notifications);
    assert!(notifications.len() <= datagram.len() / HEADER, "one notification a message at most");
    if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) {
        answer(message.payload);
    }
}

/// Reads a message as the answer to a request.
fn answer(payload: NetlinkPayload<RouteNetlinkMessage>) {
    let NetlinkPayload::InnerMessage(message) = payload else { return };
    match message {
        RouteNetlinkMessage::NewLink(link) => {
            assert_eq!(message::link(&link).is_some(), message::table_link(&link).is_some());
        }
        RouteNetlinkMessage::NewAddress(address) => {
            let index = address.header.index;
            assert!(message::address(&address).is_none_or(|(ifindex, ..)| ifindex.0 == index));
        }
        RouteNetlinkMessage::NewNeighbour(neighbour) => {
            let ifindex = neighbour.header.ifindex;
            assert!(message::neighbour(&neighbour).is_none_or(|(known, _)| known.ifindex.0 == ifindex));
        }
        RouteNetlinkMessage::NewRoute(route) => {
            for destination in
                [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])]
            {
                if let Err(error) = message::route(&route, destination) {
                    assert!(!error.to_string().is_empty());
                }
            }
        }
        _ => {}
    }
}

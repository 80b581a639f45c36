use vmcast::agent::read_host_packet;
use vmcast_proto::membership::{Family, Input};

use crate::seal_ipv4;

/// What the host of an agent sends on its interface: as it is, and with a sound header.
pub fn host_packet(data: &[u8]) {
    check(data);
    let mut sealed = data.to_vec();
    if let [first, _, length @ ..] = &mut sealed[..]
        && *first >> 4 == 4
        && length.len() >= 2
    {
        length[..2].copy_from_slice(&(data.len() as u16).to_be_bytes());
    }
    seal_ipv4(&mut sealed);
    check(&sealed);
}

/// What is IGMP or MLD is of one family, and a part of the packet; anything else has a reason.
fn check(packet: &[u8]) {
    match read_host_packet(packet) {
        Ok((family, Input::Datagram { source, destination, payload, .. })) => {
            assert_eq!((Family::of(source), Family::of(destination)), (family, family));
            let version = if family == Family::V4 { 4 } else { 6 };
            assert_eq!(packet[0] >> 4, version);
            let outside = packet.as_ptr_range();
            assert!(payload.is_empty() || outside.contains(&payload.as_ptr()));
            assert!(payload.len() < packet.len());
        }
        Ok((_, other)) => panic!("{other:?} is no datagram"),
        Err(reason) => assert!(!reason.label().is_empty()),
    }
}

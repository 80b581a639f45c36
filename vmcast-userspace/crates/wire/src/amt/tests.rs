use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

const MAC: ResponseMac = [1, 2, 3, 4, 5, 6];

fn v4_gateway() -> GatewayAddress {
    SocketAddr::from((Ipv4Addr::new(198, 51, 100, 7), 0x1234)).into()
}

fn encoded() -> Vec<(Message<'static>, Vec<u8>)> {
    let mut query = vec![0x04, 0x03, 1, 2, 3, 4, 5, 6, 0xde, 0xad, 0xbe, 0xef];
    query.extend_from_slice(b"query");
    query.extend_from_slice(&[0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 198, 51, 100, 7]);
    let mut teardown = vec![0x07, 0x00, 1, 2, 3, 4, 5, 6, 0xde, 0xad, 0xbe, 0xef];
    teardown.extend_from_slice(&[0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 198, 51, 100, 7]);
    let nonce = 0xdead_beef;
    vec![
        (Message::RelayDiscovery { nonce }, vec![1, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef]),
        (
            Message::RelayAdvertisement { nonce, relay: Ipv4Addr::new(192, 0, 2, 9).into() },
            vec![2, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef, 192, 0, 2, 9],
        ),
        (
            Message::RelayAdvertisement { nonce, relay: Ipv6Addr::LOCALHOST.into() },
            vec![2, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ),
        (Message::Request { ipv6: false, ecn: false, nonce }, vec![3, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef]),
        (Message::Request { ipv6: true, ecn: false, nonce }, vec![3, 1, 0, 0, 0xde, 0xad, 0xbe, 0xef]),
        (Message::Request { ipv6: false, ecn: true, nonce }, vec![3, 2, 0, 0, 0xde, 0xad, 0xbe, 0xef]),
        (
            Message::MembershipQuery {
                response_mac: MAC,
                nonce,
                limit: true,
                gateway: Some(v4_gateway()),
                query: b"query",
            },
            query,
        ),
        (
            Message::MembershipUpdate { response_mac: MAC, nonce, update: b"up" },
            vec![5, 0, 1, 2, 3, 4, 5, 6, 0xde, 0xad, 0xbe, 0xef, b'u', b'p'],
        ),
        (Message::MulticastData { packet: b"data" }, vec![6, 0, b'd', b'a', b't', b'a']),
        (Message::Teardown { response_mac: MAC, nonce, gateway: v4_gateway() }, teardown),
    ]
}

#[test]
fn every_message_is_encoded_as_the_rfc_draws_it_and_decoded_again() {
    for (message, bytes) in encoded() {
        assert_eq!(message.to_vec(), bytes, "{message:?}");
        assert_eq!(message.buffer_len(), bytes.len(), "{message:?}");
        assert_eq!(Message::parse(&bytes), Ok(message));
        assert_eq!(Message::peek_type(&bytes), Ok(message.message_type()));
    }
}

#[test]
fn a_message_cut_at_any_length_is_an_error_or_a_shorter_payload_but_never_a_panic() {
    for (message, bytes) in encoded() {
        for length in 0..bytes.len() {
            let cut = Message::parse(&bytes[..length]);
            match cut {
                Ok(shorter) => assert_eq!(shorter.buffer_len(), length, "{message:?} cut at {length}"),
                Err(ParseError::Empty) => assert_eq!(length, 0),
                Err(ParseError::Truncated { message: kind, length: at, needed }) => {
                    assert_eq!((kind, at), (message.message_type(), length));
                    assert!(needed > length, "{message:?} cut at {length} asks for {needed}");
                }
                Err(ParseError::RelayAddress { length: address }) => assert_eq!(address, length - 8),
                Err(error @ (ParseError::Version { .. } | ParseError::Type { .. })) => {
                    panic!("{message:?} cut at {length}: {error}")
                }
            }
        }
    }
}

#[test]
fn messages_of_fixed_length_ignore_what_follows_them() {
    for (message, mut bytes) in encoded() {
        let fixed = matches!(
            message,
            Message::RelayDiscovery { .. } | Message::Request { .. } | Message::Teardown { .. }
        );
        if fixed {
            bytes.extend_from_slice(b"trailer");
            assert_eq!(Message::parse(&bytes), Ok(message));
        }
    }
}

#[test]
fn reserved_bits_are_ignored() {
    for (message, mut bytes) in encoded() {
        match message {
            Message::RelayDiscovery { .. } | Message::RelayAdvertisement { .. } => bytes[1..4].fill(0xff),
            Message::Request { .. } => {
                bytes[1] |= 0xfc;
                bytes[2..4].fill(0xff);
            }
            Message::MembershipQuery { .. } => bytes[1] |= 0xfc,
            Message::MembershipUpdate { .. } | Message::MulticastData { .. } | Message::Teardown { .. } => {
                bytes[1] = 0xff;
            }
        }
        assert_eq!(Message::parse(&bytes), Ok(message));
    }
}

#[test]
fn the_second_request_of_a_linux_gateway_is_recognized() {
    let linux = [3, 0x80, 0, 0, 0, 0, 0, 7];
    assert_eq!(Message::parse(&linux), Ok(Message::Request { ipv6: false, ecn: false, nonce: 7 }));
    assert!(Message::is_linux_request(&linux));
    assert_eq!(Message::linux_request(7), linux);
    for other in [&[][..], &[3], &[3, 0, 0, 0, 0, 0, 0, 7], &[4, 0x80, 0, 0, 0, 0, 0, 7]] {
        assert!(!Message::is_linux_request(other), "{other:?}");
    }
}

#[test]
fn an_unknown_version_or_type_is_named() {
    let version = Message::parse(&[0x11, 0, 0, 0, 0, 0, 0, 0]).unwrap_err();
    assert_eq!(version, ParseError::Version { value: 1 });
    assert_eq!(version.to_string(), "AMT version 1 at byte 0 is not supported, only version 0 is");
    for value in [0, 8, 15] {
        assert_eq!(Message::parse(&[value; 40]), Err(ParseError::Type { value }));
    }
}

#[test]
fn gateway_addresses_of_both_families_survive_and_a_mapped_one_reads_as_ipv4() {
    for ip in
        [IpAddr::from(Ipv4Addr::new(10, 1, 2, 3)), "2001:db8::5".parse().unwrap(), "::1".parse().unwrap()]
    {
        let address = SocketAddr::new(ip, 50_000);
        assert_eq!(GatewayAddress::from(address).socket_addr(), address);
    }
    let mapped = SocketAddr::new("::ffff:10.1.2.3".parse().unwrap(), 7);
    assert_eq!(GatewayAddress::from(mapped).socket_addr(), "10.1.2.3:7".parse().unwrap());
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_what_decodes_encodes_to_the_same_meaning(
        kind in 0u8..9,
        mut bytes in proptest::collection::vec(any::<u8>(), 1..80),
    ) {
        bytes[0] = kind;
        if let Ok(message) = Message::parse(&bytes) {
            let again = message.to_vec();
            prop_assert_eq!(Message::parse(&again), Ok(message));
            prop_assert!(again.len() <= bytes.len());
        }
    }

    #[test]
    fn wholly_random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = Message::parse(&bytes);
    }
}

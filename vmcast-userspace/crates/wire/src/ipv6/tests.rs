use proptest::prelude::*;

use super::*;

const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const MESSAGE: [u8; 8] = [130, 0, 1, 2, 3, 4, 5, 6];

fn sample() -> Vec<u8> {
    encapsulate(SOURCE, ALL_NODES, 1, CLASS_INTERNETWORK_CONTROL, 58, true, &MESSAGE)
}

#[test]
fn a_query_looks_as_the_rfcs_draw_it() {
    let mut expected = vec![0x6c, 0, 0, 0, 0, 16, 0, 1];
    expected.extend(SOURCE.octets());
    expected.extend(ALL_NODES.octets());
    expected.extend([58, 0, 5, 2, 0, 0, 1, 0]);
    expected.extend(MESSAGE);
    assert_eq!(sample(), expected);
}

#[test]
fn padding_after_the_payload_length_is_no_payload() {
    let mut bytes = sample();
    bytes.extend_from_slice(&[0xaa; 14]);
    let datagram = decapsulate(&bytes).unwrap();
    assert_eq!(datagram.payload, MESSAGE);
    assert!(datagram.router_alert);
}

#[test]
fn every_truncation_is_an_error_and_says_what_is_missing() {
    let bytes = sample();
    for len in 0..bytes.len() {
        let expected = if len < 40 {
            Error::Truncated { offset: 0, needed: 40, have: len }
        } else {
            Error::Truncated { offset: 4, needed: 56, have: len }
        };
        assert_eq!(decapsulate(&bytes[..len]), Err(expected));
    }
}

#[test]
fn impossible_headers_are_named() {
    let with = |at: usize, value: u8| {
        let mut bytes = sample();
        bytes[at] = value;
        decapsulate(&bytes).unwrap_err()
    };
    assert_eq!(with(0, 0x4c), Error::Version { offset: 0, value: 4 });
    assert_eq!(with(5, 17), Error::Truncated { offset: 4, needed: 57, have: 56 });
    assert_eq!(with(41, 2), Error::Truncated { offset: 40, needed: 64, have: 56 });
    // A payload length of 0, as of a jumbogram, leaves no room for the options.
    assert_eq!(with(5, 0), Error::Truncated { offset: 40, needed: 42, have: 40 });
    assert_eq!(with(40, 44), Error::Fragment { offset: 40 });
    assert_eq!(with(6, 44), Error::Fragment { offset: 6 });
}

#[test]
fn options_are_walked_without_trusting_their_lengths() {
    let with = |options: [u8; 6]| {
        let mut bytes = sample();
        bytes[42..48].copy_from_slice(&options);
        decapsulate(&bytes).map(|datagram| datagram.router_alert)
    };
    assert_eq!(with([5, 2, 0, 0, 1, 0]), Ok(true));
    assert_eq!(with([0, 0, 5, 2, 0, 0]), Ok(true), "padding may come first");
    assert_eq!(with([5, 2, 0, 1, 1, 0]), Ok(false), "RSVP is no MLD");
    assert_eq!(with([1, 4, 5, 2, 0, 0]), Ok(false), "nothing stands in padding");
    assert_eq!(with([0x1e, 4, 0, 0, 0, 0]), Ok(false), "an unknown option that may be passed over");
    assert_eq!(with([0x5e, 4, 0, 0, 0, 0]), Err(Error::UnknownOption { offset: 42, value: 0x5e }));
    assert_eq!(with([5, 5, 0, 0, 1, 0]), Err(Error::OptionLength { offset: 42, value: 5 }));
    assert_eq!(with([0, 1, 255, 0, 0, 0]), Err(Error::OptionLength { offset: 43, value: 255 }));
    assert_eq!(with([0, 0, 0, 0, 0, 5]), Err(Error::OptionLength { offset: 47, value: 0 }));
}

#[test]
fn other_headers_are_left_to_be_a_payload() {
    let bytes = encapsulate(SOURCE, ALL_NODES, 64, 0, 60, false, &MESSAGE);
    let datagram = decapsulate(&bytes).unwrap();
    assert_eq!((datagram.protocol, datagram.router_alert, datagram.payload), (60, false, &MESSAGE[..]));
}

proptest! {
    #[test]
    fn what_is_wrapped_unwraps_to_the_same(
        source: u128, destination: u128, hop_limit: u8, traffic_class: u8, protocol in 1u8..44, router_alert: bool,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (source, destination) = (Ipv6Addr::from(source), Ipv6Addr::from(destination));
        let bytes = encapsulate(source, destination, hop_limit, traffic_class, protocol, router_alert, &payload);
        let expected =
            Datagram { source, destination, hop_limit, traffic_class, protocol, router_alert, payload: &payload };
        prop_assert_eq!(decapsulate(&bytes), Ok(expected));
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), shape: bool) {
        if shape && bytes.len() >= 60 {
            bytes[0] = 0x60 | (bytes[0] & 0x0f);
            let length = bytes.len() - 40;
            bytes[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            bytes[6] &= 1;
            bytes[41] &= 1;
            bytes[42] &= 0x27;
            bytes[43] &= 3;
        }
        if let Ok(datagram) = decapsulate(&bytes) {
            prop_assert!(datagram.payload.len() <= bytes.len() - 40);
        }
    }
}

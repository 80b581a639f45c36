use proptest::prelude::*;

use super::*;

const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ALL_SYSTEMS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

fn sample() -> Vec<u8> {
    encapsulate(SOURCE, ALL_SYSTEMS, 1, TOS_INTERNETWORK_CONTROL, 2, true, &[0x11, 0, 0xee, 0xff, 0, 0, 0, 0])
}

/// Writes a checksum that fits, after a test changed the header.
fn seal(datagram: &mut [u8]) {
    let header_len = usize::from(datagram[0] & 0x0f) * 4;
    datagram[10..12].fill(0);
    let sum: u32 = datagram[..header_len].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let checksum = vmcast_common::checksum::fold(sum);
    datagram[10..12].copy_from_slice(&checksum.to_be_bytes());
}

#[test]
fn a_query_looks_as_the_rfc_draws_it() {
    let expected = [
        0x46, 0xc0, 0x00, 0x20, 0x00, 0x00, 0x40, 0x00, 0x01, 0x02, 0x42, 0x15, 192, 0, 2, 1, 224, 0, 0, 1,
        0x94, 0x04, 0x00, 0x00, 0x11, 0x00, 0xee, 0xff, 0x00, 0x00, 0x00, 0x00,
    ];
    assert_eq!(sample(), expected);
}

#[test]
fn padding_after_the_total_length_is_no_payload() {
    let mut bytes = sample();
    bytes.extend_from_slice(&[0xaa; 14]);
    let datagram = decapsulate(&bytes).unwrap();
    assert_eq!(datagram.payload.len(), 8);
    assert!(datagram.router_alert);
}

#[test]
fn every_truncation_is_an_error_and_says_what_is_missing() {
    let bytes = sample();
    for len in 0..bytes.len() {
        let expected = if len < 20 {
            Error::Truncated { offset: 0, needed: 20, have: len }
        } else {
            Error::Truncated { offset: 2, needed: 32, have: len }
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
    assert_eq!(with(0, 0x66), Error::Version { offset: 0, value: 6 });
    assert_eq!(with(0, 0x44), Error::Length { offset: 0, value: 16, least: 20 });
    assert_eq!(with(3, 0x17), Error::Length { offset: 2, value: 23, least: 24 });
    assert!(matches!(with(8, 2), Error::BadChecksum { offset: 10, .. }));
}

#[test]
fn first_and_later_fragments_are_refused() {
    for flags in [0x2000u16, 0x0001, 0x2005] {
        let mut bytes = sample();
        bytes[6..8].copy_from_slice(&flags.to_be_bytes());
        seal(&mut bytes);
        assert_eq!(decapsulate(&bytes), Err(Error::Fragment { offset: 6, value: flags }));
    }
}

#[test]
fn options_are_walked_without_trusting_their_lengths() {
    let with = |options: [u8; 4]| {
        let mut bytes = sample();
        bytes[20..24].copy_from_slice(&options);
        seal(&mut bytes);
        decapsulate(&bytes).map(|datagram| datagram.router_alert)
    };
    assert_eq!(with([148, 4, 0, 0]), Ok(true));
    assert_eq!(with([148, 4, 0, 1]), Ok(false), "a reserved value asks for nothing");
    assert_eq!(with([1, 1, 1, 1]), Ok(false));
    assert_eq!(with([0, 148, 4, 0]), Ok(false), "nothing follows the end of the list");
    assert_eq!(with([148, 0, 0, 0]), Err(Error::OptionLength { offset: 20, value: 0 }));
    assert_eq!(with([148, 1, 0, 0]), Err(Error::OptionLength { offset: 20, value: 1 }));
    assert_eq!(with([1, 148, 4, 0]), Err(Error::OptionLength { offset: 21, value: 4 }));
    assert_eq!(with([1, 1, 1, 148]), Err(Error::OptionLength { offset: 23, value: 0 }));
}

proptest! {
    #[test]
    fn what_is_wrapped_unwraps_to_the_same(
        source: u32, destination: u32, ttl: u8, tos: u8, protocol: u8, router_alert: bool,
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (source, destination) = (Ipv4Addr::from(source), Ipv4Addr::from(destination));
        let bytes = encapsulate(source, destination, ttl, tos, protocol, router_alert, &payload);
        let expected = Datagram { source, destination, ttl, tos, protocol, router_alert, payload: &payload };
        prop_assert_eq!(decapsulate(&bytes), Ok(expected));
        let (header, rest) = Ipv4Header::from_slice(&bytes).unwrap();
        prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
        prop_assert_eq!(rest, &payload[..]);
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), seal_it: bool) {
        if seal_it && bytes.len() >= 60 {
            bytes[0] = 0x40 | (bytes[0] % 11 + 5);
            bytes[2..4].copy_from_slice(&[0, 60]);
            bytes[6] &= 0x40;
            bytes[7] = 0;
            seal(&mut bytes);
        }
        if let Ok(datagram) = decapsulate(&bytes) {
            prop_assert!(datagram.payload.len() <= bytes.len() - 20);
        }
    }
}

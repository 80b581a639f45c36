use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Presentation and data.
const EXAMPLES: [(&str, &str); 5] = [
    // RFC 8777 §4.3.2; its second hex string ends in 0f where the text has ::15.
    ("10 0 1 203.0.113.15", "0a01cb00710f"),
    ("10 0 2 2001:db8::f", "0a0220010db800000000000000000000000f"),
    ("128 1 3 amtrelays.example.com.", "808309616d7472656c617973076578616d706c6503636f6d00"),
    ("0 0 0 .", "0000"),
    ("255 1 2 ::1", "ff8200000000000000000000000000000001"),
];

// proves A6 (RFC 8777 §4.2.1 to §4.2.4, §4.3.1)
#[test]
fn every_type_is_read_and_written_as_the_rfc_draws_it() {
    for (shown, hex) in EXAMPLES {
        let data = bytes(hex);
        let record = Record::parse(&data).unwrap();
        assert_eq!(record.to_string(), shown);
        assert_eq!(record.to_vec(), data, "{shown}");
        assert_eq!(record.discovery_optional, shown.split(" ").nth(1) == Some("1"), "{shown}");
    }
}

// RFC 8777 §4.2.3
#[test]
fn a_type_that_is_not_defined_is_told_as_such_whatever_its_field_has() {
    for kind in 4..=127u8 {
        for field in [&b""[..], b"x", &[0xff; 40]] {
            let data = [&[7, kind | 0x80][..], field].concat();
            let record = Record::parse(&data).unwrap();
            assert_eq!(record.relay, Relay::Unknown(kind));
            assert_eq!((record.precedence, record.discovery_optional), (7, true));
        }
    }
}

#[test]
fn what_is_malformed_is_refused_and_the_error_says_where() {
    for (hex, error) in [
        ("", Error::Truncated { offset: 0, needed: 2, have: 0 }),
        ("0a", Error::Truncated { offset: 0, needed: 2, have: 1 }),
        ("0a00ff", Error::Excess { needed: 2, have: 3 }),
        ("0a01cb0071", Error::Truncated { offset: 1, needed: 6, have: 5 }),
        ("0a01cb00710f00", Error::Excess { needed: 6, have: 7 }),
        ("0a02cb00710f", Error::Truncated { offset: 1, needed: 18, have: 6 }),
        ("0a03", Error::Truncated { offset: 2, needed: 3, have: 2 }),
        ("0a030161", Error::Truncated { offset: 4, needed: 5, have: 4 }),
        ("0a030561", Error::Truncated { offset: 2, needed: 8, have: 4 }),
        ("0a03c00c", Error::Label { offset: 2, value: 0xc0 }),
        ("0a0301614000", Error::Label { offset: 4, value: 0x40 }),
        ("0a03016100ff", Error::Excess { needed: 5, have: 6 }),
    ] {
        assert_eq!(Record::parse(&bytes(hex)), Err(error), "{hex}");
    }
}

// RFC 1035 §2.3.4
#[test]
fn a_name_has_255_bytes_at_most() {
    let label = |length: u8| [&[length][..], &vec![b'a'; length.into()]].concat();
    let longest = [label(63), label(63), label(63), label(61), vec![0]].concat();
    assert_eq!(longest.len(), 255);
    assert_eq!(Name::parse(&longest, 0).unwrap().labels().count(), 4);
    let longer = [label(63), label(63), label(63), label(62), vec![0]].concat();
    assert_eq!(Name::parse(&longer, 0), Err(Error::NameTooLong { most: 255 }));
}

// RFC 8777 §2.2
#[test]
fn the_reverse_name_of_a_source_is_that_of_the_reverse_trees() {
    assert_eq!(Name::reverse(ip("198.51.100.12")).to_string(), "12.100.51.198.in-addr.arpa.");
    assert_eq!(
        Name::reverse(ip("2001:db8::a")).to_string(),
        "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."
    );
}

#[test]
fn bytes_of_a_label_that_mean_something_else_are_escaped() {
    let name = Name::parse(b"\x04a.\\ \x01\xff\x00", 0).unwrap();
    assert_eq!(name.to_string(), "a\\.\\\\\\032.\\255.");
    assert_eq!(Name::parse(b"\x00", 0).unwrap().to_string(), ".");
}

proptest! {
    #[test]
    fn what_is_read_is_written_the_same(data in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(record) = Record::parse(&data) {
            let again = record.to_vec();
            prop_assert!(data.starts_with(&again));
            prop_assert_eq!(Record::parse(&again), Ok(record));
        }
    }

    #[test]
    fn a_reverse_name_is_a_sound_name(octets in any::<[u8; 16]>(), v4 in any::<bool>()) {
        let address = if v4 { IpAddr::from([octets[0], octets[1], octets[2], octets[3]]) } else { octets.into() };
        let name = Name::reverse(address);
        prop_assert_eq!(Name::parse(name.as_bytes(), 0), Ok(name.clone()));
        prop_assert_eq!(name.labels().count(), if v4 { 6 } else { 34 });
    }
}

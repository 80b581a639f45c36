use proptest::prelude::*;

use super::*;

const GROUP: Ipv6Addr = Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0, 0x1234);
const FROM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const TO: Ipv6Addr = ALL_MLDV2_ROUTERS;

fn read(bytes: &[u8]) -> Result<Message, Error> {
    Message::parse(FROM, TO, bytes)
}

/// Writes a checksum that fits, after a test changed the message.
fn seal(message: &mut [u8]) {
    message[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].fill(0);
    let checksum = checksum_of(FROM, TO, message);
    message[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    seal(&mut bytes);
    bytes
}

fn address(last: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())
}

fn samples() -> Vec<Message> {
    let record = |record_type, sources: &[u8]| Record {
        record_type,
        group: GROUP,
        sources: sources.iter().copied().map(address).collect(),
    };
    vec![
        Message::QueryV1 { max_resp_delay: Duration::from_secs(10), group: Ipv6Addr::UNSPECIFIED },
        Message::QueryV2(QueryV2 {
            max_resp_time: Duration::from_secs(1),
            group: GROUP,
            suppress_router_side_processing: true,
            robustness_variable: 2,
            query_interval: Duration::from_secs(125),
            sources: vec![address(1), address(2)],
        }),
        Message::ReportV1 { group: GROUP },
        Message::Done { group: GROUP },
        Message::ReportV2 {
            records: vec![
                record(RecordType::ModeIsInclude, &[1]),
                record(RecordType::ModeIsExclude, &[]),
                record(RecordType::ChangeToIncludeMode, &[]),
                record(RecordType::ChangeToExcludeMode, &[4, 5]),
                record(RecordType::AllowNewSources, &[6]),
                record(RecordType::BlockOldSources, &[7]),
            ],
        },
    ]
}

#[test]
fn messages_look_as_the_rfcs_draw_them() {
    let (group, source) = (GROUP.octets(), |last| address(last).octets());
    let expected = [
        [&[130, 0, 0, 0, 0x27, 0x10, 0, 0][..], &[0; 16]].concat(),
        [&[130, 0, 0, 0, 0x03, 0xe8, 0, 0][..], &group, &[0x0a, 125, 0, 2], &source(1), &source(2)].concat(),
        [&[131, 0, 0, 0, 0, 0, 0, 0][..], &group].concat(),
        [&[132, 0, 0, 0, 0, 0, 0, 0][..], &group].concat(),
        [
            &[143, 0, 0, 0, 0, 0, 0, 6][..],
            &[1, 0, 0, 1],
            &group,
            &source(1),
            &[2, 0, 0, 0],
            &group,
            &[3, 0, 0, 0],
            &group,
            &[4, 0, 0, 2],
            &group,
            &source(4),
            &source(5),
            &[5, 0, 0, 1],
            &group,
            &source(6),
            &[6, 0, 0, 1],
            &group,
            &source(7),
        ]
        .concat(),
    ];
    for (message, expected) in samples().iter().zip(expected) {
        let expected = sealed(&expected);
        assert_eq!(message.emit(FROM, TO), expected, "{message:?}");
        assert_eq!(message.buffer_len(), expected.len());
        assert_eq!(read(&expected).as_ref(), Ok(message));
    }
}

#[test]
fn the_checksum_is_the_one_another_implementation_computes_and_covers_the_addresses() {
    for message in samples() {
        let bytes = message.emit(FROM, TO);
        let header = etherparse::Icmpv6Header::from_slice(&bytes).unwrap().0;
        let payload = &bytes[header.header_len()..];
        let expected = header.icmp_type.calc_checksum(FROM.octets(), TO.octets(), payload).unwrap();
        assert_eq!(bytes[2..4], expected.to_be_bytes(), "{message:?}");
        let value = expected;
        let elsewhere = Message::parse(FROM, ALL_NODES, &bytes);
        assert_eq!(elsewhere, Err(Error::BadChecksum { offset: 2, value }), "{message:?}");
        assert_eq!(Message::parse(TO, FROM, &bytes), Ok(message), "a sum has no order");
    }
}

// RFC 9777 §5.1.1
#[test]
fn the_code_is_written_as_0_and_of_no_account_when_read() {
    for message in samples() {
        let mut bytes = message.emit(FROM, TO);
        assert_eq!(bytes[1], 0, "{message:?}");
        bytes[1] = 0xff;
        seal(&mut bytes);
        assert_eq!(read(&bytes), Ok(message));
    }
}

#[test]
fn every_truncation_of_every_message_is_an_error_or_an_older_query() {
    for message in samples() {
        let whole = message.emit(FROM, TO);
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "{message:?} cut to {len}");
            if len < 4 {
                continue;
            }
            // With a checksum that fits, only the fields themselves can tell.
            match read(&sealed(&whole[..len])) {
                Ok(Message::QueryV1 { .. }) => assert_eq!(len, V1_LEN),
                Ok(other) => panic!("{message:?} cut to {len} reads as {other:?}"),
                Err(Error::Truncated { offset, needed, have }) => {
                    assert!(offset <= have && have < needed && have == len, "{message:?} cut to {len}");
                }
                Err(Error::QueryLength { value, .. }) => assert!((25..28).contains(&value)),
                Err(error) => panic!("{message:?} cut to {len}: {error}"),
            }
        }
    }
}

// RFC 9777 §8.1
#[test]
fn queries_are_told_apart_by_length_and_count_time_in_their_own_ways() {
    let query = |code: u16, length: usize| {
        let mut bytes = vec![0; length];
        bytes[0] = TYPE_QUERY;
        bytes[4..6].copy_from_slice(&code.to_be_bytes());
        read(&sealed(&bytes))
    };
    let group = Ipv6Addr::UNSPECIFIED;
    let max_resp_delay = Duration::from_millis(65_535);
    assert_eq!(query(0xffff, 24), Ok(Message::QueryV1 { max_resp_delay, group }), "linear");
    assert_eq!(query(0, 24), Ok(Message::QueryV1 { max_resp_delay: Duration::ZERO, group }));
    for length in 25..28 {
        assert_eq!(query(100, length), Err(Error::QueryLength { offset: length, value: length }));
    }
    let Ok(Message::QueryV2(v2)) = query(0xffff, 28) else { panic!("28 bytes are version 2") };
    assert_eq!(v2.max_resp_time, Duration::from_millis(8_387_584), "a floating-point number");
}

#[test]
fn what_the_fields_cannot_say_is_rounded_down_or_left_out() {
    let query = QueryV2 {
        max_resp_time: Duration::from_millis(32_775),
        group: GROUP,
        suppress_router_side_processing: false,
        robustness_variable: 8,
        query_interval: Duration::from_secs(1_000_000),
        sources: Vec::new(),
    };
    let Ok(Message::QueryV2(back)) = read(&Message::QueryV2(query).emit(FROM, TO)) else { panic!() };
    assert_eq!(back.max_resp_time, Duration::from_millis(32_768));
    assert_eq!(back.robustness_variable, 0);
    assert_eq!(back.query_interval, Duration::from_secs(31_744));
    let long = Message::QueryV1 { max_resp_delay: Duration::from_secs(100), group: GROUP };
    let expected = Message::QueryV1 { max_resp_delay: Duration::from_millis(65_535), group: GROUP };
    assert_eq!(read(&long.emit(FROM, TO)), Ok(expected));
}

#[test]
fn code_and_reserved_fields_auxiliary_data_and_what_follows_the_records_are_passed_over() {
    let group = GROUP.octets();
    let bytes = sealed(
        &[
            &[143, 9, 0, 0, 7, 7, 0, 2][..],
            &[4, 2, 0, 0],
            &group,
            &[9; 8],
            &[77, 1, 0, 1],
            &group,
            &address(1).octets(),
            &[8; 4],
            &[1, 2, 3],
        ]
        .concat(),
    );
    let records = vec![
        Record { record_type: RecordType::ChangeToExcludeMode, group: GROUP, sources: vec![] },
        Record { record_type: RecordType::Unrecognized(77), group: GROUP, sources: vec![address(1)] },
    ];
    assert_eq!(read(&bytes), Ok(Message::ReportV2 { records }));
    let done = sealed(&[&[132, 5, 0, 0, 1, 2, 3, 4][..], &group, &[6; 9]].concat());
    assert_eq!(read(&done), Ok(Message::Done { group: GROUP }));
}

#[test]
fn other_messages_of_icmpv6_are_named() {
    for value in [1, 128, 133, 136, 151] {
        let mut bytes = vec![0; 24];
        bytes[0] = value;
        assert_eq!(read(&sealed(&bytes)), Err(Error::UnknownType { offset: 0, value }));
    }
}

#[test]
fn a_report_that_announces_more_than_it_holds_takes_no_memory_for_it() {
    let bytes = sealed(&[143, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(read(&bytes), Err(Error::Truncated { offset: 8, needed: 9, have: 8 }));
    let bytes = sealed(&[&[143, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0xff, 0xff][..], &GROUP.octets()].concat());
    assert_eq!(read(&bytes), Err(Error::Truncated { offset: 28, needed: 28 + 1_048_560, have: 28 }));
    let bytes = sealed(&[&[143, 0, 0, 0, 0, 0, 0, 1, 1, 0xff, 0, 0][..], &GROUP.octets()].concat());
    assert_eq!(read(&bytes), Err(Error::Truncated { offset: 28, needed: 28 + 1_020, have: 28 }));
}

fn any_address() -> impl Strategy<Value = Ipv6Addr> {
    any::<u128>().prop_map(Ipv6Addr::from)
}

fn any_sources() -> impl Strategy<Value = Vec<Ipv6Addr>> {
    proptest::collection::vec(any_address(), 0..5)
}

fn any_query_v2() -> impl Strategy<Value = Message> {
    (any::<u16>(), any_address(), any::<bool>(), 0u8..8, any::<u8>(), any_sources()).prop_map(
        |(code, group, suppress_router_side_processing, robustness_variable, interval, sources)| {
            Message::QueryV2(QueryV2 {
                max_resp_time: Duration::from_millis(code::decode_two(code).into()),
                group,
                suppress_router_side_processing,
                robustness_variable,
                query_interval: Duration::from_secs(u64::from(code::decode(interval))),
                sources,
            })
        },
    )
}

fn any_report_v2() -> impl Strategy<Value = Message> {
    let record = (any::<u8>(), any_address(), any_sources()).prop_map(|(value, group, sources)| {
        let record_type = match value % 7 {
            1 => RecordType::ModeIsInclude,
            2 => RecordType::ModeIsExclude,
            3 => RecordType::ChangeToIncludeMode,
            4 => RecordType::ChangeToExcludeMode,
            5 => RecordType::AllowNewSources,
            6 => RecordType::BlockOldSources,
            _ => RecordType::Unrecognized(value | 0x80),
        };
        Record { record_type, group, sources }
    });
    proptest::collection::vec(record, 0..5).prop_map(|records| Message::ReportV2 { records })
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u16>(), any_address()).prop_map(|(millis, group)| Message::QueryV1 {
            max_resp_delay: Duration::from_millis(millis.into()),
            group
        }),
        any_query_v2(),
        any_address().prop_map(|group| Message::ReportV1 { group }),
        any_address().prop_map(|group| Message::Done { group }),
        any_report_v2(),
    ]
}

proptest! {
    // RFC 9777 §5.1.12, RFC 2710 §3.7: no bytes behind the fields are sent
    #[test]
    fn what_is_written_reads_back_the_same(message in any_message(), from in any_address(), to in any_address()) {
        let bytes = message.emit(from, to);
        prop_assert_eq!(bytes.len(), message.buffer_len());
        prop_assert_eq!(Message::parse(from, to, &bytes), Ok(message));
    }

    #[test]
    fn random_bytes_never_panic_and_what_they_say_can_be_said_again(
        kind in prop_oneof![Just(130u8), Just(131), Just(132), Just(143), any::<u8>()],
        mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
        small_counts: bool,
    ) {
        if let [first, _, _, _, rest @ ..] = &mut bytes[..] {
            *first = kind;
            if small_counts {
                rest.iter_mut().for_each(|byte| *byte %= 4);
            }
            seal(&mut bytes);
        }
        if let Ok(message) = read(&bytes) {
            prop_assert!(message.buffer_len() <= bytes.len());
            prop_assert_eq!(read(&message.emit(FROM, TO)), Ok(message));
        }
    }
}

use proptest::prelude::*;

use super::*;
use crate::membership::code;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

/// Writes a checksum that fits, after a test changed the message.
fn seal(message: &mut [u8]) {
    message[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].fill(0);
    let checksum = checksum_of(message);
    message[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    seal(&mut bytes);
    bytes
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

fn samples() -> Vec<Message> {
    let record = |record_type, sources: &[u8]| Record {
        record_type,
        group: GROUP,
        sources: sources.iter().copied().map(address).collect(),
    };
    vec![
        Message::QueryV1,
        Message::QueryV2 { max_resp_time: Duration::from_secs(10), group: Ipv4Addr::UNSPECIFIED },
        Message::QueryV3(QueryV3 {
            max_resp_time: Duration::from_secs(1),
            group: GROUP,
            suppress_router_side_processing: true,
            robustness_variable: 2,
            query_interval: Duration::from_secs(125),
            sources: vec![address(1), address(2)],
        }),
        Message::ReportV1 { group: GROUP },
        Message::ReportV2 { group: GROUP },
        Message::LeaveGroup { group: GROUP },
        Message::ReportV3 {
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
    let expected: [&[u8]; 7] = [
        &[0x11, 0, 0xee, 0xff, 0, 0, 0, 0],
        &[0x11, 100, 0xee, 0x9b, 0, 0, 0, 0],
        &[0x11, 10, 0x6f, 0x6d, 239, 1, 2, 3, 0x0a, 125, 0, 2, 192, 0, 2, 1, 192, 0, 2, 2],
        &[0x12, 0, 0xfc, 0xfa, 239, 1, 2, 3],
        &[0x16, 0, 0xf8, 0xfa, 239, 1, 2, 3],
        &[0x17, 0, 0xf7, 0xfa, 239, 1, 2, 3],
        &[
            0x22, 0, 0x58, 0xbc, 0, 0, 0, 6, //
            1, 0, 0, 1, 239, 1, 2, 3, 192, 0, 2, 1, //
            2, 0, 0, 0, 239, 1, 2, 3, //
            3, 0, 0, 0, 239, 1, 2, 3, //
            4, 0, 0, 2, 239, 1, 2, 3, 192, 0, 2, 4, 192, 0, 2, 5, //
            5, 0, 0, 1, 239, 1, 2, 3, 192, 0, 2, 6, //
            6, 0, 0, 1, 239, 1, 2, 3, 192, 0, 2, 7,
        ],
    ];
    for (message, expected) in samples().iter().zip(expected) {
        assert_eq!(message.emit(), expected, "{message:?}");
        assert_eq!(message.buffer_len(), expected.len());
        assert_eq!(Message::parse(expected).as_ref(), Ok(message));
    }
}

#[test]
fn every_truncation_of_every_message_is_an_error_or_an_older_query() {
    for message in samples() {
        let whole = message.emit();
        for len in 0..whole.len() {
            assert!(Message::parse(&whole[..len]).is_err(), "{message:?} cut to {len}");
            if len < 4 {
                continue;
            }
            // With a checksum that fits, only the fields themselves can tell.
            match Message::parse(&sealed(&whole[..len])) {
                Ok(Message::QueryV2 { .. }) => assert_eq!(len, MIN_LEN),
                Ok(other) => panic!("{message:?} cut to {len} reads as {other:?}"),
                Err(Error::Truncated { offset, needed, have }) => {
                    assert!(offset <= have && have < needed && have == len, "{message:?} cut to {len}");
                }
                Err(Error::QueryLength { value, .. }) => assert!((9..12).contains(&value)),
                Err(error) => panic!("{message:?} cut to {len}: {error}"),
            }
        }
    }
}

// RFC 9776 §7.1
#[test]
fn queries_are_told_apart_by_length_and_max_resp_code() {
    let query = |code: u8, length: usize| {
        let mut bytes = vec![0; length];
        (bytes[0], bytes[1]) = (TYPE_QUERY, code);
        Message::parse(&sealed(&bytes))
    };
    assert_eq!(query(0, 8), Ok(Message::QueryV1));
    let max_resp_time = Duration::from_millis(25_500);
    assert_eq!(query(255, 8), Ok(Message::QueryV2 { max_resp_time, group: Ipv4Addr::UNSPECIFIED }));
    for length in 9..12 {
        assert_eq!(query(100, length), Err(Error::QueryLength { offset: length, value: length }));
    }
    let Ok(Message::QueryV3(v3)) = query(255, 12) else { panic!("12 bytes are version 3") };
    assert_eq!(v3.max_resp_time, Duration::from_millis(3_174_400));
    let Ok(Message::QueryV3(_)) = query(0, 12) else { panic!("a code of zero is version 3 if it is long") };
}

#[test]
fn a_version_2_query_never_turns_into_version_1() {
    let message = Message::QueryV2 { max_resp_time: Duration::from_millis(20), group: GROUP };
    let expected = Message::QueryV2 { max_resp_time: Duration::from_millis(100), group: GROUP };
    assert_eq!(Message::parse(&message.emit()), Ok(expected));
}

#[test]
fn what_the_fields_cannot_say_is_rounded_down_or_left_out() {
    let query = QueryV3 {
        max_resp_time: Duration::from_millis(13_350),
        group: GROUP,
        suppress_router_side_processing: false,
        robustness_variable: 8,
        query_interval: Duration::from_secs(1_000_000),
        sources: Vec::new(),
    };
    let Ok(Message::QueryV3(read)) = Message::parse(&Message::QueryV3(query).emit()) else { panic!() };
    assert_eq!(read.max_resp_time, Duration::from_millis(12_800));
    assert_eq!(read.robustness_variable, 0);
    assert_eq!(read.query_interval, Duration::from_secs(31_744));
}

#[test]
fn auxiliary_data_and_what_follows_the_records_is_skipped() {
    let bytes = sealed(&[
        0x22, 0, 0, 0, 0, 0, 0, 2, //
        4, 2, 0, 0, 239, 1, 2, 3, 9, 9, 9, 9, 9, 9, 9, 9, //
        77, 1, 0, 1, 239, 1, 2, 3, 192, 0, 2, 1, 8, 8, 8, 8, //
        1, 2, 3,
    ]);
    let records = vec![
        Record { record_type: RecordType::ChangeToExcludeMode, group: GROUP, sources: vec![] },
        Record { record_type: RecordType::Unrecognized(77), group: GROUP, sources: vec![address(1)] },
    ];
    assert_eq!(Message::parse(&bytes), Ok(Message::ReportV3 { records }));
}

#[test]
fn a_wrong_checksum_and_an_unknown_type_are_named() {
    let mut bytes = Message::ReportV2 { group: GROUP }.emit();
    bytes[7] ^= 1;
    assert_eq!(Message::parse(&bytes), Err(Error::BadChecksum { offset: 2, value: 0xf8fa }));
    let bytes = sealed(&[0x13, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Message::parse(&bytes), Err(Error::UnknownType { offset: 0, value: 0x13 }));
}

#[test]
fn a_report_that_announces_more_than_it_holds_takes_no_memory_for_it() {
    let bytes = sealed(&[0x22, 0, 0, 0, 0, 0, 0xff, 0xff]);
    assert_eq!(Message::parse(&bytes), Err(Error::Truncated { offset: 8, needed: 9, have: 8 }));
    let bytes = sealed(&[0x22, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0xff, 0xff, 239, 1, 2, 3]);
    assert_eq!(Message::parse(&bytes), Err(Error::Truncated { offset: 16, needed: 16 + 262_140, have: 16 }));
}

fn any_address() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

fn any_sources() -> impl Strategy<Value = Vec<Ipv4Addr>> {
    proptest::collection::vec(any_address(), 0..5)
}

fn any_query_v3() -> impl Strategy<Value = Message> {
    (any::<u8>(), any_address(), any::<bool>(), 0u8..8, any::<u8>(), any_sources()).prop_map(
        |(code, group, suppress_router_side_processing, robustness_variable, qqic, sources)| {
            Message::QueryV3(QueryV3 {
                max_resp_time: Duration::from_millis(u64::from(code::decode(code)) * 100),
                group,
                suppress_router_side_processing,
                robustness_variable,
                query_interval: Duration::from_secs(u64::from(code::decode(qqic))),
                sources,
            })
        },
    )
}

fn any_report_v3() -> impl Strategy<Value = Message> {
    let record = (any::<u8>(), any_address(), any_sources()).prop_map(|(value, group, sources)| Record {
        record_type: report_type(value),
        group,
        sources,
    });
    proptest::collection::vec(record, 0..5).prop_map(|records| Message::ReportV3 { records })
}

fn report_type(value: u8) -> RecordType {
    match value % 8 {
        1 => RecordType::ModeIsInclude,
        2 => RecordType::ModeIsExclude,
        3 => RecordType::ChangeToIncludeMode,
        4 => RecordType::ChangeToExcludeMode,
        5 => RecordType::AllowNewSources,
        6 => RecordType::BlockOldSources,
        _ => RecordType::Unrecognized(value | 0x80),
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        Just(Message::QueryV1),
        (1u64..256, any_address()).prop_map(|(tenths, group)| Message::QueryV2 {
            max_resp_time: Duration::from_millis(tenths * 100),
            group
        }),
        any_query_v3(),
        any_address().prop_map(|group| Message::ReportV1 { group }),
        any_address().prop_map(|group| Message::ReportV2 { group }),
        any_address().prop_map(|group| Message::LeaveGroup { group }),
        any_report_v3(),
    ]
}

proptest! {
    // RFC 9776 §4.1.10: no bytes behind the fields are sent
    #[test]
    fn what_is_written_reads_back_the_same(message in any_message()) {
        let bytes = message.emit();
        prop_assert_eq!(bytes.len(), message.buffer_len());
        prop_assert_eq!(Message::parse(&bytes), Ok(message));
    }

    #[test]
    fn random_bytes_never_panic_and_what_they_say_can_be_said_again(
        kind in prop_oneof![Just(0x11u8), Just(0x12), Just(0x16), Just(0x17), Just(0x22), any::<u8>()],
        mut bytes in proptest::collection::vec(any::<u8>(), 0..64),
        small_counts: bool,
    ) {
        if let [first, _, _, _, rest @ ..] = &mut bytes[..] {
            *first = kind;
            if small_counts {
                rest.iter_mut().for_each(|byte| *byte %= 4);
            }
            seal(&mut bytes);
        }
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert!(message.buffer_len() <= bytes.len());
            prop_assert_eq!(Message::parse(&message.emit()), Ok(message));
        }
    }
}

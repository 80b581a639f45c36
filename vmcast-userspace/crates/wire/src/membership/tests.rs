use super::*;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const V4_GROUP: IpAddr = IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
const V6_GROUP: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0, 1));

/// Every message about a group.
fn messages(group: IpAddr, source: IpAddr) -> Vec<Message> {
    let max_resp_time = Duration::from_secs(1);
    vec![
        Message::QueryV2 { max_resp_time, group },
        Message::QueryV3(QueryV3 {
            max_resp_time,
            group,
            suppress_router_side_processing: true,
            robustness_variable: 2,
            query_interval: Duration::from_secs(125),
            sources: vec![source],
        }),
        Message::ReportV2 { group },
        Message::Leave { group },
        Message::ReportV3 {
            records: vec![Record { record_type: RecordType::AllowNewSources, group, sources: vec![source] }],
        },
    ]
}

#[test]
fn every_message_of_either_family_reads_back_the_same() {
    for message in
        messages(V4_GROUP, V4).into_iter().chain([Message::QueryV1, Message::ReportV1 { group: V4_GROUP }])
    {
        let bytes = message.emit(V4, V4_GROUP).unwrap();
        assert_eq!(Message::from(igmp::Message::parse(&bytes).unwrap()), message);
    }
    let (IpAddr::V6(from), IpAddr::V6(to)) = (V6, V6_GROUP) else { unreachable!() };
    for message in messages(V6_GROUP, V6) {
        let bytes = message.emit(V6, V6_GROUP).unwrap();
        assert_eq!(Message::from(mld::Message::parse(from, to, &bytes).unwrap()), message);
    }
}

#[test]
fn families_are_not_mixed_and_mld_has_no_version_before_its_first() {
    let mixed = |source_address, address| Err(EmitError::MixedFamilies { source_address, address });
    for message in messages(V6_GROUP, V6) {
        assert_eq!(message.emit(V4, V4_GROUP), mixed(V4, V6_GROUP));
        assert_eq!(message.emit(V6, V4_GROUP), mixed(V6, V4_GROUP));
        assert_eq!(message.emit(V4, V6_GROUP), mixed(V4, V6_GROUP));
    }
    for message in messages(V4_GROUP, V4) {
        assert_eq!(message.emit(V6, V6_GROUP), mixed(V6, V4_GROUP));
    }
    for message in
        messages(V6_GROUP, V4).into_iter().filter(|message| matches!(message, Message::ReportV3 { .. }))
    {
        assert_eq!(message.emit(V6, V6_GROUP), mixed(V6, V4), "a listed source counts, too");
    }
    assert_eq!(Message::QueryV1.emit(V6, V6_GROUP), Err(EmitError::NoSuchVersion));
    assert_eq!(Message::ReportV1 { group: V6_GROUP }.emit(V6, V6_GROUP), Err(EmitError::NoSuchVersion));
}

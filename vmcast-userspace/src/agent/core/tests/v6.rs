//! MLD and IPv6 groups.

use super::*;

/// The group of E2's example, on IPv6.
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0, 0x1234);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
/// The host's own address on the interface.
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);

impl Bed {
    /// The host sends an MLD message, as its kernel does (RFC 9777 §5).
    fn mld(&mut self, to: Ipv6Addr, message: &mld::Message) {
        let payload = message.emit(HOST_V6, to);
        let packet = vmcast_wire::ipv6::encapsulate(HOST_V6, to, 1, 0, mld::NEXT_ICMPV6, true, &payload);
        self.input(Input::FromHost(&packet));
    }

    fn mld_report(&mut self, record_type: RecordType) {
        let records = vec![mld::Record { record_type, group: GROUP_V6, sources: vec![SOURCE_V6] }];
        self.mld(mld::ALL_MLDV2_ROUTERS, &mld::Message::ReportV2 { records });
    }
}

// proves E2
#[test]
fn the_agent_is_the_mld_router_of_its_interface_too() {
    let mut bed = Bed::new();
    assert_eq!((bed.queries, bed.mld_queries), (1, 1), "both families are asked at once");
    bed.mld_report(RecordType::AllowNewSources);
    let wanted = Filter::Include(BTreeSet::from([IpAddr::from(SOURCE_V6)]));
    assert_eq!(bed.events, [Event::Membership(GROUP_V6.into(), wanted)]);
    bed.mld_report(RecordType::BlockOldSources);
    assert_eq!(bed.events.last(), Some(&Event::Membership(GROUP_V6.into(), Filter::none())), "at once");
    assert!(bed.core.wanted().is_empty());
    let counters = bed.core.querier(Family::V6).counters();
    assert_eq!((counters.reports_received, counters.queries_sent), (2, 1));
}

#[test]
fn what_else_of_ipv6_the_host_sends_is_dropped_with_a_reason() {
    let mut bed = Bed::new();
    let wrap = |to: Ipv6Addr, protocol| {
        vmcast_wire::ipv6::encapsulate(HOST_V6, to, 1, 0, protocol, false, b"12345678")
    };
    for packet in [
        wrap(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), 17),
        wrap(GROUP_V6, 17),
        wrap(SOURCE_V6, 17),
        // MLD without Router Alert is no MLD.
        wrap(mld::ALL_MLDV2_ROUTERS, 58),
        vmcast_wire::ipv6::encapsulate(HOST_V6, GROUP_V6, 1, 0, 44, true, b"12345678"),
        vec![0x60; 39],
    ] {
        bed.input(Input::FromHost(&packet));
    }
    let drops: Vec<_> = bed.core.drops().iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(
        drops,
        [
            (Drop::Malformed, 1),
            (Drop::BadMembership, 1),
            (Drop::NotMulticast, 1),
            (Drop::LinkLocalGroup, 2),
            (Drop::SendingNotSupported, 1),
        ]
    );
}

#[test]
fn a_leave_heard_of_by_other_means_ends_an_ipv6_group_before_its_report() {
    let mut bed = Bed::new();
    bed.mld_report(RecordType::AllowNewSources);
    bed.input(Input::HostLeft(GROUP_V6.into()));
    bed.run(GRACE);
    assert!(bed.core.wanted().is_empty());
    bed.mld_report(RecordType::BlockOldSources);
    assert!(bed.core.wanted().is_empty());
}

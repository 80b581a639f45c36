//! The bodies of the fuzz targets on random input, so that they hold without a fuzzer at hand.

use proptest::prelude::*;

/// Bytes that are often small, as lengths, types and counts are.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), 0u8..8, Just(0x45), Just(0x11), Just(0x22), Just(239)];
    proptest::collection::vec(byte, 0..120)
}

/// Steps of the querier's script with whole messages among them.
fn script() -> impl Strategy<Value = Vec<u8>> {
    let group = 1u8..7;
    let older = (prop::sample::select(vec![0x11u8, 0x12, 0x16, 0x17]), any::<u8>(), group.clone())
        .prop_map(|(kind, code, last)| vec![kind, code, 0, 0, 239, 1, 2, last]);
    let report =
        (1u8..8, group, proptest::collection::vec(1u8..12, 0..6)).prop_map(|(kind, last, listed)| {
            let mut message =
                vec![0x22, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, listed.len() as u8, 239, 1, 2, last];
            message.extend(listed.into_iter().flat_map(|last| [198, 51, 100, last]));
            message
        });
    let message = (any::<u8>(), prop_oneof![older, report]).prop_map(|(step, message)| {
        let mut bytes = vec![step | 3, message.len() as u8];
        bytes.extend(message);
        bytes
    });
    let step = prop_oneof![4 => message, 1 => any::<[u8; 2]>().prop_map(|bytes| bytes.to_vec())];
    (any::<u8>(), proptest::collection::vec(step, 0..30))
        .prop_map(|(settings, steps)| std::iter::once(settings).chain(steps.into_iter().flatten()).collect())
}

/// The same with messages of MLD.
fn listener_script() -> impl Strategy<Value = Vec<u8>> {
    let group = |last: u8| [&[0xff, 0x0e][..], &[0; 13], &[last]].concat();
    let older = (prop::sample::select(vec![130u8, 131, 132]), any::<u8>(), 1u8..7)
        .prop_map(move |(kind, code, last)| [&[kind, 0, 0, 0, code, 0, 0, 0][..], &group(last)].concat());
    let report =
        (1u8..8, 1u8..7, proptest::collection::vec(1u8..12, 0..6)).prop_map(move |(kind, last, listed)| {
            let mut message = vec![143, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, listed.len() as u8];
            message.extend(group(last));
            for last in listed {
                message.extend([0x20, 1, 0xd, 0xb8]);
                message.extend([0; 11]);
                message.push(last);
            }
            message
        });
    let message = (any::<u8>(), prop_oneof![older, report]).prop_map(|(step, message)| {
        let mut bytes = vec![step | 3, message.len() as u8];
        bytes.extend(message);
        bytes
    });
    let step = prop_oneof![4 => message, 1 => any::<[u8; 2]>().prop_map(|bytes| bytes.to_vec())];
    (any::<u8>(), proptest::collection::vec(step, 0..30)).prop_map(|(settings, steps)| {
        std::iter::once(settings | 8).chain(steps.into_iter().flatten()).collect()
    })
}

/// An MLD message whose counts are often true.
fn listener_message() -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(vec![130u8, 131, 132, 143]), 0u8..3, bytes()).prop_map(|(kind, count, rest)| {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, count];
        message.extend(rest);
        message
    })
}

/// An inner packet with a sound header, so that the decision gets beyond it.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    (bytes(), any::<u8>(), 0u8..4, 0usize..4).prop_map(|(rest, tos, ttl, missing)| {
        let mut packet = vec![0x45, tos, 0, 0, 0, 0, 0x40, 0, ttl, 17, 0, 0];
        packet.extend([0; 8]);
        packet.extend(rest);
        let total = packet.len() - missing.min(packet.len() - 20);
        packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        packet
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn igmp_holds(data in bytes()) {
        vmcast_fuzz::igmp(&data);
    }

    #[test]
    fn ipv4_holds(data in prop_oneof![bytes(), packet()]) {
        vmcast_fuzz::ipv4(&data);
    }

    #[test]
    fn mld_holds(data in prop_oneof![bytes(), listener_message()]) {
        vmcast_fuzz::mld(&data);
    }

    #[test]
    fn ipv6_holds(data in bytes()) {
        vmcast_fuzz::ipv6(&data);
    }

    #[test]
    fn amt_holds(data in bytes()) {
        vmcast_fuzz::amt(&data);
    }

    #[test]
    fn amtrelay_holds(data in bytes()) {
        vmcast_fuzz::amtrelay(&data);
        vmcast_fuzz::amtrelay(&[&[10, 3][..], &data, &[0]].concat());
    }

    #[test]
    fn forward_holds(data in prop_oneof![bytes(), packet()]) {
        vmcast_fuzz::forward(&data);
    }

    #[test]
    fn querier_holds(data in prop_oneof![bytes(), script(), listener_script()]) {
        vmcast_fuzz::querier(&data);
    }
}

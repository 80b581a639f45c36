//! The machines under scripts whose steps are whole messages, many of them sound.

use proptest::prelude::*;
use vmcast_fuzz::seeds;

/// As many cases as `PROPTEST_CASES` says, never few.
fn cases() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.max(500), failure_persistence: None, ..config }
}

/// Steps behind one another, after so many bytes of settings.
fn script(settings: usize, step: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let settings = proptest::collection::vec(any::<u8>(), settings);
    (settings, proptest::collection::vec(step, 0..40))
        .prop_map(|(settings, steps)| settings.into_iter().chain(steps.into_iter().flatten()).collect())
}

/// A step of this kind, the other bits of its byte as they come.
fn kind(kind: u8) -> impl Strategy<Value = u8> {
    any::<u8>().prop_map(move |bits| bits & !7 | kind)
}

/// A step and its argument.
fn bare(of: u8) -> impl Strategy<Value = Vec<u8>> {
    (kind(of), any::<u8>()).prop_map(|(step, argument)| vec![step, argument])
}

/// A step with a message behind its length.
fn sized(of: u8, message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (kind(of), any::<u8>(), message)
        .prop_map(|(step, argument, message)| [vec![step, argument, message.len() as u8], message].concat())
}

/// A step whose argument is the length of the message behind it.
fn raw(of: u8, message: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (kind(of), message).prop_map(|(step, message)| [vec![step, message.len() as u8], message].concat())
}

fn time() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![bare(0), bare(1)]
}

/// An AMT message of any type with little sense in it.
fn amt() -> impl Strategy<Value = Vec<u8>> {
    (0u8..9, proptest::collection::vec(any::<u8>(), 0..60)).prop_map(|(kind, rest)| {
        let mut message = vec![kind];
        message.extend(rest);
        message
    })
}

fn igmp() -> impl Strategy<Value = Vec<u8>> {
    let group = || 1u8..7;
    let older = (prop::sample::select(vec![0x11u8, 0x12, 0x16, 0x17]), any::<u8>(), group())
        .prop_map(|(kind, code, last)| vec![kind, code, 0, 0, 239, 1, 2, last]);
    let record =
        (1u8..8, group(), proptest::collection::vec(1u8..12, 0..6)).prop_map(|(kind, last, listed)| {
            let mut record = vec![kind, 0, 0, listed.len() as u8, 239, 1, 2, last];
            record.extend(listed.into_iter().flat_map(|last| [198, 51, 100, last]));
            record
        });
    let report = proptest::collection::vec(record, 0..5).prop_map(|records| {
        let header = vec![0x22, 0, 0, 0, 0, 0, 0, records.len() as u8];
        std::iter::once(header).chain(records).flatten().collect()
    });
    prop_oneof![1 => older, 4 => report]
}

/// An IPv4 datagram of IGMP, which is sealed by whoever takes it.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    (igmp(), 0u8..3, any::<bool>()).prop_map(|(message, ttl, odd)| {
        let mut datagram = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, ttl, if odd { 17 } else { 2 }, 0, 0];
        datagram.extend([10, 0, 0, 1, 224, 0, 0, 22]);
        datagram.extend(message);
        let length = datagram.len() as u16;
        datagram[2..4].copy_from_slice(&length.to_be_bytes());
        datagram
    })
}

/// Handshakes come often with few nonces, so that proofs are at hand.
fn relay_step() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => time(),
        1 => raw(2, amt()),
        1 => sized(3, amt()),
        4 => bare(4),
        8 => sized(5, igmp()),
        1 => sized(6, datagram()),
        1 => bare(7),
    ]
}

fn gateway_step() -> impl Strategy<Value = Vec<u8>> {
    let some = |most: usize| proptest::collection::vec(any::<u8>(), most);
    let query = (kind(4), any::<u8>(), some(8)).prop_map(|(step, argument, numbers)| {
        let numbers = if argument & 8 == 0 { Vec::new() } else { numbers };
        [vec![step, argument], numbers].concat()
    });
    let data = (kind(6), any::<u8>(), some(63)).prop_map(|(step, argument, mut payload)| {
        payload.truncate(usize::from(argument & 63));
        [vec![step, argument], payload].concat()
    });
    let join = (kind(7), any::<u8>(), some(7)).prop_map(|(step, argument, mut sources)| {
        sources.truncate(if argument >= 250 { 0 } else { usize::from(step >> 5) });
        [vec![step, argument], sources].concat()
    });
    prop_oneof![
        4 => time(),
        1 => raw(2, amt()),
        2 => bare(3),
        6 => query,
        1 => sized(5, datagram()),
        3 => data,
        4 => join,
    ]
}

fn prober_step() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => time(), 1 => sized(2, amt()), 1 => sized(3, amt()), 3 => bare(4), 2 => bare(5)]
}

fn discovery_step() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |most: usize| proptest::collection::vec(any::<u8>(), most);
    let wanted = (kind(2), any::<u8>(), bytes(7)).prop_map(|(step, argument, mut sources)| {
        sources.truncate(usize::from(step >> 5));
        [vec![step, argument], sources].concat()
    });
    // Of a question that is open, mostly with records that can be used.
    let answer = (0u8..3, any::<u8>(), bytes(31)).prop_map(|(which, argument, mut data)| {
        data.truncate(usize::from(argument & 31));
        [vec![which << 3 | 3, argument], data].concat()
    });
    let datagram = (kind(4), any::<u8>(), bytes(63)).prop_map(|(step, argument, mut data)| {
        data.truncate(usize::from(argument & 63));
        [vec![step, argument], data].concat()
    });
    prop_oneof![
        3 => time(), 3 => wanted, 4 => answer, 1 => datagram, 4 => bare(5), 2 => bare(6), 2 => bare(7),
    ]
}

/// Calls of few nodes that differ from the seeds in a byte, or not at all.
fn registry_step() -> impl Strategy<Value = Vec<u8>> {
    let seed = prop::sample::select(seeds::registry_steps());
    let touched = (any::<bool>(), any::<prop::sample::Index>(), prop_oneof![b'0'..=b'9', any::<u8>()]);
    let call = (seed, any::<u8>(), touched).prop_map(|(mut step, from, (touch, at, byte))| {
        step[1] = from;
        if touch && step.len() > 3 {
            let at = 3 + at.index(step.len() - 3);
            step[at] = byte;
        }
        step
    });
    prop_oneof![1 => bare(0), 8 => call]
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_relay_holds(data in script(1, relay_step())) {
        vmcast_fuzz::relay(&data);
    }

    #[test]
    fn the_gateway_holds(data in script(1, gateway_step())) {
        vmcast_fuzz::gateway(&data);
    }

    #[test]
    fn the_discovery_holds(data in script(1, discovery_step())) {
        vmcast_fuzz::discovery(&data);
    }

    #[test]
    fn the_prober_holds(data in script(2, prober_step())) {
        vmcast_fuzz::prober(&data);
    }

    #[test]
    fn the_registry_holds(data in script(0, registry_step())) {
        vmcast_fuzz::registry(&data);
    }
}

//! The bodies of the fuzz targets on their seeds, whole and changed at random.

use proptest::{prelude::*, sample::Index};
use vmcast_fuzz::seeds;

/// A change of a few bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    /// Copies a part of some seed over, or into, what is there.
    Splice(Index, Index, Index, usize, bool),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    let byte = prop_oneof![any::<u8>(), 0u8..8, 0x20u8..0x7f];
    prop_oneof![
        4 => (at(), byte.clone()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, 1 << bit)),
        1 => at().prop_map(Change::Cut),
        2 => (at(), 1usize..40).prop_map(|(at, length)| Change::Remove(at, length)),
        2 => (at(), proptest::collection::vec(byte, 1..8)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        3 => (at(), at(), at(), 1usize..60, any::<bool>())
            .prop_map(|(seed, from, to, length, over)| Change::Splice(seed, from, to, length, over)),
    ]
}

impl Change {
    fn apply(self, seeds: &[Vec<u8>], data: &mut Vec<u8>) {
        if data.is_empty() {
            return;
        }
        let length = data.len();
        match self {
            Self::Set(at, byte) => data[at.index(length)] = byte,
            Self::Flip(at, bits) => data[at.index(length)] ^= bits,
            Self::Cut(at) => data.truncate(at.index(length)),
            Self::Remove(at, many) => {
                let at = at.index(length);
                data.drain(at..length.min(at + many));
            }
            Self::Insert(at, bytes) => {
                let at = at.index(length);
                data.splice(at..at, bytes);
            }
            Self::Splice(seed, from, to, many, over) => {
                let seed = seed.get(seeds);
                let from = from.index(seed.len());
                let part = seed[from..seed.len().min(from + many)].to_vec();
                let to = to.index(length);
                let end = if over { length.min(to + part.len()) } else { to };
                data.splice(to..end, part);
            }
        }
    }
}

/// A seed with changes.
fn changed(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let choice = (any::<Index>(), proptest::collection::vec(change(), 0..6));
    choice.prop_map(move |(seed, changes)| {
        let mut data = seed.get(&seeds).clone();
        for change in changes {
            change.apply(&seeds, &mut data);
        }
        data
    })
}

/// As many cases as `PROPTEST_CASES` says, never few.
fn cases() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.max(500), failure_persistence: None, ..config }
}

#[test]
fn seeds_are_understood() {
    for line in seeds::control() {
        let request = vmcast_api::decode::<vmcast_api::Request>(&line).err();
        let response = vmcast_api::decode::<vmcast_api::Response>(&line).err();
        assert!(request.is_none() || response.is_none(), "{request:?} {response:?}");
    }
    let read = |datagram: &[u8]| {
        let mut told = std::collections::VecDeque::new();
        vmcast::netlink::notify::read(datagram, &mut told);
        told.len()
    };
    let told: Vec<_> = seeds::netlink().iter().map(|datagram| read(datagram)).collect();
    assert_eq!(told[..7], [1; 7]);
    assert_eq!(told.last(), Some(&7));
    let read = seeds::host_packet()
        .iter()
        .map(|packet| vmcast::agent::read_host_packet(packet).is_ok())
        .collect::<Vec<_>>();
    assert_eq!(read, [true, false, true, false]);
    assert!(vmcast::identity::CertificateRequest::parse(&seeds::join()[2]).is_some());
    let layout = vmcast::admin::EtcdLayout::new("/v/");
    for (row, known) in seeds::etcd_row().iter().zip([true, true, true, true, false]) {
        let (key, value) = (&row[3..3 + usize::from(row[2])], &row[4 + usize::from(row[2])..]);
        let table = ["node/", "cache/", "record/", "record/token/", ""][usize::from(row[0])];
        let key = [b"/v/1/", table.as_bytes(), key].concat();
        assert_eq!(layout.row(&key, value).is_some(), known, "{}", String::from_utf8_lossy(&key));
    }
    let file = std::path::Path::new("vmcast.toml");
    let texts: Vec<_> = seeds::config().into_iter().map(|text| String::from_utf8(text).unwrap()).collect();
    assert!(vmcast::config::parse::<vmcast::config::RouterConfig>(file, &texts[0]).is_ok());
    assert!(vmcast::config::parse::<vmcast::config::AdminConfig>(file, &texts[1]).is_ok());
    assert!(vmcast::config::parse::<vmcast::config::AgentConfig>(file, &texts[2]).is_ok());
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_relay_holds_on_changed_seeds(data in changed(seeds::relay())) {
        vmcast_fuzz::relay(&data);
    }

    #[test]
    fn the_gateway_holds_on_changed_seeds(data in changed(seeds::gateway())) {
        vmcast_fuzz::gateway(&data);
    }

    #[test]
    fn the_prober_holds_on_changed_seeds(data in changed(seeds::prober())) {
        vmcast_fuzz::prober(&data);
    }

    #[test]
    fn the_registry_holds_on_changed_seeds(data in changed(seeds::registry())) {
        vmcast_fuzz::registry(&data);
    }

    #[test]
    fn the_control_socket_holds_on_changed_seeds(data in changed(seeds::control())) {
        vmcast_fuzz::control(&data);
    }

    #[test]
    fn netlink_holds_on_changed_seeds(data in changed(seeds::netlink())) {
        vmcast_fuzz::netlink(&data);
    }

    #[test]
    fn the_configuration_holds_on_changed_seeds(data in changed(seeds::config())) {
        vmcast_fuzz::config(&data);
    }

    #[test]
    fn the_line_between_a_vmr_and_the_admin_holds_on_changed_seeds(data in changed(seeds::line())) {
        vmcast_fuzz::line(&data);
    }

    #[test]
    fn what_strangers_join_by_holds_on_changed_seeds(data in changed(seeds::join())) {
        vmcast_fuzz::join(&data);
    }

    #[test]
    fn packets_of_an_agents_host_hold_on_changed_seeds(data in changed(seeds::host_packet())) {
        vmcast_fuzz::host_packet(&data);
    }

    #[test]
    fn rows_of_etcd_hold_on_changed_seeds(data in changed(seeds::etcd_row())) {
        vmcast_fuzz::etcd_row(&data);
    }
}

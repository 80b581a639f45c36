//! The querier against a model that knows sets and no time, and against noise.

use proptest::prelude::*;

use super::*;

type Set = BTreeSet<u8>;

/// The router states of RFC 9776 §6.4, without timers.
#[derive(Clone, Debug)]
enum Model {
    Include(Set),
    Exclude(Set, Set),
}

impl Model {
    /// The tables of §6.4.1 and §6.4.2, their new states.
    fn receive(self, record_type: RecordType, listed: &Set) -> Self {
        let is_exclude = matches!(record_type, RecordType::ModeIsExclude | RecordType::ChangeToExcludeMode);
        let is_block = record_type == BLOCK;
        match self {
            Self::Include(a) if is_block => Self::Include(a),
            Self::Include(a) if is_exclude => Self::Exclude(&a & listed, listed - &a),
            Self::Include(a) => Self::Include(&a | listed),
            Self::Exclude(x, y) if is_block => Self::Exclude(&x | &(listed - &y), y),
            Self::Exclude(_, y) if is_exclude => Self::Exclude(listed - &y, &y & listed),
            Self::Exclude(x, y) => Self::Exclude(&x | listed, &y - listed),
        }
    }

    fn filter(&self) -> Filter {
        let list = |set: &Set| set.iter().copied().collect::<Vec<_>>();
        match self {
            Self::Include(a) => include(&list(a)),
            Self::Exclude(_, y) => exclude(&list(y)),
        }
    }
}

/// What the only host of a link wants, as its own records change it (RFC 9776 §5.1).
fn host_after(state: Filter, record_type: RecordType, listed: &[u8]) -> Filter {
    let change = |set: BTreeSet<std::net::IpAddr>, add: bool| {
        let listed: BTreeSet<_> = listed.iter().map(|last| source(*last).into()).collect();
        if add { &set | &listed } else { &set - &listed }
    };
    match (record_type, state) {
        (RecordType::ChangeToIncludeMode, _) => include(listed),
        (RecordType::ChangeToExcludeMode, _) => exclude(listed),
        (RecordType::AllowNewSources, Filter::Include(set)) => Filter::Include(change(set, true)),
        (RecordType::AllowNewSources, Filter::Exclude(set)) => Filter::Exclude(change(set, false)),
        (RecordType::BlockOldSources, Filter::Include(set)) => Filter::Include(change(set, false)),
        (RecordType::BlockOldSources, Filter::Exclude(set)) => Filter::Exclude(change(set, true)),
        (RecordType::ModeIsInclude | RecordType::ModeIsExclude | RecordType::Unrecognized(_), state) => state,
    }
}

fn any_record_type() -> impl Strategy<Value = RecordType> {
    prop::sample::select(vec![IS_IN, IS_EX, TO_IN, TO_EX, ALLOW, BLOCK])
}

fn any_report() -> impl Strategy<Value = (RecordType, Set)> {
    (any_record_type(), prop::collection::btree_set(1u8..7, 0..5))
}

/// Follows the events and checks that each is a change.
fn forwarded_after(link: &mut Link, mut forwarded: Filter) -> Filter {
    for filter in link.take_filters() {
        assert_ne!(filter, forwarded, "an event that changes nothing");
        forwarded = filter;
    }
    forwarded
}

proptest! {
    #[test]
    fn without_time_the_forwarded_filter_is_that_of_the_tables(
        reports in prop::collection::vec(any_report(), 1..20),
    ) {
        let mut link = Link::settled();
        let (mut model, mut forwarded) = (Model::Include(Set::new()), Filter::none());
        for (record_type, listed) in reports {
            model = model.receive(record_type, &listed);
            link.report(record_type, &listed.iter().copied().collect::<Vec<_>>());
            forwarded = forwarded_after(&mut link, forwarded);
            prop_assert_eq!(&forwarded, &model.filter());
            prop_assert_eq!(&link.querier.filter(GROUP), &forwarded);
        }
    }

    #[test]
    fn with_immediate_leave_the_forwarded_filter_is_the_only_hosts_own(
        reports in prop::collection::vec((prop::sample::select(vec![TO_IN, TO_EX, ALLOW, BLOCK]),
            prop::collection::vec(1u8..7, 0..5)), 1..20),
    ) {
        let config = Config { address: US, immediate_leave: true, ..Config::default() };
        let mut link = Link::settled_with(config);
        let (mut wanted, mut forwarded) = (Filter::none(), Filter::none());
        for (record_type, listed) in reports {
            wanted = host_after(wanted, record_type, &listed);
            link.report(record_type, &listed);
            forwarded = forwarded_after(&mut link, forwarded);
            prop_assert_eq!(&forwarded, &wanted);
            prop_assert_eq!(link.take_asked(), vec![]);
        }
    }

    #[test]
    fn whatever_happens_events_tell_the_state_and_silence_ends_it(
        steps in prop::collection::vec((any_report(), 0u64..200_000, 0u8..8), 1..30),
    ) {
        let mut link = Link::settled();
        let mut forwarded = Filter::none();
        for ((record_type, listed), millis, kind) in steps {
            match kind {
                0 => link.report_v1(),
                1 => link.report_v2(),
                2 => link.leave(),
                _ => link.report(record_type, &listed.iter().copied().collect::<Vec<_>>()),
            }
            // Mostly within one question, at times far beyond.
            link.advance(Duration::from_millis(if kind == 7 { millis } else { millis % 1500 }));
            forwarded = forwarded_after(&mut link, forwarded);
            prop_assert_eq!(&link.querier.filter(GROUP), &forwarded);
        }
        link.advance(secs(600));
        prop_assert_eq!(link.querier.groups(link.now).len(), 0);
        prop_assert_eq!(link.querier.timers().len(), 1);
    }

    #[test]
    fn noise_never_panics_nor_grows_the_tables_beyond_their_limits(
        datagrams in prop::collection::vec(
            (any::<u32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..60), 0u64..100_000, any::<bool>()),
            1..60),
    ) {
        let config =
            Config { address: US, max_groups: 3, max_sources_per_group: 2, ..Config::default() };
        let mut link = Link::new(config);
        for (from, to, mut bytes, millis, multicast) in datagrams {
            let to = if multicast { 0xe000_0000 | to >> 4 } else { to };
            if let [kind, _, c1, c2, rest @ ..] = &mut bytes[..] {
                *kind = [0x11, 0x12, 0x16, 0x17, 0x22, 0x22, 0x22, 0x22][usize::from(*kind % 8)];
                (*c1, *c2) = (0, 0);
                rest.iter_mut().skip(4).for_each(|byte| *byte %= 7);
                if let Some(first) = rest.get_mut(8) {
                    *first = 239;
                }
                let sum = checksum_of(&bytes);
                bytes[2..4].copy_from_slice(&sum);
            }
            link.bytes(Ipv4Addr::from(from), Ipv4Addr::from(to), 1, &bytes);
            link.advance(Duration::from_millis(millis));
            prop_assert!(link.querier.groups(link.now).len() <= 3);
            prop_assert!(link.querier.groups(link.now).all(|info| info.sources.len() <= 2));
            prop_assert!(link.querier.timers().len() <= 2 + 3 * 3);
        }
    }
}

fn checksum_of(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    vmcast_common::checksum::fold(bytes.chunks(2).map(word).sum()).to_be_bytes()
}

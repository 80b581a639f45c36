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
    /// The tables of RFC 9776 §6.4.1, §6.4.2, RFC 9777 §7.4.1, §7.4.2, their new states.
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
    let change = |set: BTreeSet<IpAddr>, add: bool| {
        let listed: BTreeSet<_> = listed.iter().map(|last| source(*last)).collect();
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
        let config = Config { immediate_leave: ImmediateLeave::SingleHost, ..config() };
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
                0 if FAMILY == Family::V4 => link.report_v1(),
                0 | 1 => link.report_v2(),
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
            (any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..90), 0u64..100_000, any::<bool>()),
            1..60),
        tracked: bool,
    ) {
        let immediate_leave = if tracked { ImmediateLeave::Tracked } else { ImmediateLeave::Never };
        let mut link = Link::new(Config {
            max_groups: 3,
            max_sources_per_group: 2,
            max_tracked: 5,
            immediate_leave,
            ..config()
        });
        for (from, to, mut bytes, millis, multicast) in datagrams {
            let (from, to) = (neighbour(from), if multicast { group((to % 7).into()) } else { neighbour(to) });
            super::super::shape(from, to, &mut bytes);
            link.bytes(from, to, 1, &bytes);
            link.advance(Duration::from_millis(millis));
            prop_assert!(link.querier.groups(link.now).len() <= 3);
            prop_assert!(link.querier.groups(link.now).all(|info| info.sources.len() <= 2));
            prop_assert!(link.querier.groups(link.now).map(|info| info.hosts.len()).sum::<usize>() <= 5);
            prop_assert!(link.querier.timers().len() <= 2 + 3 * 4);
        }
    }
}

/// Several hosts, tracked.
fn any_step() -> impl Strategy<Value = (u8, RecordType, Vec<u8>)> {
    let record = prop::sample::select(vec![TO_IN, TO_EX, ALLOW, BLOCK]);
    (0u8..4, record, prop::collection::vec(1u8..5, 0..4))
}

proptest! {
    /// What is forwarded to tracked hosts is what one of them wants: at once less, never less than that.
    #[test]
    fn with_tracking_nothing_is_asked_and_what_a_host_wants_is_forwarded(
        steps in prop::collection::vec(any_step(), 1..25),
    ) {
        let mut link = Link::answered_with(Config { immediate_leave: ImmediateLeave::Tracked, ..config() });
        let mut hosts = [const { Filter::none() }; 4];
        for (host, record_type, listed) in steps {
            let wants = &mut hosts[usize::from(host)];
            *wants = host_after(wants.clone(), record_type, &listed);
            link.report_from(neighbour(100 + host), record_type, &listed);
            prop_assert_eq!(link.take_asked(), vec![]);
            let forwarded = link.querier.filter(GROUP);
            for last in 1..6 {
                let source = source(last);
                if hosts.iter().any(|wants| wants.wants(source)) {
                    prop_assert!(forwarded.wants(source), "{} of {:?} in {:?}", source, hosts, forwarded);
                }
            }
            if hosts.iter().all(Filter::is_none) {
                prop_assert!(forwarded.is_none(), "{:?}", forwarded);
            }
            if hosts.iter().all(|wants| matches!(wants, Filter::Include(_))) {
                let all = hosts.iter().fold(Filter::none(), |mut all, wants| { all.merge(wants); all });
                prop_assert_eq!(&forwarded, &all);
            }
        }
    }
}

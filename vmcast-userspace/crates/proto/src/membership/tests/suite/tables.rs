//! The tables of RFC 9776 §6.4.1, §6.4.2, RFC 9777 §7.4.1, §7.4.2, row by row.

use super::*;

/// Time left of a source timer in the tables' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Group Membership Interval: the report started it.
    Full,
    /// What it had before the report.
    Kept,
    /// Last Member Query Time: lowered by a question.
    Lowered,
    /// No timer: excluded.
    Zero,
}
use Left::{Full, Kept, Lowered, Zero};

/// Seconds between the state and the report.
const AGE: u64 = 7;

/// A state to start from, made as hosts make it.
#[derive(Clone, Copy, Debug)]
enum State {
    /// INCLUDE (A) with A = {1, 2}.
    Include,
    /// EXCLUDE (X,Y) with X = {1, 2}, Y = {3, 4}.
    Exclude,
}

fn link_in(state: State) -> Link {
    let mut link = Link::settled();
    match state {
        State::Include => link.report(IS_IN, &[1, 2]),
        State::Exclude => {
            link.report(TO_EX, &[3, 4]);
            link.report(ALLOW, &[1, 2]);
        }
    }
    assert_eq!(link.take_asked(), []);
    link.advance(secs(AGE));
    link.events.clear();
    link
}

/// One row: what is reported, then the mode, whether the group timer was started anew, and every
/// source with its timer, and the questions.
type Row<'a> = (RecordType, &'a [u8], FilterMode, Option<Left>, &'a [(u8, Left)], Vec<Asked>);

fn check(state: State, rows: Vec<Row<'_>>) {
    for (record_type, listed, mode, group_timer, expected, asked) in rows {
        let mut link = link_in(state);
        link.report(record_type, listed);
        let case = format!("{state:?} {record_type:?} {listed:?}");
        let left = |timer| match timer {
            Full => Some(MEMBERSHIP),
            Kept => Some(MEMBERSHIP - secs(AGE)),
            Lowered => Some(secs(2)),
            Zero => None,
        };
        let expected: Vec<_> = expected
            .iter()
            .map(|(last, timer)| SourceInfo { source: source(*last), expires: left(*timer) })
            .collect();
        let info = link.info();
        assert_eq!(info.mode, mode, "{case}");
        assert_eq!(info.sources, expected, "{case}");
        assert_eq!(info.expires, group_timer.and_then(left), "{case}");
        assert_eq!(link.take_asked(), asked, "{case}");
        let filter = link.querier.filter(GROUP);
        assert!(link.take_filters().last().is_none_or(|last| *last == filter), "{case}");
    }
}

#[test]
fn include_mode_follows_the_tables() {
    let (include, exclude) = (FilterMode::Include, FilterMode::Exclude);
    check(
        State::Include,
        vec![
            (IS_IN, &[2, 3], include, None, &[(1, Kept), (2, Full), (3, Full)], vec![]),
            (IS_EX, &[2, 3], exclude, Some(Full), &[(2, Kept), (3, Zero)], vec![]),
            (ALLOW, &[2, 3], include, None, &[(1, Kept), (2, Full), (3, Full)], vec![]),
            (BLOCK, &[2, 3], include, None, &[(1, Kept), (2, Lowered)], vec![asked_sources(false, &[2])]),
            (
                TO_EX,
                &[2, 3],
                exclude,
                Some(Full),
                &[(2, Lowered), (3, Zero)],
                vec![asked_sources(false, &[2])],
            ),
            (
                TO_IN,
                &[2, 3],
                include,
                None,
                &[(1, Lowered), (2, Full), (3, Full)],
                vec![asked_sources(false, &[1])],
            ),
            (TO_IN, &[], include, None, &[(1, Lowered), (2, Lowered)], vec![asked_sources(false, &[1, 2])]),
        ],
    );
}

#[test]
fn exclude_mode_follows_the_tables() {
    let exclude = FilterMode::Exclude;
    let kept = Some(Kept);
    check(
        State::Exclude,
        vec![
            (
                IS_IN,
                &[2, 3, 5],
                exclude,
                kept,
                &[(1, Kept), (2, Full), (3, Full), (4, Zero), (5, Full)],
                vec![],
            ),
            (IS_EX, &[2, 3, 5], exclude, Some(Full), &[(2, Kept), (3, Zero), (5, Full)], vec![]),
            (
                ALLOW,
                &[2, 3, 5],
                exclude,
                kept,
                &[(1, Kept), (2, Full), (3, Full), (4, Zero), (5, Full)],
                vec![],
            ),
            (
                BLOCK,
                &[2, 3, 5],
                exclude,
                kept,
                &[(1, Kept), (2, Lowered), (3, Zero), (4, Zero), (5, Lowered)],
                vec![asked_sources(false, &[2, 5])],
            ),
            (
                TO_EX,
                &[2, 3, 5],
                exclude,
                Some(Full),
                &[(2, Lowered), (3, Zero), (5, Lowered)],
                vec![asked_sources(false, &[2, 5])],
            ),
            (
                TO_IN,
                &[2, 3, 5],
                exclude,
                Some(Lowered),
                &[(1, Lowered), (2, Full), (3, Full), (4, Zero), (5, Full)],
                vec![asked_group(false), asked_sources(false, &[1])],
            ),
        ],
    );
}

#[test]
fn a_group_nobody_joined_is_made_by_wishes_only() {
    for (record_type, listed, expected) in [
        (IS_IN, &[1][..], Some(include(&[1]))),
        (ALLOW, &[1], Some(include(&[1]))),
        (TO_IN, &[1], Some(include(&[1]))),
        (IS_EX, &[], Some(Filter::any())),
        (TO_EX, &[1], Some(exclude(&[1]))),
        (IS_IN, &[], None),
        (TO_IN, &[], None),
        (BLOCK, &[1], None),
    ] {
        let mut link = Link::settled();
        link.report(record_type, listed);
        assert_eq!(link.take_filters(), Vec::from_iter(expected), "{record_type:?} {listed:?}");
        assert_eq!(link.take_asked(), [], "{record_type:?} {listed:?}");
    }
}

#[test]
fn the_end_of_the_group_timer_leaves_the_sources_whose_timers_run() {
    let mut link = Link::settled();
    link.report(TO_EX, &[3]);
    link.advance(secs(100));
    link.report(ALLOW, &[1]);
    assert_eq!(link.take_filters(), [exclude(&[3])], "an allowed source was already forwarded");
    link.advance(secs(170));
    assert_eq!(link.take_filters(), [include(&[1])]);
    link.advance(secs(100));
    assert_eq!(link.take_filters(), [Filter::none()]);
    assert_eq!(link.querier.groups(link.now).len(), 0);
}

#[test]
fn a_source_whose_timer_ends_in_exclude_mode_is_excluded() {
    let mut link = Link::settled();
    link.report(TO_EX, &[]);
    link.report(ALLOW, &[1]);
    link.advance(secs(100));
    link.report(IS_EX, &[1]);
    link.advance(secs(170));
    assert_eq!(link.take_filters(), [Filter::any(), exclude(&[1])]);
    link.advance(secs(100));
    assert_eq!(link.take_filters(), [Filter::none()]);
}

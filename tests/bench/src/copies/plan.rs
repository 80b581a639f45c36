//! What is measured against what.

use std::time::Duration;

use super::{case::Case, contests, floor::Touch, plane::Kind};
use crate::report::Bound;

/// What makes the copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Id {
    Plane(Kind),
    Relay,
    Gso,
    Ipmr,
    Vxlan,
    Bridge,
    /// A broadcast that nobody rewrites, or one byte.
    Floor(Touch),
    /// Clones that nobody rewrites.
    Clones,
}

impl Id {
    pub(super) const XDP: Self = Self::Plane(Kind::Xdp);
    pub(super) const TC: Self = Self::Plane(Kind::Tc);
    pub(super) const SOFTWARE: Self = Self::Plane(Kind::Software);
    pub(super) const FLOOR: Self = Self::Floor(Touch::Nothing);
    pub(super) const TOUCHED: Self = Self::Floor(Touch::OneByte);
}

/// An engine with a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) engine: Id,
    pub(super) case: Case,
}

/// A ratio that has a target.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) name: String,
    /// Whose copies per second are divided.
    pub(super) over: Entry,
    /// By whose.
    pub(super) under: Entry,
    pub(super) bound: Bound,
    /// What to reach besides, where that is more.
    pub(super) stretch: Option<f64>,
    /// The same two of what does the same with less work for itself: what this machine allows.
    pub(super) limit: Option<(Entry, Entry)>,
}

/// Entries whose rounds take turns.
#[derive(Clone, Debug)]
pub(super) struct Contest {
    pub(super) title: String,
    pub(super) entries: Vec<Entry>,
    pub(super) targets: Vec<Target>,
    /// Entries that others have rows of already.
    pub(super) unlisted: Vec<Entry>,
    pub(super) pace: Pace,
}

/// How the rounds of a contest are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As the effort has it.
    Usual,
    /// As few as a median asks for: nothing is judged, or there are very many copies to look at.
    Few,
    /// Short ones, until the middle half of their ratios lies so close together that a few in a hundred are seen.
    Pairs,
}

impl Pace {
    /// That of a contest with these targets.
    pub(super) const fn where_there_are(targets: &[Target]) -> Self {
        if targets.is_empty() { Self::Few } else { Self::Usual }
    }
}

/// How many rounds, and how long they are at least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    /// So many at least;
    pub(super) least: usize,
    /// no more than this, if their ratios do not lie close together.
    pub(super) most: usize,
    pub(super) length: Duration,
}

/// How long to measure, and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    quick: bool,
    /// Rounds of each entry.
    rounds: usize,
    /// Length of a round at least.
    round: Duration,
    /// Of pairs, least and most, and their length.
    pairs: (usize, usize, Duration),
}

/// Rounds where there are few.
const FEW_ROUNDS: usize = 5;

impl Effort {
    pub(crate) const FULL: Self = Self {
        quick: false,
        rounds: 7,
        round: Duration::from_millis(250),
        pairs: (21, 45, Duration::from_millis(50)),
    };
    pub(crate) const QUICK: Self = Self {
        quick: true,
        rounds: 5,
        round: Duration::from_millis(25),
        pairs: (7, 11, Duration::from_millis(25)),
    };

    /// The contests in their order; if `only` is given, those with it in their title, short or not.
    pub(super) fn contests(self, only: Option<&str>) -> Vec<Contest> {
        match only {
            Some(only) => {
                contests::full().into_iter().filter(|contest| contest.title.contains(only)).collect()
            }
            None if self.quick => contests::quick(),
            None => contests::full(),
        }
    }

    pub(super) fn rounds_of(self, contest: &Contest) -> Rounds {
        let Self { rounds, round, pairs, .. } = self;
        let exactly = |count| Rounds { least: count, most: count, length: round };
        match contest.pace {
            Pace::Usual => exactly(rounds),
            Pace::Few => exactly(rounds.min(FEW_ROUNDS)),
            Pace::Pairs => Rounds { least: pairs.0, most: pairs.1, length: pairs.2 },
        }
    }

    /// Steps of the progress bar.
    pub(crate) fn steps(self, only: Option<&str>) -> u64 {
        self.contests(only).iter().map(|contest| 1 + self.rounds_of(contest).most as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn targets(effort: Effort) -> Vec<String> {
        effort
            .contests(None)
            .into_iter()
            .flat_map(|contest| contest.targets)
            .map(|target| target.name)
            .collect()
    }

    #[test]
    fn every_target_of_copies_is_measured_in_the_short_version_too() {
        let (short, full) = (targets(Effort::QUICK), targets(Effort::FULL));
        for subject in [
            "XDP broadcast against the sendmmsg relay",
            "TC clone against the sendmmsg relay",
            "XDP broadcast against the kernel's ipmr",
            "XDP broadcast, ns per copy at 10000 members ÷ at 64",
            "XDP broadcast, throughput with 4096 groups",
            "XDP broadcast, throughput with statistics ÷ without",
        ] {
            assert!(short.iter().any(|name| name.starts_with(subject)), "{subject} is not in {short:?}");
        }
        assert!(short.iter().all(|name| full.contains(name)), "{short:?} and {full:?}");
    }

    #[test]
    fn a_target_has_one_name_and_its_entries_take_part() {
        for effort in [Effort::FULL, Effort::QUICK] {
            let names = targets(effort);
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
            for contest in effort.contests(None) {
                for target in &contest.targets {
                    let limit = target.limit.map(|(over, under)| [over, under]).into_iter().flatten();
                    for entry in [target.over, target.under].into_iter().chain(limit) {
                        assert!(contest.entries.contains(&entry), "{}: {entry:?}", target.name);
                    }
                }
                assert!(contest.unlisted.iter().all(|entry| contest.entries.contains(entry)));
            }
        }
    }

    #[test]
    fn every_row_is_listed_once() {
        for effort in [Effort::FULL, Effort::QUICK] {
            let mut seen: Vec<Entry> = Vec::new();
            for contest in effort.contests(None) {
                for entry in contest.entries.iter().filter(|entry| !contest.unlisted.contains(entry)) {
                    assert!(!seen.contains(entry), "{}: {entry:?}", contest.title);
                    seen.push(*entry);
                }
            }
        }
    }

    #[test]
    fn the_planes_are_measured_with_all_members_groups_and_payloads() {
        let entries: Vec<Entry> =
            Effort::FULL.contests(None).into_iter().flat_map(|contest| contest.entries).collect();
        for engine in [Id::XDP, Id::TC, Id::SOFTWARE] {
            let with = |of: fn(&Case) -> usize| -> BTreeSet<usize> {
                entries.iter().filter(|entry| entry.engine == engine).map(|entry| of(&entry.case)).collect()
            };
            assert!(with(|case| case.members).is_superset(&[1, 8, 64, 256, 1_000, 10_000].into()));
            assert_eq!(with(|case| case.groups as usize), [1, 64, 4_096].into());
            assert_eq!(with(|case| case.payload), [64, 1_316].into());
        }
        for effort in [Effort::FULL, Effort::QUICK] {
            assert!(effort.contests(None).iter().all(|contest| effort.rounds_of(contest).least >= 5));
        }
    }
}

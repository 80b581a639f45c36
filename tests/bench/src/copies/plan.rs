//! What is measured against what.

use std::time::Duration;

use super::{
    case::{Case, Output},
    ipmr::MAX_OUTPUTS,
};
use crate::report::Bound;

/// Bytes in a datagram: seven packets of an MPEG transport stream.
const MEDIA: usize = 1316;
/// Bytes in a datagram where the packet rate is what counts.
const SMALL: usize = 64;
/// The fan-out of a small site.
const SITE: usize = 64;
const MANY: usize = 10_000;
/// Members of each group where there are many groups.
const GROUP_MEMBERS: usize = 16;
const MANY_GROUPS: u32 = 4_096;

/// What makes the copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Id {
    Xdp,
    Relay,
    Gso,
    Ipmr,
    Vxlan,
    Bridge,
    Floor,
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
    /// Whose copies per second are divided, by place in the contest.
    pub(super) over: usize,
    /// By whose.
    pub(super) under: usize,
    pub(super) bound: Bound,
    /// What to reach besides, where that is more.
    pub(super) stretch: Option<f64>,
    /// The same two where nobody rewrites a copy: what this machine allows.
    pub(super) limit: Option<(usize, usize)>,
}

/// Entries whose rounds take turns.
#[derive(Clone, Debug)]
pub(super) struct Contest {
    pub(super) title: String,
    pub(super) entries: Vec<Entry>,
    pub(super) targets: Vec<Target>,
    /// Entries that others have rows of already.
    pub(super) unlisted: Vec<usize>,
}

/// How long to measure, and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    quick: bool,
    /// Rounds of each entry.
    pub(super) rounds: usize,
    /// Length of a round at least.
    pub(super) round: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self { quick: false, rounds: 7, round: Duration::from_millis(400) };
    pub(crate) const QUICK: Self = Self { quick: true, rounds: 5, round: Duration::from_millis(100) };

    /// The contests in their order.
    pub(super) fn contests(self) -> Vec<Contest> {
        let mut contests = Vec::new();
        let sizes: &[usize] = if self.quick { &[SITE] } else { &[1, 8, SITE, 256, 1_000] };
        contests.extend(sizes.iter().map(|members| fan_out(*members, MEDIA)));
        if !self.quick {
            contests.extend([SITE, 1_000].map(|members| fan_out(members, SMALL)));
        }
        contests.push(many_members(self.quick));
        contests.push(many_groups(self.quick));
        contests.push(native(MAX_OUTPUTS, MEDIA));
        if !self.quick {
            contests.push(native(MAX_OUTPUTS, SMALL));
            contests.push(native(8, MEDIA));
        }
        contests
    }

    /// Steps of the progress bar.
    pub(crate) fn steps(self) -> u64 {
        (self.contests().len() * (1 + self.rounds)) as u64
    }
}

const fn unicast(members: usize, groups: u32, payload: usize) -> Case {
    Case { output: Output::Unicast, members, groups, payload }
}

const fn entry(engine: Id, case: Case) -> Entry {
    Entry { engine, case }
}

/// Everything that sends a copy of its own to each member.
fn fan_out(members: usize, payload: usize) -> Contest {
    let case = unicast(members, 1, payload);
    let mut entries = [Id::Xdp, Id::Relay, Id::Gso, Id::Vxlan, Id::Bridge, Id::Floor]
        .map(|engine| entry(engine, case))
        .to_vec();
    let floor = entries.len() - 1;
    if members == 1 {
        // Nobody needs a list for one.
        entries.retain(|entry| !matches!(entry.engine, Id::Vxlan | Id::Bridge));
    }
    let mut targets = Vec::new();
    if (SITE..=1_000).contains(&members) && payload == MEDIA {
        targets.push(Target {
            name: format!("XDP against the sendmmsg relay, {members} members, AMT, {payload} bytes"),
            over: 0,
            under: 1,
            bound: Bound::AtLeast(8.0),
            stretch: Some(10.0),
            limit: Some((floor, 1)),
        });
    }
    Contest {
        title: format!("copies to {members} members, {payload} bytes"),
        entries,
        targets,
        unlisted: Vec::new(),
    }
}

/// The largest fan-out, and the usual one in the same rounds.
fn many_members(quick: bool) -> Contest {
    let (usual, many) = (unicast(SITE, 1, MEDIA), unicast(MANY, 1, MEDIA));
    let mut entries =
        vec![entry(Id::Xdp, usual), entry(Id::Xdp, many), entry(Id::Floor, usual), entry(Id::Floor, many)];
    if !quick {
        entries.push(entry(Id::Relay, many));
    }
    let target = Target {
        name: format!("XDP, ns per copy at {MANY} members ÷ at {SITE}"),
        over: 0,
        under: 1,
        bound: Bound::AtMost(1.15),
        stretch: None,
        limit: Some((2, 3)),
    };
    Contest {
        title: format!("copies to {MANY} members"),
        entries,
        targets: vec![target],
        unlisted: vec![0, 2],
    }
}

/// Many groups against one, with as many members each.
fn many_groups(quick: bool) -> Contest {
    let groups: &[u32] = if quick { &[1, MANY_GROUPS] } else { &[1, MANY_GROUPS, 64] };
    let entries =
        groups.iter().map(|groups| entry(Id::Xdp, unicast(GROUP_MEMBERS, *groups, MEDIA))).collect();
    let target = Target {
        name: format!("XDP, throughput with {MANY_GROUPS} groups of {GROUP_MEMBERS} ÷ with 1"),
        over: 1,
        under: 0,
        bound: Bound::AtLeast(0.8),
        stretch: None,
        limit: None,
    };
    Contest {
        title: format!("copies of {MANY_GROUPS} groups"),
        entries,
        targets: vec![target],
        unlisted: Vec::new(),
    }
}

/// Everything that sends what came natively to a number of interfaces.
fn native(outputs: usize, payload: usize) -> Contest {
    let case = Case { output: Output::Native, members: outputs, groups: 1, payload };
    let entries = [Id::Xdp, Id::Ipmr, Id::Floor].map(|engine| entry(engine, case)).to_vec();
    let mut targets = Vec::new();
    if outputs == MAX_OUTPUTS && payload == MEDIA {
        targets.push(Target {
            name: format!("XDP against the kernel's ipmr, {outputs} outputs, native, {payload} bytes"),
            over: 0,
            under: 1,
            bound: Bound::AtLeast(4.0),
            stretch: Some(5.0),
            limit: Some((2, 1)),
        });
    }
    Contest {
        title: format!("copies to {outputs} interfaces, {payload} bytes"),
        entries,
        targets,
        unlisted: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_measured_in_the_short_version_too() {
        let names = |effort: Effort| -> Vec<String> {
            effort
                .contests()
                .into_iter()
                .flat_map(|contest| contest.targets)
                .map(|target| target.name)
                .collect()
        };
        let (short, full) = (names(Effort::QUICK), names(Effort::FULL));
        assert_eq!(short.len(), 4);
        assert!(short.iter().all(|name| full.contains(name)), "{short:?} and {full:?}");
    }

    #[test]
    fn targets_and_unlisted_entries_are_entries() {
        for contest in Effort::FULL.contests().into_iter().chain(Effort::QUICK.contests()) {
            for (floor, _) in contest.targets.iter().filter_map(|target| target.limit) {
                assert_eq!(contest.entries[floor].engine, Id::Floor, "{}", contest.title);
            }
            let places = contest.targets.iter().flat_map(|target| [target.over, target.under]);
            for place in places.chain(contest.unlisted.iter().copied()) {
                assert!(place < contest.entries.len(), "{}", contest.title);
            }
        }
    }
}

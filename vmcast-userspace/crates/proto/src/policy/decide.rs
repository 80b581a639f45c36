//! The decision.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use super::{Action, Effect, Limited, Owners, Policy, Rule, Subject};
use crate::{
    Filter,
    mrib::covers,
    registry::{NodeId, Prefix},
};

/// Why something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A rule forbids it.
    Rule(u32),
    /// No rule fits, and that is not enough.
    Default,
    /// A rule allows no more groups of one member.
    TooManyGroups {
        /// The rule.
        rule: u32,
        /// How many it allows.
        limit: u32,
    },
    /// With it, a member would have more bits per second than a rule allows.
    TooMuchBandwidth {
        /// The rule.
        rule: u32,
        /// How many it allows.
        limit: u64,
    },
}

impl Reason {
    /// The names of the counters.
    pub const LABELS: [&'static str; 4] = ["by_rule", "by_default", "too_many_groups", "too_much_bandwidth"];

    /// Which of the counters is its.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Rule(_) => 0,
            Self::Default => 1,
            Self::TooManyGroups { .. } => 2,
            Self::TooMuchBandwidth { .. } => 3,
        }
    }

    /// Whether there may be room later, without another policy.
    #[must_use]
    pub const fn is_of_room(self) -> bool {
        match self {
            Self::Rule(_) | Self::Default => false,
            Self::TooManyGroups { .. } | Self::TooMuchBandwidth { .. } => true,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(id) => write!(f, "rule {id} of the policy forbids it"),
            Self::Default => f.write_str("no rule of the policy allows it"),
            Self::TooManyGroups { rule, limit } => {
                write!(f, "rule {rule} of the policy allows {limit} groups and no more")
            }
            Self::TooMuchBandwidth { rule, limit } => {
                write!(f, "rule {rule} of the policy allows {limit} bit/s and no more")
            }
        }
    }
}

/// What a member is given of what it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permitted {
    /// What it may have.
    pub filter: Filter,
    /// Why it is not all, if it is not.
    pub refused: Option<Reason>,
    /// Whether that counts towards a limit of groups.
    pub counts: bool,
}

/// Whether somebody who asks for all but these sources asks for one of a prefix.
fn asks_for(prefix: Prefix, excluded: &BTreeSet<IpAddr>) -> bool {
    prefix != Prefix::of_address(prefix.address()) || !excluded.contains(&prefix.address())
}

/// Which sources are asked for.
#[derive(Clone, Copy)]
enum Sources<'a> {
    One(IpAddr),
    AllBut(&'a BTreeSet<IpAddr>),
}

impl Rule {
    fn fits(&self, action: Action, subject: Subject, owners: &Owners, group: IpAddr) -> bool {
        let within = |prefix: &Option<Prefix>, address: Option<IpAddr>| match (prefix, address) {
            (None, _) => true,
            (Some(prefix), Some(address)) => covers(prefix.address(), prefix.length(), address),
            (Some(_), None) => false,
        };
        self.action == action
            && self.node.as_ref().is_none_or(|node| self.may_be(node, subject, owners))
            && within(&self.who, subject.address)
            && within(&self.groups, Some(group))
            // No source of the other version of IP sends to it.
            && self.source.is_none_or(|source| source.address().is_ipv4() == group.is_ipv4())
    }

    /// Whether it holds for a subject as one that is, or may be, its node. Somebody at the node's address who has not
    /// proved who it is may be the node: that is enough to forbid; to allow, only where the node is not known by its tunnels.
    fn may_be(&self, node: &NodeId, subject: Subject, owners: &Owners) -> bool {
        match subject.tunnel.and_then(|tunnel| owners.of(tunnel)) {
            Some(owner) => owner == node,
            None => {
                let is_there = subject.address.is_some_and(|address| self.addresses.contains(&address));
                let is_elsewhere = subject.tunnel.is_some() && owners.has(node);
                is_there && (self.effect == Effect::Deny || !is_elsewhere)
            }
        }
    }

    /// Whether it decides for what is asked, as far as its sources go.
    fn decides(&self, sources: Sources<'_>) -> bool {
        match (&self.source, sources) {
            (None, _) => true,
            (Some(prefix), Sources::One(source)) => covers(prefix.address(), prefix.length(), source),
            // To allow a part is not to allow all; to forbid a part is, unless nobody asks for that part.
            (Some(prefix), Sources::AllBut(excluded)) => {
                self.effect == Effect::Deny && asks_for(*prefix, excluded)
            }
        }
    }

    /// Whether somebody who asks for all but these sources asks for one of its own.
    fn has_part_of(&self, excluded: &BTreeSet<IpAddr>) -> bool {
        self.source.is_some_and(|prefix| asks_for(prefix, excluded))
    }
}

impl Policy {
    fn decide(
        &self,
        action: Action,
        subject: Subject,
        group: IpAddr,
        sources: Sources<'_>,
    ) -> (Option<&Rule>, Effect) {
        let fits = |rule: &&Rule| rule.fits(action, subject, &self.owners, group) && rule.decides(sources);
        let rule = self.rules.iter().find(fits);
        (rule, rule.map_or(self.default, |rule| rule.effect))
    }

    /// The rules about a part of the sources, before one decides for all but these.
    fn parts_before(
        &self,
        subject: Subject,
        group: IpAddr,
        excluded: &BTreeSet<IpAddr>,
    ) -> impl Iterator<Item = &Rule> {
        let fitting =
            self.rules.iter().filter(move |rule| rule.fits(Action::Receive, subject, &self.owners, group));
        let undecided = fitting.take_while(|rule| !rule.decides(Sources::AllBut(excluded)));
        undecided.filter(|rule| rule.has_part_of(excluded))
    }

    /// The parts of what a member may have that limits of bandwidth hold for.
    #[must_use]
    pub fn limited(&self, subject: impl Into<Subject>, group: IpAddr, allowed: &Filter) -> Vec<Limited> {
        let subject = subject.into();
        let of = |rule: &Rule, source| {
            let (limit, declared) = (rule.max_bits?, rule.stream_bits.unwrap_or_default());
            Some(Limited { source, rule: rule.id, limit, declared })
        };
        let decides = |sources| self.decide(Action::Receive, subject, group, sources).0;
        match allowed {
            Filter::Include(sources) => {
                let part = |source: &IpAddr| of(decides(Sources::One(*source))?, Some(*source));
                sources.iter().filter_map(part).collect()
            }
            // What is limited for a part of the sources is so for all of them.
            Filter::Exclude(excluded) => {
                let all =
                    self.parts_before(subject, group, excluded).chain(decides(Sources::AllBut(excluded)));
                all.filter_map(|rule| of(rule, None)).min_by_key(|part| part.limit).into_iter().collect()
            }
        }
    }

    /// Whether a limit of bandwidth is there.
    #[must_use]
    pub fn limits_bandwidth(&self) -> bool {
        self.rules.iter().any(|rule| rule.max_bits.is_some())
    }

    /// Whether a source may send to a group.
    ///
    /// # Errors
    /// Why not.
    pub fn send(&self, source: IpAddr, group: IpAddr) -> Result<(), Reason> {
        match self.decide(Action::Send, Some(source).into(), group, Sources::One(source)) {
            (_, Effect::Allow) => Ok(()),
            (Some(rule), Effect::Deny) => Err(Reason::Rule(rule.id)),
            (None, Effect::Deny) => Err(Reason::Default),
        }
    }

    /// What of its wishes a member at `subject` may have, which has so many `others` of the groups that count.
    #[must_use]
    pub fn receive(
        &self,
        subject: impl Into<Subject>,
        group: IpAddr,
        wanted: &Filter,
        others: u32,
    ) -> Permitted {
        let subject = subject.into();
        let mut counts = false;
        let mut judge = |sources: Sources<'_>| match self.decide(Action::Receive, subject, group, sources) {
            (Some(Rule { id, max_groups: Some(limit), .. }), Effect::Allow) => {
                if others >= *limit {
                    return Err(Reason::TooManyGroups { rule: *id, limit: *limit });
                }
                counts = true;
                Ok(())
            }
            (_, Effect::Allow) => Ok(()),
            (Some(rule), Effect::Deny) => Err(Reason::Rule(rule.id)),
            (None, Effect::Deny) => Err(Reason::Default),
        };
        match wanted {
            Filter::Exclude(excluded) => {
                let judged = judge(Sources::AllBut(excluded));
                // What is limited for a part of the sources is so for all of them.
                let limit = |rule: &Rule| Some((rule.id, rule.max_groups?));
                let limits: Vec<_> = self.parts_before(subject, group, excluded).filter_map(limit).collect();
                let judged = judged.and_then(|()| match limits.iter().find(|(_, limit)| others >= *limit) {
                    Some(&(rule, limit)) => Err(Reason::TooManyGroups { rule, limit }),
                    None => Ok(()),
                });
                counts |= !limits.is_empty();
                // Who may not send is kept out by other means, and lists of them take no room.
                let sends = |source: &IpAddr| self.send(*source, group).is_ok();
                let filter = match judged {
                    Ok(()) => Filter::Exclude(excluded.iter().copied().filter(sends).collect()),
                    Err(_) => Filter::none(),
                };
                Permitted { filter, refused: judged.err(), counts }
            }
            Filter::Include(sources) => {
                let mut refused = None;
                let mut may = |source: &IpAddr| {
                    let judged = self.send(*source, group).and_then(|()| judge(Sources::One(*source)));
                    let allowed = judged.is_ok();
                    refused = refused.or(judged.err());
                    allowed
                };
                let filter = Filter::Include(sources.iter().copied().filter(|source| may(source)).collect());
                Permitted { filter, refused, counts }
            }
        }
    }
}

//! What the policy lets members have, and what it refused.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
    ops::Bound,
    time::Instant,
};

use vmcast_common::fib::{Output, Stream};
use vmcast_proto::{
    Filter,
    policy::{Bandwidth, Owners, Policy, Reason, Subject},
    registry::{NodeId, OwnTunnel},
};

use super::core::Refusal;

/// Refusals that are remembered, to be shown; all are counted.
const REMEMBERED: usize = 4096;
/// Refusals of one member that are remembered.
const OF_MEMBER: usize = 64;

/// Joins that are judged again at a time, since there may be room.
const RECONSIDERED: usize = 256;

/// A join that was refused, wholly or in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) who: Option<IpAddr>,
    pub(super) reason: Reason,
    /// What it is, if there may be room for it later.
    wanted: Option<Filter>,
}

/// The policy at work.
#[derive(Debug, Default)]
pub(super) struct Policed {
    policy: Policy,
    /// Claims that were found to be true; a proof is good for a while only, and so the tunnel is what counts then.
    proved: BTreeSet<(SocketAddr, NodeId)>,
    /// Claims of tunnels that have ended: who is there next is another, or proves it anew.
    ended: HashSet<(NodeId, OwnTunnel)>,
    /// Claims that were not when they came.
    unproved: u64,
    /// Policies that were told and are older than this one.
    older: u64,
    /// The version of the last of these.
    last_older: Option<u64>,
    /// By member and group.
    refused: BTreeMap<(u32, IpAddr), Refused>,
    /// Whether other joins are refused than when it was last asked.
    has_changed: bool,
    /// The last refusal that is news.
    refusal: Option<Refusal>,
    /// The groups that each member has by a rule with a limit.
    counted: BTreeMap<u32, BTreeSet<IpAddr>>,
    bandwidth: Bandwidth,
    /// The join that was last judged again.
    reconsidered: Option<(u32, IpAddr)>,
    counters: [u64; Reason::LABELS.len()],
}

impl Policed {
    pub(super) const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Takes another policy; false if it decides alike. Of its claims those hold that held before, and those which are
    /// proved now at tunnels where no other holds.
    pub(super) fn set(&mut self, mut policy: Policy, is_proved: impl Fn(&OwnTunnel) -> bool) -> bool {
        let known: HashSet<_> = self.policy.claims.iter().collect();
        let claims = policy.claims.iter().map(|(node, own)| (own.tunnel, node.clone()));
        let mut proved: BTreeSet<_> = claims.filter(|claim| self.proved.contains(claim)).collect();
        let held: BTreeSet<_> = proved.iter().map(|(tunnel, _)| *tunnel).collect();
        for claimed in &policy.claims {
            let (node, own) = claimed;
            let claim = (own.tunnel, node.clone());
            if proved.contains(&claim) {
                continue;
            }
            let is_open = !held.contains(&own.tunnel) && !self.ended.contains(claimed);
            if is_open && is_proved(own) {
                proved.insert(claim);
            } else if !known.contains(claimed) {
                self.unproved += 1;
                tracing::debug!(%node, tunnel = %own.tunnel, "a node does not prove where it is");
            }
        }
        policy.owners = Owners::new(proved.iter().cloned()).beside(policy.known_by_tunnels.iter().cloned());
        self.proved = proved;
        let claimed: HashSet<_> = policy.claims.iter().collect();
        self.ended.retain(|claim| claimed.contains(claim));
        let changed = !self.policy.decides_like(&policy);
        if changed {
            self.policy = policy;
            // Everything is judged anew.
            self.counted.clear();
        } else {
            self.policy.claims = policy.claims;
        }
        changed
    }

    /// Whether a policy that is told is older than the one at work, which counts: it is of an admin that has not heard of
    /// the newer one yet, or has lost it, and what the rules of that forbid stays forbidden.
    pub(super) fn is_older(&mut self, told: &Policy) -> bool {
        let is_older = told.version < self.policy.version;
        self.older += u64::from(is_older);
        is_older
    }

    /// Whether of an older policy that was told the operator has yet to hear: it is told again with each change of an
    /// address.
    pub(super) fn is_news(&mut self, older: &Policy) -> bool {
        self.last_older.replace(older.version) != Some(older.version)
    }

    /// A tunnel has ended: nobody is there any more, whoever says so.
    pub(super) fn tunnel_down(&mut self, tunnel: SocketAddr) {
        if !self.policy.owners.forget(tunnel) {
            return;
        }
        let was_there = |(node, own): &&(NodeId, OwnTunnel)| {
            own.tunnel == tunnel && self.proved.contains(&(tunnel, node.clone()))
        };
        self.ended.extend(self.policy.claims.iter().filter(was_there).cloned());
        self.proved.retain(|(proved, _)| *proved != tunnel);
    }

    /// What a member is given of what it wants, who has `had` of the group: a limit of bandwidth does not take
    /// that away.
    pub(super) fn permit(
        &mut self,
        who: impl Into<Subject>,
        member: Output,
        group: IpAddr,
        wanted: Filter,
        had: &Filter,
    ) -> Filter {
        let (who, number) = (who.into(), member.number());
        if let Some(groups) = self.counted.get_mut(&number) {
            groups.remove(&group);
            if groups.is_empty() {
                self.counted.remove(&number);
            }
        }
        if wanted.is_none() {
            self.has_changed |= self.refused.remove(&(number, group)).is_some();
            self.bandwidth.admit(number, group, had, wanted.clone(), Vec::new());
            return wanted;
        }
        let others =
            self.counted.get(&number).map_or(0, |groups| u32::try_from(groups.len()).unwrap_or(u32::MAX));
        let permitted = self.policy.receive(who, group, &wanted, others);
        let parts = self.policy.limited(who, group, &permitted.filter);
        let (filter, beyond) = self.bandwidth.admit(number, group, had, permitted.filter, parts);
        match permitted.refused.or(beyond) {
            None => self.has_changed |= self.refused.remove(&(number, group)).is_some(),
            Some(reason) => {
                // Of what is refused for good, a part may have room later.
                let may_come = reason.is_of_room() || beyond.is_some();
                let wanted = may_come.then_some(wanted);
                self.refuse(group, number, Refused { who: who.address, reason, wanted });
            }
        }
        if permitted.counts && !filter.is_none() {
            self.counted.entry(number).or_default().insert(group);
        }
        filter
    }

    /// A member is gone with all its groups.
    pub(super) fn gone(&mut self, member: Output) {
        let gone = member.number();
        self.counted.remove(&gone);
        self.bandwidth.gone(gone);
        let groups: Vec<_> = self.of_member(gone).collect();
        self.has_changed |= !groups.is_empty();
        for group in groups {
            self.refused.remove(&(gone, group));
        }
    }

    fn refuse(&mut self, group: IpAddr, number: u32, refused: Refused) {
        let known = self.refused.get(&(number, group));
        if known == Some(&refused) {
            // A member says again what it wants.
            return;
        }
        let Refused { who, reason, .. } = refused;
        if known.is_none_or(|known| known.reason != reason) {
            self.counters[reason.index()] += 1;
            self.refusal = Some(Refusal::Join { group, who, reason });
        }
        let has_room = self.refused.len() < REMEMBERED && self.of_member(number).count() < OF_MEMBER;
        if known.is_some() || has_room {
            self.refused.insert((number, group), refused);
            self.has_changed = true;
        }
    }

    /// Whether a source may send to a group; counted if not.
    pub(super) fn may_send(&mut self, source: IpAddr, group: IpAddr) -> bool {
        match self.policy.send(source, group) {
            Ok(()) => true,
            Err(reason) => {
                self.counters[reason.index()] += 1;
                self.refusal = Some(Refusal::Source { source, group, reason });
                false
            }
        }
    }

    /// The joins that are refused at present, with the numbers of their members.
    pub(super) fn refused(&self) -> impl Iterator<Item = (u32, IpAddr, &Refused)> {
        self.refused.iter().map(|((number, group), refused)| (*number, *group, refused))
    }

    fn of_member(&self, number: u32) -> impl Iterator<Item = IpAddr> {
        let first = (number, IpAddr::from([0; 4]));
        let all = self.refused.range(first..).take_while(move |((of, _), _)| *of == number);
        all.map(|((_, group), _)| *group)
    }

    /// The counters of a stream were read.
    pub(super) fn note(&mut self, now: Instant, stream: Stream, bytes: u64) {
        if self.policy.limits_bandwidth() {
            self.bandwidth.note(now, stream.group, stream.source, bytes);
        }
    }

    /// The next joins for which there may be room now; all of them, in several calls.
    pub(super) fn reconsider(&mut self) -> Vec<(Output, IpAddr, Filter)> {
        let after = self.reconsidered.map_or(Bound::Unbounded, Bound::Excluded);
        let waiting = self
            .refused
            .range((after, Bound::Unbounded))
            .filter_map(|(&key, refused)| Some((key, Output::from_number(key.0)?, refused.wanted.clone()?)));
        let next: Vec<_> = waiting.take(RECONSIDERED).collect();
        self.reconsidered = next.last().map(|(key, ..)| *key).filter(|_| next.len() == RECONSIDERED);
        next.into_iter().map(|((_, group), member, wanted)| (member, group, wanted)).collect()
    }

    /// What was refused since this was last asked, if that is news.
    pub(super) fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusal.take()
    }

    /// Whether other joins are refused than when this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    pub(super) fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Reason::LABELS
            .into_iter()
            .zip(self.counters)
            .chain([("claims_unproved", self.unproved), ("older_policies", self.older)])
    }
}

#[cfg(test)]
mod tests {
    use vmcast_common::fib::TunnelId;
    use vmcast_proto::policy::{Action, Effect, Rule};

    use super::*;

    fn rule(effect: Effect, max_groups: Option<u32>) -> Rule {
        Rule { max_groups, ..Rule::new(1, effect, Action::Receive) }
    }

    #[test]
    fn a_refusal_is_counted_once_and_shown_until_it_ends() {
        for group in ["239.1.1.1", "ff3e::1"].map(|text| text.parse().unwrap()) {
            let (mut policed, member) = (Policed::default(), Output::Tunnel(TunnelId(4)));
            assert_eq!(policed.permit(None, member, group, Filter::any(), &Filter::none()), Filter::any());
            let deny = Policy { version: 2, rules: vec![rule(Effect::Deny, None)], ..Policy::default() };
            assert!(policed.set(deny.clone(), |_| false) && !policed.set(deny, |_| false));
            for _ in 0..3 {
                assert!(policed.permit(None, member, group, Filter::any(), &Filter::none()).is_none());
            }
            assert_eq!(policed.counters().collect::<Vec<_>>()[0], ("by_rule", 1));
            assert_eq!(policed.refused().count(), 1);
            assert!(policed.permit(None, member, group, Filter::none(), &Filter::none()).is_none());
            assert_eq!(policed.refused().count(), 0);
        }
    }

    #[test]
    fn a_member_that_leaves_a_group_has_room_for_another() {
        let mut policed = Policed::default();
        policed.set(Policy { rules: vec![rule(Effect::Allow, Some(1))], ..Policy::default() }, |_| false);
        let member = Output::Tunnel(TunnelId(4));
        let mut join = |last: u8, filter| {
            policed.permit(None, member, [239, 1, 1, last].into(), filter, &Filter::none())
        };
        assert!(!join(1, Filter::any()).is_none());
        assert!(!join(1, Filter::any()).is_none(), "it says so again");
        assert!(join(2, Filter::any()).is_none());
        join(1, Filter::none());
        assert!(!join(2, Filter::any()).is_none());
        assert_eq!(policed.counters().collect::<Vec<_>>()[2], ("too_many_groups", 1));
    }

    // Groups of both families are a member's groups alike; who it is, is an address of one.
    #[test]
    fn a_member_has_groups_of_both_families_by_one_limit() {
        let mut policed = Policed::default();
        let limited = Rule { who: "2001:db8::/64".parse().ok(), ..rule(Effect::Allow, Some(2)) };
        policed.set(Policy { rules: vec![limited], ..Policy::default() }, |_| false);
        let member = Output::Tunnel(TunnelId(4));
        let mut join = |who: &str, member, group: &str| {
            let (who, group) = (who.parse().ok(), group.parse().unwrap());
            !policed.permit(who, member, group, Filter::any(), &Filter::none()).is_none()
        };
        assert!(join("2001:db8::5", member, "ff3e::1") && join("2001:db8::5", member, "239.1.1.1"));
        assert!(!join("2001:db8::5", member, "ff3e::2") && !join("2001:db8::5", member, "239.1.1.2"));
        let neighbour = Output::Tunnel(TunnelId(5));
        for group in ["ff3e::1", "ff3e::2", "ff3e::3", "239.1.1.1"] {
            assert!(join("2001:db8:0:1::5", neighbour, group), "the rule is not about it");
        }
    }

    // proves D4: a join that is refused for want of room comes when there is room, whoever makes it
    #[test]
    fn who_is_refused_for_want_of_room_is_judged_again() {
        let mut policed = Policed::default();
        let limited = Rule { max_bits: Some(5), stream_bits: Some(3), ..rule(Effect::Allow, None) };
        policed.set(Policy { rules: vec![limited], ..Policy::default() }, |_| false);
        let group = |last: u8| IpAddr::from([239, 1, 1, last]);
        let none = Filter::none();
        let members: Vec<_> = (0..300).map(|id| Output::Tunnel(TunnelId(id))).collect();
        for &member in &members {
            assert!(!policed.permit(None, member, group(1), Filter::any(), &none).is_none());
            assert!(policed.permit(None, member, group(2), Filter::any(), &none).is_none());
        }
        assert_eq!(policed.counters().nth(3), Some(("too_much_bandwidth", 300)));
        for &member in &members {
            policed.permit(None, member, group(1), Filter::none(), &Filter::any());
        }
        let mut again = Vec::new();
        for _ in 0..2 {
            again.extend(policed.reconsider());
        }
        assert_eq!(
            again,
            members.iter().map(|member| (*member, group(2), Filter::any())).collect::<Vec<_>>()
        );
        for (member, group, wanted) in again {
            assert!(!policed.permit(None, member, group, wanted, &none).is_none());
        }
        assert_eq!((policed.refused().count(), policed.reconsider()), (0, vec![]));
    }

    // proves D4: an admin that lags behind opens nothing again
    #[test]
    fn a_policy_that_is_older_than_the_one_at_work_is_told_from_another_and_counted() {
        let mut policed = Policed::default();
        let of = |version| Policy { version, ..Policy::default() };
        assert!(!policed.is_older(&of(0)), "nothing was told yet");
        policed.set(of(7), |_| true);
        assert!(policed.is_older(&of(6)) && policed.is_older(&of(0)));
        // Of the same version the claims may be others.
        assert!(!policed.is_older(&of(7)) && !policed.is_older(&of(8)));
        assert_eq!(policed.counters().last(), Some(("older_policies", 2)));
        let news = [6, 6, 5, 5, 6].map(|version| policed.is_news(&of(version)));
        assert_eq!(news, [true, false, true, false, true], "once for each version that is told");
    }

    // proves D4: nobody takes a node's rule away by saying that it is where that node is
    #[test]
    fn of_two_who_prove_the_same_tunnel_the_first_keeps_it_as_long_as_it_says_so() {
        let tunnel = "192.0.2.1:5000".parse().unwrap();
        let claim = |node: &str, nonce| {
            let own = OwnTunnel { vmr: "v".parse().unwrap(), tunnel, nonce, response_mac: [7; 6] };
            (node.parse::<NodeId>().unwrap(), own)
        };
        let mut policed = Policed::default();
        let mut owner = |claims: Vec<_>| {
            policed.set(Policy { claims, ..Policy::default() }, |_| true);
            (policed.policy().owners.of(tunnel).map(ToString::to_string), policed.unproved)
        };
        let [a, b] = ["a", "b"].map(|name| Some(name.to_owned()));
        assert_eq!(owner(vec![claim("b", 1)]), (b.clone(), 0));
        // By the same proof, and by one of its own.
        assert_eq!(owner(vec![claim("a", 1), claim("b", 1)]), (b.clone(), 1));
        assert_eq!(owner(vec![claim("a", 2), claim("b", 3)]), (b, 2));
        assert_eq!(owner(vec![claim("a", 2)]), (a, 2));
        // Of two who come at once nobody knows which was first.
        assert_eq!(owner(vec![]), (None, 2));
        assert_eq!(owner(vec![claim("a", 2), claim("b", 3)]), (None, 2));
    }

    #[test]
    fn refusals_of_one_member_leave_room_for_those_of_others() {
        let mut policed = Policed::default();
        policed.set(Policy { rules: vec![rule(Effect::Deny, None)], ..Policy::default() }, |_| false);
        let (greedy, other) = (Output::Tunnel(TunnelId(4)), Output::Tunnel(TunnelId(5)));
        for number in 0..10_000_u16 {
            let [a, b] = number.to_be_bytes();
            policed.permit(None, greedy, [239, 1, a, b].into(), Filter::any(), &Filter::none());
        }
        policed.permit(None, other, [239, 1, 1, 1].into(), Filter::any(), &Filter::none());
        assert!(policed.take_changed() && !policed.take_changed());
        assert_eq!(policed.refused().count(), OF_MEMBER + 1);
        assert_eq!(policed.refused().filter(|(number, ..)| *number == other.number()).count(), 1);
        policed.gone(greedy);
        assert_eq!(policed.refused().count(), 1);
        assert!(policed.take_changed());
    }
}

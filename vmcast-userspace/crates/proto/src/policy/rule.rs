//! The rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::Owners;
use crate::registry::{NodeId, OwnTunnel, Prefix};

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It lets pass.
    #[default]
    Allow,
    /// It refuses.
    Deny,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Being a member of a group.
    Receive,
    /// Sending to a group.
    Send,
}

/// A rule; what it does not say fits everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Names it.
    pub id: u32,
    /// What it does.
    pub effect: Effect,
    /// What it is about.
    pub action: Action,
    /// Only this node.
    pub node: Option<NodeId>,
    /// The addresses of the node, where it is resolved; without any the rule fits nobody.
    pub addresses: Vec<IpAddr>,
    /// Only members, or senders, with these addresses.
    pub who: Option<Prefix>,
    /// Only these groups.
    pub groups: Option<Prefix>,
    /// Only these sources; of sending, `who` is the source.
    pub source: Option<Prefix>,
    /// Of a rule that allows: so many groups of one member at most.
    pub max_groups: Option<u32>,
    /// Of a rule that allows: so many bits per second of IP of one member at most, over all that such rules allow it.
    pub max_bits: Option<u64>,
    /// Of one with `max_bits`: what a stream takes until it is measured, in bits per second of IP.
    pub stream_bits: Option<u64>,
}

impl Rule {
    /// One that fits everybody and everything.
    #[must_use]
    pub const fn new(id: u32, effect: Effect, action: Action) -> Self {
        Self {
            id,
            effect,
            action,
            node: None,
            addresses: Vec::new(),
            who: None,
            groups: None,
            source: None,
            max_groups: None,
            max_bits: None,
            stream_bits: None,
        }
    }
}

/// All rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Larger after every change.
    pub version: u64,
    /// What happens where no rule fits.
    pub default: Effect,
    /// The rules, the first that fits decides.
    pub rules: Vec<Rule>,
    /// Where nodes that rules name, and others at their addresses, say that they are.
    pub claims: Vec<(NodeId, OwnTunnel)>,
    /// Nodes that rules name and that say at which tunnels they are, of whichever VMR: who is at another is none of them,
    /// as far as rules allow.
    pub known_by_tunnels: BTreeSet<NodeId>,
    /// Those of the claims that the VMR which carries the policy out has found to be true.
    pub owners: Owners,
}

impl Policy {
    /// Rules at most.
    pub const MAX_RULES: usize = 1000;
    /// Claims at most; nodes beyond them are told apart by their addresses alone.
    pub const MAX_CLAIMS: usize = 4096;

    /// Whether it decides as another does: its claims are none of its rules.
    #[must_use]
    pub fn decides_like(&self, other: &Self) -> bool {
        let decisive = |policy: &Self| (policy.version, policy.default);
        decisive(self) == decisive(other) && self.rules == other.rules && self.owners == other.owners
    }

    /// The same rules with the nodes where another policy has them, which is told later and has rules of before. Of nodes
    /// that it does not speak of nothing changes: whoever told it may never have heard of them. One that these rules name,
    /// and it has only seen at the address of one that its own name, may be at other tunnels, too.
    #[must_use]
    pub fn with_places_of(&self, told: &Self) -> Self {
        let named = told.rules.iter().filter(|rule| !rule.addresses.is_empty());
        let addresses: BTreeMap<_, _> =
            named.filter_map(|rule| Some((rule.node.as_ref()?, &rule.addresses))).collect();
        let named: BTreeSet<_> = self.rules.iter().filter_map(|rule| rule.node.as_ref()).collect();
        let claiming = told.claims.iter().map(|(node, _)| node).filter(|node| !named.contains(node));
        let spoken_of: BTreeSet<_> = claiming.chain(addresses.keys().copied()).collect();
        let at = |(node, own): &(NodeId, OwnTunnel)| (node.clone(), own.vmr.clone(), own.tunnel);
        let claimed: BTreeSet<_> = told.claims.iter().map(at).collect();
        let place = |rule: &Rule| {
            let there = rule.node.as_ref().and_then(|node| addresses.get(node));
            Rule {
                addresses: there.map_or_else(|| rule.addresses.clone(), |&there| there.clone()),
                ..rule.clone()
            }
        };
        let others = self.claims.iter().filter(|claim| {
            // Of one tunnel the proof that is told counts.
            !spoken_of.contains(&claim.0) && !claimed.contains(&at(claim))
        });
        let known_others = self.known_by_tunnels.iter().filter(|node| !spoken_of.contains(node));
        Self {
            version: self.version,
            default: self.default,
            rules: self.rules.iter().map(place).collect(),
            claims: told.claims.iter().chain(others).take(Self::MAX_CLAIMS).cloned().collect(),
            known_by_tunnels: told.known_by_tunnels.iter().chain(known_others).cloned().collect(),
            owners: self.owners.clone(),
        }
    }
}

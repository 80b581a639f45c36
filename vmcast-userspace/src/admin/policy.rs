//! The policy of a running registry: a record of its store, pushed to the VMRs.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tracing::warn;
use vmcast_proto::{
    policy::{Action, Effect, Owners, Policy, Rule},
    registry::{Error, Expected, Found, NodeId, NodeRecord, RecordKind, RecordWrite, Registry, Rows as _},
};
use vmcast_signal::{prost::Message as _, v1};

use super::{
    Handle, Kept, Mirror,
    convert::{Malformed, malformed, optional, own_tunnel, parse, read_own_tunnel},
};

/// The only record of its kind.
const KEY: &str = "policy";
/// A change is tried so often when other admins are faster.
const TRIES: usize = 8;

/// A version that is so far ahead of the clock, in seconds, is of an admin whose clock was.
const AHEAD: u64 = 86_400;

/// Why the policy was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The change itself is wrong.
    #[error("{0}")]
    Change(String),
    /// The store failed.
    #[error("the policy cannot be kept: {0}")]
    Store(String),
}

impl<S: Kept> Handle<S> {
    /// The policy.
    ///
    /// # Errors
    /// If the store fails.
    pub fn policy(&self) -> Result<Policy, PolicyError> {
        self.rows(read).map(|(_, policy)| policy)
    }

    /// The policy as the VMRs are told it: with the addresses at which the nodes are that it names.
    ///
    /// # Errors
    /// If the store fails.
    pub fn policy_in_force(&self) -> Result<Policy, PolicyError> {
        self.rows(resolved)
    }

    /// Changes the policy; VMRs hear of it at once.
    ///
    /// # Errors
    /// What is wrong with the change, or the failure of the store.
    pub async fn change_policy(
        &self,
        change: impl Fn(&mut Policy) -> Result<(), String> + Send + 'static,
    ) -> Result<Policy, PolicyError> {
        for _ in 0..TRIES {
            let (value, mut policy) = self.rows(read)?;
            change(&mut policy).map_err(PolicyError::Change)?;
            // Larger than any that VMRs know, also of a registry that was lost, or restored from an earlier copy.
            let now = self.now().0 / 1000;
            policy.version = (policy.version + 1).max(now);
            let ahead = ahead(policy.version, now);
            let expected = Expected { kind: RecordKind::Policy, key: KEY.to_owned(), value };
            let value = Some(message(&policy).encode_to_vec());
            let write = RecordWrite { kind: RecordKind::Policy, key: KEY.to_owned(), value };
            let commit = move |registry: &mut Registry<S>, _| {
                registry.store_mut().commit_records(&[expected], &[write]).map_err(Error::Store)
            };
            if self.write(commit).await.map_err(failed)? {
                if let Some(ahead) = ahead {
                    warn!(
                        version = policy.version,
                        ?ahead,
                        "the policy was changed when an admin's clock was ahead: for so long routers take none of a \
                         registry that is set up anew or restored, unless `policy` in their identity directory is \
                         removed and they are restarted"
                    );
                }
                self.push_policy();
                return Ok(policy);
            }
        }
        Err(PolicyError::Store("other admins change it, too".to_owned()))
    }

    /// Other nodes that are seen at the address of one and do not say at which tunnel they are, at most so many: a rule
    /// for it is one for them.
    #[must_use]
    pub fn at_address_of(&self, node: &NodeId, most: usize) -> Vec<NodeId> {
        self.rows(|rows| {
            let Some(seen) = rows.node(node).map(|record| record.seen) else { return Vec::new() };
            let rows = rows.rows();
            let others = rows.every_node().filter(|other| {
                other.seen == seen && other.id() != node && other.registration.about.own_tunnels.is_empty()
            });
            others.take(most).map(|other| other.id().clone()).collect()
        })
    }

    /// Tells the VMRs the policy if it is another one than they know: by a change, or since a node that it names is at
    /// another address. One that has lost its store tells nothing: another may know better where nodes are.
    pub(super) fn push_policy(&self) {
        if self.is_stale() {
            return;
        }
        // What they know holds on.
        if let Ok(policy) = self.rows(resolved) {
            self.lines().set_policy(message(&policy));
        }
    }
}

/// How far a version is ahead of the clock, if that is more than changes in a row make.
fn ahead(version: u64, now: u64) -> Option<Duration> {
    version.checked_sub(now).filter(|ahead| *ahead >= AHEAD).map(Duration::from_secs)
}

fn failed(error: impl std::error::Error) -> PolicyError {
    PolicyError::Store(error.to_string())
}

fn read(rows: &Mirror) -> Result<(Option<Vec<u8>>, Policy), PolicyError> {
    let value = rows.record(RecordKind::Policy, KEY);
    let policy = match &value {
        None => Policy::default(),
        Some(value) => {
            let message = v1::Policy::decode(&value[..]).map_err(failed)?;
            policy(message).map_err(failed)?
        }
    };
    Ok((value, policy))
}

/// The policy with the addresses of the nodes that it names, as the admins see them, and the tunnels of all nodes there.
fn resolved(rows: &Mirror) -> Result<Policy, PolicyError> {
    let (_, mut policy) = read(rows)?;
    let (mut named, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for rule in &mut policy.rules {
        let Some(node) = &rule.node else { continue };
        let Some(record) = rows.node(node) else {
            rule.addresses.clear();
            continue;
        };
        rule.addresses = addresses_of(&record);
        addresses.extend(&rule.addresses);
        if named.insert(node.clone()) {
            if !record.registration.about.own_tunnels.is_empty() {
                policy.known_by_tunnels.insert(node.clone());
            }
            for own in &record.registration.about.own_tunnels {
                addresses.insert(own.tunnel.ip());
                policy.claims.push((node.clone(), own.clone()));
            }
        }
    }
    let rows = rows.rows();
    for address in addresses {
        for other in rows.at_tunnels_from(address).filter(|other| !named.contains(other.id())) {
            let own = other.registration.about.own_tunnels.iter().filter(|own| own.tunnel.ip() == address);
            policy.claims.extend(own.map(|own| (other.id().clone(), own.clone())));
        }
        if policy.claims.len() > Policy::MAX_CLAIMS {
            break;
        }
    }
    policy.claims.truncate(Policy::MAX_CLAIMS);
    Ok(policy)
}

/// Where a node is: the address at which the admins see it, and those at which return probes found it. What it only says
/// of itself would be a rule about others.
fn addresses_of(record: &NodeRecord) -> Vec<IpAddr> {
    let proved = record.proofs.iter().filter(|(_, proof)| proof.found == Found::Proved);
    let mut addresses = vec![record.seen];
    for address in proved.map(|(endpoint, _)| endpoint.ip()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// The policy as it is kept and sent.
#[must_use]
pub fn message(policy: &Policy) -> v1::Policy {
    let text = |part: Option<String>| part.unwrap_or_default();
    let rule = |rule: &Rule| v1::PolicyRule {
        id: rule.id,
        deny: rule.effect == Effect::Deny,
        action: match rule.action {
            Action::Receive => v1::PolicyAction::Receive.into(),
            Action::Send => v1::PolicyAction::Send.into(),
        },
        node_id: text(rule.node.as_ref().map(ToString::to_string)),
        addresses: rule.addresses.iter().map(ToString::to_string).collect(),
        who: text(rule.who.map(|prefix| prefix.to_string())),
        groups: text(rule.groups.map(|prefix| prefix.to_string())),
        source: text(rule.source.map(|prefix| prefix.to_string())),
        max_groups: rule.max_groups,
        max_bits_per_second: rule.max_bits,
        stream_bits_per_second: rule.stream_bits,
    };
    v1::Policy {
        version: policy.version,
        deny_by_default: policy.default == Effect::Deny,
        rules: policy.rules.iter().map(rule).collect(),
        claims: policy
            .claims
            .iter()
            .map(|(node, own)| v1::Claim { node_id: node.to_string(), tunnel: Some(own_tunnel(own)) })
            .collect(),
        known_by_tunnels: policy.known_by_tunnels.iter().map(ToString::to_string).collect(),
    }
}

/// Reads a policy. One with a rule that cannot be read is none: what the rule is for is not known.
///
/// # Errors
/// If a field cannot be read.
pub fn policy(message: v1::Policy) -> Result<Policy, Malformed> {
    let effect = |deny| if deny { Effect::Deny } else { Effect::Allow };
    let rule = |rule: v1::PolicyRule| {
        let action = match rule.action() {
            v1::PolicyAction::Receive => Action::Receive,
            v1::PolicyAction::Send => Action::Send,
            v1::PolicyAction::Unspecified => {
                return Err(malformed("policy.action")(&format!("{} is not known", rule.action)));
            }
        };
        let addresses = rule.addresses.iter().map(|text| parse("policy.addresses", text));
        Ok(Rule {
            id: rule.id,
            effect: effect(rule.deny),
            action,
            node: optional("policy.node_id", &rule.node_id)?,
            addresses: addresses.collect::<Result<_, _>>()?,
            who: optional("policy.who", &rule.who)?,
            groups: optional("policy.groups", &rule.groups)?,
            source: optional("policy.source", &rule.source)?,
            max_groups: rule.max_groups,
            max_bits: rule.max_bits_per_second,
            stream_bits: rule.stream_bits_per_second,
        })
    };
    if message.rules.len() > Policy::MAX_RULES {
        return Err(malformed("policy.rules")(&format!("{} are too many", message.rules.len())));
    }
    if message.claims.len() > Policy::MAX_CLAIMS {
        return Err(malformed("policy.claims")(&format!("{} are too many", message.claims.len())));
    }
    // Rules name no more.
    let known = message.known_by_tunnels.iter().take(Policy::MAX_RULES);
    let claim = |claim: v1::Claim| {
        let own = claim.tunnel.ok_or_else(|| malformed("policy.claims.tunnel")(&"missing"))?;
        Ok((parse("policy.claims.node_id", &claim.node_id)?, read_own_tunnel(&own)?))
    };
    Ok(Policy {
        version: message.version,
        default: effect(message.deny_by_default),
        rules: message.rules.into_iter().map(rule).collect::<Result<_, _>>()?,
        claims: message.claims.into_iter().map(claim).collect::<Result<_, _>>()?,
        known_by_tunnels: known
            .map(|node| parse("policy.known_by_tunnels", node))
            .collect::<Result<_, _>>()?,
        owners: Owners::default(),
    })
}

#[cfg(test)]
mod tests {
    use vmcast_proto::registry::OwnTunnel;

    use super::*;
    use crate::admin::tests::bed::Bed;

    // proves D4: the operator hears of it while the registry is whole
    #[tokio::test]
    async fn a_version_of_a_clock_that_was_ahead_is_known_for_one() {
        let bed = Bed::new().await;
        let change = async || {
            let changed = bed.handle.change_policy(|_| Ok(())).await.unwrap();
            ahead(changed.version, bed.handle.now().0 / 1000)
        };
        // Changes in a row are none.
        assert_eq!([change().await, change().await], [None, None]);
        let years = Duration::from_secs(3 * 365 * 86_400);
        bed.pass(years);
        assert_eq!(change().await, None, "nobody knows it yet");
        bed.turn_back(years);
        assert_eq!(change().await, Some(years + Duration::from_secs(1)));
        bed.stop().await;
    }

    #[test]
    fn a_policy_comes_back_from_its_message_and_one_of_later_versions_is_none() {
        let rule = Rule {
            id: 3,
            effect: Effect::Deny,
            action: Action::Send,
            node: Some("n".parse().unwrap()),
            addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            who: Some("10.0.0.0/8".parse().unwrap()),
            groups: Some("ff3e::/32".parse().unwrap()),
            source: Some("192.0.2.0/24".parse().unwrap()),
            max_groups: Some(0),
            max_bits: Some(u64::MAX),
            stream_bits: Some(0),
        };
        let bare = Rule::new(rule.id, Effect::Allow, Action::Receive);
        let own = OwnTunnel {
            vmr: "v".parse().unwrap(),
            tunnel: "[2001:db8::1]:2268".parse().unwrap(),
            nonce: u32::MAX,
            response_mac: [1, 2, 3, 4, 5, 0xff],
        };
        let claims = vec![("n".parse().unwrap(), own)];
        let (rules, owners) = (vec![rule, bare], Owners::default());
        let known_by_tunnels = ["n", "m"].map(|node| node.parse().unwrap()).into();
        let whole = Policy { version: 9, default: Effect::Deny, rules, claims, known_by_tunnels, owners };
        assert_eq!(policy(message(&whole)).unwrap(), whole);
        let mut later = message(&whole);
        later.rules[0].action = 77;
        policy(later).unwrap_err();
        let mut bad = message(&whole);
        bad.rules[1].groups = "239/8".into();
        assert!(policy(bad).unwrap_err().to_string().contains("policy.groups"));
        let mut bad = message(&whole);
        bad.claims[0].tunnel.as_mut().unwrap().response_mac.push(0);
        assert!(policy(bad).unwrap_err().to_string().contains("response_mac"));
    }
}

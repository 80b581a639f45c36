//! The operator's commands on the policy.

use tracing::info;
use vmcast_api::{
    self as api, PolicyAction, PolicyEffect, PolicyQuestion, PolicyRule, PolicyVerdict, Request, Response,
    Role,
};
use vmcast_proto::{
    Filter,
    policy::{Action, Effect, Policy, Reason, Rule},
};

use crate::admin::{Handle, PolicyError};

/// Answers what is about the policy.
pub(super) async fn answer(handle: &Handle, request: &Request) -> Response {
    let answered = match request {
        Request::PolicyList => handle.policy().map(|policy| Response::Policy(shown(&policy, handle))),
        Request::PolicyAdd { rule, before } => add(handle, rule, *before).await,
        Request::PolicyRemove { id } => {
            let id = *id;
            changed(handle, move |policy| {
                let rules = policy.rules.len();
                policy.rules.retain(|rule| rule.id != id);
                if policy.rules.len() == rules { Err(format!("there is no rule {id}")) } else { Ok(()) }
            })
            .await
        }
        Request::PolicyDefault { effect } => {
            let effect = of_effect(*effect);
            changed(handle, move |policy| {
                policy.default = effect;
                Ok(())
            })
            .await
        }
        Request::PolicyTest { question } => {
            handle.policy_in_force().map(|policy| Response::PolicyVerdict(judge(&policy, question)))
        }
        other => return Response::not_this_role(Role::Admin, other),
    };
    answered.unwrap_or_else(|error| Response::error(error.to_string()))
}

async fn changed(
    handle: &Handle,
    change: impl Fn(&mut Policy) -> Result<(), String> + Send + 'static,
) -> Result<Response, PolicyError> {
    let policy = handle.change_policy(change).await?;
    info!(version = policy.version, rules = policy.rules.len(), "the operator changes the policy");
    Ok(Response::Policy(shown(&policy, handle)))
}

async fn add(handle: &Handle, rule: &PolicyRule, before: Option<u32>) -> Result<Response, PolicyError> {
    let rule = read(rule).map_err(PolicyError::Change)?;
    changed(handle, move |policy| {
        if policy.rules.len() >= Policy::MAX_RULES {
            return Err(format!("there are {} rules already", Policy::MAX_RULES));
        }
        let id = policy.rules.iter().map(|rule| rule.id).max().unwrap_or_default() + 1;
        let place = match before {
            None => policy.rules.len(),
            Some(before) => {
                let place = policy.rules.iter().position(|rule| rule.id == before);
                place.ok_or_else(|| format!("there is no rule {before}"))?
            }
        };
        policy.rules.insert(place, Rule { id, ..rule.clone() });
        Ok(())
    })
    .await
}

fn read(rule: &PolicyRule) -> Result<Rule, String> {
    fn part<T: std::str::FromStr<Err: std::fmt::Display>>(
        name: &str,
        text: Option<&String>,
    ) -> Result<Option<T>, String> {
        text.map(|text| text.parse().map_err(|error| format!("{name} {text:?} cannot be read: {error}")))
            .transpose()
    }
    let limits = rule.max_groups.is_some() || rule.max_bits_per_second.is_some();
    if limits && rule.effect == PolicyEffect::Deny {
        return Err("a limit belongs to a rule that allows".to_owned());
    }
    if rule.action == PolicyAction::Send && (rule.source.is_some() || limits) {
        return Err("of sending, the source is who sends: say --from, and no limit".to_owned());
    }
    if rule.stream_bits_per_second.is_some() && rule.max_bits_per_second.is_none() {
        return Err("what a stream takes matters to a limit alone: say --max-rate, too".to_owned());
    }
    Ok(Rule {
        id: 0,
        effect: of_effect(rule.effect),
        action: of_action(rule.action),
        node: part("the node", rule.node.as_ref())?,
        addresses: Vec::new(),
        who: part("the network", rule.who.as_ref())?,
        groups: part("the range of groups", rule.groups.as_ref())?,
        source: part("the network of sources", rule.source.as_ref())?,
        max_groups: rule.max_groups,
        max_bits: rule.max_bits_per_second,
        stream_bits: rule.stream_bits_per_second,
    })
}

fn judge(policy: &Policy, question: &PolicyQuestion) -> PolicyVerdict {
    let PolicyQuestion { action, who, group, source } = question;
    let refused: Option<Reason> = match action {
        PolicyAction::Send => policy.send(*who, *group).err(),
        PolicyAction::Receive => {
            let wanted = source.map_or_else(Filter::any, |source| Filter::Include([source].into()));
            policy.receive(Some(*who), *group, &wanted, 0).refused
        }
    };
    PolicyVerdict { allowed: refused.is_none(), reason: refused.map(|reason| reason.to_string()) }
}

const fn of_effect(effect: PolicyEffect) -> Effect {
    match effect {
        PolicyEffect::Allow => Effect::Allow,
        PolicyEffect::Deny => Effect::Deny,
    }
}

const fn of_action(action: PolicyAction) -> Action {
    match action {
        PolicyAction::Receive => Action::Receive,
        PolicyAction::Send => Action::Send,
    }
}

const fn effect(effect: Effect) -> PolicyEffect {
    match effect {
        Effect::Allow => PolicyEffect::Allow,
        Effect::Deny => PolicyEffect::Deny,
    }
}

/// Other nodes that are named beside a rule, at most.
const MOST_SHARED: usize = 8;

fn shown(policy: &Policy, handle: &Handle) -> api::Policy {
    let rule = |rule: &Rule| PolicyRule {
        id: rule.id,
        effect: effect(rule.effect),
        action: match rule.action {
            Action::Receive => PolicyAction::Receive,
            Action::Send => PolicyAction::Send,
        },
        node: rule.node.as_ref().map(ToString::to_string),
        shared_with: rule
            .node
            .iter()
            .flat_map(|node| handle.at_address_of(node, MOST_SHARED))
            .map(|id| id.to_string())
            .collect(),
        who: rule.who.map(|prefix| prefix.to_string()),
        groups: rule.groups.map(|prefix| prefix.to_string()),
        source: rule.source.map(|prefix| prefix.to_string()),
        max_groups: rule.max_groups,
        max_bits_per_second: rule.max_bits,
        stream_bits_per_second: rule.stream_bits,
    };
    api::Policy {
        version: policy.version,
        default: effect(policy.default),
        rules: policy.rules.iter().map(rule).collect(),
    }
}

//! The policy.

use vmcast_api::{Policy, PolicyRule, PolicyVerdict};

use super::{
    table::Rows,
    unit::{NONE, bit_rate},
};

/// `vmcast policy list`, and what it is after a change.
pub(crate) fn policy(policy: &Policy) -> String {
    let mut text = format!("Version {}, where no rule fits: {}.\n", policy.version, policy.default.label());
    if policy.rules.is_empty() {
        return text;
    }
    let mut rows = Rows::new(&["RULE", "WHAT", "NODE", "FROM", "GROUPS", "SOURCE", "LIMIT"]);
    let any = |part: &Option<String>| part.clone().unwrap_or_else(|| "any".to_owned());
    for rule in &policy.rules {
        rows.row([
            rule.id.to_string(),
            format!("{} {}", rule.effect.label(), rule.action.label()),
            any(&rule.node),
            any(&rule.who),
            any(&rule.groups),
            any(&rule.source),
            limit(rule),
        ]);
    }
    text += &rows.text(0);
    for rule in policy.rules.iter().filter(|rule| !rule.shared_with.is_empty()) {
        let others = rule.shared_with.join(", ");
        text += &format!("Rule {} holds for others at the same address, too: {others}.\n", rule.id);
    }
    text
}

/// As `4 groups, 8.00 Mbit/s (a stream 2.00 Mbit/s)`.
fn limit(rule: &PolicyRule) -> String {
    let groups = rule.max_groups.map(|groups| format!("{groups} groups"));
    let stream = rule.stream_bits_per_second.map(|bits| format!(" (a stream {})", bit_rate(bits)));
    let bits = rule.max_bits_per_second.map(|bits| bit_rate(bits) + &stream.unwrap_or_default());
    let limits: Vec<_> = groups.into_iter().chain(bits).collect();
    if limits.is_empty() { NONE.to_owned() } else { limits.join(", ") }
}

/// `vmcast policy test`.
pub(crate) fn verdict(verdict: &PolicyVerdict) -> String {
    match &verdict.reason {
        None => "allowed\n".to_owned(),
        Some(reason) => format!("refused: {reason}\n"),
    }
}

#[cfg(test)]
mod tests {
    use vmcast_api::{PolicyAction, PolicyEffect};

    use super::*;

    #[test]
    fn a_rule_is_a_line() {
        let rule = PolicyRule {
            id: 12,
            effect: PolicyEffect::Deny,
            action: PolicyAction::Receive,
            node: None,
            shared_with: Vec::new(),
            who: Some("10.5.0.0/16".into()),
            groups: Some("239.192.0.0/14".into()),
            source: None,
            max_groups: None,
            max_bits_per_second: None,
            stream_bits_per_second: None,
        };
        let limited = PolicyRule {
            effect: PolicyEffect::Allow,
            max_groups: Some(4),
            max_bits_per_second: Some(8_000_000),
            stream_bits_per_second: Some(2_000_000),
            ..rule.clone()
        };
        assert_eq!(
            (limit(&rule), limit(&limited)),
            (NONE.to_owned(), "4 groups, 8.00 Mbit/s (a stream 2.00 Mbit/s)".to_owned())
        );
        let text = policy(&Policy { version: 4, default: PolicyEffect::Allow, rules: vec![rule] });
        assert!(text.starts_with("Version 4, where no rule fits: allow.\n"), "{text}");
        assert!(text.contains("deny receive") && text.contains("10.5.0.0/16"), "{text}");
        let shared =
            PolicyRule { node: Some("a".into()), shared_with: vec!["b".into(), "c".into()], ..limited };
        let told = policy(&Policy { version: 4, default: PolicyEffect::Allow, rules: vec![shared] });
        assert!(told.ends_with("Rule 12 holds for others at the same address, too: b, c.\n"), "{told}");
        assert!(text.lines().count() == 3 && text.lines().all(|line| line.len() <= 100), "{text}");
    }
}

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use proptest::prelude::*;

use super::{Action, Effect, Policy, Reason, Rule};
use crate::{Filter, registry::Prefix};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Option<Prefix> {
    Some(text.parse().unwrap())
}

fn rule(id: u32, effect: Effect) -> Rule {
    Rule {
        id,
        effect,
        action: Action::Receive,
        node: None,
        addresses: vec![],
        who: None,
        groups: None,
        source: None,
        max_groups: None,
        max_bits: None,
        stream_bits: None,
    }
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy { rules, ..Policy::default() }
}

const MEMBER: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 5, 1, 2)));

#[test]
fn without_rules_everything_is_allowed_and_with_that_default_nothing() {
    let group = ip("239.1.1.1");
    let open = Policy::default();
    assert_eq!(open.receive(MEMBER, group, &Filter::any(), 0).filter, Filter::any());
    assert_eq!(open.send(ip("10.1.0.2"), group), Ok(()));
    let closed = Policy { default: Effect::Deny, ..Policy::default() };
    assert_eq!(closed.receive(None, group, &Filter::any(), 0).refused, Some(Reason::Default));
    assert_eq!(closed.send(ip("10.1.0.2"), group), Err(Reason::Default));
}

#[test]
fn the_first_rule_that_fits_decides() {
    let policy = policy(vec![
        Rule { groups: prefix("239.1.0.0/16"), who: prefix("10.5.1.0/24"), ..rule(1, Effect::Allow) },
        Rule { groups: prefix("239.0.0.0/8"), ..rule(2, Effect::Deny) },
        Rule { node: Some("n".parse().unwrap()), addresses: vec![ip("10.5.2.2")], ..rule(3, Effect::Deny) },
        Rule { node: Some("m".parse().unwrap()), ..rule(4, Effect::Deny) },
    ]);
    let refused =
        |member: &str, group: &str| policy.receive(Some(ip(member)), ip(group), &Filter::any(), 0).refused;
    assert_eq!(refused("10.5.1.9", "239.1.1.1"), None);
    assert_eq!(refused("10.5.2.9", "239.1.1.1"), Some(Reason::Rule(2)));
    assert_eq!(refused("10.5.2.2", "232.1.1.1"), Some(Reason::Rule(3)));
    assert_eq!(refused("10.5.2.3", "232.1.1.1"), None, "a node that is nowhere is nobody");
    assert_eq!(policy.receive(None, ip("239.1.1.1"), &Filter::any(), 0).refused, Some(Reason::Rule(2)));
    assert_eq!(policy.send(ip("10.5.2.2"), ip("239.1.1.1")), Ok(()), "sending is another matter");
}

#[test]
fn a_part_of_any_source_cannot_be_cut_out() {
    let group = ip("239.1.1.1");
    let (bad, good) = (ip("192.0.2.1"), ip("192.0.2.2"));
    let of_bad = |effect| policy(vec![Rule { source: prefix("192.0.2.1/32"), ..rule(7, effect) }]);
    let deny = of_bad(Effect::Deny);
    assert_eq!(deny.receive(MEMBER, group, &Filter::any(), 0).refused, Some(Reason::Rule(7)));
    let without = Filter::Exclude([bad].into());
    assert_eq!(deny.receive(MEMBER, group, &without, 0).filter, without);
    let some = deny.receive(MEMBER, group, &Filter::Include([bad, good].into()), 0);
    assert_eq!((some.filter, some.refused), (Filter::Include([good].into()), Some(Reason::Rule(7))));
    let closed = Policy { default: Effect::Deny, ..of_bad(Effect::Allow) };
    assert_eq!(closed.receive(MEMBER, group, &Filter::any(), 0).refused, Some(Reason::Default));
}

#[test]
fn a_member_has_no_more_groups_than_a_rule_allows() {
    let policy = policy(vec![Rule { max_groups: Some(2), ..rule(9, Effect::Allow) }]);
    let join = |others| policy.receive(MEMBER, ip("239.1.1.1"), &Filter::any(), others);
    assert!(join(1).refused.is_none() && join(1).counts);
    assert_eq!(join(2).refused, Some(Reason::TooManyGroups { rule: 9, limit: 2 }));
    assert!(join(2).filter.is_none());
}

#[test]
fn a_limit_for_some_sources_is_one_for_whoever_asks_for_all() {
    let limited = Rule { source: prefix("192.0.2.1/32"), max_groups: Some(2), ..rule(9, Effect::Allow) };
    let policy = policy(vec![limited, rule(10, Effect::Allow)]);
    let join = |wanted: &Filter, others| policy.receive(MEMBER, ip("239.1.1.1"), wanted, others);
    assert!(join(&Filter::any(), 1).refused.is_none() && join(&Filter::any(), 1).counts);
    assert_eq!(join(&Filter::any(), 2).refused, Some(Reason::TooManyGroups { rule: 9, limit: 2 }));
    let without = Filter::Exclude([ip("192.0.2.1")].into());
    assert!(join(&without, 2).refused.is_none() && !join(&without, 2).counts);
}

#[test]
fn who_may_not_send_is_received_by_nobody_who_names_it() {
    let policy = policy(vec![Rule {
        action: Action::Send,
        who: prefix("192.0.2.0/24"),
        groups: prefix("239.1.1.1/32"),
        ..rule(1, Effect::Deny)
    }]);
    assert_eq!(policy.send(ip("192.0.2.1"), ip("239.1.1.1")), Err(Reason::Rule(1)));
    assert_eq!(policy.send(ip("192.0.2.1"), ip("239.1.1.2")), Ok(()));
    let wanted = Filter::Include([ip("192.0.2.1")].into());
    assert!(policy.receive(MEMBER, ip("239.1.1.1"), &wanted, 0).filter.is_none());
}

fn host(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn rules() -> impl Strategy<Value = Policy> {
    let part = || {
        proptest::option::of(
            (0u8..8, 29u8..=32).prop_map(|(n, length)| Prefix::new(host(n), length).unwrap()),
        )
    };
    let one = (any::<bool>(), any::<bool>(), part(), part(), proptest::option::of(0u32..3)).prop_map(
        |(allow, send, who, source, max_groups)| Rule {
            action: if send { Action::Send } else { Action::Receive },
            who,
            source: source.filter(|_| !send),
            max_groups: max_groups.filter(|_| allow && !send),
            ..rule(0, if allow { Effect::Allow } else { Effect::Deny })
        },
    );
    (proptest::collection::vec(one, 0..6), any::<bool>()).prop_map(|(rules, open)| Policy {
        version: 1,
        default: if open { Effect::Allow } else { Effect::Deny },
        rules: (1..).zip(rules).map(|(id, rule)| Rule { id, ..rule }).collect(),
    })
}

proptest! {
    // Nobody is given what he did not want, or what he would be refused if he asked for it alone.
    #[test]
    fn what_is_permitted_is_wanted_and_allowed_source_by_source(
        policy in rules(),
        member in proptest::option::of(0u8..8),
        sources in proptest::collection::btree_set(0u8..8, 0..5),
        include in any::<bool>(),
        others in 0u32..4,
    ) {
        let (member, group) = (member.map(host), ip("239.1.1.1"));
        let sources: BTreeSet<IpAddr> = sources.into_iter().map(host).collect();
        let wanted = if include { Filter::Include(sources) } else { Filter::Exclude(sources) };
        let given = policy.receive(member, group, &wanted, others);
        // Who may not send is kept out where it sends: no list of excluded sources names it.
        let of_list = |sources: &BTreeSet<IpAddr>| -> BTreeSet<IpAddr> {
            sources.iter().copied().filter(|source| policy.send(*source, group).is_ok()).collect()
        };
        let expected = match &wanted {
            Filter::Include(_) => wanted.clone(),
            Filter::Exclude(sources) => Filter::Exclude(of_list(sources)),
        };
        prop_assert!(given.refused.is_some() || given.filter == expected);
        for source in (0..8).map(host) {
            let alone = Filter::Include([source].into());
            let judged = policy.receive(member, group, &alone, others);
            if given.filter.wants(source) {
                prop_assert!(expected.wants(source));
                // Of an any-source join the sender is judged where it sends.
                let by_sender = policy.send(source, group).is_err() && !include;
                prop_assert!(judged.refused.is_none() || by_sender, "{source} {judged:?}");
            } else if include && wanted.wants(source) {
                prop_assert!(judged.refused.is_some());
            }
        }
    }
}

mod bandwidth;

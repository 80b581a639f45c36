use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use proptest::prelude::*;

use super::{Action, Effect, Owners, Policy, Reason, Rule, Subject};
use crate::{
    Filter,
    registry::{OwnTunnel, Prefix},
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Option<Prefix> {
    Some(text.parse().unwrap())
}

fn rule(id: u32, effect: Effect) -> Rule {
    Rule::new(id, effect, Action::Receive)
}

fn policy(rules: Vec<Rule>) -> Policy {
    Policy { rules, ..Policy::default() }
}

/// Addresses of one family that the tests speak of.
struct Family {
    member: &'static str,
    /// A network of members, one in it, and one outside.
    near: [&'static str; 3],
    groups: [&'static str; 2],
    group_ranges: [&'static str; 2],
    sources: [&'static str; 2],
    /// The first source alone, and the network of both.
    source_prefixes: [&'static str; 2],
}

const FAMILIES: [Family; 2] = [
    Family {
        member: "10.5.1.2",
        near: ["10.5.1.0/24", "10.5.1.9", "10.5.2.9"],
        groups: ["239.1.1.1", "239.1.1.2"],
        group_ranges: ["239.1.0.0/16", "239.1.1.1/32"],
        sources: ["192.0.2.1", "192.0.2.2"],
        source_prefixes: ["192.0.2.1/32", "192.0.2.0/24"],
    },
    Family {
        member: "2001:db8:5:1::2",
        near: ["2001:db8:5:1::/64", "2001:db8:5:1::9", "2001:db8:5:2::9"],
        groups: ["ff3e::1:1", "ff3e::1:2"],
        group_ranges: ["ff3e::/16", "ff3e::1:1/128"],
        sources: ["2001:db8:1::1", "2001:db8:1::2"],
        source_prefixes: ["2001:db8:1::1/128", "2001:db8:1::/48"],
    },
];

impl Family {
    fn member(&self) -> Option<IpAddr> {
        Some(ip(self.member))
    }

    fn group(&self) -> IpAddr {
        ip(self.groups[0])
    }

    fn sources(&self) -> [IpAddr; 2] {
        self.sources.map(ip)
    }
}

#[test]
fn without_rules_everything_is_allowed_and_with_that_default_nothing() {
    for family in &FAMILIES {
        let (group, [source, _]) = (family.group(), family.sources());
        let open = Policy::default();
        assert_eq!(open.receive(family.member(), group, &Filter::any(), 0).filter, Filter::any());
        assert_eq!(open.send(source, group), Ok(()));
        let closed = Policy { default: Effect::Deny, ..Policy::default() };
        assert_eq!(closed.receive(None, group, &Filter::any(), 0).refused, Some(Reason::Default));
        assert_eq!(closed.send(source, group), Err(Reason::Default));
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    for (family, other) in [(0, "232.1.1.1"), (1, "ff15::1")].map(|(at, other)| (&FAMILIES[at], other)) {
        let [near, inside, outside] = family.near;
        let policy = policy(vec![
            Rule { groups: prefix(family.group_ranges[0]), who: prefix(near), ..rule(1, Effect::Allow) },
            Rule { groups: prefix(family.group_ranges[0]), ..rule(2, Effect::Deny) },
            Rule {
                node: Some("n".parse().unwrap()),
                addresses: vec![ip("10.9.9.9"), ip(outside)],
                ..rule(3, Effect::Deny)
            },
            Rule { node: Some("m".parse().unwrap()), ..rule(4, Effect::Deny) },
        ]);
        let refused = |member: &str, group: &str| {
            policy.receive(Some(ip(member)), ip(group), &Filter::any(), 0).refused
        };
        let [group, _] = family.groups;
        assert_eq!(refused(inside, group), None);
        assert_eq!(refused(outside, group), Some(Reason::Rule(2)));
        assert_eq!(refused(outside, other), Some(Reason::Rule(3)));
        assert_eq!(refused(inside, other), None, "a node that is nowhere is nobody");
        assert_eq!(policy.receive(None, ip(group), &Filter::any(), 0).refused, Some(Reason::Rule(2)));
        assert_eq!(policy.send(ip(outside), ip(group)), Ok(()), "sending is another matter");
    }
}

#[test]
fn a_rule_for_one_family_says_nothing_of_the_other() {
    for (family, other) in [(&FAMILIES[0], &FAMILIES[1]), (&FAMILIES[1], &FAMILIES[0])] {
        let [group_range, source, near] = [family.group_ranges[0], family.source_prefixes[1], family.near[0]];
        for rule in [
            Rule { groups: prefix(group_range), ..rule(1, Effect::Deny) },
            Rule { source: prefix(source), ..rule(1, Effect::Deny) },
            Rule { source: prefix(source), max_groups: Some(0), ..rule(1, Effect::Allow) },
            Rule { who: prefix(near), ..rule(1, Effect::Deny) },
            Rule { action: Action::Send, groups: prefix(group_range), ..rule(1, Effect::Deny) },
            Rule { action: Action::Send, who: prefix(source), ..rule(1, Effect::Deny) },
        ] {
            let policy = policy(vec![rule]);
            for wanted in [Filter::any(), Filter::Include(other.sources().into())] {
                let given = policy.receive(other.member(), other.group(), &wanted, 0);
                assert_eq!((given.filter, given.refused), (wanted, None), "{:?}", policy.rules);
            }
            assert_eq!(policy.send(other.sources()[0], other.group()), Ok(()), "{:?}", policy.rules);
        }
    }
}

#[test]
fn a_part_of_any_source_cannot_be_cut_out() {
    for family in &FAMILIES {
        let (group, member, [bad, good]) = (family.group(), family.member(), family.sources());
        let of_bad =
            |effect| policy(vec![Rule { source: prefix(family.source_prefixes[0]), ..rule(7, effect) }]);
        let deny = of_bad(Effect::Deny);
        assert_eq!(deny.receive(member, group, &Filter::any(), 0).refused, Some(Reason::Rule(7)));
        let without = Filter::Exclude([bad].into());
        assert_eq!(deny.receive(member, group, &without, 0).filter, without);
        let some = deny.receive(member, group, &Filter::Include([bad, good].into()), 0);
        assert_eq!((some.filter, some.refused), (Filter::Include([good].into()), Some(Reason::Rule(7))));
        let closed = Policy { default: Effect::Deny, ..of_bad(Effect::Allow) };
        assert_eq!(closed.receive(member, group, &Filter::any(), 0).refused, Some(Reason::Default));
    }
}

// The source is one condition beside the others: who, of which node, which groups.
#[test]
fn a_rule_about_a_source_holds_only_where_all_else_of_it_fits() {
    for family in &FAMILIES {
        let [bad, good] = family.sources();
        let [inside, outside] = [family.near[1], family.near[2]].map(ip);
        let policy = policy(vec![
            Rule {
                source: prefix(family.source_prefixes[0]),
                groups: prefix(family.group_ranges[1]),
                who: prefix(family.near[0]),
                ..rule(1, Effect::Deny)
            },
            Rule {
                source: prefix(family.source_prefixes[1]),
                node: Some("n".parse().unwrap()),
                addresses: vec![outside],
                ..rule(2, Effect::Deny)
            },
        ]);
        let both = Filter::Include([bad, good].into());
        let judged = |member: IpAddr, group: &str| {
            let given = policy.receive(Some(member), ip(group), &both, 0);
            (given.filter, given.refused)
        };
        let [group, other_group] = family.groups;
        assert_eq!(judged(inside, group), (Filter::Include([good].into()), Some(Reason::Rule(1))));
        assert_eq!(judged(inside, other_group), (both.clone(), None));
        assert_eq!(judged(outside, group), (Filter::none(), Some(Reason::Rule(2))));
        assert_eq!(judged(ip(family.member), group), judged(inside, group), "it is in that network");
    }
}

#[test]
fn a_member_has_no_more_groups_than_a_rule_allows() {
    for family in &FAMILIES {
        let policy = policy(vec![Rule { max_groups: Some(2), ..rule(9, Effect::Allow) }]);
        let join = |others| policy.receive(family.member(), family.group(), &Filter::any(), others);
        assert!(join(1).refused.is_none() && join(1).counts);
        assert_eq!(join(2).refused, Some(Reason::TooManyGroups { rule: 9, limit: 2 }));
        assert!(join(2).filter.is_none());
    }
}

#[test]
fn a_limit_for_some_sources_is_one_for_whoever_asks_for_all() {
    for family in &FAMILIES {
        let one = prefix(family.source_prefixes[0]);
        let limited = Rule { source: one, max_groups: Some(2), ..rule(9, Effect::Allow) };
        let policy = policy(vec![limited, rule(10, Effect::Allow)]);
        let join = |wanted: &Filter, others| policy.receive(family.member(), family.group(), wanted, others);
        assert!(join(&Filter::any(), 1).refused.is_none() && join(&Filter::any(), 1).counts);
        assert_eq!(join(&Filter::any(), 2).refused, Some(Reason::TooManyGroups { rule: 9, limit: 2 }));
        let without = Filter::Exclude([family.sources()[0]].into());
        assert!(join(&without, 2).refused.is_none() && !join(&without, 2).counts);
    }
}

#[test]
fn who_may_not_send_is_received_by_nobody_who_names_it() {
    for family in &FAMILIES {
        let (group, [source, _]) = (family.group(), family.sources());
        let policy = policy(vec![Rule {
            action: Action::Send,
            who: prefix(family.source_prefixes[1]),
            groups: prefix(family.group_ranges[1]),
            ..rule(1, Effect::Deny)
        }]);
        assert_eq!(policy.send(source, group), Err(Reason::Rule(1)));
        assert_eq!(policy.send(source, ip(family.groups[1])), Ok(()), "another group");
        let wanted = Filter::Include([source].into());
        assert!(policy.receive(family.member(), group, &wanted, 0).filter.is_none());
    }
}

// A node is known by its addresses, of either family, also where it sends.
#[test]
fn a_node_that_may_not_send_is_refused_by_all_its_addresses_and_nobody_else_is() {
    for family in &FAMILIES {
        let [own, other] = family.sources();
        let policy = policy(vec![Rule {
            action: Action::Send,
            node: Some("n".parse().unwrap()),
            addresses: FAMILIES.iter().map(|family| family.sources()[0]).collect(),
            groups: prefix(family.group_ranges[0]),
            ..rule(4, Effect::Deny)
        }]);
        for group in family.groups {
            assert_eq!(policy.send(own, ip(group)), Err(Reason::Rule(4)));
            assert_eq!(policy.send(other, ip(group)), Ok(()));
        }
        let of_both = Filter::Include([own, other].into());
        let given = policy.receive(family.member(), family.group(), &of_both, 0);
        assert_eq!((given.filter, given.refused), (Filter::Include([other].into()), Some(Reason::Rule(4))));
    }
}

fn host(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn host_v6(last: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into()
}

/// Rules whose hosts are of one family.
fn rules(host: fn(u8) -> IpAddr) -> impl Strategy<Value = Policy> {
    let bits = if host(0).is_ipv4() { 32 } else { 128 };
    let part = move || {
        let prefix = move |(n, left): (u8, u8)| Prefix::new(host(n), bits - left).unwrap();
        proptest::option::of((0u8..8, 0u8..=3).prop_map(prefix))
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
        ..Policy::default()
    })
}

proptest! {
    // Nobody is given what he did not want, or what he would be refused if he asked for it alone.
    #[test]
    fn what_is_permitted_is_wanted_and_allowed_source_by_source(
        (host, group, policy) in prop_oneof![
            rules(host).prop_map(|policy| (host as fn(u8) -> IpAddr, "239.1.1.1", policy)),
            rules(host_v6).prop_map(|policy| (host_v6 as fn(u8) -> IpAddr, "ff3e::1", policy)),
        ],
        member in proptest::option::of(0u8..8),
        sources in proptest::collection::btree_set(0u8..8, 0..5),
        include in any::<bool>(),
        others in 0u32..4,
    ) {
        let (member, group) = (member.map(host), ip(group));
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

fn owned(tunnels: &[(&str, &str)]) -> Owners {
    Owners::new(
        tunnels
            .iter()
            .map(|(tunnel, node)| (tunnel.parse().expect("a tunnel"), node.parse().expect("an id"))),
    )
}

// proves D4: by identity, also of nodes that a translator gives one address
#[test]
fn of_nodes_at_one_address_a_rule_is_about_the_one_that_it_names() {
    for [address, group] in [["192.0.2.1", "239.1.1.1"], ["2001:db8::1", "ff3e::1"]] {
        let address: IpAddr = address.parse().unwrap();
        let at = |port| SocketAddr::new(address, port);
        let owners = owned(&[(&at(1).to_string(), "a"), (&at(2).to_string(), "b")]);
        let of = |effect, owners: &Owners| {
            let named =
                Rule { node: Some("a".parse().unwrap()), addresses: vec![address], ..rule(1, effect) };
            let default = if effect == Effect::Deny { Effect::Allow } else { Effect::Deny };
            Policy { default, owners: owners.clone(), ..policy(vec![named]) }
        };
        let fits = |effect, owners: &Owners, subject: Subject| {
            let permitted = of(effect, owners).receive(subject, group.parse().unwrap(), &Filter::any(), 0);
            permitted.filter.is_none() == (effect == Effect::Deny)
        };
        let elsewhere = SocketAddr::new("203.0.113.9".parse().unwrap(), 1);
        for effect in [Effect::Deny, Effect::Allow] {
            assert!(fits(effect, &owners, at(1).into()) && !fits(effect, &owners, at(2).into()));
            // Who does not say who he is may be the one that is forbidden, and is not the one that is allowed.
            assert_eq!(fits(effect, &owners, at(3).into()), effect == Effect::Deny);
            assert!(!fits(effect, &owners, elsewhere.into()));
            // As long as nobody has proved anything the address says who it is, as for nodes that do not prove.
            assert!(fits(effect, &Owners::default(), at(2).into()));
            assert!(fits(effect, &owners, Some(address).into()), "a subject without a tunnel");
            // A node is found at its tunnel wherever the admin sees it.
            let moved = owned(&[(&elsewhere.to_string(), "a")]);
            assert!(fits(effect, &moved, elsewhere.into()));
            // One that proves tunnels of other VMRs is none that has proved nothing here.
            let of_others = Owners::default().beside(["a".parse().unwrap()]);
            assert_eq!(fits(effect, &of_others, at(2).into()), effect == Effect::Deny);
            assert!(fits(effect, &of_others, Some(address).into()), "a subject without a tunnel");
            // Where two have proved it, nobody has.
            let both = owned(&[(&at(1).to_string(), "a"), (&at(1).to_string(), "b")]);
            assert_eq!(fits(effect, &both, at(1).into()), effect == Effect::Deny);
        }
    }
}

// proves D4: what an admin that lags behind in the rules knows of where nodes are is believed, and what it does not is no word
#[test]
fn rules_stay_and_nodes_are_where_an_older_policy_has_them() {
    let of = |id, node: &str, addresses: &[&str]| Rule {
        node: Some(node.parse().unwrap()),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        ..rule(id, Effect::Deny)
    };
    let claim = |node: &str, tunnel: &str| {
        let (vmr, tunnel) = ("v".parse().unwrap(), tunnel.parse().unwrap());
        (node.parse().unwrap(), OwnTunnel { vmr, tunnel, nonce: 1, response_mac: [1; 6] })
    };
    let nodes = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<_>>();
    let at_work = Policy {
        version: 9,
        default: Effect::Deny,
        rules: vec![
            of(1, "moves", &["10.0.0.1"]),
            of(2, "moves", &["10.0.0.1"]),
            of(3, "unnamed", &["10.0.0.2"]),
            of(4, "lost", &["10.0.0.3"]),
            rule(5, Effect::Allow),
        ],
        claims: vec![
            claim("moves", "10.0.0.1:1"),
            claim("unnamed", "10.0.0.2:1"),
            claim("lost", "10.0.0.3:1"),
            claim("beside", "10.0.0.1:2"),
        ],
        known_by_tunnels: nodes(&["moves", "unnamed", "lost"]),
        owners: Owners::default(),
    };
    let told = Policy {
        version: 8,
        rules: vec![
            of(7, "moves", &["10.9.0.1", "2001:db8::1"]),
            of(8, "lost", &[]),
            of(9, "of-old", &["10.0.0.9"]),
        ],
        claims: vec![claim("moves", "10.9.0.1:7"), claim("beside", "10.9.0.1:8")],
        known_by_tunnels: nodes(&["moves"]),
        ..Policy::default()
    };
    let moved = ["10.9.0.1", "2001:db8::1"];
    let expected = Policy {
        rules: vec![
            of(1, "moves", &moved),
            of(2, "moves", &moved),
            of(3, "unnamed", &["10.0.0.2"]),
            of(4, "lost", &["10.0.0.3"]),
            rule(5, Effect::Allow),
        ],
        claims: vec![
            claim("moves", "10.9.0.1:7"),
            claim("beside", "10.9.0.1:8"),
            claim("unnamed", "10.0.0.2:1"),
            claim("lost", "10.0.0.3:1"),
        ],
        ..at_work.clone()
    };
    assert_eq!(at_work.with_places_of(&told), expected);
    assert_eq!(
        at_work.with_places_of(&Policy::default()),
        at_work,
        "a registry that is set up anew names nobody"
    );
    // One that only the newer rules name keeps what it says, also behind the NAT of one that both name.
    let claims = [claim("unnamed", "10.9.0.1:9"), claim("unnamed", "10.0.0.2:1")];
    let (again, newer) = (claims[1].clone(), OwnTunnel { nonce: 2, ..claims[1].1.clone() });
    let behind = Policy { claims: [&told.claims[..], &claims[..1]].concat(), ..told.clone() };
    let placed = at_work.with_places_of(&behind);
    assert_eq!(placed.known_by_tunnels, at_work.known_by_tunnels);
    assert_eq!(placed.claims[2..], [claims[0].clone(), again, claim("lost", "10.0.0.3:1")]);
    // Of the same tunnel the newer proof is enough.
    let known = (claims[1].0.clone(), newer);
    let placed = at_work.with_places_of(&Policy { claims: vec![known.clone()], ..told.clone() });
    let of_it: Vec<_> = placed.claims.iter().filter(|claim| claim.0 == known.0).collect();
    assert_eq!((of_it, placed.known_by_tunnels), (vec![&known], at_work.known_by_tunnels.clone()));
    // One that says no longer where it is is known by its address.
    let silent = Policy { claims: vec![], known_by_tunnels: nodes(&[]), ..told };
    let placed = at_work.with_places_of(&silent);
    assert_eq!(placed.known_by_tunnels, nodes(&["unnamed", "lost"]));
    assert!(!placed.claims.contains(&claim("moves", "10.0.0.1:1")));
    // There is a limit, and what is told comes first.
    let many = Policy { claims: vec![claim("n", "10.9.0.2:1"); Policy::MAX_CLAIMS], ..silent };
    assert_eq!(at_work.with_places_of(&many).claims, many.claims);
}

//! Rules about nodes that a translator gives one address, with the proofs of real gateways.

use vmcast_proto::registry::{NodeId, OwnTunnel};

use super::*;

fn id(text: &str) -> NodeId {
    text.parse().expect("an id")
}

fn deny(node: &str, version: u64, claims: Vec<(NodeId, OwnTunnel)>) -> Policy {
    let rule = Rule {
        node: Some(id(node)),
        addresses: vec![member(1).ip()],
        ..Rule::new(1, PolicyEffect::Deny, Action::Receive)
    };
    Policy { version, rules: vec![rule], claims, ..Policy::default() }
}

/// What a gateway of the bed claims, by its own proof.
fn claim(bed: &Bed, node: &str, at: usize) -> (NodeId, OwnTunnel) {
    let (tunnel, gateway) = &bed.members[at];
    let (nonce, response_mac) = gateway.response_mac().expect("an answer");
    (id(node), OwnTunnel { vmr: id("vmr"), tunnel: *tunnel, nonce, response_mac })
}

/// The ports of the members.
fn ports(bed: &Bed) -> Vec<u16> {
    let ends = bed.core.mrib.members_of(GROUP).filter_map(|info| match info.member {
        Output::Tunnel(id) => bed.core.relay.ends(id.0).map(|(_, remote, _)| remote.port()),
        _ => None,
    });
    let mut ports: Vec<_> = ends.collect();
    ports.sort_unstable();
    ports
}

fn unproved(bed: &Bed) -> u64 {
    bed.core.policed.counters().find(|(label, _)| *label == "claims_unproved").expect("a counter").1
}

// proves D4: policy by identity, also of nodes that a translator gives one address
#[test]
fn of_two_nodes_behind_one_translator_a_rule_cuts_the_one_that_it_names_and_the_other_notices_nothing() {
    let mut bed = Bed::new(3);
    for (at, port) in [50_001, 50_002, 50_003].into_iter().enumerate() {
        bed.members[at].0 = SocketAddr::new(member(1).ip(), port);
    }
    bed.settle();
    for at in 0..3 {
        bed.want(at, Filter::any());
    }
    bed.resolve(1);
    assert_eq!(ports(&bed), [50_001, 50_002, 50_003]);
    bed.take();

    // Without proofs whoever is at the address may be the one that is forbidden.
    let (a, b) = (claim(&bed, "a", 0), claim(&bed, "b", 1));
    assert!(bed.core.set_policy(bed.now, deny("b", 1, vec![])));
    assert_eq!(ports(&bed), [0; 0]);
    assert!(bed.core.set_policy(bed.now, deny("b", 1, vec![a.clone()])));
    assert_eq!(ports(&bed), [50_001]);
    bed.settle();
    bed.take();
    // The third says nothing, so it stays out; the first notices nothing of who the second is.
    assert!(bed.core.set_policy(bed.now, deny("b", 1, vec![a.clone(), b.clone()])));
    bed.settle();
    assert_eq!((ports(&bed), bed.fib()), (vec![50_001], vec![]));
    assert_eq!(unproved(&bed), 0);

    // Who claims a tunnel that is another's has nothing of it, and takes nothing from that one.
    let mut stolen = claim(&bed, "b", 1);
    stolen.1.tunnel = bed.members[0].0;
    let lies = vec![a.clone(), stolen.clone()];
    assert!(bed.core.set_policy(bed.now, deny("b", 1, lies.clone())));
    assert_eq!((ports(&bed), unproved(&bed)), (vec![50_001], 1));
    assert!(!bed.core.set_policy(bed.now, deny("b", 1, lies)), "the same again is no other policy");
    assert_eq!(unproved(&bed), 1, "and a lie is counted once");

    // Whose proof has become old is believed as long as it is claimed and the tunnel is there.
    for _ in 0..800 {
        bed.pass(Duration::from_secs(50));
    }
    assert!(!bed.core.relay.has_answered(bed.now, a.1.tunnel, a.1.nonce, a.1.response_mac));
    bed.core.set_policy(bed.now, deny("b", 2, vec![a, b]));
    let owner = |bed: &Bed| {
        let owners = &bed.core.policed.policy().owners;
        owners.of(SocketAddr::new(member(1).ip(), 50_001)).cloned()
    };
    assert_eq!(owner(&bed), Some(id("a")));

    // When the tunnel has ended the proof is one no more, although the router would make the same again.
    let fresh = claim(&bed, "a", 0);
    bed.core.set_policy(bed.now, deny("b", 3, vec![fresh.clone()]));
    bed.want(0, Filter::none());
    for _ in 0..100 {
        if !bed.core.relay.tunnels().any(|info| info.remote == fresh.1.tunnel) {
            break;
        }
        bed.pass(Duration::from_secs(10));
    }
    assert!(bed.core.relay.has_answered(bed.now, fresh.1.tunnel, fresh.1.nonce, fresh.1.response_mac));
    assert_eq!(owner(&bed), None);
    bed.core.set_policy(bed.now, deny("b", 4, vec![fresh.clone()]));
    assert_eq!(owner(&bed), None);
    // Whoever is there next proves it anew.
    bed.want(0, Filter::any());
    for _ in 0..100 {
        if bed.members[0].1.response_mac().is_some_and(|(nonce, _)| nonce != fresh.1.nonce) {
            break;
        }
        bed.pass(Duration::from_secs(10));
    }
    let again = claim(&bed, "a", 0);
    bed.core.set_policy(bed.now, deny("b", 5, vec![again]));
    assert_eq!(owner(&bed), Some(id("a")));
}

// proves D4: who is behind a node's translator has none of its rights, also at a VMR where the node is not
#[test]
fn what_a_node_may_have_nobody_else_at_its_address_gets_at_another_vmr() {
    let mut bed = Bed::new(1);
    bed.want(0, Filter::any());
    bed.resolve(1);
    let allow = |known: &[&str], claims| {
        let mut policy = deny("a", 1, claims);
        policy.default = PolicyEffect::Deny;
        policy.rules[0].effect = PolicyEffect::Allow;
        policy.known_by_tunnels = known.iter().map(|node| id(node)).collect();
        policy
    };
    // Nodes that say nothing are known by their address.
    bed.core.set_policy(bed.now, allow(&[], vec![]));
    assert_eq!(ports(&bed).len(), 1);
    bed.core.set_policy(bed.now, allow(&["a"], vec![]));
    assert_eq!(ports(&bed), [0; 0]);
    // As the router starts with it, which no proof of before need hold for.
    let kept = crate::admin::read_policy(crate::admin::policy_message(bed.core.policed.policy()));
    bed.core.set_policy(bed.now, deny("b", 2, vec![]));
    bed.core.set_policy(bed.now, kept.expect("a policy"));
    assert_eq!(ports(&bed), [0; 0]);
    let of_a = claim(&bed, "a", 0);
    bed.core.set_policy(bed.now, allow(&["a"], vec![of_a]));
    assert_eq!(ports(&bed).len(), 1);
}

// proves D4: an admin that lags behind in the rules, as of a registry that was restored, knows where nodes are now
#[test]
fn of_an_older_policy_the_proofs_and_addresses_take_effect_and_the_rules_do_not() {
    let mut bed = Bed::new(2);
    for (at, port) in [50_001, 50_002].into_iter().enumerate() {
        bed.members[at].0 = SocketAddr::new(member(1).ip(), port);
    }
    bed.settle();
    for at in 0..2 {
        bed.want(at, Filter::any());
    }
    bed.resolve(1);
    let [a, b] = ["a", "b"].map(|node| claim(&bed, node, usize::from(node == "b")));
    assert!(bed.core.take_policy(bed.now, deny("b", 7, vec![])));
    assert_eq!(ports(&bed), [0; 0]);

    // What it allows stays forbidden; who proves to be another than the one that is, is let in.
    let mut older = Policy { default: PolicyEffect::Allow, ..deny("b", 6, vec![a.clone(), b.clone()]) };
    older.rules[0].effect = PolicyEffect::Allow;
    assert!(bed.core.take_policy(bed.now, older.clone()));
    assert_eq!(ports(&bed), [50_001]);
    assert!(!bed.core.take_policy(bed.now, older.clone()), "the same again changes nothing");
    let policy = bed.core.policed.policy();
    assert_eq!((policy.version, policy.rules[0].effect), (7, PolicyEffect::Deny));
    assert_eq!(bed.core.policed.counters().last(), Some(("older_policies", 2)));

    // The forbidden one is elsewhere, and nobody at its old address is taken for it any more.
    older.claims.clear();
    older.rules[0].addresses = vec!["198.51.100.7".parse().unwrap()];
    assert!(bed.core.take_policy(bed.now, older.clone()));
    assert_eq!(ports(&bed), [50_001, 50_002]);
    older.rules[0].addresses = vec![member(1).ip()];
    assert!(bed.core.take_policy(bed.now, older));
    // It is there again, without a proof; of the other nothing was said, and its proof stands.
    assert_eq!(ports(&bed), [50_001]);

    // The next newer one is taken as it is.
    assert!(bed.core.take_policy(bed.now, Policy { version: 8, ..Policy::default() }));
    assert_eq!(ports(&bed), [50_001, 50_002]);
    assert_eq!(bed.core.policed.counters().last(), Some(("older_policies", 4)));
}

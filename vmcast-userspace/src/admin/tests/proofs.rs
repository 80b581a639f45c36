//! What proves where a node is, is between the node and the VMR.

use vmcast_proto::{
    policy::{Action, Effect, Policy, Reason, Rule},
    registry::{Change, Error, Found, Proof, Registry, Rows as _, Store as _},
};
use vmcast_signal::v1;

use super::bed::Bed;
use crate::admin::Mirror;

// proves D4: whoever is in may see who else is, and nothing by which it could pass for another
#[tokio::test]
async fn no_list_of_nodes_tells_what_proves_where_one_is() {
    let bed = Bed::new().await;
    let own = v1::OwnTunnel {
        vmr_id: "v".to_owned(),
        tunnel: "192.0.2.1:5000".to_owned(),
        nonce: 7,
        response_mac: vec![7; 6],
    };
    let node = v1::Node {
        id: "a".to_owned(),
        role: v1::Role::Agent.into(),
        own_tunnels: vec![own],
        ..v1::Node::default()
    };
    let register = v1::RegisterRequest { node: Some(node), ..v1::RegisterRequest::default() };
    bed.client([127, 0, 0, 2]).await.register(register).await.expect("granted");
    let mut other = bed.client([127, 0, 0, 3]).await;
    let listed = other.list_nodes(v1::ListNodesRequest::default()).await.expect("a list").into_inner();
    let shown = listed.nodes.into_iter().map(|entry| entry.node.expect("a node"));
    assert_eq!(shown.map(|node| (node.id, node.own_tunnels)).collect::<Vec<_>>(), [("a".to_owned(), vec![])]);
    let kept = bed.handle.rows(|rows| rows.node(&"a".parse().expect("an id"))).expect("registered");
    assert_eq!(kept.registration.about.own_tunnels.len(), 1, "the VMR is told of it");
    bed.stop().await;
}

fn own(vmr: &str, tunnel: &str) -> v1::OwnTunnel {
    v1::OwnTunnel { vmr_id: vmr.to_owned(), tunnel: tunnel.to_owned(), nonce: 7, response_mac: vec![7; 6] }
}

async fn register(bed: &Bed, id: &str, from: u8, endpoints: &[&str], own_tunnels: Vec<v1::OwnTunnel>) {
    let node = v1::Node {
        id: id.to_owned(),
        role: v1::Role::Agent.into(),
        endpoints: endpoints.iter().map(ToString::to_string).collect(),
        own_tunnels,
        ..v1::Node::default()
    };
    let request = v1::RegisterRequest { node: Some(node), ..v1::RegisterRequest::default() };
    bed.client([127, 0, 0, from]).await.register(request).await.expect("granted");
}

// proves D4: what a node says of itself makes it no member of what others were refused
#[tokio::test]
async fn what_another_was_refused_is_told_to_nobody_who_only_says_that_its_tunnel_is_there() {
    let bed = Bed::new().await;
    let asks = async |id: &str, from: u8, tunnel: &str| {
        let request = v1::RefusedJoinsRequest {
            node_id: id.to_owned(),
            vmr_id: "v".to_owned(),
            tunnel: tunnel.to_owned(),
        };
        let answer = bed.client([127, 0, 0, from]).await.refused_joins(request).await;
        answer.map(|_| ()).map_err(|status| status.code())
    };
    let denied = Err(vmcast_signal::tonic::Code::PermissionDenied);
    register(&bed, "a", 2, &["192.0.2.1:2268"], vec![own("v", "127.0.0.2:5000")]).await;
    // An endpoint at the same address is said, and found by nobody.
    register(&bed, "b", 3, &["192.0.2.1:9", "127.0.0.2:9"], vec![own("v", "127.0.0.2:5000")]).await;
    register(&bed, "c", 2, &[], vec![]).await;
    assert_eq!(asks("a", 2, "127.0.0.2:5000").await, Ok(()));
    assert_eq!(asks("a", 2, "192.0.2.1:2268").await, Ok(()), "an endpoint is one node's");
    assert_eq!(asks("b", 3, "127.0.0.2:5000").await, denied);
    assert_eq!(asks("b", 3, "192.0.2.1:2268").await, denied);
    // Behind one translator it is who says so; where nobody does, whoever is there.
    assert_eq!(asks("c", 2, "127.0.0.2:5000").await, denied);
    assert_eq!(asks("c", 2, "127.0.0.2:5001").await, Ok(()));
    bed.stop().await;
}

// proves D4: VMRs hear which nodes are known by their tunnels, also where those are others' tunnels
#[tokio::test]
async fn a_rule_says_of_its_node_where_that_was_found_and_whether_it_is_known_by_its_tunnels() {
    let bed = Bed::new().await;
    register(&bed, "a", 2, &["192.0.2.1:2268"], vec![own("v", "127.0.0.2:5000")]).await;
    register(&bed, "b", 3, &["192.0.2.2:2268", "192.0.2.3:2268"], vec![]).await;
    let prove = |registry: &mut Registry<Mirror>, now| {
        let found = [("192.0.2.2:2268", Found::Proved), ("192.0.2.3:2268", Found::Silent)];
        let mut record = registry.rows().node(&"b".parse().expect("an id")).expect("registered");
        record.proofs = found
            .map(|(endpoint, found)| (endpoint.parse().expect("an endpoint"), Proof { found, since: now }))
            .into();
        registry.store_mut().commit(&[Change::PutNode(record)]).map_err(Error::Store)
    };
    bed.handle.write(prove).await.expect("kept");
    let rules = |policy: &mut Policy| {
        let rule =
            |id, node: &str| Rule { node: node.parse().ok(), ..Rule::new(id, Effect::Deny, Action::Send) };
        policy.rules = vec![rule(1, "a"), rule(2, "b"), rule(3, "nobody")];
        Ok(())
    };
    bed.handle.change_policy(rules).await.expect("changed");
    let policy = bed.handle.policy_in_force().expect("memory");
    assert_eq!(policy.known_by_tunnels, ["a".parse().expect("an id")].into());
    // A node sends from where it was found; what it only says of itself would be a rule about others.
    let sends = |from: &str| {
        policy.send(from.parse().expect("an address"), [239, 1, 1, 1].into()).map_err(|reason| match reason {
            Reason::Rule(id) => id,
            other => panic!("{other}"),
        })
    };
    assert_eq!(sends("127.0.0.2"), Err(1));
    assert_eq!((sends("127.0.0.3"), sends("192.0.2.2")), (Err(2), Err(2)));
    assert_eq!((sends("192.0.2.1"), sends("192.0.2.3"), sends("127.0.0.4")), (Ok(()), Ok(()), Ok(())));
    bed.stop().await;
}

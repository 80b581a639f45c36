//! What proves where a node is, is between the node and the VMR.

use vmcast_proto::registry::Rows as _;
use vmcast_signal::v1;

use super::bed::Bed;

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

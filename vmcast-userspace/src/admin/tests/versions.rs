//! Nodes of other versions: what is not known here is passed over.

use vmcast_proto::registry::{About, Load, Role, TunnelEnd, TunnelKind};
use vmcast_signal::{prost::Message as _, v1};

use super::bed::Bed;
use crate::admin::convert;

/// A node as the first version of the schema had it.
fn older() -> v1::Node {
    v1::Node {
        id: "v0".to_owned(),
        role: v1::Role::Vmr.into(),
        endpoints: vec!["192.0.2.1:2268".to_owned()],
        rank: 3,
        name: "the first".to_owned(),
        software: "vmcast 0.1".to_owned(),
        ..v1::Node::default()
    }
}

/// Field 99, a varint, and field 100, bytes.
const UNKNOWN: [u8; 10] = [0x98, 0x06, 0x2a, 0xa2, 0x06, 0x04, b'n', b'e', b'w', b'!'];

// proves A2
#[test]
fn a_message_of_an_older_version_says_nothing_of_the_rest_and_is_read() {
    let registration = convert::registration(Some(older())).expect("read");
    assert_eq!((registration.role, registration.about), (Role::Vmr { rank: 3 }, About::default()));
    let query = v1::NearestRequest { node_id: "v0".to_owned(), ..Default::default() };
    let query = convert::query([192, 0, 2, 1].into(), query).expect("read");
    assert_eq!((query.current, query.after, query.limit), (None, None, None), "all at once, as ever");
}

// proves A2
#[test]
fn of_a_message_of_a_newer_version_the_known_part_is_read() {
    let mut node = older();
    node.capabilities = vec!["amt".to_owned(), "teleport".to_owned()];
    let end = |kind: i32| v1::TunnelEnd { kind, endpoint: "192.0.2.1:443".to_owned() };
    node.tunnel_ends = vec![end(v1::TunnelKind::Quic.into()), end(77), end(-1)];
    node.source_prefixes = vec!["10.1.0.0/16".to_owned()];
    node.load = Some(v1::Load { connections: 1, capacity: 2 });
    let bytes = [node.encode_to_vec(), UNKNOWN.to_vec()].concat();
    let read = v1::Node::decode(bytes.as_slice()).expect("decoded");
    let about = convert::registration(Some(read)).expect("read").about;
    let names: Vec<_> = about.capabilities.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["amt", "teleport"], "others may know it");
    let endpoint = "192.0.2.1:443".parse().expect("an endpoint");
    assert_eq!(about.tunnel_ends, [TunnelEnd { kind: TunnelKind::Quic, endpoint }]);
    assert_eq!(about.source_prefixes, ["10.1.0.0/16".parse().expect("a prefix")]);
    assert_eq!(about.load, Load { connections: 1, capacity: 2 });
}

// proves A2
#[tokio::test]
async fn old_and_new_nodes_meet_at_one_admin() {
    let bed = Bed::new().await;
    let mut client = bed.client([127, 1, 0, 1]).await;
    client
        .register(v1::RegisterRequest { node: Some(older()), ..v1::RegisterRequest::default() })
        .await
        .expect("granted");
    let mut newer = older();
    newer.id = "v1".to_owned();
    newer.endpoints = vec!["192.0.2.2:2268".to_owned()];
    newer.tunnel_ends = vec![v1::TunnelEnd { kind: 77, endpoint: "of another kind".to_owned() }];
    client
        .register(v1::RegisterRequest { node: Some(newer), ..v1::RegisterRequest::default() })
        .await
        .expect("granted");
    let nodes = client.list_nodes(v1::ListNodesRequest::default()).await.expect("listed").into_inner();
    assert_eq!(nodes.nodes.len(), 2);
    assert!(nodes.nodes.iter().all(|entry| entry.node.as_ref().is_some_and(|n| n.tunnel_ends.is_empty())));
    bed.stop().await;
}

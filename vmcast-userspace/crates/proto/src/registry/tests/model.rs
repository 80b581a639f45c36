//! The machine against a model that keeps its tables as plain lists and states each rule as a
//! sentence over them.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use proptest::prelude::*;

use super::*;

const LEASE: u64 = 10_000;
const LIFETIME: u64 = 25_000;

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Register { node: u8, rank: Option<u8>, port: u8 },
    Deregister { node: u8 },
    Report { node: u8, place: u8, vmr: u8, hops: u8 },
    Ask { node: u8, place: u8, excluded: Option<u8> },
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 0u8..5;
    prop_oneof![
        2 => (1u64..8_000).prop_map(Step::Wait),
        4 => (node.clone(), proptest::option::weighted(0.7, 0u8..3), 0u8..5)
            .prop_map(|(node, rank, port)| Step::Register { node, rank, port }),
        1 => node.clone().prop_map(|node| Step::Deregister { node }),
        4 => (node.clone(), 0u8..4, node.clone(), 0u8..4)
            .prop_map(|(node, place, vmr, hops)| Step::Report { node, place, vmr, hops }),
        4 => (node.clone(), 0u8..4, proptest::option::weighted(0.2, node))
            .prop_map(|(node, place, excluded)| Step::Ask { node, place, excluded }),
        1 => Just(Step::Expire),
    ]
}

fn name(node: u8) -> NodeId {
    id(&format!("n{node}"))
}

/// Two addresses in each of two prefixes.
fn place(place: u8) -> IpAddr {
    IpAddr::from([203, 0, place / 2, place % 2 + 1])
}

fn endpoint(port: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 2268 + u16::from(port)))
}

#[derive(Clone)]
struct Node {
    node: u8,
    rank: Option<u8>,
    port: u8,
    expires: u64,
}

#[derive(Clone)]
struct Row {
    /// The rank of the VMRs it is for, `None` for agents.
    scope: Option<u8>,
    /// An address, or the prefix of two.
    place: Result<u8, u8>,
    vmr: u8,
    port: u8,
    hops: u8,
    reporter: u8,
    expires: u64,
}

#[derive(Default)]
struct Model {
    now: u64,
    nodes: Vec<Node>,
    rows: Vec<Row>,
}

impl Model {
    fn node(&self, node: u8) -> Option<&Node> {
        self.nodes.iter().find(|n| n.node == node && n.expires > self.now)
    }

    fn may(&self, node: &Node, vmr: u8) -> bool {
        let Some(vmr) = self.node(vmr) else {
            return false;
        };
        let above = match (vmr.rank, node.rank) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(theirs), Some(own)) => theirs < own,
        };
        above && vmr.node != node.node
    }

    fn row(&self, node: &Node, place: Result<u8, u8>) -> Option<&Row> {
        self.rows.iter().find(|row| {
            row.scope == node.rank
                && row.place == place
                && row.expires > self.now
                && self.may(node, row.vmr)
                && self.node(row.vmr).is_some_and(|vmr| vmr.port == row.port)
        })
    }

    fn forget(&mut self, node: u8) {
        self.nodes.retain(|n| n.node != node);
        self.rows.retain(|row| row.vmr != node);
    }

    /// Whether the registration is granted. Every node is seen at one address.
    fn register(&mut self, node: u8, rank: Option<u8>, port: u8) -> bool {
        if self.nodes.iter().any(|n| n.node != node && n.port == port && n.expires > self.now) {
            return false;
        }
        let same = self.node(node).is_some_and(|n| n.rank == rank && n.port == port);
        for other in self.nodes.clone() {
            if other.node != node && other.port == port {
                self.forget(other.node);
            }
        }
        let live = self.node(node).is_some_and(|n| n.expires > self.now);
        if !same || !live {
            self.forget(node);
            if rank.is_some() {
                self.rows.clear();
            }
        }
        self.nodes.retain(|n| n.node != node);
        self.nodes.push(Node { node, rank, port, expires: self.now + LEASE });
        true
    }

    /// Whether the report is taken and whether the prefix's row was set.
    fn report(&mut self, node: u8, place: u8, vmr: u8, hops: u8) -> Option<bool> {
        let from = self.node(node)?.clone();
        if !self.may(&from, vmr) {
            return None;
        }
        let port = self.node(vmr)?.port;
        let kept = self
            .row(&from, Err(place / 2))
            .is_some_and(|row| row.reporter != node && row.vmr != vmr && row.hops <= hops);
        for key in [Some(Ok(place)), (!kept).then_some(Err(place / 2))].into_iter().flatten() {
            self.rows.retain(|row| (row.scope, row.place) != (from.rank, key));
            let expires = self.now + LIFETIME;
            self.rows.push(Row { scope: from.rank, place: key, vmr, port, hops, reporter: node, expires });
        }
        Some(!kept)
    }

    fn ask(&self, node: u8, place: u8, excluded: Option<u8>) -> Option<(AnswerKind, Vec<NodeId>)> {
        let from = self.node(node)?;
        for (key, kind) in
            [(Ok(place), AnswerKind::CachedAddress), (Err(place / 2), AnswerKind::CachedPrefix)]
        {
            if let Some(row) = self.row(from, key).filter(|row| Some(row.vmr) != excluded) {
                return Some((kind, vec![name(row.vmr)]));
            }
        }
        let all = (0..5).filter(|&vmr| self.may(from, vmr) && Some(vmr) != excluded).map(name);
        Some((AnswerKind::All, all.collect()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    // proves A2
    // proves A3
    // proves A4
    #[test]
    fn the_registry_answers_as_the_model_does(steps in proptest::collection::vec(step(), 1..120)) {
        let config = Config {
            lease: Duration::from_millis(LEASE),
            entry_lifetime: Duration::from_millis(LIFETIME),
            ..Config::default()
        };
        let mut registry = Registry::new(config, MemoryStore::default());
        let mut model = Model { now: T0.0, ..Model::default() };
        for step in steps {
            let now = UnixMillis(model.now);
            match step {
                Step::Wait(millis) => model.now += millis,
                Step::Register { node, rank, port } => {
                    let role = rank.map_or(Role::Agent, |rank| Role::Vmr { rank: rank.into() });
                    let mut own = registration("n", role, &[]);
                    own.id = name(node);
                    own.endpoints = vec![endpoint(port)];
                    let granted = registry.register(now, ip("192.0.2.1"), own);
                    prop_assert_eq!(granted.is_ok(), model.register(node, rank, port), "{:?}", granted);
                }
                Step::Deregister { node } => {
                    let existed = registry.deregister(now, &name(node)).expect("deregister");
                    prop_assert_eq!(existed, model.node(node).is_some());
                    model.forget(node);
                }
                Step::Report { node, place: at, vmr, hops } => {
                    let port = model.node(vmr).map_or(0, |vmr| vmr.port);
                    let rtt = Duration::from_millis(1);
                    let chosen = Measurement { vmr: name(vmr), endpoint: endpoint(port), hops, rtt };
                    let measurements = vec![chosen.clone()];
                    let seen = place(at);
                    let report = Report { node: name(node), seen, claimed: vec![], chosen, measurements, arrived: vec![] };
                    let taken = registry.report(now, &report).ok().map(|reported| reported.prefix.is_some());
                    prop_assert_eq!(taken, model.report(node, at, vmr, hops));
                }
                Step::Ask { node, place: at, excluded } => {
                    let excluded_ids: BTreeSet<_> = excluded.map(name).into_iter().collect();
                    let (node_id, seen) = (name(node), place(at));
                    let query = Query { node: node_id, seen, claimed: vec![], excluded: excluded_ids,
                        current: None, after: None, limit: None, others: 0 };
                    let answer = registry.nearest(now, &query).ok();
                    registry.forget(&answer.iter().flat_map(|answer| answer.untrue.clone()).collect::<Vec<_>>()).expect("forget");
                    let ids = |answer: Answer| answer.vmrs.iter().map(|vmr| vmr.id().clone()).collect();
                    let given = answer.map(|answer| (answer.kind, ids(answer)));
                    prop_assert_eq!(given, model.ask(node, at, excluded));
                }
                Step::Expire => {
                    registry.expire(now).expect("expire");
                }
            }
            let live = registry.nodes(UnixMillis(model.now), None, 99);
            let live: BTreeSet<_> = live.iter().map(|node| node.id().clone()).collect();
            let expected: BTreeSet<_> = (0..5).filter(|&n| model.node(n).is_some()).map(name).collect();
            prop_assert_eq!(live, expected);
        }
    }
}

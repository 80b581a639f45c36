//! The rules one by one, and all of them against a model that has no index and no cache logic to
//! share with the machine.

mod model;
mod proofs;
mod ranked;
mod rules;

use std::net::IpAddr;

use super::*;

/// The start of virtual time.
const T0: UnixMillis = UnixMillis(1_000_000);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn id(text: &str) -> NodeId {
    text.parse().expect("a node id")
}

fn seconds(n: u64) -> UnixMillis {
    UnixMillis(T0.0 + n * 1000)
}

fn registration(name: &str, role: Role, endpoints: &[&str]) -> Registration {
    Registration::clone(&conformance::node(name, role, endpoints, 0).registration)
}

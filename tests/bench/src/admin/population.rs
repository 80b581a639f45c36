//! The nodes that register: one VMR and a great many agents, which have no connection once they are registered.

use std::{collections::VecDeque, net::Ipv4Addr};

use anyhow::Result;
use rustls::HandshakeKind;
use vmcast_lab::signals;
use vmcast_signal::{prost::Message as _, v1};

use super::{
    connection::Connection,
    process::LISTEN,
    swarm::{Asks, Swarm},
    tls::{self, Node},
};

/// Registrations that are under way at a time.
const WINDOW: usize = 256;
/// Agents behind one address.
const PER_ADDRESS: u32 = 1000;
const REGISTER: &str = "/vmcast.v1.Registry/Register";
const REPORT: &str = "/vmcast.v1.Registry/ReportNearest";

pub(super) const VMR: &str = "vmr-1";
const ENDPOINT: &str = "192.0.2.1:2268";

pub(super) fn agent(number: u32) -> String {
    format!("agent-{number:08x}")
}

/// An address of loopback's network, for as many as are behind one.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x7f01_0001 + number / PER_ADDRESS)
}

/// The address that an agent says it has: another for each, in a few networks.
pub(super) fn claimed(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

/// Registers the VMR.
pub(super) fn register_vmr() -> Result<()> {
    let node = v1::Node {
        id: VMR.to_owned(),
        role: v1::Role::Vmr.into(),
        endpoints: vec![ENDPOINT.to_owned()],
        software: "vmcast 0.1.0".to_owned(),
        ..v1::Node::default()
    };
    let mut connection = Connection::open(Ipv4Addr::LOCALHOST, LISTEN, REGISTER)?;
    connection
        .push(&v1::RegisterRequest { node: Some(node), ..v1::RegisterRequest::default() }.encode_to_vec());
    connection.send()?;
    connection.receive(1, |_, _| Ok(()))
}

/// The request of an agent that is behind the address of that number.
fn registration(id: String, number: u32) -> Vec<u8> {
    let node = v1::Node {
        id,
        role: v1::Role::Agent.into(),
        endpoints: vec![format!("{}:2268", claimed(number))],
        name: format!("set-top box {number}"),
        software: "vmcast 0.1.0".to_owned(),
        capabilities: vec!["quic".to_owned(), "link".to_owned()],
        ..v1::Node::default()
    };
    v1::RegisterRequest { node: Some(node), ..v1::RegisterRequest::default() }.encode_to_vec()
}

/// Registers a node with a certificate, as one agent more.
pub(super) fn register_asker(node: &Node, number: u32) -> Result<()> {
    let (carrier, _) = node.connect(Ipv4Addr::LOCALHOST, LISTEN)?;
    let mut connection = Connection::over(carrier, REGISTER);
    connection.push(&registration(tls::NODE.to_owned(), number));
    connection.send()?;
    connection.receive(1, |_, _| Ok(()))
}

/// Registers agents, each by a connection of its own that ends then.
pub(super) fn register_agents(count: u32, mut registered: impl FnMut()) -> Result<()> {
    let mut under_way = VecDeque::with_capacity(WINDOW);
    for number in 0..count {
        if under_way.len() == WINDOW {
            finish(&mut under_way)?;
            registered();
        }
        let mut connection = Connection::open(address(number), LISTEN, REGISTER)?;
        connection.push(&registration(agent(number), number));
        connection.send()?;
        under_way.push_back(connection);
        if number % 1024 == 0 {
            signals::check()?;
        }
    }
    while !under_way.is_empty() {
        finish(&mut under_way)?;
        registered();
    }
    Ok(())
}

/// Lets agents register by TLS, each by its own certificate and by a connection of its own with this kind of handshake.
pub(super) fn register_by_tls(
    swarm: &Swarm,
    kind: HandshakeKind,
    registered: impl Fn() + Sync,
) -> Result<()> {
    let agent = |number: u32| Asks { message: registration(agent(number), number), from: address(number) };
    swarm.ask(kind, REGISTER, agent, registered)
}

fn finish(under_way: &mut VecDeque<Connection>) -> Result<()> {
    under_way.pop_front().map_or(Ok(()), |mut connection| connection.receive(1, |_, _| Ok(())))
}

/// Lets agents report which VMR is the nearest to them, so that it is in the cache.
pub(super) fn report(count: u32) -> Result<()> {
    let mut connection = Connection::open(Ipv4Addr::LOCALHOST, LISTEN, REPORT)?;
    for number in 0..count {
        let chosen = v1::Measurement {
            vmr_id: VMR.to_owned(),
            endpoint: ENDPOINT.to_owned(),
            hops: 3,
            rtt_micros: 4_000,
        };
        let addresses = vec![claimed(number).to_string()];
        let (chosen, measurements) = (Some(chosen.clone()), vec![chosen]);
        let (node_id, arrived) = (agent(number), vec![]);
        let report = v1::ReportNearestRequest { node_id, addresses, chosen, measurements, arrived };
        connection.push(&report.encode_to_vec());
        connection.send()?;
        connection.receive(1, |_, _| Ok(()))?;
    }
    Ok(())
}

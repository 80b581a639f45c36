//! Questions for the nearest VMR that the cache knows, many under way on a few standing connections.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use vmcast_lab::{clock::Clock, signals};
use vmcast_signal::{prost::Message as _, v1};

use super::{
    connection::Connection,
    population,
    process::LISTEN,
    tls::{self, Node},
};

/// Connections, and questions under way on each: as many as the admin takes on one.
pub(super) const CONNECTIONS: usize = 16;
pub(super) const UNDER_WAY: usize = 32;
const NEAREST: &str = "/vmcast.v1.Registry/Nearest";

/// A question for the VMR that is nearest to the address of an agent.
fn question(agent: u32, asker: String) -> v1::NearestRequest {
    v1::NearestRequest {
        node_id: asker,
        addresses: vec![population::claimed(agent).to_string()],
        current: population::VMR.to_owned(),
        ..v1::NearestRequest::default()
    }
}

/// Who asks.
pub(super) struct Askers {
    connections: Vec<Connection>,
    questions: Vec<Vec<u8>>,
    /// What each is answered.
    answer: Vec<u8>,
    next: usize,
}

impl Askers {
    /// Connects the agents themselves.
    pub(super) fn plain(agents: u32) -> Result<Self> {
        let connect = |_| Connection::open(Ipv4Addr::LOCALHOST, LISTEN, NEAREST);
        Self::over((0..CONNECTIONS).map(connect).collect::<Result<_>>()?, agents, population::agent)
    }

    /// Connects one node by TLS, which asks for the addresses of the agents; all connections but the first are resumed
    /// ones.
    pub(super) fn secure(agents: u32, node: &Node) -> Result<Self> {
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for number in 0..CONNECTIONS {
            let (carrier, resumed) = node.connect(Ipv4Addr::LOCALHOST, LISTEN)?;
            ensure!(resumed || number == 0, "the admin did not resume connection {number}");
            let mut connection = Connection::over(carrier, NEAREST);
            // With the answer comes what the next one is resumed by.
            connection.push(&question(0, tls::NODE.to_owned()).encode_to_vec());
            connection.send()?;
            connection.receive(1, |_, _| Ok(()))?;
            connections.push(connection);
        }
        Self::over(connections, agents, |_| tls::NODE.to_owned())
    }

    /// Looks at the first answer to each question: later ones are to be the same, to the byte.
    fn over(mut connections: Vec<Connection>, agents: u32, asker: impl Fn(u32) -> String) -> Result<Self> {
        let questions: Vec<_> =
            (0..agents).map(|number| question(number, asker(number)).encode_to_vec()).collect();
        let mut answer = Vec::new();
        for question in &questions {
            let connection = connections.first_mut().context("no connection")?;
            connection.push(question);
            connection.send()?;
            connection.receive(1, |_, message| {
                let shown = v1::NearestResponse::decode(message)?;
                let first = shown.vmrs.first().map(|vmr| vmr.id.as_str());
                let right = shown.kind() == v1::AnswerKind::CachedAddress && first == Some(population::VMR);
                ensure!(right, "not from the cache of the address: {shown:?}");
                answer = message.to_vec();
                Ok(())
            })?;
        }
        Ok(Self { connections, questions, answer, next: 0 })
    }

    /// Asks for so long; returns how many were answered, all of them rightly.
    pub(super) fn ask(&mut self, time: Duration) -> Result<u64> {
        let clock = Clock::start();
        for connection in &mut self.connections {
            push(connection, &self.questions, &mut self.next)?;
        }
        let mut answered = 0;
        loop {
            let ends = clock.now() >= time;
            signals::check()?;
            for connection in &mut self.connections {
                let expected = &self.answer;
                connection.receive(UNDER_WAY, |_, message| {
                    ensure!(message == expected, "another answer than before");
                    Ok(())
                })?;
                answered += UNDER_WAY as u64;
                if !ends {
                    push(connection, &self.questions, &mut self.next)?;
                }
            }
            if ends {
                return Ok(answered);
            }
        }
    }
}

fn push(connection: &mut Connection, questions: &[Vec<u8>], next: &mut usize) -> Result<()> {
    for _ in 0..UNDER_WAY {
        connection.push(&questions[*next]);
        *next = (*next + 1) % questions.len();
    }
    connection.send()
}

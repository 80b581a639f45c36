use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use prost::Message as _;
use vmcast::admin::{convert, policy_message, read_policy, read_refused};
use vmcast_proto::{
    policy::Policy,
    registry::{
        NodeId,
        proof::{Prover, ProverOutput},
    },
};
use vmcast_signal::v1::{self, command::What};

use crate::{
    registry::{decode, explained},
    script::{Script, start},
};

/// Upper half of the nonces of return probes, which the admin draws.
const TAG: u16 = 0x0101;

/// The line between a VMR and the admin: each step is a message that the admin reads, or one that the VMR does.
pub fn line(data: &[u8]) {
    let mut script = Script::new(data);
    let mut admin = Admin::new();
    while let Some((step, argument)) = script.step() {
        let message = script.sized();
        match step % 4 {
            0 => admin.pause(argument),
            1 => admin.read(message),
            2 => vmr_reads(message),
            _ => policy(message),
        }
    }
}

/// The admin's end, with a round of return probes under way.
struct Admin {
    now: Duration,
    endpoints: BTreeSet<SocketAddr>,
    prover: Prover,
}

impl Admin {
    fn new() -> Self {
        let endpoints: BTreeSet<SocketAddr> =
            ["192.0.2.1:2268", "[2001:db8::1]:2268"].map(|text| text.parse().expect("an endpoint")).into();
        // The tag comes first, and then other halves, each once.
        let mut random = TAG..;
        let prover = Prover::new(start(), endpoints.iter().copied(), || random.next().unwrap_or_default());
        Self { now: Duration::ZERO, endpoints, prover }
    }

    fn pause(&mut self, argument: u8) {
        self.now += Duration::from_millis(100) * u32::from(argument);
        self.prover.handle_timeout(start() + self.now);
        self.settle();
    }

    fn read(&mut self, bytes: &[u8]) {
        let Some(said) = decode::<v1::AttendRequest>(bytes) else { return };
        explained(said.node_id.parse::<NodeId>());
        if let Some(refused) = said.refused.and_then(|refused| explained(read_refused(refused))) {
            assert!(refused.joins.len() <= 512);
            for join in &refused.joins {
                assert!(
                    join.tunnel.parse::<SocketAddr>().is_ok_and(|tunnel| tunnel.to_string() == join.tunnel)
                );
                assert!(join.group.parse::<std::net::IpAddr>().is_ok());
                assert!(join.reason.len() <= 256 && !join.reason.chars().any(char::is_control));
            }
            assert_eq!(read_refused(refused.clone()).ok().as_ref(), Some(&refused));
        }
        if let Some(v1::Noted { tag, nonces }) = said.noted
            && let Ok(tag) = u16::try_from(tag)
        {
            self.prover.on_noted(start() + self.now, tag, &nonces);
        }
        self.settle();
    }

    /// Nothing is sent, or found, elsewhere than at the endpoints.
    fn settle(&mut self) {
        while let Some(output) = self.prover.poll_output() {
            match output {
                ProverOutput::Tell(tag) => assert_eq!(tag, TAG),
                ProverOutput::Transmit { to, bytes } => {
                    assert!(self.endpoints.contains(&to) && !bytes.is_empty());
                }
                ProverOutput::Found(found) => {
                    assert!(found.iter().all(|(endpoint, _)| self.endpoints.contains(endpoint)));
                }
                ProverOutput::Done => {}
            }
        }
    }
}

/// A command, and what a node asks about its joins, as a node reads them.
fn vmr_reads(bytes: &[u8]) {
    if let Some(answer) = decode::<v1::RefusedJoinsResponse>(bytes) {
        explained(read_refused(v1::RefusedJoins { joins: answer.joins }));
    }
    let Some(command) = decode::<v1::Command>(bytes) else { return };
    match command.what {
        Some(What::Policy(told)) => policy(&told.encode_to_vec()),
        Some(What::Going(id)) => {
            explained(id.parse::<NodeId>());
        }
        Some(What::Proofs(told)) => {
            let found = explained(convert::read_proofs(&told.endpoints));
            assert!(found.is_none_or(|found| found.len() <= told.endpoints.len()));
        }
        Some(What::Ping(_) | What::Probe(_) | What::Draining(_) | What::ReturnProbe(_)) | None => {}
    }
}

/// A policy that can be read is written and reads the same.
fn policy(bytes: &[u8]) {
    let Some(message) = decode::<v1::Policy>(bytes) else { return };
    let Some(policy) = explained(read_policy(message)) else { return };
    assert!(policy.rules.len() <= Policy::MAX_RULES);
    assert_eq!(read_policy(policy_message(&policy)).ok().as_ref(), Some(&policy));
}

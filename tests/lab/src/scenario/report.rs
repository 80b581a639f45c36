//! What a run showed, as JSON.

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::{judge::Judgement, traffic::Counts};

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether every member got every packet and nobody else got one.
    pub passed: bool,
    /// What was wrong, as sentences.
    pub violations: Vec<String>,
    /// Seconds that the stream was watched.
    pub seconds: f64,
    /// What replicates in each VMR.
    pub routers: Vec<RouterReport>,
    /// Links of the path, from the source on.
    pub hops: Vec<HopReport>,
    /// Clients; the last is the bystander.
    pub clients: Vec<ClientReport>,
}

/// A VMR.
#[derive(Clone, Debug, Serialize)]
pub struct RouterReport {
    /// Its node.
    pub router: &'static str,
    /// What replicates; `unknown` if it did not answer.
    pub engine: String,
    /// Why.
    pub reason: String,
}

/// A link of the path.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HopReport {
    /// The link.
    pub hop: &'static str,
    /// What it carried of the stream.
    #[serde(flatten)]
    pub counts: Counts,
    /// Copies that it should have carried while there were members, by what the source sent, and did not.
    pub lost: u64,
    /// Copies that it carried again.
    pub duplicated: u64,
}

/// A client.
#[derive(Clone, Debug, Serialize)]
pub struct ClientReport {
    /// Its node.
    pub client: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its memberships.
    pub sessions: Vec<SessionReport>,
    /// What its wire carried.
    pub wire: WireReport,
}

/// A membership.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SessionReport {
    /// When it joined, in seconds of the lab's clock.
    pub joined_s: f64,
    /// When it left.
    pub left_s: f64,
    /// From the join to the first packet.
    pub join_to_first_ms: Option<f64>,
    /// Packets that the player's socket got.
    pub packets: u64,
    /// Their bytes, with headers.
    pub bytes: u64,
    /// Them against what the source sent.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// Jumps of MPEG-TS continuity counters.
    pub continuity_errors: u64,
    /// What was no transport packet.
    pub malformed: u64,
    /// Whether it was a member for long and got nothing.
    pub silent: bool,
}

/// Packets of the stream on a client's wire.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct WireReport {
    /// In a tunnel.
    pub tunnelled: u64,
    /// As multicast; nothing should leak onto the LAN.
    pub native: u64,
    /// While the client was not a member.
    pub stray: u64,
}

impl ClientReport {
    /// Whether it was a member and did not get all of the stream.
    pub(super) fn misses_packets(&self) -> bool {
        self.sessions.iter().any(|session| session.silent || session.judgement.missing() > 0)
    }

    /// Whether packets came to it more than once.
    pub(super) fn got_packets_twice(&self) -> bool {
        self.sessions.iter().any(|session| session.judgement.duplicated > 0)
    }

    /// What this client did not get, or should not have got.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        let mut say = |wrong: bool, what: String| {
            if wrong {
                violations.push(format!("{}: {what}", self.client));
            }
        };
        for (session, number) in self.sessions.iter().zip(1..) {
            let Judgement { lost, cut_off, duplicated, reordered, unknown, received: _ } = session.judgement;
            say(session.silent, format!("membership {number}: no packet at all"));
            say(lost > 0, format!("membership {number}: {lost} packets lost"));
            say(cut_off > 0, format!("membership {number}: the stream ended {cut_off} packets early"));
            say(duplicated > 0, format!("membership {number}: {duplicated} packets came twice"));
            say(reordered > 0, format!("membership {number}: {reordered} packets came out of order"));
            say(unknown > 0, format!("membership {number}: {unknown} packets that the source never sent"));
        }
        let WireReport { native, stray, tunnelled: _ } = self.wire;
        say(stray > 0, format!("{stray} packets while it was not a member"));
        say(native > 0, format!("{native} multicast packets leaked onto the access network"));
        violations
    }
}

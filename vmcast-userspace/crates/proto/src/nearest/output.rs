//! What the machine wants done or known.

use std::{net::SocketAddr, time::Duration};

/// Something to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// Its payload.
        bytes: Vec<u8>,
    },
    /// Every relay has answered or been given up; comes once, as the last output.
    Done(Findings),
}

/// The distance of one relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The endpoint that was asked and answered.
    pub endpoint: SocketAddr,
    /// Routers between.
    pub hops: u8,
    /// Time from the question to its answer.
    pub rtt: Duration,
}

impl Measured {
    /// What relays are ranked by: hops, then round-trip time, then address.
    pub(super) const fn rank(&self) -> (u8, Duration, SocketAddr) {
        (self.hops, self.rtt, self.endpoint)
    }
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Who answered, the nearest first.
    pub measured: Vec<Measured>,
    /// Who did not, in the order they were asked.
    pub unanswered: Vec<SocketAddr>,
}

/// What went over the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Questions sent, repetitions included.
    pub sent: u64,
    /// Repetitions among them.
    pub retransmitted: u64,
    /// Answers used.
    pub answers: u64,
    /// Datagrams of senders that were not asked.
    pub strangers: u64,
    /// Datagrams that are no AMT message.
    pub malformed: u64,
    /// AMT messages other than Relay Advertisement.
    pub unexpected: u64,
    /// Answers to a question that was not asked of their sender.
    pub wrong_nonce: u64,
    /// Further answers of a relay that has answered.
    pub duplicates: u64,
    /// Answers after the end.
    pub late: u64,
}

//! What an operator is shown.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_wire::amtrelay::Name;

use super::source::Place;

/// A source that is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo<'a> {
    /// The source.
    pub source: IpAddr,
    /// Where it is joined.
    pub place: Place,
    /// Whether a packet came of late.
    pub flows: bool,
    /// Whether the DNS still owes an answer.
    pub asking: bool,
    /// The relays of its records, the best first.
    pub candidates: Vec<CandidateInfo<'a>>,
}

/// A relay of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CandidateInfo<'a> {
    /// The precedence of its record.
    pub precedence: u8,
    /// Whether a Request may go there without Relay Discovery.
    pub discovery_optional: bool,
    /// Its address and port.
    pub relay: SocketAddr,
    /// The name in the record, if that has one.
    pub name: Option<&'a Name>,
    /// How it is.
    pub state: CandidateState,
}

/// How a relay of a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateState {
    /// The source is joined there.
    InUse,
    /// It is being connected to.
    Trying,
    /// It may be tried.
    Ready,
    /// It is left out for so long.
    HeldDown(Duration),
    /// No route leads there.
    Unreachable,
    /// It is this node.
    Own,
}

/// A tunnel to a relay that the DNS named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelInfo {
    /// Its number.
    pub tunnel: u32,
    /// The relay, or where one is asked for.
    pub remote: SocketAddr,
    /// Whether it answers.
    pub up: bool,
    /// Sources that are joined there or try it.
    pub sources: usize,
    /// Groups that are joined there.
    pub groups: usize,
    /// Since when there is the tunnel.
    pub since: Instant,
}

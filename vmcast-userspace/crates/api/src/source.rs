//! Sources and the relays that their AMTRELAY records name (RFC 8777).

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A page of sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// Where the next page begins; `None` after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The sources, ascending.
    pub sources: Vec<Source>,
}

/// A source whose relays are looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its address.
    pub source: IpAddr,
    /// Where it is joined.
    pub place: SourcePlace,
    /// Why it is joined at the upstream, as `no-record`; `None` elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The number of the tunnel to its relay, as in the list of tunnels; `None` without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<u32>,
    /// Whether packets of it came of late.
    #[serde(default)]
    pub flows: bool,
    /// Whether the DNS still owes an answer.
    #[serde(default)]
    pub asking: bool,
    /// The relays of its records, the best first.
    #[serde(default)]
    pub relays: Vec<SourceRelay>,
}

/// Where a source is joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourcePlace {
    /// Nowhere yet: its relays are being looked for.
    Nowhere,
    /// At the upstream.
    Upstream,
    /// At a relay of its own.
    Relay,
    /// A place that a newer daemon knows.
    #[serde(other)]
    Unknown,
}

/// A relay of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRelay {
    /// The precedence of its record, 0 to 255: lower ones are tried first.
    pub precedence: u8,
    /// Whether it may be connected to without Relay Discovery: the D-bit.
    pub discovery_optional: bool,
    /// Its address and port.
    pub remote: SocketAddr,
    /// The name in the record, if that has no address itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How it is.
    pub state: SourceRelayState,
    /// Milliseconds that it is still left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<u64>,
}

/// How a relay of a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceRelayState {
    /// The source is joined there.
    InUse,
    /// It is being connected to.
    Trying,
    /// It may be tried.
    Ready,
    /// It refused, did not answer or brought nothing, and is left out for a while.
    HeldDown,
    /// No route leads there.
    Unreachable,
    /// It is this node.
    Own,
    /// A state that a newer daemon knows.
    #[serde(other)]
    Unknown,
}

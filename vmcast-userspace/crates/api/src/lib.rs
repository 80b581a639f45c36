//! The operator API of every role: what may be asked over the control socket, and the answers.
//!
//! One request and one response, each one JSON object on one line, over a Unix stream socket; a
//! connection may ask any number of times, one question after the other. Every object carries the
//! version of the API as `v`. Unknown keys are ignored and missing optional ones have a default, so
//! that a command and a daemon of different releases understand each other.
//!
//! ```text
//! → {"v":1,"request":"group-list"}
//! ← {"v":1,"response":"groups","groups":[{"group":"232.1.1.1","source":"192.0.2.9",…}]}
//! ```
//!
//! Ages and times are milliseconds before the answer, never a date: two hosts need no common clock.

#![forbid(unsafe_code)]

mod admin;
mod client;
mod data;
mod page;
mod policy;
mod request;
mod response;
mod source;
mod status;
mod token;

pub use admin::{
    CacheEntries, CacheEntry, Drained, EndpointProof, Node, Nodes, ProofState, RankedNode, TunnelEnd,
};
pub use client::{Client, ClientError, MAX_RESPONSE_BYTES};
pub use data::{
    Direction, Filter, FilterMode, Group, GroupState, Groups, Interface, Interfaces, MAX_HOSTS, Member,
    MemberHost, Members, NextHop, NextHopState, Place, Priority, Querier, Taken, Tunnel, TunnelKind, Tunnels,
};
pub use page::{MAX_PAGE, Page};
pub use policy::{Policy, PolicyAction, PolicyEffect, PolicyQuestion, PolicyRule, PolicyVerdict, Refused};
pub use request::Request;
pub use response::{ErrorReply, Response};
pub use source::{Source, SourcePlace, SourceRelay, SourceRelayState, Sources};
pub use status::{
    AdminLink, AdminLinkState, ClockStep, Engine, Role, StandIn, Stats, Status, StreamStats, Upstream,
    UpstreamState,
};
pub use token::{NewCertificate, NewToken, Revoked, SigningOrder, Token, TokenOrder, TokenState, Tokens};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The version of the API that this crate speaks.
pub const VERSION: u32 = 1;

/// Longest request in bytes, its line feed included.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// A request or a response together with the version of the API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Version of the API that the sender speaks.
    #[serde(rename = "v")]
    pub version: u32,
    /// What is said.
    #[serde(flatten)]
    pub body: T,
}

/// Why a line is not what was expected.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not an object with a version.
    #[error("not an object of the control protocol: {0}")]
    Json(#[from] serde_json::Error),
    /// The sender speaks a version of which this crate does not know the content.
    #[error("version {theirs} of the control protocol is not understood, only version {VERSION}: {reason}")]
    Version {
        /// The version of the sender.
        theirs: u32,
        /// What was not understood.
        reason: serde_json::Error,
    },
}

/// Writes one line, its line feed included.
///
/// # Panics
/// Never: the types of this crate have string keys and no failing serializer.
#[must_use]
pub fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(&Envelope { version: VERSION, body }).expect("plain data serializes");
    line.push(b'\n');
    line
}

/// Reads one line, with or without its line feed.
///
/// Another version is accepted as long as its content is understood.
///
/// # Errors
/// If the line is not JSON or not of the type asked for.
pub fn decode<T: DeserializeOwned>(line: &[u8]) -> Result<T, DecodeError> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }

    match serde_json::from_slice::<Envelope<T>>(line) {
        Ok(envelope) => Ok(envelope.body),
        Err(reason) => match serde_json::from_slice::<Version>(line) {
            Ok(Version { v }) if v != VERSION => Err(DecodeError::Version { theirs: v, reason }),
            Ok(Version { .. }) | Err(_) => Err(DecodeError::Json(reason)),
        },
    }
}

//! The kernel's view of links, routes and neighbours, over rtnetlink (RFC 3549).
//!
//! `Links` names and describes interfaces, `NextHops` keeps the link-layer way to every tunnel
//! end up to date, `HostGroups` tells what this host's sockets join, `Setup` makes the few changes
//! that a role needs on its own interface, [`notify`] and [`message`] read what the kernel sends. All of
//! them see the network namespace of the thread that opened them.

mod host_groups;
mod links;
pub mod message;
mod next_hops;
pub mod notify;
mod pppoe;
mod route_copy;
mod route_dump;
mod route_lookups;
mod setup;
mod stack;
mod table;

#[cfg(test)]
pub(crate) mod netns;
#[cfg(test)]
mod tests;

use std::io;

pub(crate) use host_groups::{HostGroupEvent, HostGroups};
pub(crate) use links::{Link, LinkEvent, LinkWatch, Links};
pub(crate) use next_hops::NextHops;
pub(crate) use pppoe::{PppoeSession, sessions as pppoe_sessions};
pub(crate) use setup::Setup;
#[cfg(test)]
pub(crate) use stack::Vlan;
pub(crate) use stack::{TooManyTags, device_under};
pub(crate) use table::{NextHopEvent, SessionWays};

/// Why a netlink request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The netlink socket could not be opened.
    #[error("opening a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// No interface has this name.
    #[error("there is no interface named {0:?}")]
    NoSuchLink(String),
    /// The kernel refused a request.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked, as a phrase.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
}

/// Opens a connection for requests and runs it in the background.
fn connect() -> Result<rtnetlink::Handle, Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Open)?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The error number in the kernel's answer, positive.
fn error_number(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

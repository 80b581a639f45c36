//! One tunnel.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{Filter, host_state::HostState};

/// The two ends of a tunnel in 22 bytes. Our own end is an index into the few addresses we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) remote_ip: IpAddr,
    pub(super) remote_port: u16,
    pub(super) local: u16,
}

impl Ends {
    pub(super) const fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote_ip, self.remote_port)
    }
}

/// Milliseconds since the relay was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    pub(super) fn at(base: Instant, now: Instant) -> Self {
        Self(u64::try_from(now.saturating_duration_since(base).as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn instant(self, base: Instant) -> Instant {
        base + Duration::from_millis(self.0)
    }

    /// The scale on which the age of a group is kept: whole seconds.
    pub(super) fn seconds(self) -> u32 {
        u32::try_from(self.0 / 1_000).unwrap_or(u32::MAX)
    }
}

/// A gateway that proved its address, and what it wants.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) ends: Ends,
    /// Whether the Request had the E flag (RFC 9601 §6.1.4.2).
    pub(super) ecn: bool,
    pub(super) host: HostState,
    pub(super) since: Moment,
    pub(super) updated: Moment,
    /// Neighbours in the queue this tunnel waits in, 0 at its ends.
    pub(super) previous: u32,
    pub(super) next: u32,
}

/// A tunnel as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelInfo {
    /// Its id.
    pub id: u32,
    /// Our end.
    pub local: SocketAddr,
    /// The gateway's end.
    pub remote: SocketAddr,
    /// Whether the gateway merges congestion marks, so that they may be copied into the outer header.
    pub ecn: bool,
    /// When it was made.
    pub since: Instant,
    /// When the last Membership Update came.
    pub updated: Instant,
    /// What the gateway wants.
    pub groups: Vec<(IpAddr, Filter)>,
}

/// Why a tunnel cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// An operator has taken the relay out of service.
    #[error("the relay is out of service and takes no new tunnels")]
    Draining,
    /// As many tunnels as configured.
    #[error("all {limit} tunnels are in use")]
    Tunnels {
        /// How many there may be.
        limit: u32,
    },
    /// As many tunnels of one source address as configured.
    #[error("{address} has all {limit} tunnels that one address may have")]
    TunnelsPerSource {
        /// The source address.
        address: IpAddr,
        /// How many there may be.
        limit: u32,
    },
    /// As many tunnels of one network as configured.
    #[error("the network of {address} has all {limit} tunnels that one network may have")]
    TunnelsPerPrefix {
        /// The source address.
        address: IpAddr,
        /// How many there may be.
        limit: u32,
    },
    /// More groups or sources than one tunnel may have.
    #[error("{group} exceeds the groups or sources of one tunnel, or nobody can join it")]
    Groups {
        /// The group that was too much.
        group: IpAddr,
    },
}

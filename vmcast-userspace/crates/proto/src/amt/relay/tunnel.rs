//! One tunnel.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{Filter, amt::encapsulated::Protocol, host_state::HostState};

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

/// The Request Nonces of the last Membership Updates of IGMP and of MLD; 0 where none has come.
///
/// They tell the gateway that has an address and port from one that had them before, whose Response MAC is as good: a
/// translator gives them to another one, or the same one has shaken hands anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Nonces([u32; 2]);

impl Nonces {
    /// A Membership Update has come. A gateway that has used one nonce for both protocols does so again, or is another.
    pub(super) fn note(&mut self, protocol: Protocol, nonce: u32) {
        let Self([igmp, mld]) = self;
        let (own, other) = match protocol {
            Protocol::Igmp => (igmp, mld),
            Protocol::Mld => (mld, igmp),
        };
        if own == other && *own != nonce {
            *other = 0;
        }
        *own = nonce;
    }

    /// Whether a message of this nonce is of the gateway whose updates came last; anybody's, where none has come. 0 is no
    /// gateway's: it stands where no update of one protocol has come.
    pub(super) fn are_of(self, nonce: u32) -> bool {
        self == Self::default() || (nonce != 0 && self.0.contains(&nonce))
    }
}

/// A gateway that proved its address, and what it wants.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) ends: Ends,
    /// Whether the Request had the E flag (RFC 9601 §6.1.4.2).
    pub(super) ecn: bool,
    pub(super) nonces: Nonces,
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

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Protocol; 2] = [Protocol::Igmp, Protocol::Mld];

    #[test]
    fn nonces_are_of_the_last_updates_of_each_protocol() {
        for [one, other] in [BOTH, [Protocol::Mld, Protocol::Igmp]] {
            let mut nonces = Nonces::default();
            assert!(nonces.are_of(1), "nobody is known");
            nonces.note(one, 1);
            assert_eq!([0, 1, 2].map(|nonce| nonces.are_of(nonce)), [false, true, false]);
            // A handshake of its own for each protocol.
            nonces.note(other, 2);
            nonces.note(one, 3);
            assert_eq!([1, 2, 3].map(|nonce| nonces.are_of(nonce)), [false, true, true]);
        }
    }

    #[test]
    fn who_had_one_nonce_for_both_protocols_is_not_known_after_another_one_of_either() {
        for protocol in BOTH {
            let mut nonces = Nonces::default();
            BOTH.iter().for_each(|of| nonces.note(*of, 1));
            nonces.note(protocol, 2);
            assert_eq!([1, 2].map(|nonce| nonces.are_of(nonce)), [false, true]);
        }
    }
}

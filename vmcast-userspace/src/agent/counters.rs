//! What the agent itself counts; its machines count for themselves.

/// Why a packet that the host sent into the virtual interface, or one for the host, went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drop {
    /// From the host: neither IPv4 nor IPv6.
    NotIp,
    /// From the host: a broken IP header.
    Malformed,
    /// From the host: IGMP or MLD that is cut short, a fragment or otherwise no control message.
    BadMembership,
    /// From the host: not for a group.
    NotMulticast,
    /// From the host: for a group that never leaves its link.
    LinkLocalGroup,
    /// From the host: data for a group. This agent only receives.
    SendingNotSupported,
    /// From the tunnel: the datagram is no one's that the gateway deals with, as there is none yet.
    NoUpstream,
    /// For the host: it did not take the packet.
    HostRefused,
    /// For the VMR: the kernel did not take the datagram; its protocol repeats it.
    TunnelRefused,
}

impl Drop {
    /// Every reason, in the order of its number.
    pub(super) const ALL: [Self; 9] = [
        Self::NotIp,
        Self::Malformed,
        Self::BadMembership,
        Self::NotMulticast,
        Self::LinkLocalGroup,
        Self::SendingNotSupported,
        Self::NoUpstream,
        Self::HostRefused,
        Self::TunnelRefused,
    ];

    /// The metric label, in snake case.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Malformed => "malformed",
            Self::BadMembership => "bad_membership",
            Self::NotMulticast => "not_multicast",
            Self::LinkLocalGroup => "link_local_group",
            Self::SendingNotSupported => "sending_not_supported",
            Self::NoUpstream => "no_upstream",
            Self::HostRefused => "host_refused",
            Self::TunnelRefused => "tunnel_refused",
        }
    }
}

/// Counts by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drops([u64; Drop::ALL.len()]);

impl Drops {
    pub(super) fn count(&mut self, reason: Drop) {
        self.0[reason as usize] += 1;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Drop, u64)> + '_ {
        Drop::ALL.into_iter().zip(self.0)
    }

    #[cfg(test)]
    pub(super) const fn of(&self, reason: Drop) -> u64 {
        self.0[reason as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_without_gap() {
        for (index, reason) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.label());
        }
    }
}

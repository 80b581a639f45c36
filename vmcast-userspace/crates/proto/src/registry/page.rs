//! The order in which a requester is told all VMRs, and where a page of them begins.

use std::{cmp::Reverse, fmt, net::IpAddr, str::FromStr};

use super::{NodeId, NodeIdError, NodeRecord};

/// A VMR's place in the order for one requester: those that share the longest prefix with its
/// address first, then by their ids. The order does not depend on who else is there, so a page goes
/// on in the right place although VMRs come and go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Leading bits that the nearest of its endpoints has in common with the requester.
    shared: Reverse<u8>,
    vmr: NodeId,
}

/// A text that is no [`Place`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Not of the form number, `@`, node id.
    #[error("{0:?} is not where a page of VMRs begins")]
    Syntax(String),
    /// The node id is wrong.
    #[error(transparent)]
    Id(#[from] NodeIdError),
}

impl Place {
    /// The place of `vmr` for a requester at `address`.
    pub(super) fn of(vmr: &NodeRecord, address: IpAddr) -> Self {
        let shared = vmr.registration.endpoints.iter().map(|endpoint| shared_bits(endpoint.ip(), address));
        Self { shared: Reverse(shared.max().unwrap_or(0)), vmr: vmr.id().clone() }
    }
}

/// Leading bits that two addresses have in common; none if they are of different families.
fn shared_bits(one: IpAddr, other: IpAddr) -> u8 {
    let bits = match (one.to_canonical(), other.to_canonical()) {
        (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    };
    bits as u8
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.shared.0, self.vmr)
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let syntax = || PlaceError::Syntax(text.to_owned());
        let (shared, vmr) = text.split_once('@').ok_or_else(syntax)?;
        Ok(Self { shared: Reverse(shared.parse().map_err(|_| syntax())?), vmr: vmr.parse()? })
    }
}

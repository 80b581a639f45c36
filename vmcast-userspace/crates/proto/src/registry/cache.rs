//! The cache table: which VMR is nearest to an address or a network prefix.

use std::{
    cmp::Ordering,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use super::{NodeId, NodeRecord, Role, UnixMillis};

/// A network prefix; a single address is a prefix of full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// A text or pair that is no [`Prefix`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not of the form address/length.
    #[error("{0:?} is not an address, a slash and a prefix length")]
    Syntax(String),
    /// Longer than the address.
    #[error("a prefix length of {length} is more than the bits of {address}")]
    Length {
        /// The address.
        address: IpAddr,
        /// The length asked for.
        length: u8,
    },
}

impl Prefix {
    /// The first `length` bits of `address`; an IPv4-mapped IPv6 address counts as IPv4.
    ///
    /// # Errors
    /// If the address has fewer bits.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        let too_long = || PrefixError::Length { address, length };
        let address = match address.to_canonical() {
            IpAddr::V4(v4) => {
                let rest = 32u32.checked_sub(length.into()).ok_or_else(too_long)?;
                let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let rest = 128u32.checked_sub(length.into()).ok_or_else(too_long)?;
                let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Ok(Self { address, length })
    }

    /// The prefix of full length.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Its lowest address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length in bits.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(syntax)?;
        Self::new(address.parse().map_err(|_| syntax())?, length.parse().map_err(|_| syntax())?)
    }
}

/// Who may use an entry: requesters that choose among the same VMRs.
///
/// An agent takes any VMR, a VMR only those above it; in one network prefix the nearest VMR of the
/// one is not the nearest of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Agents.
    Agents,
    /// VMRs of this rank.
    Vmrs(u32),
}

impl Scope {
    /// The scope of a requester.
    #[must_use]
    pub const fn of(role: Role) -> Self {
        match role {
            Role::Vmr { rank } => Self::Vmrs(rank),
            Role::Agent => Self::Agents,
        }
    }

    /// A number that orders as the scopes do: 0 for agents, the rank plus 1 for VMRs.
    #[must_use]
    pub const fn number(self) -> i64 {
        match self {
            Self::Agents => 0,
            Self::Vmrs(rank) => rank as i64 + 1,
        }
    }

    /// Reads the number back, `None` if no scope has it.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Agents),
            _ => u32::try_from(number.checked_sub(1)?).ok().map(Self::Vmrs),
        }
    }
}

/// What an entry is found by. Keys are ordered by scope, address bytes and length, as a database
/// orders them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// Who asks.
    pub scope: Scope,
    /// From where.
    pub prefix: Prefix,
}

/// A text that is no [`CacheKey`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not of the form scope number, `@`, prefix.
    #[error("{0:?} is not the key of a cache entry")]
    Syntax(String),
    /// The prefix is wrong.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
}

impl CacheKey {
    /// The first in their order.
    pub(super) const LEAST: Self = Self {
        scope: Scope::Agents,
        prefix: Prefix { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 },
    };
}

impl Ord for CacheKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let addresses = match (self.prefix.address, other.prefix.address) {
            (IpAddr::V4(one), IpAddr::V4(other)) => one.cmp(&other),
            (IpAddr::V6(one), IpAddr::V6(other)) => one.cmp(&other),
            (IpAddr::V4(one), IpAddr::V6(other)) => one.octets()[..].cmp(&other.octets()),
            (IpAddr::V6(one), IpAddr::V4(other)) => one.octets()[..].cmp(&other.octets()),
        };
        let scopes = self.scope.cmp(&other.scope);
        scopes.then(addresses).then_with(|| self.prefix.length.cmp(&other.prefix.length))
    }
}

impl PartialOrd for CacheKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.scope.number(), self.prefix)
    }
}

impl FromStr for CacheKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let syntax = || KeyError::Syntax(text.to_owned());
        let (scope, prefix) = text.split_once('@').ok_or_else(syntax)?;
        let scope = scope.parse().ok().and_then(Scope::from_number).ok_or_else(syntax)?;
        Ok(Self { scope, prefix: prefix.parse()? })
    }
}

/// The distance of one VMR from a requester, as the requester measured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// The VMR.
    pub vmr: NodeId,
    /// Its endpoint that was measured.
    pub endpoint: SocketAddr,
    /// Routers between.
    pub hops: u8,
    /// Round-trip time; kept in whole microseconds.
    pub rtt: Duration,
}

impl Measurement {
    /// What makes one VMR nearer than another: fewer hops, then the lower round-trip time.
    #[must_use]
    pub const fn distance(&self) -> (u8, Duration) {
        (self.hops, self.rtt)
    }
}

/// One row of the cache table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// What it is found by.
    pub key: CacheKey,
    /// The nearest VMR.
    pub nearest: Measurement,
    /// Where to go if that one does not serve, the next nearest first; at most [`CacheEntry::MOST_OTHERS`]. They are
    /// what was measured: one of them may be gone since.
    pub others: Arc<[Measurement]>,
    /// Who measured.
    pub reporter: NodeId,
    /// When the report came.
    pub learned: UnixMillis,
    /// When it is good no longer.
    pub expires: UnixMillis,
}

impl CacheEntry {
    /// VMRs beside the nearest at most.
    pub const MOST_OTHERS: usize = 4;

    /// Whether the entry is true for `requester`, given the record of the VMR it names.
    pub(super) fn is_usable(
        &self,
        requester: &NodeRecord,
        vmr: Option<&NodeRecord>,
        now: UnixMillis,
    ) -> bool {
        self.expires > now
            && vmr.is_some_and(|vmr| {
                requester.may_attach_to(vmr, now)
                    && vmr.registration.endpoints.contains(&self.nearest.endpoint)
            })
    }
}

/// The address under which a requester is cached, given where its request came from and what
/// addresses it claims, the preferred first.
///
/// A claim alone could poison the entry of a stranger, and behind a NAT it names a network that a
/// thousand homes have. So it is the address the request came from, unless that is a loopback
/// address that was not claimed: then requester and server share a host, and the claim stands.
#[must_use]
pub fn location(seen: IpAddr, claimed: &[IpAddr]) -> IpAddr {
    let seen = seen.to_canonical();
    let mut claimed = claimed.iter().map(IpAddr::to_canonical);
    match claimed.next() {
        Some(first) if seen.is_loopback() && first != seen && claimed.all(|other| other != seen) => first,
        _ => seen,
    }
}

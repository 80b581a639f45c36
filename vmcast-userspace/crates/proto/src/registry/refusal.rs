//! Why the registry says no.

use std::net::SocketAddr;

use super::NodeId;

/// A request that is not granted; the registry is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A VMR that nobody could reach.
    #[error("a VMR needs at least one endpoint")]
    NoEndpoint,
    /// More endpoints than a node may have.
    #[error("{given} endpoints, at most {limit} are allowed")]
    TooManyEndpoints {
        /// How many there were.
        given: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// A list about the node is longer than allowed.
    #[error("{given} {what}, at most {limit} are allowed")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How many there were.
        given: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// Port 0, or an address that is no host's.
    #[error("{0} is not an endpoint that a host can have")]
    UnusableEndpoint(SocketAddr),
    /// A live node has the endpoint.
    #[error("endpoint {endpoint} is registered by node {holder}: give one of the two another endpoint")]
    Duplicate {
        /// The endpoint.
        endpoint: SocketAddr,
        /// Who holds it.
        holder: NodeId,
    },
    /// No room for another node.
    #[error("the registry is full: {limit} nodes")]
    Full {
        /// How many fit.
        limit: usize,
    },
    /// The caller has no live lease.
    #[error("node {0} is not registered, or its lease has run out")]
    NotRegistered(NodeId),
    /// More measurements than a report may have.
    #[error("{given} measurements, at most {limit} are allowed")]
    TooManyMeasurements {
        /// How many there were.
        given: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The reported VMR is gone, is the caller itself or is not ranked above it.
    #[error("{0} is not a live VMR that the caller may attach to")]
    NotEligible(NodeId),
    /// The reported endpoint is not the VMR's.
    #[error("{endpoint} is not an endpoint of VMR {vmr}")]
    ForeignEndpoint {
        /// The VMR.
        vmr: NodeId,
        /// The endpoint.
        endpoint: SocketAddr,
    },
    /// The report contradicts itself.
    #[error("VMR {chosen} is reported as the nearest, but {nearer} was measured to be nearer")]
    NotNearest {
        /// The reported VMR.
        chosen: NodeId,
        /// One with fewer hops, or as many and a lower round-trip time.
        nearer: NodeId,
    },
    /// Only a VMR can be drained.
    #[error("{0} is an agent: only a VMR has members that can be moved")]
    NoVmr(NodeId),
    /// No room for another cache entry.
    #[error("the cache is full: {limit} entries")]
    CacheFull {
        /// How many fit.
        limit: usize,
    },
}

impl Refusal {
    /// The reason without its particulars.
    #[must_use]
    pub const fn reason(&self) -> RefusalReason {
        match self {
            Self::NoEndpoint => RefusalReason::NoEndpoint,
            Self::TooManyEndpoints { .. } => RefusalReason::TooManyEndpoints,
            Self::TooMuch { .. } => RefusalReason::TooMuch,
            Self::UnusableEndpoint(_) => RefusalReason::UnusableEndpoint,
            Self::Duplicate { .. } => RefusalReason::Duplicate,
            Self::Full { .. } => RefusalReason::Full,
            Self::NotRegistered(_) => RefusalReason::NotRegistered,
            Self::TooManyMeasurements { .. } => RefusalReason::TooManyMeasurements,
            Self::NotEligible(_) => RefusalReason::NotEligible,
            Self::ForeignEndpoint { .. } => RefusalReason::ForeignEndpoint,
            Self::NotNearest { .. } => RefusalReason::NotNearest,
            Self::NoVmr(_) => RefusalReason::NoVmr,
            Self::CacheFull { .. } => RefusalReason::CacheFull,
        }
    }
}

/// The kind of a [`Refusal`]: counter index and metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
#[expect(missing_docs, reason = "each is documented at the refusal of its name")]
pub enum RefusalReason {
    NoEndpoint = 0,
    TooManyEndpoints = 1,
    UnusableEndpoint = 2,
    Duplicate = 3,
    Full = 4,
    NotRegistered = 5,
    TooManyMeasurements = 6,
    NotEligible = 7,
    ForeignEndpoint = 8,
    NotNearest = 9,
    CacheFull = 10,
    TooMuch = 11,
    NoVmr = 12,
}

impl RefusalReason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 13] = [
        Self::NoEndpoint,
        Self::TooManyEndpoints,
        Self::UnusableEndpoint,
        Self::Duplicate,
        Self::Full,
        Self::NotRegistered,
        Self::TooManyMeasurements,
        Self::NotEligible,
        Self::ForeignEndpoint,
        Self::NotNearest,
        Self::CacheFull,
        Self::TooMuch,
        Self::NoVmr,
    ];

    /// The metric label, in snake case.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::TooManyEndpoints => "too_many_endpoints",
            Self::UnusableEndpoint => "unusable_endpoint",
            Self::Duplicate => "duplicate",
            Self::Full => "full",
            Self::NotRegistered => "not_registered",
            Self::TooManyMeasurements => "too_many_measurements",
            Self::NotEligible => "not_eligible",
            Self::ForeignEndpoint => "foreign_endpoint",
            Self::NotNearest => "not_nearest",
            Self::CacheFull => "cache_full",
            Self::TooMuch => "too_much",
            Self::NoVmr => "no_vmr",
        }
    }
}

/// Why a request had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error<E> {
    /// The rules forbid it.
    #[error(transparent)]
    Refused(Refusal),
    /// The store does not work.
    #[error("the registry's store failed: {0}")]
    Store(#[from] E),
}

//! What happened, in numbers.

use super::{AnswerKind, RefusalReason};

/// Refusals by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusalCounts([u64; RefusalReason::ALL.len()]);

impl RefusalCounts {
    /// How many there were for one reason.
    #[must_use]
    pub const fn of(&self, reason: RefusalReason) -> u64 {
        self.0[reason as usize]
    }

    /// Every reason with its number.
    pub fn iter(&self) -> impl Iterator<Item = (RefusalReason, u64)> + '_ {
        RefusalReason::ALL.into_iter().map(|reason| (reason, self.of(reason)))
    }

    pub(super) const fn count(&mut self, reason: RefusalReason) {
        self.0[reason as usize] += 1;
    }
}

/// Counters since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Nodes that registered with no live lease of their own.
    pub registrations: u64,
    /// Leases renewed unchanged.
    pub renewals: u64,
    /// Leases renewed with another role, rank or set of endpoints.
    pub moves: u64,
    /// Expired nodes whose endpoint a newcomer took over.
    pub takeovers: u64,
    /// Leases ended by their node.
    pub deregistrations: u64,
    /// Leases that ran out.
    pub expirations: u64,
    /// Requests refused.
    pub refusals: RefusalCounts,
    /// VMRs that an operator took out of service.
    pub drains: u64,
    /// Times that a VMR was passed over because it was busy.
    pub overloaded: u64,
    /// Times that a VMR was passed over because it was not found at its endpoints.
    pub unproved: u64,
    /// Endpoints at which a return probe found the VMR.
    pub proofs: u64,
    /// Endpoints at which a return probe found nobody.
    pub proofs_silent: u64,
    /// Endpoints at which a return probe found somebody else.
    pub proofs_foreign: u64,
    /// Endpoints that could not be probed, for the VMR did not take part.
    pub proofs_mute: u64,
    /// VMRs whose endpoint a newcomer took over, because they were not found there.
    pub evictions: u64,
    /// Queries answered from the entry of an address.
    pub nearest_cached_address: u64,
    /// Queries answered from the entry of a prefix.
    pub nearest_cached_prefix: u64,
    /// Queries answered with every VMR.
    pub nearest_all: u64,
    /// Cache entries found untrue by a query, and removed.
    pub stale_entries: u64,
    /// Reports taken.
    pub reports: u64,
    /// Measurements in those reports.
    pub measurements: u64,
    /// Reports that left the prefix's entry as it was.
    pub prefix_kept: u64,
}

impl Counters {
    /// What two registries over the same rows did together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let refusals = std::array::from_fn(|reason| self.refusals.0[reason] + other.refusals.0[reason]);
        Self {
            registrations: self.registrations + other.registrations,
            renewals: self.renewals + other.renewals,
            moves: self.moves + other.moves,
            takeovers: self.takeovers + other.takeovers,
            deregistrations: self.deregistrations + other.deregistrations,
            expirations: self.expirations + other.expirations,
            refusals: RefusalCounts(refusals),
            drains: self.drains + other.drains,
            overloaded: self.overloaded + other.overloaded,
            unproved: self.unproved + other.unproved,
            proofs: self.proofs + other.proofs,
            proofs_silent: self.proofs_silent + other.proofs_silent,
            proofs_foreign: self.proofs_foreign + other.proofs_foreign,
            proofs_mute: self.proofs_mute + other.proofs_mute,
            evictions: self.evictions + other.evictions,
            nearest_cached_address: self.nearest_cached_address + other.nearest_cached_address,
            nearest_cached_prefix: self.nearest_cached_prefix + other.nearest_cached_prefix,
            nearest_all: self.nearest_all + other.nearest_all,
            stale_entries: self.stale_entries + other.stale_entries,
            reports: self.reports + other.reports,
            measurements: self.measurements + other.measurements,
            prefix_kept: self.prefix_kept + other.prefix_kept,
        }
    }

    pub(super) const fn count_answer(&mut self, kind: AnswerKind) {
        match kind {
            AnswerKind::CachedAddress => self.nearest_cached_address += 1,
            AnswerKind::CachedPrefix => self.nearest_cached_prefix += 1,
            AnswerKind::All => self.nearest_all += 1,
        }
    }
}

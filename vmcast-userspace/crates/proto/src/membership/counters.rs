//! What was heard, said and refused.

/// Why a message, or a part of one, was not acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Cut short or of an impossible length.
    Malformed,
    /// The checksum does not match.
    BadChecksum,
    /// The type is not known.
    UnknownType,
    /// The time to live is not 1, so it may have come from beyond the link.
    BadTtl,
    /// The source address belongs to no host.
    BadSource,
    /// The destination is neither what the message calls for nor our address.
    BadDestination,
    /// The Router Alert option is missing and required.
    NoRouterAlert,
    /// A query without a source address takes no part in the election (RFC 4541 §2.1.1).
    QueryWithoutSource,
    /// A query from our own address.
    OwnQuery,
    /// A query from a router whose address is higher than ours: it is about to give way.
    HigherQuerier,
    /// A query of version 1, which knows no election.
    QueryVersion1,
    /// A report of version 3 to a querier of version 2.
    ReportVersion3,
    /// The group is not a multicast address.
    NotMulticast,
    /// The group is of the local network control block, never forwarded (RFC 5771 §4).
    LinkLocalGroup,
    /// A listed source belongs to no host.
    BadListedSource,
    /// A record type without a meaning.
    UnknownRecordType,
    /// A leave, BLOCK or source list while an older host is present (RFC 9776 §7.3.2).
    OlderHostPresent,
    /// The limit of groups is reached.
    TooManyGroups,
    /// The limit of sources of a group is reached.
    TooManySources,
}

impl Refusal {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 19] = [
        Self::Malformed,
        Self::BadChecksum,
        Self::UnknownType,
        Self::BadTtl,
        Self::BadSource,
        Self::BadDestination,
        Self::NoRouterAlert,
        Self::QueryWithoutSource,
        Self::OwnQuery,
        Self::HigherQuerier,
        Self::QueryVersion1,
        Self::ReportVersion3,
        Self::NotMulticast,
        Self::LinkLocalGroup,
        Self::BadListedSource,
        Self::UnknownRecordType,
        Self::OlderHostPresent,
        Self::TooManyGroups,
        Self::TooManySources,
    ];

    /// The metric label, in snake case.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadChecksum => "bad_checksum",
            Self::UnknownType => "unknown_type",
            Self::BadTtl => "bad_ttl",
            Self::BadSource => "bad_source",
            Self::BadDestination => "bad_destination",
            Self::NoRouterAlert => "no_router_alert",
            Self::QueryWithoutSource => "query_without_source",
            Self::OwnQuery => "own_query",
            Self::HigherQuerier => "higher_querier",
            Self::QueryVersion1 => "query_version_1",
            Self::ReportVersion3 => "report_version_3",
            Self::NotMulticast => "not_multicast",
            Self::LinkLocalGroup => "link_local_group",
            Self::BadListedSource => "bad_listed_source",
            Self::UnknownRecordType => "unknown_record_type",
            Self::OlderHostPresent => "older_host_present",
            Self::TooManyGroups => "too_many_groups",
            Self::TooManySources => "too_many_sources",
        }
    }
}

/// Counters of one querier since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Queries heard and accepted.
    pub queries_received: u64,
    /// Of these, those of an older version than ours: a fault of configuration that is worth a
    /// warning (RFC 9776 §7.3.1).
    pub older_queries_received: u64,
    /// Reports of any version heard and accepted.
    pub reports_received: u64,
    /// Leave Group messages heard and accepted.
    pub leaves_received: u64,
    /// Queries sent.
    pub queries_sent: u64,
    refused: [u64; Refusal::ALL.len()],
}

impl Counters {
    /// How often something was refused for this reason.
    #[must_use]
    pub const fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize]
    }

    /// Every reason with its count.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> + '_ {
        Refusal::ALL.into_iter().zip(self.refused)
    }

    pub(super) fn refuse(&mut self, reason: Refusal) {
        self.refused[reason as usize] += 1;
    }

    pub(super) fn refuse_many(&mut self, reason: Refusal, times: usize) {
        self.refused[reason as usize] += times as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_numbered_without_gap() {
        for (index, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.label());
        }
    }
}

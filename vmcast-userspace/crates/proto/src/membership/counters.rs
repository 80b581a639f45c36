//! What was heard, said and refused.

use std::ops::AddAssign;

/// Why a message, or a part of one, was not acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// Cut short or of an impossible length.
    Malformed,
    /// The checksum does not match.
    BadChecksum,
    /// The type is not known.
    UnknownType,
    /// The time to live or hop limit is not 1, so it may have come from beyond the link.
    BadTtl,
    /// The source address belongs to no host of the link; of MLD it has to be link-local
    /// (RFC 9777 §5.1.14, §5.2.13).
    BadSource,
    /// The destination is neither what the message calls for nor our address.
    BadDestination,
    /// The Router Alert option is missing and required (RFC 9777 §7.4, §7.6).
    NoRouterAlert,
    /// An IGMP query without a source address takes no part in the election (RFC 4541 §2.1.1).
    QueryWithoutSource,
    /// A query that the link does not hear: a General Query that goes elsewhere than to all hosts, a specific one
    /// that goes elsewhere than to its group, or one whose frame was for us alone.
    UnheardQuery,
    /// A query from our own address.
    OwnQuery,
    /// A query from a router whose address is higher than ours: it is about to give way.
    HigherQuerier,
    /// A query from a router that may not be the querier here.
    QuerierNotAllowed,
    /// A query of version 1, which knows no election.
    QueryVersion1,
    /// A report of IGMPv3 or MLDv2 to a querier of an older version.
    ReportVersion3,
    /// The group is not a multicast address.
    NotMulticast,
    /// The group is never forwarded: of the local network control block (RFC 5771 §4), or of a scope
    /// that is reserved or not wider than the link (RFC 4291 §2.7).
    LinkLocalGroup,
    /// Hosts of this interface may not ask for the group.
    GroupNotAllowed,
    /// An older report or leave, or a record of EXCLUDE mode, of a source-specific group (RFC 4604
    /// §3.1, RFC 9776 §6.4, RFC 9777 §7.4).
    SourceSpecificGroup,
    /// A listed source belongs to no host.
    BadListedSource,
    /// A record type without a meaning.
    UnknownRecordType,
    /// A leave, BLOCK or source list while an older host is present (RFC 9776 §7.3.2, RFC 9777 §8.3.2).
    OlderHostPresent,
    /// A leave of a host whose address another one reports from as well, by another link-layer address: whichever spoke,
    /// the link is asked before anything ends.
    OtherLinkSource,
    /// A leave to a querier of version 1, which knows none (RFC 9776 §7.3.1).
    LeaveVersion1,
    /// The limit of groups is reached.
    TooManyGroups,
    /// The limit of sources of a group is reached.
    TooManySources,
    /// The limit of groups of the host is reached, or it cannot be told apart and there is a limit.
    TooManyGroupsOfHost,
}

impl Refusal {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 26] = [
        Self::Malformed,
        Self::BadChecksum,
        Self::UnknownType,
        Self::BadTtl,
        Self::BadSource,
        Self::BadDestination,
        Self::NoRouterAlert,
        Self::QueryWithoutSource,
        Self::UnheardQuery,
        Self::OwnQuery,
        Self::HigherQuerier,
        Self::QuerierNotAllowed,
        Self::QueryVersion1,
        Self::ReportVersion3,
        Self::NotMulticast,
        Self::LinkLocalGroup,
        Self::GroupNotAllowed,
        Self::SourceSpecificGroup,
        Self::BadListedSource,
        Self::UnknownRecordType,
        Self::OlderHostPresent,
        Self::OtherLinkSource,
        Self::LeaveVersion1,
        Self::TooManyGroups,
        Self::TooManySources,
        Self::TooManyGroupsOfHost,
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
            Self::UnheardQuery => "unheard_query",
            Self::OwnQuery => "own_query",
            Self::HigherQuerier => "higher_querier",
            Self::QuerierNotAllowed => "querier_not_allowed",
            Self::QueryVersion1 => "query_version_1",
            Self::ReportVersion3 => "report_version_3",
            Self::NotMulticast => "not_multicast",
            Self::LinkLocalGroup => "link_local_group",
            Self::GroupNotAllowed => "group_not_allowed",
            Self::SourceSpecificGroup => "source_specific_group",
            Self::BadListedSource => "bad_listed_source",
            Self::UnknownRecordType => "unknown_record_type",
            Self::OlderHostPresent => "older_host_present",
            Self::OtherLinkSource => "other_link_source",
            Self::LeaveVersion1 => "leave_version_1",
            Self::TooManyGroups => "too_many_groups",
            Self::TooManySources => "too_many_sources",
            Self::TooManyGroupsOfHost => "too_many_groups_of_host",
        }
    }
}

/// Counters of one querier since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Queries heard and accepted.
    pub queries_received: u64,
    /// Those of an older version than ours: a fault of configuration that is worth a warning
    /// (RFC 9776 §7.3.1, RFC 9777 §8.3.1).
    pub older_queries_received: u64,
    /// Those of a newer version than ours, the same fault seen from the other end.
    pub newer_queries_received: u64,
    /// Reports of any version heard and accepted.
    pub reports_received: u64,
    /// Leave Group or Done messages heard and accepted.
    pub leaves_received: u64,
    /// Queries sent.
    pub queries_sent: u64,
    /// Times that another querier was heard and then missed.
    pub queriers_missed: u64,
    /// Times that the link's members were left to another querier.
    pub handed_over: u64,
    refused: [u64; Refusal::ALL.len()],
}

impl AddAssign<&Self> for Counters {
    fn add_assign(&mut self, other: &Self) {
        let Self {
            queries_received,
            older_queries_received,
            newer_queries_received,
            reports_received,
            leaves_received,
            queries_sent,
            queriers_missed,
            handed_over,
            refused,
        } = other;
        for (own, more) in [
            (&mut self.queries_received, queries_received),
            (&mut self.older_queries_received, older_queries_received),
            (&mut self.newer_queries_received, newer_queries_received),
            (&mut self.reports_received, reports_received),
            (&mut self.leaves_received, leaves_received),
            (&mut self.queries_sent, queries_sent),
            (&mut self.queriers_missed, queriers_missed),
            (&mut self.handed_over, handed_over),
        ] {
            *own += more;
        }
        for (own, more) in self.refused.iter_mut().zip(refused) {
            *own += more;
        }
    }
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
    fn counts_are_added_one_by_one() {
        let mut total = Counters { queries_received: 1, handed_over: 8, ..Counters::default() };
        total.refuse(Refusal::BadTtl);
        let mut more = Counters {
            queries_received: 10,
            older_queries_received: 20,
            newer_queries_received: 30,
            reports_received: 40,
            leaves_received: 50,
            queries_sent: 60,
            queriers_missed: 70,
            handed_over: 80,
            ..Counters::default()
        };
        more.refuse_many(Refusal::BadTtl, 2);
        more.refuse(Refusal::TooManyGroups);
        total += &more;
        let expected = Counters { queries_received: 11, handed_over: 88, refused: total.refused, ..more };
        assert_eq!(total, expected);
        assert_eq!((total.refused(Refusal::BadTtl), total.refused(Refusal::TooManyGroups)), (3, 1));
        assert_eq!(total.refused.iter().sum::<u64>(), 4);
    }

    #[test]
    fn refusals_are_numbered_without_gap() {
        for (index, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.label());
        }
    }
}

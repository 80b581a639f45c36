//! What the DNS told of a source: the relays to try, in their order.

use std::net::{IpAddr, SocketAddr};

use vmcast_wire::amtrelay::{Name, Record, Relay};

use super::{
    config::Config,
    counters::Counters,
    input::Routes,
    order::{self, Rank},
    tunnel::Endpoint,
};
use crate::amt::gateway::Random;

/// Records that are considered of one source, and addresses. A name server may send hundreds.
const MAX: usize = 16;

/// A relay that a source may be had from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) precedence: u8,
    pub(super) endpoint: Endpoint,
    /// The name that has the address, if the record has a name.
    pub(super) name: Option<Name>,
    /// Where it stands among those of its precedence; `None` if no route leads there.
    pub(super) rank: Option<Rank>,
    /// Decides among equals.
    lot: u32,
}

impl Candidate {
    fn key(&self) -> (u8, bool, Option<Rank>, u32) {
        (self.precedence, self.rank.is_none(), self.rank, self.lot)
    }
}

/// A name to be resolved, with what its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: Name,
    pub(super) precedence: u8,
    pub(super) discovery_optional: bool,
}

/// The relays of a source.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    /// The best first.
    candidates: Vec<Candidate>,
    /// Whether a record says that no relay is to be used (type 0).
    pub(super) refuses: bool,
}

/// What is needed to take records and addresses up.
pub(super) struct Context<'a> {
    pub(super) config: &'a Config,
    pub(super) counters: &'a mut Counters,
    pub(super) random: &'a mut Random,
    pub(super) routes: &'a dyn Routes,
}

impl Records {
    /// Takes up an answer; returns the names in it, whose addresses are still to be had.
    ///
    /// A record of type 0 ends the list: it says that beyond its precedence no relay is to be used (RFC 8777 §4.2.4).
    pub(super) fn new(data: &[Vec<u8>], context: &mut Context<'_>) -> (Self, Vec<Named>) {
        let mut records = Vec::with_capacity(data.len().min(MAX));
        for data in data {
            match Record::parse(data) {
                Ok(Record { relay: Relay::Unknown(_), .. }) => context.counters.unknown_types += 1,
                Ok(record) => records.push(record),
                Err(_) => context.counters.malformed_records += 1,
            }
        }
        records.sort_by_key(|record| record.precedence);
        let end = records.iter().find(|record| record.relay == Relay::None).map(|record| record.precedence);
        records.retain(|record| end.is_none_or(|end| record.precedence <= end));
        context.counters.excess_records += records.len().saturating_sub(MAX) as u64;
        records.truncate(MAX);
        let mut result = Self { candidates: Vec::new(), refuses: end.is_some() };
        let mut names = Vec::new();
        for Record { precedence, discovery_optional, relay } in records {
            match relay {
                Relay::Address(address) => result.add(address, precedence, discovery_optional, None, context),
                Relay::Name(name) if name.is_root() => context.counters.unusable_relays += 1,
                Relay::Name(name) => names.push(Named { name, precedence, discovery_optional }),
                Relay::None | Relay::Unknown(_) => {}
            }
        }
        (result, names)
    }

    /// Takes up an address of a name: there is no difference to a record that has it itself (RFC 8777 §4.2.4).
    pub(super) fn add(
        &mut self,
        address: IpAddr,
        precedence: u8,
        discovery_optional: bool,
        name: Option<&Name>,
        context: &mut Context<'_>,
    ) {
        if !order::can_be_relay(address) {
            context.counters.unusable_relays += 1;
            return;
        }
        let endpoint =
            Endpoint { remote: SocketAddr::new(address, context.config.port), discover: !discovery_optional };
        if self
            .candidates
            .iter()
            .any(|candidate| candidate.endpoint == endpoint && candidate.precedence <= precedence)
        {
            return;
        }
        if self.candidates.len() >= MAX {
            context.counters.excess_records += 1;
            return;
        }
        let rank = context.routes.source(address).map(|source| order::rank(address, source));
        let lot = context.random.nonce();
        let candidate = Candidate { precedence, endpoint, name: name.cloned(), rank, lot };
        let at = self.candidates.partition_point(|other| other.key() <= candidate.key());
        self.candidates.insert(at, candidate);
    }

    /// The relays, the best first.
    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }
}

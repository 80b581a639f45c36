//! How many streams there are and on whose account: the data plane has room for so many, and nobody may take what
//! others would need.

use std::{collections::BTreeMap, net::IpAddr};

use vmcast_common::fib::{IfIndex, Stream};

use crate::{Filter, amt::relay::Prefix, share::share};

/// Whose reports make a stream: all that may come from one place counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// The hosts on the link of an interface.
    Interface(IfIndex),
    /// The gateways of a network.
    Network(Prefix),
}

/// Why a membership has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// There are as many streams as there may be.
    Full,
    /// What is left is for others.
    Share,
}

/// The streams that the data plane was told of, each with its account.
#[derive(Debug)]
pub(super) struct Shares {
    capacity: usize,
    /// On whose account streams are made now; `None` if nobody's, as what the operator states.
    account: Option<Account>,
    streams: BTreeMap<Stream, Option<Account>>,
    held: BTreeMap<Account, usize>,
    freed: bool,
}

impl Shares {
    pub(super) const fn new(capacity: usize) -> Self {
        Self { capacity, account: None, streams: BTreeMap::new(), held: BTreeMap::new(), freed: false }
    }

    /// From here on streams are made on this account.
    pub(super) const fn charge(&mut self, account: Option<Account>) {
        self.account = account;
    }

    /// A stream is set; a new one is charged.
    pub(super) fn set(&mut self, stream: Stream) {
        let account = self.account;
        self.streams.entry(stream).or_insert_with(|| {
            if let Some(account) = account {
                *self.held.entry(account).or_default() += 1;
            }
            account
        });
    }

    /// A stream ends.
    pub(super) fn remove(&mut self, stream: Stream) {
        let Some(account) = self.streams.remove(&stream) else { return };
        self.freed = true;
        if let Some(account) = account
            && let Some(held) = self.held.get_mut(&account)
        {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&account);
            }
        }
    }

    /// Whether a stream has ended since the last call.
    pub(super) const fn take_freed(&mut self) -> bool {
        std::mem::replace(&mut self.freed, false)
    }

    pub(super) fn contains(&self, stream: Stream) -> bool {
        self.streams.contains_key(&stream)
    }

    /// How many streams there are.
    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    /// How many an account has.
    pub(super) fn held(&self, account: Option<Account>) -> usize {
        account.and_then(|account| self.held.get(&account)).copied().unwrap_or(0)
    }

    /// Whether there is room for all the streams of a filter that do not exist.
    pub(super) fn room(
        &self,
        account: Option<Account>,
        group: IpAddr,
        wanted: &Filter,
    ) -> Result<(), NoRoom> {
        let missing = |source| !self.contains(Stream { source, group });
        let any_source = (matches!(wanted, Filter::Exclude(_)) && missing(None)).then_some(());
        let (Filter::Include(sources) | Filter::Exclude(sources)) = wanted;
        let of_sources = sources.iter().filter(|source| missing(Some(**source))).map(|_| ());
        let free = self.capacity.saturating_sub(self.len());
        let most = match account {
            Some(_) => share(free, self.held(account)),
            None => free,
        };
        // Nobody asks by how much a long list exceeds what there is.
        let new = any_source.into_iter().chain(of_sources).take(most + 1).count();
        if new <= most {
            Ok(())
        } else if new > free {
            Err(NoRoom::Full)
        } else {
            Err(NoRoom::Share)
        }
    }

    /// What of a filter can be had without a new stream, and gives the member nothing that it does not want, but for
    /// what it has already.
    pub(super) fn without_new(&self, group: IpAddr, old: &Filter, wanted: &Filter) -> Filter {
        let exists = |source: &IpAddr| self.contains(Stream { source: Some(*source), group });
        match (old, wanted) {
            (_, Filter::Include(sources)) => {
                Filter::Include(sources.iter().copied().filter(exists).collect())
            }
            (Filter::Exclude(_), Filter::Exclude(sources)) => {
                Filter::Exclude(sources.iter().copied().filter(exists).collect())
            }
            (Filter::Include(had), Filter::Exclude(sources)) => {
                Filter::Include(had.difference(sources).copied().filter(exists).collect())
            }
        }
    }
}

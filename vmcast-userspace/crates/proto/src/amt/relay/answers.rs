//! How often Requests and Relay Discoveries are answered.

use std::{net::IpAddr, time::Instant};

use super::{
    bucket::TokenBucket,
    config::Config,
    prefix::{Prefix, PrefixBuckets},
};

/// Of whom too many came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMany {
    /// Of one network.
    OfPrefix,
    /// Of all.
    InAll,
}

/// What is left of the answers of this second.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    all: TokenBucket,
    per_prefix: PrefixBuckets,
}

impl Answers {
    pub(super) fn new(now: Instant, config: &Config) -> Self {
        let per_prefix = config.answers_per_prefix_per_second;
        Self {
            all: TokenBucket::new(now, config.answers_per_second),
            per_prefix: PrefixBuckets::new(now, per_prefix, &config.secret_seed),
        }
    }

    /// Takes an answer to an address, if there is one. The limit of its network comes first, so that a flood from there
    /// takes nothing of the others' share.
    pub(super) fn take(&mut self, now: Instant, remote: IpAddr) -> Result<(), TooMany> {
        if !self.per_prefix.take(now, Prefix::of(remote)) {
            return Err(TooMany::OfPrefix);
        }
        if self.all.take(now) { Ok(()) } else { Err(TooMany::InAll) }
    }
}

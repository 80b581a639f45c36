//! What the operator is told of floods and of tables that are full.

use std::{net::IpAddr, time::Instant};

use vmcast_dataplane::shares::RelayCuts;
use vmcast_proto::{membership::Family, mrib::Account};

use super::Router;
use crate::{clock, router::interfaces::Unread};

impl Router {
    /// Says it if messages come faster than they are taken in.
    pub(super) fn tell_overrun(&mut self, now: Instant) {
        let of_links = Family::ALL.into_iter().map(|family| {
            let Unread { overrun, strangers, .. } = self.unread(family);
            overrun + strangers
        });
        let RelayCuts { source, strangers } = self.relay_cuts();
        let overrun = of_links.sum::<u64>() + self.overrun() + source + strangers;
        if overrun > self.overrun_told
            && let Some(held_back) = self.warnings.admit(now)
        {
            let dropped = overrun - self.overrun_told;
            tracing::warn!(
                dropped,
                held_back,
                "a flood: messages come faster than they are taken in, the rest is dropped"
            );
            self.overrun_told = overrun;
        }
    }

    /// Says who waits for room, and for which.
    pub(super) fn tell_no_room(
        &mut self,
        group: IpAddr,
        account: Option<Account>,
        held: usize,
        streams: usize,
    ) {
        let Some(held_back) = self.warnings.admit(clock::now()) else {
            return;
        };
        let limit = self.config.dataplane.max_streams;
        let whose = match account {
            Some(Account::Interface(ifindex)) => match self.interfaces.get(&ifindex) {
                Some(attached) => format!("interface {}", attached.name),
                None => format!("interface #{}", ifindex.0),
            },
            Some(Account::Network(network)) => format!("network {network}"),
            None => "the configuration".to_owned(),
        };
        tracing::error!(
            %group,
            whose,
            held,
            streams,
            held_back,
            "no room for a stream, as dataplane.max_streams = {limit} says: the join waits until others end; \
             whoever holds many leaves the last ones to others"
        );
    }
}

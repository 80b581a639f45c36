//! Taking up what the interfaces are now, and who listens on them.

use std::{net::IpAddr, time::Instant};

use anyhow::Context as _;
use vmcast_common::fib::{IfIndex, Interface};
use vmcast_proto::membership::Family;

use super::{Router, begin::relay_addresses};
use crate::{
    clock,
    router::{
        about::source_prefixes,
        core::Core,
        interfaces::{self, Present, Wanted},
        listening,
        not_taken::News,
    },
    sockets::Listeners,
};

impl Router {
    /// Adopts what the interfaces are now, and the addresses that come with them.
    pub(super) fn on_interfaces(&mut self, now: Instant, present: Present) {
        let session_ways = present.session_ways();
        let gone = self.interfaces.iter().filter(|(_, attached)| present.has_lost(&attached.interface));
        let gone: Vec<IfIndex> = gone.map(|(ifindex, _)| *ifindex).collect();
        let wanted = present.wanted;
        for ifindex in gone {
            if let Some(attached) = self.interfaces.remove(&ifindex) {
                tracing::warn!(iface = attached.name, "interface gone");
                for family in Family::ALL {
                    *self.unread_before.entry(family).or_default() += attached.unread(family);
                }
            }
            self.core.remove_interface(now, ifindex);
        }
        let turned = |wanted: &Wanted| {
            let attached = self.interfaces.get(&wanted.link.ifindex);
            attached.is_some_and(|attached| attached.link.up != wanted.link.up)
        };
        let has_turned = wanted.iter().any(turned);
        for wanted in &wanted {
            self.adopt_interface(now, wanted);
        }
        if has_turned {
            // Members behind one that was set down or up are served otherwise.
            self.refresh_plane();
        }
        self.next_hops.sessions(session_ways);
        self.follow_addresses(&relay_addresses(&self.config, &wanted));
        if let Some(attachment) = &self.attachment {
            attachment.has_sources(source_prefixes(&wanted));
        }
        self.unicast.follow(&mut self.core);
        self.pursuit.hurry(now);
        self.hurry_relays(now);
    }

    /// Takes tunnels where our addresses are now.
    fn follow_addresses(&mut self, addresses: &[IpAddr]) {
        let moves = self.relays.follow(addresses, &self.events);
        for (local, error) in &moves.refused {
            tracing::warn!(%local, %error, "tunnels cannot be taken here");
        }
        if moves.added.is_empty() && moves.removed.is_empty() {
            return;
        }
        for endpoint in moves.removed {
            self.core.remove_endpoint(clock::now(), endpoint);
        }
        for endpoint in moves.added {
            self.core.add_endpoint(clock::now(), endpoint);
        }
        self.core.advertise(clock::now(), addresses.to_vec());
        self.report_endpoints();
        if let Some(attachment) = &self.attachment {
            attachment.moved(self.relays.endpoints());
        }
    }

    fn adopt_interface(&mut self, now: Instant, wanted: &Wanted) {
        let ifindex = wanted.link.ifindex;
        let listened = self.interfaces.get(&ifindex).is_some_and(|attached| attached.listened);
        let interface = Interface { shared: wanted.interface.shared || listened, ..wanted.interface };
        match self.interfaces.get_mut(&ifindex) {
            Some(attached) if attached.link == wanted.link && attached.interface == interface => return,
            Some(attached) => {
                attached.link = wanted.link.clone();
                attached.interface = interface;
                attached.bridged = wanted.interface.shared;
            }
            None => match interfaces::attach(wanted, self.shares.as_ref(), &self.events) {
                Ok(attached) => {
                    self.interfaces.insert(ifindex, attached);
                }
                Err(error) => {
                    tracing::warn!(iface = wanted.link.name, "interface cannot be used: {error:#}");
                    return;
                }
            },
        }
        if let Err(error) = set_interface(&mut self.core, now, wanted, interface) {
            tracing::warn!("interface cannot be used: {error:#}");
        }
    }

    /// Lets the data plane look at its devices anew.
    pub(in crate::router) fn refresh_plane(&mut self) {
        if let Err(error) = self.plane.refresh() {
            tracing::error!("{error:#}");
        }
    }

    /// Tells the operator what the data plane says of an interface.
    pub(super) fn tell_of_interface(&mut self, news: News) {
        match news {
            News::Refused(ifindex) => {
                let Some(attached) = self.interfaces.get_mut(&ifindex) else { return };
                attached.in_use = false;
                let reason = self.not_taken.why(ifindex).unwrap_or_default();
                tracing::error!(
                    iface = attached.name,
                    reason,
                    "the data plane does not take the interface: nothing comes in or leaves by it until there is room"
                );
            }
            News::Taken(ifindex) => {
                let Some(attached) = self.interfaces.get_mut(&ifindex) else { return };
                if !std::mem::replace(&mut attached.in_use, true) {
                    tracing::info!(iface = attached.name, "interface in use");
                }
            }
            News::Room => self.backlog.hurry(clock::now()),
        }
    }

    /// Lets the data plane share with the host what comes in where others on it listen, too.
    pub(super) fn hear_listeners(&mut self) {
        let listeners = match Listeners::read() {
            Ok(listeners) => listeners,
            Err(error) => {
                tracing::debug!(%error, "who listens on this host cannot be read");
                return;
            }
        };
        listening::heed(&listeners, &mut self.interfaces, &mut self.core);
    }
}

pub(super) fn set_interface(
    core: &mut Core,
    now: Instant,
    wanted: &Wanted,
    interface: Interface,
) -> anyhow::Result<()> {
    core.stated.add_interface(&wanted.link.name, wanted.link.ifindex);
    core.set_interface(now, interface, &wanted.addresses, wanted.queriers.clone())
        .with_context(|| format!("IGMP and MLD on {}", wanted.link.name))
}

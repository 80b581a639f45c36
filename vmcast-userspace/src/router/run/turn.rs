//! Turning to whoever is to be the upstream.

use std::net::{IpAddr, SocketAddr};

use tokio::sync::mpsc;

use super::{Event, Router};
use crate::{
    clock,
    config::{Remote, Upstream},
    link::{NamedVmr, Naming},
    relays::Service,
    resolver::Resolver,
    router::{
        endpoints::{self, Reading},
        pursuit::{Named, Present, Step},
        upstream::State,
    },
    sockets::source_towards,
};

impl Router {
    /// Follows who the upstream is, where somebody else names it.
    pub(super) fn watch_upstream(&self) -> Option<Naming> {
        match self.config.upstream.upstream() {
            Upstream::None => None,
            Upstream::Admin(fallback) => {
                let node = self.config.node_id();
                self.attachment.as_ref().map(|attachment| attachment.naming(fallback, node.as_str()))
            }
            Upstream::Static(Remote::Address(address)) => {
                // Before anybody listens there is room.
                let _ = self.events.try_send(Event::StaticUpstream(vec![address]));
                None
            }
            Upstream::Static(Remote::Name(host, port)) => {
                tokio::spawn(resolve(Resolver::start(host, port), self.events.clone()));
                None
            }
            Upstream::DnsSd(domain, dns) => {
                let service = Service::new(domain, &dns, self.config.node_id().as_str());
                tokio::spawn(resolve(Resolver::of_service(service), self.events.clone()));
                None
            }
        }
    }

    pub(super) fn on_vmrs(&mut self, vmrs: Vec<NamedVmr>) {
        if vmrs.is_empty() {
            tracing::warn!("the admin knows no VMR that is nearer to the source");
        }
        let named = |NamedVmr { endpoint, id: _, name, stands_in }| Named { endpoint, name, stands_in };
        let named: Vec<_> = vmrs.into_iter().map(named).collect();
        self.core.set_another_upstream(named.len() > 1);
        self.pursuit.name(clock::now(), named);
    }

    /// Sees to it that the upstream is one of those that were named, from the address that leads there.
    pub(super) fn pursue(&mut self) {
        let now = clock::now();
        // Who is being turned to is in use already, as far as that goes.
        let present = self.core.upstreams().last().map(|upstream| {
            let down = upstream.state == State::Down;
            let last = [&self.next_upstream_named, &self.upstream_named].into_iter().flatten();
            let said = last.into_iter().find(|said| said.endpoint == upstream.named);
            let stands_in = said.and_then(|said| said.stands_in);
            Present { local: upstream.local.ip(), named: upstream.named, down, stands_in }
        });
        match self.pursuit.look(now, present, source_towards) {
            Step::Wait => {}
            Step::Keep(named) if self.core.successor.is_some() => self.next_upstream_named = Some(named),
            Step::Keep(named) => self.upstream_named = Some(named),
            Step::Leave => self.leave_upstream(),
            Step::Turn(named, local) => self.use_upstream(named, local),
            Step::NoRoute => {
                if let Some(held_back) = self.warnings.admit(now) {
                    tracing::warn!(held_back, "no route leads to the upstream; will look again");
                }
            }
        }
    }

    /// Turns to another upstream, or to another address of ours, with a socket of its own. One that serves is left when
    /// the streams come from the other.
    fn use_upstream(&mut self, upstream: Named, local: IpAddr) {
        let Named { endpoint, name, .. } = upstream.clone();
        self.core.discover(self.config.upstream.discovers(upstream.stands_in));
        let serves = self.core.has_serving_upstream();
        let present = self.core.upstream.as_ref().map(|present| (present.named, present.local.ip()));
        if serves && present == Some((endpoint, local)) {
            self.core.drop_successor(clock::now());
            self.carry_out_all();
            (self.next_gateway, self.upstream_named) = (None, Some(upstream));
            return;
        }
        let gateway = match endpoints::open_gateway(SocketAddr::new(local, 0), &self.events) {
            Ok(gateway) => gateway,
            Err(error) => {
                tracing::warn!(upstream = %endpoint, "the upstream cannot be used: {error:#}");
                self.pursuit.failed(clock::now());
                return;
            }
        };
        let local = gateway.local();
        // At another address of ours there is nothing to wait for: the one before is gone.
        if serves && present.is_some_and(|(named, _)| named != endpoint) {
            tracing::info!(upstream = %endpoint, name, %local, "turning to another upstream beside the present one");
            self.core.drop_successor(clock::now());
            self.carry_out_all();
            (self.next_gateway, self.next_upstream_named) = (Some(gateway), Some(upstream));
            self.core.set_successor(clock::now(), local, endpoint);
            self.core.handle_timeout(clock::now());
            return;
        }
        tracing::info!(upstream = %endpoint, name, %local, "streams come from here");
        self.upstream_named = Some(upstream);
        self.set_upstream(Some((local, endpoint)), Some(gateway));
    }

    fn leave_upstream(&mut self) {
        self.upstream_named = None;
        if self.core.upstream.is_some() {
            tracing::info!("streams come from no upstream");
            self.set_upstream(None, None);
        }
    }

    fn set_upstream(&mut self, ends: Option<(SocketAddr, SocketAddr)>, gateway: Option<Reading>) {
        self.core.set_upstream(clock::now(), ends);
        // What is still to be said to the old upstream leaves by the old socket, or if its address is gone by the new one.
        self.next_gateway = gateway;
        self.carry_out_all();
        self.gateway = self.next_gateway.take();
        self.core.handle_timeout(clock::now());
    }

    /// Lets streams that both upstreams send come from the other one, each at a moment at which that loses and doubles
    /// nothing.
    pub(super) fn look_at_overlaps(&mut self) {
        for stream in self.core.overlapping(clock::now()) {
            let before = match self.plane.stream_counters(stream) {
                Ok(before) => before,
                Err(error) => {
                    tracing::debug!(%error, %stream, "not known by which way a stream comes");
                    continue;
                }
            };
            if self.core.overlap(clock::now(), stream, before.as_ref()) {
                self.carry_out_all();
                if let (Some(before), Ok(Some(after))) = (before, self.plane.stream_counters(stream)) {
                    self.core.note_move([before, after]);
                }
            }
        }
        self.core.finish_change_over(clock::now());
    }

    pub(super) fn on_changed_over(&mut self) {
        self.gateway = self.next_gateway.take();
        self.upstream_named = self.next_upstream_named.take();
        let upstream = self.core.upstream.as_ref().map(|upstream| upstream.named);
        let name = self.upstream_named.as_ref().and_then(|named| named.name.as_deref());
        tracing::info!(?upstream, name, moves = ?self.core.moves, "every stream comes from here now");
    }

    pub(super) fn on_upstream_down(&mut self, named: SocketAddr, reason: &'static str) {
        if reason == "stopped" {
            return;
        }
        tracing::warn!(upstream = %named, reason, "upstream does not serve");
        self.pursuit.hurry(clock::now());
        let Some(attachment) = &self.attachment else {
            return;
        };
        let dead = attachment
            .upstreams()
            .borrow()
            .as_ref()
            .and_then(|vmrs| vmrs.vmrs.iter().find(|vmr| vmr.endpoint == named))
            .map(|vmr| vmr.id.clone());
        if let Some(dead) = dead {
            attachment.vmr_dead(dead, named);
        }
    }
}

/// Tells what a name of the configuration stands for, with every change.
async fn resolve(mut resolver: Resolver, events: mpsc::Sender<Event>) {
    // Only a router that has ended does not listen.
    while events.send(Event::StaticUpstream(resolver.changed().await)).await.is_ok() {}
}

//! What each machine has said goes to the next, until all are quiet.

use std::{net::IpAddr, time::Instant};

use vmcast_common::fib::{FibOp, IfIndex, Output};
use vmcast_proto::{
    Filter, Machine as _,
    amt::{discovery, relay},
    membership::{self, Family},
    mrib,
};

use super::{Core, Effect, Input};
use crate::router::{
    tunnels::{self, tunnel_id},
    upstream::{self, Upstream},
};

impl Core {
    /// Passes the outputs of each machine on until none has any left.
    pub(in crate::router) fn settle(&mut self, now: Instant) {
        loop {
            let before = self.effects.len();
            let mut moved = self.drain_relay(now);
            moved |= std::mem::take(&mut self.queriers_acted) && self.drain_queriers(now);
            moved |= self.drain_mrib(now);
            moved |= self.drain_relays(now);
            if let Some(mut upstream) = self.upstream.take() {
                self.drain_upstream(now, &mut upstream);
                self.upstream = Some(upstream);
            }
            if let Some(mut successor) = self.successor.take() {
                self.drain_successor(now, &mut successor);
                self.successor = Some(successor);
            }
            if !moved && self.effects.len() == before {
                return;
            }
        }
    }

    fn drain_relay(&mut self, now: Instant) -> bool {
        let mut moved = false;
        let mut effects = std::mem::take(&mut self.tunnel_effects);
        while let Some(output) = self.relay.poll_output() {
            moved = true;
            match output {
                relay::Output::Transmit { local, remote, bytes } => {
                    self.effects.push_back(Effect::SendRelay { local, remote, bytes });
                }
                relay::Output::Event(relay::Event::TunnelUp { id, local, remote, ecn }) => {
                    tracing::debug!(id, %local, %remote, "tunnel up");
                    self.effects.push_back(Effect::Tunnel { gateway: remote.ip(), is_up: true });
                    self.tunnels.up(id, local, remote, ecn, &mut effects);
                }
                relay::Output::Event(relay::Event::Ecn { id, ecn }) => {
                    if let Some((local, remote, _)) = self.relay.ends(id) {
                        self.tunnels.ecn(id, local, remote, ecn, &mut effects);
                    }
                }
                relay::Output::Event(relay::Event::Membership { id, group, filter }) => {
                    self.tunnels.membership(id, group, filter, &mut effects);
                }
                relay::Output::Event(relay::Event::TunnelDown { id, remote, reason }) => {
                    tracing::debug!(id, %remote, reason = reason.label(), "tunnel down");
                    self.effects.push_back(Effect::Tunnel { gateway: remote.ip(), is_up: false });
                    self.tunnels.down(id, remote.ip(), &mut effects);
                    self.policed.tunnel_down(remote);
                }
            }
            self.carry_out(now, &mut effects);
        }
        self.tunnel_effects = effects;
        moved
    }

    pub(super) fn carry_out(&mut self, now: Instant, effects: &mut Vec<tunnels::Effect>) {
        for effect in effects.drain(..) {
            match effect {
                tunnels::Effect::Fib(op) => {
                    if let FibOp::RemoveNextHop(id) = op {
                        self.next_hops.remove(&id);
                    }
                    // Members go before the tunnel they are behind.
                    self.drain_mrib(now);
                    self.effects.push_back(Effect::Fib(op));
                }
                tunnels::Effect::Membership { id, group, filter } => {
                    let member = Output::Tunnel(tunnel_id(id));
                    self.want(now, member, group, filter);
                }
                tunnels::Effect::Watch(address) => self.effects.push_back(Effect::Watch(address)),
                tunnels::Effect::Unwatch(address) => self.effects.push_back(Effect::Unwatch(address)),
            }
        }
    }

    fn drain_queriers(&mut self, now: Instant) -> bool {
        let mut moved = false;
        // Of several routers on a link only the querier forwards, so that packets come once (RFC 4605 §4.2): as soon as
        // it is sure that there is one.
        let mut memberships = Vec::new();
        for (&ifindex, state) in &mut self.interfaces {
            let beside_querier = state.beside_querier;
            for querier in state.queriers.values_mut() {
                while let Some(output) = querier.poll_output() {
                    moved = true;
                    match output {
                        membership::Output::Transmit { source, destination, payload: message } => {
                            let effect = Effect::SendMembership { ifindex, source, destination, message };
                            self.effects.push_back(effect);
                        }
                        membership::Output::Event(membership::Event::Membership { group, filter }) => {
                            if beside_querier || querier.serves() || filter.is_none() {
                                memberships.push((ifindex, group, filter));
                            }
                        }
                        membership::Output::Event(membership::Event::QuerierChanged { querier: elected }) => {
                            state.news.elected(now, ifindex, elected);
                        }
                        membership::Output::Event(membership::Event::Serving { serving }) => {
                            let serves = beside_querier || serving;
                            if serving {
                                tracing::info!(
                                    ?ifindex,
                                    "the other querier is silent; members are served from here"
                                );
                            } else {
                                let querier = querier.querier();
                                tracing::info!(?ifindex, ?querier, serves, "members are left to the querier");
                            }
                            let groups: Vec<_> = querier.groups(now).map(|info| info.group).collect();
                            memberships.extend(groups.into_iter().map(|group| {
                                let filter = if serves { querier.filter(group) } else { Filter::none() };
                                (ifindex, group, filter)
                            }));
                        }
                        membership::Output::Event(membership::Event::QuerierNotAllowed { router }) => {
                            tracing::warn!(
                                ?ifindex,
                                %router,
                                protocol = Family::of(router).protocol(),
                                "a router asks that `queriers` does not list; it is not heard"
                            );
                        }
                        membership::Output::Event(membership::Event::OtherVersion { router, version }) => {
                            let family = Family::of(router);
                            tracing::warn!(
                                ?ifindex,
                                %router,
                                protocol = family.protocol(),
                                version = version.number(family),
                                ours = querier.config().version.number(family),
                                "another router asks in another version; all of a network have to speak the same"
                            );
                        }
                    }
                }
            }
        }
        for (ifindex, group, filter) in memberships {
            let member = Output::Interface(ifindex);
            self.want(now, member, group, filter);
        }
        moved
    }

    pub(super) fn drain_mrib(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while let Some(output) = self.mrib.poll_output() {
            moved = true;
            match output {
                mrib::Output::Fib(op) => {
                    let shared = self.heard.ahead_of(&op);
                    let priority = self.priorities.behind(&op);
                    let ops = shared.into_iter().chain([op]).chain(priority);
                    self.effects.extend(ops.map(Effect::Fib));
                }
                mrib::Output::Interest { group, filter } => self.ask_for(now, group, &filter),
                mrib::Output::Event(mrib::Event::MembershipChanged { group, member, old, new }) => {
                    self.effects.push_back(Effect::MembershipChanged { group, member, old, new });
                }
                mrib::Output::Event(mrib::Event::NoRoom { group, account, held, streams, .. }) => {
                    self.effects.push_back(Effect::NoRoom { group, account, held, streams });
                }
                mrib::Output::Event(mrib::Event::SourceLearnt { stream, .. }) => {
                    self.news.new_source(now, stream);
                }
                mrib::Output::Event(mrib::Event::AnySourceClosed { group }) => {
                    self.news.closed(now, group);
                }
                mrib::Output::Event(mrib::Event::SourceSilent { stream }) => {
                    self.news.source_silent(now, stream);
                }
            }
        }
        moved
    }

    /// Asks for a group wherever it may come from.
    pub(super) fn ask_for(&mut self, now: Instant, group: IpAddr, filter: &Filter) {
        self.ask_above(now, group, filter);
        let accepting = self.interfaces.iter().filter(|(_, state)| state.interface.accepts_sources);
        let accepting: Vec<IfIndex> = accepting.map(|(ifindex, _)| *ifindex).collect();
        for ifindex in accepting {
            self.host_membership(ifindex, group, filter);
        }
    }

    pub(super) fn host_membership(&mut self, ifindex: IfIndex, group: IpAddr, filter: &Filter) {
        let filter = self.stated.asked_for(group, filter, Input::Interface(ifindex));
        self.effects.push_back(Effect::HostMembership { ifindex, group, filter });
    }

    pub(in crate::router) fn drain_upstream(&mut self, now: Instant, upstream: &mut Upstream) {
        let mut effects = Vec::new();
        upstream.poll(now, &mut effects);
        let (local, named) = (upstream.local, upstream.named);
        for effect in &effects {
            match effect {
                upstream::Effect::Up(relay) => {
                    self.discover_with(now, discovery::Input::SetDefault(Some(*relay)));
                }
                upstream::Effect::Down(_) => self.discover_with(now, discovery::Input::SetDefault(None)),
                upstream::Effect::Transmit { .. }
                | upstream::Effect::Fib(_)
                | upstream::Effect::DataAtSocket => {}
            }
        }
        self.effects.extend(effects.into_iter().filter_map(|effect| match effect {
            upstream::Effect::Transmit { remote, bytes } => {
                Some(Effect::SendGateway { local, remote, bytes })
            }
            upstream::Effect::Fib(op) => Some(Effect::Fib(op)),
            upstream::Effect::Up(relay) => Some(Effect::UpstreamUp(relay)),
            upstream::Effect::Down(reason) => Some(Effect::UpstreamDown { named, reason }),
            upstream::Effect::DataAtSocket => {
                self.data_at_socket += 1;
                None
            }
        }));
    }
}

//! What the admin orders: probes of those who look for the nearest VMR, and the end of service.

use std::{net::SocketAddr, path::Path, time::Instant};

use tokio::sync::{mpsc, watch};
use vmcast_signal::v1;
use vmcast_wire::amt::Message;

use super::Router;
use crate::{
    clock,
    config::UpstreamFrom,
    link::{RefusedGroups, RefusedQuestion, VmrOrder},
    router::refused::Missing,
};

/// Joins that an admin is told of.
const MOST_REFUSED: usize = 512;

impl Router {
    /// Whoever discovers us may be about to be probed, or is the admin that proves where we are.
    pub(super) fn note_discovery(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) {
        if let Some(attachment) = &self.attachment
            && let Ok(Message::RelayDiscovery { nonce }) = Message::parse(bytes)
        {
            attachment.discovered(nonce);
            self.volley.on_discovery(now, local, remote, nonce);
        }
    }

    pub(super) fn on_order(&mut self, order: VmrOrder) {
        match order {
            VmrOrder::Probe(order, at) => {
                self.volley.on_order(at.into_std(), order);
                self.probe();
            }
            VmrOrder::Policy(policy) => {
                let version = policy.version;
                let at_work = self.core.policed.policy().version;
                if version < at_work && self.core.policed.is_news(&policy) {
                    let remedy = remedy(self.kept_policy.path());
                    tracing::warn!(
                        version,
                        at_work,
                        "an admin tells an older policy than the one at work, whose rules stay; if the admin's are right \
                         and remain the older after a change of them, {remedy}"
                    );
                }
                if self.core.take_policy(clock::now(), policy) {
                    let version = self.core.policed.policy().version;
                    tracing::info!(version, "the policy has changed, or where a node is that it names");
                    if let Err(error) = self.kept_policy.keep(self.core.policed.policy()) {
                        tracing::error!(%error, "the policy cannot be kept for a start without an admin");
                    }
                }
            }
            VmrOrder::Going(vmr) => {
                if let Some(attachment) = &self.attachment {
                    attachment.vmr_going(vmr);
                }
            }
            VmrOrder::Draining(draining) => {
                if self.core.relay.set_draining(draining) {
                    tracing::info!(draining, "the operator has changed whether this VMR takes new members");
                }
            }
        }
    }

    /// Tells the admins which joins are refused that came by tunnels: they tell those who made them.
    pub(super) fn tell_refused(&mut self) {
        let Some(attachment) = &self.attachment else { return };
        let above = !self.core.refused_above().is_empty();
        if self.core.policed.take_changed() || above || self.told_above {
            let joins = self.core.refused_joins().chain(self.core.joins_refused_above());
            attachment.refuses(v1::RefusedJoins { joins: joins.take(MOST_REFUSED).collect() });
            self.told_above = above;
        }
    }

    /// Lets the admin be asked why something does not come from the upstream, if that was named by it.
    pub(super) fn ask_refused(&self, now: Instant) {
        let (Some(attachment), UpstreamFrom::Admin) = (&self.attachment, self.config.upstream.from) else {
            return;
        };
        let question = self.core.missing(now).and_then(|Missing { named, tunnel, groups }| {
            let ranked = attachment.upstreams();
            let ranked = ranked.borrow();
            let vmr = ranked.iter().flat_map(|ranked| &ranked.vmrs).find(|vmr| vmr.endpoint == named)?;
            Some(RefusedQuestion { vmr: vmr.id.clone(), tunnel, missing: groups })
        });
        attachment.ask_refused(question);
    }

    /// Tells the admin where our ends of the tunnels are to VMRs that it has named.
    pub(super) fn tell_own_tunnels(&self) {
        let (Some(attachment), UpstreamFrom::Admin) = (&self.attachment, self.config.upstream.from) else {
            return;
        };
        let ranked = attachment.upstreams();
        let ranked = ranked.borrow();
        let own = self.core.upstreams().filter_map(|upstream| {
            let mut vmrs = ranked.iter().flat_map(|ranked| &ranked.vmrs);
            let vmr = vmrs.find(|vmr| vmr.endpoint == upstream.named)?;
            upstream.own_tunnel(vmr.id.clone())
        });
        attachment.at(own.collect());
    }

    /// Lets the probes leave that are due.
    pub(super) fn probe(&mut self) {
        self.volley.handle_timeout(clock::now());
        while let Some(probe) = self.volley.poll_probe() {
            self.unsent += self.relays.send(probe.local, &[(probe.remote, &probe.bytes)]) as u64;
        }
    }
}

/// What lets a router take any policy.
fn remedy(kept: Option<&Path>) -> String {
    match kept {
        Some(kept) => format!("remove {}, in which the policy is kept, and restart", kept.display()),
        None => "restart".to_owned(),
    }
}

/// What the upstream refuses now; never without an admin.
pub(super) async fn refused(groups: &mut Option<watch::Receiver<RefusedGroups>>) -> RefusedGroups {
    if let Some(receiver) = groups {
        if receiver.changed().await.is_ok() {
            return receiver.borrow_and_update().clone();
        }
        *groups = None;
    }
    std::future::pending().await
}

/// The next order; never without a line.
pub(super) async fn next(orders: &mut Option<mpsc::Receiver<VmrOrder>>) -> VmrOrder {
    if let Some(receiver) = orders {
        if let Some(order) = receiver.recv().await {
            return order;
        }
        *orders = None;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_no_policy_is_told_of_no_file() {
        assert_eq!(remedy(None), "restart");
        assert!(remedy(Some(Path::new("/x/policy"))).starts_with("remove /x/policy, "));
    }
}

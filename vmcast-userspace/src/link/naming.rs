//! Who names the upstream: an admin, or who stands in for it while none answers.

use std::net::SocketAddr;

use tokio::sync::watch;
use vmcast_api::StandIn;
use vmcast_proto::registry::NodeId;

use super::{LinkState, LinkStatus, RankedVmrs};
use crate::{
    config::{Fallback, Remote},
    relays::Service,
    resolver::Resolver,
};

/// A VMR that may be the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedVmr {
    /// Where its relay is reached.
    pub(crate) endpoint: SocketAddr,
    /// Its identity at the admin, if that named it.
    pub(crate) id: Option<NodeId>,
    /// What people call it.
    pub(crate) name: Option<String>,
    /// Who has named it, if no admin has.
    pub(crate) stands_in: Option<StandIn>,
}

/// One way to the fallback.
enum Way {
    Address(SocketAddr),
    /// What it last resolved to.
    Name(Resolver, Vec<SocketAddr>),
}

impl Way {
    fn named(&self) -> Vec<NamedVmr> {
        let vmr = |endpoint: &SocketAddr, name: Option<&str>| NamedVmr {
            endpoint: *endpoint,
            id: None,
            name: name.map(str::to_owned),
            stands_in: Some(StandIn::Fallback),
        };
        match self {
            Self::Address(address) => vec![vmr(address, None)],
            Self::Name(resolver, found) => found.iter().map(|at| vmr(at, Some(resolver.host()))).collect(),
        }
    }
}

/// The VMRs that may be the upstream, by whoever names them now.
///
/// The fallback stands behind what an admin has named for as long as no admin answers, or the one that does refuses this
/// node without shutting it out, and is all there is where none has named a VMR.
pub(crate) struct Naming {
    ranked: watch::Receiver<Option<RankedVmrs>>,
    status: watch::Receiver<LinkStatus>,
    fallback: Fallback,
    /// This node, for its choice among relays of equal priority.
    node: String,
    /// Nothing is resolved before it is needed.
    ways: Option<Vec<Way>>,
    last: Option<Vec<NamedVmr>>,
}

impl Naming {
    /// Follows the link of a node to the admin.
    pub(crate) const fn new(
        ranked: watch::Receiver<Option<RankedVmrs>>,
        status: watch::Receiver<LinkStatus>,
        fallback: Fallback,
        node: String,
    ) -> Self {
        Self { ranked, status, fallback, node, ways: None, last: None }
    }

    /// Waits for VMRs, the best first, that differ from those before. Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) -> Vec<NamedVmr> {
        loop {
            let named = self.named();
            if named.is_some() && named != self.last {
                self.last.clone_from(&named);
                return named.unwrap_or_default();
            }
            tokio::select! {
                Ok(()) = self.ranked.changed() => {}
                Ok(()) = self.status.changed() => {}
                (at, found) = resolved(&mut self.ways) => {
                    if let Some(Way::Name(_, known)) = self.ways.iter_mut().flatten().nth(at) {
                        *known = found;
                    }
                }
                else => return std::future::pending().await,
            }
        }
    }

    /// Who may be the upstream now; `None` while that is not known.
    fn named(&mut self) -> Option<Vec<NamedVmr>> {
        let (is_lost, is_shut_out) = match self.status.borrow_and_update().state {
            LinkState::Lost { .. } | LinkState::Refused { shut_out: false, .. } => (true, false),
            LinkState::Refused { shut_out: true, .. } => (false, true),
            LinkState::Connecting | LinkState::Registered { .. } => (false, false),
        };
        let listed: Option<Vec<NamedVmr>> = self.ranked.borrow_and_update().as_ref().map(|ranked| {
            let stands_in = ranked.kept.then_some(StandIn::Kept);
            let named = |vmr: &super::RankedVmr| NamedVmr {
                endpoint: vmr.endpoint,
                id: Some(vmr.id.clone()),
                name: Some(vmr.name.clone()),
                stands_in,
            };
            ranked.vmrs.iter().map(named).collect()
        });
        let is_answered = listed.is_some();
        let mut named = listed.unwrap_or_default();
        if is_lost || is_answered && named.is_empty() {
            let known: Vec<_> = named.iter().map(|vmr| vmr.endpoint).collect();
            let fallback = self.ways().iter().flat_map(Way::named);
            named.extend(fallback.filter(|vmr| !known.contains(&vmr.endpoint)));
        }
        // Of what stood in for an admin nothing is left once there is one that has shut this node out.
        let is_withdrawn = is_shut_out && self.last.as_ref().is_some_and(|last| !last.is_empty());
        (is_answered || is_withdrawn || !named.is_empty()).then_some(named)
    }

    fn ways(&mut self) -> &[Way] {
        let (Fallback { address, domain }, node) = (&self.fallback, &self.node);
        self.ways.get_or_insert_with(|| {
            let by_address = address.iter().map(|remote| match remote {
                Remote::Address(address) => Way::Address(*address),
                Remote::Name(host, port) => Way::Name(Resolver::start(host.clone(), *port), Vec::new()),
            });
            let by_domain = domain.iter().map(|(domain, dns)| {
                let service = Service::new(Some(domain.clone()), dns, node);
                Way::Name(Resolver::of_service(service), Vec::new())
            });
            by_address.chain(by_domain).collect()
        })
    }
}

/// The next name that resolves to something else, by its place; never without one.
async fn resolved(ways: &mut Option<Vec<Way>>) -> (usize, Vec<SocketAddr>) {
    let waiting = ways.iter_mut().flatten().enumerate().filter_map(|(at, way)| match way {
        Way::Address(_) => None,
        Way::Name(resolver, _) => Some(Box::pin(async move { (at, resolver.changed().await) })),
    });
    let waiting: Vec<_> = waiting.collect();
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(waiting).await.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, timeout};
    use vmcast_proto::registry::AnswerKind;

    use super::{super::RankedVmr, *};

    /// A test that waits longer than this hangs; nothing is measured by it.
    const HANG: Duration = Duration::from_secs(60);

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn refused(shut_out: bool) -> LinkState {
        LinkState::Refused { admin: "https://a:8443".to_owned(), reason: "no".to_owned(), shut_out }
    }

    // proves A2: who is full, or knows a lease that has not run out, cuts no stream
    #[tokio::test]
    async fn the_fallback_goes_when_an_admin_shuts_the_node_out_and_for_no_other_refusal() {
        let (kept, fallback) = (at("192.0.2.1:2268"), at("192.0.2.2:2268"));
        let lost = || LinkState::Lost { reason: "nobody".to_owned() };
        for kept in [None, Some(kept)] {
            let list = kept.map(|endpoint| {
                let (id, name) = ("core".parse().expect("an id"), "core".to_owned());
                let vmr = RankedVmr { id, name, endpoint, rank: 0, distance: None };
                RankedVmrs { kind: AnswerKind::All, vmrs: vec![vmr], kept: true }
            });
            let (ranked_tx, ranked) = watch::channel(list);
            let (status_tx, status) = watch::channel(LinkStatus { state: lost(), since: Instant::now() });
            let named = Fallback { address: Some(Remote::Address(fallback)), domain: None };
            let mut naming = Naming::new(ranked, status, named, "a".to_owned());
            let endpoints = |named: Vec<NamedVmr>| named.iter().map(|vmr| vmr.endpoint).collect::<Vec<_>>();
            let all: Vec<_> = kept.into_iter().chain([fallback]).collect();
            let first = timeout(HANG, naming.changed()).await.expect("it hangs");
            assert_eq!(endpoints(first), all);

            status_tx.send_modify(|status| status.state = refused(false));
            assert_eq!(naming.named().map(endpoints), Some(all));
            // As the link does it for a node that is shut out.
            ranked_tx.send_replace(None);
            status_tx.send_modify(|status| status.state = refused(true));
            assert_eq!(timeout(HANG, naming.changed()).await.expect("it hangs"), []);
        }
    }

    // proves A2: it is as if that admin were not there
    #[tokio::test]
    async fn a_node_that_starts_at_an_admin_without_room_goes_by_its_fallback() {
        let fallback = at("192.0.2.2:2268");
        for (shut_out, expected) in [(false, Some(fallback)), (true, None)] {
            let state = refused(shut_out);
            let (_ranked, ranked) = watch::channel(None);
            let (_status, status) = watch::channel(LinkStatus { state, since: Instant::now() });
            let named = Fallback { address: Some(Remote::Address(fallback)), domain: None };
            let named = Naming::new(ranked, status, named, "a".to_owned()).named();
            assert_eq!(named.map(|named| named[0].endpoint), expected);
        }
    }
}

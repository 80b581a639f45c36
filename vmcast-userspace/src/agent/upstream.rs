//! Who names the VMRs: the configuration, a DNS name in it, or the admin.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use anyhow::Context;
use tokio::sync::watch;
use tracing::warn;
use vmcast_api::AdminLink;
use vmcast_proto::{
    nearest,
    registry::{self, NodeId, OwnTunnel},
};

use super::core::{Candidate, Input};
use crate::{
    config::{AgentConfig, Remote, Upstream, UpstreamFrom},
    identity::NodeIdentity,
    link::{self, Attachment, NamedVmr, Naming, RefusedGroups, RefusedQuestion},
    relays::Service,
    resolver::Resolver,
};

/// A source of candidates.
pub(super) struct Upstreams {
    from: UpstreamFrom,
    source: Source,
}

enum Source {
    /// The one in the configuration, until it has been told.
    Address(Option<SocketAddr>),
    /// What a name resolves to, or what DNS-SD lists.
    Name(Resolver),
    /// What the admin ranks, and who stands in for it.
    Admin {
        attachment: Attachment,
        naming: Box<Naming>,
        draining: watch::Receiver<BTreeSet<NodeId>>,
        refused: watch::Receiver<RefusedGroups>,
    },
}

impl Upstreams {
    /// Starts to look. `endpoints` are where this agent's gateway speaks.
    ///
    /// # Errors
    /// If the configuration cannot work. Whoever does not answer is asked again.
    pub(super) fn start(
        config: &AgentConfig,
        endpoints: Vec<SocketAddr>,
        seed: u64,
        identity: Option<Arc<NodeIdentity>>,
    ) -> anyhow::Result<Self> {
        let source = match config.upstream.upstream() {
            Upstream::Static(Remote::Address(address)) => Source::Address(Some(address)),
            Upstream::Static(Remote::Name(host, port)) => Source::Name(Resolver::start(host, port)),
            Upstream::DnsSd(domain, dns) => {
                Source::Name(Resolver::of_service(Service::new(domain, &dns, config.name.as_str())))
            }
            Upstream::Admin(fallback) => {
                let name = config.name.as_str();
                let attachment = link::attach(link::Settings {
                    admins: config.admin.urls.iter().map(|url| url.as_str().to_owned()).collect(),
                    registration: registry::Registration {
                        id: name.parse().context("the name in the configuration")?,
                        role: registry::Role::Agent,
                        endpoints,
                        name: name.parse().context("the name in the configuration")?,
                        software: concat!("vmcast ", env!("CARGO_PKG_VERSION")).parse()?,
                        about: registry::About::default(),
                    },
                    requery: link::Settings::REQUERY,
                    local: None,
                    probe: nearest::Config::default(),
                    seed,
                    identity,
                })?;
                Source::Admin {
                    naming: Box::new(attachment.naming(fallback, name)),
                    draining: attachment.draining(),
                    refused: attachment.refused(),
                    attachment,
                }
            }
            // What has no relay of its own comes from nowhere then.
            Upstream::None => Source::Address(None),
        };
        Ok(Self { from: config.upstream.from, source })
    }

    /// Waits for something else to be said of VMRs than before. Dropping the future loses nothing.
    pub(super) async fn changed(&mut self) -> Input<'static> {
        match &mut self.source {
            Source::Address(address) => match address.take() {
                Some(endpoint) => {
                    Input::Candidates(vec![Candidate { endpoint, id: None, name: None, stands_in: None }])
                }
                None => std::future::pending().await,
            },
            Source::Name(resolver) => {
                let endpoints = resolver.changed().await;
                let name = Some(resolver.host().to_owned());
                let candidate =
                    |endpoint| Candidate { endpoint, id: None, name: name.clone(), stands_in: None };
                Input::Candidates(endpoints.into_iter().map(candidate).collect())
            }
            Source::Admin { naming, draining, refused, .. } => tokio::select! {
                named = naming.changed() => {
                    if named.is_empty() {
                        warn!("the admin gives no VMR to this agent; `vmcast node list` there says which are registered, \
                               and whether they are proved, busy or draining");
                    }
                    Input::Candidates(named.into_iter().map(candidate).collect())
                }
                Ok(()) = draining.changed() => Input::Draining(draining.borrow_and_update().clone()),
                Ok(()) = refused.changed() => Input::Refused(refused.borrow_and_update().clone()),
            },
        }
    }

    /// Says that a VMR does not serve this agent, so that others are looked for.
    pub(super) fn dead(&self, candidate: &Candidate) {
        if let (Source::Admin { attachment, .. }, Some(id)) = (&self.source, &candidate.id) {
            attachment.vmr_dead(id.clone(), candidate.endpoint);
        }
    }

    /// Says that the only VMR is not heard of, so that it is looked for where it may be now.
    pub(super) fn look_again(&self) {
        if let Source::Admin { attachment, .. } = &self.source {
            attachment.look_again();
        }
    }

    /// Says what does not come from the VMR, so that it is looked whether it refuses that.
    pub(super) fn ask_refused(&self, question: Option<RefusedQuestion>) {
        if let Source::Admin { attachment, .. } = &self.source {
            attachment.ask_refused(question);
        }
    }

    /// Says where this agent's tunnels begin as the VMRs see them.
    pub(super) fn at(&self, tunnels: Vec<OwnTunnel>) {
        if let Source::Admin { attachment, .. } = &self.source {
            attachment.at(tunnels);
        }
    }

    /// Says where this agent's gateway speaks now.
    pub(super) fn moved(&self, endpoints: Vec<SocketAddr>) {
        if let Source::Admin { attachment, .. } = &self.source {
            attachment.moved(endpoints);
        }
    }

    /// Who names the VMR, as the configuration has it.
    pub(super) const fn from(&self) -> &'static str {
        self.from.label()
    }

    /// How the connection to the admin is, if there is to be one.
    pub(super) fn admin_link(&self) -> Option<AdminLink> {
        match &self.source {
            Source::Address(_) | Source::Name(_) => None,
            Source::Admin { attachment, .. } => Some(attachment.admin_link()),
        }
    }

    /// Ends the lease at the admin; takes two seconds at most.
    pub(super) async fn close(self) {
        match self.source {
            Source::Address(_) | Source::Name(_) => {}
            Source::Admin { attachment, .. } => attachment.close().await,
        }
    }
}

fn candidate(NamedVmr { endpoint, id, name, stands_in }: NamedVmr) -> Candidate {
    Candidate { endpoint, id, name, stands_in }
}

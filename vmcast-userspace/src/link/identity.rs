//! Who this node is towards its admins: by the certificate that it has, was given, or gets by a token.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, bail};
use tokio::sync::watch;
use tracing::{debug, info, warn};
use vmcast_proto::registry::NodeId;

use super::{
    AdminError,
    attach::RETRY,
    backoff::{Backoff, Random},
};
use crate::{
    admin::Clock,
    config::AdminLinkConfig,
    identity::{IdentityError, JoinToken, NodeIdentity, Prepared, Role, join_with},
};

/// The identity of a node that has admins; `None` where it has none, or where nothing is encrypted. A token that the
/// node has not joined by yet makes it join, which is tried for as long as no admin answers: `failing` has the reason.
///
/// # Errors
/// If there is neither certificate nor token, or the certificate is for another node, or an admin refuses.
pub(crate) async fn open_identity(
    config: &AdminLinkConfig,
    role: Role,
    node: &str,
    failing: &watch::Sender<Option<String>>,
) -> anyhow::Result<Option<Arc<NodeIdentity>>> {
    let given = config.given();
    if config.urls.is_empty() && config.token.is_none() && given.is_none() {
        return Ok(None);
    }
    if config.insecure {
        if given.is_some() {
            bail!("a certificate is of no use without TLS: leave it out, or insecure and --insecure");
        }
        if config.token.is_some() {
            bail!("a token is of no use without TLS: leave out --token, or insecure and --insecure");
        }
        warn!(
            "INSECURE: nothing that this node and its admins say is encrypted, and neither knows who the other is. \
             Only for labs; leave insecure and --insecure out elsewhere"
        );
        return Ok(None);
    }
    let node: NodeId = node.parse().context("the name in the configuration")?;
    let directory = config.identity_directory(role);
    let known = NodeIdentity::load(&directory, Clock::system())?;
    let identity = match (known, &config.token, given) {
        (Some(known), Some(token), _) if known.joined_by() == token.id => known,
        (_, Some(token), _) => {
            let identity = join_in_time(token, &node, &directory, failing, Clock::system()).await?;
            info!(%node, directory = %directory.display(), "joined: this node has its certificate");
            identity
        }
        (known, None, Some(given)) => {
            let of_other =
                given.certified()?.filter(|certified| certified.role != role || certified.node != node);
            if let Some(certified) = of_other {
                bail!(
                    "the certificate in {} is for the {} {}, but this is the {} {node}",
                    given.certificate.display(),
                    certified.role.label(),
                    certified.node,
                    role.label()
                );
            }
            let admins = config.urls.iter().map(|url| url.as_str().to_owned()).collect();
            given.open(known, admins, &directory, Clock::system())?
        }
        (Some(known), None, None) => known,
        (None, None, None) => bail!(
            "this node has no certificate yet: run `vmcast node token create --role {}` at the admin, then start \
             this node once with --token TOKEN",
            role.label()
        ),
    };
    let certified = identity.certified();
    if certified.role != role {
        bail!(
            "the certificate in {} is for {} {}: choose another directory by identity in [admin]",
            directory.display(),
            article(certified.role),
            certified.role.label()
        );
    }
    if certified.node != node {
        bail!(
            "the certificate in {} is for {}, but this node is called {node}: rename it back, or join with a new token",
            directory.display(),
            certified.node
        );
    }
    Ok(Some(Arc::new(identity)))
}

/// Joins, as soon as an admin answers.
pub(super) async fn join_in_time(
    token: &JoinToken,
    node: &NodeId,
    directory: &Path,
    failing: &watch::Sender<Option<String>>,
    clock: Clock,
) -> anyhow::Result<NodeIdentity> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).context("the kernel gives no random numbers")?;
    let mut backoff = Backoff::new(RETRY.0, RETRY.1, Random::new(u64::from_ne_bytes(seed)).number());
    let prepared = Prepared::to_join(token, directory)?;
    loop {
        let failure = match join_with(&prepared, token, node, directory, clock.clone()).await {
            Err(IdentityError::Admin(failure @ AdminError::Unreachable { .. })) => failure.to_string(),
            outcome => return Ok(outcome?),
        };
        let wait = backoff.wait();
        // The same reason again is no news.
        if failing.borrow().as_ref() == Some(&failure) {
            debug!(failure, ?wait, "not joined yet, will try again");
        } else {
            warn!(
                failure,
                ?wait,
                "this node has yet to join; will try until an admin lets it in or refuses it"
            );
        }
        failing.send_replace(Some(failure));
        tokio::time::sleep(wait).await;
    }
}

const fn article(role: Role) -> &'static str {
    match role {
        Role::Router => "a",
        Role::Agent => "an",
    }
}

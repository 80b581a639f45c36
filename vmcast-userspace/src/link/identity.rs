//! Who this node is towards its admins: by the certificate that it has, or gets by a token.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use tracing::{info, warn};
use vmcast_proto::registry::NodeId;

use crate::{
    admin::Clock,
    config::AdminLinkConfig,
    identity::{NodeIdentity, Role, join},
};

/// The identity of a node that has admins; `None` where it has none, or where nothing is encrypted. A token that the
/// node has not joined by yet makes it join.
///
/// # Errors
/// If there is neither certificate nor token, or the certificate is for another node, or joining fails.
pub async fn open_identity(
    config: &AdminLinkConfig,
    role: Role,
    node: &str,
) -> anyhow::Result<Option<Arc<NodeIdentity>>> {
    if config.urls.is_empty() && config.token.is_none() {
        return Ok(None);
    }
    if config.insecure {
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
    let identity = match (known, &config.token) {
        (Some(known), Some(token)) if known.joined_by() == token.id => known,
        (_, Some(token)) => {
            let identity = join(token, &node, &directory, Clock::system()).await?;
            info!(%node, directory = %directory.display(), "joined: this node has its certificate");
            identity
        }
        (Some(known), None) => known,
        (None, None) => bail!(
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

const fn article(role: Role) -> &'static str {
    match role {
        Role::Router => "a",
        Role::Agent => "an",
    }
}

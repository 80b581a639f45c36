//! A node's certificate is renewed before it expires.

use std::{sync::Arc, time::Duration};

use tracing::{debug, error, info, warn};
use vmcast_proto::registry::UnixMillis;
use vmcast_signal::v1::{self, identity_client::IdentityClient};

use super::{
    AdminClient, AdminError,
    backoff::{Backoff, Random},
};
use crate::{
    clock,
    identity::{IdentityError, NodeIdentity},
};

/// The time is looked at so often at least: the clock of the host may be set, and a host may sleep.
const LOOK: Duration = Duration::from_secs(600);
/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));
/// An operator is told when no more than this is left.
const URGENT: Duration = Duration::from_secs(3 * 86_400);

/// Renews for as long as it runs.
pub(super) async fn run(identity: Arc<NodeIdentity>, client: AdminClient, mut random: Random) {
    let jitter = random.fraction();
    let mut backoff = Backoff::new(RETRY.0, RETRY.1, random.number());
    loop {
        let now = UnixMillis(clock::unix_millis());
        let due = identity.renew_at(jitter);
        if now < due {
            tokio::time::sleep(Duration::from_millis(due.0 - now.0).min(LOOK)).await;
            continue;
        }
        match renew(&identity, &client).await {
            Ok(()) => {
                backoff.reset();
                info!(expires_unix_millis = identity.certified().expires.0, "certificate renewed");
            }
            Err(failure) => {
                let wait = backoff.wait();
                let left = Duration::from_millis(identity.certified().expires.0.saturating_sub(now.0));
                match failure {
                    IdentityError::Admin(AdminError::Unreachable { .. }) if left > URGENT => {
                        debug!(%failure, ?wait, "certificate not renewed yet");
                    }
                    IdentityError::Admin(AdminError::Unreachable { .. }) => {
                        warn!(%failure, ?left, ?wait, "the certificate expires soon and could not be renewed");
                    }
                    failure => error!(%failure, ?left, ?wait, "the certificate cannot be renewed"),
                }
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Renews now.
pub(crate) async fn renew(identity: &NodeIdentity, client: &AdminClient) -> Result<(), IdentityError> {
    let prepared = identity.prepare_renewal()?;
    let (url, channel) = client.channel();
    let request = v1::RenewRequest { certificate_request: prepared.request.clone() };
    let answer = IdentityClient::new(channel).renew(request).await;
    let answer = answer.map_err(|status| AdminError::of(&url, &status))?;
    identity.take(&prepared, answer.get_ref())
}

//! This admin in the list that nodes are told, for as long as it lives: under a lease of etcd.

use std::{sync::Arc, time::Duration};

use tracing::{debug, info};
use vmcast_etcd::{Error, Operation};

use super::{key::admin_value, store::Shared};

/// An admin that has died is named for so long, in seconds.
const LEASE: u32 = 10;
/// Between two renewals, and two tries.
const RENEW: Duration = Duration::from_secs(3);

/// Lists the admin for ever; the task is aborted with the store.
pub(super) async fn list(shared: Arc<Shared>, urls: Vec<String>) {
    if urls.is_empty() {
        return;
    }
    loop {
        match begin(&shared, &urls).await {
            Ok(lease) => {
                info!(?urls, "nodes are told of this admin");
                keep(&shared, lease).await;
            }
            Err(error) => debug!(%error, "this admin is not listed yet"),
        }
        tokio::time::sleep(RENEW).await;
    }
}

async fn begin(shared: &Shared, urls: &[String]) -> Result<i64, Error> {
    let lease = shared.client.grant_lease(LEASE).await?;
    let key = shared.state().layout.admin(lease);
    let entry = Operation::Put { key, value: admin_value(urls), lease };
    // The watch brings it back, as it brings the others.
    shared.client.transact(&[], &[entry]).await?;
    Ok(lease)
}

/// Keeps the lease until it has ended, as after a long outage.
async fn keep(shared: &Shared, lease: i64) {
    loop {
        tokio::time::sleep(RENEW).await;
        match shared.client.keep_alive(lease).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => debug!(%error, "the entry of this admin is not renewed"),
        }
    }
}

//! Following what the other admins write.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};
use vmcast_etcd::{Error, Watch};

use super::{state::Freshness, store::Shared};

/// First and longest wait before etcd is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Follows for ever; the task is aborted with the store.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut wait = RETRY.0;
    loop {
        match begin(&shared).await {
            Ok(mut watch) => {
                wait = RETRY.0;
                found(&shared);
                let error = listen(&shared, &mut watch).await;
                lost(&shared, &error);
            }
            Err(error) => {
                lost(&shared, &error);
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
}

/// A watch from where the last one ended. If that is history too old to be had, everything is read again.
async fn begin(shared: &Shared) -> Result<Watch, Error> {
    let (root, heard) = {
        let state = shared.state();
        (state.layout.root().to_vec(), state.heard)
    };
    let mut watch = shared.client.watch(&root, heard + 1).await?;
    match watch.next().await {
        Err(Error::Compacted(_)) => {}
        Err(error) => return Err(error),
        Ok(first) => {
            shared.hear(first);
            return Ok(watch);
        }
    }
    let snapshot = shared.client.read(&root).await?;
    let revision = snapshot.revision;
    shared.state().reset(snapshot, shared.clock.now());
    shared.heard.send_replace(revision);
    let mut watch = shared.client.watch(&root, revision + 1).await?;
    let first = watch.next().await?;
    shared.hear(first);
    Ok(watch)
}

async fn listen(shared: &Shared, watch: &mut Watch) -> Error {
    loop {
        // While a stream stands without a word the end of an outage is waited for.
        let recovering = match shared.state().freshness() {
            Freshness::Recovering(until) => Some(until),
            Freshness::Fresh | Freshness::Stale => None,
        };
        let heard = match recovering {
            None => watch.next().await,
            Some(until) => {
                let left = Duration::from_millis(until.0.saturating_sub(shared.clock.now().0));
                tokio::select! {
                    heard = watch.next() => heard,
                    () = tokio::time::sleep(left) => {
                        shared.state().set_freshness(Freshness::Fresh);
                        info!("leases of the registry run again");
                        continue;
                    }
                }
            }
        };
        match heard {
            Ok(heard) => shared.hear(heard),
            Err(error) => return error,
        }
    }
}

fn found(shared: &Shared) {
    let mut state = shared.state();
    if state.freshness() == Freshness::Stale {
        let until = shared.clock.now().after(shared.lease);
        state.set_freshness(Freshness::Recovering(until));
        drop(state);
        info!(grace = ?shared.lease, "etcd is back; nodes have time to renew their leases");
    }
}

fn lost(shared: &Shared, error: &Error) {
    let mut state = shared.state();
    if state.freshness() != Freshness::Stale {
        state.set_freshness(Freshness::Stale);
        drop(state);
        warn!(%error, "etcd is lost; what was known is answered, marked as stale, and does not expire");
    }
}

impl Shared {
    fn hear(&self, heard: vmcast_etcd::Heard) {
        let now = self.clock.now();
        let revision = {
            let mut state = self.state();
            state.hear(heard.changes, heard.revision, now);
            state.heard
        };
        self.heard.send_replace(revision);
    }
}

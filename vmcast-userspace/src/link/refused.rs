//! Why joins are refused: a node asks the admin while something that it wants does not come.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::debug;
use vmcast_proto::registry::NodeId;

use super::{
    AdminClient,
    backoff::{Backoff, Random},
};

/// First and longest wait between two questions: what does not come may have no source.
const PAUSE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(120));
/// Between two questions while something is refused, at least and at most.
const WHILE_REFUSED: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(4));
/// Between two questions whatever happens.
const LEAST: Duration = Duration::from_secs(2);

/// The groups that a VMR refuses to this node, with the reasons.
pub type RefusedGroups = BTreeMap<IpAddr, String>;

/// Where this node is, and what does not come from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedQuestion {
    /// The VMR.
    pub vmr: NodeId,
    /// This node's end of the tunnel as the VMR sees it.
    pub tunnel: SocketAddr,
    /// Groups of which something is missing; without any, and nothing refused, nothing is asked.
    pub missing: BTreeSet<IpAddr>,
}

/// Asks until the other ends of the channels are gone.
pub(super) async fn ask(
    client: AdminClient,
    id: NodeId,
    seed: u64,
    mut question: watch::Receiver<Option<RefusedQuestion>>,
    refused: watch::Sender<RefusedGroups>,
) {
    let mut random = Random::new(seed);
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1, random.number());
    // The last one that was answered, and when there may be another.
    let mut asked: Option<RefusedQuestion> = None;
    let mut next = Instant::now();
    loop {
        let present = question.borrow_and_update().clone();
        let place = |question: &RefusedQuestion| (question.vmr.clone(), question.tunnel);
        if present.as_ref().map(place) != asked.as_ref().map(place) {
            // Another VMR, or none: what the one before refused is no matter.
            refused.send_if_modified(|known| !std::mem::take(known).is_empty());
            asked = None;
        }
        let matters = |present: &RefusedQuestion| !present.missing.is_empty() || !refused.borrow().is_empty();
        let due = present.as_ref().filter(|present| matters(present)).map(|present| {
            let before = asked.as_ref().map(|asked| &asked.missing);
            if before.is_none_or(|before| !present.missing.is_subset(before)) {
                backoff.reset();
                next.min(Instant::now() + LEAST)
            } else {
                next
            }
        });
        tokio::select! {
            changed = question.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = at(due) => {}
        }
        let Some(present) = present else { continue };
        match client.refused_joins(&id, &present.vmr, present.tunnel).await {
            Ok(groups) => {
                refused.send_if_modified(|known| {
                    let changed = *known != groups;
                    *known = groups;
                    changed
                });
            }
            Err(failure) => debug!(%failure, "why joins are refused is not to be heard"),
        }
        asked = Some(present);
        let wait = if refused.borrow().is_empty() {
            backoff.wait()
        } else {
            random.between(WHILE_REFUSED.0, WHILE_REFUSED.1)
        };
        next = Instant::now() + wait.max(LEAST);
    }
}

/// Ready at a time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

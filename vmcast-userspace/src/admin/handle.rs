//! Access to the running registry, for its service and for the operator.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use vmcast_proto::registry::{
    CacheEntry, CacheKey, Census, Counters, Error, NodeId, NodeRecord, Registry, Store, UnixMillis,
};

use super::{
    AnyStore, Clock,
    lines::{LineCounters, Lines, Way},
};
use vmcast_signal::v1::command::What;

/// A registry that many tasks share. Its work touches the disk, so it is done on the threads that
/// may block.
#[derive(Debug)]
pub struct Handle<S = AnyStore> {
    shared: Arc<Shared<S>>,
}

#[derive(Debug)]
struct Shared<S> {
    registry: Mutex<Registry<S>>,
    clock: Clock,
    malformed: AtomicU64,
    lines: Lines,
    way: Way,
}

/// The server's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the registry did since the start.
    pub counters: Counters,
    /// Requests that could not be read.
    pub malformed: u64,
    /// What became of the standing lines of VMRs.
    pub lines: LineCounters,
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Store + Send + 'static> Handle<S> {
    /// Access to a registry.
    #[must_use]
    pub fn new(registry: Registry<S>, clock: Clock, way: Way) -> Self {
        let (registry, malformed) = (Mutex::new(registry), AtomicU64::new(0));
        let shared = Shared { registry, clock, malformed, lines: Lines::default(), way };
        Self { shared: Arc::new(shared) }
    }

    /// The live nodes in the order of their ids: at most `limit`, those behind `after`.
    ///
    /// # Errors
    /// The failure of the store.
    pub async fn nodes(&self, after: Option<NodeId>, limit: usize) -> Result<Vec<NodeRecord>, S::Error> {
        self.with(move |registry, now| registry.nodes(now, after.as_ref(), limit)).await
    }

    /// The live cache entries in the order of their keys: at most `limit`, those behind `after`.
    ///
    /// # Errors
    /// The failure of the store.
    pub async fn cache(&self, after: Option<CacheKey>, limit: usize) -> Result<Vec<CacheEntry>, S::Error> {
        self.with(move |registry, now| registry.cache(now, after.as_ref(), limit)).await
    }

    /// How much the registry holds.
    ///
    /// # Errors
    /// The failure of the store.
    pub async fn census(&self) -> Result<Census, S::Error> {
        self.with(|registry, _| registry.census()).await
    }

    /// Whether the registry answers from what it knew before its store was lost.
    pub async fn is_stale(&self) -> bool {
        self.with(|registry, _| registry.is_stale()).await
    }

    /// The server's numbers.
    pub async fn status(&self) -> Status {
        let counters = self.with(|registry, _| *registry.counters()).await;
        Status {
            counters,
            malformed: self.shared.malformed.load(Ordering::Relaxed),
            lines: self.shared.lines.counters(),
        }
    }

    /// Takes a VMR out of service or back in, and tells it; false if it was so already.
    ///
    /// # Errors
    /// A refusal, or the failure of the store.
    pub async fn drain(&self, node: NodeId, drain: bool) -> Result<bool, Error<S::Error>> {
        let id = node.clone();
        let changed = self.with(move |registry, now| registry.drain(now, &id, drain)).await?;
        self.shared.lines.tell(&node, What::Draining(drain));
        Ok(changed)
    }

    /// Ends a node's lease, whoever asks; false if it had none.
    ///
    /// # Errors
    /// The failure of the store.
    pub async fn forget(&self, node: NodeId) -> Result<bool, S::Error> {
        self.with(move |registry, now| registry.deregister(now, &node)).await
    }

    /// The average round-trip time between the admin and a VMR, if it is known.
    #[must_use]
    pub fn rtt(&self, vmr: &NodeId) -> Option<Duration> {
        self.shared.lines.average(vmr)
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.shared.lines
    }

    pub(super) fn way(&self) -> Way {
        self.shared.way
    }

    pub(super) fn count_malformed(&self) {
        self.shared.malformed.fetch_add(1, Ordering::Relaxed);
    }

    /// Works on the store, on a thread that may block.
    pub(super) fn store<T>(&self, work: impl FnOnce(&mut S) -> T) -> T {
        // Commits are atomic, so a panic leaves nothing half done.
        work(self.shared.registry.lock().unwrap_or_else(PoisonError::into_inner).store_mut())
    }

    /// Runs `work` on the registry with the present time.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Registry<S>, UnixMillis) -> T + Send + 'static,
    ) -> T {
        let shared = Arc::clone(&self.shared);
        let job = tokio::task::spawn_blocking(move || {
            // Commits are atomic, so a panic in one request leaves nothing half done.
            let mut registry = shared.registry.lock().unwrap_or_else(PoisonError::into_inner);
            let now = shared.clock.now();
            work(&mut registry, now)
        });
        match job.await {
            Ok(result) => result,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is ending and takes the caller with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

//! Access to the running registry, for its service and for the operator.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use vmcast_proto::registry::{
    Answer, CacheEntry, CacheKey, Census, Counters, Error, NodeId, NodeRecord, Query, Refusal, Registry,
    Rows as _, Store, UnixMillis,
};

use super::{
    AnyStore, Clock, Kept, Mirror,
    bounds::Excess,
    lines::{LineCounters, Lines, Way},
    steps::{ClockSteps, Steps},
    writer::{Failure, Writer},
};

/// A node that did not reach an admin tries again after so long at the latest, with some time for the call itself.
const LONGEST_RETRY: Duration = Duration::from_secs(40);

/// A registry that many tasks share. Questions are answered from memory; what changes it is done by a thread that
/// may wait for the disk or the network.
#[derive(Debug)]
pub struct Handle<S: Store = AnyStore> {
    shared: Arc<Shared<S>>,
}

#[derive(Debug)]
struct Shared<S: Store> {
    /// Over the same rows as the writer's.
    reader: Mutex<Registry<Mirror>>,
    writer: Writer<S>,
    /// The writer's numbers, as they were when it was last done.
    written: Arc<Mutex<Counters>>,
    clock: Clock,
    /// Whether the last change could not be kept.
    failing: AtomicBool,
    /// Changes that could not be kept.
    unkept: AtomicU64,
    malformed: AtomicU64,
    excess: Arc<Excess>,
    lines: Lines,
    steps: Steps,
    way: Way,
}

/// The server's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the registry did since the start.
    pub counters: Counters,
    /// Requests that could not be read.
    pub malformed: u64,
    /// Requests that were not whole, or not answered, in their time.
    pub slow: u64,
    /// Requests that were larger than a message may be.
    pub oversize: u64,
    /// Changes that the store could not keep; each of them was refused.
    pub unkept: u64,
    /// What became of the standing lines of VMRs.
    pub lines: LineCounters,
    /// How often the host's clock was set.
    pub clock: ClockSteps,
}

impl<S: Store> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Kept> Handle<S> {
    /// Access to a registry.
    ///
    /// # Errors
    /// If the host has no thread to spare.
    pub fn new(registry: Registry<S>, clock: Clock, way: Way) -> std::io::Result<Self> {
        let reader = Mutex::new(Registry::new(registry.config().clone(), registry.rows().clone()));
        let writer = Writer::start(registry, clock.clone())?;
        let shared = Shared {
            reader,
            writer,
            written: Arc::default(),
            clock,
            failing: AtomicBool::new(false),
            unkept: AtomicU64::new(0),
            malformed: AtomicU64::new(0),
            excess: Arc::default(),
            lines: Lines::default(),
            steps: Steps::default(),
            way,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The live nodes in the order of their ids: at most `limit`, those behind `after`.
    #[must_use]
    pub fn nodes(&self, after: Option<&NodeId>, limit: usize) -> Vec<NodeRecord> {
        self.read(|registry, now| registry.nodes(now, after, limit))
    }

    /// The live cache entries in the order of their keys: at most `limit`, those behind `after`.
    #[must_use]
    pub fn cache(&self, after: Option<&CacheKey>, limit: usize) -> Vec<CacheEntry> {
        self.read(|registry, now| registry.cache(now, after, limit))
    }

    /// How much the registry holds.
    #[must_use]
    pub fn census(&self) -> Census {
        self.read(|registry, _| registry.census())
    }

    /// Whether the registry answers from what it knew before its store was lost.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.read(|registry, _| registry.is_stale())
    }

    /// Whether what changes is kept: not while the store fails, or is lost.
    #[must_use]
    pub fn keeps_changes(&self) -> bool {
        !self.shared.failing.load(Ordering::Relaxed) && !self.is_stale()
    }

    /// A change was kept, after which others are, too.
    pub(super) fn note_kept(&self) {
        self.shared.failing.store(false, Ordering::Relaxed);
    }

    /// The server's numbers.
    #[must_use]
    pub fn status(&self) -> Status {
        let written = *self.shared.written.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            counters: self.read(|registry, _| registry.counters().plus(&written)),
            malformed: self.shared.malformed.load(Ordering::Relaxed),
            slow: self.shared.excess.slow(),
            oversize: self.shared.excess.oversize(),
            unkept: self.shared.unkept.load(Ordering::Relaxed),
            lines: self.shared.lines.counters(),
            clock: self.shared.steps.so_far(crate::clock::since_boot().unwrap_or_default()),
        }
    }

    /// Takes a VMR out of service or back in, and tells it; false if it was so already.
    ///
    /// # Errors
    /// A refusal, or the failure of the store.
    pub async fn drain(&self, node: NodeId, drain: bool) -> Result<bool, Error<Failure<S>>> {
        let id = node.clone();
        let changed = self.write(move |registry, now| registry.drain(now, &id, drain)).await?;
        self.tell_draining();
        Ok(changed)
    }

    /// Tells VMRs on their lines who of them goes out of service or is back, whichever admin was told.
    pub(super) fn tell_draining(&self) {
        self.rows(|rows| {
            self.shared.lines.follow_draining(|vmr| rows.node(vmr).is_some_and(|node| node.draining));
        });
    }

    /// Answers who is nearest.
    ///
    /// # Errors
    /// A refusal.
    pub(super) fn nearest(&self, query: &Query) -> Result<Answer, Refusal> {
        let answer = refused(self.read(|registry, now| registry.nearest(now, query)))?;
        if !answer.untrue.is_empty() {
            let (handle, untrue) = (self.clone(), answer.untrue.clone());
            // The answer need not wait for this: what stays is passed over again next time.
            tokio::spawn(async move { handle.write(move |registry, _| registry.forget(&untrue)).await });
        }
        Ok(answer)
    }

    /// Checks that a node may hold a standing line; says whether it drains.
    ///
    /// # Errors
    /// A refusal.
    pub(super) fn attends(&self, id: &NodeId) -> Result<bool, Refusal> {
        refused(self.read(|registry, now| registry.attends(now, id)))
    }

    /// Those of some nodes that an operator has taken out of service.
    pub(super) fn draining(&self, of: &[NodeId]) -> Vec<NodeId> {
        self.read(|registry, _| {
            let drains = |id: &&NodeId| registry.rows().node(id).is_some_and(|node| node.draining);
            of.iter().filter(drains).cloned().collect()
        })
    }

    /// The ids of all VMRs that a node may attach to.
    ///
    /// # Errors
    /// A refusal.
    pub(super) fn eligible(&self, id: &NodeId) -> Result<Vec<NodeId>, Refusal> {
        refused(self.read(|registry, now| registry.eligible(now, id)))
    }

    /// Ends a node's lease, whoever asks; false if it had none.
    ///
    /// # Errors
    /// The failure of the store.
    pub async fn forget(&self, node: NodeId) -> Result<bool, Error<Failure<S>>> {
        self.write(move |registry, now| registry.deregister(now, &node)).await
    }

    /// The average round-trip time between the admin and a VMR, if it is known.
    #[must_use]
    pub fn rtt(&self, vmr: &NodeId) -> Option<Duration> {
        self.shared.lines.average(vmr)
    }

    /// Says where nodes reach this admin; every answer to a registration tells it.
    ///
    /// # Errors
    /// Never: what of it cannot be kept is tried again.
    pub async fn list_admin(&self, urls: Vec<String>) -> Result<(), Error<Failure<S>>> {
        self.write(move |registry, _| {
            registry.store_mut().list_admin(urls);
            Ok::<_, Error<S::Error>>(())
        })
        .await
    }

    /// Where nodes reach the admins of this registry.
    #[must_use]
    pub fn admins(&self) -> Vec<String> {
        self.rows(Mirror::admins)
    }

    /// The registry's time, by which leases begin and end.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        self.shared.clock.now()
    }

    /// How long this process stood still so far, or the host with it.
    pub(super) fn stood_still(&self) -> Duration {
        self.shared.clock.stood_still()
    }

    /// Gives every node time to renew its lease, since nobody could for a while.
    pub(super) fn grant_time(&self) {
        self.read(|registry, now| {
            let grace = registry.config().lease.max(LONGEST_RETRY);
            registry.rows().raise_floor(now.after(grace));
        });
    }

    /// Whether VMRs are given only where return probes found them.
    #[must_use]
    pub fn proves(&self) -> bool {
        self.read(|registry, _| registry.config().return_probe)
    }

    /// The record of a VMR with a live lease, and whether it has endpoints that were not probed yet.
    pub(super) fn to_prove(&self, vmr: &NodeId) -> Option<(NodeRecord, bool)> {
        self.read(|registry, now| {
            let record = registry.live_vmr(now, vmr)?;
            let awaits = registry.awaits_probe(&record);
            Some((record, awaits))
        })
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.shared.lines
    }

    pub(super) fn steps(&self) -> &Steps {
        &self.shared.steps
    }

    pub(super) fn way(&self) -> Way {
        self.shared.way
    }

    /// Where requests that take too much are counted.
    pub(super) fn excess(&self) -> &Arc<Excess> {
        &self.shared.excess
    }

    pub(super) fn count_malformed(&self) {
        self.shared.malformed.fetch_add(1, Ordering::Relaxed);
    }

    /// The rows as they are in memory.
    pub(super) fn rows<T>(&self, work: impl FnOnce(&Mirror) -> T) -> T {
        self.read(|registry, _| work(registry.rows()))
    }

    /// Works on the store, from a thread that may block, and returns when it lasts.
    ///
    /// # Errors
    /// The failure of the store.
    pub(super) fn store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut S) -> Result<T, S::Error> + Send + 'static,
    ) -> Result<T, Error<Failure<S>>> {
        let work = move |registry: &mut Registry<S>, _| work(registry.store_mut()).map_err(Error::Store);
        let outcome = self.shared.writer.write_blocking(work);
        self.note_failure(&outcome);
        outcome
    }

    /// Counts a change that could not be kept.
    fn note_failure<T>(&self, outcome: &Result<T, Error<Failure<S>>>) {
        if let Err(Error::Store(failure)) = outcome
            && !S::is_conflict(failure)
        {
            self.shared.failing.store(true, Ordering::Relaxed);
            self.shared.unkept.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn read<T>(&self, work: impl FnOnce(&mut Registry<Mirror>, UnixMillis) -> T) -> T {
        let now = self.shared.clock.now();
        // It only reads and counts, so a panic leaves nothing half done.
        let mut reader: MutexGuard<'_, _> = self.shared.reader.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut reader, now)
    }

    /// Has `work` done on the registry with the present time, and returns when it lasts.
    ///
    /// # Errors
    /// What `work` says, or the failure of the store: then nothing was done.
    pub(super) async fn write<T, E>(
        &self,
        work: impl FnOnce(&mut Registry<S>, UnixMillis) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Error<Failure<S>>>
    where
        T: Send + 'static,
        E: Into<Error<S::Error>> + Send + 'static,
    {
        let written = Arc::clone(&self.shared.written);
        let work = move |registry: &mut Registry<S>, now| {
            let done = work(registry, now);
            *written.lock().unwrap_or_else(PoisonError::into_inner) = *registry.counters();
            done
        };
        let outcome = self.shared.writer.write(work).await;
        self.note_failure(&outcome);
        outcome
    }
}

/// What reads from memory fails by refusals alone.
fn refused<T>(outcome: Result<T, Error<std::convert::Infallible>>) -> Result<T, Refusal> {
    outcome.map_err(|error| match error {
        Error::Refused(refusal) => refusal,
        Error::Store(never) => match never {},
    })
}

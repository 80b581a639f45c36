//! The store itself: reads from memory, writes through to etcd.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, task::JoinHandle, time::Instant};
use vmcast_etcd::{Client, Error, Operation, Settings};
use vmcast_proto::registry::{Change, Expected, RecordWrite, Store};

use super::{
    EtcdTls,
    follow::follow,
    key::Layout,
    listed::list,
    plan::{Step, plan, plan_records},
    state::State,
    times::Heard,
};
use crate::admin::{Clock, Kept, Mirror};

/// One member of the cluster has so long to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A write is tried for so long: a cluster needs a second or two for a new leader.
const WRITE_PATIENCE: Duration = Duration::from_secs(6);
/// Between two tries of a write.
const PAUSE: Duration = Duration::from_millis(200);
/// The others' write that won has so long to come by the watch.
const CATCH_UP: Duration = Duration::from_secs(2);

/// Which etcd, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// URLs of its members.
    pub urls: Vec<String>,
    /// What the keys begin with, as `/vmcast/`: registries with different prefixes know nothing of each other.
    pub prefix: String,
    /// User and password, where the cluster wants them.
    pub user: Option<(String, String)>,
    /// By what the members are known, and what they are shown; `None`: in the clear.
    pub tls: Option<EtcdTls>,
    /// How long a lease of the registry lasts: the time that nodes get to renew theirs after an outage.
    pub lease: Duration,
}

/// Why a commit failed, or the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Etcd's client's words.
    #[error(transparent)]
    Etcd(#[from] Error),
    /// Another admin changed the same rows at the same time; nothing was written.
    #[error("another admin changed the same rows at the same time")]
    Conflict,
    /// Certificates that cannot be used.
    #[error("{0}")]
    Tls(String),
}

/// A registry's rows in etcd. Dropped, it ceases to follow them.
#[derive(Debug)]
pub struct EtcdStore {
    shared: Arc<Shared>,
    rows: Mirror,
    runtime: Handle,
    follower: JoinHandle<()>,
    /// Keeps this admin in the list.
    lister: Option<JoinHandle<()>>,
}

/// What the store and its follower share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) state: Mutex<State>,
    /// The revision up to which the follower has heard.
    pub(super) heard: watch::Sender<i64>,
    pub(super) clock: Clock,
    pub(super) lease: Duration,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EtcdStore {
    /// Reads everything and begins to follow it. Rows get times of `clock`, which nobody may set; what it shows need not
    /// be what others' show.
    ///
    /// # Errors
    /// If the cluster cannot be reached or refuses.
    pub async fn open(settings: EtcdSettings, clock: Clock) -> Result<Self, EtcdError> {
        let EtcdSettings { urls, prefix, user, tls, lease } = settings;
        let dial = tls.as_ref().map(EtcdTls::dial).transpose()?.unwrap_or_default();
        let client = Client::new(&Settings { urls, user, patience: PATIENCE, dial })?;
        let mut state =
            State::new(Layout::new(&prefix), u64::try_from(lease.as_millis()).unwrap_or(u64::MAX));
        let snapshot = client.read(state.layout.root()).await?;
        state.reset(snapshot, clock.now());
        let rows = state.rows.clone();
        let shared = Arc::new(Shared {
            client,
            heard: watch::channel(state.heard).0,
            state: Mutex::new(state),
            clock,
            lease,
        });
        let follower = tokio::spawn(follow(Arc::clone(&shared)));
        Ok(Self { shared, rows, runtime: Handle::current(), follower, lister: None })
    }

    /// Takes one step to etcd, and into memory once it is there.
    fn take(&self, step: &Step) -> Result<(), EtcdError> {
        let shared = &self.shared;
        let deadline = Instant::now() + WRITE_PATIENCE;
        let committed = self.runtime.block_on(async {
            loop {
                match shared.client.transact(&step.conditions, &step.operations).await {
                    Err(error) if error.is_outage() && Instant::now() < deadline => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    outcome => return outcome,
                }
            }
        })?;
        if !committed.succeeded {
            self.catch_up(committed.revision);
            // A try that seemed to fail may have been made all the same.
            return if self.is_made(step) { Ok(()) } else { Err(EtcdError::Conflict) };
        }
        let mut state = shared.state();
        for operation in &step.operations {
            match operation.clone() {
                Operation::Put { key, value, .. } => state.put(key, &value, committed.revision, Heard::Own),
                Operation::Delete { key } => state.remove(key, committed.revision),
                Operation::DeletePrefix { prefix } => state.remove_prefix(&prefix, committed.revision),
            }
        }
        Ok(())
    }

    /// Waits until the follower has heard of a revision, within reason.
    fn catch_up(&self, revision: i64) {
        let mut heard = self.shared.heard.subscribe();
        self.runtime.block_on(async {
            let heard = heard.wait_for(|heard| *heard >= revision);
            // If it is not heard in time the caller is told of a conflict, and asks again.
            let _ = tokio::time::timeout(CATCH_UP, heard).await;
        });
    }

    fn is_made(&self, step: &Step) -> bool {
        let state = self.shared.state();
        step.operations.iter().all(|operation| match operation {
            Operation::Put { key, value, .. } => state.has(key, value),
            Operation::Delete { key } => state.revision(key) == 0,
            Operation::DeletePrefix { .. } => true,
        })
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.follower.abort();
        if let Some(lister) = &self.lister {
            lister.abort();
        }
    }
}

/// Must be called where a thread may block: a commit waits for etcd.
impl Store for EtcdStore {
    type Error = EtcdError;
    type Rows = Mirror;

    fn rows(&self) -> &Mirror {
        &self.rows
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), EtcdError> {
        let now = self.shared.clock.now();
        let steps = plan(&self.shared.state(), changes, now);
        steps.iter().try_for_each(|step| self.take(step))
    }

    fn commit_records(&mut self, expected: &[Expected], writes: &[RecordWrite]) -> Result<bool, EtcdError> {
        let Some(step) = plan_records(&self.shared.state(), expected, writes) else { return Ok(false) };
        match self.take(&step) {
            Ok(()) => Ok(true),
            Err(EtcdError::Conflict) => Ok(false),
            Err(error @ (EtcdError::Etcd(_) | EtcdError::Tls(_))) => Err(error),
        }
    }
}

impl Kept for EtcdStore {
    fn list_admin(&mut self, urls: Vec<String>) {
        let listed = self.runtime.spawn(list(Arc::clone(&self.shared), urls));
        if let Some(before) = self.lister.replace(listed) {
            before.abort();
        }
    }

    fn is_conflict(error: &EtcdError) -> bool {
        matches!(error, EtcdError::Conflict)
    }
}

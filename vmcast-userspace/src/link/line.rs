//! A VMR's standing lines to the admins: it answers each command at once and hands on what it says.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::stream::unfold;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, error};
use vmcast_proto::{
    nearest::rtt::Order,
    policy::Policy,
    registry::{NodeId, proof::Notes},
};
use vmcast_signal::v1::{self, command::What};

use super::{
    AdminClient, AdminError, LinkState, LinkStatus,
    admins::AdminChannel,
    attach::RETRY,
    backoff::{Backoff, Random},
    proofs::Proofs,
};
use crate::admin::{MOST_ADMINS, read_policy};

/// Orders that wait for the VMR; further ones are dropped, for they would be late.
const QUEUE: usize = 256;
/// Answers that wait for the line.
const ANSWERS: usize = 64;
/// How often it is looked whether admins are known that have no line.
const LOOK: Duration = Duration::from_secs(1);
/// A line on which the admin says nothing for so long is made anew: it pings every 10 s.
const SILENCE: Duration = Duration::from_secs(45);

/// What a VMR is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmrOrder {
    /// Probe a requester. The time is when the order came.
    Probe(Order, Instant),
    /// Whether an operator has taken the VMR out of service.
    Draining(bool),
    /// Who may send and receive what, from now on.
    Policy(Policy),
    /// Another VMR goes out of service.
    Going(NodeId),
}

/// What the VMR notes of the admin's return probes: by whoever receives, and told on the line.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedNotes(Arc<Mutex<Notes>>);

impl SharedNotes {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn on_discovery(&self, nonce: u32) {
        self.notes().on_discovery(nonce);
    }

    /// The answer to a return probe; `None` if it is one of a later version.
    fn answer(&self, v1::ReturnProbe { tag }: v1::ReturnProbe) -> Option<v1::Noted> {
        let nonces = self.notes().on_order(u16::try_from(tag).ok()?);
        Some(v1::Noted { tag, nonces })
    }
}

/// Starts to hold lines to all admins that are known, which end with the receiver. Without a lease, of which `status`
/// tells, an admin takes none.
///
/// One of them, to the admin that the VMR is registered at, is its own: by it the VMR is looked for and says what it
/// refuses. The others stand beside, so that a search by round-trip time at any admin reaches every VMR, and so do what
/// an operator does at any admin and its policy.
pub(super) fn hold(
    client: AdminClient,
    vmr: NodeId,
    status: watch::Receiver<LinkStatus>,
    mut random: Random,
    refused: watch::Receiver<v1::RefusedJoins>,
    notes: SharedNotes,
    proofs: Proofs,
) -> (mpsc::Receiver<VmrOrder>, tokio::task::JoinHandle<()>) {
    let (orders, receiver) = mpsc::channel(QUEUE);
    let told = Arc::default();
    let holder = Holder { client, vmr, status, refused, notes, proofs, orders, told };
    let task = tokio::spawn(async move {
        // They end with this task.
        let mut tasks = JoinSet::new();
        let mut lines: BTreeMap<String, AbortHandle> = BTreeMap::new();
        while !holder.orders.is_closed() {
            let admins: Vec<_> = holder.client.each().into_iter().take(MOST_ADMINS).collect();
            lines.retain(|url, line| {
                let is_known = admins.iter().any(|admin| admin.url == *url);
                if !is_known {
                    line.abort();
                }
                is_known
            });
            for admin in admins {
                lines.entry(admin.url.clone()).or_insert_with(|| {
                    let backoff = Backoff::new(RETRY.0, RETRY.1, random.number());
                    tasks.spawn(holder.clone().hold(admin, backoff))
                });
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                () = holder.orders.closed() => {}
            }
            while tasks.try_join_next().is_some() {}
        }
    });
    (receiver, task)
}

/// What every line of a VMR needs.
#[derive(Clone)]
struct Holder {
    client: AdminClient,
    vmr: NodeId,
    status: watch::Receiver<LinkStatus>,
    refused: watch::Receiver<v1::RefusedJoins>,
    notes: SharedNotes,
    proofs: Proofs,
    orders: mpsc::Sender<VmrOrder>,
    /// The newest version of the policy that any line has told.
    told: Arc<AtomicU64>,
}

impl Holder {
    /// Holds the line to an admin.
    async fn hold(mut self, admin: Arc<AdminChannel>, mut backoff: Backoff) {
        let is_registered = |status: &LinkStatus| matches!(status.state, LinkState::Registered { .. });
        while !self.orders.is_closed() {
            if self.status.wait_for(is_registered).await.is_err() {
                return;
            }
            let beside = self.is_beside(&admin);
            match self.attend(&admin, beside, &mut backoff).await {
                Ok(Ended::Turned) => continue,
                Ok(Ended::Gone) => debug!(admin = admin.url, beside, "the line to the admin ended"),
                Err(failure) => debug!(admin = admin.url, beside, %failure, "no line to the admin"),
            }
            sleep(backoff.wait()).await;
        }
    }

    /// Whether the VMR's own line is that to another admin.
    fn is_beside(&self, admin: &AdminChannel) -> bool {
        match &self.status.borrow().state {
            LinkState::Registered { admin: own } => *own != admin.url,
            LinkState::Connecting | LinkState::Refused { .. } | LinkState::Lost { .. } => true,
        }
    }

    async fn attend(
        &mut self,
        admin: &Arc<AdminChannel>,
        beside: bool,
        backoff: &mut Backoff,
    ) -> Result<Ended, AdminError> {
        let (answers, queue) = mpsc::channel(ANSWERS);
        let node_id = self.vmr.to_string();
        // The queue is new and has room.
        let _ = answers.try_send(v1::AttendRequest { node_id, beside, ..v1::AttendRequest::default() });
        let outgoing = unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
        let mut commands = self.client.attend_at(admin, outgoing).await?;
        // The admin may remember what was so before.
        self.refused.mark_changed();
        let mut silent_at = Instant::now() + SILENCE;
        loop {
            let command = tokio::select! {
                command = commands.message() => match command {
                    Ok(Some(command)) => command,
                    Ok(None) => return Ok(Ended::Gone),
                    Err(status) => return Err(AdminError::refused(&status)),
                },
                () = sleep_until(silent_at) => return Ok(Ended::Gone),
                Ok(()) = self.status.changed() => {
                    let is_lost = !matches!(self.status.borrow_and_update().state, LinkState::Registered { .. });
                    if is_lost || self.is_beside(admin) == beside {
                        continue;
                    }
                    return Ok(Ended::Turned);
                }
                Ok(()) = self.refused.changed(), if !beside => {
                    let refused = Some(self.refused.borrow_and_update().clone());
                    let said = v1::AttendRequest { refused, ..v1::AttendRequest::default() };
                    if answers.try_send(said).is_err() {
                        return Ok(Ended::Gone);
                    }
                    continue;
                }
            };
            let now = Instant::now();
            silent_at = now + SILENCE;
            backoff.reset();
            let noted = match &command.what {
                Some(What::ReturnProbe(probe)) => self.notes.answer(*probe),
                Some(_) | None => None,
            };
            let answered =
                v1::AttendRequest { answered: command.number, noted, ..v1::AttendRequest::default() };
            if answers.try_send(answered).is_err() {
                return Ok(Ended::Gone);
            }
            let Some(order) = command.what.and_then(|what| self.order(now, what, beside)) else { continue };
            // A policy is worth more than the line: on the next one it comes again.
            let policy = match &order {
                VmrOrder::Policy(policy) => Some(policy.version),
                VmrOrder::Probe(..) | VmrOrder::Draining(_) | VmrOrder::Going(_) => None,
            };
            if let Err(order) = self.orders.try_send(order) {
                debug!(?order, "an order comes faster than they are carried out");
                if policy.is_some() {
                    return Ok(Ended::Gone);
                }
            } else if let Some(version) = policy {
                self.told.store(version, Ordering::Relaxed);
            }
        }
    }

    /// What a command means for the VMR; `None` if that is nothing that it must carry out.
    fn order(&self, now: Instant, what: What, beside: bool) -> Option<VmrOrder> {
        match what {
            What::Probe(order) => {
                let v1::ProbeOrder { opening_nonce, probe_nonce, wait_micros } = order;
                let wait = Duration::from_micros(wait_micros.into());
                Some(VmrOrder::Probe(Order { opening_nonce, probe_nonce, wait }, now))
            }
            What::Draining(draining) => Some(VmrOrder::Draining(draining)),
            // Of one version the VMR's own admin knows best who is at which tunnel; an older one is of an admin that
            // has not heard of the newer yet.
            What::Policy(policy) if beside && policy.version <= self.told.load(Ordering::Relaxed) => None,
            What::Policy(policy) => match read_policy(policy) {
                Ok(policy) => Some(VmrOrder::Policy(policy)),
                Err(error) => {
                    error!(%error, "the admin's policy cannot be read, and the one before holds on");
                    None
                }
            },
            What::Going(id) => match id.parse() {
                Ok(id) => Some(VmrOrder::Going(id)),
                Err(error) => {
                    debug!(id, %error, "the admin names no VMR");
                    None
                }
            },
            What::Proofs(told) => {
                if !beside {
                    self.proofs.on_told(now, told);
                }
                None
            }
            // Each is answered, and so is what is not known here.
            What::Ping(_) | What::ReturnProbe(_) => None,
        }
    }
}

/// How a line ended without a failure.
enum Ended {
    /// It is over.
    Gone,
    /// It is the VMR's own by now, or no longer.
    Turned,
}

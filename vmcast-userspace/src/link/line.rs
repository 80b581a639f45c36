//! A VMR's standing line to the admin: it answers each command at once and hands on what it says.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::stream::unfold;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, error};
use vmcast_proto::{
    nearest::rtt::Order,
    policy::Policy,
    registry::{NodeId, proof::Notes},
};
use vmcast_signal::v1::{self, command::What};

use super::{AdminClient, AdminError, LinkState, LinkStatus, backoff::Backoff, proofs::Proofs};
use crate::admin::read_policy;

/// Orders that wait for the VMR; further ones are dropped, for they would be late.
const QUEUE: usize = 256;
/// Answers that wait for the line.
const ANSWERS: usize = 64;
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

/// Starts to hold the line; it ends with the receiver. Without a lease, of which `status` tells, the admin takes none.
pub(super) fn hold(
    client: AdminClient,
    vmr: NodeId,
    mut status: watch::Receiver<LinkStatus>,
    mut backoff: Backoff,
    mut refused: watch::Receiver<v1::RefusedJoins>,
    notes: SharedNotes,
    proofs: Proofs,
) -> (mpsc::Receiver<VmrOrder>, tokio::task::JoinHandle<()>) {
    let (orders, receiver) = mpsc::channel(QUEUE);
    let task = tokio::spawn(async move {
        while !orders.is_closed() {
            let is_registered = |status: &LinkStatus| matches!(status.state, LinkState::Registered { .. });
            if status.wait_for(is_registered).await.is_err() {
                return;
            }
            match attend(&client, &vmr, &orders, &mut backoff, &mut refused, &notes, &proofs).await {
                Ok(()) => debug!("the line to the admin ended"),
                Err(failure) => debug!(%failure, "no line to the admin"),
            }
            sleep(backoff.wait()).await;
        }
    });
    (receiver, task)
}

async fn attend(
    client: &AdminClient,
    vmr: &NodeId,
    orders: &mpsc::Sender<VmrOrder>,
    backoff: &mut Backoff,
    refused: &mut watch::Receiver<v1::RefusedJoins>,
    notes: &SharedNotes,
    proofs: &Proofs,
) -> Result<(), AdminError> {
    let (answers, queue) = mpsc::channel(ANSWERS);
    let first = v1::AttendRequest { node_id: vmr.to_string(), answered: 0, ..v1::AttendRequest::default() };
    // The queue is new and has room.
    let _ = answers.try_send(first);
    let outgoing = unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
    let mut commands = client.attend(outgoing).await?;
    // The admin may remember what was so before.
    refused.mark_changed();
    let mut silent_at = Instant::now() + SILENCE;
    loop {
        let command = tokio::select! {
            command = commands.message() => match command {
                Ok(Some(command)) => command,
                Ok(None) => return Ok(()),
                Err(status) => return Err(AdminError::refused(&status)),
            },
            () = sleep_until(silent_at) => return Ok(()),
            Ok(()) = refused.changed() => {
                let refused = Some(refused.borrow_and_update().clone());
                let said = v1::AttendRequest { refused, ..v1::AttendRequest::default() };
                if answers.try_send(said).is_err() {
                    return Ok(());
                }
                continue;
            }
        };
        let now = Instant::now();
        silent_at = now + SILENCE;
        backoff.reset();
        let noted = match &command.what {
            Some(What::ReturnProbe(probe)) => notes.answer(*probe),
            Some(_) | None => None,
        };
        let answer =
            v1::AttendRequest { node_id: String::new(), answered: command.number, noted, refused: None };
        if answers.try_send(answer).is_err() {
            return Ok(());
        }
        let order = match command.what {
            Some(What::Probe(order)) => {
                let v1::ProbeOrder { opening_nonce, probe_nonce, wait_micros } = order;
                let wait = Duration::from_micros(wait_micros.into());
                VmrOrder::Probe(Order { opening_nonce, probe_nonce, wait }, now)
            }
            Some(What::Draining(draining)) => VmrOrder::Draining(draining),
            Some(What::Policy(policy)) => match read_policy(policy) {
                Ok(policy) => VmrOrder::Policy(policy),
                Err(error) => {
                    error!(%error, "the admin's policy cannot be read, and the one before holds on");
                    continue;
                }
            },
            Some(What::Going(id)) => match id.parse() {
                Ok(id) => VmrOrder::Going(id),
                Err(error) => {
                    debug!(id, %error, "the admin names no VMR");
                    continue;
                }
            },
            Some(What::Proofs(told)) => {
                proofs.on_told(now, told);
                continue;
            }
            // What is not known here is answered all the same.
            Some(What::Ping(_) | What::ReturnProbe(_)) | None => continue,
        };
        // A policy is worth more than the line: on the next one it comes again.
        let matters = matches!(order, VmrOrder::Policy(_));
        if let Err(order) = orders.try_send(order) {
            debug!(?order, "an order comes faster than they are carried out");
            if matters {
                return Ok(());
            }
        }
    }
}

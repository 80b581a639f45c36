//! The standing lines of VMRs: what they are told at once, and how long their answers take.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use vmcast_proto::{
    nearest::rtt::{Averages, WaitRule},
    registry::NodeId,
};
use vmcast_signal::{
    tonic::{Status, Streaming},
    v1::{self, command::What},
};

use super::{probe_limit::ProbeLimit, refused::Refusals};

/// Commands that wait for a line; a VMR that does not take so many loses its line.
const QUEUE: usize = 256;
/// Between two measurements of one VMR, once it is known.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A VMR that does not answer a ping for so long loses its line.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two times that VMRs are told other proofs of what they know.
const PROOFS: Duration = Duration::from_secs(5);

/// How the nearest VMR is found on a miss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// The requester measures hops.
    #[default]
    Hops,
    /// VMRs probe the requester, each after this wait.
    Rtt(WaitRule),
}

/// Numbers of the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounters {
    /// Lines that stand.
    pub lines: u64,
    /// Pings answered.
    pub pings: u64,
    /// Orders to probe.
    pub orders: u64,
    /// Commands that a line did not take.
    pub refused: u64,
    /// Policies that VMRs were told after a change.
    pub policies: u64,
    /// Searches in which VMRs were not let probe, for there were too many.
    pub limited: u64,
    /// Searches that went by hops, for a VMR had no line here.
    pub unreached: u64,
}

type Outgoing = mpsc::Sender<Result<v1::Command, Status>>;

/// Where what a VMR says on its line goes, beside the times of its answers.
#[derive(Debug)]
pub(super) struct Said {
    /// Whose joins it refuses.
    pub(super) refusals: Refusals,
    /// Return probes that came to it.
    pub(super) noted: mpsc::Sender<v1::Noted>,
}

impl Said {
    /// Nothing is kept.
    fn nothing() -> Self {
        Self { refusals: Refusals::default(), noted: mpsc::channel(1).0 }
    }

    fn take(&self, answer: v1::AttendRequest) {
        if answer.refused.is_some() {
            self.refusals.send_replace(answer.refused);
        }
        if let Some(notes) = answer.noted {
            // What nobody waits for is lost, and asked for again.
            let _ = self.noted.try_send(notes);
        }
    }
}

/// The line of one VMR.
#[derive(Debug)]
struct Line {
    /// A newer line has a larger one.
    number: u64,
    line: mpsc::Sender<What>,
    /// Whether there are proofs that it was not told, or the whole policy.
    lacks_proofs: bool,
    /// Whether it was told that it goes out of service.
    draining: bool,
}

#[derive(Debug, Default)]
struct State {
    averages: Averages,
    lines: BTreeMap<NodeId, Line>,
    next: u64,
    /// When other proofs were last told.
    proofs: Option<Instant>,
    searches: ProbeLimit,
    counters: LineCounters,
    /// What VMRs are to carry out, once it is known.
    policy: Option<v1::Policy>,
}

/// All lines; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Mutex<State>>);

impl Lines {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The average round-trip time of a VMR.
    pub(super) fn average(&self, vmr: &NodeId) -> Option<Duration> {
        self.state().averages.of(vmr)
    }

    /// The largest average.
    pub(super) fn max(&self) -> Option<Duration> {
        self.state().averages.max()
    }

    pub(super) fn counters(&self) -> LineCounters {
        let state = self.state();
        LineCounters { lines: state.lines.len() as u64, ..state.counters }
    }

    /// How long the last of `vmrs` waits before it probes; `None` if one of them cannot, for it has no line here, or none
    /// that has answered. It may be at another admin and be the nearest: then none of them is to probe.
    pub(super) fn longest_wait(&self, rule: WaitRule, vmrs: &[NodeId]) -> Option<Duration> {
        let mut state = self.state();
        let waits = state.averages.waits(rule, vmrs);
        if waits.len() < vmrs.len() {
            state.counters.unreached += 1;
            return None;
        }
        waits.iter().map(|(_, wait)| *wait).max()
    }

    /// Whether VMRs may be made to probe now for a requester at an address.
    pub(super) fn admits_search(&self, address: IpAddr) -> bool {
        let mut state = self.state();
        let admitted = state.searches.admit(crate::clock::now(), address);
        state.counters.limited += u64::from(!admitted);
        admitted
    }

    /// Orders `vmrs` to probe whoever has opened a way with the first nonce. Returns how many were told.
    pub(super) fn order_probes(&self, rule: WaitRule, nonces: [u32; 2], vmrs: &[NodeId]) -> u32 {
        let waits = self.state().averages.waits(rule, vmrs);
        let [opening_nonce, probe_nonce] = nonces;
        let mut told = 0;
        for (vmr, wait) in waits {
            let wait_micros = u32::try_from(wait.as_micros()).unwrap_or(u32::MAX);
            let order = v1::ProbeOrder { opening_nonce, probe_nonce, wait_micros };
            told += u32::from(self.tell(&vmr, What::Probe(order)));
        }
        self.state().counters.orders += u64::from(told);
        told
    }

    /// Tells a VMR something at once; false if it has no line.
    pub(super) fn tell(&self, vmr: &NodeId, what: What) -> bool {
        let mut state = self.state();
        let told = state.lines.get(vmr).is_some_and(|to| to.line.try_send(what).is_ok());
        state.counters.refused += u64::from(!told);
        told
    }

    /// Tells VMRs the policy, if it is another one for them than they know. One that does not take it loses its line,
    /// and hears of it on the next.
    pub(super) fn set_policy(&self, policy: v1::Policy) {
        let mut state = self.state();
        let State { policy: known, lines, counters, proofs, .. } = &mut *state;
        let is_known = known.as_ref() == Some(&policy);
        let now = Instant::now();
        let renews = proofs.is_none_or(|told| now.saturating_duration_since(told) >= PROOFS);
        if is_known && !(renews && lines.values().any(|to| to.lacks_proofs)) {
            return;
        }
        let mut renewed = false;
        lines.retain(|vmr, to| {
            let told = of_vmr(&policy, vmr);
            if let Some(known) = known.as_ref().map(|known| of_vmr(known, vmr)) {
                to.lacks_proofs |= known != told;
                let is_due = renews && to.lacks_proofs;
                if !is_due && says_the_same(known, told.clone()) {
                    return true;
                }
            }
            renewed |= std::mem::take(&mut to.lacks_proofs);
            let is_told = to.line.try_send(What::Policy(told)).is_ok();
            counters.policies += u64::from(is_told);
            is_told
        });
        if renewed {
            *proofs = Some(now);
        }
        *known = Some(policy);
    }

    /// Tells VMRs which of them `drains`, where that is another than they know: the operator may have said it to another
    /// admin.
    pub(super) fn follow_draining(&self, drains: impl Fn(&NodeId) -> bool) {
        let mut state = self.state();
        let mut going = Vec::new();
        for (vmr, to) in &mut state.lines {
            let draining = drains(vmr);
            // What the line does not take now it is told next time.
            if draining != to.draining && to.line.try_send(What::Draining(draining)).is_ok() {
                to.draining = draining;
                going.extend(draining.then(|| vmr.to_string()));
            }
        }
        drop(state);
        going.into_iter().for_each(|vmr| self.tell_all(&What::Going(vmr)));
    }

    /// Tells every VMR something at once. Who does not hear it sees it at its next renewal.
    pub(super) fn tell_all(&self, what: &What) {
        let mut state = self.state();
        let refused = state.lines.values().filter(|to| to.line.try_send(what.clone()).is_err()).count();
        state.counters.refused += refused as u64;
    }

    /// Takes a line of a VMR whose own stands at another admin; `None` if one of it stands here. The rest as [`Self::open`].
    pub(super) fn open_beside(
        &self,
        vmr: &NodeId,
        (draining, stale): (bool, bool),
        answers: Streaming<v1::AttendRequest>,
    ) -> Option<mpsc::Receiver<Result<v1::Command, Status>>> {
        let stands = self.state().lines.get(vmr).is_some_and(|line| !line.line.is_closed());
        (!stands).then(|| self.open(vmr.clone(), (draining, stale), answers, Said::nothing()))
    }

    /// Takes a line of a VMR; an older one of the same VMR ends. What the VMR says goes to `said`, as long as the line
    /// stands. It is told whether it is `draining` and, unless the registry is `stale`, the policy.
    pub(super) fn open(
        &self,
        vmr: NodeId,
        (draining, stale): (bool, bool),
        answers: Streaming<v1::AttendRequest>,
        said: Said,
    ) -> mpsc::Receiver<Result<v1::Command, Status>> {
        let (outgoing, commands) = mpsc::channel(QUEUE);
        let (line, orders) = mpsc::channel(QUEUE);
        if draining {
            // The queue is empty, so it has room.
            let _ = line.try_send(What::Draining(true));
        }
        let mut state = self.state();
        if !stale && let Some(policy) = &state.policy {
            // There is room for a second one, too.
            let _ = line.try_send(What::Policy(of_vmr(policy, &vmr)));
        }
        state.next += 1;
        let number = state.next;
        state.lines.insert(vmr.clone(), Line { number, line, lacks_proofs: stale, draining });
        drop(state);
        tokio::spawn(self.clone().attend(vmr, number, outgoing, orders, answers, said));
        commands
    }

    async fn attend(
        self,
        vmr: NodeId,
        line: u64,
        outgoing: Outgoing,
        mut orders: mpsc::Receiver<What>,
        mut answers: Streaming<v1::AttendRequest>,
        said: Said,
    ) {
        let mut pings = interval(PING_INTERVAL);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        let mut asked: Option<(u64, Instant)> = None;
        loop {
            let what = tokio::select! {
                answer = answers.message() => {
                    let Ok(Some(answer)) = answer else { break };
                    if let Some((_, at)) = asked.take_if(|(ping, _)| *ping == answer.answered) {
                        let mut state = self.state();
                        state.averages.note(&vmr, at.elapsed());
                        state.counters.pings += 1;
                    }
                    said.take(answer);
                    continue;
                }
                // The VMR is gone or shut out.
                () = outgoing.closed() => break,
                order = orders.recv() => match order {
                    Some(order) => order,
                    // A newer line of this VMR stands.
                    None => break,
                },
                _ = pings.tick() => match asked {
                    Some((_, at)) if at.elapsed() > PATIENCE => break,
                    Some(_) => continue,
                    None => What::Ping(v1::Ping {}),
                },
            };
            number += 1;
            if matches!(what, What::Ping(_)) {
                asked = Some((number, Instant::now()));
            }
            if outgoing.try_send(Ok(v1::Command { number, what: Some(what) })).is_err() {
                break;
            }
        }
        let mut state = self.state();
        if state.lines.get(&vmr).is_some_and(|present| present.number == line) {
            state.lines.remove(&vmr);
            state.averages.forget(&vmr);
        }
    }
}

/// The policy for one VMR: what others can prove by their Response MACs is no matter of its.
fn of_vmr(policy: &v1::Policy, vmr: &NodeId) -> v1::Policy {
    let is_its = |claim: &&v1::Claim| claim.tunnel.as_ref().is_some_and(|own| own.vmr_id == vmr.as_str());
    let claims = policy.claims.iter().filter(is_its).cloned().collect();
    let (rules, known_by_tunnels) = (policy.rules.clone(), policy.known_by_tunnels.clone());
    v1::Policy { claims, rules, known_by_tunnels, ..*policy }
}

/// Whether two policies are the same but for proofs, which are others with every handshake of a tunnel: these go out
/// [`PROOFS`] apart, for a VMR that believes a node already needs none.
fn says_the_same(mut one: v1::Policy, mut other: v1::Policy) -> bool {
    for own in one.claims.iter_mut().chain(&mut other.claims).filter_map(|claim| claim.tunnel.as_mut()) {
        (own.nonce, own.response_mac) = (0, Vec::new());
    }
    one == other
}

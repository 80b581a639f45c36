//! A client of the scenario: joins and leaves by its script, and is watched on its wire meanwhile.

use std::{collections::VecDeque, net::Ipv4Addr, time::Duration};

use super::{
    STREAM, Stage,
    flow::Span,
    report::{ClientReport, SessionReport, WireReport},
    script::Membership,
};
use crate::{
    LabError,
    judge::{Judgement, LiveJudge, Received, STALLED, judge},
    topology::Client,
    traffic::{Carriage, Meter, Receiver, Recorder, Session, Witness},
};

/// How long after a leave packets may still come.
const LEAVE_GRACE: Duration = Duration::from_secs(1);

/// A session this long without a packet is a failure; a shorter one may just not have begun.
const SILENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
enum State {
    /// Not a member; forbidden on the wire from the moment given, or already.
    Away {
        forbidden_from: Option<Duration>,
    },
    Member(Box<Membered>),
}

#[derive(Debug)]
struct Membered {
    receiver: Receiver,
    judge: LiveJudge,
    leave: Option<Duration>,
}

/// A client of the scenario.
#[derive(Debug)]
pub(super) struct Player {
    client: Client,
    witness: Witness,
    script: VecDeque<Membership>,
    state: State,
    past: Vec<SessionReport>,
    /// All memberships; the last goes on while it is a member.
    spans: Vec<Span>,
    meter: Meter,
}

/// What a client shows at one moment.
#[derive(Clone, Debug)]
pub(super) struct PlayerView {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) packets: u64,
    pub(super) bit_rate: f64,
    pub(super) missing: u64,
    pub(super) loss: f64,
    pub(super) continuity_errors: u64,
    pub(super) join_to_first: Option<Duration>,
    pub(super) stray: u64,
}

impl Player {
    pub(super) fn new(stage: &Stage, client: &Client, script: Vec<Membership>) -> Result<Self, LabError> {
        let witness = Witness::start(&client.node, "eth0", STREAM, stage.clock)?;
        witness.forbid(true);
        Ok(Self {
            client: client.clone(),
            witness,
            script: script.into(),
            state: State::Away { forbidden_from: None },
            past: Vec::new(),
            spans: Vec::new(),
            meter: Meter::default(),
        })
    }

    /// Does what is due; `begin` is when the script began.
    pub(super) fn advance(&mut self, stage: &Stage, begin: Duration) -> Result<(), LabError> {
        let now = stage.clock.now();
        match &mut self.state {
            State::Away { forbidden_from } => {
                if forbidden_from.is_some_and(|from| now >= from) {
                    *forbidden_from = None;
                    self.witness.forbid(true);
                }
                if let Some(next) = self.script.front().copied().filter(|next| now >= begin + next.join) {
                    self.script.pop_front();
                    self.join(stage, next.leave.map(|leave| begin + leave))?;
                }
            }
            State::Member(member) => {
                if member.leave.is_some_and(|leave| now >= leave) {
                    self.leave(stage)?;
                }
            }
        }
        Ok(())
    }

    fn join(&mut self, stage: &Stage, leave: Option<Duration>) -> Result<(), LabError> {
        self.witness.forbid(false);
        let record = usize::try_from(stage.recorder.counts().packets).unwrap_or(usize::MAX);
        // Packets that were under way at the join may be received.
        let record = record.saturating_sub(500);
        let receiver = Receiver::join(&self.client.node, STREAM, stage.clock)?;
        let joined = receiver.look(|session| session.joined_at);
        self.spans.push(Span { joined, left: None, record });
        self.state = State::Member(Box::new(Membered { receiver, judge: LiveJudge::new(record), leave }));
        Ok(())
    }

    /// Leaves, if it is a member, and judges the session.
    pub(super) fn leave(&mut self, stage: &Stage) -> Result<(), LabError> {
        let away = State::Away { forbidden_from: Some(stage.clock.now() + LEAVE_GRACE) };
        if let State::Member(member) = std::mem::replace(&mut self.state, away) {
            let session = member.receiver.leave()?;
            let span = self.spans.last_mut().expect("a member has joined");
            span.left = session.left_at;
            self.past.push(session_report(&stage.recorder, span.record, &session));
        }
        Ok(())
    }

    /// Whether it has left long enough ago that nothing may come any more.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.state, State::Away { forbidden_from: None })
    }

    /// Its address, and its memberships so far.
    pub(super) fn memberships(&self) -> (Ipv4Addr, &[Span]) {
        (self.client.address, &self.spans)
    }

    /// Joins no more.
    pub(super) fn end_script(&mut self) {
        self.script.clear();
    }

    pub(super) fn view(&mut self, recorder: &Recorder, now: Duration) -> PlayerView {
        let mut view = PlayerView {
            name: self.client.node.node().to_owned(),
            state: String::new(),
            packets: self.past.iter().map(|session| session.packets).sum(),
            bit_rate: 0.0,
            missing: self.past.iter().map(|session| session.judgement.missing()).sum(),
            loss: 0.0,
            continuity_errors: self.past.iter().map(|session| session.continuity_errors).sum(),
            join_to_first: self
                .past
                .last()
                .and_then(|session| session.join_to_first_ms)
                .map(from_milliseconds),
            stray: self.witness.stray().packets,
        };
        let mut bytes: u64 = self.past.iter().map(|session| session.bytes).sum();
        match &mut self.state {
            State::Away { forbidden_from: Some(_) } => "leaving".clone_into(&mut view.state),
            State::Away { forbidden_from: None } if self.past.is_empty() && self.script.is_empty() => {
                "never joins".clone_into(&mut view.state);
            }
            State::Away { forbidden_from: None } if self.past.is_empty() => {
                "not yet".clone_into(&mut view.state)
            }
            State::Away { forbidden_from: None } => "left".clone_into(&mut view.state),
            State::Member(member) => {
                let from = member.judge.received_from();
                let (fingerprints, first_at, counts) = member.receiver.look(|session| {
                    view.continuity_errors += session.continuity.errors() + session.continuity.malformed();
                    view.join_to_first = session.join_to_first();
                    (session.received[from..].to_vec(), session.first_at, session.counts)
                });
                let received = Received { fingerprints: &fingerprints, first_at };
                // Read after what was received, so that it contains all of it.
                let sent = recorder.sent_from(member.judge.sent_from());
                let judgement = member.judge.update(&sent, received, now.saturating_sub(STALLED));
                view.state = if counts.packets > 0 { "member" } else { "joining" }.to_owned();
                view.packets += counts.packets;
                view.missing += judgement.missing();
                view.loss = judgement.loss();
                bytes += counts.bytes;
            }
        }
        view.bit_rate = self.meter.bit_rate(now, bytes);
        view
    }

    pub(super) fn report(&self) -> ClientReport {
        let native =
            self.witness.incoming(Carriage::Native).packets + self.witness.outgoing(Carriage::Native).packets;
        ClientReport {
            client: self.client.node.node().to_owned(),
            address: self.client.address,
            sessions: self.past.clone(),
            wire: WireReport {
                tunnelled: self.witness.incoming(Carriage::Amt).packets,
                native,
                stray: self.witness.stray().packets,
            },
        }
    }
}

fn from_milliseconds(milliseconds: f64) -> Duration {
    Duration::from_secs_f64(milliseconds / 1e3)
}

fn session_report(recorder: &Recorder, record: usize, session: &Session) -> SessionReport {
    let until = session.left_at.unwrap_or_default();
    let received = Received { fingerprints: &session.received, first_at: session.first_at };
    let judgement: Judgement = judge(&recorder.sent_from(record), received, until);
    let duration = until.saturating_sub(session.joined_at);
    SessionReport {
        joined_s: session.joined_at.as_secs_f64(),
        left_s: until.as_secs_f64(),
        join_to_first_ms: session.join_to_first().map(|time| time.as_secs_f64() * 1e3),
        packets: session.counts.packets,
        bytes: session.counts.bytes,
        judgement,
        continuity_errors: session.continuity.errors(),
        malformed: session.continuity.malformed(),
        silent: session.received.is_empty() && duration >= SILENCE,
    }
}

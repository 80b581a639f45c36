//! The task that keeps a node registered and its list of VMRs fresh.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};
use vmcast_api::{AdminLink, AdminLinkState};
use vmcast_proto::{
    nearest,
    registry::{AnswerKind, NodeId, OwnTunnel, Prefix, Registration, Role},
};
use vmcast_signal::v1;

use crate::{config::Fallback, identity::NodeIdentity};

use super::{
    AdminClient, AdminError, Ask, RankedVmrs,
    backoff::{Backoff, Random},
    client::Granted,
    find::Finder,
    kept::KeptVmrs,
    line::{SharedNotes, VmrOrder},
    naming::Naming,
    proofs::Proofs,
    refused::{self, RefusedGroups, RefusedQuestion},
    renew,
};

/// First and longest wait after a failure.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// VMRs that are wanted beside one that the admin knows to be the nearest: where to go when it dies.
const OTHERS: u32 = 4;
/// VMRs of the list of which the admin is asked whether they go out of service.
const UPSTREAMS: usize = 8;
/// A search is hurried so often.
const HURRY: Duration = Duration::from_secs(5);
/// If no admin has answered after so long, a node goes on with what it knows from before. One that fails at once is not
/// waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// The last call of a node that ends may take so long.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the link needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// URLs of the admins, `http://host:port`, in the order to try them.
    pub admins: Vec<String>,
    /// What this node says of itself.
    pub registration: Registration,
    /// How often to ask for the nearest VMR again.
    pub requery: Duration,
    /// The address to call and to measure from, if it matters.
    pub local: Option<IpAddr>,
    /// How to measure.
    pub probe: nearest::Config,
    /// For nonces and for the jitter of retries; unguessable and different on every node.
    pub seed: u64,
    /// Who this node is by certificate; without one nothing is encrypted, and the URLs are `http://`.
    pub identity: Option<Arc<NodeIdentity>>,
}

impl Settings {
    /// The usual time between two questions for the nearest VMR.
    pub const REQUERY: Duration = Duration::from_secs(60);
}

/// How the link stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// No admin has answered yet.
    Connecting,
    /// The lease runs.
    Registered {
        /// The URL of the admin that granted it.
        admin: String,
    },
    /// The admin answered and does not want this node; it is asked again.
    Refused {
        /// The URL of the admin.
        admin: String,
        /// Why.
        reason: String,
        /// Whether this node is out, as after its revocation. Else the admin is full, say, or another node has the
        /// endpoint yet: what stands in for an admin goes on.
        shut_out: bool,
    },
    /// The last attempt failed; the next is under way or waits.
    Lost {
        /// Why.
        reason: String,
    },
}

/// How the link stands, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// How it stands.
    pub state: LinkState,
    /// Since when.
    pub since: Instant,
}

/// A node's link to the admin; dropped, it ends without a farewell, and the lease runs out.
#[derive(Debug)]
pub struct Attachment {
    upstreams: watch::Receiver<Option<RankedVmrs>>,
    draining: watch::Receiver<BTreeSet<NodeId>>,
    status: watch::Receiver<LinkStatus>,
    first_admin: String,
    client: AdminClient,
    commands: mpsc::UnboundedSender<Command>,
    /// What the admin tells a VMR, until somebody has taken it.
    orders: Option<mpsc::Receiver<VmrOrder>>,
    /// A VMR's line.
    line: Option<JoinHandle<()>>,
    /// Asks why joins are refused.
    asking: JoinHandle<()>,
    /// What a VMR refuses, for its line.
    refuses: watch::Sender<v1::RefusedJoins>,
    /// What this node asks about refusals, and what it is told.
    refused_question: watch::Sender<Option<RefusedQuestion>>,
    refused: watch::Receiver<RefusedGroups>,
    /// What was last said of this node's tunnels.
    own_tunnels: watch::Sender<Vec<OwnTunnel>>,
    notes: SharedNotes,
    proofs: Proofs,
    task: Option<JoinHandle<()>>,
    renewal: Option<AbortHandle>,
}

#[derive(Debug)]
enum Command {
    VmrDead(NodeId, SocketAddr),
    LookAgain,
    VmrGoing(NodeId),
    Moved(Vec<SocketAddr>),
    Serves(u32),
    HasSources(Vec<Prefix>),
    At(Vec<OwnTunnel>),
    Close,
}

/// Starts to register and to look for VMRs. Needs a running tokio runtime.
///
/// # Errors
/// If the URLs are wrong. An admin that does not answer is none: it is tried again.
pub fn attach(settings: Settings) -> Result<Attachment, AdminError> {
    let client = AdminClient::new(&settings.admins, settings.local, settings.identity.as_ref())?;
    let (upstreams_tx, upstreams) = watch::channel(None);
    let (draining_tx, draining) = watch::channel(BTreeSet::new());
    let first = LinkStatus { state: LinkState::Connecting, since: Instant::now() };
    let (status_tx, status) = watch::channel(first);
    let known = client.clone();
    let first_admin = settings.admins.first().cloned().unwrap_or_default();
    let (commands, commands_rx) = mpsc::unbounded_channel();
    let mut random = Random::new(settings.seed);
    let mut backoff = || Backoff::new(RETRY.0, RETRY.1, random.number());
    let (register_backoff, find_backoff) = (backoff(), backoff());
    let (notes, proofs) = (SharedNotes::default(), Proofs::default());
    let (refuses, refuses_rx) = watch::channel(v1::RefusedJoins::default());
    let (refused_question, questions) = watch::channel(None);
    let (refused_tx, refused) = watch::channel(RefusedGroups::new());
    let id = settings.registration.id.clone();
    let (orders, line) = match settings.registration.role {
        Role::Vmr { .. } => {
            let (notes, proofs) = (notes.clone(), proofs.clone());
            let (client, id, status) = (client.clone(), id.clone(), status.clone());
            let retry = Random::new(random.number());
            let (orders, line) = super::line::hold(client, id, status, retry, refuses_rx, notes, proofs);
            (Some(orders), Some(line))
        }
        Role::Agent => (None, None),
    };
    let asking = tokio::spawn(refused::ask(client.clone(), id, random.number(), questions, refused_tx));
    let renewal = settings.identity.clone().map(|identity| {
        tokio::spawn(renew::run(identity, client.clone(), Random::new(random.number()))).abort_handle()
    });
    let kept = KeptVmrs::load(settings.identity.as_ref());
    let task = Task {
        settings,
        kept,
        client,
        upstreams: upstreams_tx,
        draining: draining_tx,
        drains: false,
        status: status_tx,
        random,
        register_backoff,
        find_backoff,
        registered: false,
        was_registered: false,
        complained: false,
        register_at: Some(Instant::now()),
        find_at: None,
        dead: BTreeMap::new(),
        hurry_at: Instant::now(),
        patience_at: Some(Instant::now() + PATIENCE),
    };
    let task = Some(tokio::spawn(task.run(commands_rx)));
    Ok(Attachment {
        upstreams,
        draining,
        status,
        first_admin,
        client: known,
        commands,
        orders,
        line,
        asking,
        refuses,
        refused_question,
        refused,
        own_tunnels: watch::Sender::default(),
        notes,
        proofs,
        task,
        renewal,
    })
}

impl Attachment {
    /// The VMRs to attach to, the nearest first; `None` until they are known. A change is seen on
    /// the receiver.
    #[must_use]
    pub fn upstreams(&self) -> watch::Receiver<Option<RankedVmrs>> {
        self.upstreams.clone()
    }

    /// The VMRs to attach to, by whoever names them now.
    pub(crate) fn naming(&self, fallback: Fallback, node: &str) -> Naming {
        Naming::new(self.upstreams.clone(), self.status.clone(), fallback, node.to_owned())
    }

    /// VMRs that an operator takes out of service: who is served by one goes to another, then leaves it. A
    /// change is seen on the receiver.
    #[must_use]
    pub fn draining(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.draining.clone()
    }

    /// How the link stands. A change is seen on the receiver.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }

    /// What the admin tells this VMR; whoever has taken it gets all of it.
    pub fn take_orders(&mut self) -> Option<mpsc::Receiver<VmrOrder>> {
        self.orders.take()
    }

    /// Says which joins this VMR refuses, in place of those that it said before; the admins tell those who made them.
    pub fn refuses(&self, joins: v1::RefusedJoins) {
        self.refuses.send_if_modified(|known| {
            let changed = *known != joins;
            *known = joins;
            changed
        });
    }

    /// Says what does not come to this node; the admin is asked whether that is refused.
    pub fn ask_refused(&self, question: Option<RefusedQuestion>) {
        self.refused_question.send_if_modified(|known| {
            let changed = *known != question;
            *known = question;
            changed
        });
    }

    /// The groups that its VMR refuses to this node, as far as the admin was asked. A change is seen on the receiver.
    #[must_use]
    pub fn refused(&self) -> watch::Receiver<RefusedGroups> {
        self.refused.clone()
    }

    /// A Relay Discovery with `nonce` came to an endpoint of this VMR. To be called before it is answered: by this the
    /// admin knows that the VMR is where it says.
    pub fn discovered(&self, nonce: u32) {
        self.notes.on_discovery(nonce);
    }

    /// How the link stands, for the operator.
    #[must_use]
    pub fn admin_link(&self) -> AdminLink {
        let status = self.status.borrow();
        let (url, state, error) = match &status.state {
            LinkState::Connecting => (&self.first_admin, AdminLinkState::Connecting, None),
            LinkState::Registered { admin } => (admin, AdminLinkState::Registered, None),
            LinkState::Refused { admin, reason, .. } => {
                (admin, AdminLinkState::Refused, Some(reason.clone()))
            }
            LinkState::Lost { reason } => {
                (&self.first_admin, AdminLinkState::Unreachable, Some(reason.clone()))
            }
        };
        let age_ms = u64::try_from(status.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let others = self.client.urls().into_iter().filter(|other| other != url).collect();
        let endpoints = self.proofs.shown(Instant::now());
        AdminLink { url: url.clone(), state, age_ms, error, others, endpoints }
    }

    /// Says that a VMR does not serve this node at an endpoint. That leaves the list at once, and the nearest of the
    /// others is looked for; after a while it may come back. Without any other VMR it is asked for where else it is.
    pub fn vmr_dead(&self, id: NodeId, endpoint: SocketAddr) {
        self.command(Command::VmrDead(id, endpoint));
    }

    /// Says that nothing is heard of the only VMR, which may be somewhere else by now: it is looked for, though not
    /// more often than every few seconds.
    pub fn look_again(&self) {
        self.command(Command::LookAgain);
    }

    /// Says that a VMR goes out of service, as the admin has told.
    pub fn vmr_going(&self, id: NodeId) {
        self.command(Command::VmrGoing(id));
    }

    /// Says that this node's endpoints are others now; it registers them and looks for the nearest
    /// VMR from where it is.
    pub fn moved(&self, endpoints: Vec<SocketAddr>) {
        self.command(Command::Moved(endpoints));
    }

    /// Says how many are connected to this node; the admin hears of it with the next renewal, and at once when the
    /// last one has left a node that goes out of service.
    pub fn serves(&self, connections: u32) {
        self.command(Command::Serves(connections));
    }

    /// Says in which networks the sources are that this VMR is the first hop for; a change is registered at once.
    pub fn has_sources(&self, prefixes: Vec<Prefix>) {
        self.command(Command::HasSources(prefixes));
    }

    /// Says where this node's tunnels begin as the VMRs above see them; others are registered at once, other proofs of
    /// the same with the next renewal.
    pub fn at(&self, tunnels: Vec<OwnTunnel>) {
        let changed = self.own_tunnels.send_if_modified(|known| {
            let changed = *known != tunnels;
            known.clone_from(&tunnels);
            changed
        });
        if changed {
            self.command(Command::At(tunnels));
        }
    }

    /// Ends the lease and the link; takes two seconds at most.
    pub async fn close(mut self) {
        self.command(Command::Close);
        if let Some(task) = self.task.take() {
            // The task does not panic; if it did, it is over all the same.
            let _ = task.await;
        }
    }

    fn command(&self, command: Command) {
        // The task ends only by `close`, which takes the handle away.
        let _ = self.commands.send(command);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        for task in self.task.iter().chain(&self.line).chain([&self.asking]) {
            task.abort();
        }
        if let Some(renewal) = &self.renewal {
            renewal.abort();
        }
    }
}

struct Task {
    settings: Settings,
    /// The list of an admin that outlives this process.
    kept: KeptVmrs,
    client: AdminClient,
    upstreams: watch::Sender<Option<RankedVmrs>>,
    draining: watch::Sender<BTreeSet<NodeId>>,
    /// Whether an operator takes this node out of service.
    drains: bool,
    status: watch::Sender<LinkStatus>,
    random: Random,
    register_backoff: Backoff,
    find_backoff: Backoff,
    registered: bool,
    /// Whether it ever was: then there may be a lease to end, also while it is being renewed or moved.
    was_registered: bool,
    /// A failure was logged for the operator and has not ended: the next ones are details.
    complained: bool,
    register_at: Option<Instant>,
    find_at: Option<Instant>,
    /// VMRs to leave out and where they were, and until when.
    dead: BTreeMap<(NodeId, SocketAddr), Instant>,
    /// When the search may be hurried again.
    hurry_at: Instant,
    /// Until when the first answer of an admin is waited for.
    patience_at: Option<Instant>,
}

type Work<T> = Pin<Box<dyn Future<Output = Result<T, AdminError>> + Send>>;

impl Task {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        // Calls are futures beside the loop: neither a slow admin nor a long measurement holds up a
        // command or the other call.
        let mut registering: Option<Work<Granted>> = None;
        let mut finding: Option<Work<RankedVmrs>> = None;
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::VmrDead(id, endpoint)) => {
                        self.on_dead(id, endpoint);
                        finding = None;
                    }
                    Some(Command::LookAgain) => {
                        let now = Instant::now();
                        if self.registered && finding.is_none() && self.hurry_at <= now {
                            (self.find_at, self.hurry_at) = (Some(now), now + HURRY);
                        }
                    }
                    Some(Command::VmrGoing(id)) => {
                        let known = self.upstreams.borrow().as_ref().is_some_and(|known| {
                            known.vmrs.iter().any(|vmr| vmr.id == id)
                        });
                        if known {
                            let mut draining = self.draining.borrow().clone();
                            draining.insert(id);
                            self.on_draining(draining);
                        }
                    }
                    Some(Command::Moved(endpoints)) => {
                        self.settings.registration.endpoints = endpoints;
                        self.registered = false;
                        self.register_at = Some(Instant::now());
                        (registering, finding) = (None, None);
                    }
                    Some(Command::Serves(connections)) => {
                        let load = &mut self.settings.registration.about.load;
                        let before = std::mem::replace(&mut load.connections, connections);
                        if self.drains && before > 0 && connections == 0 {
                            self.register_at = Some(Instant::now());
                        }
                    }
                    Some(Command::HasSources(prefixes)) => {
                        let before = &mut self.settings.registration.about.source_prefixes;
                        if *before != prefixes {
                            *before = prefixes;
                            // One that is under way says what was before. An admin that fails is not hurried.
                            if self.registered {
                                registering = None;
                                self.register_at = Some(Instant::now());
                            }
                        }
                    }
                    Some(Command::At(tunnels)) => {
                        let known = &mut self.settings.registration.about.own_tunnels;
                        let same = known.len() == tunnels.len()
                            && known.iter().zip(&tunnels).all(|(known, own)| known.is_same(own));
                        *known = tunnels;
                        if !same && self.registered {
                            registering = None;
                            self.register_at = Some(Instant::now());
                        }
                    }
                    Some(Command::Close) | None => break,
                },
                () = at(self.register_at) => {
                    self.register_at = None;
                    registering = Some(self.register());
                }
                () = at(self.patience_at) => {
                    self.set_state(LinkState::Lost {
                        reason: format!("no admin has answered within {PATIENCE:?}"),
                    });
                    self.go_on_without_admin();
                }
                () = at(self.find_at) => {
                    self.find_at = None;
                    finding = Some(self.find());
                }
                outcome = maybe(&mut registering) => {
                    registering = None;
                    self.on_registered(outcome);
                }
                outcome = maybe(&mut finding) => {
                    finding = None;
                    self.on_found(outcome);
                }
            }
        }
        self.farewell().await;
    }

    fn register(&self) -> Work<Granted> {
        let (client, registration) = (self.client.clone(), self.settings.registration.clone());
        let mut upstreams = self.draining.borrow().clone();
        let known = self.upstreams.borrow();
        upstreams
            .extend(known.iter().flat_map(|known| &known.vmrs).map(|vmr| vmr.id.clone()).take(UPSTREAMS));
        drop(known);
        let upstreams: Vec<_> = upstreams.into_iter().collect();
        Box::pin(async move { client.register_below(&registration, &upstreams).await })
    }

    fn find(&mut self) -> Work<RankedVmrs> {
        let now = Instant::now();
        self.dead.retain(|_, until| *until > now);
        let dead: BTreeSet<_> = self.dead.keys().cloned().collect();
        let excluded = dead.iter().map(|(id, _)| id.clone()).collect();
        let mut addresses: Vec<_> = self.settings.local.into_iter().collect();
        for endpoint in &self.settings.registration.endpoints {
            if !addresses.contains(&endpoint.ip()) {
                addresses.push(endpoint.ip());
            }
        }
        let is_kept = self.upstreams.borrow().as_ref().is_some_and(|known| known.kept);
        let (current, others) = match self.upstreams.borrow().as_ref().map(|known| &known.vmrs) {
            // Who holds a list needs no other, unless it may be out of date.
            Some(vmrs) if vmrs.len() > 1 && !is_kept => (Some(vmrs[0].id.clone()), 0),
            Some(vmrs) => (vmrs.first().map(|vmr| vmr.id.clone()), OTHERS),
            None => (None, OTHERS),
        };
        let id = self.settings.registration.id.clone();
        let finder = Finder {
            client: self.client.clone(),
            ask: Ask { id, addresses, excluded, current, others },
            dead,
            local: self.settings.local,
            probe: self.settings.probe.clone(),
            seed: self.random.number(),
        };
        Box::pin(finder.find())
    }

    fn on_registered(&mut self, outcome: Result<Granted, AdminError>) {
        match outcome {
            Ok(Granted { lease, draining, draining_upstreams }) => {
                self.patience_at = None;
                self.drains = draining;
                self.on_draining(draining_upstreams);
                if !self.registered {
                    let admin = self.client.url();
                    info!(admin, lease = ?lease, "registered");
                    self.find_at = Some(Instant::now());
                }
                (self.registered, self.was_registered) = (true, true);
                self.complained = false;
                self.register_backoff.reset();
                self.register_at = Some(Instant::now() + self.random.renewal(lease));
                self.set_state(LinkState::Registered { admin: self.client.url() });
            }
            Err(failure) => {
                let wait = self.register_backoff.wait();
                self.complain(&failure, wait);
                self.register_at = Some(Instant::now() + wait);
                let reason = failure.to_string();
                let shut_out = failure.shuts_out();
                if shut_out {
                    self.withdraw_kept();
                }
                if failure.is_refusal() {
                    let admin = match failure {
                        AdminError::NotTaken { url, .. } => url,
                        AdminError::Url { .. }
                        | AdminError::NoAdmin
                        | AdminError::Unreachable { .. }
                        | AdminError::NotRegistered(_)
                        | AdminError::Duplicate(_)
                        | AdminError::Refused { .. }
                        | AdminError::Answer(_) => self.client.url(),
                    };
                    self.set_state(LinkState::Refused { admin, reason, shut_out });
                } else {
                    self.set_state(LinkState::Lost { reason });
                }
                if !shut_out {
                    self.go_on_without_admin();
                }
            }
        }
    }

    /// No admin answers, or none has room: where none has named a VMR yet, those serve that one has named to an earlier
    /// process.
    fn go_on_without_admin(&mut self) {
        self.patience_at = None;
        if self.upstreams.borrow().is_some() {
            return;
        }
        if let Some(list) = self.kept.list() {
            warn!(vmrs = ?list.vmrs.iter().map(|vmr| &vmr.id).collect::<Vec<_>>(), "no admin serves this node; going on with the VMRs that one named before");
            self.upstreams.send_replace(Some(list));
        }
    }

    /// An admin is there, and has shut this node out: what one named before is not for it any more. The VMR that serves it
    /// goes by its own policy.
    fn withdraw_kept(&mut self) {
        self.patience_at = None;
        self.kept.forget();
        if self.upstreams.borrow().as_ref().is_some_and(|known| known.kept) {
            self.upstreams.send_replace(None);
        }
    }

    /// Tells the operator once that something fails, until it works again.
    fn complain(&mut self, failure: &AdminError, wait: Duration) {
        if self.complained {
            debug!(%failure, ?wait, "not registered, will try again");
            return;
        }
        self.complained = true;
        if failure.is_refusal() {
            error!(%failure, ?wait, "the admin refuses this node; will try again");
        } else {
            warn!(%failure, ?wait, "not registered; streams go on, and the admin is tried again");
        }
    }

    fn on_found(&mut self, outcome: Result<RankedVmrs, AdminError>) {
        let wait = match outcome {
            Ok(found) if found.vmrs.is_empty() && self.needs_vmr() => {
                self.publish(found);
                self.find_backoff.wait()
            }
            Ok(found) => {
                self.publish(found);
                self.find_backoff.reset();
                self.settings.requery
            }
            Err(AdminError::NotRegistered(reason)) => {
                // An admin that lost its database, or another admin. Registering leads back here.
                debug!(reason, "the lease is gone");
                self.registered = false;
                let wait = self.find_backoff.wait();
                self.register_at = Some(Instant::now() + wait);
                return;
            }
            Err(failure) => {
                debug!(%failure, "cannot ask for the nearest VMR");
                self.find_backoff.wait()
            }
        };
        self.find_at = Some(Instant::now() + wait.min(self.settings.requery));
    }

    /// Whether this node is nothing without a VMR: all but those at the source.
    const fn needs_vmr(&self) -> bool {
        !matches!(self.settings.registration.role, Role::Vmr { rank: 0 })
    }

    /// Replaces the list if there is something better to say.
    ///
    /// A list that was found stays while the admin goes on to name its first VMR: the others are
    /// where to go when that one dies. An empty list never replaces one: who was there stays until
    /// it is found dead, for the admin may have forgotten it and the stream still flow.
    /// One that was kept from before gives way to any other.
    fn publish(&mut self, found: RankedVmrs) {
        let kept = &mut self.kept;
        self.upstreams.send_if_modified(|current| {
            if let Some(known) = current.as_ref()
                && let Some(first) = known.vmrs.first()
            {
                if known.kept && !found.vmrs.is_empty() {
                    kept.keep(&found);
                    *current = Some(found);
                    return true;
                }
                let same = |new: &super::RankedVmr| new.id == first.id && new.endpoint == first.endpoint;
                let cached = match found.kind {
                    AnswerKind::CachedAddress | AnswerKind::CachedPrefix => true,
                    AnswerKind::All => false,
                };
                let more = known.vmrs.len() == 1 && found.vmrs.len() > 1;
                if found.vmrs.first().is_none_or(|new| cached && same(new) && !more) {
                    return false;
                }
            }
            let changed = current.as_ref() != Some(&found);
            if changed {
                kept.keep(&found);
            }
            *current = Some(found);
            changed
        });
    }

    fn on_dead(&mut self, id: NodeId, endpoint: SocketAddr) {
        info!(vmr = %id, %endpoint, "VMR is dead for this node; looking for another");
        self.upstreams.send_if_modified(|current| {
            let Some(known) = current else {
                return false;
            };
            let before = known.vmrs.len();
            known.vmrs.retain(|vmr| vmr.id != id || vmr.endpoint != endpoint);
            known.vmrs.len() != before
        });
        self.dead.insert((id, endpoint), Instant::now() + self.settings.requery * 2);
        if self.registered {
            self.find_at = Some(Instant::now());
        }
    }

    /// Some VMRs go out of service. They leave the list if others are in it, and more are looked for.
    fn on_draining(&mut self, draining: BTreeSet<NodeId>) {
        if *self.draining.borrow() == draining {
            return;
        }
        let others = self
            .upstreams
            .borrow()
            .as_ref()
            .is_some_and(|known| known.vmrs.iter().any(|vmr| !draining.contains(&vmr.id)));
        if others {
            self.upstreams.send_if_modified(|current| {
                let Some(known) = current else { return false };
                let before = known.vmrs.len();
                known.vmrs.retain(|vmr| !draining.contains(&vmr.id));
                known.vmrs.len() != before
            });
        }
        if !draining.is_empty() {
            info!(vmrs = ?draining, "VMRs go out of service; looking for others");
            self.find_at = Some(Instant::now());
        }
        self.draining.send_replace(draining);
    }

    fn set_state(&self, state: LinkState) {
        self.status.send_if_modified(|current| {
            let changed = current.state != state;
            if changed {
                *current = LinkStatus { state, since: Instant::now() };
            }
            changed
        });
    }

    async fn farewell(self) {
        if !self.was_registered {
            return;
        }
        let id = &self.settings.registration.id;
        match tokio::time::timeout(FAREWELL, self.client.deregister(id)).await {
            Ok(Ok(_)) => info!("deregistered"),
            Ok(Err(failure)) => debug!(%failure, "could not deregister; the lease will run out"),
            Err(_) => debug!("could not deregister in time; the lease will run out"),
        }
    }
}

/// Ready at a time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The outcome of work that is under way; never without.
async fn maybe<T>(work: &mut Option<Work<T>>) -> Result<T, AdminError> {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

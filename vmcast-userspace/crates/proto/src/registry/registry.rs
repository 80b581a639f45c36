//! The rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{
    CacheEntry, CacheKey, Change, Config, Counters, Error, Measurement, NodeId, NodeRecord, Place, Prefix,
    Refusal, Registration, Role, Rows as _, Scope, Store, UnixMillis, location, proof,
};

/// For VMRs that come or move the cache is emptied so often at once,
const EMPTYINGS: u32 = 4;
/// and once more after each such time: one that is started again and again, as by a supervisor, would have every node
/// measure all VMRs each time.
const EMPTYING_INTERVAL: Duration = Duration::from_secs(60);

/// A granted registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How long it lasts from now.
    pub duration: Duration,
    /// Whether an operator has taken the node out of service.
    pub draining: bool,
    /// What it did.
    pub outcome: Registered,
}

/// What a granted registration did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Registered {
    /// The node had no live lease.
    New,
    /// The lease goes on, everything that was measured stays true.
    Renewed,
    /// The lease goes on with another role, rank or set of endpoints.
    Moved,
}

/// A node that asks for the nearest VMR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Who asks.
    pub node: NodeId,
    /// The address the request came from.
    pub seen: IpAddr,
    /// Addresses the node says it has, the preferred first.
    pub claimed: Vec<IpAddr>,
    /// VMRs it found dead.
    pub excluded: BTreeSet<NodeId>,
    /// The VMR that serves it: one that is busy is not passed over for those who are there.
    pub current: Option<NodeId>,
    /// Of all VMRs, those behind this one; a page that is not the first is never from the cache.
    pub after: Option<Place>,
    /// Of all VMRs, so many at most; `None` for no end.
    pub limit: Option<usize>,
    /// How many others it wants beside one from the cache; at most [`Query::MOST_OTHERS`].
    pub others: usize,
}

impl Query {
    /// Others beside a cached answer at most.
    pub const MOST_OTHERS: usize = 8;
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerKind {
    /// The cache entry of the requester's address.
    CachedAddress,
    /// The cache entry of the requester's network prefix.
    CachedPrefix,
    /// No entry: every VMR it may be given.
    All,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where it comes from.
    pub kind: AnswerKind,
    /// One VMR from the cache with the measured endpoint first, or all of them, those first whose
    /// addresses begin like the requester's.
    pub vmrs: Vec<NodeRecord>,
    /// The last of a page that has others behind it.
    pub next: Option<Place>,
    /// Where else to go, beside one from the cache: those that were measured, the nearest first, then others.
    pub others: Vec<NodeRecord>,
    /// Entries that were passed over because they are true no longer: for [`Registry::forget`].
    pub untrue: Vec<CacheEntry>,
}

/// What a node measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who measured.
    pub node: NodeId,
    /// The address the report came from.
    pub seen: IpAddr,
    /// Addresses the node says it has, the preferred first.
    pub claimed: Vec<IpAddr>,
    /// The nearest VMR.
    pub chosen: Measurement,
    /// Everything measured.
    pub measurements: Vec<Measurement>,
    /// Where probes came in the order of their distance, which is not that of [`Measurement::distance`]: all in their
    /// order. Empty where that distance orders them.
    pub arrived: Vec<Measurement>,
}

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The address whose entry was set.
    pub address: Prefix,
    /// The prefix whose entry was set too; `None` if a nearer one was kept.
    pub prefix: Option<Prefix>,
}

/// How much a registry holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// VMRs.
    pub vmrs: usize,
    /// Agents.
    pub agents: usize,
    /// Entries of the cache.
    pub entries: usize,
}

/// The registry over its store.
#[derive(Debug)]
pub struct Registry<S> {
    pub(super) config: Config,
    pub(super) store: S,
    pub(super) counters: Counters,
    /// When it would be so long since the cache was emptied that it may be again as often as at the start.
    emptying_due: UnixMillis,
    /// Whether the cache is to be emptied as soon as it may.
    is_outdated: bool,
}

impl<S: Store> Registry<S> {
    /// A registry that goes on with what `store` holds.
    pub fn new(config: Config, store: S) -> Self {
        let counters = Counters::default();
        Self { config, store, counters, emptying_due: UnixMillis(0), is_outdated: false }
    }

    /// Its configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether it answers from what it knew before its store was lost.
    pub fn is_stale(&self) -> bool {
        self.store.rows().is_stale()
    }

    /// Makes what was granted since the last time last.
    ///
    /// # Errors
    /// The failure of the store: none of it was granted.
    pub fn flush(&mut self) -> Result<(), S::Error> {
        self.store.flush()
    }

    /// Its store, for the records that stand beside the registry.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// The same, to change them.
    pub const fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Gives the store back.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Its rows.
    pub fn rows(&self) -> &S::Rows {
        self.store.rows()
    }

    /// What happened so far.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Grants, renews or moves a registration.
    ///
    /// # Errors
    /// A refusal, or the failure of the store.
    pub fn register(
        &mut self,
        now: UnixMillis,
        seen: IpAddr,
        registration: impl Into<Arc<Registration>>,
    ) -> Result<Lease, Error<S::Error>> {
        let mut registration = registration.into();
        self.check_endpoints(Arc::make_mut(&mut registration))?;
        let seen = seen.to_canonical();
        let mut changes = Vec::new();
        let (replaced, evicted) = self.endpoint_holders(now, seen, &registration)?;
        for id in &replaced {
            changes.extend([Change::RemoveNode(id.clone()), Change::RemoveEntriesNaming(id.clone())]);
        }

        let previous = self.store.rows().node(&registration.id);
        if previous.is_none() {
            self.make_room_for_node(now, replaced.len())?;
        }
        let outcome = match &previous {
            Some(previous) if !previous.is_live(now) => Registered::New,
            None => Registered::New,
            Some(previous) if previous.registration.same_place(&registration) => Registered::Renewed,
            Some(_) => Registered::Moved,
        };
        match (registration.role, outcome) {
            (_, Registered::Renewed) => {}
            // It may be nearer to anybody than what was measured before it came.
            (Role::Vmr { .. }, Registered::New | Registered::Moved) if self.may_empty_cache(now) => {
                changes.push(Change::RemoveAllEntries);
            }
            (Role::Vmr { .. } | Role::Agent, Registered::New | Registered::Moved) => {
                changes.push(Change::RemoveEntriesNaming(registration.id.clone()));
            }
        }
        let registered = match (&previous, outcome) {
            (Some(previous), Registered::Renewed | Registered::Moved) => previous.registered,
            (_, Registered::New) | (None, _) => now,
        };
        let expires = now.after(self.config.lease);
        // Whoever comes back after its lease has ended was started anew: that ends a drain.
        let (draining, known) = match (outcome, previous) {
            (Registered::New, _) | (_, None) => (false, BTreeMap::new()),
            (Registered::Renewed | Registered::Moved, Some(previous)) => (previous.draining, previous.proofs),
        };
        let proofs = self.proofs_of(now, &registration, known);
        let record = NodeRecord { registration, seen, registered, expires, draining, proofs };
        changes.push(Change::PutNode(record));
        self.store.commit(&changes)?;

        self.counters.evictions += evicted as u64;
        self.counters.takeovers += (replaced.len() - evicted) as u64;
        match outcome {
            Registered::New => self.counters.registrations += 1,
            Registered::Renewed => self.counters.renewals += 1,
            Registered::Moved => self.counters.moves += 1,
        }
        Ok(Lease { duration: self.config.lease, draining, outcome })
    }

    /// Whether the cache may be emptied now; if not, it is later.
    pub(super) fn may_empty_cache(&mut self, now: UnixMillis) -> bool {
        let ahead = now.after(EMPTYING_INTERVAL * (EMPTYINGS - 1));
        self.is_outdated = self.emptying_due > ahead;
        if !self.is_outdated && self.store.rows().entry_count() > 0 {
            self.emptying_due = self.emptying_due.max(now).after(EMPTYING_INTERVAL);
        }
        !self.is_outdated
    }

    /// Ends a registration; false if there was no live one.
    ///
    /// # Errors
    /// The failure of the store.
    pub fn deregister(&mut self, now: UnixMillis, id: &NodeId) -> Result<bool, S::Error> {
        let Some(record) = self.store.rows().node(id) else {
            return Ok(false);
        };
        self.store.commit(&[Change::RemoveNode(id.clone()), Change::RemoveEntriesNaming(id.clone())])?;
        let live = record.is_live(now);
        if live {
            self.counters.deregistrations += 1;
        } else {
            self.counters.expirations += 1;
        }
        Ok(live)
    }

    /// Takes a VMR out of service, or back in; false if it was so already. One that drains keeps its
    /// lease and is given to nobody.
    ///
    /// # Errors
    /// A refusal, or the failure of the store.
    pub fn drain(&mut self, now: UnixMillis, id: &NodeId, drain: bool) -> Result<bool, Error<S::Error>> {
        let mut record = self.live_node(now, id)?;
        if record.rank().is_none() {
            return self.refuse(Refusal::NoVmr(id.clone()));
        }
        if record.draining == drain {
            return Ok(false);
        }
        record.draining = drain;
        // One that is back may be nearer to anybody than what was measured meanwhile.
        let entries = if drain { Change::RemoveEntriesNaming(id.clone()) } else { Change::RemoveAllEntries };
        self.store.commit(&[Change::PutNode(record), entries])?;
        self.counters.drains += u64::from(drain);
        Ok(true)
    }

    /// Checks that a node may hold a standing line; says whether it drains.
    ///
    /// # Errors
    /// A refusal if it is no live VMR, or the failure of the store.
    pub fn attends(&mut self, now: UnixMillis, id: &NodeId) -> Result<bool, Error<S::Error>> {
        let record = self.live_node(now, id)?;
        match record.rank() {
            Some(_) => Ok(record.draining),
            None => self.refuse(Refusal::NoVmr(id.clone())),
        }
    }

    /// The ids of all VMRs that a node may attach to.
    ///
    /// # Errors
    /// A refusal, or the failure of the store.
    pub fn eligible(&mut self, now: UnixMillis, id: &NodeId) -> Result<Vec<NodeId>, Error<S::Error>> {
        let requester = self.live_node(now, id)?;
        let vmrs = self.store.rows().vmrs();
        let eligible = |vmr: &&NodeRecord| requester.may_attach_to(vmr, now) && self.is_found(vmr);
        Ok(vmrs.iter().filter(eligible).map(|vmr| vmr.id().clone()).collect())
    }

    /// Answers who is nearest.
    ///
    /// A cache entry that is not true is passed over and is to be forgotten: one that has expired, or names a
    /// VMR that is gone, moved or may not be given. One that names an excluded or a busy VMR is
    /// passed over and stays: what one requester cannot reach, its neighbours may.
    ///
    /// # Errors
    /// A refusal.
    pub fn nearest(&mut self, now: UnixMillis, query: &Query) -> Result<Answer, Error<S::Error>> {
        let requester = self.live_node(now, &query.node)?;
        let (address, prefix) = self.keys(&requester, query.seen, &query.claimed);
        let mut untrue = Vec::new();
        let mut cached = None;
        let kinds = [(address, AnswerKind::CachedAddress), (prefix, AnswerKind::CachedPrefix)];
        for (key, kind) in kinds.into_iter().filter(|_| query.after.is_none()) {
            let Some(entry) = self.store.rows().entry(&key) else {
                continue;
            };
            let vmr = self.store.rows().node(&entry.nearest.vmr);
            match vmr {
                Some(mut vmr)
                    if entry.is_usable(&requester, Some(&vmr), now)
                        && self.is_found_at(&vmr, &entry.nearest.endpoint) =>
                {
                    if self.may_be_given(query, &mut vmr) {
                        put_first(&mut vmr.registration, entry.nearest.endpoint);
                        let vmrs = vec![vmr];
                        let answer = Answer { kind, vmrs, next: None, others: vec![], untrue: vec![] };
                        cached = Some((answer, entry.others));
                        break;
                    }
                }
                Some(_) | None => {
                    if !untrue.contains(&entry) {
                        untrue.push(entry);
                    }
                }
            }
        }
        let mut answer = match cached {
            Some((mut answer, ranked)) if query.others > 0 => {
                answer.others = self.others(now, &requester, query, (&answer.vmrs[0], &ranked, address));
                answer
            }
            Some((answer, _)) => answer,
            None => self.all(now, &requester, query, address.prefix.address()),
        };
        answer.untrue = untrue;
        self.counters.count_answer(answer.kind);
        Ok(answer)
    }

    /// Removes entries that a query found untrue, unless they were set anew since.
    ///
    /// # Errors
    /// The failure of the store.
    pub fn forget(&mut self, untrue: &[CacheEntry]) -> Result<(), S::Error> {
        let still = |entry: &&CacheEntry| self.store.rows().entry(&entry.key).as_ref() == Some(*entry);
        let removals: Vec<_> =
            untrue.iter().filter(still).map(|entry| Change::RemoveEntry(entry.key)).collect();
        if !removals.is_empty() {
            self.store.commit(&removals)?;
            self.counters.stale_entries += removals.len() as u64;
        }
        Ok(())
    }

    /// Whether one that the requester may attach to is to be named to it now.
    fn may_be_given(&mut self, query: &Query, vmr: &mut NodeRecord) -> bool {
        if query.excluded.contains(vmr.id()) {
            return false;
        }
        if !self.leave_found(vmr) {
            self.counters.unproved += 1;
            return false;
        }
        let busy = vmr.registration.about.load.is_at(self.config.overload_percent)
            && query.current.as_ref() != Some(vmr.id());
        self.counters.overloaded += u64::from(busy);
        !busy
    }

    /// Whom to name beside the nearest: those ranked in its entry, in their order, as far as they may be given, and as
    /// many more as are asked for of all others.
    fn others(
        &mut self,
        now: UnixMillis,
        requester: &NodeRecord,
        query: &Query,
        (nearest, ranked, address): (&NodeRecord, &[Measurement], CacheKey),
    ) -> Vec<NodeRecord> {
        let most = query.others.min(Query::MOST_OTHERS);
        let mut others: Vec<NodeRecord> = Vec::new();
        for measured in ranked {
            if others.len() == most {
                break;
            }
            let Some(mut vmr) = self.store.rows().node(&measured.vmr) else { continue };
            if requester.may_attach_to(&vmr, now)
                && vmr.registration.endpoints.contains(&measured.endpoint)
                && self.is_found_at(&vmr, &measured.endpoint)
                && self.may_be_given(query, &mut vmr)
            {
                put_first(&mut vmr.registration, measured.endpoint);
                others.push(vmr);
            }
        }
        if others.len() < most {
            let query = Query { limit: Some(most + 1), ..query.clone() };
            let mut more = self.all(now, requester, &query, address.prefix.address()).vmrs;
            more.retain(|vmr| vmr.id() != nearest.id() && others.iter().all(|other| other.id() != vmr.id()));
            others.extend(more);
            others.truncate(most);
        }
        others
    }

    /// A page of all VMRs.
    fn all(&mut self, now: UnixMillis, requester: &NodeRecord, query: &Query, address: IpAddr) -> Answer {
        let mut vmrs = Vec::new();
        for mut vmr in self.store.rows().vmrs() {
            let place = Place::of(&vmr, address);
            if query.after.as_ref().is_none_or(|after| place > *after)
                && requester.may_attach_to(&vmr, now)
                && self.may_be_given(query, &mut vmr)
            {
                vmrs.push((place, vmr));
            }
        }
        vmrs.sort_by(|(one, _), (other, _)| one.cmp(other));
        let limit = query.limit.unwrap_or(usize::MAX).max(1);
        let next = vmrs.get(limit).and_then(|_| vmrs.get(limit - 1)).map(|(place, _)| place.clone());
        vmrs.truncate(limit);
        let vmrs = vmrs.into_iter().map(|(_, vmr)| vmr).collect();
        Answer { kind: AnswerKind::All, vmrs, next, others: vec![], untrue: vec![] }
    }

    /// Takes a measurement into the cache.
    ///
    /// The entry of the reporter's address is always set. The entry of its prefix is shared, so it
    /// is set only if there is none that is true, if it was this node's own, if it names the same
    /// VMR, or if the new one is nearer.
    ///
    /// # Errors
    /// A refusal, or the failure of the store.
    pub fn report(&mut self, now: UnixMillis, report: &Report) -> Result<Reported, Error<S::Error>> {
        let requester = self.live_node(now, &report.node)?;
        self.check_report(now, &requester, report)?;
        let (address, prefix) = self.keys(&requester, report.seen, &report.claimed);
        let others = self.ranked(now, &requester, report);
        let entry = |key| CacheEntry {
            key,
            nearest: report.chosen.clone(),
            others: Arc::clone(&others),
            reporter: report.node.clone(),
            learned: now,
            expires: now.after(self.config.entry_lifetime),
        };

        let mut changes = vec![Change::PutEntry(entry(address))];
        // Where probes decide, it is not hops that make the nearer one.
        let is_nearer = |one: &Measurement, other: &Measurement| {
            if report.arrived.is_empty() { one.distance() < other.distance() } else { one.rtt < other.rtt }
        };
        let keep_prefix = match self.store.rows().entry(&prefix) {
            Some(old) => {
                let vmr = self.store.rows().node(&old.nearest.vmr);
                old.is_usable(&requester, vmr.as_ref(), now)
                    && old.reporter != report.node
                    && old.nearest.vmr != report.chosen.vmr
                    && !is_nearer(&report.chosen, &old.nearest)
            }
            None => false,
        };
        if !keep_prefix && prefix != address {
            changes.push(Change::PutEntry(entry(prefix)));
        }
        self.make_room_for_entries(now, &changes)?;
        self.store.commit(&changes)?;

        self.counters.reports += 1;
        self.counters.measurements += report.measurements.len() as u64;
        self.counters.prefix_kept += u64::from(keep_prefix && prefix != address);
        let set = (prefix == address || !keep_prefix).then_some(prefix.prefix);
        Ok(Reported { address: address.prefix, prefix: set })
    }

    /// Of a report, whom to turn to if the chosen one does not serve, the nearest first. What cannot be true of it is
    /// left out.
    fn ranked(&self, now: UnixMillis, requester: &NodeRecord, report: &Report) -> Arc<[Measurement]> {
        let mut measured: Vec<_> = if report.arrived.is_empty() {
            let mut measured: Vec<_> = report.measurements.iter().collect();
            measured.sort_by_key(|one| one.distance());
            measured
        } else {
            report.arrived.iter().collect()
        };
        let mut known = BTreeSet::from([&report.chosen.vmr]);
        measured.retain(|one| {
            let vmr = self.store.rows().node(&one.vmr);
            let is_true = |vmr: NodeRecord| {
                requester.may_attach_to(&vmr, now) && vmr.registration.endpoints.contains(&one.endpoint)
            };
            vmr.is_some_and(is_true) && known.insert(&one.vmr)
        });
        measured.into_iter().take(CacheEntry::MOST_OTHERS).cloned().collect()
    }

    /// Removes what has expired and returns the nodes that were removed.
    ///
    /// # Errors
    /// The failure of the store.
    pub fn expire(&mut self, now: UnixMillis) -> Result<Vec<NodeId>, S::Error> {
        let expired = self.store.rows().expired_nodes(now);
        let mut changes = vec![Change::RemoveEntriesExpired(now)];
        let empties = self.is_outdated && self.may_empty_cache(now);
        if empties {
            changes = vec![Change::RemoveAllEntries];
        }
        for id in &expired {
            changes.extend([Change::RemoveNode(id.clone()), Change::RemoveEntriesNaming(id.clone())]);
        }
        let made = self.store.commit(&changes);
        // Otherwise it is still to be done.
        self.is_outdated |= empties && made.is_err();
        made?;
        self.counters.expirations += expired.len() as u64;
        Ok(expired)
    }

    /// At most `limit` live nodes in the order of their ids, those behind `after`.
    pub fn nodes(&self, now: UnixMillis, after: Option<&NodeId>, limit: usize) -> Vec<NodeRecord> {
        let page = |after: Option<&NodeId>| self.store.rows().nodes(after, limit);
        live_page(limit, after.cloned(), page, |node| node.id().clone(), |node| node.is_live(now))
    }

    /// At most `limit` live cache entries in the order of their keys, those behind `after`; without those ranked in them
    /// that have gone since.
    pub fn cache(&self, now: UnixMillis, after: Option<&CacheKey>, limit: usize) -> Vec<CacheEntry> {
        let page = |after: Option<&CacheKey>| self.store.rows().entries(after, limit);
        let mut entries =
            live_page(limit, after.copied(), page, |entry| entry.key, |entry| entry.expires > now);
        let is_there = |other: &Measurement| {
            self.store.rows().node(&other.vmr).is_some_and(|vmr| vmr.is_live(now) && !vmr.draining)
        };
        for entry in &mut entries {
            if !entry.others.iter().all(is_there) {
                entry.others = entry.others.iter().filter(|other| is_there(other)).cloned().collect();
            }
        }
        entries
    }

    /// How much it holds. What has expired and was not swept up yet counts.
    pub fn census(&self) -> Census {
        let (nodes, vmrs) = (self.store.rows().node_count(), self.store.rows().vmr_count());
        Census { vmrs, agents: nodes.saturating_sub(vmrs), entries: self.store.rows().entry_count() }
    }

    fn refuse<T>(&mut self, refusal: Refusal) -> Result<T, Error<S::Error>> {
        self.counters.refusals.count(refusal.reason());
        Err(Error::Refused(refusal))
    }

    pub(super) fn live_node(&mut self, now: UnixMillis, id: &NodeId) -> Result<NodeRecord, Error<S::Error>> {
        match self.store.rows().node(id) {
            Some(record) if record.is_live(now) => Ok(record),
            Some(_) | None => self.refuse(Refusal::NotRegistered(id.clone())),
        }
    }

    /// The keys of a requester's address and prefix.
    fn keys(&self, requester: &NodeRecord, seen: IpAddr, claimed: &[IpAddr]) -> (CacheKey, CacheKey) {
        let scope = Scope::of(requester.registration.role);
        let address = location(seen, claimed);
        let length = if address.is_ipv4() { self.config.prefix_v4 } else { self.config.prefix_v6 };
        let full = Prefix::of_address(address);
        let prefix = Prefix::new(address, length).unwrap_or(full);
        (CacheKey { scope, prefix: full }, CacheKey { scope, prefix })
    }

    /// Brings the endpoints into one form without repetitions and checks them and the other lists.
    fn check_endpoints(&mut self, registration: &mut Registration) -> Result<(), Error<S::Error>> {
        let mut known = BTreeSet::new();
        for endpoint in &mut registration.endpoints {
            endpoint.set_ip(endpoint.ip().to_canonical());
        }
        registration.endpoints.retain(|endpoint| known.insert(*endpoint));
        if let Some((what, given, limit)) = registration.about.excess() {
            return self.refuse(Refusal::TooMuch { what, given, limit });
        }
        let (given, limit) = (registration.endpoints.len(), self.config.max_endpoints);
        if given > limit {
            return self.refuse(Refusal::TooManyEndpoints { given, limit });
        }
        if let Some(&unusable) = registration.endpoints.iter().find(|endpoint| !is_host_endpoint(endpoint)) {
            return self.refuse(Refusal::UnusableEndpoint(unusable));
        }
        match registration.role {
            Role::Vmr { .. } if given == 0 => self.refuse(Refusal::NoEndpoint),
            Role::Vmr { .. } | Role::Agent => Ok(()),
        }
    }

    /// Refuses a duplicate and returns the nodes whose endpoints are taken over, because they have expired or were
    /// not found there, and how many of them the latter are.
    ///
    /// Everybody must reach a VMR's endpoint, so no two live VMRs share one. An agent's may be a
    /// private address behind a NAT that other homes use too: it is a duplicate only if both nodes
    /// were seen at the same address.
    fn endpoint_holders(
        &mut self,
        now: UnixMillis,
        seen: IpAddr,
        registration: &Registration,
    ) -> Result<(BTreeSet<NodeId>, usize), Error<S::Error>> {
        let (mut replaced, mut evicted) = (BTreeSet::new(), 0);
        for &endpoint in &registration.endpoints {
            for holder in self.store.rows().holders(endpoint) {
                if *holder.id() == registration.id {
                    continue;
                }
                let public = holder.rank().is_some() && matches!(registration.role, Role::Vmr { .. });
                if !holder.is_live(now) {
                    replaced.insert(holder.id().clone());
                } else if public && self.config.return_probe && !proof::may_keep(now, &holder, &endpoint) {
                    evicted += usize::from(replaced.insert(holder.id().clone()));
                } else if public || holder.seen == seen {
                    return self.refuse(Refusal::Duplicate { endpoint, holder: holder.id().clone() });
                }
            }
        }
        Ok((replaced, evicted))
    }

    fn make_room_for_node(&mut self, now: UnixMillis, leaving: usize) -> Result<(), Error<S::Error>> {
        let limit = self.config.max_nodes;
        if self.store.rows().node_count() < limit + leaving {
            return Ok(());
        }
        self.expire(now)?;
        if self.store.rows().node_count() < limit { Ok(()) } else { self.refuse(Refusal::Full { limit }) }
    }

    fn make_room_for_entries(&mut self, now: UnixMillis, changes: &[Change]) -> Result<(), Error<S::Error>> {
        let limit = self.config.max_entries;
        for expire in [true, false] {
            let mut count = self.store.rows().entry_count();
            for change in changes {
                if let Change::PutEntry(entry) = change {
                    count += usize::from(self.store.rows().entry(&entry.key).is_none());
                }
            }
            if count <= limit {
                return Ok(());
            }
            if expire {
                self.expire(now)?;
            }
        }
        self.refuse(Refusal::CacheFull { limit })
    }

    fn check_report(
        &mut self,
        now: UnixMillis,
        requester: &NodeRecord,
        report: &Report,
    ) -> Result<(), Error<S::Error>> {
        let chosen = &report.chosen;
        let given = report.measurements.len().max(report.arrived.len());
        let limit = self.config.max_measurements;
        if given > limit {
            return self.refuse(Refusal::TooManyMeasurements { given, limit });
        }
        match self.store.rows().node(&chosen.vmr) {
            Some(vmr) if !vmr.registration.endpoints.contains(&chosen.endpoint) => {
                let (vmr, endpoint) = (chosen.vmr.clone(), chosen.endpoint);
                return self.refuse(Refusal::ForeignEndpoint { vmr, endpoint });
            }
            Some(vmr) if requester.may_attach_to(&vmr, now) && self.is_found_at(&vmr, &chosen.endpoint) => {}
            Some(_) | None => return self.refuse(Refusal::NotEligible(chosen.vmr.clone())),
        }
        match report.measurements.iter().find(|other| other.distance() < chosen.distance()) {
            Some(nearer) => {
                self.refuse(Refusal::NotNearest { chosen: chosen.vmr.clone(), nearer: nearer.vmr.clone() })
            }
            None => Ok(()),
        }
    }
}

/// Pages through a table until `limit` live rows are found or it ends.
fn live_page<T, K>(
    limit: usize,
    mut after: Option<K>,
    page: impl Fn(Option<&K>) -> Vec<T>,
    key: impl Fn(&T) -> K,
    live: impl Fn(&T) -> bool,
) -> Vec<T> {
    let mut found = Vec::new();
    while found.len() < limit {
        let rows = page(after.as_ref());
        let Some(last) = rows.last() else {
            break;
        };
        after = Some(key(last));
        let room = limit - found.len();
        found.extend(rows.into_iter().filter(&live).take(room));
    }
    found
}

fn put_first(registration: &mut Arc<Registration>, first: SocketAddr) {
    match registration.endpoints.iter().position(|endpoint| *endpoint == first) {
        None | Some(0) => {}
        Some(at) => Arc::make_mut(registration).endpoints[..=at].rotate_right(1),
    }
}

fn is_host_endpoint(endpoint: &SocketAddr) -> bool {
    let ip = endpoint.ip();
    let broadcast = ip == IpAddr::from([255; 4]);
    endpoint.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

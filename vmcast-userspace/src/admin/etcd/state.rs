//! What is known of the rows in etcd.

use std::collections::{BTreeMap, HashMap};

use vmcast_etcd::{Change, Snapshot};
use vmcast_proto::registry::{self, RecordWrite, Rows as _, Store as _, UnixMillis};

use super::{
    key::{Layout, Name, Row},
    times::{self, Heard},
};
use crate::admin::Mirror;

/// How fresh it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Etcd's changes are followed.
    Fresh,
    /// Etcd is lost.
    Stale,
    /// Etcd is back; until a time nodes have leave to renew leases that ran out meanwhile.
    Recovering(UnixMillis),
}

/// The rows, and which revision changed each of them last.
#[derive(Debug)]
pub(super) struct State {
    pub(super) layout: Layout,
    pub(super) rows: Mirror,
    /// Of every key under the root, claims included.
    revisions: HashMap<Vec<u8>, i64>,
    /// Of keys that were removed by a revision that the watch has not come to: an older change of theirs may
    /// still be on its way.
    removed: BTreeMap<i64, Vec<Vec<u8>>>,
    /// All changes up to this revision are in.
    pub(super) heard: i64,
    freshness: Freshness,
    /// How long a lease lasts, in milliseconds.
    lease: u64,
    /// Values that could not be read.
    pub(super) unreadable: u64,
}

impl State {
    pub(super) fn new(layout: Layout, lease: u64) -> Self {
        Self {
            layout,
            lease,
            rows: Mirror::default(),
            revisions: HashMap::new(),
            removed: BTreeMap::new(),
            heard: 0,
            freshness: Freshness::Fresh,
            unreadable: 0,
        }
    }

    /// The revision that changed a key last; 0 if it is not there.
    pub(super) fn revision(&self, key: &[u8]) -> i64 {
        match self.revisions.get(key) {
            // Removed ones are kept with their sign turned.
            Some(&revision) if revision > 0 => revision,
            _ => 0,
        }
    }

    /// Whether a change is already in, or one behind it.
    fn is_known(&self, key: &[u8], revision: i64) -> bool {
        self.revisions.get(key).is_some_and(|known| known.abs() >= revision)
    }

    /// Begins again with all keys, which were read now.
    pub(super) fn reset(&mut self, snapshot: Snapshot, now: UnixMillis) {
        let known = std::mem::take(&mut self.revisions);
        self.removed.clear();
        // Whoever reads meanwhile sees what there was.
        let shown = std::mem::take(&mut self.rows);
        for kv in snapshot.keys {
            // How old a row is that is known already, it does not say itself.
            let is_known = known.get(&kv.key) == Some(&kv.mod_revision);
            let row = match self.layout.name(&kv.key).filter(|_| is_known) {
                Some(Name::Node(id)) => shown.rows().node(&id).map(registry::Change::PutNode),
                Some(Name::Entry(key)) => shown.rows().entry(&key).map(registry::Change::PutEntry),
                Some(Name::Record(..) | Name::Admin(_)) | None => None,
            };
            match row {
                Some(row) => {
                    self.apply(row);
                    self.revisions.insert(kv.key, kv.mod_revision);
                }
                None => self.put(kv.key, &kv.value, kv.mod_revision, Heard::Found(now)),
            }
        }
        shown.take_admins(&self.rows);
        shown.replace(self.rows.take());
        self.rows = shown;
        self.heard = snapshot.revision;
    }

    /// Takes what the watch heard now.
    pub(super) fn hear(&mut self, changes: Vec<Change>, revision: i64, now: UnixMillis) {
        let mut heard = revision;
        for change in changes {
            match change {
                Change::Put(kv) => {
                    heard = heard.max(kv.mod_revision);
                    self.put(kv.key, &kv.value, kv.mod_revision, Heard::Now(now));
                }
                Change::Removed { key, revision } => {
                    heard = heard.max(revision);
                    self.remove(key, revision);
                }
            }
        }
        self.heard = self.heard.max(heard);
        let later = self.removed.split_off(&(self.heard + 1));
        for (revision, keys) in std::mem::replace(&mut self.removed, later) {
            for key in keys {
                if self.revisions.get(&key) == Some(&-revision) {
                    self.revisions.remove(&key);
                }
            }
        }
    }

    /// A key was set by a revision.
    pub(super) fn put(&mut self, key: Vec<u8>, value: &[u8], revision: i64, heard: Heard) {
        // Of a write of this admin its own times count, also if the watch was faster.
        let is_own = heard == Heard::Own && self.revisions.get(&key) == Some(&revision);
        if self.is_known(&key, revision) && !is_own {
            return;
        }
        match self.layout.row(&key, value) {
            Some(Row::Node(mut record, written)) => {
                times::of_node(&mut record, written, heard, self.lease);
                self.apply(registry::Change::PutNode(*record));
            }
            Some(Row::Entry(mut entry, written)) => {
                times::of_entry(&mut entry, written, heard);
                self.apply(registry::Change::PutEntry(*entry));
            }
            Some(Row::Record(kind, key, value)) => {
                self.rows.set_record(RecordWrite { kind, key, value: Some(value) });
            }
            Some(Row::Admin(key, urls)) => self.rows.set_admin(key, Some(urls)),
            // What it said before is true no longer.
            None => {
                self.unreadable += u64::from(self.layout.name(&key).is_some());
                self.forget(&key);
            }
        }
        self.revisions.insert(key, revision);
    }

    /// A key was removed by a revision.
    pub(super) fn remove(&mut self, key: Vec<u8>, revision: i64) {
        if self.is_known(&key, revision) {
            return;
        }
        self.forget(&key);
        self.removed.entry(revision).or_default().push(key.clone());
        self.revisions.insert(key, -revision);
    }

    /// Every key that begins so and is known was removed by a revision.
    pub(super) fn remove_prefix(&mut self, prefix: &[u8], revision: i64) {
        let keys: Vec<Vec<u8>> =
            self.revisions.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        for key in keys {
            if self.revision(&key) > 0 {
                self.remove(key, revision);
            }
        }
    }

    /// Whether a key has a value, whenever it was written.
    pub(super) fn has(&self, key: &[u8], value: &[u8]) -> bool {
        self.revision(key) > 0
            && match (self.layout.name(key), self.layout.row(key, value)) {
                (Some(Name::Node(id)), Some(Row::Node(row, _))) => {
                    self.rows.node(&id).is_some_and(|known| times::same_node(&known, &row))
                }
                (Some(Name::Entry(key)), Some(Row::Entry(row, _))) => {
                    self.rows.entry(&key).is_some_and(|known| times::same_entry(&known, &row))
                }
                (Some(Name::Record(kind, key)), Some(Row::Record(_, _, value))) => {
                    self.rows.record(kind, &key).as_ref() == Some(&value)
                }
                (Some(Name::Admin(_)), Some(Row::Admin(..))) => true,
                // A claim belongs to the node that is written with it.
                (None, _) => true,
                (Some(_), _) => false,
            }
    }

    fn forget(&mut self, key: &[u8]) {
        match self.layout.name(key) {
            Some(Name::Node(id)) => self.apply(registry::Change::RemoveNode(id)),
            Some(Name::Entry(key)) => self.apply(registry::Change::RemoveEntry(key)),
            Some(Name::Record(kind, key)) => self.rows.set_record(RecordWrite { kind, key, value: None }),
            Some(Name::Admin(key)) => self.rows.set_admin(key, None),
            None => {}
        }
    }

    fn apply(&mut self, change: registry::Change) {
        match self.rows.commit(&[change]) {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    pub(super) const fn freshness(&self) -> Freshness {
        self.freshness
    }

    pub(super) fn set_freshness(&mut self, freshness: Freshness) {
        self.freshness = freshness;
        self.rows.set_floor(self.floor(), freshness == Freshness::Stale);
    }

    /// Before this time nothing counts as expired.
    pub(super) const fn floor(&self) -> UnixMillis {
        match self.freshness {
            Freshness::Fresh => UnixMillis(0),
            Freshness::Stale => UnixMillis(u64::MAX),
            Freshness::Recovering(until) => until,
        }
    }
}

#[cfg(test)]
mod tests {
    use vmcast_etcd::rpc::KeyValue;
    use vmcast_proto::registry::{Role, conformance};

    use super::{super::key::node_value, *};

    const LEASE: u64 = 60_000;
    /// When something is heard.
    const NOW: UnixMillis = UnixMillis(1_790_000_000_000);
    const YEAR: u64 = 365 * 86_400_000;

    fn kv(state: &State, id: &str, expires: u64, mod_revision: i64) -> KeyValue {
        written(state, id, expires, NOW.0, mod_revision)
    }

    fn written(state: &State, id: &str, expires: u64, written: u64, mod_revision: i64) -> KeyValue {
        let record = conformance::node(id, Role::Agent, &[], expires);
        let (key, value) = (state.layout.node(record.id()), node_value(&record, UnixMillis(written)));
        KeyValue { key, value, mod_revision, ..KeyValue::default() }
    }

    fn expires(state: &State, id: &str) -> Option<u64> {
        let node = state.rows.node(&id.parse().expect("an id"));
        node.map(|record| record.expires.0)
    }

    #[test]
    fn changes_that_are_older_than_what_is_known_change_nothing() {
        let mut state = State::new(Layout::new("/"), LEASE);
        let end = NOW.0 + LEASE;
        let keys = vec![kv(&state, "a", end, 3)];
        state.reset(Snapshot { keys, revision: 5 }, NOW);
        let key = state.layout.node(&"a".parse().expect("an id"));
        assert_eq!((expires(&state, "a"), state.revision(&key)), (Some(end), 3));

        // This admin's own write, ahead of the watch.
        let own = kv(&state, "a", end + 2, 9);
        state.put(own.key, &own.value, 9, Heard::Own);
        let others = kv(&state, "a", 7, 8);
        state.hear(vec![Change::Put(others)], 8, NOW);
        assert_eq!(expires(&state, "a"), Some(end + 2), "the later one is kept");
        state.remove(key.clone(), 12);
        let others = kv(&state, "a", 7, 11);
        state.hear(vec![Change::Put(others)], 11, NOW);
        assert_eq!((expires(&state, "a"), state.revision(&key)), (None, 0), "it was removed after that");
        assert_eq!(state.removed.len(), 1);

        state.hear(vec![], 12, NOW);
        assert!(state.removed.is_empty() && state.revisions.is_empty(), "nothing older can come");
        let again = kv(&state, "a", 9, 13);
        state.hear(vec![Change::Put(again)], 13, NOW);
        assert_eq!(expires(&state, "a"), Some(9));
    }

    #[test]
    fn a_value_that_cannot_be_read_is_counted_and_takes_the_place_of_the_one_before() {
        let mut state = State::new(Layout::new("/"), LEASE);
        let first = kv(&state, "a", 1, 1);
        state.hear(vec![Change::Put(first.clone())], 1, NOW);
        state.hear(vec![Change::Put(KeyValue { value: vec![0xff], mod_revision: 2, ..first })], 2, NOW);
        assert_eq!((expires(&state, "a"), state.unreadable), (None, 1));
        let claim = KeyValue { key: b"/1/claim/1.1.1.1:1".to_vec(), mod_revision: 3, ..KeyValue::default() };
        state.hear(vec![Change::Put(claim)], 3, NOW);
        assert_eq!((state.revision(b"/1/claim/1.1.1.1:1"), state.unreadable), (3, 1), "claims are no rows");
    }

    // proves A2: what an admin's clock shows lengthens or shortens no lease that others know of
    #[test]
    fn a_lease_lasts_from_when_it_is_heard_of_whatever_the_clock_of_the_admin_that_wrote_it_shows() {
        for theirs in [NOW.0, NOW.0 + YEAR, NOW.0 - YEAR, 61_000] {
            let mut state = State::new(Layout::new("/"), LEASE);
            let renewed = written(&state, "a", theirs + LEASE, theirs, 1);
            state.hear(vec![Change::Put(renewed)], 1, NOW);
            assert_eq!(expires(&state, "a"), Some(NOW.0 + LEASE), "written at {theirs}");
            // Another admin, to whom 20 s of it are left, writes it for another reason.
            let drained = written(&state, "a", theirs + 7 + 20_000, theirs + 7, 2);
            state.hear(vec![Change::Put(drained)], 2, NOW);
            assert_eq!(expires(&state, "a"), Some(NOW.0 + 20_000));
        }
    }

    // proves A2: nor of one that was started with a wrong clock, or reads what such a one has left
    #[test]
    fn whoever_is_found_has_time_to_renew_and_no_more_than_a_lease() {
        let found = |written_at: u64, left: u64| {
            let mut state = State::new(Layout::new("/"), LEASE);
            let keys = vec![written(&state, "a", written_at + left, written_at, 1)];
            state.reset(Snapshot { keys, revision: 1 }, NOW);
            expires(&state, "a").map(|end| end - NOW.0)
        };
        assert_eq!(found(NOW.0, LEASE), Some(LEASE));
        assert_eq!(found(NOW.0 - 10_000, LEASE), Some(LEASE - 10_000), "clocks that agree say how old it is");
        for long_ago in [NOW.0 - 50_000, NOW.0 - YEAR, 1] {
            assert_eq!(found(long_ago, LEASE), Some(LEASE / 2));
        }
        assert_eq!(found(NOW.0 + YEAR, LEASE), Some(LEASE), "it is not yet");
        assert_eq!(found(NOW.0, 1_000), Some(LEASE / 2));
    }

    #[test]
    fn what_is_read_again_unchanged_is_as_old_as_it_was() {
        let mut state = State::new(Layout::new("/"), LEASE);
        let row = written(&state, "a", YEAR + LEASE, YEAR, 1);
        state.hear(vec![Change::Put(row.clone())], 1, NOW);
        let later = NOW.after(std::time::Duration::from_secs(50));
        state.reset(Snapshot { keys: vec![row], revision: 3 }, later);
        assert_eq!(expires(&state, "a"), Some(NOW.0 + LEASE));
        let key = state.layout.node(&"a".parse().expect("an id"));
        assert_eq!(state.revision(&key), 1);
        // One that was written since is younger.
        let renewed = written(&state, "a", YEAR + 40_000 + LEASE, YEAR + 40_000, 4);
        state.reset(Snapshot { keys: vec![renewed], revision: 5 }, later);
        assert_eq!(expires(&state, "a"), Some(later.0 + LEASE / 2), "at least so much");
    }

    // An admin of before there was `written` writes a lease's end alone, by its clock.
    #[test]
    fn a_row_without_the_time_of_its_writing_is_a_lease_that_begins_when_it_is_heard_of() {
        for theirs in [NOW.0, NOW.0 + YEAR, NOW.0 - YEAR] {
            let mut state = State::new(Layout::new("/"), LEASE);
            let row = written(&state, "a", theirs + LEASE, 0, 1);
            state.hear(vec![Change::Put(row)], 1, NOW);
            assert_eq!(expires(&state, "a"), Some(NOW.0 + LEASE));
        }
    }
}

//! What is known of the rows in etcd.

use std::collections::{BTreeMap, HashMap};

use vmcast_etcd::{Change, Snapshot};
use vmcast_proto::registry::{self, RecordWrite, Rows as _, Store as _, UnixMillis};

use super::key::{Layout, Name, Row};
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
    /// Values that could not be read.
    pub(super) unreadable: u64,
}

impl State {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            layout,
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

    /// Begins again with all keys.
    pub(super) fn reset(&mut self, snapshot: Snapshot) {
        self.revisions.clear();
        self.removed.clear();
        // Whoever reads meanwhile sees what there was.
        let shown = std::mem::take(&mut self.rows);
        for kv in snapshot.keys {
            self.put(kv.key, &kv.value, kv.mod_revision);
        }
        shown.replace(self.rows.take());
        self.rows = shown;
        self.heard = snapshot.revision;
    }

    /// Takes what the watch heard.
    pub(super) fn hear(&mut self, changes: Vec<Change>, revision: i64) {
        let mut heard = revision;
        for change in changes {
            match change {
                Change::Put(kv) => {
                    heard = heard.max(kv.mod_revision);
                    self.put(kv.key, &kv.value, kv.mod_revision);
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
    pub(super) fn put(&mut self, key: Vec<u8>, value: &[u8], revision: i64) {
        if self.is_known(&key, revision) {
            return;
        }
        match self.layout.row(&key, value) {
            Some(Row::Node(record)) => self.apply(registry::Change::PutNode(*record)),
            Some(Row::Entry(entry)) => self.apply(registry::Change::PutEntry(*entry)),
            Some(Row::Record(kind, key, value)) => {
                self.rows.set_record(RecordWrite { kind, key, value: Some(value) });
            }
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

    /// Whether a key has a value.
    pub(super) fn has(&self, key: &[u8], value: &[u8]) -> bool {
        self.revision(key) > 0
            && match (self.layout.name(key), self.layout.row(key, value)) {
                (Some(Name::Node(id)), Some(Row::Node(row))) => self.rows.node(&id).as_ref() == Some(&*row),
                (Some(Name::Entry(key)), Some(Row::Entry(row))) => {
                    self.rows.entry(&key).as_ref() == Some(&*row)
                }
                (Some(Name::Record(kind, key)), Some(Row::Record(_, _, value))) => {
                    self.rows.record(kind, &key).as_ref() == Some(&value)
                }
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

    fn kv(state: &State, id: &str, expires: u64, mod_revision: i64) -> KeyValue {
        let record = conformance::node(id, Role::Agent, &[], expires);
        let (key, value) = (state.layout.node(record.id()), node_value(&record));
        KeyValue { key, value, mod_revision, ..KeyValue::default() }
    }

    fn expires(state: &State, id: &str) -> Option<u64> {
        let node = state.rows.node(&id.parse().expect("an id"));
        node.map(|record| record.expires.0)
    }

    #[test]
    fn changes_that_are_older_than_what_is_known_change_nothing() {
        let mut state = State::new(Layout::new("/"));
        let keys = vec![kv(&state, "a", 1, 3)];
        state.reset(Snapshot { keys, revision: 5 });
        let key = state.layout.node(&"a".parse().expect("an id"));
        assert_eq!((expires(&state, "a"), state.revision(&key)), (Some(1), 3));

        // This admin's own write, ahead of the watch.
        let own = kv(&state, "a", 2, 9);
        state.put(own.key, &own.value, 9);
        let others = kv(&state, "a", 7, 8);
        state.hear(vec![Change::Put(others)], 8);
        assert_eq!(expires(&state, "a"), Some(2), "the later one is kept");
        state.remove(key.clone(), 12);
        let others = kv(&state, "a", 7, 11);
        state.hear(vec![Change::Put(others)], 11);
        assert_eq!((expires(&state, "a"), state.revision(&key)), (None, 0), "it was removed after that");
        assert_eq!(state.removed.len(), 1);

        state.hear(vec![], 12);
        assert!(state.removed.is_empty() && state.revisions.is_empty(), "nothing older can come");
        let again = kv(&state, "a", 9, 13);
        state.hear(vec![Change::Put(again)], 13);
        assert_eq!(expires(&state, "a"), Some(9));
    }

    #[test]
    fn a_value_that_cannot_be_read_is_counted_and_takes_the_place_of_the_one_before() {
        let mut state = State::new(Layout::new("/"));
        let first = kv(&state, "a", 1, 1);
        state.hear(vec![Change::Put(first.clone())], 1);
        state.hear(vec![Change::Put(KeyValue { value: vec![0xff], mod_revision: 2, ..first })], 2);
        assert_eq!((expires(&state, "a"), state.unreadable), (None, 1));
        let claim = KeyValue { key: b"/1/claim/1.1.1.1:1".to_vec(), mod_revision: 3, ..KeyValue::default() };
        state.hear(vec![Change::Put(claim)], 3);
        assert_eq!((state.revision(b"/1/claim/1.1.1.1:1"), state.unreadable), (3, 1), "claims are no rows");
    }
}

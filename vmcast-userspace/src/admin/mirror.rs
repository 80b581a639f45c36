//! The rows in memory, which every store keeps beside where they last.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vmcast_proto::registry::{
    CacheEntry, CacheKey, Change, Expected, MemoryStore, NodeId, NodeRecord, RecordKind, RecordWrite, Rows,
    Store, UnixMillis,
};

/// A store whose rows are read while it commits.
pub trait Kept: Store<Rows = Mirror> + Send + 'static {
    /// Says where nodes reach this admin, in place of what it said before: in [`Mirror::admins`] of all admins that share
    /// the store, for as long as this one runs.
    fn list_admin(&mut self, urls: Vec<String>) {
        self.rows().set_admin(String::new(), Some(urls));
    }

    /// Whether another admin was faster, which says nothing of the store: it works.
    fn is_conflict(_: &Self::Error) -> bool {
        false
    }
}

/// URLs of admins at most, of all together.
pub const MOST_ADMINS: usize = 16;

/// Rows that one writes and many read; clones share them. Alone it is a store that forgets everything when the
/// process ends.
#[derive(Clone, Debug, Default)]
pub struct Mirror(Arc<Mutex<Mirrored>>);

#[derive(Debug, Default)]
struct Mirrored {
    rows: MemoryStore,
    /// Nothing counts as expired before this time.
    floor: UnixMillis,
    is_stale: bool,
    /// Where nodes reach the admins, by what tells these apart.
    admins: BTreeMap<String, Vec<String>>,
}

/// The rows, held while they are read several times.
pub(super) struct HeldRows<'a>(MutexGuard<'a, Mirrored>);

impl std::ops::Deref for HeldRows<'_> {
    type Target = MemoryStore;

    fn deref(&self) -> &MemoryStore {
        &self.0.rows
    }
}

impl Mirror {
    fn held(&self) -> MutexGuard<'_, Mirrored> {
        // Each change of it is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rows(&self) -> HeldRows<'_> {
        HeldRows(self.held())
    }

    /// Takes all rows out.
    pub(super) fn take(&self) -> MemoryStore {
        std::mem::take(&mut self.held().rows)
    }

    /// Puts other rows in the place of all.
    pub(super) fn replace(&self, mut rows: MemoryStore) {
        let mut held = self.held();
        rows.go_on_counting(&held.rows);
        held.rows = rows;
    }

    /// Takes over which admins another has; the rest stays.
    pub(super) fn take_admins(&self, other: &Self) {
        let admins = std::mem::take(&mut other.held().admins);
        self.held().admins = admins;
    }

    /// Says where nodes reach an admin, or that it is gone.
    pub(super) fn set_admin(&self, key: String, urls: Option<Vec<String>>) {
        let mut held = self.held();
        match urls {
            Some(urls) => held.admins.insert(key, urls),
            None => held.admins.remove(&key),
        };
    }

    /// Where nodes reach the admins: the preferred URL of each, then the others, at most [`MOST_ADMINS`].
    #[must_use]
    pub fn admins(&self) -> Vec<String> {
        let held = self.held();
        let mut urls: Vec<String> = Vec::new();
        for place in 0..MOST_ADMINS {
            for url in held.admins.values().filter_map(|admin| admin.get(place)) {
                if urls.len() < MOST_ADMINS && !urls.contains(url) {
                    urls.push(url.clone());
                }
            }
        }
        urls
    }

    /// Sets a record, or removes it.
    pub(super) fn set_record(&self, write: RecordWrite) {
        self.held().rows.set_record(write);
    }

    /// Says from when on rows may count as expired again, and whether their source is lost.
    pub(super) fn set_floor(&self, floor: UnixMillis, is_stale: bool) {
        let mut held = self.held();
        (held.floor, held.is_stale) = (floor, is_stale);
    }

    /// Lets nothing count as expired before this time either.
    pub(super) fn raise_floor(&self, floor: UnixMillis) {
        let mut held = self.held();
        held.floor = held.floor.max(floor);
    }

    fn nodes_of(&self, read: impl FnOnce(&MemoryStore) -> Vec<NodeRecord>) -> Vec<NodeRecord> {
        let held = self.held();
        let mut nodes = read(&held.rows);
        for node in &mut nodes {
            node.expires = node.expires.max(held.floor);
        }
        nodes
    }
}

impl Rows for Mirror {
    fn is_stale(&self) -> bool {
        self.held().is_stale
    }

    fn node(&self, id: &NodeId) -> Option<NodeRecord> {
        let held = self.held();
        let node = held.rows.node(id)?;
        Some(NodeRecord { expires: node.expires.max(held.floor), ..node })
    }

    fn nodes(&self, after: Option<&NodeId>, limit: usize) -> Vec<NodeRecord> {
        self.nodes_of(|rows| rows.nodes(after, limit))
    }

    fn vmrs(&self) -> Vec<NodeRecord> {
        self.nodes_of(MemoryStore::vmrs)
    }

    fn holders(&self, endpoint: SocketAddr) -> Vec<NodeRecord> {
        self.nodes_of(|rows| rows.holders(endpoint))
    }

    fn expired_nodes(&self, now: UnixMillis) -> Vec<NodeId> {
        let held = self.held();
        if now < held.floor { Vec::new() } else { held.rows.expired_nodes(now) }
    }

    fn vmr_count(&self) -> usize {
        self.held().rows.vmr_count()
    }

    fn node_count(&self) -> usize {
        self.held().rows.node_count()
    }

    fn entry(&self, key: &CacheKey) -> Option<CacheEntry> {
        let held = self.held();
        let entry = held.rows.entry(key)?;
        Some(CacheEntry { expires: entry.expires.max(held.floor), ..entry })
    }

    fn entries(&self, after: Option<&CacheKey>, limit: usize) -> Vec<CacheEntry> {
        let held = self.held();
        let mut entries = held.rows.entries(after, limit);
        for entry in &mut entries {
            entry.expires = entry.expires.max(held.floor);
        }
        entries
    }

    fn entry_count(&self) -> usize {
        self.held().rows.entry_count()
    }

    fn record(&self, kind: RecordKind, key: &str) -> Option<Vec<u8>> {
        self.held().rows.record(kind, key)
    }

    fn records(&self, kind: RecordKind, prefix: &str, after: &str, limit: usize) -> Vec<(String, Vec<u8>)> {
        self.held().rows.records(kind, prefix, after, limit)
    }

    fn record_changes(&self, kind: RecordKind) -> u64 {
        self.held().rows.record_changes(kind)
    }
}

impl Store for Mirror {
    type Error = Infallible;
    type Rows = Self;

    fn rows(&self) -> &Self {
        self
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), Infallible> {
        self.held().rows.commit(changes)
    }

    fn commit_records(&mut self, expected: &[Expected], writes: &[RecordWrite]) -> Result<bool, Infallible> {
        self.held().rows.commit_records(expected, writes)
    }
}

impl Kept for Mirror {}

#[cfg(test)]
mod tests {
    use vmcast_proto::registry::{Role, Scope, conformance};

    use super::*;

    // proves A2
    #[test]
    fn the_mirror_keeps_the_contract() {
        conformance::run(Mirror::default);
    }

    #[test]
    fn each_admin_is_named_once_before_any_is_named_twice() {
        let mut mirror = Mirror::default();
        let url = |admin: usize, place: usize| format!("https://a{admin}-{place}:8443");
        for admin in 0..5 {
            mirror.set_admin(admin.to_string(), Some((0..5).map(|place| url(admin, place)).collect()));
        }
        let named = mirror.admins();
        assert_eq!(named.len(), MOST_ADMINS);
        assert_eq!(named[..6], [url(0, 0), url(1, 0), url(2, 0), url(3, 0), url(4, 0), url(0, 1)]);
        for admin in 1..5 {
            mirror.set_admin(admin.to_string(), None);
        }
        mirror.set_admin("same".to_owned(), Some(vec![url(0, 0)]));
        assert_eq!(mirror.admins(), (0..5).map(|place| url(0, place)).collect::<Vec<_>>());
        // With a store of one admin it is that one.
        mirror = Mirror::default();
        mirror.list_admin(vec![url(9, 9)]);
        mirror.list_admin(vec![url(9, 8)]);
        assert_eq!(mirror.admins(), [url(9, 8)]);
    }

    #[test]
    fn nothing_expires_before_the_floor() {
        let mut mirror = Mirror::default();
        let changes = [
            Change::PutNode(conformance::node("a", Role::Agent, &[], 5)),
            Change::PutEntry(conformance::entry(Scope::Agents, "10.0.0.0/8", "v", 5)),
        ];
        mirror.commit(&changes).expect("memory");
        assert_eq!(mirror.expired_nodes(UnixMillis(6)).len(), 1);
        mirror.set_floor(UnixMillis(9), true);
        assert!(mirror.is_stale());
        assert_eq!(mirror.expired_nodes(UnixMillis(6)), []);
        assert_eq!(mirror.nodes(None, 9)[0].expires, UnixMillis(9));
        assert_eq!(mirror.entries(None, 9)[0].expires, UnixMillis(9));
        assert_eq!(mirror.expired_nodes(UnixMillis(9)).len(), 1);
    }
}

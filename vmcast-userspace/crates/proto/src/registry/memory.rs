//! A store that forgets everything when the process ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::SocketAddr,
    ops::Bound,
};

use super::{CacheEntry, CacheKey, Change, NodeId, NodeRecord, Rows, Store, UnixMillis};

/// Two ordered tables in memory, and what their rows are also found by.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    nodes: BTreeMap<NodeId, NodeRecord>,
    vmrs: BTreeSet<NodeId>,
    endpoints: BTreeSet<(SocketAddr, NodeId)>,
    node_ends: BTreeSet<(UnixMillis, NodeId)>,
    entries: BTreeMap<CacheKey, CacheEntry>,
    naming: BTreeSet<(NodeId, CacheKey)>,
    entry_ends: BTreeSet<(UnixMillis, CacheKey)>,
}

impl MemoryStore {
    /// The keys of the cache entries that name a VMR, in their order.
    pub fn entries_naming(&self, vmr: &NodeId) -> impl Iterator<Item = CacheKey> {
        let from = self.naming.range((Bound::Included((vmr.clone(), CacheKey::LEAST)), Bound::Unbounded));
        from.take_while(move |(named, _)| named == vmr).map(|(_, key)| *key)
    }

    /// The keys of the cache entries that expire at or before a time.
    pub fn entries_expired(&self, now: UnixMillis) -> impl Iterator<Item = CacheKey> {
        self.entry_ends.iter().take_while(move |(end, _)| *end <= now).map(|(_, key)| *key)
    }

    fn put_node(&mut self, record: &NodeRecord) {
        let id = record.id().clone();
        self.remove_node(&id);
        if record.rank().is_some() {
            self.vmrs.insert(id.clone());
        }
        self.endpoints.extend(record.registration.endpoints.iter().map(|endpoint| (*endpoint, id.clone())));
        self.node_ends.insert((record.expires, id.clone()));
        self.nodes.insert(id, record.clone());
    }

    fn remove_node(&mut self, id: &NodeId) {
        if let Some(record) = self.nodes.remove(id) {
            self.vmrs.remove(id);
            for endpoint in &record.registration.endpoints {
                self.endpoints.remove(&(*endpoint, id.clone()));
            }
            self.node_ends.remove(&(record.expires, id.clone()));
        }
    }

    fn put_entry(&mut self, entry: &CacheEntry) {
        self.remove_entry(&entry.key);
        self.naming.insert((entry.nearest.vmr.clone(), entry.key));
        self.entry_ends.insert((entry.expires, entry.key));
        self.entries.insert(entry.key, entry.clone());
    }

    fn remove_entry(&mut self, key: &CacheKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.naming.remove(&(entry.nearest.vmr, *key));
            self.entry_ends.remove(&(entry.expires, *key));
        }
    }

    fn remove_entries(&mut self, keys: &[CacheKey]) {
        for key in keys {
            self.remove_entry(key);
        }
    }
}

fn page<K: Ord, V: Clone>(table: &BTreeMap<K, V>, after: Option<&K>, limit: usize) -> Vec<V> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    table.range((start, Bound::Unbounded)).take(limit).map(|(_, value)| value.clone()).collect()
}

impl Store for MemoryStore {
    type Error = Infallible;
    type Rows = Self;

    fn rows(&self) -> &Self {
        self
    }

    fn commit(&mut self, changes: &[Change]) -> Result<(), Infallible> {
        for change in changes {
            match change {
                Change::PutNode(record) => self.put_node(record),
                Change::RemoveNode(id) => self.remove_node(id),
                Change::PutEntry(entry) => self.put_entry(entry),
                Change::RemoveEntry(key) => self.remove_entry(key),
                Change::RemoveEntriesNaming(id) => {
                    let keys: Vec<_> = self.entries_naming(id).collect();
                    self.remove_entries(&keys);
                }
                Change::RemoveAllEntries => {
                    self.entries.clear();
                    self.naming.clear();
                    self.entry_ends.clear();
                }
                Change::RemoveEntriesExpired(now) => {
                    let keys: Vec<_> = self.entries_expired(*now).collect();
                    self.remove_entries(&keys);
                }
            }
        }
        Ok(())
    }
}

impl Rows for MemoryStore {
    fn node(&self, id: &NodeId) -> Option<NodeRecord> {
        self.nodes.get(id).cloned()
    }

    fn nodes(&self, after: Option<&NodeId>, limit: usize) -> Vec<NodeRecord> {
        page(&self.nodes, after, limit)
    }

    fn vmrs(&self) -> Vec<NodeRecord> {
        self.vmrs.iter().filter_map(|id| self.nodes.get(id)).cloned().collect()
    }

    fn holders(&self, endpoint: SocketAddr) -> Vec<NodeRecord> {
        let from = self.endpoints.range((Bound::Included((endpoint, NodeId::least())), Bound::Unbounded));
        let ids = from.take_while(|(held, _)| *held == endpoint).map(|(_, id)| id);
        ids.filter_map(|id| self.nodes.get(id)).cloned().collect()
    }

    fn expired_nodes(&self, now: UnixMillis) -> Vec<NodeId> {
        let expired = self.node_ends.iter().take_while(|(end, _)| *end <= now);
        let mut ids: Vec<NodeId> = expired.map(|(_, id)| id.clone()).collect();
        ids.sort();
        ids
    }

    fn vmr_count(&self) -> usize {
        self.vmrs.len()
    }

    fn node_count(&self) -> usize {
        self.nodes.len()
    }

    fn entry(&self, key: &CacheKey) -> Option<CacheEntry> {
        self.entries.get(key).cloned()
    }

    fn entries(&self, after: Option<&CacheKey>, limit: usize) -> Vec<CacheEntry> {
        page(&self.entries, after, limit)
    }

    fn entry_count(&self) -> usize {
        self.entries.len()
    }
}

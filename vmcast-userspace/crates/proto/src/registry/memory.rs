//! A store that forgets everything when the process ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    ops::Bound,
};

use super::{
    CacheEntry, CacheKey, Change, Expected, NodeId, NodeRecord, RecordKind, RecordWrite, Rows, Store,
    UnixMillis,
};

/// Ordered tables in memory, and what their rows are also found by.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    nodes: BTreeMap<NodeId, NodeRecord>,
    vmrs: BTreeSet<NodeId>,
    endpoints: BTreeSet<(SocketAddr, NodeId)>,
    node_ends: BTreeSet<(UnixMillis, NodeId)>,
    /// Nodes whose own tunnels begin at an address.
    own_tunnels: BTreeSet<(IpAddr, NodeId)>,
    entries: BTreeMap<CacheKey, CacheEntry>,
    naming: BTreeSet<(NodeId, CacheKey)>,
    entry_ends: BTreeSet<(UnixMillis, CacheKey)>,
    records: BTreeMap<(RecordKind, String), Vec<u8>>,
    record_changes: BTreeMap<RecordKind, u64>,
}

impl MemoryStore {
    /// Every node in the order of their ids.
    pub fn every_node(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// The nodes that say that a tunnel of theirs begins at an address, in the order of their ids.
    pub fn at_tunnels_from(&self, address: IpAddr) -> impl Iterator<Item = &NodeRecord> {
        let from = self.own_tunnels.range((Bound::Included((address, NodeId::least())), Bound::Unbounded));
        let ids = from.take_while(move |(begin, _)| *begin == address).map(|(_, id)| id);
        ids.filter_map(|id| self.nodes.get(id))
    }

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
        let own = &record.registration.about.own_tunnels;
        self.own_tunnels.extend(own.iter().map(|own| (own.tunnel.ip(), id.clone())));
        self.nodes.insert(id, record.clone());
    }

    fn remove_node(&mut self, id: &NodeId) {
        if let Some(record) = self.nodes.remove(id) {
            self.vmrs.remove(id);
            for endpoint in &record.registration.endpoints {
                self.endpoints.remove(&(*endpoint, id.clone()));
            }
            self.node_ends.remove(&(record.expires, id.clone()));
            for own in &record.registration.about.own_tunnels {
                self.own_tunnels.remove(&(own.tunnel.ip(), id.clone()));
            }
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

    /// Sets a record, or removes it.
    pub fn set_record(&mut self, RecordWrite { kind, key, value }: RecordWrite) {
        match value {
            Some(value) => self.records.insert((kind, key), value),
            None => self.records.remove(&(kind, key)),
        };
        *self.record_changes.entry(kind).or_default() += 1;
    }

    /// Takes over how often records were changed in a store before this one, and counts once more for all.
    pub fn go_on_counting(&mut self, before: &Self) {
        for kind in RecordKind::ALL {
            let changes = self.record_changes.entry(kind).or_default();
            *changes += before.record_changes.get(&kind).copied().unwrap_or_default() + 1;
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

    fn commit_records(&mut self, expected: &[Expected], writes: &[RecordWrite]) -> Result<bool, Infallible> {
        let is_there = |expected: &Expected| {
            self.records.get(&(expected.kind, expected.key.clone())) == expected.value.as_ref()
        };
        if !expected.iter().all(is_there) {
            return Ok(false);
        }
        for write in writes {
            self.set_record(write.clone());
        }
        Ok(true)
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

    fn record(&self, kind: RecordKind, key: &str) -> Option<Vec<u8>> {
        self.records.get(&(kind, key.to_owned())).cloned()
    }

    fn records(&self, kind: RecordKind, prefix: &str, after: &str, limit: usize) -> Vec<(String, Vec<u8>)> {
        let start = Bound::Included((kind, prefix.to_owned()));
        let behind = Bound::Excluded((kind, after.to_owned()));
        let start = if after < prefix { start } else { behind };
        let rows = self.records.range((start, Bound::Unbounded));
        let rows = rows.take_while(|((of, key), _)| *of == kind && key.starts_with(prefix)).take(limit);
        rows.map(|((_, key), value)| (key.clone(), value.clone())).collect()
    }

    fn record_changes(&self, kind: RecordKind) -> u64 {
        self.record_changes.get(&kind).copied().unwrap_or_default()
    }
}

//! A store that forgets everything when the process ends.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, ops::Bound};

use super::{CacheEntry, CacheKey, Change, NodeId, NodeRecord, Store, UnixMillis};

/// Two ordered tables in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    nodes: BTreeMap<NodeId, NodeRecord>,
    entries: BTreeMap<CacheKey, CacheEntry>,
}

fn page<K: Ord, V: Clone>(table: &BTreeMap<K, V>, after: Option<&K>, limit: usize) -> Vec<V> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    table.range((start, Bound::Unbounded)).take(limit).map(|(_, value)| value.clone()).collect()
}

impl Store for MemoryStore {
    type Error = Infallible;

    fn commit(&mut self, changes: &[Change]) -> Result<(), Infallible> {
        for change in changes {
            match change {
                Change::PutNode(record) => {
                    self.nodes.insert(record.id().clone(), record.clone());
                }
                Change::RemoveNode(id) => {
                    self.nodes.remove(id);
                }
                Change::PutEntry(entry) => {
                    self.entries.insert(entry.key, entry.clone());
                }
                Change::RemoveEntry(key) => {
                    self.entries.remove(key);
                }
                Change::RemoveEntriesNaming(id) => self.entries.retain(|_, entry| entry.nearest.vmr != *id),
                Change::RemoveAllEntries => self.entries.clear(),
                Change::RemoveEntriesExpired(now) => self.entries.retain(|_, entry| entry.expires > *now),
            }
        }
        Ok(())
    }

    fn node(&self, id: &NodeId) -> Result<Option<NodeRecord>, Infallible> {
        Ok(self.nodes.get(id).cloned())
    }

    fn nodes(&self, after: Option<&NodeId>, limit: usize) -> Result<Vec<NodeRecord>, Infallible> {
        Ok(page(&self.nodes, after, limit))
    }

    fn vmrs(&self) -> Result<Vec<NodeRecord>, Infallible> {
        Ok(self.nodes.values().filter(|node| node.rank().is_some()).cloned().collect())
    }

    fn holders(&self, endpoint: SocketAddr) -> Result<Vec<NodeRecord>, Infallible> {
        let holds = |node: &&NodeRecord| node.registration.endpoints.contains(&endpoint);
        Ok(self.nodes.values().filter(holds).cloned().collect())
    }

    fn expired_nodes(&self, now: UnixMillis) -> Result<Vec<NodeId>, Infallible> {
        Ok(self.nodes.values().filter(|node| !node.is_live(now)).map(|node| node.id().clone()).collect())
    }

    fn vmr_count(&self) -> Result<usize, Infallible> {
        Ok(self.nodes.values().filter(|node| node.rank().is_some()).count())
    }

    fn node_count(&self) -> Result<usize, Infallible> {
        Ok(self.nodes.len())
    }

    fn entry(&self, key: &CacheKey) -> Result<Option<CacheEntry>, Infallible> {
        Ok(self.entries.get(key).cloned())
    }

    fn entries(&self, after: Option<&CacheKey>, limit: usize) -> Result<Vec<CacheEntry>, Infallible> {
        Ok(page(&self.entries, after, limit))
    }

    fn entry_count(&self) -> Result<usize, Infallible> {
        Ok(self.entries.len())
    }
}

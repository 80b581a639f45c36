//! The rows as keys and values.
//!
//! | key, behind the prefix | value |
//! |---|---|
//! | `1/node/ID` | `vmcast.v1.NodeEntry` |
//! | `1/claim/ADDRESS:PORT` | the id of the VMR that has the endpoint |
//! | `1/cache/SCOPE@PREFIX` | `vmcast.v1.CacheEntry` |
//! | `1/record/KIND/KEY` | as its owner wrote it, in JSON |
//! | `1/admin/NUMBER` | `vmcast.v1.AdminEntry`, for as long as etcd's lease of that number lasts |
//!
//! The number is the version of this layout.

use std::net::SocketAddr;

use vmcast_proto::registry::{CacheEntry, CacheKey, NodeId, NodeRecord, RecordKind, UnixMillis};
use vmcast_signal::{prost::Message as _, v1};

use crate::admin::convert;

/// Where the rows of a registry stand in an etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: String,
}

/// A row as etcd has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    /// A node, and when it was written, by the same clock as its times; `None` of an admin that does not say it.
    Node(Box<NodeRecord>, Option<UnixMillis>),
    /// An entry of the cache, and likewise.
    Entry(Box<CacheEntry>, Option<UnixMillis>),
    /// A record.
    Record(RecordKind, String, Vec<u8>),
    /// Where nodes reach an admin.
    Admin(String, Vec<String>),
}

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A node.
    Node(NodeId),
    /// An entry of the cache.
    Entry(CacheKey),
    /// A record.
    Record(RecordKind, String),
    /// An admin.
    Admin(String),
}

impl Layout {
    /// The layout behind a prefix such as `/vmcast/`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { root: format!("{prefix}1/") }
    }

    /// What every key begins with.
    pub(super) fn root(&self) -> &[u8] {
        self.root.as_bytes()
    }

    /// What the keys of the cache begin with.
    pub(super) fn cache(&self) -> Vec<u8> {
        format!("{}cache/", self.root).into()
    }

    /// The key of a node.
    #[must_use]
    pub fn node(&self, id: &NodeId) -> Vec<u8> {
        format!("{}node/{id}", self.root).into()
    }

    pub(super) fn claim(&self, endpoint: SocketAddr) -> Vec<u8> {
        format!("{}claim/{endpoint}", self.root).into()
    }

    /// The key of an entry of the cache.
    #[must_use]
    pub fn entry(&self, key: &CacheKey) -> Vec<u8> {
        format!("{}cache/{key}", self.root).into()
    }

    /// The key of a record.
    #[must_use]
    pub fn record(&self, kind: RecordKind, key: &str) -> Vec<u8> {
        format!("{}record/{}/{key}", self.root, kind.label()).into()
    }

    pub(super) fn admin(&self, lease: i64) -> Vec<u8> {
        format!("{}admin/{lease:x}", self.root).into()
    }

    /// What a key stands for; `None` for claims, and for what a later version keeps beside.
    pub(super) fn name(&self, key: &[u8]) -> Option<Name> {
        let (table, rest) = std::str::from_utf8(key).ok()?.strip_prefix(&self.root)?.split_once('/')?;
        match table {
            "node" => rest.parse().ok().map(Name::Node),
            "cache" => rest.parse().ok().map(Name::Entry),
            "record" => {
                let (kind, key) = rest.split_once('/')?;
                RecordKind::of_label(kind).map(|kind| Name::Record(kind, key.to_owned()))
            }
            "admin" => Some(Name::Admin(rest.to_owned())),
            _ => None,
        }
    }

    /// The row of a key and its value; `None` if they are none, or do not belong together.
    #[must_use]
    pub fn row(&self, key: &[u8], value: &[u8]) -> Option<Row> {
        match self.name(key)? {
            Name::Node(id) => {
                let entry = v1::NodeEntry::decode(value).ok()?;
                let written = written(entry.written_unix_millis);
                let record = convert::node_record(entry).ok()?;
                (*record.id() == id).then(|| Row::Node(Box::new(record), written))
            }
            Name::Entry(key) => {
                let entry = v1::CacheEntry::decode(value).ok()?;
                let written = written(entry.written_unix_millis);
                let entry = convert::entry(entry).ok()?;
                (entry.key == key).then(|| Row::Entry(Box::new(entry), written))
            }
            Name::Record(kind, key) => Some(Row::Record(kind, key, value.to_vec())),
            Name::Admin(key) => Some(Row::Admin(key, v1::AdminEntry::decode(value).ok()?.urls)),
        }
    }
}

/// The value of a node that is written at a time.
#[must_use]
pub fn node_value(record: &NodeRecord, written: UnixMillis) -> Vec<u8> {
    let UnixMillis(written_unix_millis) = written;
    v1::NodeEntry { written_unix_millis, ..convert::node_entry(record) }.encode_to_vec()
}

/// The value of an entry of the cache that is written at a time.
#[must_use]
pub fn entry_value(entry: &CacheEntry, written: UnixMillis) -> Vec<u8> {
    let UnixMillis(written_unix_millis) = written;
    v1::CacheEntry { written_unix_millis, ..convert::cache_entry(entry) }.encode_to_vec()
}

/// The value of an admin.
pub(super) fn admin_value(urls: &[String]) -> Vec<u8> {
    v1::AdminEntry { urls: urls.to_vec() }.encode_to_vec()
}

fn written(millis: u64) -> Option<UnixMillis> {
    (millis != 0).then_some(UnixMillis(millis))
}

#[cfg(test)]
mod tests {
    use vmcast_proto::registry::{Role, Scope, conformance};

    use super::*;

    #[test]
    fn rows_come_back_from_their_keys_and_values() {
        let layout = Layout::new("/a/");
        for role in [Role::Agent, Role::Vmr { rank: 0 }, Role::Vmr { rank: u32::MAX }] {
            let record = conformance::node("n:1", role, &["192.0.2.1:1", "[2001:db8::1]:65535"], u64::MAX);
            let row = layout.row(&layout.node(record.id()), &node_value(&record, UnixMillis(7)));
            assert_eq!(row, Some(Row::Node(Box::new(record), Some(UnixMillis(7)))));
        }
        for (scope, prefix) in [(Scope::Agents, "192.0.2.0/24"), (Scope::Vmrs(3), "2001:db8::/56")] {
            let entry = conformance::entry(scope, prefix, "v", 9);
            let row = layout.row(&layout.entry(&entry.key), &entry_value(&entry, UnixMillis(0)));
            assert_eq!(row, Some(Row::Entry(Box::new(entry), None)));
        }
        let key = layout.record(RecordKind::Certificate, "n:1/0a");
        let row = Row::Record(RecordKind::Certificate, "n:1/0a".into(), vec![0xff]);
        assert_eq!(
            (key.as_slice(), layout.row(&key, &[0xff])),
            (&b"/a/1/record/certificate/n:1/0a"[..], Some(row))
        );
    }

    #[test]
    fn an_admin_comes_back_from_its_key_and_value() {
        let (layout, urls) = (Layout::new("/a/"), vec!["https://admin.example.net:8443".to_owned()]);
        let row = layout.row(&layout.admin(0x7f01), &admin_value(&urls));
        assert_eq!(row, Some(Row::Admin("7f01".to_owned(), urls)));
    }

    #[test]
    fn what_is_no_row_is_passed_over() {
        let layout = Layout::new("/a/");
        let record = conformance::node("n", Role::Agent, &[], 9);
        let value = node_value(&record, UnixMillis(7));
        for (key, value) in [
            ("/b/1/node/n", &value[..]),
            ("/a/2/node/n", &value),
            ("/a/1/node/other", &value),
            ("/a/1/node/n o", &value),
            ("/a/1/node", &value),
            ("/a/1/later/n", &value),
            ("/a/1/record/token", &value),
            ("/a/1/record/later/n", &value),
            ("/a/1/cache/0@192.0.2.0/24", &value),
            ("/a/1/node/n", &[0xff, 0xff]),
            ("/a/1/node/n", &[]),
        ] {
            assert_eq!(layout.row(key.as_bytes(), value), None, "{key}");
        }
        assert_eq!(layout.row(&[0xff, 0xfe], &value), None);
    }
}

use vmcast::admin::{EtcdLayout, EtcdRow, etcd_entry_value, etcd_node_value};
use vmcast_proto::registry::UnixMillis;

use crate::script::Script;

/// What a registry's prefix of etcd holds: each step is a key and its value. What is a row is written and reads the
/// same.
pub fn etcd_row(data: &[u8]) {
    let layout = EtcdLayout::new("/v/");
    let mut script = Script::new(data);
    while let Some((table, _)) = script.step() {
        let (rest, value) = (script.sized(), script.sized());
        let table = ["node/", "cache/", "record/", "record/token/", "", "admin/"][usize::from(table) % 6];
        let key = [b"/v/1/", table.as_bytes(), rest].concat();
        let Some(row) = layout.row(&key, value) else { continue };
        let (key, value) = match &row {
            EtcdRow::Node(record, at) => (layout.node(record.id()), etcd_node_value(record, time(*at))),
            EtcdRow::Entry(entry, at) => (layout.entry(&entry.key), etcd_entry_value(entry, time(*at))),
            EtcdRow::Record(kind, key, value) => (layout.record(*kind, key), value.clone()),
            // Its key is etcd's lease.
            EtcdRow::Admin(..) => continue,
        };
        assert_eq!(layout.row(&key, &value), Some(row));
    }
}

/// When a row was written, as its value has it; 0 if its admin did not say.
fn time(at: Option<UnixMillis>) -> UnixMillis {
    at.unwrap_or(UnixMillis(0))
}

//! The tables of kernel programs that this process has open.

use std::fs;

use anyhow::{Context as _, Result};
use aya::maps::MapInfo;

use crate::copies::plane::Owner;

/// Elements are allocated as they come.
const BPF_F_NO_PREALLOC: u32 = 1;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) id: u32,
    pub(super) owner: Owner,
    entries: u32,
    /// What it takes when it is empty.
    pub(super) bytes: u64,
}

impl Table {
    /// What an entry takes of a table that is allocated as a whole.
    pub(super) fn per_entry(&self) -> f64 {
        self.bytes as f64 / f64::from(self.entries)
    }
}

/// Those of this process.
pub(super) fn mine() -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // The descriptor of the directory itself is gone by now.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if let Some(fields) = Fields::parse(&text) {
            let Fields { id, entries, flags, bytes } = fields;
            let info = MapInfo::from_id(id)?;
            let name = info.name_as_str().context("a table without a name")?;
            let whole = flags & BPF_F_NO_PREALLOC == 0;
            tables.push(Table {
                id,
                owner: if whole { Owner::of_table(name) } else { Owner::Other },
                entries,
                bytes,
            });
        }
    }
    tables.sort_unstable_by_key(|table| table.id);
    tables.dedup();
    Ok(tables)
}

/// What `/proc/self/fdinfo` says of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fields {
    id: u32,
    entries: u32,
    flags: u32,
    bytes: u64,
}

impl Fields {
    /// `None` for every other kind of descriptor.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        Some(Self {
            id: field("map_id:")?.parse().ok()?,
            entries: field("max_entries:")?.parse().ok()?,
            flags: u32::from_str_radix(field("map_flags:")?.trim_start_matches("0x"), 16).ok()?,
            bytes: field("memlock:")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_told_from_other_descriptors() {
        let text = "pos:\t0\nflags:\t02000002\nmap_type:\t2\nkey_size:\t4\nvalue_size:\t48\nmax_entries:\t1024\n\
                    map_flags:\t0x1\nmemlock:\t49472\nmap_id:\t77\nfrozen:\t0\n";
        let fields = Fields::parse(text).expect("a table");
        assert_eq!(fields, Fields { id: 77, entries: 1024, flags: 1, bytes: 49_472 });
        assert_eq!(Fields::parse("pos:\t0\nflags:\t0100000\n"), None);
    }
}

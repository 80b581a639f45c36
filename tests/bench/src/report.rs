//! What was measured, as JSON and as tables.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

use crate::{machine::Machine, stats::Summary};

/// Results of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Whether this was the short version.
    pub(crate) quick: bool,
    pub(crate) rows: Vec<CopyRow>,
    pub(crate) joins: Vec<JoinRow>,
    pub(crate) memory: Vec<MemoryRow>,
    pub(crate) ratios: Vec<Ratio>,
    /// What a reader of the figures must know besides.
    pub(crate) remarks: Vec<String>,
}

/// Copies per second of one core.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CopyRow {
    pub(crate) engine: String,
    /// What takes the copies.
    pub(crate) peer: String,
    pub(crate) members: usize,
    pub(crate) groups: usize,
    /// Bytes of UDP payload in a packet.
    pub(crate) payload: usize,
    /// Packets that the engine takes in at one go.
    pub(crate) burst: usize,
    /// Median of the rounds, in millions.
    pub(crate) mcopies_per_s_core: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) rounds: usize,
    pub(crate) ns_per_copy: f64,
    pub(crate) delivered: u64,
    pub(crate) expected: u64,
}

/// Join to first packet, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct JoinRow {
    /// The way of the stream.
    pub(crate) path: String,
    pub(crate) engine: String,
    pub(crate) joins: usize,
    /// Median round-trip time between source and client.
    pub(crate) rtt_ms: f64,
    /// From the join to the first packet.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Memory of a router daemon.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemoryRow {
    pub(crate) engine: String,
    /// Members as the daemon itself reports them.
    pub(crate) members: u64,
    pub(crate) groups: u64,
    /// Resident set in MB (10^6 bytes) before the first member came, and with all of them.
    pub(crate) empty_mb: f64,
    pub(crate) resident_mb: f64,
    /// That part of it which is no file: what the daemon allocated.
    pub(crate) anonymous_mb: f64,
    pub(crate) bytes_per_member: f64,
    /// Seconds until all of them were in the tables.
    pub(crate) filled_in_s: f64,
}

/// On which side of a target a value has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A figure that has a target.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) target: f64,
    /// "at least" or "at most".
    pub(crate) bound: &'static str,
    pub(crate) met: bool,
    /// Least and most of the rounds, where `value` is their median.
    pub(crate) spread: Option<[f64; 2]>,
}

impl Ratio {
    pub(crate) fn new(name: String, value: f64, unit: &'static str, bound: Bound) -> Self {
        let (word, target, met) = match bound {
            Bound::AtLeast(target) => ("at least", target, value >= target),
            Bound::AtMost(target) => ("at most", target, value <= target),
        };
        Self { name, value, unit, target, bound: word, met, spread: None }
    }

    /// Says how far the rounds lie apart.
    pub(crate) fn with_spread(self, of: Summary) -> Self {
        Self { spread: Some([of.least, of.most]), ..self }
    }

    /// The result as a sentence.
    fn sentence(&self) -> String {
        let Self { name, value, unit, target, bound, met, spread } = self;
        let verdict = if *met { "target met" } else { "TARGET MISSED" };
        let spread = spread.map_or_else(String::new, |[least, most]| format!(" ({least:.2} … {most:.2})"));
        format!("{verdict}: {name}: {value:.2} {unit}{spread}, wanted {bound} {target} {unit}")
    }
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        Self {
            machine: Machine::look(),
            quick,
            rows: Vec::new(),
            joins: Vec::new(),
            memory: Vec::new(),
            ratios: Vec::new(),
            remarks: Vec::new(),
        }
    }

    pub(crate) fn write_json(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// The whole report for a terminal.
    pub(crate) fn to_text(&self) -> String {
        let Machine { cpu, cores, kernel, load, bpf_stats: _ } = &self.machine;
        let mut text = format!("{cpu}, {cores} cores, Linux {kernel}, load {load} at the start\n");
        for table in [self.copies(), self.joins(), self.memory()].into_iter().flatten() {
            writeln!(text, "\n{table}").expect("writing to a string");
        }
        text.push('\n');
        for line in self.ratios.iter().map(Ratio::sentence).chain(self.remarks.iter().cloned()) {
            writeln!(text, "{line}").expect("writing to a string");
        }
        text
    }

    fn copies(&self) -> Option<Table> {
        let header = [
            "engine",
            "members",
            "payload",
            "burst",
            "Mcopies/s/core",
            "least … most",
            "ns/copy",
            "delivered",
            "of",
        ];
        let rows = self.rows.iter().map(|row| {
            vec![
                row.engine.clone(),
                row.members.to_string(),
                row.payload.to_string(),
                row.burst.to_string(),
                format!("{:.3}", row.mcopies_per_s_core),
                format!("{:.3} … {:.3}", row.least, row.most),
                format!("{:.0}", row.ns_per_copy),
                row.delivered.to_string(),
                row.expected.to_string(),
            ]
        });
        table(&header, rows.collect())
    }

    fn joins(&self) -> Option<Table> {
        let header = ["join to first packet, ms", "engine", "joins", "RTT", "p50", "p99"];
        let rows = self.joins.iter().map(|row| {
            let mut cells = vec![row.path.clone(), row.engine.clone(), row.joins.to_string()];
            cells.extend([row.rtt_ms, row.p50_ms, row.p99_ms].map(|value| format!("{value:.2}")));
            cells
        });
        table(&header, rows.collect())
    }

    fn memory(&self) -> Option<Table> {
        let header = [
            "router daemon",
            "members",
            "groups",
            "empty MB",
            "resident MB",
            "allocated MB",
            "bytes/member",
            "filled in s",
        ];
        let rows = self.memory.iter().map(|row| {
            vec![
                row.engine.clone(),
                row.members.to_string(),
                row.groups.to_string(),
                format!("{:.1}", row.empty_mb),
                format!("{:.1}", row.resident_mb),
                format!("{:.1}", row.anonymous_mb),
                format!("{:.0}", row.bytes_per_member),
                format!("{:.1}", row.filled_in_s),
            ]
        });
        table(&header, rows.collect())
    }
}

/// A table with its first column to the left and figures to the right; `None` without rows.
fn table(header: &[&str], rows: Vec<Vec<String>>) -> Option<Table> {
    if rows.is_empty() {
        return None;
    }
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.to_vec()).add_rows(rows);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_is_said_in_words() {
        let missed = Ratio::new("speed".into(), 5.5, "×", Bound::AtLeast(6.0));
        assert!(!missed.met);
        assert_eq!(missed.sentence(), "TARGET MISSED: speed: 5.50 ×, wanted at least 6 ×");
        let met = Ratio::new("memory".into(), 31.0, "MiB", Bound::AtMost(40.0));
        assert!(met.met);
        assert_eq!(met.sentence(), "target met: memory: 31.00 MiB, wanted at most 40 MiB");
    }
}

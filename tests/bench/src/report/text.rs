//! A report as tables.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};

use super::{Ratio, Report};

/// Rows of one kind, as they are shown.
pub(super) struct Cells {
    pub(super) title: &'static str,
    pub(super) header: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Report {
    /// The whole report for a terminal.
    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.machine.sentence());
        for cells in self.tables() {
            writeln!(text, "\n{}\n{}", cells.title, table(&cells)).expect("writing to a string");
        }
        text.push('\n');
        for line in self.ratios.iter().map(Ratio::sentence).chain(self.remarks.iter().cloned()) {
            writeln!(text, "{line}").expect("writing to a string");
        }
        writeln!(text, "The run took {:.0} s.", self.seconds).expect("writing to a string");
        text
    }

    /// Every table that has rows.
    pub(super) fn tables(&self) -> Vec<Cells> {
        let tables = [
            self.copies(),
            self.latency(),
            self.hold(),
            self.churn(),
            self.kernel_memory(),
            self.join(),
            self.moved(),
            self.signalling(),
            self.floods(),
            self.arrival(),
            self.memory(),
            self.admin(),
            self.registry(),
            self.nearest(),
        ];
        tables.into_iter().filter(|cells| !cells.rows.is_empty()).collect()
    }

    fn copies(&self) -> Cells {
        let rows = self.rows.iter().map(|row| {
            vec![
                row.maker().to_owned(),
                row.output.to_owned(),
                row.members.to_string(),
                row.groups.to_string(),
                row.payload.to_string(),
                format!("{:.3}", row.mcopies_per_s_core),
                format!("{:.3} … {:.3}", row.least, row.most),
                format!("{:.0}", row.ns_per_copy),
                delivered(row.delivered, row.expected),
                row.checked.to_string(),
            ]
        });
        Cells {
            title: "Copies by one core, sink included",
            header: vec![
                "engine",
                "copy",
                "members",
                "groups",
                "payload",
                "Mcopies/s",
                "least … most",
                "ns/copy",
                "delivered",
                "checked",
            ],
            rows: rows.collect(),
        }
    }

    fn latency(&self) -> Cells {
        let rows = self.latencies.iter().map(|row| {
            let mut cells = vec![
                row.hop.clone(),
                row.outputs.to_string(),
                format!("{} %", row.load_percent),
                format!("{:.0}", row.packets_per_s),
            ];
            let under_way = [row.p50_us, row.p99_us, row.p999_us];
            cells.extend(under_way.into_iter().chain([row.added_p50_us]).map(|value| format!("{value:.2}")));
            let [middle, least, most] = [row.added_p99_us, row.added_p99_least_us, row.added_p99_most_us];
            cells.push(format!("{middle:.2} ({least:.2} … {most:.2})"));
            cells.push(format!("{:.2}", row.added_p999_us));
            cells.push(delivered(row.delivered, row.expected));
            cells
        });
        Cells {
            title: "Time under way over one hop, µs",
            header: vec![
                "hop",
                "outputs",
                "load",
                "packets/s",
                "p50",
                "p99",
                "p99.9",
                "added p50",
                "added p99",
                "added p99.9",
                "delivered",
            ],
            rows: rows.collect(),
        }
    }

    fn hold(&self) -> Cells {
        let rows = self.holds.iter().map(|row| {
            vec![
                row.engine.clone(),
                row.members.to_string(),
                row.packets.to_string(),
                format!("{:.0}", row.softirq_us),
                format!("{:.0}", row.softirq_most_us),
                format!("{:.0}", row.poll_us),
                format!("{:.0}", row.poll_most_us),
                delivered(row.delivered, row.expected),
            ]
        });
        Cells {
            title: "How long one packet holds a core, µs",
            header: vec![
                "engine",
                "members",
                "packets",
                "softirq, median",
                "longest",
                "one device's turn, median",
                "longest",
                "delivered",
            ],
            rows: rows.collect(),
        }
    }

    fn churn(&self) -> Cells {
        let rows = self.churn.iter().map(|row| {
            vec![
                row.engine.clone(),
                row.members.to_string(),
                row.wandering.to_string(),
                row.changes.to_string(),
                format!("{:.0}", row.per_s),
                row.packets.to_string(),
                format!("{:.0}", row.packets_per_s),
                row.lost.to_string(),
                row.doubled.to_string(),
                row.drops.clone(),
            ]
        });
        Cells {
            title: "Members who come and go beside a stream",
            header: vec![
                "engine",
                "who stay",
                "who wander",
                "changes",
                "per s",
                "packets",
                "per s",
                "lost",
                "doubled",
                "drops",
            ],
            rows: rows.collect(),
        }
    }

    fn kernel_memory(&self) -> Cells {
        let rows = self.kernel_memory.iter().map(|row| {
            vec![
                row.engine.clone(),
                row.what.clone(),
                format!("{:.0}", row.added_bytes),
                format!("{:.0} … {:.0}", row.least, row.most),
                format!("{:.0}", row.reserved_share_bytes),
                format!("{:.0}", row.bytes),
            ]
        });
        Cells {
            title: "Kernel memory, bytes",
            header: vec!["engine", "of", "added", "least … most", "share of what is reserved", "together"],
            rows: rows.collect(),
        }
    }

    fn join(&self) -> Cells {
        let rows = self.joins.iter().map(|row| {
            let mut cells = vec![row.path.clone(), row.engine.clone(), row.joins.to_string()];
            cells.extend([row.rtt_ms, row.p50_ms, row.p99_ms].map(|value| format!("{value:.2}")));
            cells
        });
        Cells {
            title: "Join to first packet, ms",
            header: vec!["way", "engine", "joins", "RTT", "p50", "p99"],
            rows: rows.collect(),
        }
    }

    fn signalling(&self) -> Cells {
        let rows = self.signalling.iter().map(|row| {
            vec![
                row.who.clone(),
                row.what.clone(),
                row.from.clone(),
                format!("{:.0}", row.per_s_core),
                format!("{:.0} … {:.0}", row.least, row.most),
                format!("{:.2}", row.us_each),
                format!("{:.0}", row.per_s),
            ]
        });
        Cells {
            title: "Joins and leaves in a second of one core",
            header: vec!["who", "what", "from", "per s", "least … most", "µs each", "in all"],
            rows: rows.collect(),
        }
    }

    fn arrival(&self) -> Cells {
        let rows = self.arrivals.iter().map(|row| {
            let mut cells = vec![row.what.clone(), row.until.clone(), row.engine.clone()];
            cells.extend([row.members.to_string(), row.joins.to_string()]);
            cells.extend([row.p50_ms, row.p99_ms, row.most_ms].map(|value| format!("{value:.3}")));
            cells
        });
        Cells {
            title: "Report to member served, ms",
            header: vec!["report", "until", "engine", "members there", "joins", "p50", "p99", "most"],
            rows: rows.collect(),
        }
    }

    fn moved(&self) -> Cells {
        let rows = self.moved.iter().map(|row| {
            vec![
                row.what.clone(),
                row.changes.to_string(),
                format!("{:.2}", row.pace_ms),
                format!("{:.1}", row.p50_ms),
                format!("{:.1}", row.most_ms),
            ]
        });
        Cells {
            title: "Stream that an agent misses when it moves, ms",
            header: vec!["what", "changes", "a packet each", "p50", "most"],
            rows: rows.collect(),
        }
    }

    fn floods(&self) -> Cells {
        let rows = self.floods.iter().map(|row| {
            vec![
                row.what.clone(),
                row.frames.to_string(),
                format!("{:.0}", row.per_s),
                format!("{:.0}", row.alone_per_s),
                row.read.to_string(),
                row.dropped.to_string(),
                row.joins.to_string(),
                row.packets.to_string(),
                row.lost.to_string(),
                format!("{:.1}", row.before_mb),
                format!("{:.1}", row.after_mb),
            ]
        });
        Cells {
            title: "Floods at the router daemon",
            header: vec![
                "what",
                "messages",
                "per s",
                "limit here",
                "read",
                "dropped",
                "joins",
                "packets",
                "lost",
                "MB before",
                "MB after",
            ],
            rows: rows.collect(),
        }
    }

    fn memory(&self) -> Cells {
        let rows = self.memory.iter().map(|row| {
            vec![
                row.engine.clone(),
                row.members.to_string(),
                row.groups.to_string(),
                format!("{:.1}", row.empty_mb),
                format!("{:.1}", row.resident_mb),
                format!("{:.1}", row.anonymous_mb),
                format!("{:.0}", row.bytes_per_tunnel),
                format!("{:.1}", row.filled_in_s),
            ]
        });
        Cells {
            title: "Memory of the router daemon",
            header: vec![
                "engine",
                "members",
                "groups",
                "empty MB",
                "resident MB",
                "allocated MB",
                "bytes/tunnel",
                "filled in s",
            ],
            rows: rows.collect(),
        }
    }
}

impl Report {
    fn admin(&self) -> Cells {
        let rows = self.admin.iter().map(|row| {
            vec![
                row.what.clone(),
                row.connections.to_string(),
                row.under_way.to_string(),
                format!("{:.0}", row.per_s_core),
                format!("{:.0} … {:.0}", row.least, row.most),
                format!("{:.2}", row.us_each),
                format!("{:.0}", row.per_s),
            ]
        });
        Cells {
            title: "Answers of the admin in a second of one core",
            header: vec![
                "what",
                "connections",
                "under way on each",
                "per s",
                "least … most",
                "µs each",
                "in all",
            ],
            rows: rows.collect(),
        }
    }

    fn registry(&self) -> Cells {
        let rows = self.registry.iter().map(|row| {
            let known = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.1}"));
            vec![
                row.how.clone(),
                row.agents.to_string(),
                format!("{:.1}", row.took_s),
                format!("{:.0}", row.per_s),
                format!("{:.1}", row.us_each),
                format!("{:.1}", row.client_us_each),
                format!("{:.2} + {:.2}", row.cores, row.client_cores),
                known(row.empty_mb),
                known(row.resident_mb),
                row.bytes_per_agent.map_or_else(String::new, |bytes| format!("{bytes:.0}")),
            ]
        });
        Cells {
            title: "Agents that register at once",
            header: vec![
                "how",
                "connections",
                "s",
                "per s",
                "µs each",
                "client's µs each",
                "cores, and client's",
                "empty MB",
                "resident MB",
                "bytes/agent",
            ],
            rows: rows.collect(),
        }
    }

    fn nearest(&self) -> Cells {
        let rows = self.nearest.iter().map(|row| {
            vec![
                row.way.clone(),
                row.disturbance.clone(),
                row.vmrs.to_string(),
                delivered(row.answered.into(), row.searches.into()),
                format!("{:.1}", row.exact_percent),
                format!("{:.3}", row.mean_stretch),
            ]
        });
        Cells {
            title: "The nearest VMR in simulated networks",
            header: vec!["way", "disturbance", "VMRs", "answers", "exact %", "mean stretch"],
            rows: rows.collect(),
        }
    }
}

/// How much of what was expected arrived.
fn delivered(delivered: u64, expected: u64) -> String {
    if delivered == expected { delivered.to_string() } else { format!("{delivered} of {expected}") }
}

/// A table with its first column to the left and figures to the right.
fn table(cells: &Cells) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(cells.header.clone()).add_rows(cells.rows.clone());
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

//! Plots of a report, as SVG.

mod chart;

use std::path::Path;

use anyhow::Result;
use plotters::style::RGBColor;

use super::{CopyRow, LatencyRow, Report};
use crate::copies::{GROUP_MEMBERS, OVER_IPV6};

use chart::{Chart, Line, Point};

/// Payload of the plots over groups.
const MEDIA: usize = 1316;
const SMALL: usize = 64;
const BLACK: RGBColor = RGBColor(0, 0, 0);
/// Colours that are told apart, also by the colour-blind (after Okabe and Ito). Copies that nobody rewrites have that
/// of the engine that makes them so.
const COLOURS: [(&str, RGBColor); 9] = [
    ("XDP", RGBColor(0, 114, 178)),
    ("TC", RGBColor(213, 94, 0)),
    ("software", RGBColor(0, 158, 115)),
    ("sendmmsg", RGBColor(204, 121, 167)),
    ("GSO", RGBColor(230, 159, 0)),
    ("kernel vxlan", RGBColor(86, 180, 233)),
    ("bridge", RGBColor(150, 130, 30)),
    ("kernel ipmr", RGBColor(120, 120, 120)),
    ("veth", BLACK),
];

/// A plot that was written.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) file: &'static str,
}

/// Writes the plots that the report has rows for.
pub(super) fn write(report: &Report, dir: &Path) -> Result<Vec<Plot>> {
    let charts = [
        ("copies.svg", fan_out(report, "Copies by one core, 1316 bytes of payload", MEDIA)),
        ("small.svg", fan_out(report, "Copies by one core, 64 bytes of payload", SMALL)),
        ("groups.svg", groups(report)),
        ("latency.svg", latencies(report)),
        ("holds.svg", holds(report)),
    ];
    let mut plots = Vec::new();
    for (file, chart) in charts {
        if chart.has_lines() {
            chart.draw(&dir.join(file))?;
            plots.push(Plot { title: chart.title, file });
        }
    }
    Ok(plots)
}

/// The engines by fan-out.
fn fan_out(report: &Report, title: &'static str, payload: usize) -> Chart {
    let rows = report.rows.iter().filter(|row| {
        row.fan_out == "unicast" && row.groups == 1 && row.payload == payload && is_compared(row)
    });
    copies(title, "members", rows, |row| row.members)
}

/// The engines by groups.
fn groups(report: &Report) -> Chart {
    let rows = report.rows.iter().filter(|row| {
        row.fan_out == "unicast" && row.members == GROUP_MEMBERS && row.payload == MEDIA && is_compared(row)
    });
    copies("Copies by one core and number of groups, 16 members each", "groups", rows, |row| row.groups)
}

/// Without statistics, or over IPv6, XDP is the same engine.
fn is_compared(row: &CopyRow) -> bool {
    !row.maker().contains("statistics off") && row.output != OVER_IPV6
}

/// A chart of copies per second.
fn copies<'a>(
    title: &'static str,
    across: &'static str,
    rows: impl Iterator<Item = &'a CopyRow> + Clone,
    place: fn(&CopyRow) -> usize,
) -> Chart {
    let mut places: Vec<usize> = rows.clone().map(place).collect();
    places.sort_unstable();
    places.dedup();
    let mut lines = Vec::new();
    for row in rows {
        let at = places.binary_search(&place(row)).unwrap_or_default();
        let spread = Some([row.least, row.most]);
        add(&mut lines, row.maker(), Point { place: at, value: row.mcopies_per_s_core, spread });
    }
    let places = places.iter().map(usize::to_string).collect();
    Chart { title, across, upwards: "million copies a second", places, lines }
}

/// What is shown of a hop.
type Figure = fn(&LatencyRow) -> f64;

const PERCENTILES: [(&str, Figure); 3] =
    [("p50", |row| row.p50_us), ("p99", |row| row.p99_us), ("p99.9", |row| row.p999_us)];

/// The hops with one output.
fn latencies(report: &Report) -> Chart {
    let mut lines: Vec<Line> = Vec::new();
    for row in report.latencies.iter().filter(|row| row.outputs == 1) {
        let label = format!("{}, {} %", row.hop, row.load_percent);
        // The cable alone is measured beside every number of outputs.
        if lines.iter().all(|line| line.label != label) {
            for (place, (_, of)) in PERCENTILES.into_iter().enumerate() {
                add(&mut lines, &label, Point { place, value: of(row), spread: None });
            }
        }
    }
    // A hop has one colour; the lighter load is drawn through.
    let lightest = report.latencies.iter().map(|row| row.load_percent).min().unwrap_or_default();
    let light = format!(", {lightest} %");
    lines.iter_mut().for_each(|line| line.dashed = !line.label.ends_with(&light));
    Chart {
        title: "Time under way over one hop with one output",
        across: "percentile of the packets, at a part of what the hop takes at most",
        upwards: "µs",
        places: PERCENTILES.map(|(name, _)| name.to_owned()).to_vec(),
        lines,
    }
}

/// How long one packet holds a core at most, by fan-out.
fn holds(report: &Report) -> Chart {
    let rows = report.holds.iter().filter(|row| row.engine != "kernel ipmr");
    let mut places: Vec<usize> = rows.clone().map(|row| row.members).collect();
    places.sort_unstable();
    places.dedup();
    let mut lines = Vec::new();
    for row in rows {
        let place = places.binary_search(&row.members).unwrap_or_default();
        let turn = format!("{}, one device's turn", row.engine);
        add(&mut lines, &turn, Point { place, value: row.poll_most_us, spread: None });
        let whole = format!("{}, whole softirq", row.engine);
        add(&mut lines, &whole, Point { place, value: row.softirq_most_us, spread: None });
    }
    lines.iter_mut().for_each(|line| line.dashed = line.label.ends_with("whole softirq"));
    Chart {
        title: "How long one packet holds a core at most",
        across: "members",
        upwards: "µs",
        places: places.iter().map(usize::to_string).collect(),
        lines,
    }
}

/// Adds a point to the line of this name.
fn add(lines: &mut Vec<Line>, label: &str, point: Point) {
    let at = lines.iter().position(|line| line.label == label).unwrap_or_else(|| {
        let known = COLOURS.iter().find(|(name, _)| label.starts_with(name));
        lines.push(Line {
            label: label.to_owned(),
            points: Vec::new(),
            colour: known.map_or(BLACK, |(_, colour)| *colour),
            dashed: label.contains("floor"),
        });
        lines.len() - 1
    });
    lines[at].points.push(point);
    lines[at].points.sort_by_key(|point| point.place);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(engine: &'static str, members: usize, groups: usize, mcopies: f64) -> CopyRow {
        CopyRow {
            engine: Some(engine),
            peer: None,
            output: "AMT",
            fan_out: "unicast",
            members,
            groups,
            payload: MEDIA,
            burst: 1,
            devices: 4,
            mcopies_per_s_core: mcopies,
            least: mcopies,
            most: mcopies,
            rounds: 5,
            ns_per_copy: 1e3 / mcopies,
            delivered: 1,
            expected: 1,
            checked: 1,
        }
    }

    #[test]
    fn a_plot_has_a_line_for_each_engine() {
        let mut report = Report::new(true);
        report.rows = vec![
            row("one", 64, 1, 3.0),
            row("other", 64, 1, 0.4),
            row("one", 8, 1, 4.0),
            row("other", 8, 1, 0.5),
        ];
        let dir = tempfile::tempdir().expect("a directory");
        let plots = write(&report, dir.path()).expect("plots");
        assert_eq!(plots.iter().map(|plot| plot.file).collect::<Vec<_>>(), ["copies.svg"]);
        let text = std::fs::read_to_string(dir.path().join("copies.svg")).expect("a plot");
        assert!(text.starts_with("<svg") && text.contains("one") && text.contains("other"));
        assert!(text.matches("<polyline").count() >= 2);
    }

    #[test]
    fn the_places_of_a_fan_out_are_the_numbers_that_were_measured() {
        let mut report = Report::new(true);
        report.rows = vec![
            row("XDP broadcast", 1_000, 1, 3.0),
            row("XDP broadcast", 8, 1, 4.0),
            row("XDP floor", 8, 1, 5.0),
            row("XDP broadcast, statistics off", 64, 1, 4.0),
        ];
        let chart = fan_out(&report, "copies", MEDIA);
        assert_eq!(chart.places, ["8", "1000"]);
        let [engine, floor] = &chart.lines[..] else { panic!("{:?}", chart.lines) };
        assert_eq!(engine.points.iter().map(|point| point.value).collect::<Vec<_>>(), [4.0, 3.0]);
        assert!(floor.dashed && !engine.dashed && floor.colour == engine.colour);
    }

    #[test]
    fn groups_are_compared_at_one_fan_out() {
        let mut report = Report::new(true);
        report.rows = vec![
            row("one", 16, 1, 3.0),
            row("one", 16, 64, 2.8),
            row("one", 16, 4_096, 2.0),
            row("one", 8, 4_096, 1.0),
        ];
        let chart = groups(&report);
        assert_eq!(chart.places, ["1", "64", "4096"]);
        assert_eq!(chart.lines[0].points.len(), 3);
    }
}

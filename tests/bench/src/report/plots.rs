//! Plots of a report, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    coord::ranged1d::{AsRangedCoord, ValueFormatter},
    prelude::*,
};

use super::{CopyRow, LatencyRow, Report};

/// Pixels.
const SIZE: (u32, u32) = (900, 480);
/// Payload of the fan-outs that are shown.
const PAYLOAD: usize = 1316;
/// Colours that are told apart, also by the colour-blind (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(150, 130, 30),
];

/// A plot that was written.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) file: &'static str,
}

/// What is shown of a row.
type Figure<Row> = fn(&Row) -> f64;

/// One line of a plot.
struct Line {
    label: String,
    points: Vec<(f64, f64)>,
}

/// Writes the plots that the report has rows for.
pub(super) fn write(report: &Report, dir: &Path) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    let fan_outs: [(_, _, _, Figure<CopyRow>); 2] = [
        ("Copies by one core", "copies.svg", "million copies a second", |row| row.mcopies_per_s_core),
        ("Cost of a copy", "cost.svg", "nanoseconds a copy", |row| row.ns_per_copy),
    ];
    for (title, file, unit, of) in fan_outs {
        let lines = fan_out(report, of);
        if lines.iter().any(|line| line.points.len() > 1) {
            let members = ends(&lines, |point| point.0);
            draw(
                &dir.join(file),
                title,
                ("members", unit),
                (members.0..members.1).log_scale(),
                &lines,
                &count,
            )?;
            plots.push(Plot { title, file });
        }
    }
    let lines = latencies(report);
    if !lines.is_empty() {
        let (title, file) = ("Time under way over one hop", "latency.svg");
        let last = (PERCENTILES.len() - 1) as f64;
        draw(&dir.join(file), title, ("percentile", "µs"), -MARGIN..last + MARGIN, &lines, &percentile)?;
        plots.push(Plot { title, file });
    }
    Ok(plots)
}

/// The engines by fan-out.
fn fan_out(report: &Report, of: Figure<CopyRow>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let rows =
        report.rows.iter().filter(|row| row.output == "unicast" && row.groups == 1 && row.payload == PAYLOAD);
    for row in rows {
        let point = (row.members as f64, of(row));
        match lines.iter_mut().find(|line| line.label == row.engine) {
            Some(line) => line.points.push(point),
            None => lines.push(Line { label: row.engine.clone(), points: vec![point] }),
        }
    }
    lines.iter_mut().for_each(|line| line.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    lines
}

/// The percentiles that are measured.
const PERCENTILES: [(&str, Figure<LatencyRow>); 3] =
    [("p50", |row| row.p50_us), ("p99", |row| row.p99_us), ("p99.9", |row| row.p999_us)];

/// Room beside the first and the last.
const MARGIN: f64 = 0.25;

/// The hops with one output.
fn latencies(report: &Report) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for row in report.latencies.iter().filter(|row| row.outputs == 1) {
        let label = format!("{}, {} %", row.hop, row.load_percent);
        // The cable alone is measured beside every number of outputs.
        if lines.iter().all(|line| line.label != label) {
            let points = (0..).map(f64::from).zip(PERCENTILES.map(|(_, of)| of(row))).collect();
            lines.push(Line { label, points });
        }
    }
    lines
}

/// The name of a percentile at its place; nothing between two of them.
fn percentile(place: &f64) -> String {
    let named = PERCENTILES.get(place.round() as usize);
    let named = named.filter(|_| (place - place.round()).abs() < MARGIN / 2.0);
    named.map_or("", |named| named.0).to_owned()
}

fn count(value: &f64) -> String {
    format!("{value:.0}")
}

/// The least and the most of all points.
fn ends(lines: &[Line], of: fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let values = || lines.iter().flat_map(|line| &line.points).map(of);
    (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
}

fn draw<X>(
    path: &Path,
    title: &str,
    (x_unit, y_unit): (&str, &str),
    x: X,
    lines: &[Line],
    x_label: &dyn Fn(&f64) -> String,
) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow!("drawing {}: {error}", path.display());
    area.fill(&WHITE).map_err(|error| failed(&error))?;
    let (least, most) = ends(lines, |point| point.1);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 22))
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(62)
        .build_cartesian_2d(x, (least / 1.3..most * 1.3).log_scale())
        .map_err(|error| failed(&error))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(x_unit)
        .y_desc(y_unit)
        .x_label_formatter(x_label)
        .label_style(("sans-serif", 13))
        .draw()
        .map_err(|error| failed(&error))?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let colour = *colour;
        let series = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(4);
        chart
            .draw_series(series)
            .map_err(|error| failed(&error))?
            .label(&line.label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 13))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|error| failed(&error))?;
    area.present().map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(engine: &str, members: usize, mcopies: f64) -> CopyRow {
        CopyRow {
            engine: engine.to_owned(),
            output: "unicast",
            peer: "AMT".to_owned(),
            members,
            groups: 1,
            payload: PAYLOAD,
            burst: 1,
            devices: 4,
            mcopies_per_s_core: mcopies,
            least: mcopies,
            most: mcopies,
            rounds: 5,
            ns_per_copy: 1e3 / mcopies,
            delivered: 1,
            expected: 1,
        }
    }

    #[test]
    fn a_plot_has_a_line_for_each_engine() {
        let mut report = Report::new(true);
        report.rows =
            vec![row("one", 64, 3.0), row("other", 64, 0.4), row("one", 8, 4.0), row("other", 8, 0.5)];
        let dir = tempfile::tempdir().expect("a directory");
        let plots = write(&report, dir.path()).expect("plots");
        assert_eq!(plots.iter().map(|plot| plot.file).collect::<Vec<_>>(), ["copies.svg", "cost.svg"]);
        let text = std::fs::read_to_string(dir.path().join("copies.svg")).expect("a plot");
        assert!(text.starts_with("<svg") && text.contains("one") && text.contains("other"));
        assert!(text.matches("<polyline").count() >= 2);
    }
}

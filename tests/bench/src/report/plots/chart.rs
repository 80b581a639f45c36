//! Drawing: lines over named places, with the key beside them.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// Pixels.
const SIZE: (u32, u32) = (1_000, 480);
/// Width of what is drawn in; the key has the rest.
const CHART_WIDTH: u32 = 770;
/// Height of a line of the key.
const KEY_LINE: i32 = 24;
const FONT: &str = "sans-serif";
const TEXT: i32 = 14;
/// Room beside the first and the last place.
const MARGIN: f64 = 0.3;

/// A point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// The place, by number.
    pub(super) place: usize,
    pub(super) value: f64,
    /// Least and most that was measured.
    pub(super) spread: Option<[f64; 2]>,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) label: String,
    pub(super) points: Vec<Point>,
    pub(super) colour: RGBColor,
    pub(super) dashed: bool,
}

/// A plot with a logarithmic scale upwards.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    /// What the places are.
    pub(super) across: &'static str,
    pub(super) upwards: &'static str,
    /// The names of the places.
    pub(super) places: Vec<String>,
    pub(super) lines: Vec<Line>,
}

impl Chart {
    /// Whether there is anything to be compared.
    pub(super) fn has_lines(&self) -> bool {
        self.places.len() > 1 && self.lines.iter().any(|line| line.points.len() > 1)
    }

    pub(super) fn draw(&self, path: &Path) -> Result<()> {
        self.draw_on(&SVGBackend::new(path, SIZE).into_drawing_area())
            .map_err(|error| anyhow!("drawing {}: {error}", path.display()))
    }

    fn draw_on(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| anyhow!("{error}");
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let (left, right) = area.split_horizontally(CHART_WIDTH);
        let (least, most) = self.ends();
        let last = self.places.len().saturating_sub(1) as f64;
        let mut chart = ChartBuilder::on(&left)
            .caption(self.title, (FONT, 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(-MARGIN..last + MARGIN, (least / 1.2..most * 1.2).log_scale())
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_labels(4 * self.places.len())
            .x_desc(self.across)
            .y_desc(self.upwards)
            .x_label_formatter(&|place| self.place(*place))
            .y_label_formatter(&number)
            .label_style((FONT, TEXT))
            .disable_x_mesh()
            .set_tick_mark_size(LabelAreaPosition::Bottom, 0)
            .draw()
            .map_err(|error| failed(&error))?;
        for line in &self.lines {
            let (points, colour) = (line.points.iter().map(Point::at), line.colour.stroke_width(2));
            let dash = if line.dashed { 6 } else { 0 };
            if line.dashed {
                chart.draw_series(DashedLineSeries::new(points, dash, 4, colour)).map(drop)
            } else {
                chart.draw_series(LineSeries::new(points, colour)).map(drop)
            }
            .map_err(|error| failed(&error))?;
            let dots = line.points.iter().map(|point| Circle::new(point.at(), 3, line.colour.filled()));
            chart.draw_series(dots).map_err(|error| failed(&error))?;
            let spreads = line.points.iter().filter_map(|point| Some((point.place as f64, point.spread?)));
            let spreads = spreads.map(|(place, [least, most])| {
                PathElement::new([(place, least), (place, most)], line.colour.stroke_width(1))
            });
            chart.draw_series(spreads).map_err(|error| failed(&error))?;
        }
        self.draw_key(&right)?;
        area.present().map_err(|error| failed(&error))
    }

    fn draw_key(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<()> {
        let text = (FONT, TEXT).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
        for (line, number) in self.lines.iter().zip(0..) {
            let y = 56 + number * KEY_LINE;
            // As on the chart: a dashed line has a gap.
            let strokes: &[(i32, i32)] = if line.dashed { &[(0, 9), (15, 24)] } else { &[(0, 24)] };
            let failed = |error: &dyn std::fmt::Display| anyhow!("{error}");
            for (from, to) in strokes {
                area.draw(&PathElement::new([(*from, y), (*to, y)], line.colour.stroke_width(3)))
                    .map_err(|error| failed(&error))?;
            }
            area.draw(&Text::new(line.label.as_str(), (32, y), text.clone()))
                .map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// The least and the most that is drawn.
    fn ends(&self) -> (f64, f64) {
        let points = self.lines.iter().flat_map(|line| &line.points);
        let values = points.flat_map(|point| point.spread.into_iter().flatten().chain([point.value]));
        values.fold((f64::INFINITY, 0.0), |(least, most), value| (least.min(value), most.max(value)))
    }

    /// The name of a place; nothing between two of them.
    fn place(&self, at: f64) -> String {
        let near = (at - at.round()).abs() < 0.01;
        let named = self.places.get(at.round().max(0.0) as usize).filter(|_| near && at > -MARGIN);
        named.cloned().unwrap_or_default()
    }
}

impl Point {
    fn at(&self) -> (f64, f64) {
        (self.place as f64, self.value)
    }
}

/// With as many digits as it needs.
fn number(value: &f64) -> String {
    if *value >= 10.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

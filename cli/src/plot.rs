//! Pictures of runs, as SVG text.

pub mod race;
pub mod training;

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::error::{Error, Result};

pub use plotters::prelude::{RGBColor, SeriesLabelPosition as Corner};

/// Colours that Okabe and Ito (2008) chose to be told apart by everyone.
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
pub const ORANGE: RGBColor = RGBColor(213, 94, 0);
pub const SKY: RGBColor = RGBColor(86, 180, 233);
pub const AMBER: RGBColor = RGBColor(230, 159, 0);
pub const GREEN: RGBColor = RGBColor(0, 158, 115);
pub const PURPLE: RGBColor = RGBColor(204, 121, 167);
pub const BLACK: RGBColor = RGBColor(0, 0, 0);
pub const GREY: RGBColor = RGBColor(110, 110, 110);
/// For many curves of one picture, in this order.
pub const PALETTE: [RGBColor; 7] = [BLUE, ORANGE, GREEN, AMBER, PURPLE, SKY, BLACK];
const GRID: RGBColor = RGBColor(225, 225, 225);

const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Other kinds of pictures, by the ends of their names.
const OTHERS: [&str; 10] = ["png", "jpg", "jpeg", "gif", "webp", "bmp", "tiff", "pdf", "eps", "ps"];

/// Refuses a name that promises another kind of picture.
pub fn check_name(path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    match extension.filter(|extension| OTHERS.iter().any(|other| extension == other)) {
        Some(_) => Err(Error::file(path, "pictures are drawn as SVG: name it .svg")),
        None => Ok(()),
    }
}

/// A line through points, or marks at them.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Empty where the legend says nothing of it.
    name: String,
    colour: RGBColor,
    points: Vec<(f64, f64)>,
    stroke: Stroke,
    marked: bool,
    width: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stroke {
    Solid,
    Dashed,
    /// No line: a cross at each point.
    Crosses,
    /// No line: a ring around each point.
    Rings,
}

impl Curve {
    /// A solid line.
    pub fn lines(name: impl Into<String>, colour: RGBColor, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), colour, points, stroke: Stroke::Solid, marked: false, width: 2 }
    }

    /// A cross at each point and no line.
    pub fn crosses(name: impl Into<String>, colour: RGBColor, points: Vec<(f64, f64)>) -> Self {
        Self { stroke: Stroke::Crosses, ..Self::lines(name, colour, points) }
    }

    /// A ring around each point and no line.
    pub fn rings(name: impl Into<String>, colour: RGBColor, points: Vec<(f64, f64)>) -> Self {
        Self { stroke: Stroke::Rings, ..Self::lines(name, colour, points) }
    }

    /// A dash for each stretch between two points.
    pub fn dashed(self) -> Self {
        Self { stroke: Stroke::Dashed, ..self }
    }

    /// A dot at each point, so that a single one shows too.
    pub fn marked(self) -> Self {
        Self { marked: true, ..self }
    }

    /// A hair line that the legend does not name.
    pub fn thin(colour: RGBColor, points: Vec<(f64, f64)>) -> Self {
        Self { width: 1, ..Self::lines("", colour, points) }
    }
}

/// An axis: what it shows, how it writes a value, from where to where.
#[derive(Debug, Clone)]
pub struct Axis {
    pub label: &'static str,
    pub format: fn(f64) -> String,
    pub range: Range<f64>,
    pub log: bool,
}

impl Axis {
    pub fn linear(label: &'static str, format: fn(f64) -> String, range: Range<f64>) -> Self {
        Self { label, format, range, log: false }
    }

    /// A logarithm over the decades that hold all values.
    pub fn decades(label: &'static str, format: fn(f64) -> String, values: impl Iterator<Item = f64>) -> Self {
        let above = |x: &f64| *x > 0.0 && x.is_finite();
        let (lowest, highest) =
            values.filter(above).fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
        let (lowest, highest) = if lowest <= highest { (lowest, highest) } else { (0.1, 1.0) };
        // A hair more on both sides, or the axis leaves its ends unlabelled.
        let range = 0.999 * 10f64.powf(lowest.log10().floor())..10f64.powf((1.001 * highest).log10().ceil());
        Self { label, format, range, log: true }
    }
}

/// Where a legend stands: over the plot, or beside it where it hides no curve.
#[derive(Debug, Clone)]
pub enum Legend {
    Inside(Corner),
    Beside,
}

/// A picture of curves over two axes.
#[derive(Debug, Clone)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub curves: Vec<Curve>,
    pub legend: Legend,
}

impl Chart {
    /// The chart by itself; of that size without a legend beside.
    pub fn svg(&self, size: (u32, u32)) -> Result<String> {
        grid(std::slice::from_ref(self), 1, size)
    }

    /// The curves that the legend names.
    fn named(&self) -> impl Iterator<Item = &Curve> {
        self.curves.iter().filter(|curve| !curve.name.is_empty())
    }

    /// Pixels that the legend takes beside the plot.
    fn beside(&self) -> u32 {
        match self.legend {
            Legend::Inside(_) => 0,
            // A sample of 22 pixels, then about 8 a letter.
            Legend::Beside => self.named().map(|curve| 45 + 8 * curve.name.chars().count() as u32).max().unwrap_or(0),
        }
    }

    fn draw(&self, area: &Area<'_>) -> Drawn {
        let (plot, beside) = area.split_horizontally(area.dim_in_pixel().0.saturating_sub(self.beside()));
        let (x, y) = (self.x.range.clone(), self.y.range.clone());
        match (self.x.log, self.y.log) {
            (false, false) => self.draw_on(&plot, x, y),
            (false, true) => self.draw_on(&plot, x, y.log_scale()),
            (true, false) => self.draw_on(&plot, x.log_scale(), y),
            (true, true) => self.draw_on(&plot, x.log_scale(), y.log_scale()),
        }?;
        match self.legend {
            Legend::Inside(_) => Ok(()),
            Legend::Beside => self.draw_legend(&beside),
        }
    }

    fn draw_legend(&self, area: &Area<'_>) -> Drawn {
        // From the plot's top on, below the title.
        for (row, Curve { name, colour, stroke, width, .. }) in (0..).zip(self.named()) {
            let (style, y) = (colour.stroke_width(*width), 55 + 22 * row);
            let line = |from, to| PathElement::new([(from, y), (to, y)], style);
            match stroke {
                Stroke::Solid => area.draw(&line(0, 22))?,
                Stroke::Dashed => [line(0, 8), line(14, 22)].iter().try_for_each(|dash| area.draw(dash))?,
                Stroke::Crosses => area.draw(&Cross::new((11, y), 5, style))?,
                Stroke::Rings => area.draw(&Circle::new((11, y), 5, style))?,
            }
            area.draw(&Text::new(name.as_str(), (30, y - 7), (FONT, 15)))?;
        }
        Ok(())
    }

    fn draw_on<X, Y>(&self, area: &Area<'_>, x: X, y: Y) -> Drawn
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, (FONT, 22))
            .margin(12)
            .margin_right(20)
            .x_label_area_size(45)
            .y_label_area_size(75)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(self.x.label)
            .y_desc(self.y.label)
            .x_labels(8)
            .x_label_formatter(&|x| (self.x.format)(*x))
            .y_label_formatter(&|y| (self.y.format)(*y))
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .bold_line_style(GRID)
            .light_line_style(WHITE)
            .draw()?;
        for Curve { name, colour, points, stroke, marked, width } in &self.curves {
            let style = colour.stroke_width(*width);
            if *marked {
                chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
            }
            let line = move |from: i32, to: i32| PathElement::new([(from, 0), (to, 0)], style);
            let drawn = match stroke {
                Stroke::Solid => chart.draw_series(LineSeries::new(points.iter().copied(), style))?,
                Stroke::Dashed => chart.draw_series(DashedLineSeries::new(points.iter().copied(), 6, 5, style))?,
                Stroke::Crosses => chart.draw_series(points.iter().map(|point| Cross::new(*point, 5, style)))?,
                Stroke::Rings => chart.draw_series(points.iter().map(|point| Circle::new(*point, 5, style)))?,
            };
            if name.is_empty() {
                continue;
            }
            match stroke {
                Stroke::Solid => drawn.label(name).legend(move |at| EmptyElement::at(at) + line(0, 22)),
                Stroke::Dashed => drawn.label(name).legend(move |at| EmptyElement::at(at) + line(0, 8) + line(14, 22)),
                Stroke::Crosses => drawn.label(name).legend(move |(x, y)| Cross::new((x + 11, y), 5, style)),
                Stroke::Rings => drawn.label(name).legend(move |(x, y)| Circle::new((x + 11, y), 5, style)),
            };
        }
        let Legend::Inside(corner) = &self.legend else { return Ok(()) };
        chart
            .configure_series_labels()
            .position(corner.clone())
            .legend_area_size(28)
            .margin(12)
            .label_font((FONT, 15))
            .background_style(WHITE.mix(0.85))
            .border_style(GRID)
            .draw()?;
        Ok(())
    }
}

/// Charts in rows of so many, each of that size; columns with legends beside are wider by these.
pub fn grid(charts: &[Chart], columns: usize, (width, height): (u32, u32)) -> Result<String> {
    let rows = charts.len().div_ceil(columns);
    let beside = |column| charts.iter().skip(column).step_by(columns).map(Chart::beside).max().unwrap_or(0);
    let widths: Vec<u32> = (0..columns).map(|column| width + beside(column)).collect();
    let mut svg = String::new();
    let mut draw = || -> Drawn {
        let size = (widths.iter().sum(), height * rows as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let rights = widths.iter().scan(0, |right, width| {
            *right += *width as i32;
            Some(*right)
        });
        let bottoms = (1..rows as i32).map(|row| row * height as i32);
        let areas =
            root.split_by_breakpoints(rights.take(columns - 1).collect::<Vec<_>>(), bottoms.collect::<Vec<_>>());
        for (area, chart) in areas.iter().zip(charts) {
            chart.draw(area)?;
        }
        root.present()?;
        Ok(())
    };
    draw().map_err(|e| Error::failed(format!("drawing the plot: {e}")))?;
    Ok(svg)
}

/// The learning rate over the steps: that of a schedule, or as it was seen.
pub fn learning_rate(which: &str, points: Vec<(f64, f64)>) -> Chart {
    let curve = Curve::lines("", BLUE, points);
    let last = curve.points.iter().map(|p| p.0).fold(1.0, f64::max);
    let highest = curve.points.iter().map(|p| p.1).filter(|lr| lr.is_finite()).fold(0.0, f64::max);
    let top = if highest > 0.0 { 1.05 * highest } else { 1.0 };
    Chart {
        title: format!("Learning rate: {which}"),
        x: Axis::linear("t (steps taken so far)", whole, 0.0..last),
        y: Axis::linear("learning rate", short, 0.0..top),
        curves: vec![curve],
        legend: Legend::Beside,
    }
}

/// One picture beside another, each of curves over a logarithm on both axes.
pub fn log_log(panels: Vec<(String, Vec<Curve>)>, x: &'static str, y: &'static str) -> Result<String> {
    let all: Vec<_> = panels.iter().flat_map(|(_, curves)| curves).flat_map(|c| c.points.clone()).collect();
    // All alike, so that they compare.
    let (across, up) =
        (Axis::decades(x, short, all.iter().map(|p| p.0)), Axis::decades(y, plain, all.iter().map(|p| p.1)));
    let chart = |(title, curves)| Chart { title, curves, x: across.clone(), y: up.clone(), legend: Legend::Beside };
    let charts: Vec<_> = panels.into_iter().map(chart).collect();
    grid(&charts, charts.len().clamp(1, 2), (520, 440))
}

/// Whole numbers; nothing in between.
pub fn whole(x: f64) -> String {
    if x.fract() == 0.0 { format!("{x:.0}") } else { String::new() }
}

/// All digits.
pub fn plain(x: f64) -> String {
    format!("{x}")
}

/// Few digits, with an exponent where there would be many zeros.
pub fn short(x: f64) -> String {
    match x {
        0.0 => "0".to_owned(),
        _ if (1e-2..1e4).contains(&x.abs()) => format!("{}", (x * 1e6).round() / 1e6),
        _ => {
            let text = format!("{x:.2e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
            format!("{digits}e{exponent}")
        }
    }
}

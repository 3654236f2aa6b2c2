//! Charts of a race.

use contour::ContourBuilder;

use super::{Axis, BLACK, Chart, Corner, Curve, Legend, PALETTE, RGBColor, plain, short, whole};
use crate::error::{Error, Result};
use crate::race::digits::Lap;
use crate::race::functions::{Function, Path};

const CONTOUR: RGBColor = RGBColor(200, 205, 215);
/// Cells of the grid on which contours are found, each way.
const CELLS: usize = 120;
/// Contour lines, evenly apart in the logarithm.
const LEVELS: usize = 14;

/// A curve of the `n`th rule: colours first, then the same colours dashed.
fn curve(n: usize, name: &str, points: Vec<(f64, f64)>) -> Curve {
    let curve = Curve::lines(name, PALETTE[n % PALETTE.len()], points);
    if n / PALETTE.len() % 2 == 1 { curve.dashed() } else { curve }
}

/// A function's map with the rules' paths, and how their values fell.
pub fn function(function: Function, rules: &[&str], paths: &[&Path]) -> Result<[Chart; 2]> {
    let (x, y) = frame(function);
    let mut curves = contours(function, &x, &y)?;
    let inside = |[px, py, _]: &[f64; 3]| x.contains(px) && y.contains(py);
    for (n, path) in paths.iter().enumerate() {
        // A path ends where it leaves the map.
        let points = path.points.iter().take_while(|p| inside(p)).map(|[x, y, _]| (*x, *y));
        // The legend stands beside the map, where it hides no path.
        curves.push(curve(n, "", points.collect()));
    }
    let start = paths.iter().filter_map(|path| path.points.first()).map(|[x, y, _]| (*x, *y)).take(1);
    curves.push(Curve::rings("start", BLACK, start.collect()));
    curves.push(Curve::crosses("minimum", BLACK, function.minima().to_vec()));
    let map = Chart {
        title: format!("{}: paths, coloured as on the right", function.name()),
        x: Axis::linear("x", plain, x.clone()),
        y: Axis::linear("y", plain, y.clone()),
        curves,
        legend: Legend::Inside(Corner::UpperRight),
    };

    // Below the rounding of f32 there is nothing to see.
    let seen = |value: f64| value.is_finite().then(|| value.clamp(1e-8, 1e6));
    let mut curves = Vec::new();
    for (n, (rule, path)) in rules.iter().zip(paths).enumerate() {
        let values = path.points.iter().enumerate().filter_map(|(step, p)| Some((step as f64, seen(p[2])?)));
        curves.push(curve(n, &format!("{rule}, lr {}", short(path.lr)), values.collect()));
    }
    let steps = paths.iter().map(|path| path.points.len() - 1).max().unwrap_or(1);
    let values = paths.iter().flat_map(|path| &path.points).filter_map(|p| seen(p[2]));
    let fall = Chart {
        title: format!("{}: value", function.name()),
        x: Axis::linear("step", whole, 0.0..steps as f64),
        y: Axis::decades("value above the minimum", short, values),
        curves,
        legend: Legend::Beside,
    };
    Ok([map, fall])
}

/// How the training loss fell, and what the networks recognise of the images held back.
pub fn digits(rules: &[&str], laps: &[&Lap]) -> [Chart; 2] {
    let curves = |named: bool, of: fn(&crate::network::Epoch) -> f64| {
        let lap = |(n, (rule, lap)): (usize, (&&str, &&Lap))| {
            let points = (1..).map(f64::from).zip(lap.history.iter().map(of)).filter(|p| p.1.is_finite());
            let name = if named { format!("{rule}, lr {}", short(lap.lr)) } else { String::new() };
            curve(n, &name, points.collect()).marked()
        };
        rules.iter().zip(laps).enumerate().map(lap).collect::<Vec<_>>()
    };
    let history = || laps.iter().flat_map(|lap| &lap.history);
    let epochs = laps.iter().map(|lap| lap.history.len()).max().unwrap_or(1).max(2);
    let x = Axis::linear("epoch", whole, 1.0..epochs as f64);
    let lowest = history().map(|e| 100.0 * e.held_back.accuracy()).fold(95.0, f64::min);
    let loss = Chart {
        title: "Digits: training loss, coloured as on the right".to_owned(),
        x: x.clone(),
        y: Axis::decades("mean cross-entropy (nats)", plain, history().map(|e| e.training.loss)),
        curves: curves(false, |e| e.training.loss),
        legend: Legend::Beside,
    };
    let accuracy = Chart {
        title: "Digits: held back".to_owned(),
        x,
        y: Axis::linear("images recognised (%)", plain, (lowest / 5.0).floor() * 5.0..100.0),
        curves: curves(true, |e| 100.0 * e.held_back.accuracy()),
        legend: Legend::Beside,
    };
    [loss, accuracy]
}

/// The part of the plane that is drawn.
fn frame(function: Function) -> (std::ops::Range<f64>, std::ops::Range<f64>) {
    match function {
        Function::Rosenbrock => (-2.0..2.0, -1.0..3.0),
        Function::Beale => (-2.0..4.5, -2.0..2.5),
        Function::Rastrigin => (-3.0..3.0, -3.0..3.0),
        Function::Saddle => (-1.5..1.5, -1.6..1.6),
    }
}

fn contours(function: Function, x: &std::ops::Range<f64>, y: &std::ops::Range<f64>) -> Result<Vec<Curve>> {
    let (dx, dy) = ((x.end - x.start) / CELLS as f64, (y.end - y.start) / CELLS as f64);
    // Values at the cells' centres, row by row.
    let at = |n: usize, start: f64, step: f64| start + (n as f64 + 0.5) * step;
    let value = |i: usize| function.value(at(i % CELLS, x.start, dx), at(i / CELLS, y.start, dy));
    let values: Vec<f64> = (0..CELLS * CELLS).map(value).collect();
    let highest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max).ln();
    let lowest = highest - 9.0;
    let level = |n: usize| (lowest + (highest - lowest) * n as f64 / LEVELS as f64).exp();
    let levels: Vec<f64> = (1..LEVELS).map(level).collect();
    let builder = ContourBuilder::new(CELLS, CELLS, true).x_origin(x.start).y_origin(y.start).x_step(dx).y_step(dy);
    let lines = builder.lines(&values, &levels).map_err(|e| Error::failed(format!("drawing contours: {e}")))?;
    let curve = |line: &contour::Line| {
        let rings = line.geometry().0.iter();
        rings.map(|ring| Curve::thin(CONTOUR, ring.0.iter().map(|c| (c.x, c.y)).collect())).collect::<Vec<_>>()
    };
    Ok(lines.iter().flat_map(curve).collect())
}

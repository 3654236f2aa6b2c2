//! Charts of a training run.

use wgpu_optim::{Health, Report, TensorHealth, Verdict};

use super::{Axis, BLUE, Chart, Corner, Curve, Legend, ORANGE, PALETTE, learning_rate, plain, short, whole};
use crate::network::Epoch;
use crate::network::telemetry::Telemetry;

/// Loss and accuracy over the epochs.
pub fn scores(history: &[Epoch]) -> Vec<Chart> {
    let curves = |of: &dyn Fn(&Epoch) -> [f64; 2]| {
        let points = |which: usize| (1..).map(f64::from).zip(history.iter().map(|e| of(e)[which])).collect();
        let curve = |(name, colour, which)| {
            let curve = Curve::lines(name, colour, points(which));
            // Few points are marked, so that one epoch shows too.
            if history.len() <= 40 { curve.marked() } else { curve }
        };
        [("training", BLUE, 0), ("held back", ORANGE, 1)].map(curve).to_vec()
    };
    // Zero has no logarithm; a loss below this is as good as none.
    let loss = |e: &Epoch| [e.training.loss.max(1e-6), e.held_back.loss.max(1e-6)];
    let accuracy = |e: &Epoch| [100.0 * e.training.accuracy(), 100.0 * e.held_back.accuracy()];
    let lowest = history.iter().flat_map(accuracy).fold(95.0, f64::min);
    // A single epoch is a point; an axis needs a length.
    let epochs = Axis::linear("epoch", whole, 1.0..history.len().max(2) as f64);
    vec![
        Chart {
            title: "Loss".to_owned(),
            x: epochs.clone(),
            y: Axis::decades("mean cross-entropy (nats)", plain, history.iter().flat_map(loss)),
            curves: curves(&loss),
            legend: Legend::Inside(Corner::UpperRight),
        },
        Chart {
            title: "Accuracy".to_owned(),
            x: epochs,
            y: Axis::linear("images recognised (%)", plain, (lowest / 5.0).floor() * 5.0..100.0),
            curves: curves(&accuracy),
            legend: Legend::Inside(Corner::LowerRight),
        },
    ]
}

/// The health of gradients, tensor by tensor; none where nobody looked.
pub fn health(looks: &[Health]) -> Vec<Chart> {
    let norm = |t: &TensorHealth| Some(t.gradient_norm);
    let charts = [
        ("Gradient norm", "norm after the clip by value", norm as fn(&TensorHealth) -> Option<f64>),
        ("Update to weights", "norm of the change / norm of the weights", |t| t.update_ratio),
    ];
    charts.into_iter().filter_map(|(title, y, of)| by_tensor(looks, title, y, of)).collect()
}

fn by_tensor(looks: &[Health], title: &str, y: &'static str, of: fn(&TensorHealth) -> Option<f64>) -> Option<Chart> {
    let mut names: Vec<&str> = Vec::new();
    for tensor in looks.iter().flat_map(|look| &look.tensors) {
        if !names.contains(&tensor.name.as_str()) {
            names.push(&tensor.name);
        }
    }
    // A logarithm shows nothing of a zero, nor of what is not finite.
    let value = |t: &TensorHealth| of(t).filter(|x| *x > 0.0 && x.is_finite());
    let points = |wanted: &dyn Fn(&TensorHealth) -> bool| -> Vec<_> {
        let seen = |look: &Health| {
            let step = look.steps_taken as f64;
            look.tensors.iter().filter(|t| wanted(t)).filter_map(value).map(|x| (step, x)).collect::<Vec<_>>()
        };
        looks.iter().flat_map(seen).collect()
    };
    let mut curves = Vec::new();
    let mut layers: Vec<&str> = Vec::new();
    for name in names {
        // A layer's tensors share a colour; all but the first are dashed.
        let layer = name.rsplit_once('.').map_or(name, |(layer, _)| layer);
        let known = layers.iter().position(|l| *l == layer);
        if known.is_none() {
            layers.push(layer);
        }
        let colour = PALETTE[known.unwrap_or(layers.len() - 1) % PALETTE.len()];
        let curve = Curve::lines(name, colour, points(&|t| t.name == name));
        let curve = if looks.len() <= 40 { curve.marked() } else { curve };
        curves.push(if known.is_some() { curve.dashed() } else { curve });
    }
    let ill = points(&|t| t.verdict != Verdict::Healthy);
    let all = points(&|_| true);
    if all.is_empty() {
        return None;
    }
    if !ill.is_empty() {
        curves.push(Curve::crosses("not healthy", super::BLACK, ill));
    }
    let steps = looks.iter().map(|look| look.steps_taken);
    Some(Chart {
        title: title.to_owned(),
        x: Axis::linear("step", whole, 0.0..steps.max().unwrap_or(1).max(1) as f64),
        y: Axis::decades(y, short, all.iter().map(|p| p.1)),
        curves,
        legend: Legend::Beside,
    })
}

/// Learning rate, clip coefficient and global norm over the steps, as far as there are any.
pub fn steps(reports: &[Report]) -> Vec<Chart> {
    let points = |of: fn(&Report) -> Option<f64>| -> Vec<_> {
        reports.iter().filter_map(|r| Some((r.steps_taken as f64, of(r)?))).collect()
    };
    if reports.is_empty() {
        return Vec::new();
    }
    let mut charts = vec![learning_rate("as it was applied", points(|r| Some(r.lr)))];
    let norms = points(|r| r.global_norm.filter(|norm| *norm > 0.0 && norm.is_finite()));
    if norms.is_empty() {
        return charts;
    }
    let x = charts[0].x.clone();
    let coefficients = points(|r| Some(r.clip_coefficient));
    let highest = coefficients.iter().map(|p| p.1).fold(1.0, f64::max);
    charts.push(Chart {
        title: "Clip coefficient".to_owned(),
        x: x.clone(),
        y: Axis::linear("gradients are multiplied with", short, 0.0..1.05 * highest),
        curves: vec![Curve::lines("", BLUE, coefficients)],
        legend: Legend::Beside,
    });
    charts.push(Chart {
        title: "Global norm before the clip".to_owned(),
        x,
        y: Axis::decades("norm of all gradients", short, norms.iter().map(|p| p.1)),
        curves: vec![Curve::lines("", ORANGE, norms)],
        legend: Legend::Beside,
    });
    charts
}

/// Everything that `--plot` shows.
pub fn all(history: &[Epoch], telemetry: &Telemetry) -> Vec<Chart> {
    [scores(history), health(&telemetry.looks)].concat()
}

//! The health of gradients, for people and for scripts.

use std::fmt::Write as _;

use serde_json::{Value, json};
use wgpu_optim::{Health, Verdict};

/// A verdict in a word.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Healthy => "healthy",
        Verdict::Vanishing => "vanishing",
        Verdict::Exploding => "exploding",
        Verdict::Dead => "dead",
    }
}

/// A row for each tensor.
pub fn table(health: &Health) -> String {
    let width = health.tensors.iter().map(|t| t.name.len()).max().unwrap_or(0).max("tensor".len());
    let mut text = format!("gradients at step {}:\n", health.steps_taken);
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{:width$}  {:>9}  {:>9}  {:>7}  {:>14}  verdict",
        "tensor", "norm", "largest", "zeros", "update/weights"
    );
    for t in &health.tensors {
        let ratio = t.update_ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2e}"));
        let _ = writeln!(
            text,
            "{:width$}  {:>9.2e}  {:>9.2e}  {:>5.1} %  {ratio:>14}  {}",
            t.name,
            t.gradient_norm,
            t.gradient_max,
            100.0 * t.zeros,
            word(t.verdict)
        );
    }
    text
}

pub fn to_json(health: &Health) -> Value {
    let tensors = health.tensors.iter().map(|t| {
        json!({
            "tensor": t.name,
            "gradient_norm": t.gradient_norm,
            "gradient_max": t.gradient_max,
            "gradient_rms": t.gradient_rms,
            "zeros": t.zeros,
            "nonfinite": t.nonfinite,
            "update_ratio": t.update_ratio,
            "verdict": word(t.verdict),
        })
    });
    json!({ "steps_taken": health.steps_taken, "tensors": tensors.collect::<Vec<_>>() })
}

//! Health, from passes of its own over what a step reads and changes, at an interval.

use super::parallel::map;
use super::sums::Squares;
use super::tasks::Change;
use super::update::condition;
use super::{CpuOptimizer, Dense};
use crate::config::{Due, HealthConfig, OnNonfinite};
use crate::error::Result;
use crate::plan::Plan;
use crate::rule::kernel::{CpuFloat, UpdateSettings};
use crate::state::health::{Health, Seen};

/// Elements that are added up in one go.
const SUM: usize = 1 << 12;

/// When to look, and what the last look found.
#[derive(Debug, Clone)]
pub struct Monitor {
    config: HealthConfig,
    due: Due,
    latest: Option<Health>,
}

/// A look that is under way.
pub struct Look {
    seen: Vec<Seen>,
}

impl<F: CpuFloat> CpuOptimizer<F> {
    /// Looks at the health of gradients and updates from now on, or no longer. A look costs a read of the
    /// gradients and two of the weights, at its interval only.
    ///
    /// # Errors
    /// An option of the configuration cannot be used.
    pub fn set_health(&mut self, config: Option<HealthConfig>) -> Result<()> {
        if let Some(config) = &config {
            config.check().map_err(|e| e.within("health"))?;
        }
        self.monitor = config.map(|config| Monitor { due: Due::new(config.interval), config, latest: None });
        Ok(())
    }

    /// The newest look at the tensors' health.
    pub fn health(&self) -> Option<&Health> {
        self.monitor.as_ref()?.latest.as_ref()
    }
}

impl Monitor {
    /// One that looks at the same things, and has seen nothing yet.
    pub fn anew(&self) -> Self {
        Self { config: self.config.clone(), due: Due::new(self.config.interval), latest: None }
    }

    /// Another state is loaded: what was seen with the one before no longer counts.
    pub fn forget(&mut self) {
        self.latest = None;
    }

    /// Counts a step or micro-batch, and says whether to look at it.
    pub fn is_due(&mut self, completes: bool) -> bool {
        self.due.next(completes)
    }

    pub fn conclude<F: CpuFloat>(&mut self, look: Look, dense: &[Dense<'_, F>], plan: &Plan, steps_taken: u64) {
        let name = |d: &Dense<'_, F>| plan.tensors[d.tensor].spec.name.clone();
        let seen = dense.iter().map(name).zip(look.seen).collect();
        self.latest = Some(Health::judge(&self.config, steps_taken, seen));
    }
}

impl Look {
    pub fn at_gradients<F: CpuFloat>(dense: &[Dense<'_, F>], plan: &Plan, unscale: f64) -> Self {
        let settings = UpdateSettings {
            unscale,
            clip_value: plan.gradient.clip_value,
            zero_nonfinite: plan.gradient.on_nonfinite == OnNonfinite::Zero,
            ..UpdateSettings::default()
        };
        let seen = dense.iter().map(|d| {
            let parts = map(d.whole_gradient().chunks(SUM).collect(), |chunk| gradient_sums(chunk, &settings));
            let mut seen = Seen { elements: plan.tensors[d.tensor].elements, ..Seen::default() };
            let mut squares = Squares::default();
            for (part, of_part) in parts {
                squares = squares.with(of_part);
                seen.gradient_max = seen.gradient_max.max(part.gradient_max);
                seen.zeros += part.zeros;
                seen.nonfinite += part.nonfinite;
            }
            Seen { gradient_norm: squares.root(), ..seen }
        });
        Self { seen: seen.collect() }
    }

    pub fn at_change(&mut self, changes: &[Change]) {
        for (seen, change) in self.seen.iter_mut().zip(changes) {
            seen.weights_norm = change.weights.root();
            seen.change_norm = change.change.root();
        }
    }
}

/// Of a stretch; its squares beside it.
fn gradient_sums<F: CpuFloat>(gradient: &[F], settings: &UpdateSettings) -> (Seen, Squares) {
    let mut seen = Seen::default();
    for &raw in gradient {
        if raw.is_finite() {
            seen.gradient_max = seen.gradient_max.max(condition(raw, settings).f64().abs());
            seen.zeros += u64::from(raw == F::zero());
        } else {
            seen.nonfinite += 1;
        }
    }
    let finite = gradient.iter().filter(|g| g.is_finite());
    (seen, Squares::of(finite.map(|g| condition(*g, settings).f64())))
}

//! The memory that an optimizer asks for, told before anything is allocated.

use super::optimizer::Optimizer;
use super::windows::placement;
use super::{bindings, by_line, lines::LineTables, reports, step_table, sums, tables};
use crate::Result;
use crate::config::OptimizerConfig;
use crate::layout::{ArenaLayout, DeviceLimits, GradientPlace, Layout};
use crate::step::Plan;
use crate::tensor::TensorSpec;

/// Bytes of device memory. Parameters and gradients are not in it: [`Arena::bytes`](super::Arena::bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptimizerMemory {
    /// The tensors' state.
    pub state: u64,
    /// All else: blocks, sums, rates of coming steps, reports.
    pub tables: u64,
}

impl OptimizerMemory {
    /// Both.
    pub fn total(self) -> u64 {
        self.state + self.tables
    }
}

impl Optimizer {
    /// What [`Optimizer::new`] and the first step will ask a device of those limits for, with tensors of those names
    /// and shapes in an [`Arena`](super::Arena). Needs no device. What the driver takes for itself is not in it, nor
    /// what is asked for later: health, evaluation weights, readbacks.
    ///
    /// # Errors
    /// As [`Plan::new`]; or the tensors do not fit the limits.
    pub fn memory(config: &OptimizerConfig, specs: &[TensorSpec], limits: &DeviceLimits) -> Result<OptimizerMemory> {
        let plan = Plan::new(config, specs)?;
        let formats: Vec<_> = (0..specs.len()).map(|t| plan.formats_of(t)).collect();
        let arena = ArenaLayout::new(specs, &formats, limits)?;
        let live = |t: &usize| plan.is_live(*t);
        let place = |t: usize, which: usize| {
            let (segment, first) = arena.places[t];
            (segment, first * formats[t][which].bytes())
        };
        let of_params = |t: usize| {
            let (buffer, offset) = place(t, 0);
            placement(&plan, t, buffer, offset, true)
        };
        let of_gradient = |t: usize| {
            let (buffer, offset) = place(t, 1);
            plan.is_live(t).then_some(GradientPlace { buffer, offset, padded: true })
        };
        let placements: Vec<_> = (0..specs.len()).filter(live).map(of_params).collect();
        let gradients: Vec<_> = (0..specs.len()).map(of_gradient).collect();
        let layout = Layout::new(&placements, limits)?;
        let lines = LineTables::new(&plan, &layout)?;
        let dispatches = layout.dispatches(layout.spans(&gradients, limits), limits, lines.is_none());
        let tables = [
            step_table::Places::of(&plan).bytes(),
            tables::Sizes::of(&plan, &layout).total(),
            sums::bytes(&layout),
            lines.map_or(0, |tables| by_line::bytes(&tables)),
            bindings::bytes(&layout, &dispatches),
            reports::bytes(&plan),
        ];
        Ok(OptimizerMemory { state: layout.state_bytes(), tables: tables.iter().sum() })
    }
}

//! The memory that an optimizer asks for, told before anything is allocated.

use super::{changes, transfer};
use crate::config::OptimizerConfig;
use crate::error::Result;
use crate::gpu::abi::control_bytes;
use crate::gpu::device::context::SPARE_MEMORY;
use crate::gpu::readback::reports;
use crate::gpu::step::lines::LineTables;
use crate::gpu::step::optimizer::Optimizer;
use crate::gpu::step::windows::placement;
use crate::gpu::step::{bindings, by_line, step_table, sums, tables};
use crate::plan::Plan;
use crate::plan::layout::{ArenaLayout, DeviceLimits, Formats, GradientPlace, Layout};
use crate::tensor::TensorSpec;

/// Bytes of device memory. Parameters and gradients are not in it: [`Arena::bytes`](crate::gpu::Arena::bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptimizerMemory {
    /// The tensors' state.
    pub state: u64,
    /// All else: blocks, sums, rates of coming steps, reports.
    pub tables: u64,
    /// What [`Optimizer::load_state`] and [`Optimizer::load_checkpoint`] take besides while they run, with
    /// [`Gpu::spare_memory`](crate::gpu::Gpu::spare_memory) as it is by default.
    pub load: u64,
    /// The most that `add_tensors`, `remove_tensors`, `set_rows` and `reconfigure` take besides what the optimizer has
    /// after them, while they run; likewise.
    pub change: u64,
}

impl OptimizerMemory {
    /// What is there all the time: state and tables.
    pub fn total(self) -> u64 {
        self.state + self.tables
    }
}

impl Optimizer {
    /// What [`Optimizer::new`] and the first step will ask a device of those limits for, with tensors of those names
    /// and shapes in an [`Arena`](crate::gpu::Arena). Needs no device. What the driver takes for itself is not in it, nor
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
            tables::Sizes::of(&plan, &layout, lines.as_ref()).total(),
            sums::bytes(&layout),
            lines.map_or(0, |tables| by_line::bytes(&tables)),
            bindings::bytes(&layout, &dispatches),
            reports::bytes(&plan),
        ];
        let params = params_bytes(specs, &formats);
        let (state, tables) = (layout.state_bytes(), tables.iter().sum());
        let load = control_bytes(&plan) + transfer::staging_bytes(state + params, SPARE_MEMORY);
        Ok(OptimizerMemory { state, tables, load, change: changes::bytes(&layout, tables, SPARE_MEMORY) })
    }
}

/// Bytes of all parameters, up to whole words.
fn params_bytes(specs: &[TensorSpec], formats: &[Formats]) -> u64 {
    let bytes = specs.iter().zip(formats).map(|(spec, formats)| formats[0].bytes_of(spec.elements().unwrap_or(0)));
    bytes.map(|bytes| bytes.next_multiple_of(4)).sum()
}

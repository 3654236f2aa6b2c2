//! The GPU backend: the plan recorded into the caller's command encoder.

mod adapters;
mod arena;
mod arrival;
mod bindings;
mod by_line;
mod context;
mod evaluation;
mod faults;
mod health;
mod keep;
mod kernels;
mod lines;
mod mailbox;
mod memory;
mod optimizer;
mod overlap;
mod phases;
mod pipeline_cache;
mod pipelines;
mod readback;
mod record;
mod reports;
mod restructure;
mod row_moves;
mod rows;
mod slice;
mod snapshot;
mod step_table;
mod sums;
mod tables;
#[cfg(test)]
mod tests;
mod transfer;
mod uniforms;
mod upload;
mod whole;
mod windows;

pub use adapters::{adapters, no_adapter_hint};
pub use arena::Arena;
pub use context::{Gpu, ObjectCounts};
pub use faults::Fault;
pub use memory::OptimizerMemory;
pub use optimizer::Optimizer;
pub use slice::{Slice, Tensor};
pub use snapshot::PendingCheckpoint;
pub use step_table::STEP_ROWS;

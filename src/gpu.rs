//! The GPU backend: the plan recorded into the caller's command encoder.

mod arena;
mod bindings;
mod context;
mod evaluation;
mod health;
mod kernels;
mod mailbox;
mod optimizer;
mod overlap;
mod pipelines;
mod readback;
mod record;
mod reports;
mod rows;
mod slice;
mod step_table;
mod tables;
#[cfg(test)]
mod tests;
mod transfer;
mod windows;

pub use arena::Arena;
pub use context::{Created, Gpu, adapters, no_adapter_hint};
pub use optimizer::Optimizer;
pub use slice::{Slice, Tensor};
pub use step_table::STEP_ROWS;

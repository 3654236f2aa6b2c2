//! The GPU backend: the plan recorded into the caller's command encoder.

mod abi;
mod change;
mod device;
mod readback;
mod step;
#[cfg(test)]
mod tests;

pub use change::memory::OptimizerMemory;
pub use change::snapshot::PendingCheckpoint;
pub use device::adapters::{adapters, no_adapter_hint};
pub use device::arena::Arena;
pub use device::context::{Gpu, ObjectCounts};
pub use device::faults::Fault;
pub use device::slice::{Slice, Tensor};
pub use step::optimizer::Optimizer;
pub use step::step_table::STEP_ROWS;

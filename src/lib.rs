#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![deny(unsafe_code)]

mod config;
pub mod cpu;
mod error;
pub mod gpu;
#[doc(hidden)]
pub mod lines;
pub mod options;
pub mod plan;
mod rule;
pub mod rules;
#[doc(hidden)]
pub mod shader;
mod state;
pub mod storage;
mod tensor;
pub mod verify;

pub use config::{
    CommonOptions, Difference, DynamicScale, EmaConfig, GradientConfig, Group, HealthConfig, LossScale, NoiseConfig,
    OnNonfinite, OptimizerConfig, Schedule, WeightsConfig, schedule,
};
pub use error::{Error, Result};
pub use gpu::{Arena, Gpu, Optimizer, PendingCheckpoint, Slice, Tensor};
pub use options::{OptionError, OptionField, OptionValue, Options};
#[doc(hidden)]
pub use plan::layout;
pub use plan::rates;
pub use rule::{
    CpuFloat, Decay, Element, Float, HyperRow, MAX_SCALARS, MAX_SLOTS, Norms, Reduction, Rule, Scalars, Slot, Twin,
    maths, prelude,
};
pub use shader::wgsl_conversions;
#[cfg(feature = "checkpoint")]
pub use state::files;
pub use state::{
    Checkpoint, Health, OptimizerState, Report, TensorHealth, TensorParams, TensorState, Verdict, checkpoint,
};
pub use storage::{Format, Master, Rounding, SlotStorage, StateFormat, Storage, StorageConfig};
pub use tensor::{MAX_ELEMENTS, TensorSpec};
pub use wgpu;

#![doc = include_str!("../README.md")]
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod checkpoint;
pub mod config;
pub mod cpu;
mod ema;
mod error;
mod fed;
#[cfg(feature = "checkpoint")]
pub mod files;
mod float;
pub mod gpu;
pub mod gradient;
pub mod health;
mod hyper;
#[doc(hidden)]
pub mod layout;
#[doc(hidden)]
pub mod lines;
mod loss_scale;
pub mod maths;
pub mod options;
pub mod rates;
mod report;
mod rule;
pub mod rules;
pub mod schedule;
#[doc(hidden)]
pub mod shader;
mod state;
pub mod step;
pub mod storage;
mod tensor;
pub mod twin;
pub mod verify;
pub mod weights;
mod wide;

pub use checkpoint::{Checkpoint, TensorParams};
pub use config::{CommonOptions, Difference, Group, OptimizerConfig};
pub use ema::EmaConfig;
pub use error::{Error, Result};
pub use float::Float;
pub use gpu::{Arena, Gpu, Optimizer, PendingCheckpoint, Slice, Tensor};
pub use gradient::{GradientConfig, OnNonfinite};
pub use health::{Health, HealthConfig, TensorHealth, Verdict};
pub use hyper::{HyperRow, MAX_SCALARS, Scalars};
pub use loss_scale::{DynamicScale, LossScale};
pub use options::{OptionError, OptionField, OptionValue, Options};
pub use report::Report;
pub use rule::{Decay, Reduction, Rule, Slot};
pub use schedule::Schedule;
pub use shader::wgsl_conversions;
pub use state::{OptimizerState, SlotStorage, TensorState};
pub use storage::{Format, Master, Rounding, StateFormat, Storage, StorageConfig};
pub use tensor::{MAX_ELEMENTS, TensorSpec};
pub use twin::{Element, MAX_SLOTS, Norms, Twin};
pub use weights::WeightsConfig;
pub use wgpu;

//! The device: adapters, buffers and what binds them, pipelines, waits, losses.

pub mod adapters;
pub mod arena;
pub mod context;
pub mod faults;
pub mod lost;
pub mod mutants;
pub mod peak;
pub mod pipeline_cache;
pub mod pipelines;
pub mod slice;
pub mod uniforms;
pub mod upload;
pub mod waiting;

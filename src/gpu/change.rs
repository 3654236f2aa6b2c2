//! State that is saved, loaded, and follows tensors, groups and rows that change.

pub mod changes;
pub mod memory;
pub mod restructure;
pub mod row_moves;
pub mod row_starts;
pub mod snapshot;
pub mod transfer;

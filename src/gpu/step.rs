//! One step, recorded: its tables, its dispatches, its passes.

pub mod absent;
pub mod bindings;
pub mod by_line;
pub mod changing_rates;
pub mod evaluation;
pub mod health;
pub mod keep;
pub mod kernels;
pub mod lines;
pub mod optimizer;
pub mod outcome;
pub mod over_all;
pub mod overlap;
pub mod phases;
pub mod recent;
pub mod record;
pub mod step_table;
pub mod sums;
pub mod tables;
pub mod windows;

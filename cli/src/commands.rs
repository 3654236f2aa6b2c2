//! One file a command.

pub mod bench;
pub mod completions;
pub mod devices;
pub mod kernel;
pub mod race;
pub mod replay;
pub mod rules;
pub mod schedule;
pub mod train;
pub mod verify;

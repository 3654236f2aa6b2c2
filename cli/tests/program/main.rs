//! The program as its users run it.

mod bench;
mod checkpoints;
mod errors;
mod fixtures;
mod hostile;
mod listings;
mod race;
mod replay;
mod schedule;
mod storage;
mod train;
mod verify;

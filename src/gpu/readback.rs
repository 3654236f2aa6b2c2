//! What comes back to the host: awaited, or when it has arrived.

pub mod arrival;
pub mod download;
pub mod mailbox;
pub mod reports;

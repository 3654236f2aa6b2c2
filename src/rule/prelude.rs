//! What the file of a rule uses: `use wgpu_optim::prelude::*;`.

pub use std::ops::Bound::{Excluded, Included, Unbounded};

pub use super::float::Float;
pub use super::hyper::{HyperRow, Scalars};
pub use super::maths::*;
pub use super::twin::{Element, Norms, Twin};
pub use super::{Decay, Reduction, Rule, Slot};
pub use crate::options::range::*;
pub use crate::options::{OptionError, Options};

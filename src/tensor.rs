//! A tensor as the optimizer knows it: a name and a shape.

use crate::error::Error;

/// Elements that all tensors of an optimizer can have together, far above what any device holds: whatever is counted or
/// added up of them in bytes stays within 64 bits.
pub const MAX_ELEMENTS: u64 = 1 << 50;

/// Name and shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The caller's name, under which groups match and state is saved.
    pub name: String,
    /// Lengths of its axes, the slowest first. No axes means one element.
    pub shape: Vec<u64>,
}

impl TensorSpec {
    /// A tensor of that name and shape.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<u64>>) -> Self {
        Self { name: name.into(), shape: shape.into() }
    }

    /// How many elements it has; `None` past [`MAX_ELEMENTS`], also of a tensor that is empty along another axis.
    pub fn elements(&self) -> Option<u64> {
        let filled = self.shape.iter().filter(|axis| **axis > 0).try_fold(1u64, |n, axis| n.checked_mul(*axis))?;
        let elements = if self.shape.contains(&0) { 0 } else { filled };
        Some(elements).filter(|_| filled <= MAX_ELEMENTS)
    }

    pub(crate) fn too_large(&self) -> Error {
        let problem = format!("shape {:?} has too many elements: all tensors together have at most 2^50", self.shape);
        Error::tensor(&self.name, problem)
    }
}

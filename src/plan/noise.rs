//! What the random bits of tensors depend on.

use super::Plan;
use crate::storage::noise_key;

impl Plan {
    /// What the random bits of a tensor depend on beside its steps.
    pub(crate) fn noise_key(&self, tensor: usize) -> u32 {
        noise_key(self.seed, &self.tensors[tensor].spec.name)
    }

    /// The same of its normal numbers.
    pub(crate) fn normal_key(&self, tensor: usize) -> u32 {
        let seed = self.noise.as_ref().map_or(0, |noise| noise.seed);
        noise_key(seed, &self.tensors[tensor].spec.name)
    }
}

//! How a slot of state is stored.

use super::{Q8_BLOCK, StateFormat, q8_codes};

/// How a slot's values are stored, so that they can be stored to the same bits again.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SlotStorage {
    /// The slot's name.
    pub slot: String,
    /// Its format.
    pub format: StateFormat,
    /// Whether its codes have a sign.
    pub signed: bool,
    /// The scales of q8, one for 256 elements.
    pub scales: Vec<f32>,
}

impl SlotStorage {
    /// The codes and the scales of q8 for values.
    pub fn codes(&self, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let len = Q8_BLOCK as usize;
        let mut codes = vec![0; values.len()];
        let blocks = values.chunks(len).zip(codes.chunks_mut(len)).enumerate();
        let scales =
            blocks.map(|(i, (values, codes))| q8_codes(values, self.signed, self.scales.get(i).copied(), codes));
        let scales = scales.collect();
        (codes, scales)
    }
}

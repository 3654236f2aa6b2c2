//! Slots beside the rule's own: those of the engine, and means by row and column.

/// The f32 copy of 16-bit parameters.
pub const MASTER: &str = "master";

/// The sum of micro-batches: the first slot where there is one, so that the scan finds it without
/// knowing the rule.
pub const ACCUMULATOR: &str = "grad_accumulator";

/// The moving average of the weights.
pub const EMA: &str = "ema";

/// Slots of a tensor whose mean square is kept by rows and columns.
pub const FACTORS: [&str; 2] = ["row_var", "col_var"];

/// What safetensors files keep for themselves: no tensor can be called so.
pub const METADATA: &str = "__metadata__";

/// Where a file has a slot.
pub fn slot_key(tensor: &str, slot: &str) -> String {
    format!("{tensor}.{slot}")
}

/// Where a file has the scales of a slot in q8 that it has there.
pub fn scales_of(key: &str) -> String {
    format!("{key}.absmax")
}

/// A slot of one tensor, as it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedSlot {
    /// PyTorch's name.
    pub name: &'static str,
    /// Its values' shape.
    pub shape: Vec<u64>,
}

impl PlannedSlot {
    /// How many values it has.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// The shape of a slot with that many values in a tensor of that shape: its own, but for the means by row
/// and by column, where one dimension is 1 (PyTorch's shapes).
pub fn slot_shape(name: &str, shape: &[u64], values: usize) -> Vec<u64> {
    let mut shape = shape.to_vec();
    let by_line = FACTORS.iter().position(|factor| *factor == name);
    if let (Some(along), true) = (by_line, shape.iter().product::<u64>() != values as u64) {
        let from_last = shape.iter_mut().rev().nth(along);
        from_last.into_iter().for_each(|n| *n = 1);
    }
    shape
}

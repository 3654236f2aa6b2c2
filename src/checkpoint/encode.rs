//! Checkpoints out.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, TensorView};

use super::{Checkpoint, metadata};
use crate::state::OptimizerState;
use crate::step::slot_shape;
use crate::{Error, Result};

impl Checkpoint {
    /// The file's bytes: parameters under the tensors' names, slots as `{tensor}.{slot}`, the rest in the
    /// metadata.
    ///
    /// # Errors
    /// Values do not fit a tensor's shape, or a tensor's name is also that of another's slot.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        encode(self.params.as_deref(), &self.state, &self.extra)
    }
}

impl OptimizerState {
    /// A checkpoint's bytes, without parameters.
    ///
    /// # Errors
    /// A slot's values do not fit the tensor's shape.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        encode(None, self, &BTreeMap::new())
    }
}

fn encode(
    params: Option<&[super::TensorParams]>,
    state: &OptimizerState,
    extra: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut views = BTreeMap::new();
    for tensor in params.into_iter().flatten() {
        add(&mut views, tensor.name.clone(), &tensor.shape, &tensor.values)?;
    }
    for tensor in &state.tensors {
        for (slot, values) in &tensor.slots {
            let shape = slot_shape(slot, &tensor.shape, values.len());
            add(&mut views, format!("{}.{slot}", tensor.name), &shape, values)?;
        }
    }
    safetensors::serialize(views, Some(metadata::write(state, params.is_some(), extra))).map_err(invalid)
}

fn add<'a>(views: &mut BTreeMap<String, TensorView<'a>>, key: String, shape: &[u64], values: &'a [f32]) -> Result<()> {
    let shape = shape.iter().map(|n| *n as usize).collect();
    // safetensors holds little-endian words, as do all platforms that wgpu runs on.
    let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values)).map_err(invalid)?;
    match views.insert(key.clone(), view) {
        None => Ok(()),
        Some(_) => Err(invalid(format!("{key:?} is the name of two entries, of a tensor and of a slot"))),
    }
}

fn invalid(e: impl std::fmt::Display) -> Error {
    Error::Safetensors(e.to_string())
}

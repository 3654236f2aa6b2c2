//! Checkpoints out.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{Dtype, View};

use super::{Checkpoint, TensorParams, container, dtype_of, metadata};
use crate::error::{Error, Result};
use crate::plan::{scales_of, slot_shape};
use crate::state::{OptimizerState, TensorState};
use crate::storage::{Format, StateFormat};

impl Checkpoint {
    /// The file's bytes: parameters under the tensors' names, slots as `{tensor}.{slot}`, the rest in the
    /// metadata.
    ///
    /// # Errors
    /// Values do not fit a tensor's shape, parameters are missing or of another shape than the state's, or the moving
    /// average lay in their place.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        encode(self.params.as_deref(), &self.state, &self.extra)
    }
}

impl OptimizerState {
    /// A checkpoint's bytes, without parameters.
    ///
    /// # Errors
    /// A slot's values do not fit the tensor's shape, or the moving average lay in the parameters' place.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        encode(None, self, &BTreeMap::new())
    }
}

fn encode(
    params: Option<&[super::TensorParams]>,
    state: &OptimizerState,
    extra: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    state.check_unswapped()?;
    if let Some(params) = params {
        check_params(params, state)?;
    }
    let mut views = BTreeMap::new();
    for tensor in params.into_iter().flatten() {
        add_params(&mut views, tensor)?;
    }
    for tensor in &state.tensors {
        for (slot, values) in &tensor.slots {
            let key = format!("{}.{slot}", tensor.name);
            let shape = slot_shape(slot, &tensor.shape, values.len());
            let storage = tensor.storage.iter().find(|storage| storage.slot == *slot);
            match storage.map_or(StateFormat::F32, |storage| storage.format) {
                StateFormat::F32 => add(&mut views, key, &shape, Dtype::F32, words(values))?,
                StateFormat::Bf16 => {
                    let bits = Cow::Owned(Format::Bf16.encode(values));
                    add(&mut views, key, &shape, Dtype::BF16, bits)?;
                }
                StateFormat::Q8 => {
                    let (codes, scales) = storage.map(|storage| storage.codes(values)).unwrap_or_default();
                    let blocks = [scales.len() as u64];
                    add(&mut views, scales_of(&key), &blocks, Dtype::F32, words(&scales).into_owned().into())?;
                    add(&mut views, key, &shape, Dtype::U8, codes.into())?;
                }
            }
        }
    }
    let views = views.iter().map(|(key, entry)| (key.as_str(), entry));
    container::serialize(views, Some(&metadata::write(state, params.is_some(), extra)))
}

/// Parameters without which nobody could go on from the state.
fn check_params(params: &[TensorParams], state: &OptimizerState) -> Result<()> {
    let known: HashMap<_, _> = params.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape)).collect();
    let problem = |tensor: &TensorState| match known.get(tensor.name.as_str()) {
        None => Some(format!("the parameters of {:?} are missing", tensor.name)),
        Some(shape) if **shape != tensor.shape => {
            Some(format!("the parameters of {:?} have shape {shape:?}, its state {:?}", tensor.name, tensor.shape))
        }
        Some(_) => None,
    };
    Error::of_state(state.tensors.iter().filter_map(problem).collect())
}

/// An entry of the file: the bits as they are stored.
struct Entry<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for &Entry<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// safetensors holds little-endian words, as do all platforms that wgpu runs on.
fn words(values: &[f32]) -> Cow<'_, [u8]> {
    Cow::Borrowed(bytemuck::cast_slice(values))
}

fn add_params<'a>(views: &mut BTreeMap<String, Entry<'a>>, tensor: &'a TensorParams) -> Result<()> {
    let bytes = match tensor.format {
        Format::F32 => words(&tensor.values),
        format => Cow::Owned(format.encode(&tensor.values)),
    };
    add(views, tensor.name.clone(), &tensor.shape, dtype_of(tensor.format), bytes)
}

fn add<'a>(
    views: &mut BTreeMap<String, Entry<'a>>,
    key: String,
    shape: &[u64],
    dtype: Dtype,
    bytes: Cow<'a, [u8]>,
) -> Result<()> {
    let shape: Vec<_> = shape.iter().map(|n| *n as usize).collect();
    let expected = shape.iter().product::<usize>() * dtype.bitsize() / 8;
    if bytes.len() != expected {
        return Err(invalid(format!("{key:?} has {} bytes, and its shape {shape:?} takes {expected}", bytes.len())));
    }
    match views.insert(key.clone(), Entry { dtype, shape, bytes }) {
        None => Ok(()),
        Some(_) => Err(invalid(format!("{key:?} is the name of two entries, of a tensor and of a slot"))),
    }
}

fn invalid(e: impl std::fmt::Display) -> Error {
    Error::Safetensors(e.to_string())
}

//! Checkpoints in: everything is checked, and all that does not fit is told at once.

use std::collections::BTreeSet;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::metadata::{Reader, Version, rule_of, steps_of};
use super::{Checkpoint, TensorParams, dtype_of};
use crate::error::{Error, Result};
use crate::plan::{MASTER, Plan, PlannedTensor, scales_of};
use crate::state::{OptimizerState, TensorState};
use crate::storage::{Format, Q8_BLOCK, SlotStorage, StateFormat, q8_values};

fn invalid(e: impl std::fmt::Display) -> Error {
    Error::Safetensors(e.to_string())
}

impl Checkpoint {
    /// Reads a file's bytes for the optimizer of that plan.
    ///
    /// # Errors
    /// [`Error::Safetensors`] if the bytes are no checkpoint; [`Error::State`] with everything that is missing,
    /// extra or does not fit, other storage included.
    pub fn from_safetensors(bytes: &[u8], plan: &Plan) -> Result<Self> {
        Self::read(bytes, plan, false)
    }

    /// Reads a file's bytes, whatever its parameters and slots are stored as. Values are the file's until they
    /// are loaded; parameters and their f32 copy become each other where one of the two has only the other.
    ///
    /// # Errors
    /// As [`Checkpoint::from_safetensors`], but for the storage.
    pub fn convert_from_safetensors(bytes: &[u8], plan: &Plan) -> Result<Self> {
        Self::read(bytes, plan, true)
    }

    /// The configuration that a file's bytes were written under, as TOML, if they say it. It needs no plan: what
    /// reads the rest may be the plan of this very configuration.
    ///
    /// # Errors
    /// [`Error::Safetensors`] if the bytes are no checkpoint.
    pub fn config_from_safetensors(bytes: &[u8]) -> Result<Option<String>> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
        Ok(Reader::new(&header)?.config())
    }

    fn read(bytes: &[u8], plan: &Plan, convert: bool) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(invalid)?;
        let mut file = File {
            rest: tensors.names().into_iter().map(str::to_owned).collect(),
            tensors,
            metadata: Reader::new(&header)?,
            convert,
        };
        let mut params = file.metadata.has_params().then(|| file.params(plan));
        let mut state = file.state(plan, params.as_deref_mut());
        if file.metadata.version < Version::V3 {
            state.unscale_sums();
        }
        let extra = file.metadata.extra();
        let File { metadata, rest, .. } = file;
        let mut problems = metadata.problems;
        problems.extend(rest.into_iter().map(|key| format!("{key:?} is not a slot of the optimizer's tensors")));
        if !problems.is_empty() && state.config.as_deref().is_some_and(|config| *config != *plan.config) {
            let way = "it is of another configuration: load it under that one (Checkpoint::config_from_safetensors), then \
                       reconfigure";
            problems.push(way.to_owned());
        }
        Error::of_state(problems)?;
        let checkpoint = Self { params, state, extra };
        checkpoint.check(plan)?;
        Ok(checkpoint)
    }
}

impl OptimizerState {
    /// Reads a checkpoint's bytes for the optimizer of that plan, and leaves parameters that it holds aside.
    ///
    /// # Errors
    /// As [`Checkpoint::from_safetensors`].
    pub fn from_safetensors(bytes: &[u8], plan: &Plan) -> Result<Self> {
        Ok(Checkpoint::from_safetensors(bytes, plan)?.state)
    }
}

struct File<'a> {
    tensors: SafeTensors<'a>,
    metadata: Reader<'a>,
    /// Entries that nobody has asked for.
    rest: BTreeSet<String>,
    /// Whether another storage than the plan's is accepted.
    convert: bool,
}

impl File<'_> {
    /// What `read` makes of the entry under that key, or nothing and a problem.
    fn entry<T: Default>(&mut self, key: &str, read: impl FnOnce(&TensorView<'_>) -> Result<T, String>) -> T {
        let read = match self.tensors.tensor(key) {
            Ok(view) => read(&view),
            Err(_) => Err("is missing".to_owned()),
        };
        self.rest.remove(key);
        read.unwrap_or_else(|problem| {
            self.metadata.problems.push(format!("{key:?} {problem}"));
            T::default()
        })
    }

    fn params(&mut self, plan: &Plan) -> Vec<TensorParams> {
        let convert = self.convert;
        let one = |(t, planned): (usize, &PlannedTensor)| {
            let (spec, format) = (&planned.spec, plan.formats_of(t)[0]);
            let values = self.entry(&spec.name, |view| {
                expect(view, dtype_of(format), convert)?;
                float_values(view, &spec.shape)
            });
            TensorParams { name: spec.name.clone(), shape: spec.shape.clone(), format, values }
        };
        plan.tensors.iter().enumerate().map(one).collect()
    }

    fn state(&mut self, plan: &Plan, mut params: Option<&mut [TensorParams]>) -> OptimizerState {
        let mut state = self.metadata.state();
        self.metadata.problems.extend(state.problems_beside_tensors(plan));
        for index in plan.kept_tensors() {
            let spec = &plan.tensors[index].spec;
            let key_of = |slot: &str| format!("{}.{slot}", spec.name);
            let rule = rule_of(&spec.name);
            let mut slots = plan.slots_of(index).into_iter();
            if !self.metadata.has(&rule) && !slots.any(|slot| self.rest.contains(&key_of(slot.name))) {
                self.metadata.problems.push(format!("{:?} is missing", spec.name));
                continue;
            }
            let mut tensor = TensorState::<f32> {
                name: spec.name.clone(),
                shape: spec.shape.clone(),
                rule: self.metadata.text(&rule).to_owned(),
                steps: self.metadata.count(&steps_of(&spec.name)),
                weight_sum: self.metadata.weight_sum(&spec.name),
                slots: Vec::new(),
                storage: Vec::new(),
            };
            if self.metadata.has(&rule) {
                let problems = tensor.problems_beside_slots(plan, index, state.steps_taken);
                self.metadata.problems.extend(problems);
            }
            let own = params.as_mut().and_then(|params| params.get_mut(index));
            self.slots(plan, index, own, &mut tensor);
            state.tensors.push(tensor);
        }
        state
    }

    /// Reads a tensor's slots, and where it is asked makes parameters and their f32 copy of each other.
    fn slots(&mut self, plan: &Plan, index: usize, params: Option<&mut TensorParams>, tensor: &mut TensorState<f32>) {
        let variant = plan.variant_of(index);
        let planned = plan.slot_storage(index);
        for (slot, format) in variant.kept().zip(variant.formats()) {
            let key = format!("{}.{}", tensor.name, slot.name);
            if slot.name == MASTER && self.convert && !self.rest.contains(&key) {
                // Without parameters it is zero, which no parameter but zero takes for its own.
                let zeros = || vec![0.0; plan.tensors[index].elements as usize];
                let values = params.as_ref().map_or_else(zeros, |params| params.values.clone());
                tensor.slots.push((MASTER.to_owned(), values));
                continue;
            }
            let (values, scales, found) = self.slot(&key, &tensor.shape, format, slot.signed);
            let own = planned.iter().find(|own| own.slot == slot.name).filter(|_| found == format);
            tensor.storage.extend(own.map(|own| SlotStorage { scales, ..own.clone() }));
            tensor.slots.push((slot.name.to_owned(), values));
        }
        for slot in plan.slots_of(index).into_iter().skip(variant.kept_count()) {
            let key = format!("{}.{}", tensor.name, slot.name);
            let values = self.entry(&key, |view| {
                expect(view, Dtype::F32, false)?;
                float_values(view, &slot.shape)
            });
            tensor.slots.push((slot.name.to_owned(), values));
        }
        let master = format!("{}.{MASTER}", tensor.name);
        if self.convert && self.rest.contains(&master) {
            let values = self.entry(&master, |view| float_values(view, &tensor.shape));
            if let Some(params) = params {
                params.values = values;
            }
        }
    }

    /// A slot's values, the scales that they have in q8, and its format in the file.
    fn slot(
        &mut self,
        key: &str,
        shape: &[u64],
        format: StateFormat,
        signed: bool,
    ) -> (Vec<f32>, Vec<f32>, StateFormat) {
        let convert = self.convert;
        let expected = match format {
            StateFormat::F32 => Dtype::F32,
            StateFormat::Bf16 => Dtype::BF16,
            StateFormat::Q8 => Dtype::U8,
        };
        let dtype = self.tensors.tensor(key).map_or(expected, |view| view.dtype());
        if dtype != Dtype::U8 {
            let values = self.entry(key, |view| {
                expect(view, expected, convert)?;
                float_values(view, shape)
            });
            return (values, Vec::new(), if dtype == Dtype::BF16 { StateFormat::Bf16 } else { StateFormat::F32 });
        }
        let elements = shape.iter().product::<u64>();
        let blocks = [elements.div_ceil(u64::from(Q8_BLOCK))];
        let codes = self.entry(key, |view| {
            expect(view, expected, convert)?;
            expect_shape(view, shape)?;
            Ok(view.data().to_vec())
        });
        let scales = self.entry(&scales_of(key), |view| {
            expect(view, Dtype::F32, false)?;
            let scales = float_values(view, &blocks)?;
            match scales.iter().find(|scale| scale.is_sign_negative()) {
                // They are magnitudes: stored again, the values would have another.
                Some(scale) => Err(format!("has a scale of {scale}, must not be below zero")),
                None => Ok(scales),
            }
        });
        let decoded = codes.chunks(Q8_BLOCK as usize).zip(&scales).flat_map(|(c, scale)| q8_values(c, *scale, signed));
        (decoded.collect(), scales, StateFormat::Q8)
    }
}

fn expect(view: &TensorView<'_>, dtype: Dtype, convert: bool) -> Result<(), String> {
    if view.dtype() == dtype || convert {
        return Ok(());
    }
    Err(format!("has dtype {:?}, expected {dtype:?}", view.dtype()))
}

fn expect_shape(view: &TensorView<'_>, shape: &[u64]) -> Result<(), String> {
    if view.shape().iter().map(|n| *n as u64).eq(shape.iter().copied()) {
        return Ok(());
    }
    Err(format!("has shape {:?}, expected {shape:?}", view.shape()))
}

/// The values of a tensor of a file, if it has floats of 16 or 32 bits and that shape; else what is wrong.
pub fn float_values(view: &TensorView<'_>, shape: &[u64]) -> Result<Vec<f32>, String> {
    let format = match view.dtype() {
        Dtype::F32 => Format::F32,
        Dtype::F16 => Format::F16,
        Dtype::BF16 => Format::Bf16,
        other => return Err(format!("has dtype {other:?}, expected F32, F16 or BF16")),
    };
    expect_shape(view, shape)?;
    Ok(format.decode(view.data()))
}

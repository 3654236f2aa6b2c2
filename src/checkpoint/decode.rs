//! Checkpoints in: everything is checked, and all that does not fit is told at once.

use std::collections::BTreeSet;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use super::metadata::{Reader, rule_of, steps_of};
use super::{Checkpoint, TensorParams};
use crate::state::{OptimizerState, TensorState};
use crate::step::Plan;
use crate::{Error, Result};

fn invalid(e: impl std::fmt::Display) -> Error {
    Error::Safetensors(e.to_string())
}

impl Checkpoint {
    /// Reads a file's bytes for the optimizer of that plan.
    ///
    /// # Errors
    /// [`Error::Safetensors`] if the bytes are no checkpoint; [`Error::State`] with everything that is missing,
    /// extra or does not fit.
    pub fn from_safetensors(bytes: &[u8], plan: &Plan) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(invalid)?;
        let mut file = File {
            rest: tensors.names().into_iter().map(str::to_owned).collect(),
            tensors,
            metadata: Reader::new(&header)?,
        };
        let params = file.metadata.has_params().then(|| file.params(plan));
        let state = file.state(plan);
        let extra = file.metadata.extra();
        let File { metadata, rest, .. } = file;
        let mut problems = metadata.problems;
        problems.extend(rest.into_iter().map(|key| format!("{key:?} is not a slot of the optimizer's tensors")));
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
}

impl File<'_> {
    /// The values under that key, if they are there, in f32 and of that shape.
    fn values(&mut self, key: &str, shape: &[u64]) -> Vec<f32> {
        let read = match self.tensors.tensor(key) {
            Ok(view) => f32_values(&view, shape),
            Err(_) => Err("is missing".to_owned()),
        };
        self.rest.remove(key);
        read.unwrap_or_else(|problem| {
            self.metadata.problems.push(format!("{key:?} {problem}"));
            Vec::new()
        })
    }

    fn params(&mut self, plan: &Plan) -> Vec<TensorParams> {
        let specs = plan.tensors.iter().map(|planned| &planned.spec);
        specs
            .map(|spec| TensorParams {
                name: spec.name.clone(),
                shape: spec.shape.clone(),
                values: self.values(&spec.name, &spec.shape),
            })
            .collect()
    }

    fn state(&mut self, plan: &Plan) -> OptimizerState {
        let mut state = self.metadata.state();
        self.metadata.problems.extend(state.problems_beside_tensors(plan));
        for index in plan.kept_tensors() {
            let spec = &plan.tensors[index].spec;
            let slots = plan.slots_of(index).into_iter();
            let keys: Vec<_> = slots.map(|s| (format!("{}.{}", spec.name, s.name), s)).collect();
            let rule = rule_of(&spec.name);
            if !self.metadata.has(&rule) && !keys.iter().any(|(key, _)| self.rest.contains(key)) {
                self.metadata.problems.push(format!("{:?} is missing", spec.name));
                continue;
            }
            let tensor = TensorState::<f32> {
                name: spec.name.clone(),
                shape: spec.shape.clone(),
                rule: self.metadata.text(&rule).to_owned(),
                steps: self.metadata.count(&steps_of(&spec.name)),
                weight_sum: self.metadata.weight_sum(&spec.name),
                slots: keys
                    .into_iter()
                    .map(|(key, slot)| (slot.name.to_owned(), self.values(&key, &slot.shape)))
                    .collect(),
            };
            if self.metadata.has(&rule) {
                let problems = tensor.problems_beside_slots(plan, index, state.steps_taken);
                self.metadata.problems.extend(problems);
            }
            state.tensors.push(tensor);
        }
        state
    }
}

/// The f32 values of a tensor of a file, if it has that type and shape; else what is wrong.
pub fn f32_values(view: &TensorView<'_>, shape: &[u64]) -> Result<Vec<f32>, String> {
    if view.dtype() != Dtype::F32 {
        return Err(format!("has dtype {:?}, expected F32", view.dtype()));
    }
    if !view.shape().iter().map(|n| *n as u64).eq(shape.iter().copied()) {
        return Err(format!("has shape {:?}, expected {shape:?}", view.shape()));
    }
    Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

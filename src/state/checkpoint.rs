//! What a run needs to go on: parameters, state and what the caller adds, in one safetensors file.
//!
//! `docs/checkpoints.md` describes the file.

#[cfg(feature = "checkpoint")]
mod container;
#[cfg(feature = "checkpoint")]
mod decode;
#[cfg(feature = "checkpoint")]
mod encode;
#[cfg(feature = "checkpoint")]
mod file;
#[cfg(feature = "checkpoint")]
mod metadata;

use std::collections::{BTreeMap, HashMap};

#[cfg(feature = "checkpoint")]
pub use container::serialize;
#[cfg(feature = "checkpoint")]
pub use decode::float_values;
#[cfg(feature = "checkpoint")]
use safetensors::tensor::Dtype;

use super::OptimizerState;
use crate::error::{Error, Result};
use crate::plan::{Plan, PlannedTensor};
use crate::storage::Format;
use crate::tensor::TensorSpec;

/// What a run needs to go on to the same bits, on the host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    /// All parameters, those of frozen tensors included; `None` where they are kept elsewhere.
    pub params: Option<Vec<TensorParams>>,
    /// The optimizer's state.
    pub state: OptimizerState,
    /// What the caller wants kept beside: a data loader's place, the state of a random number generator.
    pub extra: BTreeMap<String, String>,
}

/// The parameters of a tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorParams {
    /// The tensor's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// How they are stored.
    pub format: Format,
    /// Its parameters, row by row.
    pub values: Vec<f32>,
}

impl Checkpoint {
    /// A checkpoint of that state, without parameters.
    pub fn new(state: OptimizerState) -> Self {
        Self { state, ..Self::default() }
    }

    /// The same with the parameters of all tensors of a plan, in their order.
    ///
    /// # Errors
    /// [`Error::State`]: they are not as many as the tensors, or not as many values as a tensor has elements.
    pub fn with_params(mut self, plan: &Plan, values: impl IntoIterator<Item = Vec<f32>>) -> Result<Self> {
        let mut values = values.into_iter();
        let tensors = plan.tensors.iter().enumerate();
        // As many as there are: the check names the first that has none.
        let params = tensors.map_while(|(t, tensor)| {
            let TensorSpec { name, shape } = tensor.spec.clone();
            Some(TensorParams { name, shape, format: plan.formats_of(t)[0], values: values.next()? })
        });
        let params: Vec<_> = params.collect();
        let mut problems = problems_of_params(&params, plan);
        match values.count() {
            0 => {}
            more => {
                problems.push(format!("there are parameters of {more} tensors more than the {} known", params.len()))
            }
        }
        Error::of_state(problems)?;
        self.params = Some(params);
        Ok(self)
    }

    /// The same with something of the caller's beside.
    pub fn with_extra(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.extra.insert(key.into(), value.into());
        self
    }

    /// The parameters of the tensor of that name.
    pub fn params_of(&self, name: &str) -> Option<&TensorParams> {
        self.params.iter().flatten().find(|t| t.name == name)
    }

    /// The parameters in the order of a plan's tensors, whatever theirs is here; `None` where they are kept elsewhere.
    ///
    /// # Errors
    /// [`Error::State`] where they do not fit the tensors, with every mismatch.
    pub fn params_in_order(&self, plan: &Plan) -> Result<Option<Vec<&TensorParams>>> {
        let Some(params) = &self.params else { return Ok(None) };
        Error::of_state(problems_of_params(params, plan))?;
        let by_name: HashMap<_, _> = params.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let named = |tensor: &PlannedTensor| by_name.get(tensor.spec.name.as_str()).copied();
        Ok(Some(plan.tensors.iter().filter_map(named).collect()))
    }

    /// Checks that the checkpoint fits a plan.
    ///
    /// # Errors
    /// [`Error::State`] with every mismatch, not only the first.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        let mut problems = match self.state.check(plan) {
            Err(Error::State(problems)) => vec![problems],
            other => other.map(|()| Vec::new())?,
        };
        if let Some(params) = &self.params {
            problems.extend(problems_of_params(params, plan));
        }
        Error::of_state(problems)
    }
}

/// What safetensors calls a format.
#[cfg(feature = "checkpoint")]
pub fn dtype_of(format: Format) -> Dtype {
    match format {
        Format::F32 => Dtype::F32,
        Format::F16 => Dtype::F16,
        Format::Bf16 => Dtype::BF16,
    }
}

fn problems_of_params(params: &[TensorParams], plan: &Plan) -> Vec<String> {
    let mut problems = Vec::new();
    let mut known = HashMap::new();
    for tensor in params {
        if known.insert(tensor.name.as_str(), tensor).is_some() {
            problems.push(format!("the parameters of {:?} are given twice", tensor.name));
        }
    }
    for planned in &plan.tensors {
        let (name, shape) = (&planned.spec.name, &planned.spec.shape);
        match known.remove(name.as_str()) {
            None => problems.push(format!("the parameters of {name:?} are missing")),
            Some(tensor) if tensor.shape != *shape => {
                problems.push(format!("the parameters of {name:?} have shape {:?}, expected {shape:?}", tensor.shape));
            }
            Some(tensor) if tensor.values.len() as u64 != planned.elements => {
                let (has, wants) = (tensor.values.len(), planned.elements);
                problems.push(format!("{name:?} has {has} parameters, expected {wants}"));
            }
            Some(_) => {}
        }
    }
    let mut extra: Vec<_> = known.into_keys().collect();
    extra.sort_unstable();
    problems.extend(extra.into_iter().map(|name| format!("there are parameters of {name:?}, which no tensor has")));
    problems
}

//! Optimizer state as a safetensors file: `{tensor}.{slot}` in f32, counts and rules in the metadata.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, Metadata, SafeTensors, TensorView};

use crate::schedule::PlateauState;
use crate::state::{OptimizerState, TensorState};
use crate::step::Plan;
use crate::{Error, Result};

/// What the metadata calls the format.
const FORMAT: &str = "wgpu-optim";
/// The version that this library writes and reads.
const VERSION: &str = "1";

fn invalid(e: impl std::fmt::Display) -> Error {
    Error::Safetensors(e.to_string())
}

impl OptimizerState {
    /// The file's bytes.
    ///
    /// # Errors
    /// A slot's values do not fit the tensor's shape.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        let mut metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("steps_taken".to_owned(), self.steps_taken.to_string()),
            ("steps_skipped".to_owned(), self.steps_skipped.to_string()),
            ("micro_batches".to_owned(), self.micro_batches.to_string()),
            // Shortest text that reads back as the same number.
            ("loss_scale".to_owned(), format!("{:?}", self.loss_scale)),
            ("good_steps".to_owned(), self.good_steps.to_string()),
            ("plateau.factor".to_owned(), format!("{:?}", self.plateau.factor)),
            ("plateau.bad_reports".to_owned(), self.plateau.bad_reports.to_string()),
            ("plateau.cooldown".to_owned(), self.plateau.cooldown.to_string()),
        ]);
        if let Some(best) = self.plateau.best {
            metadata.insert("plateau.best".to_owned(), format!("{best:?}"));
        }
        let mut views = Vec::new();
        for tensor in &self.tensors {
            metadata.insert(format!("{}.rule", tensor.name), tensor.rule.clone());
            metadata.insert(format!("{}.steps", tensor.name), tensor.steps.to_string());
            if tensor.weight_sum != 0.0 {
                metadata.insert(format!("{}.weight_sum", tensor.name), format!("{:?}", tensor.weight_sum));
            }
            let shape: Vec<usize> = tensor.shape.iter().map(|n| *n as usize).collect();
            for (slot, values) in &tensor.slots {
                // safetensors holds little-endian words, as do all platforms that wgpu runs on.
                let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).map_err(invalid)?;
                views.push((format!("{}.{slot}", tensor.name), view));
            }
        }
        safetensors::serialize(views, Some(metadata)).map_err(invalid)
    }

    /// Reads a file for the optimizer of that plan.
    ///
    /// # Errors
    /// The bytes are not such a file, or do not fit: every mismatch is listed.
    pub fn from_safetensors(bytes: &[u8], plan: &Plan) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
        let file = SafeTensors::deserialize(bytes).map_err(invalid)?;
        let metadata = Counts::of(&header)?;
        let mut problems = Vec::new();
        let mut rest: std::collections::BTreeSet<String> = file.names().into_iter().map(str::to_owned).collect();
        let mut tensors = Vec::new();
        for (index, planned) in plan.tensors.iter().enumerate() {
            let name = &planned.spec.name;
            if plan.group_of(index).frozen {
                continue;
            }
            let mut slots = Vec::new();
            for slot in plan.variant_of(index).kept() {
                let key = format!("{name}.{}", slot.name);
                rest.remove(&key);
                match file.tensor(&key) {
                    Ok(view) => match f32_values(&view, &planned.spec.shape) {
                        Ok(values) => slots.push((slot.name.to_owned(), values)),
                        Err(problem) => problems.push(format!("{key:?} {problem}")),
                    },
                    Err(_) => problems.push(format!("{key:?} is missing")),
                }
            }
            tensors.push(TensorState {
                name: name.clone(),
                shape: planned.spec.shape.clone(),
                rule: metadata.rule(name, &mut problems),
                steps: metadata.steps(name, &mut problems),
                weight_sum: metadata.weight_sum(name, &mut problems),
                slots,
            });
        }
        problems.extend(rest.into_iter().map(|key| format!("{key:?} is not a slot of the optimizer's tensors")));
        if !problems.is_empty() {
            return Err(Error::State(problems.join("; ")));
        }
        let state = Self {
            steps_taken: metadata.count("steps_taken")?,
            steps_skipped: metadata.count("steps_skipped")?,
            micro_batches: metadata.count("micro_batches")?,
            loss_scale: metadata.number("loss_scale")?,
            good_steps: metadata.count("good_steps")?,
            plateau: PlateauState {
                factor: metadata.number("plateau.factor")?,
                best: if metadata.0.contains_key("plateau.best") {
                    Some(metadata.number("plateau.best")?)
                } else {
                    None
                },
                bad_reports: metadata.count("plateau.bad_reports")?,
                cooldown: metadata.count("plateau.cooldown")?,
            },
            tensors,
        };
        state.check(plan)?;
        Ok(state)
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

/// The metadata's counts and rules.
struct Counts<'a>(&'a HashMap<String, String>);

impl<'a> Counts<'a> {
    fn of(header: &'a Metadata) -> Result<Self> {
        let map = header.metadata().as_ref().ok_or_else(|| invalid("no metadata: not an optimizer state"))?;
        match (map.get("format").map(String::as_str), map.get("version").map(String::as_str)) {
            (Some(FORMAT), Some(VERSION)) => Ok(Self(map)),
            (Some(FORMAT), version) => Err(invalid(format!("version {version:?} of the state, expected {VERSION:?}"))),
            _ => Err(invalid("not a wgpu-optim state: the metadata's \"format\" says otherwise")),
        }
    }

    fn count(&self, key: &str) -> Result<u64> {
        let value = self.0.get(key).ok_or_else(|| invalid(format!("metadata lacks {key:?}")))?;
        // The GPU counts in 32 bits.
        let count: u32 = value.parse().map_err(|_| invalid(format!("metadata {key:?} is {value:?}, not a count")))?;
        Ok(count.into())
    }

    fn number(&self, key: &str) -> Result<f64> {
        let value = self.0.get(key).ok_or_else(|| invalid(format!("metadata lacks {key:?}")))?;
        let number = value.parse().ok().filter(|x: &f64| x.is_finite());
        number.ok_or_else(|| invalid(format!("metadata {key:?} is {value:?}, not a number")))
    }

    fn rule(&self, tensor: &str, problems: &mut Vec<String>) -> String {
        self.0.get(&format!("{tensor}.rule")).cloned().unwrap_or_else(|| {
            problems.push(format!("metadata lacks the rule of {tensor:?}"));
            String::new()
        })
    }

    /// 0 where there is none.
    fn weight_sum(&self, tensor: &str, problems: &mut Vec<String>) -> f64 {
        let key = format!("{tensor}.weight_sum");
        if !self.0.contains_key(&key) {
            return 0.0;
        }
        self.number(&key).unwrap_or_else(|e| {
            problems.push(e.to_string());
            0.0
        })
    }

    fn steps(&self, tensor: &str, problems: &mut Vec<String>) -> u64 {
        self.count(&format!("{tensor}.steps")).unwrap_or_else(|e| {
            problems.push(e.to_string());
            0
        })
    }
}

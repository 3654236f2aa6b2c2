//! The state of an optimizer outside it: by tensor and slot name, whatever the layout in memory.

use crate::schedule::PlateauState;
use crate::step::Plan;
use crate::{Error, Result, loss_scale};

/// State of a whole optimizer, as saved and as moved between backends.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerState<F = f32> {
    /// Steps taken.
    pub steps_taken: u64,
    /// Steps skipped.
    pub steps_skipped: u64,
    /// Micro-batches that the next step has already.
    pub micro_batches: u64,
    /// The loss scale; 1 without one.
    pub loss_scale: f64,
    /// Steps since the loss scale last changed.
    pub good_steps: u64,
    /// What a `plateau` schedule remembers.
    pub plateau: PlateauState,
    /// The tensors that are not frozen, in the caller's order.
    pub tensors: Vec<TensorState<F>>,
}

/// State of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorState<F = f32> {
    /// The tensor's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The name of its rule.
    pub rule: String,
    /// Steps that it has taken.
    pub steps: u64,
    /// Σγ² of a rule that averages its iterates; 0 for others.
    pub weight_sum: f64,
    /// Its slots by name, each with as many values as the tensor has elements.
    pub slots: Vec<(String, Vec<F>)>,
}

impl<F> Default for OptimizerState<F> {
    fn default() -> Self {
        Self {
            steps_taken: 0,
            steps_skipped: 0,
            micro_batches: 0,
            loss_scale: 1.0,
            good_steps: 0,
            plateau: PlateauState::default(),
            tensors: Vec::new(),
        }
    }
}

impl<F> OptimizerState<F> {
    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorState<F>> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// Checks that the state fits a plan: names, shapes, rules and slots.
    ///
    /// # Errors
    /// [`Error::State`] with every mismatch, not only the first.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        let mut problems = Vec::new();
        if self.micro_batches >= plan.gradient.accumulate {
            let (has, most) = (self.micro_batches, plan.gradient.accumulate - 1);
            problems.push(format!("{has} micro-batches are under way, at most {most} can be"));
        }
        if plan.gradient.loss_scale.is_none() && self.loss_scale != 1.0 {
            problems.push(format!("it has a loss scale of {}, and the configuration none", self.loss_scale));
        }
        if plan.gradient.loss_scale.is_some() && !loss_scale::RANGE.contains(&self.loss_scale) {
            problems.push(format!("it has a loss scale of {}, must be from 2^-64 to 2^64", self.loss_scale));
        }
        let mut known = std::collections::HashMap::new();
        for tensor in &self.tensors {
            if known.insert(tensor.name.as_str(), tensor).is_some() {
                problems.push(format!("{:?} is given twice", tensor.name));
            }
        }
        for (index, planned) in plan.tensors.iter().enumerate() {
            let name = planned.spec.name.as_str();
            if plan.group_of(index).frozen {
                continue;
            }
            let Some(tensor) = known.remove(name) else {
                problems.push(format!("{name:?} is missing"));
                continue;
            };
            if tensor.shape != planned.spec.shape {
                problems.push(format!("{name:?} has shape {:?}, expected {:?}", tensor.shape, planned.spec.shape));
            }
            let rule = plan.group_of(index).rule.name();
            if tensor.rule != rule {
                problems.push(format!("{name:?} was saved by rule {:?}, expected {rule:?}", tensor.rule));
            }
            if tensor.steps > self.steps_taken {
                let (own, all) = (tensor.steps, self.steps_taken);
                problems.push(format!("{name:?} took {own} steps of {all} in all"));
            }
            let wants_sum = plan.variant_of(index).averages() && tensor.steps > 0;
            if !(tensor.weight_sum.is_finite() && tensor.weight_sum >= 0.0) || (tensor.weight_sum > 0.0 && !wants_sum) {
                problems.push(format!("{name:?} has a weight_sum of {}", tensor.weight_sum));
            }
            let kept: Vec<_> = plan.variant_of(index).kept().map(|s| s.name).collect();
            for slot in &kept {
                match tensor.slots.iter().find(|(n, _)| n == slot) {
                    None => problems.push(format!("{name:?} lacks slot {slot:?}")),
                    Some((_, values)) if values.len() as u64 != planned.elements => {
                        let (has, wants) = (values.len(), planned.elements);
                        problems.push(format!("{name:?} has {has} values in slot {slot:?}, expected {wants}"));
                    }
                    Some(_) => {}
                }
            }
            for (slot, _) in tensor.slots.iter().filter(|(n, _)| !kept.contains(&n.as_str())) {
                problems.push(format!("{name:?} has an unknown slot {slot:?}"));
            }
        }
        let mut extra: Vec<_> = known.into_keys().collect();
        extra.sort_unstable();
        problems.extend(extra.into_iter().map(|name| format!("{name:?} is not among the optimizer's tensors")));
        if problems.is_empty() { Ok(()) } else { Err(Error::State(problems.join("; "))) }
    }
}

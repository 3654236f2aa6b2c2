//! What state goes on where tensors, groups and rows change between steps.

use super::{Plan, PlannedTensor};
use crate::error::{Error, Result};
use crate::storage::{Q8_BLOCK, StateFormat};
use crate::tensor::TensorSpec;

impl PlannedTensor {
    /// Its rows along the first dimension, and the elements of each.
    ///
    /// # Errors
    /// It has no dimension, or rows without elements.
    pub fn rows(&self) -> Result<(u64, u64)> {
        let fail = || Error::tensor(&self.spec.name, format!("shape {:?} has no rows", self.spec.shape));
        let (count, width) = self.spec.shape.split_first().ok_or_else(fail)?;
        let width: u64 = width.iter().product();
        if width == 0 { Err(fail()) } else { Ok((*count, width)) }
    }

    /// Where the rows of a tensor that replaces this one come from: `u32::MAX` for new ones.
    ///
    /// # Errors
    /// The shapes differ in more than the number of rows, or a row does not exist.
    pub(crate) fn row_sources(&self, new: &TensorSpec, rows: &[Option<u32>]) -> Result<Vec<u32>> {
        let (count, _) = self.rows()?;
        let expected: Vec<u64> =
            std::iter::once(rows.len() as u64).chain(self.spec.shape[1..].iter().copied()).collect();
        if new.shape != expected {
            let problem = format!("shape {:?} for {} rows, expected {expected:?}", new.shape, rows.len());
            return Err(Error::tensor(&new.name, problem));
        }
        let source = |row: &Option<u32>| match row {
            Some(row) if u64::from(*row) >= count => Err(Error::no_row(&new.name, (*row).into(), count)),
            row => Ok(row.unwrap_or(u32::MAX)),
        };
        rows.iter().map(source).collect()
    }
}

impl Plan {
    /// The tensor of that name, which must be updated.
    ///
    /// # Errors
    /// There is none, or it is frozen.
    pub(crate) fn live_tensor(&self, name: &str) -> Result<usize> {
        let tensor = self.tensor_named(name).ok_or_else(|| Error::no_tensor(name))?;
        match self.group_of(tensor).frozen {
            true => Err(Error::tensor(name, "it is frozen, and has no state that could follow its rows")),
            false => Ok(tensor),
        }
    }

    /// The tensor of that name, whose rows can be moved: it is updated, and no two rows share a scale of q8.
    ///
    /// # Errors
    /// There is none, it is frozen or has no rows, or elements of two rows share a scale.
    pub(crate) fn movable_tensor(&self, name: &str) -> Result<usize> {
        let tensor = self.live_tensor(name)?;
        let (_, width) = self.tensors[tensor].rows()?;
        let scaled = self.variant_of(tensor).formats().any(|format| format == StateFormat::Q8);
        if scaled && !width.is_multiple_of(Q8_BLOCK.into()) {
            let problem = format!(
                "its rows of {width} elements cannot be moved: its state is \"q8\", where {Q8_BLOCK} elements share a scale"
            );
            return Err(Error::tensor(name, problem));
        }
        Ok(tensor)
    }

    /// By tensor of the plan to go on with: the tensor whose state it goes on with, of the same name and rule.
    /// `moved` is one that changes its rows.
    ///
    /// # Errors
    /// Another tensor of the same name and rule has another shape or another storage.
    pub(crate) fn kept_in(&self, next: &Self, moved: Option<usize>) -> Result<Vec<Option<usize>>> {
        let kept = |(t, planned): (usize, &PlannedTensor)| {
            let Some(own) = self.tensor_named(&planned.spec.name) else { return Ok(None) };
            let frozen = self.group_of(own).frozen || next.group_of(t).frozen;
            if frozen || self.group_of(own).rule.name() != next.group_of(t).rule.name() {
                return Ok(None);
            }
            let (old, new) = (&self.tensors[own].spec.shape, &planned.spec.shape);
            if old != new && moved != Some(t) {
                let problem = format!("shape {new:?}, and its state has {old:?}: set_rows changes rows with all slots");
                return Err(Error::tensor(&planned.spec.name, problem));
            }
            let [from, to] = [self.variant_of(own).storage, next.variant_of(t).storage];
            if from != to {
                let problem = format!("it is stored as {from}, and cannot become {to} in the middle of a run");
                return Err(Error::tensor(&planned.spec.name, problem));
            }
            Ok(Some(own))
        };
        next.tensors.iter().enumerate().map(kept).collect()
    }

    /// Whether a run can go on with another plan.
    pub(crate) fn check_change(&self, next: &Self, steps_taken: u64, micro_batches: u64, goes_on: bool) -> Result<()> {
        let mut problems = Vec::new();
        if micro_batches >= next.gradient.accumulate {
            let most = next.gradient.accumulate - 1;
            problems.push(format!("{micro_batches} micro-batches are under way, at most {most} can be"));
        }
        if next.ema.is_some() && self.ema.is_none() && steps_taken > 0 && goes_on {
            problems.push("[ema] cannot begin in the middle of a run: it would lack the weights so far".to_owned());
        }
        if let (Some(old), Some(new)) = (&self.ema, next.ema.as_ref().filter(|_| goes_on)) {
            problems.extend(new.problem_after(Some(old.interval), steps_taken));
        }
        Error::of_state(problems)
    }

    /// Whether both have the same groups with the same options.
    pub(crate) fn same_groups(&self, other: &Self) -> bool {
        let of = |plan: &Self| -> Vec<_> {
            plan.groups.iter().map(|g| (g.label().map(str::to_owned), g.rule.name(), g.rule.options())).collect()
        };
        of(self) == of(other)
    }
}

//! Which tensors have had a gradient. One that never has is left alone without a word, so the optimizers can tell.

use crate::plan::Plan;

/// By tensor, whether it has had a gradient.
#[derive(Debug, Clone)]
pub(crate) struct Fed {
    had: Vec<bool>,
    missing: u64,
}

impl Fed {
    /// Of those that are ever updated, which have had one already. The others need none.
    pub fn new(plan: &Plan, had: impl Fn(usize) -> bool) -> Self {
        let had: Vec<bool> = (0..plan.tensors.len()).map(|t| !plan.is_live(t) || had(t)).collect();
        let missing = had.iter().filter(|had| !**had).count() as u64;
        Self { had, missing }
    }

    /// It has a gradient.
    pub fn feed(&mut self, tensor: usize) {
        self.missing -= u64::from(!std::mem::replace(&mut self.had[tensor], true));
    }

    /// Whether it needs none or has had one.
    pub fn has(&self, tensor: usize) -> bool {
        self.had[tensor]
    }

    /// How many have had none.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Those that have had none.
    pub fn tensors(&self) -> impl Iterator<Item = usize> {
        self.had.iter().enumerate().filter_map(|(tensor, had)| (!had).then_some(tensor))
    }
}

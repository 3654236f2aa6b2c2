//! The plan of one step: what a configuration means for a list of tensors. Knows neither backend.
//!
//! A step scans the gradients if something needs it ([`Pass::Scan`]), decides on the device whether
//! and how to go on ([`Pass::Prepare`]), and updates parameters and state ([`Pass::Update`]).

use globset::Glob;

use crate::config::{CommonOptions, OptimizerConfig};
use crate::ema::EmaConfig;
use crate::gradient::GradientConfig;
use crate::rule::{Reduction, Rule, Slot};
use crate::schedule::Schedule;
use crate::tensor::TensorSpec;
use crate::weights::WeightsConfig;
use crate::{Error, MAX_SLOTS, Result, SCALARS};

/// What a configuration means for a list of tensors.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The tensors, in the caller's order.
    pub tensors: Vec<PlannedTensor>,
    /// Group 0 is the optimizer's own rule; the configuration's groups follow.
    pub groups: Vec<PlannedGroup>,
    /// Distinct pieces of code that the groups need.
    pub variants: Vec<Variant>,
    /// Gradient conditioning.
    pub gradient: GradientConfig,
    /// Limits of the parameters.
    pub weights: WeightsConfig,
    /// Moving average of the weights.
    pub ema: Option<EmaConfig>,
    /// The learning rate over the steps.
    pub schedule: Schedule,
}

/// A tensor and where it belongs.
#[derive(Debug, Clone)]
pub struct PlannedTensor {
    /// Name and shape.
    pub spec: TensorSpec,
    /// Its elements.
    pub elements: u64,
    /// Its group.
    pub group: usize,
}

/// Tensors with the same options.
#[derive(Debug, Clone)]
pub struct PlannedGroup {
    /// The glob that chose them; `None` for the rest.
    pub pattern: Option<String>,
    /// The rule with the group's options.
    pub rule: Box<dyn Rule>,
    /// Options that every rule has.
    pub common: CommonOptions,
    /// Its code.
    pub variant: usize,
    /// Its tensors are left alone.
    pub frozen: bool,
}

/// A rule's code with its compile-time options. Groups that differ in numbers only share it, and so
/// share a dispatch.
#[derive(Debug, Clone)]
pub struct Variant {
    /// A rule of this variant; its numbers are of no account.
    pub rule: Box<dyn Rule>,
    /// Slots that the engine keeps for itself, before the rule's.
    pub engine: Vec<Slot>,
    /// All slots that the rule's code names.
    pub slots: Vec<Slot>,
    /// Which of them are kept.
    pub active: Vec<usize>,
    /// How the direction becomes a step.
    pub stepping: Stepping,
}

/// The sum of micro-batches: the first slot where there is one, so that the scan finds it without
/// knowing the rule.
pub const ACCUMULATOR: &str = "grad_accumulator";

/// The moving average of the weights.
pub const EMA: &str = "ema";

/// How a direction becomes a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepping {
    /// By the learning rate.
    Plain,
    /// By a ratio of the norms of parameters and update, tensor by tensor.
    Ratio,
    /// Where it agrees with the gradient in sign.
    Cautious,
    /// As the rule makes of its share in the average of the iterates.
    Averaged,
}

/// A pass of a step over memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Reads every gradient: norm and non-finite test.
    Scan,
    /// Adds the scan's parts up by tensor.
    SumGradients,
    /// Decides: skip or go on, clip coefficient, this step's scalars.
    Prepare,
    /// Computes the update of rules that must know its norm, and of cautious masks; stores nothing.
    Measure,
    /// Adds the measure's parts up by tensor.
    SumUpdates,
    /// Reads gradient, parameter and state once, writes parameter and state once.
    Update,
    /// Reads the new parameters for a limit of their norm or magnitude.
    Weigh,
    /// Adds the weights' parts up by tensor.
    SumWeights,
    /// Scales tensors that exceed the limit.
    Limit,
    /// Averages the weights over the steps.
    Average,
}

impl Stepping {
    fn of(rule: &dyn Rule, common: &CommonOptions) -> Self {
        match rule.reduction() {
            Reduction::UpdateNorm => Self::Ratio,
            Reduction::Average => Self::Averaged,
            Reduction::None if common.cautious => Self::Cautious,
            Reduction::None => Self::Plain,
        }
    }
}

impl Variant {
    /// The code of that rule with those options.
    pub fn of(rule: &dyn Rule, common: &CommonOptions, config: &OptimizerConfig) -> Self {
        let slots = rule.slots();
        let active = (0..slots.len()).filter(|i| slots[*i].active).collect();
        let accumulator = config.gradient.accumulates().then_some(Slot::signed(ACCUMULATOR));
        let ema = config.ema.is_some().then_some(Slot::signed(EMA));
        let engine = accumulator.into_iter().chain(ema).collect();
        Self { rule: rule.boxed(), engine, slots, active, stepping: Stepping::of(rule, common) }
    }

    fn serves(&self, rule: &dyn Rule, common: &CommonOptions) -> bool {
        let slots = rule.slots();
        self.rule.name() == rule.name()
            && self.stepping == Stepping::of(rule, common)
            && self.rule.wgsl() == rule.wgsl()
            && self.rule.constants() == rule.constants()
            && self.slots.iter().map(|s| (s.name, s.active)).eq(slots.iter().map(|s| (s.name, s.active)))
    }

    /// Whether the update must be measured before it is applied.
    pub fn measures(&self) -> bool {
        matches!(self.stepping, Stepping::Ratio | Stepping::Cautious)
    }

    /// Whether the rule averages its iterates.
    pub fn averages(&self) -> bool {
        self.stepping == Stepping::Averaged
    }

    /// The slots that are kept, in the order of the state's memory.
    pub fn kept(&self) -> impl Iterator<Item = &Slot> {
        self.engine.iter().chain(self.active.iter().map(|i| &self.slots[*i]))
    }

    /// The place of a slot of the engine's own among those kept.
    pub fn engine_slot(&self, name: &str) -> Option<usize> {
        self.engine.iter().position(|slot| slot.name == name)
    }

    /// How many slots are kept.
    pub fn kept_count(&self) -> usize {
        self.engine.len() + self.active.len()
    }
}

impl Plan {
    /// Checks the configuration against the tensors and resolves groups and variants.
    ///
    /// # Errors
    /// An option that cannot be used, a group that matches nothing, a name given twice, a shape
    /// whose elements pass `u64`.
    pub fn new(config: &OptimizerConfig, specs: &[TensorSpec]) -> Result<Self> {
        config.check()?;
        let mut variants = Vec::new();
        let own = (config.rule.clone(), config.common.clone());
        let mut groups = vec![planned_group(None, own, false, config, &mut variants)?];
        let mut matchers = Vec::new();
        for group in &config.groups {
            let own = group.resolve(config)?;
            groups.push(planned_group(Some(group.pattern.clone()), own, group.frozen, config, &mut variants)?);
            let glob = Glob::new(&group.pattern)
                .map_err(|e| Error::Group { pattern: group.pattern.clone(), problem: e.kind().to_string() })?;
            matchers.push(glob.compile_matcher());
        }

        let mut names = std::collections::HashSet::new();
        let mut matched = vec![false; matchers.len()];
        let mut tensors = Vec::with_capacity(specs.len());
        for spec in specs {
            if !names.insert(spec.name.as_str()) {
                return Err(Error::tensor(&spec.name, "the name is given twice"));
            }
            let elements = spec
                .elements()
                .filter(|n| n.checked_mul(4 * MAX_SLOTS as u64).is_some())
                .ok_or_else(|| Error::tensor(&spec.name, format!("shape {:?} has too many elements", spec.shape)))?;
            for (matcher, matched) in matchers.iter().zip(&mut matched) {
                *matched |= matcher.is_match(&spec.name);
            }
            let group = matchers.iter().position(|m| m.is_match(&spec.name)).map_or(0, |i| i + 1);
            tensors.push(PlannedTensor { spec: spec.clone(), elements, group });
        }
        if let Some(unmatched) = matched.iter().position(|m| !m) {
            return Err(Error::Group {
                pattern: config.groups[unmatched].pattern.clone(),
                problem: "matches no tensor".to_owned(),
            });
        }
        Ok(Self {
            tensors,
            groups,
            variants,
            gradient: config.gradient.clone(),
            weights: config.weights.clone(),
            ema: config.ema.clone(),
            schedule: config.schedule.clone(),
        })
    }

    /// The passes of a step, in order.
    pub fn passes(&self) -> impl Iterator<Item = Pass> {
        let measures = self.measures();
        let limits = self.weights.tensor_limit().is_some();
        [
            (self.gradient.needs_scan(), Pass::Scan),
            (self.gradient.by_tensor(), Pass::SumGradients),
            (true, Pass::Prepare),
            (measures, Pass::Measure),
            (measures, Pass::SumUpdates),
            (true, Pass::Update),
            (limits, Pass::Weigh),
            (limits, Pass::SumWeights),
            (limits, Pass::Limit),
            (self.ema.is_some(), Pass::Average),
        ]
        .into_iter()
        .filter_map(|(needed, pass)| needed.then_some(pass))
    }

    /// Whether any tensor's update must be measured first.
    pub fn measures(&self) -> bool {
        self.variants.iter().any(Variant::measures)
    }

    /// Whether any tensor's iterates are averaged.
    pub fn averages(&self) -> bool {
        self.variants.iter().any(Variant::averages)
    }

    /// What a tensor's kept slots start from, in the order of the state's memory.
    pub fn initial_of(&self, tensor: usize) -> Vec<f64> {
        // A variant may serve groups whose slots start from different values.
        let own = self.group_of(tensor).rule.slots();
        let engine = self.variant_of(tensor).engine.iter().map(|s| s.initial);
        engine.chain(own.iter().filter(|s| s.active).map(|s| s.initial)).collect()
    }

    /// The group of a tensor.
    pub fn group_of(&self, tensor: usize) -> &PlannedGroup {
        &self.groups[self.tensors[tensor].group]
    }

    /// The code of a tensor.
    pub fn variant_of(&self, tensor: usize) -> &Variant {
        &self.variants[self.group_of(tensor).variant]
    }

    /// Whether the tensor is ever updated: not frozen, not empty.
    pub fn is_live(&self, tensor: usize) -> bool {
        !self.group_of(tensor).frozen && self.tensors[tensor].elements > 0
    }

    /// The tensors that have state: all but the frozen ones.
    pub fn kept_tensors(&self) -> impl Iterator<Item = usize> {
        (0..self.tensors.len()).filter(|t| !self.group_of(*t).frozen)
    }

    /// The tensor of that name.
    pub fn tensor_named(&self, name: &str) -> Option<usize> {
        self.tensors.iter().position(|t| t.spec.name == name)
    }

    /// The group of that glob.
    ///
    /// # Errors
    /// [`Error::Group`], listing the globs there are.
    pub fn group_named(&self, pattern: &str) -> Result<usize> {
        self.groups.iter().position(|g| g.pattern.as_deref() == Some(pattern)).ok_or_else(|| {
            let known: Vec<_> = self.groups.iter().filter_map(|g| g.pattern.as_deref()).collect();
            Error::Group { pattern: pattern.to_owned(), problem: format!("no such group; there are {known:?}") }
        })
    }

    /// Bytes that one step moves for all live elements: the update's reads and writes, the scan's
    /// and the measure's reads, and what limits of weights read and, where they bite, write. 28 an
    /// element for AdamW, 32 with a scan.
    pub fn bytes_moved(&self) -> u64 {
        let scan = u64::from(self.gradient.needs_scan());
        let limit = if self.weights.tensor_limit().is_some() { 3 } else { 0 };
        // The average is read and written once, the weights read.
        let ema = if self.ema.as_ref().is_some_and(|ema| ema.interval == 1) { 3 } else { 0 };
        let words = |t: usize| {
            let averaged = u64::from(self.ema.is_some());
            let slots = self.variant_of(t).kept_count() as u64 - averaged;
            let measure = if self.variant_of(t).measures() { 2 + slots } else { 0 };
            3 + 2 * slots + scan + measure + limit + ema
        };
        (0..self.tensors.len()).filter(|t| self.is_live(*t)).map(|t| self.tensors[t].elements * 4 * words(t)).sum()
    }
}

fn planned_group(
    pattern: Option<String>,
    (rule, common): (Box<dyn Rule>, CommonOptions),
    frozen: bool,
    config: &OptimizerConfig,
    variants: &mut Vec<Variant>,
) -> Result<PlannedGroup> {
    // A rule from outside may ask for more than a table row or the binding holds.
    if rule.scalar_names().len() > SCALARS || rule.slots().len() > MAX_SLOTS {
        return Err(Error::Shader {
            rule: rule.name().to_owned(),
            reason: format!("a rule has at most {SCALARS} scalars and {MAX_SLOTS} slots"),
        });
    }
    let variant = match variants.iter().position(|v| v.serves(rule.as_ref(), &common)) {
        Some(known) => known,
        None => {
            variants.push(Variant::of(rule.as_ref(), &common, config));
            variants.len() - 1
        }
    };
    Ok(PlannedGroup { pattern, rule, common, variant, frozen })
}

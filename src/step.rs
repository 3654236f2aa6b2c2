//! The plan of one step: what a configuration means for a list of tensors. Knows neither backend.
//!
//! A step scans the gradients if something needs it ([`Pass::Scan`]), decides on the device whether
//! and how to go on ([`Pass::Prepare`]), and updates parameters and state ([`Pass::Update`]).

use globset::Glob;

use crate::config::{CommonOptions, OptimizerConfig};
use crate::ema::EmaConfig;
use crate::gradient::GradientConfig;
use crate::lines::{Lines, Matrices};
use crate::rule::{Reduction, Rule, Slot};
use crate::schedule::Schedule;
use crate::state::SlotStorage;
use crate::storage::{Format, Q8_BLOCK, StateFormat, Storage, key_of};
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
    /// Seed of what is rounded stochastically.
    pub seed: u64,
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
    /// Its code: that of its group, by its dimensions and, where it is too small to compress, its size.
    pub variant: usize,
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
    /// How its tensors are stored.
    pub storage: Storage,
    /// Its code, for vectors and for matrices.
    variants: [usize; 2],
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
    /// Whether the mean square is kept by rows and columns.
    pub factored: bool,
    /// How its tensors are stored.
    pub storage: Storage,
}

/// Slots of a tensor whose mean square is kept by rows and columns.
pub const FACTORS: [&str; 2] = ["row_var", "col_var"];

/// A slot of one tensor, as it is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSlot {
    /// PyTorch's name.
    pub name: &'static str,
    /// Its values' shape.
    pub shape: Vec<u64>,
}

impl PlannedSlot {
    /// How many values it has.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// The shape of a slot with that many values in a tensor of that shape: its own, but for the means by row
/// and by column, where one dimension is 1 (PyTorch's shapes).
pub fn slot_shape(name: &str, shape: &[u64], values: usize) -> Vec<u64> {
    let mut shape = shape.to_vec();
    let by_line = FACTORS.iter().position(|factor| *factor == name);
    if let (Some(along), true) = (by_line, shape.iter().product::<u64>() != values as u64) {
        let from_last = shape.iter_mut().rev().nth(along);
        from_last.into_iter().for_each(|n| *n = 1);
    }
    shape
}

/// The f32 copy of 16-bit parameters.
pub const MASTER: &str = "master";

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
    /// Adds squares of gradients and parameters up by unit.
    SumUnits,
    /// Makes a factor of each unit's sums.
    ClipUnits,
    /// Adds squares of gradients up by row and by column.
    SumLines,
    /// Averages rows and columns over the steps.
    AverageLines,
    /// Adds the rows' averages up by matrix.
    SumRows,
    /// Makes a mean of each matrix's sum.
    MeanRows,
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
    pub fn of(code: Code<'_>, config: &OptimizerConfig) -> Self {
        let Code { rule, common, storage, factored } = code;
        let slots = rule.slots();
        let kept = |slot: &Slot| slot.active && !(factored && slot.mean_square);
        let active = (0..slots.len()).filter(|i| kept(&slots[*i])).collect();
        let accumulator = config.gradient.accumulates().then_some(Slot::signed(ACCUMULATOR));
        let ema = config.ema.is_some().then_some(Slot::signed(EMA));
        let master = storage.master.then_some(Slot::signed(MASTER));
        let engine = accumulator.into_iter().chain(ema).chain(master).collect();
        Self { rule: rule.boxed(), engine, slots, active, stepping: Stepping::of(rule, common), factored, storage }
    }

    fn serves(&self, code: Code<'_>) -> bool {
        let Code { rule, common, storage, factored } = code;
        let slots = rule.slots();
        self.rule.name() == rule.name()
            && self.factored == factored
            && self.storage == storage
            && self.stepping == Stepping::of(rule, common)
            && self.rule.wgsl() == rule.wgsl()
            && self.rule.constants() == rule.constants()
            && self.slots.iter().map(code_of).eq(slots.iter().map(code_of))
    }

    /// Whether the update must be measured before it is applied.
    pub fn measures(&self) -> bool {
        matches!(self.stepping, Stepping::Ratio | Stepping::Cautious)
    }

    /// The slot of the mean square, if the rule has one.
    pub fn mean_square(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.mean_square && slot.active)
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

    /// How each kept slot is stored. The engine's own keep f32.
    pub fn formats(&self) -> impl Iterator<Item = StateFormat> {
        let engine = self.engine.iter().map(|_| StateFormat::F32);
        let rule = self.active.iter().map(|i| match self.slots[*i].compressible {
            true => self.storage.state,
            false => StateFormat::F32,
        });
        engine.chain(rule)
    }

    /// How many slots are kept.
    pub fn kept_count(&self) -> usize {
        self.engine.len() + self.active.len()
    }
}

/// What of a slot is code.
fn code_of(slot: &Slot) -> (&'static str, bool, bool, bool) {
    (slot.name, slot.active, slot.signed, slot.compressible)
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
        let own =
            Resolved { rule: config.rule.clone(), common: config.common.clone(), storage: config.storage.resolve() };
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
            let planned: &PlannedGroup = &groups[group];
            let matrix = spec.shape.len() > 1;
            let storage = planned.storage.for_elements(elements);
            let mut variant = planned.variants[usize::from(matrix)];
            if storage != planned.storage {
                let (rule, common) = (planned.rule.as_ref(), &planned.common);
                let code = Code { rule, common, storage, factored: matrix && factors(rule) };
                variant = variant_of(code, config, &mut variants);
            }
            check_lines(spec, elements, &variants[variant], &config.gradient)?;
            tensors.push(PlannedTensor { spec: spec.clone(), elements, group, variant });
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
            seed: config.storage.seed,
        })
    }

    /// The passes of a step, in order.
    pub fn passes(&self) -> impl Iterator<Item = Pass> {
        let measures = self.measures();
        let limits = self.weights.tensor_limit().is_some();
        let units = self.gradient.clip_adaptive.is_some();
        let factors = self.factors();
        [
            (self.gradient.needs_scan(), Pass::Scan),
            (self.gradient.by_tensor(), Pass::SumGradients),
            (true, Pass::Prepare),
            (units, Pass::SumUnits),
            (units, Pass::ClipUnits),
            (factors, Pass::SumLines),
            (factors, Pass::AverageLines),
            (factors, Pass::SumRows),
            (factors, Pass::MeanRows),
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
        let variant = self.variant_of(tensor);
        let engine = variant.engine.iter().map(|s| s.initial);
        engine.chain(variant.active.iter().map(|i| own[*i].initial)).collect()
    }

    /// Whether a tensor's kept slot takes both signs.
    pub fn is_signed(&self, tensor: usize, slot: usize) -> bool {
        self.variant_of(tensor).kept().nth(slot).is_none_or(|slot| slot.signed)
    }

    /// How a tensor's slots are stored that are not in f32, their scales zero.
    pub fn slot_storage(&self, tensor: usize) -> Vec<SlotStorage> {
        let variant = self.variant_of(tensor);
        let scales = self.tensors[tensor].elements.div_ceil(u64::from(Q8_BLOCK)) as usize;
        let narrow = variant.kept().zip(variant.formats()).filter(|(_, format)| *format != StateFormat::F32);
        narrow
            .map(|(slot, format)| SlotStorage {
                slot: slot.name.to_owned(),
                format,
                signed: slot.signed,
                scales: if format == StateFormat::Q8 { vec![0.0; scales] } else { Vec::new() },
            })
            .collect()
    }

    /// What the random bits of a tensor depend on beside its steps.
    pub fn noise_key(&self, tensor: usize) -> u32 {
        key_of(self.seed, &self.tensors[tensor].spec.name)
    }

    /// How a tensor's parameters and its gradient are stored.
    pub fn formats_of(&self, tensor: usize) -> [Format; 2] {
        let storage = &self.variant_of(tensor).storage;
        [storage.params, storage.gradients]
    }

    /// The group of a tensor.
    pub fn group_of(&self, tensor: usize) -> &PlannedGroup {
        &self.groups[self.tensors[tensor].group]
    }

    /// The code of a tensor.
    pub fn variant_of(&self, tensor: usize) -> &Variant {
        &self.variants[self.tensors[tensor].variant]
    }

    /// A tensor's slots, those of the engine first.
    pub fn slots_of(&self, tensor: usize) -> Vec<PlannedSlot> {
        let shape = &self.tensors[tensor].spec.shape;
        let mut slots: Vec<_> =
            self.variant_of(tensor).kept().map(|s| PlannedSlot { name: s.name, shape: shape.clone() }).collect();
        if self.factored(tensor).is_some() {
            slots.extend(FACTORS.map(|name| PlannedSlot { name, shape: slot_shape(name, shape, 0) }));
        }
        slots
    }

    /// The tensor as matrices, if it has elements and its mean square is kept by rows and columns.
    pub fn factored(&self, tensor: usize) -> Option<Matrices> {
        let factored = self.variant_of(tensor).factored && self.tensors[tensor].elements > 0;
        Matrices::of(&self.tensors[tensor].spec.shape).filter(|_| factored)
    }

    /// Of a tensor whose mean square is kept by rows and columns: how many values of `row_var` and of `col_var`
    /// belong to each row along the first dimension. A mean over those rows has `None`.
    pub(crate) fn factor_widths(&self, tensor: usize) -> Vec<Option<u64>> {
        let shape = &self.tensors[tensor].spec.shape;
        let width = |name: &str| slot_shape(name, shape, 0)[1..].iter().product();
        let widths = || FACTORS.map(|name| (shape.len() > 2 || name == FACTORS[0]).then(|| width(name)));
        self.factored(tensor).map_or(Vec::new(), |_| widths().to_vec())
    }

    /// The units of a tensor's adaptive clip, if there is one.
    pub fn units(&self, tensor: usize) -> Option<Lines> {
        self.gradient.clip_adaptive.and_then(|_| Lines::units(&self.tensors[tensor].spec.shape))
    }

    /// Whether anything goes by lines of tensors.
    pub fn by_line(&self) -> bool {
        self.gradient.clip_adaptive.is_some() || self.factors()
    }

    /// Whether any tensor's mean square is kept by rows and columns.
    pub fn factors(&self) -> bool {
        (0..self.tensors.len()).any(|t| self.is_live(t) && self.variant_of(t).factored)
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

    /// The tensor of that name, whose rows can be moved: it is updated, and its numbers lie one in a word.
    ///
    /// # Errors
    /// There is none, it is frozen, or its parameters or its state are stored otherwise.
    pub(crate) fn movable_tensor(&self, name: &str) -> Result<usize> {
        let tensor = self.live_tensor(name)?;
        let variant = self.variant_of(tensor);
        let wide = variant.storage.params == Format::F32 && variant.formats().all(|format| format == StateFormat::F32);
        if wide {
            return Ok(tensor);
        }
        Err(Error::tensor(name, format!("its rows cannot be moved: it is stored as {}", variant.storage)))
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
        Error::of_state(problems)
    }

    /// Whether both have the same groups with the same options.
    pub(crate) fn same_groups(&self, other: &Self) -> bool {
        let of = |plan: &Self| -> Vec<_> {
            plan.groups.iter().map(|g| (g.pattern.clone(), g.rule.name(), g.rule.options())).collect()
        };
        of(self) == of(other)
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
        (0..self.tensors.len()).filter(|t| self.is_live(*t)).map(|t| self.tensor_bytes_moved(t)).sum()
    }

    fn tensor_bytes_moved(&self, tensor: usize) -> u64 {
        let variant = self.variant_of(tensor);
        let elements = self.tensors[tensor].elements;
        let storage = &variant.storage;
        let [params, gradient] = [storage.params, storage.gradients].map(|format| elements * format.bytes());
        let scan = if self.gradient.needs_scan() { gradient } else { 0 };
        let master = if storage.master { elements * Format::F32.bytes() } else { 0 };
        let averaged = self.ema.is_some();
        let slots: u64 = variant
            .kept()
            .zip(variant.formats())
            .filter(|(slot, _)| slot.name != EMA)
            .map(|(_, format)| format.bytes_of(elements))
            .sum();
        let measure = if variant.measures() { params + gradient + slots } else { 0 };
        // Gradients once by row and once by column; gradients and parameters by unit.
        let units = if self.gradient.clip_adaptive.is_some() { gradient + params + master } else { 0 };
        let lines = units + if variant.factored { 2 * gradient } else { 0 };
        // Read twice, written once.
        let limit = if self.weights.tensor_limit().is_some() { 3 * (params + master) } else { 0 };
        // The average is read and written once, the weights read.
        let each = averaged && self.ema.as_ref().is_some_and(|ema| ema.interval == 1);
        let ema = if each { params + master + 2 * elements * Format::F32.bytes() } else { 0 };
        gradient + 2 * params + 2 * slots + scan + measure + lines + limit + ema
    }

    /// Bytes that all live elements take: parameters, gradients and state.
    pub fn bytes_resident(&self) -> u64 {
        let of = |t: usize| {
            let (variant, elements) = (self.variant_of(t), self.tensors[t].elements);
            let numbers = elements * (variant.storage.params.bytes() + variant.storage.gradients.bytes());
            numbers + variant.formats().map(|format| format.bytes_of(elements)).sum::<u64>()
        };
        (0..self.tensors.len()).filter(|t| self.is_live(*t)).map(of).sum()
    }
}

/// What a group comes to.
pub(crate) struct Resolved {
    pub rule: Box<dyn Rule>,
    pub common: CommonOptions,
    pub storage: Storage,
}

fn planned_group(
    pattern: Option<String>,
    Resolved { rule, common, storage }: Resolved,
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
    let mut code = |factored| {
        let code = Code { rule: rule.as_ref(), common: &common, storage, factored };
        variant_of(code, config, variants)
    };
    let variants = [code(false), code(factors(rule.as_ref()))];
    Ok(PlannedGroup { pattern, rule, common, storage, variants, frozen })
}

/// Whether a rule's mean square of matrices is kept by rows and columns.
fn factors(rule: &dyn Rule) -> bool {
    rule.slots().iter().any(|slot| slot.mean_square && slot.active)
}

/// What makes a piece of code.
#[derive(Debug, Clone, Copy)]
pub struct Code<'a> {
    /// The rule with its compile-time options.
    pub rule: &'a dyn Rule,
    /// Options that every rule has.
    pub common: &'a CommonOptions,
    /// How its tensors are stored.
    pub storage: Storage,
    /// Whether the mean square is kept by rows and columns.
    pub factored: bool,
}

/// The place of a piece of code among the variants.
fn variant_of(code: Code<'_>, config: &OptimizerConfig, variants: &mut Vec<Variant>) -> usize {
    variants.iter().position(|v| v.serves(code)).unwrap_or_else(|| {
        variants.push(Variant::of(code, config));
        variants.len() - 1
    })
}

/// Lines are numbered in 32 bits on the GPU, and the units of a tensor follow from its dimensions.
fn check_lines(spec: &TensorSpec, elements: u64, variant: &Variant, gradient: &GradientConfig) -> Result<()> {
    let by_units = gradient.clip_adaptive.is_some();
    if by_units && elements > 0 && Lines::units(&spec.shape).is_none() {
        let problem = format!("gradient.clip_adaptive takes at most 5 dimensions, its shape is {:?}", spec.shape);
        return Err(Error::tensor(&spec.name, problem));
    }
    if (by_units || variant.factored) && elements > u64::from(u32::MAX) {
        let problem = "adafactor and gradient.clip_adaptive take fewer than 2^32 elements".to_owned();
        return Err(Error::tensor(&spec.name, problem));
    }
    Ok(())
}

//! The plan of one step: what a configuration means for a list of tensors. Knows neither backend.
//!
//! A step scans the gradients if something needs it ([`Pass::Scan`]), decides on the device whether
//! and how to go on ([`Pass::Prepare`]), and updates parameters and state ([`Pass::Update`]).

mod bytes;
mod change;
mod groups;
#[doc(hidden)]
pub mod layout;
mod names;
mod noise;
mod passes;
pub mod rates;
mod scalars;
mod slots;
mod variant;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::{
    CommonOptions, EmaConfig, GradientConfig, Group, NoiseConfig, OptimizerConfig, Resolved, Schedule, THE_REST,
    WeightsConfig,
};
use crate::error::{Error, Result};
use crate::lines::{Lines, Matrices};
use crate::rule::hyper::MAX_SCALARS;
use crate::rule::twin::MAX_SLOTS;
use crate::rule::{Rule, Slot};
use crate::storage::{Format, Q8_BLOCK, SlotStorage, StateFormat, Storage};
use crate::tensor::{MAX_ELEMENTS, TensorSpec};

use groups::groups_of;
pub use passes::{Memory, Pass, PassSpec, Per, Sum};
pub(crate) use scalars::SharedScalars;
pub use slots::{ACCUMULATOR, EMA, FACTORS, MASTER, PlannedSlot, slot_shape};
#[cfg(feature = "checkpoint")]
pub(crate) use slots::{METADATA, scales_of};
pub use variant::{Code, Stepping, Variant};

/// What a configuration means for a list of tensors.
#[derive(Debug, Clone)]
#[non_exhaustive]
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
    /// Noise after each step.
    pub noise: Option<NoiseConfig>,
    /// The learning rate over the steps.
    pub schedule: Schedule,
    /// Seed of what is rounded stochastically.
    pub seed: u64,
    /// The configuration, as [`OptimizerConfig::to_toml`] writes it.
    pub config: Arc<str>,
    /// Which groups share their scalars.
    pub(crate) scalars: SharedScalars,
    /// What tensors that are updated need. Asked for at every step, so found once.
    needs: Needs,
    /// The tensors' places by their names.
    names: Arc<HashMap<String, usize>>,
}

/// What any tensor that is updated needs.
#[derive(Debug, Clone, Copy)]
struct Needs {
    measures: bool,
    averages: bool,
    factors: bool,
    /// There are such tensors, and norms count none of them.
    spared: bool,
}

/// A tensor and where it belongs.
#[derive(Debug, Clone)]
#[non_exhaustive]
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
#[non_exhaustive]
pub struct PlannedGroup {
    /// The glob that chose them; `None` for the rest.
    pub pattern: Option<String>,
    /// What setters and messages call it in place of the glob.
    pub name: Option<String>,
    /// The rule with the group's options.
    pub rule: Box<dyn Rule>,
    /// Options that every rule has.
    pub common: CommonOptions,
    /// How its tensors are stored.
    pub storage: Storage,
    /// What its rate is multiplied with, last of all.
    pub lr_scale: f64,
    /// A schedule of its own for its rate.
    pub schedule: Option<Schedule>,
    /// Those of its other numbers.
    pub schedules: BTreeMap<String, Schedule>,
    /// Whether limits and normalising of norms act on its gradients, and count them.
    pub clip: bool,
    /// Its code, for vectors and for matrices.
    variants: [usize; 2],
    /// Its tensors are left alone.
    pub frozen: bool,
}

impl Plan {
    /// Checks the configuration against the tensors and resolves groups and variants.
    ///
    /// # Errors
    /// An option that cannot be used, a group that has no tensor, a name given twice or under which a file would hold two
    /// things, shapes of more elements than [`MAX_ELEMENTS`] in all.
    pub fn new(config: &OptimizerConfig, specs: &[TensorSpec]) -> Result<Self> {
        Self::with(config, specs, false)
    }

    /// [`Plan::new`] for a configuration that a run already has: groups may have lost their tensors.
    pub(crate) fn going_on(config: &OptimizerConfig, specs: &[TensorSpec]) -> Result<Self> {
        Self::with(config, specs, true)
    }

    fn with(config: &OptimizerConfig, specs: &[TensorSpec], may_be_empty: bool) -> Result<Self> {
        config.check()?;
        let mut variants = Vec::new();
        let own = Resolved {
            rule: config.rule.clone(),
            common: config.common.clone(),
            storage: config.storage.resolve(),
            schedules: config.schedules.clone(),
        };
        let mut groups = vec![planned_group(None, own, config, &mut variants)?];
        for group in &config.groups {
            let own = group.resolve(config)?;
            groups.push(planned_group(Some(group), own, config, &mut variants)?);
        }

        let mut names = HashMap::with_capacity(specs.len());
        let mut left = MAX_ELEMENTS;
        let mut tensors = Vec::with_capacity(specs.len());
        for (place, (spec, group)) in specs.iter().zip(groups_of(config, specs, may_be_empty)?).enumerate() {
            if names.insert(spec.name.clone(), place).is_some() {
                return Err(Error::tensor(&spec.name, "the name is given twice"));
            }
            let elements = spec.elements().ok_or_else(|| spec.too_large())?;
            left = left.checked_sub(elements).ok_or_else(|| spec.too_large())?;
            let planned: &PlannedGroup = &groups[group];
            let matrix = spec.shape.len() > 1;
            let storage = planned.storage.for_elements(elements);
            let mut variant = planned.variants[usize::from(matrix)];
            if storage != planned.storage {
                let (rule, common) = (planned.rule.as_ref(), &planned.common);
                let code = Code { rule, common, storage, factored: matrix && factors(rule) };
                variant = variant_of(code, config, &mut variants);
            }
            check_lines(spec, elements, &variants[variant], config.gradient.clip_adaptive.is_some() && planned.clip)?;
            tensors.push(PlannedTensor { spec: spec.clone(), elements, group, variant });
        }
        let live = |t: &&PlannedTensor| t.elements > 0 && !groups[t.group].frozen;
        let any = |of: &dyn Fn(&Variant) -> bool| tensors.iter().filter(live).any(|t| of(&variants[t.variant]));
        let mut clipped = tensors.iter().filter(live).map(|t| groups[t.group].clip).peekable();
        let needs = Needs {
            spared: clipped.peek().is_some() && clipped.all(|clip| !clip),
            measures: any(&Variant::measures),
            averages: any(&Variant::averages),
            factors: any(&|v| v.factored),
        };
        let plan = Self {
            scalars: SharedScalars::of(&groups),
            needs,
            names: Arc::new(names),
            tensors,
            groups,
            variants,
            gradient: config.gradient.clone(),
            weights: config.weights.clone(),
            ema: config.ema.clone(),
            noise: config.noise.clone(),
            schedule: config.schedule.clone(),
            seed: config.storage.seed,
            config: config.to_toml().into(),
        };
        plan.check_names()?;
        Ok(plan)
    }

    /// Whether any tensor's update must be measured first.
    pub fn measures(&self) -> bool {
        self.needs.measures
    }

    /// Whether any tensor's iterates are averaged.
    pub fn averages(&self) -> bool {
        self.needs.averages
    }

    /// What a tensor's kept slots start from, in the order of the state's memory.
    pub(crate) fn initial_of(&self, tensor: usize) -> Vec<f64> {
        self.starts_of(tensor, |slot| slot.initial)
    }

    /// The same of rows that join it later.
    pub(crate) fn row_initial_of(&self, tensor: usize) -> Vec<f64> {
        self.starts_of(tensor, |slot| slot.in_new_rows)
    }

    fn starts_of(&self, tensor: usize, start: impl Fn(&Slot) -> f64) -> Vec<f64> {
        // A variant may serve groups whose slots start from different values.
        let own = self.group_of(tensor).rule.slots();
        let variant = self.variant_of(tensor);
        variant.engine.iter().chain(variant.active.iter().map(|i| &own[*i])).map(start).collect()
    }

    /// Whether a tensor's kept slot takes both signs.
    pub(crate) fn is_signed(&self, tensor: usize, slot: usize) -> bool {
        self.variant_of(tensor).kept().nth(slot).is_none_or(|slot| slot.signed)
    }

    /// How a tensor's slots are stored that are not in f32, their scales zero.
    pub(crate) fn slot_storage(&self, tensor: usize) -> Vec<SlotStorage> {
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
    pub(crate) fn factored(&self, tensor: usize) -> Option<Matrices> {
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
    pub(crate) fn units(&self, tensor: usize) -> Option<Lines> {
        let clips = self.gradient.clip_adaptive.is_some() && self.is_clipped(tensor);
        Lines::units(&self.tensors[tensor].spec.shape).filter(|_| clips)
    }

    /// Whether limits and normalising of norms act on a tensor's gradient, and count it.
    pub(crate) fn is_clipped(&self, tensor: usize) -> bool {
        self.group_of(tensor).clip
    }

    /// Whether anything goes by lines of tensors.
    pub(crate) fn by_line(&self) -> bool {
        self.gradient.clip_adaptive.is_some() || self.factors()
    }

    /// Whether any tensor's mean square is kept by rows and columns.
    pub(crate) fn factors(&self) -> bool {
        self.needs.factors
    }

    /// Whether the tensor is ever updated: not frozen, not empty.
    pub(crate) fn is_live(&self, tensor: usize) -> bool {
        !self.group_of(tensor).frozen && self.tensors[tensor].elements > 0
    }

    /// The tensors that have state: all but the frozen ones.
    pub(crate) fn kept_tensors(&self) -> impl Iterator<Item = usize> {
        (0..self.tensors.len()).filter(|t| !self.group_of(*t).frozen)
    }

    /// The tensor of that name.
    pub fn tensor_named(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// The group of that name or glob; `"optimizer"` is the group of the tensors that no other claims.
    ///
    /// # Errors
    /// [`Error::Group`], listing the groups there are.
    pub fn group_named(&self, label: &str) -> Result<usize> {
        let place = |is: &dyn Fn(&PlannedGroup) -> bool| self.groups.iter().position(is);
        let found =
            place(&|g| g.name.as_deref() == Some(label)).or_else(|| place(&|g| g.pattern.as_deref() == Some(label)));
        found.or_else(|| (label == THE_REST).then_some(0)).ok_or_else(|| {
            let known: Vec<_> = self.groups.iter().filter_map(PlannedGroup::label).collect();
            Error::Group { pattern: label.to_owned(), problem: format!("no such group; there are {known:?}") }
        })
    }
}

impl Plan {
    /// What messages call a group's table.
    pub(crate) fn table_of(&self, group: usize) -> String {
        self.groups[group].label().map_or(THE_REST.to_owned(), |label| format!("groups.{label:?}"))
    }
}

impl PlannedGroup {
    /// What it is called: its name, else its glob; `None` for the rest.
    pub fn label(&self) -> Option<&str> {
        self.name.as_deref().or(self.pattern.as_deref())
    }
}

fn planned_group(
    group: Option<&Group>,
    Resolved { rule, common, storage, schedules }: Resolved,
    config: &OptimizerConfig,
    variants: &mut Vec<Variant>,
) -> Result<PlannedGroup> {
    // A rule from outside may ask for more than a table row or the binding holds.
    if rule.scalar_names().len() > MAX_SCALARS || rule.slots().len() > MAX_SLOTS {
        return Err(Error::Shader {
            rule: rule.name().to_owned(),
            reason: format!("a rule has at most {MAX_SCALARS} scalars and {MAX_SLOTS} slots"),
        });
    }
    check_slots(rule.as_ref())?;
    if let Some(name) = rule.scalar_names().iter().find(|name| !is_identifier(name)) {
        let reason = format!("scalar {name:?} {IDENTIFIER}");
        return Err(Error::Shader { rule: rule.name().to_owned(), reason });
    }
    let mut code = |factored| {
        let code = Code { rule: rule.as_ref(), common: &common, storage, factored };
        variant_of(code, config, variants)
    };
    let variants = [code(false), code(factors(rule.as_ref()))];
    Ok(PlannedGroup {
        pattern: group.map(|group| group.pattern.clone()),
        name: group.and_then(|group| group.name.clone()),
        rule,
        common,
        storage,
        lr_scale: group.map_or(1.0, |group| group.lr_scale),
        schedule: group.and_then(|group| group.schedule.clone()),
        schedules,
        clip: group.is_none_or(|group| group.clip),
        variants,
        frozen: group.is_some_and(|group| group.frozen),
    })
}

/// State is known by tensor and slot, so names must differ among each other and from the engine's own.
fn check_slots(rule: &dyn Rule) -> Result<()> {
    let mut known: Vec<_> =
        [ACCUMULATOR, EMA, MASTER].into_iter().chain(FACTORS).map(|name| (name, "the engine's")).collect();
    for slot in rule.slots() {
        if !is_identifier(slot.name) {
            let (rule, slot) = (rule.name().to_owned(), slot.name.to_owned());
            return Err(Error::Slot { rule, slot, problem: format!("the name {IDENTIFIER}") });
        }
        if let Some((_, whose)) = known.iter().find(|(name, _)| *name == slot.name) {
            let problem = format!("it is {whose} already; every slot needs a name of its own");
            return Err(Error::Slot { rule: rule.name().to_owned(), slot: slot.name.to_owned(), problem });
        }
        known.push((slot.name, "the rule's"));
    }
    Ok(())
}

const IDENTIFIER: &str = "must be an identifier of WGSL: letters, digits and _, no digit first, more than one _ and not two of them in front";

/// Whether a name can stand in a kernel's text and be nothing but a name there.
fn is_identifier(name: &str) -> bool {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !name.starts_with("__");
    starts && name != "_" && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether a rule's mean square of matrices is kept by rows and columns.
fn factors(rule: &dyn Rule) -> bool {
    rule.slots().iter().any(|slot| slot.mean_square && slot.active)
}

/// The place of a piece of code among the variants.
fn variant_of(code: Code<'_>, config: &OptimizerConfig, variants: &mut Vec<Variant>) -> usize {
    variants.iter().position(|v| v.serves(code)).unwrap_or_else(|| {
        variants.push(Variant::of(code, config));
        variants.len() - 1
    })
}

/// Lines are numbered in 32 bits on the GPU, and the units of a tensor follow from its dimensions.
fn check_lines(spec: &TensorSpec, elements: u64, variant: &Variant, by_units: bool) -> Result<()> {
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

//! The CPU backend: the same plan, run with the rules' twins. In f64 it is the oracle of the tests,
//! in f32 the fast path for machines without a GPU.

use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD};

mod changing_rates;
mod evaluation;
mod health;
mod lines;
mod parallel;
mod passes;
mod restructure;
mod state;
mod stored;
mod sums;
mod tasks;
pub(crate) mod update;
mod wide;

use health::{Look, Monitor};
use passes::Scan;
use stored::Stored;

use crate::config::{OnNonfinite, OptimizerConfig};
use crate::error::{Error, Result};
use crate::plan::rates::Rates;
use crate::plan::{EMA, MASTER, Pass, Plan};
use crate::rule::kernel::CpuFloat;
use crate::state::fed::Fed;
use crate::state::report::Report;
use crate::storage::Format;
use crate::tensor::TensorSpec;

/// An optimizer for tensors in the host's memory.
///
/// ```
/// use ndarray::array;
/// use wgpu_optim::{OptimizerConfig, TensorSpec, cpu::{CpuOptimizer, CpuTensor}, rules::Sgd};
///
/// let config = OptimizerConfig::new(Sgd { lr: 0.1, ..Sgd::default() });
/// let mut optimizer = CpuOptimizer::<f32>::new(&config, &[TensorSpec::new("w", [2])])?;
/// let mut w = array![1.0_f32, 2.0].into_dyn();
/// let g = array![10.0_f32, 0.0].into_dyn();
/// optimizer.step(&mut [CpuTensor::new(w.view_mut(), g.view())])?;
/// assert_eq!(w, array![0.0, 2.0].into_dyn());
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CpuOptimizer<F: CpuFloat> {
    config: OptimizerConfig,
    plan: Plan,
    rates: Rates,
    steps_taken: u64,
    steps_skipped: u64,
    micro_batches: u64,
    /// Non-finite elements that the micro-batches of this step have lost.
    left_out: u64,
    loss_scale: f64,
    good_steps: u32,
    states: Vec<SlotValues<F>>,
    monitor: Option<Monitor>,
    /// Whether the moving average lies in the parameters' place.
    swapped: bool,
    fed: Fed,
}

#[derive(Debug, Clone)]
struct SlotValues<F> {
    steps: u64,
    weight_sum: f64,
    slots: Vec<Stored<F>>,
    /// Means by row and by column, of tensors whose mean square is kept so.
    factors: Vec<Vec<F>>,
}

/// A tensor's parameters, and its gradient if it has one this step.
#[derive(Debug)]
pub struct CpuTensor<'a, F> {
    /// Updated in place.
    pub params: ArrayViewMutD<'a, F>,
    /// `None` leaves the tensor alone this step.
    pub gradient: Option<ArrayViewD<'a, F>>,
}

impl<'a, F> CpuTensor<'a, F> {
    /// A tensor with a gradient.
    pub fn new(params: ArrayViewMutD<'a, F>, gradient: ArrayViewD<'a, F>) -> Self {
        Self { params, gradient: Some(gradient) }
    }
}

/// A tensor's memory in row-major order: the caller's own where it is so, else a copy.
struct Dense<'a, F> {
    params: &'a mut [F],
    gradient: &'a [F],
    /// The sum of micro-batches, which then is the gradient.
    accumulated: Option<&'a mut Vec<F>>,
    /// The moving average of the weights.
    ema: Option<&'a mut Vec<F>>,
    /// The f32 copy of parameters of 16 bits.
    master: Option<&'a mut Vec<F>>,
    slots: &'a mut [Stored<F>],
    factors: &'a mut [Vec<F>],
    steps: &'a mut u64,
    weight_sum: &'a mut f64,
    tensor: usize,
}

impl<F> Dense<'_, F> {
    /// The parameters with all their digits.
    fn weights(&self) -> &[F] {
        self.master.as_ref().map_or(self.params, |master| master.as_slice())
    }

    /// What the step's gradient is.
    fn whole_gradient(&self) -> &[F] {
        self.accumulated.as_ref().map_or(self.gradient, |sum| sum.as_slice())
    }
}

impl<F: CpuFloat> CpuOptimizer<F> {
    /// An optimizer for tensors of those names and shapes.
    ///
    /// # Errors
    /// What [`Plan::new`] refuses.
    pub fn new(config: &OptimizerConfig, specs: &[TensorSpec]) -> Result<Self> {
        Ok(Self::of_plan(config, Plan::new(config, specs)?))
    }

    /// The same with a plan made already.
    fn of_plan(config: &OptimizerConfig, plan: Plan) -> Self {
        let rates = Rates::new(&plan);
        let states = (0..plan.tensors.len())
            .map(|t| {
                let elements = if plan.is_live(t) { plan.tensors[t].elements as usize } else { 0 };
                let kept = plan.variant_of(t).kept().zip(plan.variant_of(t).formats()).zip(plan.initial_of(t));
                let slots = kept.map(|((slot, format), x)| Stored::new(format, slot.signed, x, elements)).collect();
                let factors = plan.factored(t).filter(|_| plan.is_live(t)).map(|m| [m.row_lines(), m.column_lines()]);
                let factors = factors.into_iter().flatten().map(|l| vec![F::zero(); l.count as usize]).collect();
                SlotValues { steps: 0, weight_sum: 0.0, slots, factors }
            })
            .collect();
        let loss_scale = plan.gradient.initial_scale();
        Self {
            fed: Fed::new(&plan, |_| false),
            config: config.clone(),
            plan,
            rates,
            steps_taken: 0,
            steps_skipped: 0,
            micro_batches: 0,
            left_out: 0,
            loss_scale,
            good_steps: 0,
            states,
            monitor: None,
            swapped: false,
        }
    }

    /// What the configuration came to.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The loss scale for the gradients to come; 1 without one.
    pub fn loss_scale(&self) -> f64 {
        self.loss_scale
    }

    /// Takes a step, or with `accumulate` a micro-batch of one. The tensors come in the order of [`CpuOptimizer::new`], with their shapes.
    ///
    /// # Errors
    /// The number of tensors or a shape differs; the moving average is swapped in. Nothing is changed then.
    pub fn step(&mut self, tensors: &mut [CpuTensor<'_, F>]) -> Result<Report> {
        self.check_unswapped("step")?;
        self.check(tensors)?;
        let given = tensors.iter().enumerate().filter(|(_, tensor)| tensor.gradient.is_some());
        given.for_each(|(t, _)| self.fed.feed(t));
        let mut copies = copies(tensors, &self.plan);
        let mut dense = dense(tensors, &mut copies, &mut self.states, &self.plan);
        let completes = self.micro_batches + 1 >= self.plan.gradient.accumulate;
        let looks = self.monitor.as_mut().is_some_and(|monitor| monitor.is_due(completes));
        if self.micro_batches == 0 {
            self.left_out = 0;
        }
        self.micro_batches = if completes { 0 } else { self.micro_batches + 1 };
        if self.plan.gradient.accumulates() {
            let unscale = self.plan.gradient.unscale(self.loss_scale);
            self.left_out += passes::accumulate(&mut dense, &self.plan, unscale);
        }
        let left_out = if self.plan.gradient.counts_each() { self.left_out } else { 0 };
        let unscale = self.plan.gradient.factor(self.loss_scale);
        let mut report = Report {
            steps_taken: self.steps_taken,
            steps_skipped: self.steps_skipped,
            skipped: false,
            nonfinite: left_out,
            lr: self.rates.lr(self.steps_taken),
            global_norm: None,
            clip_coefficient: 1.0,
            loss_scale: self.loss_scale,
            accumulated: self.micro_batches,
            without_gradient: self.fed.missing(),
        };
        if completes {
            let plan = &self.plan;
            let (mut scan, mut look, mut step) = (Scan::default(), None, Vec::new());
            for pass in plan.passes(looks) {
                match pass {
                    Pass::Watch => look = Some(Look::at_gradients(&dense, plan, unscale)),
                    Pass::Scan => scan = passes::scan(&dense, plan, unscale),
                    Pass::Prepare => {
                        if !plan.gradient.counts_each() {
                            report.nonfinite = scan.nonfinite;
                        }
                        report.skipped = plan.gradient.on_nonfinite == OnNonfinite::Skip && scan.nonfinite > 0;
                        let norm = scan.norm();
                        report.global_norm = plan.gradient.needs_norm().then_some(norm);
                        report.clip_coefficient = plan.gradient.coefficient(norm);
                        if report.skipped {
                            break;
                        }
                        let scales =
                            passes::Scales { taken: self.steps_taken, coefficient: report.clip_coefficient, unscale };
                        step = passes::prepare(&mut dense, plan, &self.rates, scales, &scan);
                    }
                    Pass::ClipUnits => lines::clip_units(&dense, plan, &mut step),
                    Pass::AverageLines => lines::average_lines(&mut dense, plan, &mut step),
                    Pass::Measure => passes::measure(&mut dense, plan, &mut step),
                    Pass::Update | Pass::WatchedUpdate => {
                        let changes = passes::update(&mut dense, plan, std::mem::take(&mut step), look.is_some());
                        if let Some(look) = &mut look {
                            look.at_change(&changes);
                        }
                    }
                    Pass::Limit => passes::limit(&mut dense, plan),
                    Pass::Average => passes::average(&mut dense, plan),
                    // Threads add up as they go; these make of sums what the passes above have made.
                    Pass::SumGroups(_) | Pass::SumTensors(_) | Pass::SumUnits | Pass::SumLines | Pass::SumRows => {}
                    Pass::MeanRows | Pass::Weigh => {}
                    // Between steps.
                    Pass::Swap { .. } | Pass::Evaluate => {}
                }
            }
            if let (Some(monitor), Some(look)) = (&mut self.monitor, look) {
                let taken = self.steps_taken + u64::from(!report.skipped);
                monitor.conclude(look, &dense, &self.plan, taken);
            }
            if self.plan.gradient.accumulates() {
                passes::clear_accumulated(&mut dense);
            }
        }
        restore(tensors, copies);
        if completes {
            self.steps_taken += u64::from(!report.skipped);
            self.steps_skipped += u64::from(report.skipped);
            if let Some(scale) = &self.plan.gradient.loss_scale {
                let bad = report.nonfinite > 0;
                (self.loss_scale, self.good_steps) = scale.next(self.loss_scale, self.good_steps, bad);
            }
        }
        report.steps_taken = self.steps_taken;
        report.steps_skipped = self.steps_skipped;
        report.loss_scale = self.loss_scale;
        Ok(report)
    }

    fn check_shapes<'s>(&self, call: &str, shapes: impl ExactSizeIterator<Item = &'s [usize]>) -> Result<()> {
        if shapes.len() != self.plan.tensors.len() {
            let (given, expected) = (shapes.len(), self.plan.tensors.len());
            return Err(Error::call(call, format!("{given} tensors given, expected {expected}")));
        }
        for (shape, planned) in shapes.zip(&self.plan.tensors) {
            let spec = &planned.spec;
            if !fits(shape, &spec.shape) {
                let problem = format!("parameters of shape {shape:?}, expected {:?}", spec.shape);
                return Err(Error::tensor(&spec.name, problem));
            }
        }
        Ok(())
    }

    fn check(&self, tensors: &[CpuTensor<'_, F>]) -> Result<()> {
        self.check_shapes("step", tensors.iter().map(|t| t.params.shape()))?;
        for (tensor, planned) in tensors.iter().zip(&self.plan.tensors) {
            let spec = &planned.spec;
            if let Some(gradient) = tensor.gradient.as_ref().filter(|g| !fits(g.shape(), &spec.shape)) {
                let shape = gradient.shape();
                return Err(Error::tensor(
                    &spec.name,
                    format!("a gradient of shape {shape:?}, expected {:?}", spec.shape),
                ));
            }
        }
        Ok(())
    }

    /// The names of tensors that have had no gradient yet, in any step so far or in the run whose state was loaded. They
    /// are left alone while steps count and the schedule goes on. Frozen and empty tensors are not among them.
    pub fn tensors_without_gradient(&self) -> impl Iterator<Item = &str> {
        self.fed.tensors().map(|t| self.plan.tensors[t].spec.name.as_str())
    }
}

fn fits(shape: &[usize], expected: &[u64]) -> bool {
    shape.iter().map(|n| *n as u64).eq(expected.iter().copied())
}

/// Row-major copies of what is not so in the caller's memory, and of gradients that are to be rounded.
type Copies<F> = Vec<(Option<ArrayD<F>>, Option<ArrayD<F>>)>;

fn copies<F: CpuFloat>(tensors: &[CpuTensor<'_, F>], plan: &Plan) -> Copies<F> {
    let standard =
        |view: ArrayViewD<'_, F>| (!view.is_standard_layout()).then(|| view.as_standard_layout().into_owned());
    tensors
        .iter()
        .enumerate()
        .map(|(t, tensor)| match &tensor.gradient {
            Some(gradient) if plan.is_live(t) => {
                let format = plan.formats_of(t)[1];
                let gradient = match format {
                    Format::F32 => standard(gradient.view()),
                    _ => Some(gradient.as_standard_layout().mapv(|g| tasks::round(format, g))),
                };
                (standard(tensor.params.view()), gradient)
            }
            _ => (None, None),
        })
        .collect()
}

fn dense<'a, F: CpuFloat>(
    tensors: &'a mut [CpuTensor<'_, F>],
    copies: &'a mut Copies<F>,
    states: &'a mut [SlotValues<F>],
    plan: &Plan,
) -> Vec<Dense<'a, F>> {
    let mut dense = Vec::with_capacity(tensors.len());
    for (tensor, ((view, copy), states)) in tensors.iter_mut().zip(copies).zip(states).enumerate() {
        if !plan.is_live(tensor) {
            continue;
        }
        let (params_copy, gradient_copy) = copy;
        let params = match params_copy {
            Some(copy) => copy.as_slice_mut(),
            None => view.params.as_slice_mut(),
        };
        let gradient = match gradient_copy {
            Some(copy) => copy.as_slice(),
            None => view.gradient.as_ref().and_then(|g| g.as_slice()),
        };
        // Both are row-major by now: only a missing gradient is left out.
        if let (Some(params), Some(gradient)) = (params, gradient) {
            let SlotValues { steps, weight_sum, slots, factors } = states;
            let (engine, slots) = slots.split_at_mut(plan.variant_of(tensor).engine.len());
            let (mut accumulated, mut ema, mut master) = (None, None, None);
            for (slot, values) in plan.variant_of(tensor).engine.iter().zip(engine) {
                let place = match slot.name {
                    EMA => &mut ema,
                    MASTER => &mut master,
                    _ => &mut accumulated,
                };
                *place = values.wide_mut();
            }
            dense.push(Dense { params, gradient, accumulated, ema, master, slots, factors, steps, weight_sum, tensor });
        }
    }
    dense
}

fn restore<F: CpuFloat>(tensors: &mut [CpuTensor<'_, F>], copies: Copies<F>) {
    for (tensor, (params, _)) in tensors.iter_mut().zip(copies) {
        if let Some(params) = params {
            tensor.params.assign(&params);
        }
    }
}

use std::sync::Arc;

use super::absent::Absent;
use super::bindings::{BoundDispatch, DispatchCache, WindowBuffers, accesses};
use super::health::Monitor;
use super::keep::Evaluation;
use super::kernels::Kernels;
use super::overlap::{ParamMap, check_gradients};
use super::phases::Phases;
use super::record::Recorder;
use super::step_table::StepTable;
use super::tables::{Tables, TrackRows};
use super::windows;
use super::windows::placements;
use crate::config::{HealthConfig, OptimizerConfig};
use crate::error::{Error, Result};
use crate::gpu::device::context::Gpu;
use crate::gpu::device::slice::{Slice, Tensor};
use crate::gpu::device::upload::Writes;
use crate::gpu::readback::reports::{Reports, Snapshot};
use crate::plan::Plan;
use crate::plan::layout::Layout;
use crate::plan::rates::Rates;
use crate::shader::Access;
use crate::state::fed::Fed;
use crate::state::health::Health;
use crate::tensor::TensorSpec;

/// An optimizer for tensors in GPU memory.
///
/// [`Optimizer::step`] records into the caller's encoder; everything a step decides, it decides on the
/// GPU. Handles are the caller's: dropping the optimizer leaves parameters and gradients alone.
#[derive(Debug)]
pub struct Optimizer {
    pub(in crate::gpu) gpu: Gpu,
    pub(in crate::gpu) config: OptimizerConfig,
    pub(in crate::gpu) plan: Arc<Plan>,
    pub(in crate::gpu) rates: Rates,
    pub(in crate::gpu) layout: Arc<Layout>,
    pub(in crate::gpu) tensors: Vec<Tensor>,
    pub(in crate::gpu) windows: Vec<WindowBuffers>,
    pub(in crate::gpu) tables: Tables,
    pub(in crate::gpu) step_table: StepTable,
    pub(in crate::gpu) kernels: Kernels,
    pub(in crate::gpu) cache: DispatchCache,
    param_map: ParamMap,
    /// The dispatches of a step and the tensors without a gradient, until a gradient is bound
    /// elsewhere.
    pub(in crate::gpu) bound: Option<Bound>,
    pub(in crate::gpu) fed: Fed,
    pub(in crate::gpu) zero_gradients: bool,
    pub(in crate::gpu) monitor: Option<Monitor>,
    pub(in crate::gpu) evaluation: Evaluation,
    pub(in crate::gpu) phases: Phases,
    pub(in crate::gpu) reports: Reports,
    pub(in crate::gpu) latest: Option<Snapshot>,
}

#[derive(Debug, Clone)]
pub(in crate::gpu) struct Bound {
    pub dispatches: Arc<[BoundDispatch]>,
    absent: Absent,
}

/// The tensors as a plan knows them.
pub(in crate::gpu) fn specs(tensors: &[Tensor]) -> Vec<TensorSpec> {
    tensors.iter().map(|t| t.spec.clone()).collect()
}

impl Optimizer {
    /// An optimizer for those tensors: checks everything, allocates state, builds pipelines.
    ///
    /// # Errors
    /// What [`Plan::new`] refuses; a slice whose length, alignment or buffer usage is wrong, or that
    /// overlaps another; a device out of memory; a rule whose shader does not compile.
    pub fn new(gpu: &Gpu, config: &OptimizerConfig, tensors: impl IntoIterator<Item = Tensor>) -> Result<Self> {
        let tensors: Vec<_> = tensors.into_iter().collect();
        let plan = Plan::new(config, &specs(&tensors))?;
        Self::of_plan(gpu, config, tensors, plan, None)
    }

    /// The same with a plan made already. One that is to take the place of another has the loss scale in that one's buffer,
    /// and windows without state, which it is to be given.
    pub(in crate::gpu) fn of_plan(
        gpu: &Gpu,
        config: &OptimizerConfig,
        tensors: Vec<Tensor>,
        plan: Plan,
        loss_scale: Option<wgpu::Buffer>,
    ) -> Result<Self> {
        let param_map = ParamMap::new(&plan, &tensors)?;
        let rates = Rates::new(&plan);
        let layout = Layout::new(&placements(&plan, &tensors), gpu.limits())?;
        let with_state = loss_scale.is_none();
        let state = |index| if with_state { windows::state(gpu, &plan, &layout, index) } else { Ok(None) };
        let windows = windows::windows(&layout, &tensors, state)?;
        let step_table = StepTable::new(gpu, &plan, &rates)?;
        let tables = Tables::new(gpu, &plan, &layout, &step_table, loss_scale)?;
        let cache = DispatchCache::new(gpu, &layout, plan.gradient.accumulates())?;
        let mut optimizer = Self {
            reports: Reports::new(gpu, &plan)?,
            kernels: Kernels::new(gpu, &plan, &layout, &tables)?,
            fed: Fed::new(&plan, |_| false),
            gpu: gpu.clone(),
            config: config.clone(),
            plan: Arc::new(plan),
            rates,
            layout: Arc::new(layout),
            tensors,
            windows,
            tables,
            step_table,
            cache,
            param_map,
            bound: None,
            zero_gradients: false,
            monitor: None,
            evaluation: Evaluation::default(),
            phases: Phases::default(),
            latest: None,
        };
        optimizer.build_kernels()?;
        Ok(optimizer)
    }

    /// Records one step, or with `accumulate` a micro-batch of one: reads gradients, updates parameters and state.
    /// Submits nothing and waits for nothing. Several steps may be recorded into one encoder.
    ///
    /// At most [`STEP_ROWS`](crate::gpu::STEP_ROWS) steps can be recorded and not yet known to be done, micro-batches among
    /// them. From the first step on in which a tensor has no gradient, it is fewer: 256 with up to 341 tensors, the fewer
    /// the more tensors there are, and 16 from 5,141 tensors on.
    ///
    /// # Errors
    /// [`Error::StepTableFull`] if that many recorded steps are not yet done, a lost device, or a
    /// gradient buffer that the device refuses to bind; an evaluation that has begun and not ended, or the moving
    /// average swapped in; gradients that overlap and are to be zeroed. Nothing is recorded then.
    pub fn step(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        self.check_training("step")?;
        self.collect()?;
        let bound = self.bind()?;
        self.step_table.reserve(&mut &self.gpu, &self.rates, self.reports.dropped())?;

        self.tables.mark_absent(encoder, &bound.absent);
        let completes = self.step_table.completes(self.reports.dropped(), self.plan.gradient.accumulate);
        let watched = self.monitor.as_mut().is_some_and(|monitor| monitor.is_due(completes));
        if watched {
            self.tables.clear_looks(encoder);
        }
        {
            let descriptor = wgpu::ComputePassDescriptor { label: Some("optimizer step"), timestamp_writes: None };
            let mut pass = encoder.begin_compute_pass(&descriptor);
            self.recorder(&bound.dispatches).record(&mut pass, watched);
        }
        self.tables.unmark_absent(encoder, &bound.absent);
        self.reports.request(encoder, &self.tables.control, self.step_table.needs_counts(), completes);
        if let Some(monitor) = self.monitor.as_mut().filter(|_| watched) {
            let live = (0..self.tensors.len()).filter(|t| self.plan.is_live(*t) && !bound.absent.has(*t));
            monitor.request(encoder, &self.tables, live.collect());
        }
        Ok(())
    }

    /// Looks at the health of gradients and updates from now on, or no longer. A look costs one more read
    /// of the gradients, at its interval only.
    ///
    /// # Errors
    /// An option of the configuration cannot be used, or the device refuses what this needs. It stays as it was then.
    pub fn set_health(&mut self, config: Option<HealthConfig>) -> Result<()> {
        let monitor = match config {
            Some(config) => {
                self.tables.watch(&self.gpu)?;
                Some(Monitor::new(&self.gpu, &self.plan, config)?)
            }
            None => None,
        };
        self.kernels.set_watched(monitor.is_some());
        self.bound = None;
        if let Err(error) = self.build_kernels() {
            self.kernels.set_watched(self.monitor.is_some());
            return Err(error);
        }
        self.monitor = monitor;
        Ok(())
    }

    /// The newest look at the tensors' health that has arrived. Never waits.
    ///
    /// # Errors
    /// The device is lost.
    pub fn health(&mut self) -> Result<Option<&Health>> {
        self.collect()?;
        Ok(self.monitor.as_mut().and_then(|monitor| monitor.latest(&self.plan, self.reports.generation())))
    }

    pub(in crate::gpu) fn recorder<'a>(&'a self, dispatches: &'a [BoundDispatch]) -> Recorder<'a> {
        Recorder {
            plan: &self.plan,
            limits: self.gpu.limits(),
            tables: &self.tables,
            kernels: &self.kernels,
            dispatches,
        }
    }

    /// Builds what those dispatches need.
    pub(in crate::gpu) fn build_for(&mut self, dispatches: &[BoundDispatch]) -> Result<()> {
        let mut each = dispatches.iter();
        each.try_for_each(|dispatch| {
            self.kernels.build(&self.gpu, &self.plan, &self.tables, dispatch.variant, dispatch.access)
        })
    }

    /// Binds a tensor's gradient elsewhere from the next recorded step on. `None` leaves the tensor
    /// out of the steps that follow: parameters, state and its own count of steps stay.
    ///
    /// The tensor is named by its place among those given to [`Optimizer::new`].
    ///
    /// # Errors
    /// There is no such tensor, or the slice's length, alignment or buffer usage is wrong, or it
    /// overlaps parameters.
    pub fn set_gradient(&mut self, tensor: usize, gradient: Option<Slice>) -> Result<()> {
        let count = self.tensors.len();
        let Some(known) = self.tensors.get(tensor) else {
            return Err(Error::tensor(&tensor.to_string(), format!("there are {count} tensors")));
        };
        if known.gradient == gradient {
            return Ok(());
        }
        if let Some(slice) = &gradient {
            self.param_map.check_gradient(&self.plan, &self.tensors, tensor, slice)?;
        }
        self.tensors[tensor].gradient = gradient;
        self.bound = None;
        Ok(())
    }

    /// The names of tensors that have had no gradient yet: none was bound in any step recorded so far, nor in the run
    /// whose state was loaded. They are left alone, as PyTorch leaves parameters whose `grad` is `None`, while steps count
    /// and the schedule goes on. That is right for what the model does not use; else a gradient is forgotten. Frozen and
    /// empty tensors are not among them.
    pub fn tensors_without_gradient(&self) -> impl Iterator<Item = &str> {
        self.fed.tensors().map(|t| self.plan.tensors[t].spec.name.as_str())
    }

    /// The loss scale as it is on the GPU, one f32, for the caller's loss kernel to bind as storage or
    /// as a uniform. The buffer is the same as long as the optimizer lives, whatever becomes of its tensors,
    /// configuration and state.
    pub fn loss_scale(&self) -> Slice {
        Slice::new(&self.tables.loss_scale, 0, 4)
    }

    /// The place of the tensor of that name.
    pub fn tensor_named(&self, name: &str) -> Option<usize> {
        self.plan.tensor_named(name)
    }

    /// Whether the update pass zeroes gradients after it has read them, skipped steps included. Saves
    /// a pass over memory where the backward pass adds to its gradients. Gradients of tensors must not share memory then.
    ///
    /// # Errors
    /// [`Error::Overlap`], here or at a step after gradients were bound elsewhere; or the device refuses the pipelines
    /// that this needs. It stays as it was then.
    pub fn set_zero_gradients(&mut self, zero: bool) -> Result<()> {
        self.gpu.check_alive()?;
        if zero {
            check_gradients(&self.tensors, &self.live_gradients())?;
        }
        let before = std::mem::replace(&mut self.zero_gradients, zero);
        self.bound = None;
        self.evaluation.forget_dispatches();
        let built = self.build_kernels();
        if built.is_err() {
            self.zero_gradients = before;
        }
        built
    }

    /// What the configuration came to.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Learning rates and weight decays.
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Where the tensors lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The tensors, with their gradients as bound now.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Plans tracks of their own for tensors that have none, with the counts that they have; without one, those of all.
    pub(in crate::gpu) fn add_tracks(
        &self,
        to: &mut dyn Writes,
        (table, rows): (&mut StepTable, &mut TrackRows),
        rates: &Rates,
        tensors: impl IntoIterator<Item = (usize, Option<u32>)>,
    ) -> Result<()> {
        let added = table.add_tracks(to, &self.plan, rates, tensors, self.reports.dropped())?;
        for (tensor, track) in &added {
            rows.set(*tensor, *track, table.tracks());
        }
        if added.is_empty() { Ok(()) } else { self.tables.write_tracks(to, rows) }
    }

    /// The gradients of tensors that are not frozen, as they are bound now.
    fn live_gradients(&self) -> Vec<Option<Slice>> {
        let gradient = |t: usize| self.tensors[t].gradient.clone().filter(|_| self.plan.is_live(t));
        (0..self.tensors.len()).map(gradient).collect()
    }

    /// The dispatches for the gradients as they are bound now.
    pub(in crate::gpu) fn bind(&mut self) -> Result<Bound> {
        if let Some(bound) = &self.bound {
            return Ok(bound.clone());
        }
        let gradients = self.live_gradients();
        if self.zero_gradients {
            check_gradients(&self.tensors, &gradients)?;
        }
        let live = || (0..gradients.len()).filter(|t| self.plan.is_live(*t));
        let absent: Vec<usize> = live().filter(|t| gradients[*t].is_none()).collect();
        if absent.iter().any(|tensor| !self.step_table.has_track(*tensor)) {
            // They take the place of the old ones when all is written.
            let (mut table, mut rows) = (self.step_table.clone(), self.tables.rows.clone());
            let tensors = absent.iter().map(|tensor| (*tensor, None));
            self.add_tracks(&mut &self.gpu, (&mut table, &mut rows), &self.rates, tensors)?;
            (self.step_table, self.tables.rows) = (table, rows);
        }
        let dispatches = {
            let lines = self.tables.lines.as_ref().map(|lines| &lines.tables);
            self.cache.bind(&self.gpu, &self.layout, &self.windows, &gradients, lines, self.zero_gradients)?
        };
        for dispatch in dispatches.iter() {
            self.kernels.build(&self.gpu, &self.plan, &self.tables, dispatch.variant, dispatch.access)?;
        }
        let bound = Bound { dispatches, absent: Absent::new(&self.gpu, absent, gradients.len())? };
        live().filter(|t| gradients[*t].is_some()).for_each(|t| self.fed.feed(t));
        self.bound = Some(bound.clone());
        Ok(bound)
    }

    /// Builds the pipelines that a step can be expected to need, so that later steps build none: by vectors
    /// always, by words wherever a tensor's slices are the caller's, for bundles where parameters lie in that many
    /// buffers, and for the gradients as they are bound now.
    pub(in crate::gpu) fn build_kernels(&mut self) -> Result<()> {
        self.kernels.build_whole(&self.gpu, &self.plan, &self.tables)?;
        let mut expected = self.layout.bundles(self.gpu.limits());
        for window in &self.layout.windows {
            let mut pieces = window.runs.iter().flat_map(|run| &run.pieces);
            let external = pieces.any(|piece| !self.tensors[piece.tensor].params.is_padded());
            for vector in [true, false] {
                if vector || external {
                    expected.entry((window.variant, vector)).or_default();
                }
            }
        }
        for ((variant, vector), bundle) in expected {
            let bundle = bundle.filter(|_| self.tables.lines.is_none());
            let access = Access { vector, aliased: false, clear: self.zero_gradients, listed: false, bundle };
            self.kernels.build(&self.gpu, &self.plan, &self.tables, variant, access)?;
        }
        let gradients = self.live_gradients();
        let lines = self.tables.lines.as_ref().map(|lines| &lines.tables);
        for (variant, access) in
            accesses(&self.gpu, &self.layout, &self.windows, &gradients, lines, self.zero_gradients)
        {
            self.kernels.build(&self.gpu, &self.plan, &self.tables, variant, access)?;
        }
        Ok(())
    }
}

//! The pipelines of an optimizer.

use std::collections::HashMap;

use super::{bindings, by_line, sums, tables};
use crate::error::Result;
use crate::gpu::device::context::Gpu;
use crate::gpu::device::pipelines::{Author, Bindings, Wanted};
use crate::plan::Plan;
use crate::plan::layout::Layout;
use crate::rules;
use crate::shader;
use crate::shader::{Access, ByLine, Kernel};
use crate::storage::StateFormat;

#[derive(Debug)]
pub struct Kernels {
    pub prepare: wgpu::ComputePipeline,
    /// By group of blocks, where there are some.
    pub sum_groups: Option<wgpu::ComputePipeline>,
    pub sum: wgpu::ComputePipeline,
    /// Of a look at the steps' health: of gradients, and of weights and their change.
    pub sum_looks: [wgpu::ComputePipeline; 2],
    /// Whether kernels that look at the steps' health are wanted.
    watched: bool,
    /// Threads of a workgroup where kernels go through blocks or tables.
    workgroup: u32,
    spans: HashMap<(usize, Access), SpanKernels>,
}

/// The pipelines that serve spans of one variant, reached in one way.
#[derive(Debug, Clone, Default)]
pub struct SpanKernels {
    pub sum_units: Option<wgpu::ComputePipeline>,
    pub sum_lines: Option<wgpu::ComputePipeline>,
    pub scan: Option<wgpu::ComputePipeline>,
    pub watch: Option<wgpu::ComputePipeline>,
    pub measure: Option<wgpu::ComputePipeline>,
    pub update: Option<wgpu::ComputePipeline>,
    pub watched_update: Option<wgpu::ComputePipeline>,
    pub weigh: Option<wgpu::ComputePipeline>,
    pub limit: Option<wgpu::ComputePipeline>,
    pub average: Option<wgpu::ComputePipeline>,
    pub swap: Option<wgpu::ComputePipeline>,
    pub evaluate: Option<wgpu::ComputePipeline>,
}

/// Where a pipeline goes.
type Place = fn(&mut SpanKernels) -> &mut Option<wgpu::ComputePipeline>;

impl Kernels {
    pub fn new(gpu: &Gpu, plan: &Plan, layout: &Layout) -> Result<Self> {
        let workgroup = gpu.workgroup_size();
        // Each tensor can come to have a lane of its own.
        let decided = layout.parts() + 2 * plan.tensors.len() + plan.groups.len();
        let prepare = shader::prepare(plan).with_workgroup(sums::workgroup(gpu, decided));
        let prepare = gpu.pipeline(prepare, Author::Ours, &[tables::prepare_bindings()])?;
        let most = sums::workgroup(gpu, layout.most_parts());
        let sum = |first: u32| {
            let kernel = shader::sum_tensors(first).with_workgroup(most);
            gpu.pipeline(kernel, Author::Ours, &[sums::tensor_bindings()])
        };
        let sum_groups = || {
            let kernel = shader::sum_groups().with_workgroup(workgroup);
            gpu.pipeline(kernel, Author::Ours, &[sums::group_bindings()])
        };
        let grouped = !layout.groups.is_empty();
        Ok(Self {
            prepare,
            sum_groups: grouped.then(sum_groups).transpose()?,
            sum: sum(0)?,
            sum_looks: [sum(tables::LOOK.start)?, sum(tables::LOOK.start + 1)?],
            watched: false,
            workgroup,
            spans: HashMap::new(),
        })
    }

    /// Forgets what was built for spans, and builds kernels that look at their health too, or not.
    pub fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
        self.spans.clear();
    }

    /// Forgets what was built for spans, and builds it with that many threads: what a block becomes must not
    /// depend on them.
    #[cfg(test)]
    pub fn set_workgroup(&mut self, threads: u32) {
        self.workgroup = threads;
        self.spans.clear();
    }

    pub fn of(&self, variant: usize, access: Access) -> Option<&SpanKernels> {
        self.spans.get(&(variant, access))
    }

    /// Builds what spans of that variant and access need, once.
    pub fn build(&mut self, gpu: &Gpu, plan: &Plan, variant: usize, access: Access) -> Result<()> {
        if self.spans.contains_key(&(variant, access)) {
            return Ok(());
        }
        let goes_by_line = plan.by_line();
        let code = &plan.variants[variant];
        let rule = code.rule.as_ref();
        let author = if rules::is_ours(rule) { Author::Ours } else { Author::Outside(rule.name()) };
        let compressed = code.formats().any(|f| f == StateFormat::Q8);
        let span = bindings::update_bindings(access, code.kept_count() > 0, compressed);
        let workgroup = if compressed { shader::whole_scales(self.workgroup) } else { self.workgroup };
        let build = |kernel: Kernel, author, tables: Bindings| Wanted {
            kernel: kernel.with_workgroup(workgroup),
            author,
            groups: vec![span.clone(), tables],
        };
        let scanned = bindings::scan_bindings(access.bundle, plan.gradient.accumulates());
        let scan = |kernel: Kernel, tables: Bindings| {
            let kernel = kernel.with_workgroup(self.workgroup);
            Wanted { kernel, author: Author::Ours, groups: vec![scanned.clone(), tables] }
        };
        let (gradient, weights) = (&plan.gradient, &plan.weights);
        let mut wanted: Vec<(Place, Wanted<'_>)> = Vec::new();
        let mut want = |place: Place, kernel| wanted.push((place, kernel));

        let update = shader::update(code, gradient, weights, access, false);
        let tables_of_update = tables::update_bindings(goes_by_line);
        want(|k| &mut k.update, build(update, author, tables_of_update));
        if gradient.clip_adaptive.is_some() {
            want(|k| &mut k.sum_units, by_line::span_sum(plan, code, ByLine::Units));
        }
        if plan.factors() {
            want(|k| &mut k.sum_lines, by_line::span_sum(plan, code, ByLine::Gradients));
        }
        if gradient.needs_scan() {
            want(|k| &mut k.scan, scan(shader::scan(code, gradient, access), tables::scan_bindings_of(gradient)));
        }
        if self.watched {
            want(|k| &mut k.watch, scan(shader::watch(code, gradient, access), tables::scan_bindings()));
            let update = shader::update(code, gradient, weights, access, true);
            want(|k| &mut k.watched_update, build(update, author, tables::watched_bindings(goes_by_line)));
        }
        if code.measures() {
            let measure = shader::measure(code, gradient, access);
            want(|k| &mut k.measure, build(measure, author, tables::measure_bindings(goes_by_line)));
        }
        if weights.tensor_limit().is_some() {
            let weigh = shader::weigh(code, weights, access);
            want(|k| &mut k.weigh, build(weigh, Author::Ours, tables::weigh_bindings()));
            let limit = shader::limit(code, weights, access);
            want(|k| &mut k.limit, build(limit, Author::Ours, tables::limit_bindings()));
        }
        if plan.ema.is_some() {
            let average = shader::average(code, access);
            want(|k| &mut k.average, build(average, Author::Ours, tables::update_bindings(goes_by_line)));
            want(|k| &mut k.swap, build(shader::swap(code, access), Author::Ours, tables::swap_bindings()));
        }
        if code.averages() {
            let evaluate = shader::evaluate(code, gradient, access);
            want(|k| &mut k.evaluate, build(evaluate, author, tables::evaluate_bindings(goes_by_line)));
        }

        let (places, wanted): (Vec<Place>, Vec<_>) = wanted.into_iter().unzip();
        let mut kernels = SpanKernels::default();
        for (place, pipeline) in places.into_iter().zip(gpu.pipelines_of(wanted)?) {
            *place(&mut kernels) = Some(pipeline);
        }
        self.spans.insert((variant, access), kernels);
        Ok(())
    }
}

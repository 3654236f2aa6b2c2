//! The pipelines of an optimizer.

use std::collections::HashMap;

use super::context::Gpu;
use super::pipelines::{Author, Bindings};
use super::tables;
use super::{bindings, by_line};
use crate::shader::{self, Access, ByLine, Kernel};
use crate::step::Plan;
use crate::storage::StateFormat;
use crate::{Result, rules};

#[derive(Debug)]
pub struct Kernels {
    pub prepare: wgpu::ComputePipeline,
    pub sum: wgpu::ComputePipeline,
    /// Whether kernels that look at the steps' health are wanted.
    watched: bool,
    spans: HashMap<(usize, Access), SpanKernels>,
}

/// The pipelines that serve spans of one variant, reached in one way.
#[derive(Debug, Clone)]
pub struct SpanKernels {
    pub sum_units: Option<wgpu::ComputePipeline>,
    pub sum_lines: Option<wgpu::ComputePipeline>,
    pub scan: Option<wgpu::ComputePipeline>,
    pub watch: Option<wgpu::ComputePipeline>,
    pub measure: Option<wgpu::ComputePipeline>,
    pub update: wgpu::ComputePipeline,
    pub watched_update: Option<wgpu::ComputePipeline>,
    pub weigh: Option<wgpu::ComputePipeline>,
    pub limit: Option<wgpu::ComputePipeline>,
    pub average: Option<wgpu::ComputePipeline>,
    pub swap: Option<wgpu::ComputePipeline>,
    pub evaluate: Option<wgpu::ComputePipeline>,
}

impl Kernels {
    pub fn new(gpu: &Gpu, plan: &Plan) -> Result<Self> {
        let prepare = gpu.pipeline(shader::prepare(plan), Author::Ours, &[tables::prepare_bindings()])?;
        let sum = gpu.pipeline(shader::sums(), Author::Ours, &[tables::sum_bindings()])?;
        Ok(Self { prepare, sum, watched: false, spans: HashMap::new() })
    }

    /// Forgets what was built for spans, and builds kernels that look at their health too, or not.
    pub fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
        self.spans.clear();
    }

    pub fn span(&self, variant: usize, access: Access) -> Option<&SpanKernels> {
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
        let span =
            bindings::update_bindings(access, code.kept_count() > 0, code.formats().any(|f| f == StateFormat::Q8));
        let build = |kernel: Kernel, author: Author<'_>, tables: Bindings| {
            gpu.pipeline(kernel, author, &[span.clone(), tables])
        };
        let scanned = [bindings::scan_bindings(plan.gradient.accumulates()), tables::scan_bindings()];
        let scan = |kernel: Kernel| gpu.pipeline(kernel.with_workgroup(gpu.scan_workgroup()), Author::Ours, &scanned);
        let mut kernels = SpanKernels {
            sum_units: None,
            sum_lines: None,
            scan: None,
            watch: None,
            measure: None,
            update: build(
                shader::update(code, &plan.gradient, &plan.weights, access, false),
                author,
                tables::update_bindings(code.measures(), goes_by_line),
            )?,
            watched_update: None,
            weigh: None,
            limit: None,
            average: None,
            swap: None,
            evaluate: None,
        };
        if plan.gradient.clip_adaptive.is_some() {
            kernels.sum_units = Some(by_line::span_sum(gpu, plan, code, ByLine::Units)?);
        }
        if plan.factors() {
            kernels.sum_lines = Some(by_line::span_sum(gpu, plan, code, ByLine::Gradients)?);
        }
        if plan.gradient.needs_scan() {
            kernels.scan = Some(scan(shader::scan(code, &plan.gradient, access.vector))?);
        }
        if self.watched {
            kernels.watch = Some(scan(shader::watch(code, &plan.gradient, access.vector))?);
            let kernel = shader::update(code, &plan.gradient, &plan.weights, access, true);
            kernels.watched_update = Some(build(kernel, author, tables::watched_bindings(goes_by_line))?);
        }
        if code.measures() {
            let kernel = shader::measure(code, &plan.gradient, access);
            kernels.measure = Some(build(kernel, author, tables::measure_bindings(goes_by_line))?);
        }
        if plan.weights.tensor_limit().is_some() {
            let weigh = shader::weigh(code, &plan.weights, access.vector);
            kernels.weigh = Some(build(weigh, Author::Ours, tables::weigh_bindings())?);
            let limit = shader::limit(code, &plan.weights, access.vector);
            kernels.limit = Some(build(limit, Author::Ours, tables::limit_bindings())?);
        }
        if plan.ema.is_some() {
            let average = shader::average(code, access);
            kernels.average = Some(build(average, Author::Ours, tables::update_bindings(false, goes_by_line))?);
            kernels.swap = Some(build(shader::swap(code, access), Author::Ours, tables::swap_bindings())?);
        }
        if code.averages() {
            let kernel = shader::evaluate(code, &plan.gradient, access);
            kernels.evaluate = Some(build(kernel, author, tables::evaluate_bindings(goes_by_line))?);
        }
        self.spans.insert((variant, access), kernels);
        Ok(())
    }
}

//! One step, recorded.

use super::bindings::BoundDispatch;
use super::by_line::{LineSum, Lines};
use super::kernels::{Kernels, SpanKernels};
use super::sums::Sum;
use super::tables::{Tables, Watch};
use crate::plan::layout::DeviceLimits;
use crate::plan::{Pass, Plan};

/// What a step is recorded from.
pub struct Recorder<'a> {
    pub plan: &'a Plan,
    pub limits: &'a DeviceLimits,
    pub tables: &'a Tables,
    pub kernels: &'a Kernels,
    pub dispatches: &'a [BoundDispatch],
    /// Where the step is looked at for its health.
    pub watch: Option<&'a Watch>,
}

impl Recorder<'_> {
    pub fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        if let Some(watch) = self.watch {
            self.scan(pass, &watch.scan, |k| k.watch.as_ref());
            self.look(pass, &watch.sum_gradients, 0);
        }
        for kind in self.plan.passes() {
            match kind {
                Pass::Scan => {
                    self.scan(pass, &self.tables.scan, |k| k.scan.as_ref());
                    if !self.plan.gradient.only_finds() {
                        self.sum_groups(pass, &self.tables.sum, 1);
                    }
                }
                Pass::SumGradients => self.sum_tensors(pass, &self.tables.sum, 1),
                Pass::SumWeights => self.sum(pass, &self.tables.sum, 1),
                Pass::Prepare => self.prepare(pass),
                Pass::SumUnits | Pass::SumLines | Pass::SumRows => self.sum_lines(pass, kind),
                Pass::ClipUnits | Pass::AverageLines | Pass::MeanRows => self.fold_lines(pass, kind),
                Pass::Measure => self.each(pass, &self.tables.measure, |k| k.measure.as_ref()),
                Pass::SumUpdates => self.sum(pass, &self.tables.sum, 2),
                Pass::Update => self.update(pass),
                Pass::Weigh => self.each(pass, &self.tables.weigh, |k| k.weigh.as_ref()),
                Pass::Limit => self.each(pass, &self.tables.limit, |k| k.limit.as_ref()),
                Pass::Average => self.each(pass, &self.tables.update, |k| k.average.as_ref()),
            }
        }
    }

    /// Exchanges weights and their average: to it, or back.
    pub fn swap(&self, pass: &mut wgpu::ComputePass<'_>, back: bool) {
        self.each(pass, &self.tables.swap[usize::from(back)], |k| k.swap.as_ref());
    }

    /// Replaces weights by those to evaluate with.
    pub fn evaluate(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.each(pass, &self.tables.evaluate, |k| k.evaluate.as_ref());
    }

    /// Those whose kernels have that pipeline. What neighbours share is set once: a model in buffers of its own
    /// can have a dispatch a tensor.
    fn all<'k>(
        &'k self,
        pass: &mut wgpu::ComputePass<'_>,
        group: impl Fn(&BoundDispatch) -> &wgpu::BindGroup,
        choose: impl Fn(&'k SpanKernels) -> Option<(&'k wgpu::ComputePipeline, &'k wgpu::BindGroup)>,
    ) {
        let mut last = None;
        for dispatch in self.dispatches {
            let code = (dispatch.variant, dispatch.access);
            let kernels = self.kernels.of(dispatch.variant, dispatch.access);
            let Some((pipeline, tables)) = kernels.and_then(&choose) else { continue };
            if last.replace(code) != Some(code) {
                pass.set_pipeline(pipeline);
                pass.set_bind_group(1, tables, &[]);
            }
            pass.set_bind_group(0, group(dispatch), &[]);
            pass.dispatch_workgroups(dispatch.workgroups[0], dispatch.workgroups[1], 1);
        }
    }

    fn scan<'k>(
        &'k self,
        pass: &mut wgpu::ComputePass<'_>,
        tables: &'k wgpu::BindGroup,
        kernel: impl Fn(&SpanKernels) -> Option<&wgpu::ComputePipeline>,
    ) {
        self.all(pass, |dispatch| &dispatch.scan, |k| Some((kernel(k)?, tables)));
    }

    /// `sets` of parts, one after the other.
    fn sum(&self, pass: &mut wgpu::ComputePass<'_>, sum: &Sum, sets: u32) {
        self.sum_groups(pass, sum, sets);
        self.sum_tensors(pass, sum, sets);
    }

    /// Where there are so many blocks that they are added up by groups first.
    fn sum_groups(&self, pass: &mut wgpu::ComputePass<'_>, sum: &Sum, sets: u32) {
        if let (Some(groups), Some(pipeline)) = (&sum.groups, &self.kernels.sum_groups) {
            let [x, y] = self.limits.dispatch(self.tables.parts());
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, groups, &[]);
            pass.dispatch_workgroups(x, y, sets);
        }
    }

    fn sum_tensors(&self, pass: &mut wgpu::ComputePass<'_>, sum: &Sum, sets: u32) {
        self.sum_tensors_by(pass, &self.kernels.sum, sum, sets);
    }

    /// What a look at the step's health adds up: of gradients, or of weights and their change.
    fn look(&self, pass: &mut wgpu::ComputePass<'_>, sum: &Sum, which: usize) {
        let sets = 1 + which as u32;
        self.sum_groups(pass, sum, sets);
        self.sum_tensors_by(pass, &self.kernels.sum_looks[which], sum, sets);
    }

    fn sum_tensors_by(&self, pass: &mut wgpu::ComputePass<'_>, pipeline: &wgpu::ComputePipeline, sum: &Sum, sets: u32) {
        let [x, y] = self.limits.dispatch(self.plan.tensors.len() as u32);
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, &sum.tensors, &[]);
        pass.dispatch_workgroups(x, y, sets);
    }

    /// The sums of a pass along lines, and the tables that they are in.
    fn line_sum(&self, kind: Pass) -> Option<(&Lines, &LineSum)> {
        let lines = self.tables.lines.as_ref()?;
        let sum = match kind {
            Pass::SumUnits | Pass::ClipUnits => &lines.units,
            Pass::SumLines | Pass::AverageLines => &lines.gradients,
            _ => &lines.rows,
        };
        Some((lines, sum.as_ref()?))
    }

    fn sum_lines(&self, pass: &mut wgpu::ComputePass<'_>, kind: Pass) {
        let Some((lines, sum)) = self.line_sum(kind) else { return };
        pass.set_bind_group(1, &sum.tables, &[]);
        if kind == Pass::SumRows {
            pass.set_pipeline(&lines.sum_rows);
            pass.set_bind_group(0, &lines.nothing, &[]);
            let [x, y] = self.limits.dispatch(sum.jobs);
            pass.dispatch_workgroups(x, y, 1);
            return;
        }
        for dispatch in self.dispatches {
            let kernels = self.kernels.of(dispatch.variant, dispatch.access);
            let (Some(bound), Some(kernels)) = (&dispatch.lines, kernels) else { continue };
            let (pipeline, group, [x, y]) = match kind {
                Pass::SumUnits => (&kernels.sum_units, &bound.units, bound.unit_workgroups),
                _ => (&kernels.sum_lines, &dispatch.scan, bound.gradient_workgroups),
            };
            if let Some(pipeline) = pipeline.as_ref().filter(|_| x > 0) {
                pass.set_pipeline(pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(x, y, 1);
            }
        }
    }

    fn fold_lines(&self, pass: &mut wgpu::ComputePass<'_>, kind: Pass) {
        let Some((lines, sum)) = self.line_sum(kind) else { return };
        let [x, y] = self.limits.dispatch(sum.folds);
        pass.set_pipeline(&lines.fold);
        pass.set_bind_group(0, &sum.fold, &[]);
        pass.dispatch_workgroups(x, y, 1);
    }

    fn prepare(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.kernels.prepare);
        pass.set_bind_group(0, &self.tables.prepare, &[]);
        pass.dispatch_workgroups(1, 1, 1);
    }

    fn update(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.all(
            pass,
            |dispatch| &dispatch.update,
            |kernels| match (self.watch, &kernels.watched_update) {
                (Some(watch), Some(kernel)) => Some((kernel, &watch.update)),
                _ => Some((kernels.update.as_ref()?, &self.tables.update)),
            },
        );
        if let Some(watch) = self.watch {
            self.look(pass, &watch.sum_updates, 1);
        }
    }

    fn each<'k>(
        &'k self,
        pass: &mut wgpu::ComputePass<'_>,
        tables: &'k wgpu::BindGroup,
        pipeline: impl Fn(&SpanKernels) -> Option<&wgpu::ComputePipeline>,
    ) {
        self.all(pass, |dispatch| &dispatch.update, |k| Some((pipeline(k)?, tables)));
    }
}

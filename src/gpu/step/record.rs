//! One step, recorded: pass after pass, as the plan lists them.

use super::bindings::BoundDispatch;
use super::kernels::{Kernels, Ready};
use super::tables::Tables;
use crate::plan::layout::DeviceLimits;
use crate::plan::{Pass, Per, Plan};
use crate::shader;

/// What a step is recorded from.
pub struct Recorder<'a> {
    pub plan: &'a Plan,
    pub limits: &'a DeviceLimits,
    pub tables: &'a Tables,
    pub kernels: &'a Kernels,
    pub dispatches: &'a [BoundDispatch],
}

impl Recorder<'_> {
    /// A step, looked at for its health if it is `watched`.
    pub fn record(&self, compute: &mut wgpu::ComputePass<'_>, watched: bool) {
        self.plan.passes(watched).for_each(|pass| self.pass(compute, pass));
    }

    /// One pass.
    pub fn pass(&self, compute: &mut wgpu::ComputePass<'_>, pass: Pass) {
        match (pass.spec().per, pass) {
            (Per::Blocks, Pass::Scan | Pass::Watch) => self.each(compute, pass, |d| (&d.scan, d.workgroups)),
            (Per::Blocks, _) => self.each(compute, pass, |d| (&d.update, d.workgroups)),
            (Per::Lines, Pass::SumUnits) => self.each(compute, pass, |d| match &d.lines {
                Some(lines) => (&lines.units, lines.unit_workgroups),
                None => (&d.scan, [0; 2]),
            }),
            (Per::Lines, _) => self
                .each(compute, pass, |d| (&d.scan, d.lines.as_ref().map_or([0; 2], |lines| lines.gradient_workgroups))),
            (Per::Once | Per::Groups | Per::Tensors | Per::Values | Per::Folds, _) => self.whole(compute, pass),
        }
    }

    /// A pass that goes by no span.
    fn whole(&self, compute: &mut wgpu::ComputePass<'_>, pass: Pass) {
        let Some(Ready { pipeline, tables }) = self.kernels.whole.get(&pass) else { return };
        let sets = match pass {
            Pass::SumGroups(sum) | Pass::SumTensors(sum) => sum.sets(),
            _ => 1,
        };
        let lines = || self.tables.line_sum(shader::lines_of(pass));
        let rows = match pass.spec().per {
            Per::Groups => self.tables.parts(),
            Per::Tensors => self.plan.tensors.len() as u32,
            Per::Values => lines().map_or(0, |sum| sum.jobs),
            Per::Folds => lines().map_or(0, |sum| sum.folds),
            Per::Once | Per::Blocks | Per::Lines => 1,
        };
        if rows > 0 {
            let [x, y] = self.limits.dispatch(rows);
            compute.set_pipeline(pipeline);
            compute.set_bind_group(0, tables, &[]);
            compute.dispatch_workgroups(x, y, sets);
        }
    }

    /// A pass over spans, those whose kernels have it. What neighbours share is set once: a model in buffers of its own can
    /// have a dispatch a tensor.
    fn each<'k>(
        &'k self,
        compute: &mut wgpu::ComputePass<'_>,
        pass: Pass,
        of: impl Fn(&'k BoundDispatch) -> (&'k wgpu::BindGroup, [u32; 2]),
    ) {
        let mut last = None;
        let mut is_ready = false;
        for dispatch in self.dispatches {
            let code = (dispatch.variant, dispatch.access);
            if last.replace(code) != Some(code) {
                let ready = self.kernels.of(dispatch.variant, dispatch.access).and_then(|passes| passes.get(&pass));
                is_ready = ready.is_some();
                if let Some(Ready { pipeline, tables }) = ready {
                    compute.set_pipeline(pipeline);
                    compute.set_bind_group(0, tables, &[]);
                }
            }
            let (span, [x, y]) = of(dispatch);
            if is_ready && x > 0 {
                compute.set_bind_group(1, span, &[]);
                compute.dispatch_workgroups(x, y, 1);
            }
        }
    }
}

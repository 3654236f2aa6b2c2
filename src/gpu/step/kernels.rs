//! The pipelines of an optimizer, by pass, each with what it binds besides a span.

use std::collections::{BTreeMap, HashMap};

use super::bindings::{scan_bindings, unit_bindings, update_bindings};
use super::sums;
use super::tables::Tables;
use crate::error::Result;
use crate::gpu::device::context::Gpu;
use crate::gpu::device::pipelines::{Author, Bindings, Wanted, layout_of};
use crate::plan::layout::Layout;
use crate::plan::{Pass, Per, Plan, Variant};
use crate::rules;
use crate::shader;
use crate::shader::{Access, Bound};
use crate::storage::StateFormat;

/// A pass, ready to record.
#[derive(Debug, Clone)]
pub struct Ready {
    pub pipeline: wgpu::ComputePipeline,
    pub tables: wgpu::BindGroup,
}

/// By pass.
pub type Passes = BTreeMap<Pass, Ready>;

#[derive(Debug)]
pub struct Kernels {
    /// Of passes that go by no span.
    pub whole: Passes,
    /// Whether kernels that look at the steps' health are wanted.
    watched: bool,
    /// Threads of a workgroup where kernels go through blocks or tables.
    workgroup: u32,
    /// Threads of workgroups that go through all tensors, and through all parts of one.
    decides: u32,
    adds: u32,
    spans: HashMap<(usize, Access), Passes>,
    /// What is bound already: most passes share it.
    bound: HashMap<Vec<Bound>, wgpu::BindGroup>,
}

/// The layout of what a pass binds of a span.
pub fn span_layout(pass: Pass, plan: &Plan, variant: &Variant, access: Access) -> Bindings {
    let has_state = variant.kept_count() > 0;
    match pass {
        Pass::Scan | Pass::Watch | Pass::SumLines => scan_bindings(access, plan.gradient.accumulates()),
        Pass::SumUnits => unit_bindings(has_state),
        _ => update_bindings(access, has_state, is_compressed(variant)),
    }
}

fn is_compressed(variant: &Variant) -> bool {
    variant.formats().any(|format| format == StateFormat::Q8)
}

/// Every pass that a plan may have recorded, each once; those of a look at its steps' health if it is `watched`.
pub fn passes(plan: &Plan, watched: bool) -> Vec<Pass> {
    let mut passes: Vec<_> =
        plan.passes(false).chain(watched.then(|| plan.passes(true)).into_iter().flatten()).collect();
    if plan.ema.is_some() {
        passes.extend([false, true].map(|back| Pass::Swap { back }));
    }
    if plan.averages() {
        passes.push(Pass::Evaluate);
    }
    passes.sort_unstable();
    passes.dedup();
    passes
}

/// Whether a pass has a kernel for spans of that variant.
pub fn has_kernel(pass: Pass, variant: &Variant) -> bool {
    match pass {
        Pass::Measure => variant.measures(),
        Pass::Evaluate => variant.averages(),
        _ => shader::goes_by_span(pass),
    }
}

impl Kernels {
    pub fn new(gpu: &Gpu, plan: &Plan, layout: &Layout, tables: &Tables) -> Result<Self> {
        // Each tensor can come to have a track of its own.
        let decided = layout.parts() + 2 * plan.tensors.len() + plan.groups.len();
        let mut kernels = Self {
            whole: Passes::new(),
            watched: false,
            workgroup: gpu.workgroup_size(),
            decides: sums::workgroup(gpu, decided),
            adds: sums::workgroup(gpu, layout.most_parts()),
            spans: HashMap::new(),
            bound: HashMap::new(),
        };
        kernels.build_whole(gpu, plan, tables)?;
        Ok(kernels)
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

    /// The passes over spans of that variant and access.
    pub fn of(&self, variant: usize, access: Access) -> Option<&Passes> {
        self.spans.get(&(variant, access))
    }

    /// Builds passes that go by no span, those that there are not yet.
    pub fn build_whole(&mut self, gpu: &Gpu, plan: &Plan, tables: &Tables) -> Result<()> {
        let wanted = passes(plan, self.watched).into_iter().filter(|pass| !shader::goes_by_span(*pass));
        let wanted = wanted.filter(|pass| tables.serves(*pass) && !self.whole.contains_key(pass)).collect();
        // They are the same for all variants.
        let Some(variant) = plan.variants.first() else { return Ok(()) };
        let built = self.ready(gpu, plan, variant, Access::default(), tables, wanted)?;
        self.whole.extend(built);
        Ok(())
    }

    /// Builds what spans of that variant and access need, once.
    pub fn build(&mut self, gpu: &Gpu, plan: &Plan, tables: &Tables, variant: usize, access: Access) -> Result<()> {
        if self.spans.contains_key(&(variant, access)) {
            return Ok(());
        }
        let code = &plan.variants[variant];
        let wanted = passes(plan, self.watched).into_iter().filter(|pass| has_kernel(*pass, code)).collect();
        let built = self.ready(gpu, plan, code, access, tables, wanted)?;
        self.spans.insert((variant, access), built);
        Ok(())
    }

    fn ready(
        &mut self,
        gpu: &Gpu,
        plan: &Plan,
        variant: &Variant,
        access: Access,
        tables: &Tables,
        passes: Vec<Pass>,
    ) -> Result<Passes> {
        let rule = variant.rule.as_ref();
        let mut bound = Vec::new();
        let mut wanted = Vec::new();
        for pass in &passes {
            let kernel = shader::of_pass(*pass, plan, variant, access).with_workgroup(self.threads(*pass, variant));
            if !self.bound.contains_key(&kernel.tables) {
                self.bound.insert(kernel.tables.clone(), tables.bind(gpu, &kernel.tables)?);
            }
            bound.push(self.bound[&kernel.tables].clone());
            let mut groups = vec![layout_of(&kernel.tables)];
            groups.extend(shader::goes_by_span(*pass).then(|| span_layout(*pass, plan, variant, access)));
            let is_ours = !shader::has_rule(*pass) || rules::is_ours(rule);
            let author = if is_ours { Author::Ours } else { Author::Outside(rule.name()) };
            wanted.push(Wanted { kernel, author, groups });
        }
        let ready = gpu.pipelines_of(wanted)?.into_iter().zip(bound);
        Ok(passes.into_iter().zip(ready.map(|(pipeline, tables)| Ready { pipeline, tables })).collect())
    }

    fn threads(&self, pass: Pass, variant: &Variant) -> u32 {
        match (pass, pass.spec().per) {
            (_, Per::Once) => self.decides,
            (_, Per::Tensors) => self.adds,
            // The tables say how many share a line.
            (_, Per::Lines | Per::Values | Per::Folds) => shader::WORKGROUP,
            (Pass::Scan | Pass::Watch, _) => self.workgroup,
            (_, Per::Blocks) if is_compressed(variant) => shader::whole_scales(self.workgroup),
            (_, Per::Blocks | Per::Groups) => self.workgroup,
        }
    }
}

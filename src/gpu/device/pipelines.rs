//! Pipelines and bind group layouts, each built once for a device.

use std::borrow::Cow;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use super::context::Gpu;
use super::mutants::altered;
use crate::error::{Error, Result};
use crate::shader::{Bound, Kernel, Mode, without_element};

/// What a binding is bound as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Uniform,
    Read,
    ReadWrite,
    /// Arrays of so many.
    ReadMany(NonZeroU32),
    ReadWriteMany(NonZeroU32),
}

impl Kind {
    /// An array of such bindings, where there is to be one.
    pub fn in_array(self, size: Option<NonZeroU32>) -> Self {
        match (self, size) {
            (Self::Read, Some(size)) => Self::ReadMany(size),
            (Self::ReadWrite, Some(size)) => Self::ReadWriteMany(size),
            (kind, _) => kind,
        }
    }

    fn layout_entry(self, binding: u32) -> wgpu::BindGroupLayoutEntry {
        let (ty, count) = match self {
            Self::Uniform => (wgpu::BufferBindingType::Uniform, None),
            Self::Read => (wgpu::BufferBindingType::Storage { read_only: true }, None),
            Self::ReadWrite => (wgpu::BufferBindingType::Storage { read_only: false }, None),
            Self::ReadMany(size) => (wgpu::BufferBindingType::Storage { read_only: true }, Some(size)),
            Self::ReadWriteMany(size) => (wgpu::BufferBindingType::Storage { read_only: false }, Some(size)),
        };
        wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count,
        }
    }
}

/// Bindings of one group.
pub type Bindings = Vec<(u32, Kind)>;

/// The layout of what a kernel binds besides a span.
pub fn layout_of(tables: &[Bound]) -> Bindings {
    let kind = |mode: &Mode| match mode {
        Mode::Uniform => Kind::Uniform,
        Mode::Read => Kind::Read,
        Mode::ReadWrite => Kind::ReadWrite,
    };
    (0..).zip(tables).map(|(binding, (_, mode))| (binding, kind(mode))).collect()
}

#[derive(Debug, Default)]
pub struct Pipelines {
    layouts: Mutex<HashMap<Bindings, wgpu::BindGroupLayout>>,
    pipelines: Mutex<HashMap<Key, wgpu::ComputePipeline>>,
    /// The driver's own, where the caller asked for it.
    pub(in crate::gpu) cache: Mutex<Option<wgpu::PipelineCache>>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    source: String,
    entry: &'static str,
    /// Values as bits, which can be compared.
    constants: Vec<(&'static str, u64)>,
    groups: Vec<Bindings>,
}

/// Who wrote a kernel's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author<'a> {
    /// This library: its bounds are tested, and wgpu's run-time checks are left out.
    Ours,
    /// A rule of that name from another crate: wgpu checks every access.
    Outside(&'a str),
}

/// A pipeline to build.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub kernel: Kernel,
    pub author: Author<'a>,
    pub groups: Vec<Bindings>,
}

impl Gpu {
    pub(in crate::gpu) fn layout(&self, bindings: &Bindings) -> Result<wgpu::BindGroupLayout> {
        let mut layouts = self.pipelines().layouts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = layouts.get(bindings) {
            return Ok(layout.clone());
        }
        let entries: Vec<_> = bindings.iter().map(|(binding, kind)| kind.layout_entry(*binding)).collect();
        let layout = self.scoped("bind group layout", |device| {
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        })?;
        layouts.insert(bindings.clone(), layout.clone());
        Ok(layout)
    }

    /// Pipelines that do not wait for one another: drivers take a long time over each. In their order.
    pub(in crate::gpu) fn pipelines_of(&self, wanted: Vec<Wanted<'_>>) -> Result<Vec<wgpu::ComputePipeline>> {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let share = wanted.len().div_ceil(threads).max(1);
        let build = |Wanted { kernel, author, groups }: &Wanted<'_>| self.pipeline(kernel.clone(), *author, groups);
        if threads == 1 || wanted.len() < 2 {
            return wanted.iter().map(build).collect();
        }
        std::thread::scope(|scope| {
            let started: Vec<_> = wanted
                .chunks(share)
                .map(|part| scope.spawn(move || part.iter().map(build).collect::<Result<Vec<_>>>()))
                .collect();
            let lost =
                || Error::Device { what: "pipelines".to_owned(), reason: "a thread that built them died".to_owned() };
            let parts = started.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(lost())));
            Ok(parts.collect::<Result<Vec<_>>>()?.concat())
        })
    }

    pub(in crate::gpu) fn pipeline(
        &self,
        kernel: Kernel,
        author: Author<'_>,
        groups: &[Bindings],
    ) -> Result<wgpu::ComputePipeline> {
        let key = Key {
            source: kernel.source,
            entry: kernel.entry,
            constants: kernel.constants.iter().map(|(name, value)| (*name, value.to_bits())).collect(),
            groups: groups.to_vec(),
        };
        let layouts = groups.iter().map(|group| self.layout(group)).collect::<Result<Vec<_>>>()?;
        // Not held while one is built: others are built at the same time.
        let pipelines = || self.pipelines().pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = pipelines().get(&key) {
            return Ok(pipeline.clone());
        }
        let cache = self.pipelines().cache.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let module = self.module(&key, author)?;
        let layouts: Vec<_> = layouts.iter().map(Some).collect();
        let pipeline = self.scoped(&format!("pipeline {:?}", key.entry), |device| {
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(key.entry),
                bind_group_layouts: &layouts,
                immediate_size: 0,
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(key.entry),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(key.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &kernel.constants,
                    // Every kernel writes its workgroup memory before it reads it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: cache.as_ref(),
            })
        });
        let pipeline = pipeline.map_err(|e| shader_error(e, author, &key.source))?;
        self.count_pipeline();
        Ok(pipelines().entry(key).or_insert(pipeline).clone())
    }

    fn module(&self, key: &Key, author: Author<'_>) -> Result<wgpu::ShaderModule> {
        self.check_alive()?;
        let source = altered(&key.source);
        let sound = matches!(author, Author::Ours) && matches!(source, Cow::Borrowed(_));
        let descriptor =
            wgpu::ShaderModuleDescriptor { label: Some(key.entry), source: wgpu::ShaderSource::Wgsl(source) };
        let module = self.scoped("shader module", |device| match sound {
            true => trusted(device, descriptor),
            false => device.create_shader_module(descriptor),
        });
        module.map_err(|e| shader_error(e, author, &key.source))
    }
}

#[allow(unsafe_code, reason = "our own kernels need no bounds checks, which cost a memory-bound pass")]
fn trusted(device: &wgpu::Device, descriptor: wgpu::ShaderModuleDescriptor<'_>) -> wgpu::ShaderModule {
    let checks = wgpu::ShaderRuntimeChecks {
        bounds_checks: false,
        force_loop_bounding: false,
        ..wgpu::ShaderRuntimeChecks::checked()
    };
    // SAFETY: the text is one of this library's kernels. Every index derives from a row of the block
    // table, whose rows lie within the bound ranges (`layout::tests` proves it for every layout that
    // it draws), from a bundle's assignments, which name these rows and members below the arrays' size, from a loop that ends at the row's length, from a count of the settings, or from a map
    // of rows that the host has checked, or from its list of their elements; loops advance by a positive constant, and a
    // search in that list halves what is left. `tests/bounds.rs` runs the
    // kernels between guard words.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
}

fn shader_error(error: Error, author: Author<'_>, source: &str) -> Error {
    match (error, author) {
        (Error::Device { reason, .. }, Author::Outside(rule)) => {
            let told = without_element(source).map_or(String::new(), |hint| hint + "\n");
            Error::Shader { rule: rule.to_owned(), reason: told + &reason }
        }
        (error, _) => error,
    }
}

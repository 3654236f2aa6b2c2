//! Parameters and gradients as the network computes with them: f32, cast where they are stored otherwise.

use wgpu_optim::plan::Plan;
use wgpu_optim::wgpu::{self, BindGroup, BufferBinding, ComputePass};
use wgpu_optim::{Arena, Format, Gpu, Slice, TensorSpec, wgsl_conversions};

use crate::error::{Error, Result};

/// Invocations of a workgroup, as in the kernels' text.
const WORKGROUP: u64 = 64;

/// What the network binds, and how it comes from what is stored and goes back there.
#[derive(Debug)]
pub struct Casts {
    names: Vec<String>,
    params: Vec<Slice>,
    gradients: Vec<Slice>,
    widen: Vec<Cast>,
    narrow: Vec<Cast>,
}

#[derive(Debug)]
struct Cast {
    pipeline: wgpu::ComputePipeline,
    buffers: BindGroup,
    workgroups: u32,
}

/// A slice and how it is stored.
type Side<'a> = (&'a Slice, Format);

impl Casts {
    pub fn new(gpu: &Gpu, plan: &Plan, stored: &Arena) -> Result<Self> {
        let specs: Vec<TensorSpec> = plan.tensors.iter().map(|planned| planned.spec.clone()).collect();
        let computed = Arena::new(gpu, specs.clone())?;
        let mut casts = Self {
            names: specs.iter().map(|spec| spec.name.clone()).collect(),
            params: Vec::new(),
            gradients: Vec::new(),
            widen: Vec::new(),
            narrow: Vec::new(),
        };
        for (t, spec) in specs.iter().enumerate() {
            let elements = plan.tensors[t].elements;
            let [of_params, of_gradient] = plan.formats_of(t);
            let (own, copy) = (stored.params(&spec.name)?, computed.params(&spec.name)?);
            let narrow = of_params != Format::F32;
            if narrow {
                casts.widen.push(Cast::new(gpu, of_params, elements, [(own, of_params), (copy, Format::F32)]));
            }
            casts.params.push(if narrow { copy.clone() } else { own.clone() });
            let (own, copy) = (stored.gradient(&spec.name)?, computed.gradient(&spec.name)?);
            let narrow = of_gradient != Format::F32;
            if narrow {
                casts.narrow.push(Cast::new(gpu, of_gradient, elements, [(copy, Format::F32), (own, of_gradient)]));
            }
            casts.gradients.push(if narrow { copy.clone() } else { own.clone() });
        }
        Ok(casts)
    }

    pub fn params(&self, name: &str) -> Result<BufferBinding<'_>> {
        Ok(self.params[self.place(name)?].binding())
    }

    pub fn gradient(&self, name: &str) -> Result<BufferBinding<'_>> {
        Ok(self.gradients[self.place(name)?].binding())
    }

    fn place(&self, name: &str) -> Result<usize> {
        let place = self.names.iter().position(|own| own == name);
        place.ok_or_else(|| Error::failed(format!("the network has no tensor {name:?}")))
    }

    /// Records the parameters' way in.
    pub fn widen(&self, pass: &mut ComputePass<'_>) {
        self.widen.iter().for_each(|cast| cast.record(pass));
    }

    /// Records the gradients' way out.
    pub fn narrow(&self, pass: &mut ComputePass<'_>) {
        self.narrow.iter().for_each(|cast| cast.record(pass));
    }
}

impl Cast {
    fn new(gpu: &Gpu, format: Format, elements: u64, sides: [Side<'_>; 2]) -> Self {
        let device = gpu.device();
        let name = format.name();
        let text = match sides[0].1 {
            Format::F32 => include_str!("../../shaders/narrow.wgsl"),
            _ => include_str!("../../shaders/widen.wgsl"),
        };
        let conversions = wgsl_conversions(format);
        let source = format!(
            "{text}{conversions}
            fn widened(words: vec2<u32>) -> vec4<u32> {{ return widen_{name}(words); }}
            fn narrowed(bits: vec4<u32>) -> vec2<u32> {{ return join_halves(nearest_{name}(bits)); }}"
        );
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("cast"),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("cast"),
            layout: None,
            module: &module,
            entry_point: Some("convert"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        let groups = elements.div_ceil(4);
        // Whole groups of four: an arena has room for them.
        let bound = sides.map(|(slice, format)| BufferBinding {
            size: wgpu::BufferSize::new(groups * 4 * format.bytes()),
            ..slice.binding()
        });
        let entries: Vec<_> = (0..)
            .zip(bound)
            .map(|(binding, bound)| wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(bound) })
            .collect();
        let layout = pipeline.get_bind_group_layout(0);
        let descriptor = wgpu::BindGroupDescriptor { label: Some("cast"), layout: &layout, entries: &entries };
        let buffers = device.create_bind_group(&descriptor);
        Self { pipeline, buffers, workgroups: groups.div_ceil(WORKGROUP) as u32 }
    }

    fn record(&self, pass: &mut ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.buffers, &[]);
        pass.dispatch_workgroups(self.workgroups, 1, 1);
    }
}

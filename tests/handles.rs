//! What the caller holds of an optimizer stays what it is while tensors, configuration and state change.

mod support;

use support::model::{Model, Place, buffer, read_slice};
use support::{encoder, gpu, submit};
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::{DynamicScale, Error, LossScale, OptimizerConfig, Slice, Tensor, TensorSpec, wgpu};

const SPECS: [(&str, [u64; 2]); 2] = [("a", [3, 2]), ("b", [40, 5])];

fn specs() -> Vec<TensorSpec> {
    SPECS.iter().map(|(name, shape)| TensorSpec::new(*name, *shape)).collect()
}

fn config(scale: Option<LossScale>) -> OptimizerConfig {
    let mut config = OptimizerConfig::new(AdamW::default());
    config.gradient.loss_scale = scale;
    config
}

fn dynamic(init: f64) -> Option<LossScale> {
    Some(LossScale::Dynamic(DynamicScale { init, growth_interval: 1, ..DynamicScale::default() }))
}

/// The caller's loss kernel, bound once: copies the scale to where it can be read.
struct Kernel {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    out: wgpu::Buffer,
}

impl Kernel {
    fn new(model: &Model) -> Self {
        let source = "
            @group(0) @binding(0) var<storage, read> loss_scale: f32;
            @group(0) @binding(1) var<storage, read_write> out: f32;
            @compute @workgroup_size(1) fn copy() { out = loss_scale; }
        ";
        let device = model.gpu.device();
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("copy"),
            compilation_options: Default::default(),
            cache: None,
        });
        let out = buffer(&model.gpu, 4);
        let scale = model.optimizer.loss_scale();
        let resources = [wgpu::BindingResource::Buffer(scale.binding()), out.as_entire_binding()];
        let entries: Vec<_> =
            (0..).zip(resources).map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource }).collect();
        let layout = pipeline.get_bind_group_layout(0);
        let group =
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
        Self { pipeline, group, out }
    }

    fn scale(&self, model: &Model) -> f32 {
        submit(&model.gpu, |encoder| {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&self.pipeline);
            pass.set_bind_group(0, &self.group, &[]);
            pass.dispatch_workgroups(1, 1, 1);
        });
        f32::from_bits(read_slice(&model.gpu, &Slice::from(&self.out))[0])
    }
}

#[test]
fn the_loss_scale_that_was_bound_once_is_that_of_every_change() {
    let gpu = gpu();
    let params = [vec![1.0; 6], vec![1.0; 200]];
    let mut model = Model::new(&gpu, &config(dynamic(1024.0)), &specs(), &params, Place::Arena);
    let (kernel, bound) = (Kernel::new(&model), model.optimizer.loss_scale());
    let check = |model: &Model, expected: f32, what: &str| {
        assert_eq!(kernel.scale(model), expected, "{what}");
        assert_eq!(model.optimizer.loss_scale(), bound, "{what}");
        assert_eq!(model.optimizer.state_blocking().unwrap().loss_scale, f64::from(expected), "{what}");
    };
    check(&model, 1024.0, "nothing");
    model.step(&params);
    check(&model, 2048.0, "a step");
    let saved = model.optimizer.checkpoint_blocking().unwrap();

    model.optimizer.add_tensors([Tensor::new("c", [4], &buffer(&gpu, 16))]).unwrap();
    check(&model, 2048.0, "add_tensors");
    model.submit();
    check(&model, 4096.0, "a step after add_tensors");
    model.optimizer.remove_tensors(&["c"]).unwrap();
    model.submit();
    check(&model, 8192.0, "a step after remove_tensors");
    let rows = Slice::from(&buffer(&gpu, 16));
    let gradient = model.gradients[0].clone();
    let short = Slice::new(&gradient.buffer, gradient.offset, 16);
    model.optimizer.set_rows(Tensor::new("a", [2, 2], rows).with_gradient(short), &[Some(2), None]).unwrap();
    model.submit();
    check(&model, 16384.0, "a step after set_rows");

    // What is refused leaves it alone, whatever the refused configuration starts from.
    let tensors = model.optimizer.tensors().to_vec();
    let twice: Vec<_> = tensors.iter().chain(&tensors).cloned().collect();
    assert!(model.optimizer.reconfigure(&config(dynamic(4.0)), twice).is_err());
    check(&model, 16384.0, "a change that was refused");
    model.optimizer.reconfigure(&config(Some(LossScale::Fixed(64.0))), tensors.clone()).unwrap();
    check(&model, 64.0, "a fixed scale");
    model.optimizer.reconfigure(&config(None), tensors.clone()).unwrap();
    check(&model, 1.0, "no scale");
    model.optimizer.reconfigure(&config(dynamic(256.0)), tensors).unwrap();
    model.submit();
    let now = kernel.scale(&model);
    check(&model, now, "a dynamic scale again");

    let mut other = Model::new(&gpu, &config(dynamic(1.0)), &specs(), &params, Place::Arena);
    let kernel = Kernel::new(&other);
    other.optimizer.load_checkpoint(&saved).unwrap();
    assert_eq!(kernel.scale(&other), 2048.0, "a checkpoint");
    other.optimizer.load_state(&saved.state).unwrap();
    assert_eq!(kernel.scale(&other), 2048.0, "a state");
}

/// Else it would hold the state of one moment and the parameters of another.
#[test]
fn a_recorded_checkpoint_is_submitted_before_tensors_change() {
    let gpu = support::own_gpu();
    let params = [vec![1.0; 6], vec![1.0; 200]];
    let mut model = Model::new(&gpu, &OptimizerConfig::new(Sgd::default()), &specs(), &params, Place::Arena);
    model.step(&params);
    for state in [false, true] {
        let mut recorded = encoder(&gpu);
        let pending = match state {
            true => model.optimizer.record_state(&mut recorded).unwrap(),
            false => model.optimizer.record_checkpoint(&mut recorded).unwrap(),
        };
        let error = model.optimizer.remove_tensors(&[]).unwrap_err();
        assert_eq!(error, Error::StepsUnderWay { pending: 1 });
        gpu.queue().submit([recorded.finish()]);
        model.optimizer.remove_tensors(&[]).unwrap();
        assert_eq!(pending.wait().unwrap().state.steps_taken, 1);
        // One that never will be submitted is in nobody's way.
        let mut dropped = encoder(&gpu);
        let pending = model.optimizer.record_checkpoint(&mut dropped).unwrap();
        drop(dropped);
        model.optimizer.remove_tensors(&[]).unwrap();
        assert!(pending.wait().is_err());
    }
    model.optimizer.checkpoint_blocking().unwrap();
    model.optimizer.remove_tensors(&[]).unwrap();
}

//! Runs of one configuration over the same numbers: on the CPU in f32 and in f64, and on the device.

use ndarray::{ArrayD, IxDyn};

use crate::config::{LossScale, OnNonfinite, OptimizerConfig};
use crate::cpu::{CpuOptimizer, CpuTensor};
use crate::error::Result;
use crate::gpu::{Arena, Gpu, Optimizer};
use crate::rule::kernel::CpuFloat;
use crate::state::OptimizerState;
use crate::tensor::TensorSpec;

/// Shapes of the tensors: ends within a `vec4`, within a block, past a block; matrices and stacks of
/// them.
pub const SHAPES: [&[u64]; 7] = [&[1], &[3], &[257], &[17, 241], &[5, 3, 7], &[4097], &[0, 7]];

/// Tensors of those shapes.
pub fn specs(shapes: &[&[u64]]) -> Vec<TensorSpec> {
    let spec = |(i, shape): (usize, &&[u64])| TensorSpec::new(format!("tensor{i}"), shape.to_vec());
    shapes.iter().enumerate().map(spec).collect()
}

/// Values by tensor; `value` is told each element's place within its tensor.
pub fn draw(shapes: &[&[u64]], numbers: &mut Numbers, value: impl Fn(&mut Numbers, usize) -> f32) -> Vec<Vec<f32>> {
    let elements = |shape: &&[u64]| shape.iter().product::<u64>() as usize;
    shapes.iter().map(|shape| (0..elements(shape)).map(|e| value(numbers, e)).collect()).collect()
}

/// A gradient's element of an ordinary comparison, of a loss that was scaled as the configuration says. Elements that are
/// not finite are there for those who take them for zero.
pub fn ordinary(config: &OptimizerConfig) -> impl Fn(&mut Numbers, usize) -> f32 + use<> {
    let zeroes = config.gradient.on_nonfinite == OnNonfinite::Zero;
    let size = 0.5 * config.gradient.loss_scale.as_ref().map_or(1.0, LossScale::initial) as f32;
    move |numbers, element| {
        let value = size * numbers.next();
        match element % 16 {
            1 if zeroes => f32::NAN,
            6 if zeroes => f32::INFINITY,
            11 if zeroes => f32::NEG_INFINITY,
            _ => value,
        }
    }
}

/// What a run came to: a tensor's parameters, or one of its slots.
#[derive(Debug)]
pub struct Values {
    pub what: String,
    pub tensor: usize,
    pub values: Vec<f64>,
}

impl Values {
    /// What they started from: slots from zero.
    pub fn start(&self, params: &[Vec<f32>]) -> Vec<f64> {
        match self.what.as_str() {
            "parameters" => wide(&params[self.tensor]),
            _ => vec![0.0; self.values.len()],
        }
    }
}

pub fn wide<F: Copy + Into<f64>>(values: &[F]) -> Vec<f64> {
    values.iter().map(|x| (*x).into()).collect()
}

pub fn collect<F: Copy + Into<f64>>(params: Vec<Vec<f64>>, state: OptimizerState<F>) -> Vec<Values> {
    let params =
        params.into_iter().enumerate().map(|(tensor, values)| Values { what: "parameters".into(), tensor, values });
    let slots =
        state.tensors.into_iter().enumerate().flat_map(|(tensor, t)| {
            t.slots.into_iter().map(move |(what, v)| Values { what, tensor, values: wide(&v) })
        });
    params.chain(slots).collect()
}

pub fn arrays<F: CpuFloat>(specs: &[TensorSpec], values: &[Vec<f32>]) -> Vec<ArrayD<F>> {
    let array = |(spec, v): (&TensorSpec, &Vec<f32>)| {
        let shape: Vec<_> = spec.shape.iter().map(|n| *n as usize).collect();
        let mut values = v.iter().map(|x| F::of(f64::from(*x)));
        // One value for each element.
        ArrayD::from_shape_simple_fn(IxDyn(&shape), || values.next().unwrap_or_else(F::zero))
    };
    specs.iter().zip(values).map(array).collect()
}

/// What goes into a run.
#[derive(Debug)]
pub struct Inputs {
    pub specs: Vec<TensorSpec>,
    pub params: Vec<Vec<f32>>,
    /// By step.
    pub gradients: Vec<Vec<Vec<f32>>>,
}

impl Inputs {
    /// Parameters in [-1, 1), and such gradients.
    pub fn new(shapes: &[&[u64]], steps: usize, gradient: impl Fn(&mut Numbers, usize) -> f32) -> Self {
        let mut numbers = Numbers(0x5eed);
        let params = draw(shapes, &mut numbers, |numbers, _| numbers.next());
        let gradients = (0..steps).map(|_| draw(shapes, &mut numbers, &gradient)).collect();
        Self { specs: specs(shapes), params, gradients }
    }

    /// What the CPU makes of them.
    pub fn on_cpu<F: CpuFloat + Into<f64>>(&self, config: &OptimizerConfig) -> Result<Vec<Values>> {
        let mut optimizer = CpuOptimizer::<F>::new(config, &self.specs)?;
        let mut params = arrays(&self.specs, &self.params);
        for gradients in &self.gradients {
            let gradients = arrays(&self.specs, gradients);
            let tensors = params.iter_mut().zip(&gradients).map(|(p, g)| CpuTensor::new(p.view_mut(), g.view()));
            optimizer.step(&mut tensors.collect::<Vec<_>>())?;
        }
        Ok(collect(params.iter().map(|p| p.iter().map(|x| (*x).into()).collect()).collect(), optimizer.state()))
    }

    /// What the device makes of them.
    pub fn on_gpu(&self, gpu: &Gpu, config: &OptimizerConfig) -> Result<Vec<Values>> {
        let mut run = GpuRun::new(gpu, config, &self.specs, &self.params)?;
        self.gradients.iter().try_for_each(|gradients| run.step(gradients))?;
        let (params, state) = run.read()?;
        Ok(collect(params.iter().map(|p| wide(p)).collect(), state))
    }
}

/// An optimizer on the device and the memory that it works in.
pub struct GpuRun {
    gpu: Gpu,
    arena: Arena,
    optimizer: Optimizer,
}

impl GpuRun {
    pub fn new(gpu: &Gpu, config: &OptimizerConfig, specs: &[TensorSpec], params: &[Vec<f32>]) -> Result<Self> {
        let arena = Arena::for_config(gpu, config, specs.iter().cloned())?;
        for (spec, params) in specs.iter().zip(params) {
            arena.write_params(&spec.name, params)?;
        }
        let optimizer = Optimizer::new(gpu, config, arena.tensors().iter().cloned())?;
        Ok(Self { gpu: gpu.clone(), arena, optimizer })
    }

    pub fn step(&mut self, gradients: &[Vec<f32>]) -> Result<()> {
        for (tensor, gradient) in self.arena.tensors().iter().zip(gradients) {
            self.arena.write_gradient(&tensor.spec.name, gradient)?;
        }
        let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.optimizer.step(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }

    pub fn read(&self) -> Result<(Vec<Vec<f32>>, OptimizerState)> {
        Ok((self.optimizer.params_blocking()?, self.optimizer.state_blocking()?))
    }
}

/// splitmix64 (Steele, Lea & Flood 2014): the same numbers on every machine.
#[derive(Debug)]
pub struct Numbers(pub u64);

impl Numbers {
    /// Uniform in [-1, 1).
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

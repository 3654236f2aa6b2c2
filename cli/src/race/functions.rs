//! The race on classic functions of two variables, on the GPU. All functions and all learning rates of
//! a rule are tensors of one optimizer: rates are numbers in a table, so one dispatch steps them all.

use wgpu_optim::wgpu::util::{BufferInitDescriptor, DeviceExt};
use wgpu_optim::wgpu::{self, BufferUsages};
use wgpu_optim::{Gpu, Group, OnNonfinite, Optimizer, OptimizerConfig, Rule, Slice, Tensor};

use crate::error::Result;
use crate::readback::Readback;

/// A function to descend, numbered as in `shaders/race.wgsl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Function {
    Rosenbrock,
    Beale,
    Rastrigin,
    Saddle,
}

impl Function {
    pub const ALL: [Self; 4] = [Self::Rosenbrock, Self::Beale, Self::Rastrigin, Self::Saddle];

    pub fn name(self) -> &'static str {
        ["Rosenbrock", "Beale", "Rastrigin", "Saddle"][self as usize]
    }

    /// Where paths begin.
    pub fn start(self) -> [f32; 2] {
        // Not quite on the saddle's ridge, from where no slope leads away.
        [[-1.5, 2.0], [1.0, 1.2], [2.3, -1.7], [1.2, 1e-3]][self as usize]
    }

    /// Its lowest points, where it is zero.
    pub fn minima(self) -> &'static [(f64, f64)] {
        const MINIMA: [&[(f64, f64)]; 4] = [&[(1.0, 1.0)], &[(3.0, 0.5)], &[(0.0, 0.0)], &[(0.0, -1.0), (0.0, 1.0)]];
        MINIMA[self as usize]
    }

    /// The function on the host, to draw it.
    pub fn value(self, x: f64, y: f64) -> f64 {
        let wave = |x: f64| x * x - 10.0 * (std::f64::consts::TAU * x).cos();
        match self {
            Self::Rosenbrock => (1.0 - x).powi(2) + 100.0 * (y - x * x).powi(2),
            Self::Beale => {
                let term = |c: f64, power| c - x + x * y.powi(power);
                term(1.5, 1).powi(2) + term(2.25, 2).powi(2) + term(2.625, 3).powi(2)
            }
            Self::Rastrigin => 20.0 + wave(x) + wave(y),
            Self::Saddle => 0.5 * x * x + 0.25 * y.powi(4) - 0.5 * y * y + 0.25,
        }
    }
}

/// Where a rule went: coordinates and value before each step and after the last.
#[derive(Debug, Clone)]
pub struct Path {
    pub lr: f64,
    pub points: Vec<[f64; 3]>,
}

impl Path {
    /// The value at the end.
    pub fn end(&self) -> f64 {
        self.points.last().map_or(f64::NAN, |point| point[2])
    }

    /// Steps until the value fell below that for good.
    pub fn steps_to(&self, value: f64) -> Option<usize> {
        let above =
            self.points.iter().rposition(|point| point[2].is_nan() || point[2] > value).map_or(0, |last| last + 1);
        (above < self.points.len()).then_some(above)
    }
}

/// Steps in one submission.
const SUBMISSION: usize = 50;

/// A rule's best path on each of those functions.
pub fn run(gpu: &Gpu, rule: &dyn Rule, functions: &[Function], rates: &[f64], steps: usize) -> Result<Vec<Path>> {
    let device = gpu.device();
    let points = functions.len() * rates.len();
    let each = |values: &dyn Fn(Function) -> [u32; 2]| -> Vec<u32> {
        functions.iter().flat_map(|f| rates.iter().flat_map(move |_| values(*f))).collect()
    };
    let storage = |label, words: &[u32]| {
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_SRC;
        device.create_buffer_init(&BufferInitDescriptor {
            label: Some(label),
            contents: bytemuck::cast_slice(words),
            usage,
        })
    };
    let position = storage("positions", &each(&|f| f.start().map(f32::to_bits)));
    let gradient = storage("gradients", &vec![0; 2 * points]);
    let state = storage("points", &each(&|f| [f as u32, 0]));
    let trace = storage("trace", &vec![0; 3 * points * (steps + 1)]);

    let mut config = OptimizerConfig::from_boxed(rule.boxed());
    // A path that overflows must not stop the others.
    config.gradient.on_nonfinite = OnNonfinite::Propagate;
    for (place, rate) in rates.iter().enumerate() {
        config = config.group(Group::matching(format!("*@{place}")).set("lr", *rate));
    }
    let tensors = (0..points).map(|i| {
        let name = format!("{}@{}", functions[i / rates.len()].name(), i % rates.len());
        let slice = |buffer| Slice::new(buffer, 8 * i as u64, 8);
        Tensor::new(name, [2], slice(&position)).with_gradient(slice(&gradient))
    });
    let mut optimizer = Optimizer::new(gpu, &config, tensors)?;

    let module = device.create_shader_module(wgpu::include_wgsl!("../../shaders/race.wgsl"));
    let constants = [("POINTS", points as f64)];
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("race"),
        layout: None,
        module: &module,
        entry_point: Some("race"),
        compilation_options: wgpu::PipelineCompilationOptions { constants: &constants, ..Default::default() },
        cache: None,
    });
    let buffers = [&position, &gradient, &state, &trace];
    let entries: Vec<_> = (0..)
        .zip(buffers)
        .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
        .collect();
    let layout = &pipeline.get_bind_group_layout(0);
    let bindings =
        device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some("race"), layout, entries: &entries });
    let evaluate = |encoder: &mut wgpu::CommandEncoder| {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bindings, &[]);
        pass.dispatch_workgroups((points as u32).div_ceil(64), 1, 1);
    };

    let all: Vec<_> = (0..steps).collect();
    for some in all.chunks(SUBMISSION) {
        let mut encoder = device.create_command_encoder(&Default::default());
        for _ in some {
            evaluate(&mut encoder);
            optimizer.step(&mut encoder)?;
        }
        gpu.queue().submit([encoder.finish()]);
    }
    let mut readback = Readback::new(device, trace.size());
    let mut encoder = device.create_command_encoder(&Default::default());
    evaluate(&mut encoder);
    readback.record(&mut encoder, &[trace.slice(..)]);
    gpu.queue().submit([encoder.finish()]);
    readback.request();
    let trace = readback.take(true)?.unwrap_or_default();

    let path = |point: usize, lr: f64| {
        let at = |step: usize| std::array::from_fn(|k| f64::from(trace[3 * (step * points + point) + k]));
        Path { lr, points: (0..=steps).map(at).collect() }
    };
    let best = |function: usize| {
        let paths = rates.iter().enumerate().map(|(place, lr)| path(function * rates.len() + place, *lr));
        // What is not a number is no end.
        let end = |path: &Path| if path.end().is_finite() { path.end() } else { f64::INFINITY };
        paths.min_by(|a, b| end(a).total_cmp(&end(b)))
    };
    Ok((0..functions.len()).filter_map(best).collect())
}

#[cfg(test)]
mod tests {
    use wgpu_optim::rules::Sgd;

    use super::*;

    #[test]
    fn steps_to_a_value_are_those_after_which_it_stays() {
        let path = |values: &[f64]| Path { lr: 1.0, points: values.iter().map(|v| [0.0, 0.0, *v]).collect() };
        assert_eq!(path(&[3.0, 0.5, 2.0, 0.5, 0.1]).steps_to(1.0), Some(3));
        assert_eq!(path(&[0.5, 0.5]).steps_to(1.0), Some(0));
        assert_eq!(path(&[3.0, f64::NAN]).steps_to(1.0), None);
    }

    /// The kernel's values are the host's, and a step of plain descent goes along the host's slopes.
    #[test]
    fn kernels_know_the_functions() {
        let gpu = Gpu::headless().unwrap_or_else(|e| panic!("this test needs a GPU adapter: {e}"));
        let rate = 1e-4;
        let paths = run(&gpu, &Sgd::default(), &Function::ALL, &[rate], 1).unwrap();
        for (function, path) in Function::ALL.into_iter().zip(paths) {
            let [start, end] = [path.points[0], path.points[1]];
            let [x, y] = function.start().map(f64::from);
            let value = function.value(x, y);
            // Terms of up to 200 in f32, and WGSL lets a cosine be off by 5e-4.
            assert!((start[2] - value).abs() < 1e-2 + 1e-5 * value, "{function:?}: {} and {value}", start[2]);
            let h = 1e-6;
            let slopes = [
                (function.value(x + h, y) - function.value(x - h, y)) / (2.0 * h),
                (function.value(x, y + h) - function.value(x, y - h)) / (2.0 * h),
            ];
            let norm = slopes[0].hypot(slopes[1]);
            for k in 0..2 {
                let slope = (start[k] - end[k]) / rate;
                // A position near 2 is rounded at 1e-7, a thousandth of a unit of slope.
                assert!((slope - slopes[k]).abs() < 2e-3 * (1.0 + norm), "{function:?}: {slope} and {}", slopes[k]);
            }
            for (x, y) in function.minima() {
                assert!(function.value(*x, *y).abs() < 1e-12);
            }
        }
    }
}

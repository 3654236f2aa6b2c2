//! A device checked against the float64 oracle: what a user with an odd driver, and the author of a
//! rule, runs before trusting either.

mod stored;
mod variations;

use ndarray::{ArrayD, IxDyn};
pub use variations::{RuleVariation, variations};

use crate::cpu::{CpuOptimizer, CpuTensor};
use crate::gpu::{Arena, Gpu, Optimizer, Slice, Tensor};
use crate::rule::Rule;
use crate::step::Plan;
use crate::storage::Storage;
use crate::{Element, Error, Group, OptimizerConfig, OptimizerState, Result, TensorSpec};

/// What f32 may be off the oracle, by ‖out − ref‖ / ‖ref − start‖.
pub const F32_LIMIT: f64 = 1e-5;

/// How much further than the CPU's own f32 run the GPU may be off where that run passes [`F32_LIMIT`]:
/// both round p at every step, and draw those roundings independently.
const SAME_NOISE: f64 = 2.0;

/// Shapes of the tensors: ends within a `vec4`, within a block, past a block; matrices and stacks of
/// them.
const SHAPES: [&[u64]; 7] = [&[1], &[3], &[257], &[17, 241], &[5, 3, 7], &[4097], &[0, 7]];

/// One figure of a check.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// `parameters`, or a slot's name.
    pub what: String,
    /// The tensor.
    pub tensor: String,
    /// The GPU's error against the float64 oracle.
    pub error: f64,
    /// What it may be.
    pub allowed: f64,
}

impl Finding {
    /// Whether the error is within what is allowed. NaN is not.
    pub fn passed(&self) -> bool {
        self.error <= self.allowed
    }
}

/// Runs `steps` steps of a configuration on the device and on the oracle, and compares parameters and
/// all slots. Where something is not stored in f32, each step is compared by itself, and the errors are in steps
/// from one number of the storage to the next.
///
/// # Errors
/// The configuration cannot be used, or the device fails.
pub fn compare(gpu: &Gpu, config: &OptimizerConfig, steps: usize) -> Result<Vec<Finding>> {
    let ordinary = |numbers: &mut Numbers, _: usize| 0.5 * numbers.next();
    compare_with(gpu, config, steps, ordinary)
}

/// [`compare`] with gradients of that magnitude, among them zeros of both signs and subnormal numbers.
/// Magnitudes whose squares leave f32 show whether norms do not.
///
/// # Errors
/// As [`compare`].
pub fn compare_special_values(
    gpu: &Gpu,
    config: &OptimizerConfig,
    steps: usize,
    magnitude: f32,
) -> Result<Vec<Finding>> {
    let special = |numbers: &mut Numbers, element: usize| {
        let value = magnitude * numbers.next();
        match element % 16 {
            3 => 0.0,
            5 => -0.0,
            // A device may take it for zero: beside the magnitudes of a check that shows nowhere.
            7 => f32::from_bits(1),
            _ => value,
        }
    };
    compare_with(gpu, config, steps, special)
}

fn compare_with(
    gpu: &Gpu,
    config: &OptimizerConfig,
    steps: usize,
    gradient: impl Fn(&mut Numbers, usize) -> f32,
) -> Result<Vec<Finding>> {
    let spec = |(i, shape): (usize, &&[u64])| TensorSpec::new(format!("tensor{i}"), shape.to_vec());
    let specs: Vec<_> = SHAPES.iter().enumerate().map(spec).collect();
    let mut numbers = Numbers(0x5eed);
    let mut draw = |value: &dyn Fn(&mut Numbers, usize) -> f32| -> Vec<Vec<f32>> {
        let elements = |shape: &&[u64]| shape.iter().product::<u64>() as usize;
        let mut values = |shape: &&[u64]| (0..elements(shape)).map(|e| value(&mut numbers, e)).collect();
        SHAPES.iter().map(&mut values).collect()
    };
    let params = draw(&|numbers, _| numbers.next());
    let gradients: Vec<_> = (0..steps).map(|_| draw(&gradient)).collect();

    let plan = Plan::new(config, &specs)?;
    if plan.variants.iter().any(|variant| variant.storage != Storage::default()) {
        return stored::compare(gpu, config, &specs, &params, &gradients);
    }
    let exact = run_cpu::<f64>(config, &specs, &params, &gradients)?;
    let rounded = run_cpu::<f32>(config, &specs, &params, &gradients)?;
    let mut run = GpuRun::new(gpu, config, &specs, &params)?;
    gradients.iter().try_for_each(|gradients| run.step(gradients))?;
    let (found, state) = run.read()?;
    let found = collect(found.iter().map(|p| p.iter().map(|x| f64::from(*x)).collect()).collect(), state);
    let mut findings = Vec::new();
    for ((exact, rounded), found) in exact.iter().zip(&rounded).zip(&found) {
        let start = match exact.what.as_str() {
            "parameters" => params[exact.tensor].iter().map(|x| f64::from(*x)).collect(),
            _ => vec![0.0; exact.values.len()],
        };
        let floor = update_error(&rounded.values, &exact.values, &start);
        findings.push(Finding {
            what: exact.what.clone(),
            tensor: specs[exact.tensor].name.clone(),
            error: update_error(&found.values, &exact.values, &start),
            allowed: F32_LIMIT.max(SAME_NOISE * floor),
        });
    }
    Ok(findings)
}

/// Runs `steps` steps over tensors that lie between words of the caller's, at offsets that no vector starts at, and
/// says what went wrong: a word beside the tensors that is no longer as it was, a parameter that was not written,
/// or other bits than the same run in an arena has.
///
/// # Errors
/// The configuration cannot be used, or the device fails.
pub fn check_guard_words(gpu: &Gpu, config: &OptimizerConfig, steps: usize) -> Result<Option<String>> {
    /// A NaN whose payload tells its place: whatever is computed with it shows.
    fn guard(word: u64) -> u32 {
        0x7fa0_0000 | (word as u32 & 0xf_ffff)
    }
    let spec = |(i, shape): (usize, &&[u64])| TensorSpec::new(format!("tensor{i}"), shape.to_vec());
    let specs: Vec<_> = SHAPES.iter().enumerate().map(spec).collect();
    let mut numbers = Numbers(0x9a7d);
    let mut draw = || -> Vec<Vec<f32>> {
        let values = |shape: &&[u64]| (0..shape.iter().product()).map(|_| numbers.next()).collect();
        SHAPES.iter().map(values).collect()
    };
    let params = draw();
    let gradients: Vec<_> = (0..steps).map(|_| draw()).collect();
    let mut in_arena = GpuRun::new(gpu, config, &specs, &params)?;
    gradients.iter().try_for_each(|gradients| in_arena.step(gradients))?;
    let (in_arena, _) = in_arena.read()?;

    let mut places = Vec::new();
    let mut end = 0u64;
    for (i, spec) in (0u64..).zip(&specs) {
        let elements = spec.elements().unwrap_or(0);
        let start = (end + 5).next_multiple_of(64) + i % 3 + 1;
        places.push((start, elements));
        end = start + elements;
    }
    let words: Vec<u32> = (0..end + 5).map(guard).collect();
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let [weights, slopes] = [(); 2].map(|()| {
        gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("guarded"),
            size: words.len() as u64 * 4,
            usage,
            mapped_at_creation: false,
        })
    });
    let slice = |buffer, (start, elements): &(u64, u64)| Slice::new(buffer, start * 4, elements * 4);
    let whole = Slice::new(&weights, 0, weights.size());
    let values: Vec<f32> = words.iter().map(|word| f32::from_bits(*word)).collect();
    gpu.write(&whole, &values)?;
    gpu.write(&Slice::new(&slopes, 0, slopes.size()), &values)?;
    let tensors: Vec<_> = specs
        .iter()
        .zip(&places)
        .map(|(spec, place)| {
            Tensor::new(spec.name.clone(), spec.shape.clone(), slice(&weights, place))
                .with_gradient(slice(&slopes, place))
        })
        .collect();
    for (tensor, params) in tensors.iter().zip(&params) {
        gpu.write(&tensor.params, params)?;
    }
    let mut optimizer = Optimizer::new(gpu, config, tensors.clone())?;
    for gradients in &gradients {
        for (tensor, values) in tensors.iter().zip(gradients) {
            tensor.gradient.iter().try_for_each(|slice| gpu.write(slice, values))?;
        }
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        optimizer.step(&mut encoder)?;
        gpu.queue().submit([encoder.finish()]);
    }
    let found = optimizer.params_blocking()?;
    // The guards, read as the parameters of an optimizer that never steps.
    let around = Tensor::new("guards", [words.len() as u64], whole);
    let frozen = OptimizerConfig::from_boxed(config.rule.boxed()).group(Group::matching("*").frozen());
    let around = Optimizer::new(gpu, &frozen, [around])?.params_blocking()?.swap_remove(0);
    let within = |word: u64| places.iter().any(|(start, len)| (*start..start + len).contains(&word));
    let broken = (0u64..).zip(&around).filter(|(word, x)| !within(*word) && x.to_bits() != guard(*word)).count();
    if broken > 0 {
        return Ok(Some(format!("{broken} words beside the tensors were written")));
    }
    let same = |(t, values): (usize, &Vec<f32>)| {
        in_arena[t].iter().map(|x| x.to_bits()).eq(values.iter().map(|x| x.to_bits()))
    };
    let differs = found.iter().enumerate().find(|pair| !same(*pair)).map(|(t, _)| &specs[t].name);
    Ok(differs.map(|name| format!("{name} has other bits than in an arena")))
}

/// Checks a rule: its WGSL compiles, and its twin does the same.
///
/// # Errors
/// [`Error::Shader`] with the compiler's words, or [`Error::Twin`] with the rule's line and the figures.
pub fn check_rule(gpu: &Gpu, rule: &dyn Rule) -> Result<()> {
    let findings = compare(gpu, &OptimizerConfig::from_boxed(rule.boxed()), 5)?;
    let Some(miss) = findings.iter().find(|f| !f.passed()) else { return Ok(()) };
    let (number, line) = rule
        .wgsl()
        .lines()
        .enumerate()
        .find(|(_, line)| line.trim_start().starts_with("fn direction"))
        .map_or((0, ""), |(i, line)| (i + 1, line.trim()));
    Err(Error::Twin {
        rule: rule.name().to_owned(),
        reason: format!(
            "{} of {} are {:.1e} off, allowed {:.1e}; line {number} of its WGSL: {line}",
            miss.what, miss.tensor, miss.error, miss.allowed
        ),
    })
}

/// ‖out − ref‖ / ‖ref − start‖; zero where nothing is off.
pub fn update_error(out: &[f64], reference: &[f64], start: &[f64]) -> f64 {
    let norm = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    let off = norm(out, reference);
    if off == 0.0 { 0.0 } else { off / norm(reference, start) }
}

struct Values {
    what: String,
    tensor: usize,
    values: Vec<f64>,
}

fn collect<F: Copy + Into<f64>>(params: Vec<Vec<f64>>, state: OptimizerState<F>) -> Vec<Values> {
    let params =
        params.into_iter().enumerate().map(|(tensor, values)| Values { what: "parameters".into(), tensor, values });
    let slots = state.tensors.into_iter().enumerate().flat_map(|(tensor, t)| {
        t.slots.into_iter().map(move |(what, values)| Values {
            what,
            tensor,
            values: values.into_iter().map(Into::into).collect(),
        })
    });
    params.chain(slots).collect()
}

fn arrays<F: Element>(specs: &[TensorSpec], values: &[Vec<f32>]) -> Vec<ArrayD<F>> {
    let array = |(spec, v): (&TensorSpec, &Vec<f32>)| {
        let shape: Vec<_> = spec.shape.iter().map(|n| *n as usize).collect();
        let mut values = v.iter().map(|x| F::of(f64::from(*x)));
        // One value for each element.
        ArrayD::from_shape_simple_fn(IxDyn(&shape), || values.next().unwrap_or_else(F::zero))
    };
    specs.iter().zip(values).map(array).collect()
}

fn run_cpu<F: Element + Into<f64>>(
    config: &OptimizerConfig,
    specs: &[TensorSpec],
    params: &[Vec<f32>],
    gradients: &[Vec<Vec<f32>>],
) -> Result<Vec<Values>> {
    let mut optimizer = CpuOptimizer::<F>::new(config, specs)?;
    let mut params = arrays(specs, params);
    for gradients in gradients {
        let gradients = arrays(specs, gradients);
        let tensors = params.iter_mut().zip(&gradients).map(|(p, g)| CpuTensor::new(p.view_mut(), g.view()));
        optimizer.step(&mut tensors.collect::<Vec<_>>())?;
    }
    Ok(collect(params.iter().map(|p| p.iter().map(|x| (*x).into()).collect()).collect(), optimizer.state()))
}

/// An optimizer on the device and the memory that it works in.
struct GpuRun {
    gpu: Gpu,
    arena: Arena,
    optimizer: Optimizer,
}

impl GpuRun {
    fn new(gpu: &Gpu, config: &OptimizerConfig, specs: &[TensorSpec], params: &[Vec<f32>]) -> Result<Self> {
        let arena = Arena::for_config(gpu, config, specs.iter().cloned())?;
        for (spec, params) in specs.iter().zip(params) {
            arena.write_params(&spec.name, params)?;
        }
        let optimizer = Optimizer::new(gpu, config, arena.tensors().iter().cloned())?;
        Ok(Self { gpu: gpu.clone(), arena, optimizer })
    }

    fn step(&mut self, gradients: &[Vec<f32>]) -> Result<()> {
        for (tensor, gradient) in self.arena.tensors().iter().zip(gradients) {
            self.arena.write_gradient(&tensor.spec.name, gradient)?;
        }
        let mut encoder = self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.optimizer.step(&mut encoder)?;
        self.gpu.queue().submit([encoder.finish()]);
        Ok(())
    }

    fn read(&self) -> Result<(Vec<Vec<f32>>, OptimizerState)> {
        Ok((self.optimizer.params_blocking()?, self.optimizer.state_blocking()?))
    }
}

/// splitmix64 (Steele, Lea & Flood 2014): the same numbers on every machine.
struct Numbers(u64);

impl Numbers {
    /// Uniform in [-1, 1).
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

//! Golden vectors of PyTorch, Optax and others in float64: on the GPU, on the CPU in f32, and the oracle.
//!
//! f32 must come within 1e-5 of the float64 reference by the update measure, or within the error of
//! the reference's own float32 run where that is larger: rounding p at every step sets a floor when
//! updates are small beside p. After one step, for which there is no such run, the floor is the
//! rounding of the reference's own p to f32, twice: the backend may round to the other neighbour. The
//! f64 oracle must come within 1e-10.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ndarray::{ArrayD, IxDyn};
use safetensors::SafeTensors;
use serde_json::Value;
use support::{arena, gpu, relative_error, submit, update_error, wide};
use wgpu_optim::cpu::{CpuOptimizer, CpuTensor};
use wgpu_optim::{CpuFloat, Optimizer, OptimizerConfig, OptimizerState, TensorSpec};

/// What an f32 backend may be off.
const F32_LIMIT: f64 = 1e-5;
/// What the oracle may be off: both are float64, and 20 steps of a few roundings stay far below.
const ORACLE_LIMIT: f64 = 1e-10;

/// Both errors are the same rounding of p, drawn once each: PyTorch fuses lr·u into the subtraction
/// where it can, which moves such an error by up to 0.03 %.
const SAME_NOISE: f64 = 1.01;

/// What a loss scale may be off: both round it to f32 now and then.
const SCALE_LIMIT: f64 = 1e-6;

type Named = BTreeMap<String, Vec<f64>>;

struct Inputs {
    specs: Vec<TensorSpec>,
    params: Vec<Vec<f32>>,
    gradients: Vec<Vec<Vec<f32>>>,
}

#[derive(Debug)]
struct Case {
    name: String,
    config: OptimizerConfig,
    gradient_scale: f32,
    steps: usize,
    slots: BTreeMap<String, Vec<String>>,
    /// The reference's own float32 error by tensor, and by `tensor.slot`.
    peer: BTreeMap<String, Option<f64>>,
    peer_slots: BTreeMap<String, Option<f64>>,
    expected: Named,
    /// What a dynamic loss scale was before each micro-batch and at the end.
    scales: Vec<f64>,
    /// Elements that a micro-batch has instead of its own: its number, the tensor, the element.
    spoiled: Vec<(usize, String, usize, f32)>,
}

struct Outcome {
    first: Vec<Vec<f64>>,
    last: Vec<Vec<f64>>,
    slots: Named,
    /// The weights to evaluate with, where they are others.
    evaluation: Option<Vec<Vec<f64>>>,
    /// The loss scale after each micro-batch.
    scales: Vec<f64>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn inputs() -> Inputs {
    let bytes = std::fs::read(folder().join("inputs.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |key: &str| -> Vec<f32> {
        let view = file.tensor(key).unwrap();
        view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let mut names: Vec<_> = file.names().into_iter().filter_map(|n| n.strip_prefix("params/")).collect();
    names.sort_unstable();
    let specs: Vec<_> = names
        .iter()
        .map(|name| {
            let shape = file.tensor(&format!("params/{name}")).unwrap().shape().to_vec();
            TensorSpec::new(*name, shape.into_iter().map(|n| n as u64).collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(specs.len(), 5);
    let gradients =
        (0..20).map(|step| names.iter().map(|name| values(&format!("grads/{step:02}/{name}"))).collect()).collect();
    Inputs { params: names.iter().map(|name| values(&format!("params/{name}"))).collect(), specs, gradients }
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join("cases.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    document["cases"].as_array().unwrap().iter().map(case).collect()
}

fn case(row: &Value) -> Case {
    let name = row["name"].as_str().unwrap().to_owned();
    let bytes = std::fs::read(folder().join("cases").join(format!("{name}.safetensors"))).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let expected = file
        .tensors()
        .into_iter()
        .map(|(key, view)| {
            (key, view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect())
        })
        .collect();
    Case {
        config: serde_json::from_value(row["config"].clone()).unwrap_or_else(|e| panic!("{name}: {e}")),
        gradient_scale: row["gradient_scale"].as_f64().unwrap() as f32,
        steps: row["steps"].as_u64().unwrap() as usize,
        slots: serde_json::from_value(row["slots"].clone()).unwrap(),
        peer: serde_json::from_value(row["peer_f32_error"].clone()).unwrap(),
        peer_slots: serde_json::from_value(row["peer_f32_slot_error"].clone()).unwrap(),
        expected,
        scales: row.get("scales").map(|x| serde_json::from_value(x.clone()).unwrap()).unwrap_or_default(),
        spoiled: row.get("spoiled").map(spoiled).unwrap_or_default(),
        name,
    }
}

fn spoiled(rows: &Value) -> Vec<(usize, String, usize, f32)> {
    let rows: Vec<(usize, String, usize, String)> = serde_json::from_value(rows.clone()).unwrap();
    rows.into_iter().map(|(micro, tensor, element, value)| (micro, tensor, element, value.parse().unwrap())).collect()
}

fn scaled(inputs: &Inputs, case: &Case, step: usize) -> Vec<Vec<f32>> {
    let dynamic = case.scales.get(step).map_or(1.0, |scale| *scale as f32);
    let scale = |g: &Vec<f32>| g.iter().map(|x| x * case.gradient_scale * dynamic).collect();
    let mut gradients: Vec<Vec<f32>> = inputs.gradients[step].iter().map(scale).collect();
    for (_, tensor, element, value) in case.spoiled.iter().filter(|(micro, ..)| *micro == step) {
        let index = inputs.specs.iter().position(|spec| spec.name == *tensor).unwrap();
        gradients[index][*element] = *value;
    }
    gradients
}

fn slots<F: Copy + Into<f64>>(state: &OptimizerState<F>) -> Named {
    let tensors = state.tensors.iter();
    tensors
        .flat_map(|t| t.slots.iter().map(|(s, v)| (format!("{}.{s}", t.name), v.iter().map(|x| (*x).into()).collect())))
        .collect()
}

fn run_cpu<F: CpuFloat + Into<f64>>(inputs: &Inputs, case: &Case) -> Outcome {
    let mut optimizer = CpuOptimizer::<F>::new(&case.config, &inputs.specs).unwrap();
    let array = |spec: &TensorSpec, values: &[f32]| {
        let shape: Vec<_> = spec.shape.iter().map(|n| *n as usize).collect();
        let values = values.iter().map(|x| F::of(f64::from(*x))).collect();
        ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap()
    };
    let arrays =
        |values: &[Vec<f32>]| -> Vec<ArrayD<F>> { inputs.specs.iter().zip(values).map(|(s, v)| array(s, v)).collect() };
    let wide = |params: &[ArrayD<F>]| params.iter().map(|p| p.iter().map(|x| (*x).into()).collect()).collect();
    let mut params = arrays(&inputs.params);
    let (mut first, mut scales) = (Vec::new(), Vec::new());
    for step in 0..case.steps {
        let gradients = arrays(&scaled(inputs, case, step));
        let mut tensors: Vec<_> =
            params.iter_mut().zip(&gradients).map(|(p, g)| CpuTensor::new(p.view_mut(), g.view())).collect();
        let report = optimizer.step(&mut tensors).unwrap();
        scales.push(report.loss_scale);
        if report.steps_taken == 1 && first.is_empty() {
            first = wide(&params);
        }
    }
    let evaluation = optimizer.plan().averages().then(|| {
        let views: Vec<_> = params.iter_mut().map(|p| p.view_mut()).collect();
        wide(&optimizer.evaluation_weights(&views).unwrap())
    });
    Outcome { first, last: wide(&params), slots: slots(&optimizer.state()), evaluation, scales }
}

fn run_gpu(inputs: &Inputs, case: &Case) -> Outcome {
    let gpu = gpu();
    let arena = arena(&gpu, &inputs.specs, &inputs.params);
    let mut optimizer = Optimizer::new(&gpu, &case.config, arena.tensors().to_vec()).unwrap();
    let read = |optimizer: &Optimizer| optimizer.params_blocking().unwrap().iter().map(|p| wide(p)).collect();
    let (mut first, mut scales): (Vec<Vec<f64>>, _) = (Vec::new(), Vec::new());
    for step in 0..case.steps {
        for (spec, gradient) in inputs.specs.iter().zip(scaled(inputs, case, step)) {
            arena.write_gradient(&spec.name, &gradient).unwrap();
        }
        submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
        let report = optimizer.wait_for_report().unwrap().unwrap();
        scales.push(report.loss_scale);
        if report.steps_taken == 1 && first.is_empty() {
            first = read(&optimizer);
        }
    }
    let last = read(&optimizer);
    let evaluation = optimizer.plan().averages().then(|| {
        submit(&gpu, |encoder| optimizer.begin_evaluation(encoder).unwrap());
        let weights = read(&optimizer);
        submit(&gpu, |encoder| optimizer.end_evaluation(encoder).unwrap());
        assert_eq!(read(&optimizer), last, "training goes on where it was");
        weights
    });
    Outcome { first, last, slots: slots(&optimizer.state_blocking().unwrap()), evaluation, scales }
}

/// Every figure of a case that is over its limit, in words.
fn misses(inputs: &Inputs, case: &Case, outcome: &Outcome, limit: f64, forgive_peer: bool) -> Vec<String> {
    let mut misses = Vec::new();
    let allowed = |peer: Option<&Option<f64>>| match peer {
        Some(Some(error)) if forgive_peer => (SAME_NOISE * error).max(limit),
        _ => limit,
    };
    for (index, spec) in inputs.specs.iter().enumerate() {
        let name = &spec.name;
        let start = wide(&inputs.params[index]);
        let mut stages = vec![("step01", &outcome.first[index]), ("final", &outcome.last[index])];
        assert_eq!(outcome.evaluation.is_some(), case.expected.contains_key(&format!("eval/{name}")), "{}", case.name);
        stages.extend(outcome.evaluation.iter().map(|weights| ("eval", &weights[index])));
        for (stage, values) in stages {
            let expected = &case.expected[&format!("{stage}/{name}")];
            let error = update_error(values, expected, &start);
            let rounded: Vec<_> = expected.iter().map(|x| f64::from(*x as f32)).collect();
            let floor = Some(2.0 * update_error(&rounded, expected, &start));
            let allowed = if stage == "final" { allowed(case.peer.get(name)) } else { allowed(Some(&floor)) };
            if error.is_nan() || error > allowed {
                misses.push(format!("{} {stage}/{name}: {error:.4e} over {allowed:.4e}", case.name));
            }
        }
    }
    for (slot, tensors) in &case.slots {
        for tensor in tensors {
            let key = format!("{tensor}.{slot}");
            let error = relative_error(&outcome.slots[&key], &case.expected[&format!("slot/{key}")]);
            let allowed = allowed(case.peer_slots.get(&key));
            if error.is_nan() || error > allowed {
                misses.push(format!("{} slot/{key}: {error:.4e} over {allowed:.4e}", case.name));
            }
        }
    }
    // Scales are f32 at best, as PyTorch's.
    let close = |(found, expected): (&f64, &f64)| (found / expected - 1.0).abs() <= SCALE_LIMIT;
    if !case.scales.is_empty() && !outcome.scales.iter().zip(&case.scales[1..]).all(close) {
        misses.push(format!("{} loss scales {:?}, expected {:?}", case.name, outcome.scales, case.scales));
    }
    misses
}

fn check(run: impl Fn(&Inputs, &Case) -> Outcome, limit: f64, forgive_peer: bool) {
    let inputs = inputs();
    let mut all = Vec::new();
    for case in cases() {
        all.extend(misses(&inputs, &case, &run(&inputs, &case), limit, forgive_peer));
    }
    assert!(all.is_empty(), "{} misses:\n{}", all.len(), all.join("\n"));
}

#[test]
fn oracle_agrees_with_the_references() {
    check(run_cpu::<f64>, ORACLE_LIMIT, false);
}

#[test]
fn cpu_f32_agrees_with_the_references() {
    check(run_cpu::<f32>, F32_LIMIT, true);
}

#[test]
fn gpu_agrees_with_the_references() {
    check(run_gpu, F32_LIMIT, true);
}

#[test]
fn a_perturbed_result_is_a_miss() {
    let inputs = inputs();
    let cases = cases();
    let case = cases.iter().find(|c| c.name == "adamw_amsgrad").unwrap();
    let run = || run_cpu::<f64>(&inputs, case);
    assert!(misses(&inputs, case, &run(), ORACLE_LIMIT, false).is_empty());

    // One element of 61, off by a thousandth of its own way.
    let mut outcome = run();
    let start = f64::from(inputs.params[0][7]);
    outcome.last[0][7] += 1e-3 * (outcome.last[0][7] - start);
    assert!(!misses(&inputs, case, &outcome, F32_LIMIT, true).is_empty());

    let mut outcome = run();
    outcome.slots.get_mut("odd.max_exp_avg_sq").unwrap()[256] *= 1.01;
    assert!(!misses(&inputs, case, &outcome, F32_LIMIT, true).is_empty());

    let mut outcome = run();
    outcome.first[0][0] = f64::NAN;
    assert!(!misses(&inputs, case, &outcome, F32_LIMIT, true).is_empty());

    let case = cases.iter().find(|c| c.name == "adamw_dynamic_scale").unwrap();
    let mut outcome = run_cpu::<f64>(&inputs, case);
    assert_eq!(outcome.scales.len() + 1, case.scales.len());
    assert!(misses(&inputs, case, &outcome, ORACLE_LIMIT, false).is_empty());
    outcome.scales[7] *= 2.0;
    assert_eq!(misses(&inputs, case, &outcome, F32_LIMIT, true).len(), 1);
}

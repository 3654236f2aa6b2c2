//! Gradient conditioning: clipping and normalising over the whole range of f32, non-finite elements
//! of every kind and at every place, and zeroing.
//!
//! The momentum buffer of the first step is the conditioned gradient itself, so it is compared
//! element by element with a model in f64. The limit of 1e-6 is what an f32 sum of squares over
//! 24,000 elements in two levels, its root and three multiplications leave, several times over.

mod support;

use support::model::{Model, PLACES, Place, read_slice};
use support::oracle::{Oracle, Run};
use support::{Numbers, gpu, wide};
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::{GradientConfig, Group, OnNonfinite, OptimizerConfig, Report, TensorSpec};

const LIMIT: f64 = 1e-6;
const SIZES: [u64; 4] = [5, 4099, 20_000, 1];

fn specs() -> Vec<TensorSpec> {
    SIZES.iter().map(|n| TensorSpec::new(format!("t{n}"), [*n])).collect()
}

fn parameters() -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(1);
    SIZES.iter().map(|n| numbers.take(*n as usize).iter().map(|x| x / 32.0).collect()).collect()
}

/// Between half the magnitude and all of it, of both signs.
fn around(magnitude: f32, seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    let mut one = || {
        let x = numbers.next();
        magnitude * (0.5 + 0.5 * x.abs()) * x.signum()
    };
    SIZES.iter().map(|n| (0..*n).map(|_| one()).collect()).collect()
}

/// Elements of those magnitudes in turn, side by side in every tensor.
fn mixed(magnitudes: &[f32]) -> Vec<Vec<f32>> {
    let parts: Vec<_> = magnitudes.iter().enumerate().map(|(i, m)| around(*m, 50 + i as u64)).collect();
    let element = |t: usize, i: usize| parts[i % parts.len()][t][i];
    SIZES.iter().enumerate().map(|(t, n)| (0..*n as usize).map(|i| element(t, i)).collect()).collect()
}

fn inputs() -> Vec<(&'static str, Vec<Vec<f32>>)> {
    let lonely = |value: f32| {
        let mut gradients = around(0.0, 1);
        gradients[2][19_999] = value;
        gradients
    };
    vec![
        ("1", around(1.0, 2)),
        ("1e25", around(1e25, 3)),
        ("1e-28", around(1e-28, 4)),
        ("3e38", around(3e38, 5)),
        ("2e-38", around(2e-38, 6)),
        // Squares that f32 does not hold, and either side of the scales of the sum.
        ("1e20", around(1e20, 10)),
        ("1e-20", around(1e-20, 11)),
        ("2^46", around(1.5 * 2f32.powi(46), 7)),
        ("2^-50", around(1.5 * 2f32.powi(-50), 8)),
        ("1e25 beside 1", mixed(&[1e25, 1.0])),
        ("1 beside 1e-28", mixed(&[1.0, 1e-28])),
        ("all", mixed(&[1.0, 1e25, 1e-28, 3e38, 1e-5, 1e15])),
        ("zero", around(0.0, 9)),
        ("one tiny element", lonely(1e-30)),
        ("one small element", lonely(1e-21)),
    ]
}

fn gradient(set: impl FnOnce(&mut GradientConfig)) -> GradientConfig {
    let mut gradient = GradientConfig::default();
    set(&mut gradient);
    gradient
}

fn conditionings() -> Vec<GradientConfig> {
    let mut all = vec![gradient(|_| {}), gradient(|g| g.clip_value = Some(0.5))];
    for value in [None, Some(0.5), Some(1e24)] {
        for norm in [1.0, 1e-20, 1e20] {
            all.push(gradient(|g| (g.clip_value, g.clip_global_norm) = (value, Some(norm))));
            all.push(gradient(|g| (g.clip_value, g.normalize_global_norm) = (value, Some(norm))));
        }
    }
    all
}

/// What the documentation says, in f64: the conditioned gradients, their norm before, the factor.
fn model_of(gradients: &[Vec<f32>], config: &GradientConfig) -> (Vec<Vec<f64>>, f64, f64) {
    let clip = |g: f64| config.clip_value.map_or(g, |c| g.clamp(-c, c));
    let clipped: Vec<Vec<f64>> = gradients.iter().map(|t| wide(t).into_iter().map(clip).collect()).collect();
    let norm = clipped.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
    let factor = match (config.clip_global_norm, config.normalize_global_norm) {
        (Some(limit), None) => (limit / (norm + 1e-6)).min(1.0),
        (None, Some(_)) if norm == 0.0 => 0.0,
        (None, Some(limit)) => limit / norm,
        _ => 1.0,
    };
    (clipped.into_iter().map(|t| t.into_iter().map(|g| g * factor).collect()).collect(), norm, factor)
}

/// Its first momentum buffer is the conditioned gradient.
fn bare(gradient: &GradientConfig) -> OptimizerConfig {
    OptimizerConfig::new(Sgd { lr: 0.0, momentum: 0.5, ..Sgd::default() }).gradient(gradient.clone())
}

/// Whether `got` is `want` to within [`LIMIT`], or below what f32 holds without flushing.
fn close(got: f64, want: f64) -> bool {
    (got - want).abs() <= LIMIT * want.abs() + f64::from(f32::MIN_POSITIVE)
}

/// The gradients to a device that takes subnormal numbers for zero, which WGSL allows.
fn flushed(gradients: &[Vec<f32>]) -> Vec<Vec<f32>> {
    gradients.iter().map(|t| t.iter().map(|g| if g.is_subnormal() { 0.0 } else { *g }).collect()).collect()
}

/// As the documentation says, subnormal numbers counted or all of them taken for zero.
fn assert_conditioned(what: &str, buffers: &[Vec<f64>], report: &Report, gradients: &[Vec<f32>], g: &GradientConfig) {
    let needs_norm = g.clip_global_norm.is_some() || g.normalize_global_norm.is_some();
    assert_eq!(report.global_norm.is_some(), needs_norm);
    assert!(!report.skipped && report.nonfinite == 0 && report.steps_taken == 1);
    let problem = problem_of(buffers, report, gradients, g);
    if let Some(problem) = problem.filter(|_| problem_of(buffers, report, &flushed(gradients), g).is_some()) {
        panic!("{what} {g:?}: {problem}");
    }
}

fn problem_of(buffers: &[Vec<f64>], report: &Report, gradients: &[Vec<f32>], g: &GradientConfig) -> Option<String> {
    let (want, norm, factor) = model_of(gradients, g);
    for (t, (got, want)) in buffers.iter().zip(&want).enumerate() {
        assert_eq!(got.len(), want.len());
        if let Some(i) = (0..want.len()).find(|i| !close(got[*i], want[*i])) {
            return Some(format!("element {i} of tensor {t} is {:e}, expected {:e}", got[i], want[i]));
        }
    }
    // Not by `close`: norms and factors far below f32 must be right too.
    let near = |got: f64, want: f64| (got - want).abs() <= LIMIT * want;
    let coefficient = report.clip_coefficient;
    match report.global_norm {
        Some(got) if !near(got, norm) => Some(format!("norm {got:e}, expected {norm:e}")),
        _ if !near(coefficient, factor) => Some(format!("coefficient {coefficient:e}, expected {factor:e}")),
        _ => None,
    }
}

#[test]
fn gradients_of_any_magnitude_are_conditioned_to_the_last_digits() {
    let gpu = gpu();
    for (what, gradients) in inputs() {
        for g in conditionings() {
            for place in [Place::Arena, Place::OneBuffer] {
                let mut model = Model::new(&gpu, &bare(&g), &specs(), &parameters(), place);
                model.step(&gradients);
                let report = model.optimizer.wait_for_report().unwrap().unwrap();
                let state = model.optimizer.state_blocking().unwrap();
                let buffers: Vec<_> = state.tensors.iter().map(|t| wide(&t.slots[0].1)).collect();
                assert_conditioned(&format!("{what} {place:?}"), &buffers, &report, &gradients, &g);
            }
        }
    }
}

#[test]
fn so_are_they_on_the_cpu_in_either_precision() {
    for (what, gradients) in inputs() {
        for g in conditionings() {
            let mut run = Run::<f32>::new(&bare(&g), &specs(), &parameters());
            let report = run.step(&gradients.iter().cloned().map(Some).collect::<Vec<_>>());
            let state = run.optimizer.state();
            let buffers: Vec<_> = state.tensors.iter().map(|t| wide(&t.slots[0].1)).collect();
            assert_conditioned(&format!("{what} f32"), &buffers, &report, &gradients, &g);

            let mut run = Run::<f64>::new(&bare(&g), &specs(), &parameters());
            let report = run.step(&gradients.iter().map(|t| Some(wide(t))).collect::<Vec<_>>());
            let state = run.optimizer.state();
            let buffers: Vec<_> = state.tensors.iter().map(|t| t.slots[0].1.clone()).collect();
            assert_conditioned(&format!("{what} f64"), &buffers, &report, &gradients, &g);
        }
    }
}

#[test]
fn a_perturbed_gradient_norm_or_coefficient_is_found() {
    let g = gradient(|g| g.clip_global_norm = Some(1.0));
    let gradients = around(1.0, 2);
    let (want, norm, factor) = model_of(&gradients, &g);
    let wide: Vec<_> = gradients.iter().map(|t| Some(wide(t))).collect();
    let mut report = Run::<f64>::new(&bare(&g), &specs(), &parameters()).step(&wide);
    (report.global_norm, report.clip_coefficient) = (Some(norm), factor);
    let found = |change: &dyn Fn(&mut Vec<Vec<f64>>, &mut Report)| {
        let (mut buffers, mut report) = (want.clone(), report);
        change(&mut buffers, &mut report);
        std::panic::catch_unwind(|| assert_conditioned("perturbed", &buffers, &report, &gradients, &g)).is_err()
    };
    assert!(!found(&|_, _| {}));
    assert!(found(&|buffers, _| buffers[2][19_999] *= 1.0 + 3e-6));
    assert!(found(&|buffers, _| buffers[0][0] = f64::NAN));
    assert!(found(&|_, report| report.global_norm = Some(norm * (1.0 + 3e-6))));
    assert!(found(&|_, report| report.clip_coefficient *= 1.0 - 3e-6));
}

#[test]
fn conditioned_steps_follow_the_oracle() {
    let gpu = gpu();
    // Conditioned to about 1, so that their squares are in f32.
    let tame = |g: &GradientConfig| {
        g.clip_value == Some(0.5) || g.clip_global_norm == Some(1.0) || g.normalize_global_norm == Some(1.0)
    };
    for (what, gradients) in inputs() {
        for g in conditionings().into_iter().filter(tame) {
            let config = OptimizerConfig::new(AdamW::default()).gradient(g.clone());
            let mut model = Model::new(&gpu, &config, &specs(), &parameters(), Place::TwoBuffers);
            // Of a device that counts subnormal numbers, and of one that flushes them.
            let mut oracles = [(); 2].map(|()| Oracle::new(&config, &specs(), &parameters()));
            for step in 0..3 {
                let turned: Vec<Vec<f32>> =
                    gradients.iter().map(|t| t.iter().map(|g| if step == 1 { -g } else { *g }).collect()).collect();
                model.step(&turned);
                oracles[0].step_all(&turned);
                oracles[1].step_all(&flushed(&turned));
            }
            let state = model.optimizer.state_blocking().unwrap();
            let misses = oracles.map(|oracle| oracle.misses(&model.params(), &state));
            assert!(misses.iter().any(Vec::is_empty), "{what} {g:?}:\n{}", misses[0].join("\n"));
            model.assert_guards();
        }
    }
}

/// NaN quiet, signalling, negative, all ones; both infinities.
const NONFINITE: [u32; 6] = [0x7fc0_0000, 0x7f80_0001, 0xffc0_0000, 0xffff_ffff, 0x7f80_0000, 0xff80_0000];

/// First, in a tail, at either side of a block's end, in the last tensor.
const POSITIONS: [(usize, usize); 7] = [(0, 0), (0, 4), (1, 4095), (1, 4096), (1, 4098), (2, 12_345), (3, 0)];

fn with_bits(mut gradients: Vec<Vec<f32>>, bits: u32, positions: &[(usize, usize)]) -> Vec<Vec<f32>> {
    for (tensor, element) in positions {
        gradients[*tensor][*element] = f32::from_bits(bits);
    }
    gradients
}

fn zeroed(gradients: &[Vec<f32>], positions: &[(usize, usize)]) -> Vec<Vec<f32>> {
    with_bits(gradients.to_vec(), 0, positions)
}

/// Nothing, each position by itself, several at once.
fn position_sets() -> Vec<Vec<(usize, usize)>> {
    POSITIONS.iter().map(|p| vec![*p]).chain([POSITIONS.to_vec(), POSITIONS[2..5].to_vec()]).collect()
}

fn adamw(gradient: GradientConfig) -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default()).gradient(gradient)
}

/// The norm-type options, which must not hide or spread what is not finite.
fn with_norms(on_nonfinite: OnNonfinite) -> [GradientConfig; 5] {
    [
        gradient(|g| g.on_nonfinite = on_nonfinite),
        gradient(|g| (g.on_nonfinite, g.clip_value) = (on_nonfinite, Some(0.5))),
        gradient(|g| (g.on_nonfinite, g.clip_global_norm) = (on_nonfinite, Some(1.0))),
        gradient(|g| (g.on_nonfinite, g.normalize_global_norm) = (on_nonfinite, Some(1.0))),
        // Clipped by value, an infinity is as good as any to a sum of squares.
        gradient(|g| (g.on_nonfinite, g.clip_value, g.clip_global_norm) = (on_nonfinite, Some(0.5), Some(1.0))),
    ]
}

#[test]
fn a_step_with_a_nonfinite_element_is_skipped_whole() {
    let gpu = gpu();
    for g in with_norms(OnNonfinite::Skip) {
        for place in PLACES {
            let config = adamw(g.clone());
            let mut model = Model::new(&gpu, &config, &specs(), &parameters(), place);
            model.step(&around(1.0, 20));
            let before = model.bits();
            let mut skipped = 0;
            for positions in position_sets() {
                for bits in NONFINITE {
                    let gradients = with_bits(around(1.0, 21), bits, &positions);
                    model.step(&gradients);
                    skipped += 1;
                    let report = model.optimizer.wait_for_report().unwrap().unwrap();
                    let what = format!("{place:?} {g:?} {bits:#x} at {positions:?}: {report:?}");
                    assert!(report.skipped, "{what}");
                    assert_eq!(report.nonfinite, positions.len() as u64, "{what}");
                    assert_eq!((report.steps_taken, report.steps_skipped), (1, skipped), "{what}");
                    if let Some(norm) = report.global_norm {
                        let (_, want, _) = model_of(&zeroed(&gradients, &positions), &g);
                        assert!(close(norm, want), "{what}: the finite elements' norm is {want}");
                    }
                }
                assert_eq!(model.bits(), before, "{place:?} {g:?} {positions:?}");
            }
            model.step(&around(1.0, 22));
            assert!(!model.optimizer.wait_for_report().unwrap().unwrap().skipped);
            assert_ne!(model.bits(), before);
            model.assert_guards();
        }
    }
}

#[test]
fn every_element_can_be_counted() {
    let gpu = gpu();
    let all = around(f32::NAN, 1);
    let total: u64 = SIZES.iter().sum();
    let mut model = Model::new(&gpu, &adamw(GradientConfig::default()), &specs(), &parameters(), Place::OneBuffer);
    model.step(&all);
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!((report.skipped, report.nonfinite), (true, total));
}

#[test]
fn zeroing_nonfinite_elements_equals_a_gradient_that_is_zero_there() {
    let gpu = gpu();
    for g in with_norms(OnNonfinite::Zero) {
        for (place, positions) in PLACES.into_iter().cycle().zip(position_sets()) {
            for bits in NONFINITE {
                let config = adamw(g.clone());
                let what = format!("{place:?} {g:?} {bits:#x} at {positions:?}");
                let mut model = Model::new(&gpu, &config, &specs(), &parameters(), place);
                let mut twin = Model::new(&gpu, &config, &specs(), &parameters(), place);
                let mut oracle = Oracle::new(&config, &specs(), &parameters());
                for step in 0..2 {
                    let gradients = with_bits(around(1.0, 30 + step), bits, &positions);
                    model.step(&gradients);
                    twin.step(&zeroed(&gradients, &positions));
                    oracle.step_all(&zeroed(&gradients, &positions));
                    let report = model.optimizer.wait_for_report().unwrap().unwrap();
                    assert!(!report.skipped, "{what}");
                    // They are counted where gradients are read for a norm.
                    let count = report.global_norm.map_or(0, |_| positions.len() as u64);
                    assert_eq!(report.nonfinite, count, "{what}");
                }
                assert_eq!(model.bits(), twin.bits(), "{what}");
                oracle.check(&model.optimizer, &what);
            }
        }
    }
}

#[test]
fn propagating_takes_the_step_and_reaches_no_other_element() {
    let gpu = gpu();
    for place in PLACES {
        let config = adamw(gradient(|g| g.on_nonfinite = OnNonfinite::Propagate));
        let mut model = Model::new(&gpu, &config, &specs(), &parameters(), place);
        let mut clean = Model::new(&gpu, &config, &specs(), &parameters(), place);
        let mut oracle = Oracle::new(&config, &specs(), &parameters());
        model.step(&with_bits(around(1.0, 40), 0x7fc0_0000, &POSITIONS));
        clean.step(&around(1.0, 40));
        oracle.step_all(&around(1.0, 40));
        let report = model.optimizer.wait_for_report().unwrap().unwrap();
        assert_eq!((report.steps_taken, report.skipped, report.nonfinite), (1, false, 0));
        oracle.check(&clean.optimizer, "finite gradients");
        for (t, (got, want)) in model.params().iter().zip(clean.params()).enumerate() {
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let reached = POSITIONS.contains(&(t, i));
                assert!(reached || got.to_bits() == want.to_bits(), "{place:?}: element {i} of {t}");
            }
        }
        model.assert_guards();
    }
}

/// Gradients that have no part in a step: of frozen tensors, of tensors without one this time, and
/// what lies between slices.
#[test]
fn only_gradients_of_the_step_are_looked_at() {
    let gpu = gpu();
    let limits = gradient(|g| g.clip_global_norm = Some(1.0));
    let config = adamw(limits.clone()).group(Group::matching("t20000").frozen());
    for place in PLACES {
        let mut model = Model::new(&gpu, &config, &specs(), &parameters(), place);
        if place == Place::Arena {
            // The padding behind each slice too.
            let segment = &model.gradients[0].buffer;
            gpu.queue().write_buffer(segment, 0, &vec![0xff; segment.size() as usize]);
        }
        let mut values = around(1.0, 60);
        values[2].fill(f32::NAN);
        values[0].fill(f32::INFINITY);
        model.write_gradients(&values);
        model.optimizer.set_gradient(0, None).unwrap();
        let before = model.bits();
        model.submit();
        let report = model.optimizer.wait_for_report().unwrap().unwrap();
        let (_, norm, _) = model_of(&[values[1].clone(), values[3].clone()], &limits);
        assert!(!report.skipped, "{place:?}");
        assert!(close(report.global_norm.unwrap(), norm), "{place:?}: {report:?}, expected {norm}");
        let after = model.bits();
        let same: Vec<_> = (0..4).map(|t| before[t] == after[t]).collect();
        assert_eq!(same, [true, false, true, false], "{place:?}");
        model.assert_guards();
    }
}

#[test]
fn gradients_are_zeroed_on_request_and_nothing_else_changes() {
    let gpu = gpu();
    for on_nonfinite in [OnNonfinite::Skip, OnNonfinite::Propagate] {
        let config = adamw(gradient(|g| g.on_nonfinite = on_nonfinite)).group(Group::matching("t4099").frozen());
        for place in PLACES {
            let mut model = Model::new(&gpu, &config, &specs(), &parameters(), place);
            let mut plain = Model::new(&gpu, &config, &specs(), &parameters(), place);
            let bits = |model: &Model, t: usize| read_slice(&gpu, &model.gradients[t]);
            model.optimizer.set_zero_gradients(true).unwrap();
            for step in 0..2 {
                let values = around(1.0, 70 + step);
                plain.step(&values);
                // They lie there as they were.
                let untouched: Vec<_> = (0..4).map(|t| bits(&plain, t)).collect();
                model.optimizer.set_gradient(3, (step == 0).then(|| model.gradients[3].clone())).unwrap();
                plain.optimizer.set_gradient(3, None).unwrap();
                model.step(&values);
                for (t, untouched) in untouched.iter().enumerate() {
                    let left_alone = t == 1 || (t == 3 && step == 1);
                    let now = bits(&model, t);
                    if left_alone {
                        assert_eq!(now, *untouched, "{place:?} tensor {t}");
                    } else {
                        assert!(now.iter().all(|w| *w == 0), "{place:?} tensor {t}");
                    }
                }
            }
            assert_eq!(model.bits(), plain.bits(), "{place:?}");
            model.assert_guards();
            plain.assert_guards();

            if on_nonfinite == OnNonfinite::Skip {
                let before = model.bits();
                model.step(&with_bits(around(1.0, 75), 0x7f80_0000, &[(2, 0)]));
                assert!(model.optimizer.wait_for_report().unwrap().unwrap().skipped);
                assert_eq!(model.bits(), before, "{place:?}");
                for t in [0, 2] {
                    assert!(bits(&model, t).iter().all(|w| *w == 0), "{place:?} tensor {t} of a skipped step");
                }
                model.assert_guards();
            }
            model.optimizer.set_zero_gradients(false).unwrap();
            model.step(&around(1.0, 76));
            assert!(bits(&model, 0).iter().all(|w| *w != 0), "{place:?}: no longer asked for");
        }
    }
}

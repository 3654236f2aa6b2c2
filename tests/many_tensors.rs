//! What a call costs the host grows with what it has to do, and no faster.

mod support;

use std::time::{Duration, Instant};

use support::model::read_slice;
use support::{encoder, own_gpu};
use wgpu_optim::plan::Plan;
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::{Arena, Gpu, Group, HealthConfig, Optimizer, OptimizerConfig, Slice, TensorSpec};

const FEW: usize = 600;

/// As many more, and the growth that is allowed: twice that of work in proportion.
const TIMES: usize = 32;
const MOST: f64 = 2.0 * TIMES as f64;

/// Below that the clock and other programs say more than the work.
const LEAST: Duration = Duration::from_micros(200);

struct Bench {
    gpu: Gpu,
    optimizer: Optimizer,
    gradients: Vec<Slice>,
}

impl Bench {
    fn new(tensors: usize) -> Self {
        let gpu = own_gpu();
        // Tensors of four elements keep no more threads busy.
        gpu.set_workgroup_size(8).unwrap();
        let specs = (0..tensors).map(|t| TensorSpec::new(format!("layers.{t}.weight"), [4]));
        let arena = Arena::new(&gpu, specs).unwrap();
        let gradients = arena.tensors().iter().map(|t| t.gradient.clone().unwrap()).collect();
        let config = OptimizerConfig::new(Sgd { momentum: 0.9, ..Sgd::default() }).clip_global_norm(1.0);
        let optimizer = Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
        Self { gpu, optimizer, gradients }
    }

    /// Leaves out the first half of the tensors or the second: either way what is left is one span.
    fn leave_out(&mut self, second: bool) {
        let half = self.gradients.len() / 2;
        for (tensor, gradient) in self.gradients.iter().enumerate() {
            let gradient = ((tensor < half) == second).then(|| gradient.clone());
            self.optimizer.set_gradient(tensor, gradient).unwrap();
        }
    }

    /// The time of recording a step, submitted outside the clock.
    fn step(&mut self) -> Duration {
        let mut encoder = encoder(&self.gpu);
        let since = Instant::now();
        self.optimizer.step(&mut encoder).unwrap();
        let spent = since.elapsed();
        self.gpu.queue().submit([encoder.finish()]);
        self.optimizer.wait_for_report().unwrap();
        spent
    }
}

fn assert_in_proportion(what: &str, few: Duration, many: Duration) {
    let growth = many.as_secs_f64() / few.max(LEAST).as_secs_f64();
    println!("{what}: {few:?}, and {many:?} for {TIMES} times as many");
    assert!(growth <= MOST, "{what} takes {few:?}, and {many:?} for {TIMES} times as many tensors");
}

/// The shortest of some: other programs only make it longer.
fn shortest(times: usize, mut call: impl FnMut(usize) -> Duration) -> Duration {
    (0..times).map(&mut call).min().unwrap_or_default()
}

#[test]
fn a_step_costs_no_more_than_in_proportion_when_other_tensors_lack_a_gradient() {
    let mut few = Bench::new(FEW);
    let mut many = Bench::new(TIMES * FEW);
    for bench in [&mut few, &mut many] {
        bench.leave_out(false);
        bench.step();
    }
    let changed = |bench: &mut Bench| {
        shortest(4, |turn| {
            bench.leave_out(turn % 2 == 0);
            bench.step()
        })
    };
    assert_in_proportion("a step after others lack theirs", changed(&mut few), changed(&mut many));
    // Past half of the short rings, which are filled anew.
    let unchanged = |bench: &mut Bench| (0..12).map(|_| bench.step()).sum::<Duration>() / 12;
    assert_in_proportion("a step with the same", unchanged(&mut few), unchanged(&mut many));
    let watched = |bench: &mut Bench| {
        bench.optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
        shortest(4, |_| bench.step())
    };
    assert_in_proportion("a step that is looked at", watched(&mut few), watched(&mut many));
}

/// Whatever goes by names (changes of tensors, states, checkpoints) looks up each.
#[test]
fn tensors_are_found_by_name_without_a_search() {
    const TENSORS: usize = 50_000;
    let specs: Vec<_> = (0..TENSORS).map(|t| TensorSpec::new(format!("layers.{t}.weight"), [4])).collect();
    let plan = Plan::new(&OptimizerConfig::new(Sgd::default()), &specs).unwrap();
    let since = Instant::now();
    for (place, spec) in specs.iter().enumerate() {
        assert_eq!(plan.tensor_named(&spec.name), Some(place));
    }
    assert_eq!(plan.tensor_named("layers"), None);
    // A search takes 2,500,000,000 comparisons.
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
}

/// As with decay by layer: a rate of its own for each of many tensors. Their scalars are the same.
#[test]
fn many_groups_that_share_their_scalars_fit_and_step() {
    const GROUPS: usize = 1000;
    let gpu = own_gpu();
    gpu.set_workgroup_size(8).unwrap();
    let specs: Vec<_> =
        (0..10 * GROUPS).map(|t| TensorSpec::new(format!("{}.{}", t % GROUPS, t / GROUPS), [2])).collect();
    let rate = |g: usize| 1e-3 * (g + 1) as f64;
    let grouped = |key: &str, of: &dyn Fn(usize) -> f64| {
        let group = |g: usize| Group::matching(format!("{g}.*")).set(key, of(g));
        (0..GROUPS).map(group).fold(OptimizerConfig::new(AdamW::default()), OptimizerConfig::group)
    };
    let arena = Arena::new(&gpu, specs.clone()).unwrap();
    let tensors = || arena.tensors().to_vec();
    let mut optimizer = Optimizer::new(&gpu, &grouped("lr", &rate), tensors()).unwrap();
    let places = [0, 1, 999, 1_000, 5_555, 9_999];
    for place in places {
        gpu.write(&arena.tensors()[place].gradient.clone().unwrap(), &[1.0, -2.0]).unwrap();
    }
    support::submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    // The first step of AdamW from 0 is the rate, against the gradient's sign.
    for place in places {
        let expected = rate(place % GROUPS) as f32;
        let params = read_slice(&gpu, &arena.tensors()[place].params).into_iter().map(f32::from_bits);
        for (found, expected) in params.zip([-expected, expected]) {
            assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{place}: {found}, {expected}");
        }
    }
    let own_scalars = grouped("eps", &|g| 1e-7 * (g + 1) as f64);
    let told = Optimizer::memory(&own_scalars, &specs, gpu.limits()).unwrap().total();
    let shared = Optimizer::memory(&grouped("lr", &rate), &specs, gpu.limits()).unwrap().total();
    assert!(told - shared >= GROUPS as u64 * 4096 * 48);
    if told - shared > gpu.limits().binding {
        let error = Optimizer::new(&gpu, &own_scalars, tensors()).unwrap_err().to_string();
        assert!(error.contains("1001 of them with scalars of their own") && error.contains("at most"), "{error}");
    }
}

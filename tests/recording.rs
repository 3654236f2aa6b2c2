//! Steps are recorded, not run: what the caller does with its encoders, and how counts, bias
//! corrections, rates and reports follow the steps that the device really took.

mod support;

use std::time::{Duration, Instant};

use support::model::{Model, PLACES, Packed, Place, buffer};
use support::oracle::{Gradients, Oracle};
use support::{Numbers, encoder, gpu, submit};
use wgpu_optim::gpu::STEP_ROWS;
use wgpu_optim::rules::{Adam, AdamW, Sgd};
use wgpu_optim::schedule::Cosine;
use wgpu_optim::{Error, Gpu, Group, Optimizer, OptimizerConfig, OptimizerState, Schedule, Slice, TensorSpec};

const SIZES: [u64; 4] = [1, 7, 4100, 300];

fn specs() -> Vec<TensorSpec> {
    SIZES.iter().enumerate().map(|(i, n)| TensorSpec::new(format!("layer{i}.weight"), [*n])).collect()
}

fn values(seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    SIZES.iter().map(|n| numbers.take(*n as usize)).collect()
}

fn parameters() -> Vec<Vec<f32>> {
    values(1).into_iter().map(|p| p.into_iter().map(|x| x / 32.0).collect()).collect()
}

fn gradients(step: usize) -> Vec<Vec<f32>> {
    values(100 + step as u64)
}

/// Bias corrections show a wrong count at once, decay a wrong rate.
fn config() -> OptimizerConfig {
    OptimizerConfig::new(AdamW { weight_decay: 0.1, ..AdamW::default() })
}

fn model(gpu: &Gpu, config: &OptimizerConfig, place: Place) -> Model {
    Model::new(gpu, config, &specs(), &parameters(), place)
}

fn oracle(config: &OptimizerConfig) -> Oracle {
    Oracle::new(config, &specs(), &parameters())
}

/// A tensor of one element: thousands of steps are quick.
fn tiny(gpu: &Gpu, config: &OptimizerConfig) -> (Model, Oracle) {
    let specs = [TensorSpec::new("w", [1])];
    let params = [vec![0.5]];
    let model = Model::new(gpu, config, &specs, &params, Place::Arena);
    model.write_gradients(&[vec![0.25]]);
    (model, Oracle::new(config, &specs, &params))
}

/// Slices of fresh buffers, one for each tensor, that hold those gradients.
fn fresh(gpu: &Gpu, gradients: &[Vec<f32>], shift: usize) -> (Packed, Vec<Slice>) {
    let packed = Packed::new(gpu, &gradients.iter().map(|g| (g.len(), shift)).collect::<Vec<_>>());
    let slices: Vec<_> = (0..gradients.len()).map(|i| packed.slice(i)).collect();
    for (slice, values) in slices.iter().zip(gradients) {
        gpu.write(slice, values).unwrap();
    }
    (packed, slices)
}

fn rebind(optimizer: &mut Optimizer, slices: &[Slice]) {
    for (tensor, slice) in slices.iter().enumerate() {
        optimizer.set_gradient(tensor, Some(slice.clone())).unwrap();
    }
}

#[test]
fn a_step_is_recorded_and_nothing_is_submitted() {
    for place in PLACES {
        let gpu = gpu();
        let mut model = model(&gpu, &config(), place);
        model.write_gradients(&gradients(0));
        let before = model.bits();
        let mut encoder = encoder(&gpu);
        model.optimizer.step(&mut encoder).unwrap();
        // Reading back submits and waits: a step that had run would show.
        assert_eq!(model.bits(), before, "{place:?}");
        gpu.queue().submit([encoder.finish()]);
        assert_ne!(model.bits(), before, "{place:?}");
    }
}

#[test]
fn the_second_step_creates_no_object() {
    for place in PLACES {
        for config in [config(), config().clip_global_norm(1.0)] {
            // Others count on the shared device.
            let gpu = Gpu::headless().unwrap();
            let mut model = model(&gpu, &config, place);
            model.step(&gradients(0));
            let created = gpu.objects_created();
            assert!(created.pipelines > 0 && created.bind_groups > 0 && created.buffers > 0, "{created:?}");
            for step in 1..20 {
                model.step(&gradients(step));
                model.optimizer.report().unwrap();
                assert_eq!(gpu.objects_created(), created, "{place:?} step {step}");
            }
        }
    }
}

#[test]
fn rebinding_gradients_among_buffers_seen_before_creates_no_object() {
    let gpu = Gpu::headless().unwrap();
    let mut model = model(&gpu, &config(), Place::Separate);
    let sets: Vec<_> = (0..3).map(|i| fresh(&gpu, &gradients(i), i)).collect();
    let mut oracle = oracle(&config());
    let mut created = None;
    for step in 0..30 {
        rebind(&mut model.optimizer, &sets[step % 3].1);
        model.submit();
        oracle.step_all(&gradients(step % 3));
        match created {
            None if step == 2 => created = Some(gpu.objects_created()),
            None => {}
            Some(created) => assert_eq!(gpu.objects_created(), created, "step {step}"),
        }
    }
    oracle.check(&model.optimizer, "thirty steps over three buffers");
}

#[test]
fn gradient_buffers_that_the_caller_dropped_are_let_go() {
    const LEN: usize = 1 << 20;
    let gpu = Gpu::headless().unwrap();
    let specs = [TensorSpec::new("w", [LEN as u64])];
    let mut model = Model::new(&gpu, &config(), &specs, &[vec![0.5; LEN]], Place::Separate);
    let allocated = || gpu.device().generate_allocator_report().map(|report| report.total_allocated_bytes);
    let Some(before) = allocated() else {
        eprintln!("not checked: this backend does not report its allocations");
        return;
    };
    let mut most = 0;
    for _ in 0..60 {
        let own = buffer(&gpu, 4 * LEN as u64);
        model.optimizer.set_gradient(0, Some(Slice::from(&own))).unwrap();
        model.submit();
        model.optimizer.wait_for_report().unwrap();
        most = most.max(allocated().unwrap().saturating_sub(before));
    }
    // Sixteen bindings are kept for a caller that comes back to them, and the present one.
    assert!(most <= 18 * 4 * LEN as u64, "{most} bytes");
}

#[test]
fn steps_in_one_encoder_equal_steps_in_their_own_bit_for_bit() {
    let gpu = gpu();
    let config = config().clip_global_norm(1.0);
    for place in PLACES {
        let sets: Vec<_> = (0..5).map(|i| fresh(&gpu, &gradients(i), 1)).collect();
        let mut apart = model(&gpu, &config, place);
        for (_, slices) in &sets {
            rebind(&mut apart.optimizer, slices);
            apart.submit();
        }
        let mut together = model(&gpu, &config, place);
        submit(&gpu, |encoder| {
            for (_, slices) in &sets {
                rebind(&mut together.optimizer, slices);
                together.optimizer.step(encoder).unwrap();
            }
        });
        assert_eq!(apart.bits(), together.bits(), "{place:?}");
        let mut oracle = oracle(&config);
        for i in 0..5 {
            oracle.step_all(&gradients(i));
        }
        oracle.check(&together.optimizer, "five steps in one encoder");
    }
}

#[test]
fn ten_runs_give_the_same_bits() {
    let gpu = gpu();
    let config = config().clip_global_norm(0.5);
    let specs = [TensorSpec::new("large", [300_001]), TensorSpec::new("small", [5])];
    let mut numbers = Numbers::new(3);
    let mut draw = || vec![numbers.take(300_001), numbers.take(5)];
    let (params, gradients) = (draw(), [draw(), draw(), draw()]);
    let run = || {
        let mut model = Model::new(&gpu, &config, &specs, &params, Place::TwoBuffers);
        gradients.iter().for_each(|g| model.step(g));
        let report = model.optimizer.wait_for_report().unwrap().unwrap();
        (model.bits(), report.global_norm.unwrap().to_bits(), report.clip_coefficient.to_bits())
    };
    let first = run();
    assert!((1..10).all(|_| run() == first));
}

#[test]
fn a_full_step_table_is_an_error_that_does_no_harm() {
    let gpu = gpu();
    let (mut model, mut oracle) = tiny(&gpu, &config());
    let mut encoder1 = encoder(&gpu);
    for step in 0..STEP_ROWS {
        model.optimizer.step(&mut encoder1).unwrap_or_else(|e| panic!("step {step}: {e}"));
    }
    for _ in 0..3 {
        let error = model.optimizer.step(&mut encoder1).unwrap_err();
        assert_eq!(error, Error::StepTableFull { pending: STEP_ROWS, rows: STEP_ROWS });
    }
    // Nor in another encoder, as long as the first may still be submitted.
    let error = model.optimizer.step(&mut encoder(&gpu)).unwrap_err();
    assert_eq!(error, Error::StepTableFull { pending: STEP_ROWS, rows: STEP_ROWS });

    gpu.queue().submit([encoder1.finish()]);
    for _ in 0..STEP_ROWS {
        oracle.step_all(&[vec![0.25]]);
    }
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!(report.steps_taken, STEP_ROWS);
    oracle.check(&model.optimizer, "a full table");

    // Everything is done: there is room for as many again.
    let mut encoder2 = encoder(&gpu);
    for step in 0..STEP_ROWS {
        model.optimizer.step(&mut encoder2).unwrap_or_else(|e| panic!("step {step} after the table was full: {e}"));
    }
    gpu.queue().submit([encoder2.finish()]);
    for _ in 0..STEP_ROWS {
        oracle.step_all(&[vec![0.25]]);
    }
    oracle.check(&model.optimizer, "the table full twice");
}

#[test]
fn steps_go_on_for_longer_than_the_table_is() {
    let gpu = gpu();
    let (mut model, mut oracle) = tiny(&gpu, &config());
    for _ in 0..2 * STEP_ROWS / 64 + 3 {
        submit(&gpu, |encoder| (0..64).for_each(|_| model.optimizer.step(encoder).unwrap()));
        for _ in 0..64 {
            oracle.step_all(&[vec![0.25]]);
        }
        model.optimizer.wait_for_report().unwrap();
    }
    oracle.check(&model.optimizer, "twice around the ring");
}

#[test]
fn dropped_encoders_leave_no_trace() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Arena);
    let mut oracle = oracle(&config());
    for step in 0..6 {
        for finish in [false, true] {
            let mut encoder = encoder(&gpu);
            model.optimizer.step(&mut encoder).unwrap();
            model.optimizer.step(&mut encoder).unwrap();
            if finish {
                drop(encoder.finish());
            }
        }
        model.step(&gradients(step));
        oracle.step_all(&gradients(step));
    }
    oracle.check(&model.optimizer, "six steps and 24 dropped ones");
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!((report.steps_taken, report.steps_skipped), (6, 0));
}

#[test]
fn thousands_of_dropped_steps_do_not_fill_the_table() {
    let gpu = gpu();
    let (mut model, mut oracle) = tiny(&gpu, &config());
    for round in 0..3 {
        for finish in [false, true] {
            let mut encoder = encoder(&gpu);
            for step in 0..STEP_ROWS - 8 {
                let recorded = model.optimizer.step(&mut encoder);
                recorded.unwrap_or_else(|e| panic!("round {round} step {step}: {e}"));
            }
            if finish {
                drop(encoder.finish());
            }
        }
        model.submit();
        oracle.step_all(&[vec![0.25]]);
    }
    oracle.check(&model.optimizer, "three steps among thousands of dropped ones");
}

#[test]
fn encoders_run_in_the_order_of_submission() {
    let gpu = gpu();
    let config = config().clip_global_norm(1.0);
    let mut model = model(&gpu, &config, Place::Separate);
    let mut oracle = oracle(&config);
    let order = [3, 0, 4, 2, 1];
    let mut encoders = Vec::new();
    let sets: Vec<_> = (0..5).map(|i| fresh(&gpu, &gradients(i), 2)).collect();
    for (_, slices) in &sets {
        let mut encoder = encoder(&gpu);
        rebind(&mut model.optimizer, slices);
        model.optimizer.step(&mut encoder).unwrap();
        encoders.push(Some(encoder.finish()));
    }
    for index in order {
        gpu.queue().submit([encoders[index].take().unwrap()]);
        oracle.step_all(&gradients(index));
    }
    oracle.check(&model.optimizer, "five encoders out of order");
    assert_eq!(model.optimizer.wait_for_report().unwrap().unwrap().steps_taken, 5);
    // And steps go on from there.
    let (_packed, slices) = fresh(&gpu, &gradients(9), 0);
    rebind(&mut model.optimizer, &slices);
    model.submit();
    oracle.step_all(&gradients(9));
    oracle.check(&model.optimizer, "one more");
}

#[test]
fn reports_arrive_by_themselves_and_never_wait() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Arena);
    assert_eq!(model.optimizer.report().unwrap(), None);
    let mut recorded = encoder(&gpu);
    model.write_gradients(&gradients(0));
    model.optimizer.step(&mut recorded).unwrap();
    // Not submitted: a wait for it would never end.
    assert_eq!(model.optimizer.report().unwrap(), None);
    assert_eq!(model.optimizer.wait_for_report().unwrap(), None);
    gpu.queue().submit([recorded.finish()]);
    let deadline = Instant::now() + Duration::from_secs(30);
    let report = loop {
        match model.optimizer.report().unwrap() {
            Some(report) => break report,
            None => assert!(Instant::now() < deadline, "no report"),
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert_eq!((report.steps_taken, report.steps_skipped, report.skipped, report.nonfinite), (1, 0, false, 0));
    assert_eq!(report.lr, f64::from(1e-3f32));
    assert_eq!((report.global_norm, report.clip_coefficient), (None, 1.0));
}

#[test]
fn the_report_waited_for_is_of_the_last_step() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Arena);
    model.write_gradients(&gradients(0));
    for steps in [1, 20, 3] {
        let before = model.optimizer.report().unwrap().map_or(0, |r| r.steps_taken);
        submit(&gpu, |encoder| (0..steps).for_each(|_| model.optimizer.step(encoder).unwrap()));
        let report = model.optimizer.wait_for_report().unwrap().unwrap();
        assert_eq!(report.steps_taken, before + steps);
    }
}

#[test]
fn skipped_steps_keep_bias_correction_exact() {
    for place in PLACES {
        let gpu = gpu();
        let mut model = model(&gpu, &config(), place);
        let mut good = oracle(&config());
        for step in 0..12 {
            let mut values = gradients(step);
            let bad = step % 3 == 1;
            if bad {
                values[2][4099] = f32::NAN;
            } else {
                good.step_all(&values);
            }
            model.step(&values);
            let report = model.optimizer.wait_for_report().unwrap().unwrap();
            assert_eq!((report.skipped, report.nonfinite), (bad, u64::from(bad)));
        }
        let mut state = model.optimizer.state_blocking().unwrap();
        assert_eq!((state.steps_taken, state.steps_skipped), (8, 4));
        state.steps_skipped = 0;
        assert_eq!(good.misses(&model.params(), &state), Vec::<String>::new(), "{place:?}");
    }
}

/// PyTorch's semantics: each tensor has a count of its own, so each has an oracle of its own.
struct Alone {
    oracles: Vec<Oracle>,
    clip: Option<f64>,
}

impl Alone {
    fn new(config: &OptimizerConfig) -> Self {
        // The norm is over all tensors: taken here, in f64, and out of their hands.
        let mut config = config.clone();
        let clip = config.gradient.clip_global_norm.take();
        let one = |(spec, params): (TensorSpec, Vec<f32>)| Oracle::new(&config, &[spec], &[params]);
        Self { oracles: specs().into_iter().zip(parameters()).map(one).collect(), clip }
    }

    fn step(&mut self, gradients: &Gradients) {
        let norm = gradients.iter().flatten().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let factor = self.clip.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0));
        for (oracle, gradient) in self.oracles.iter_mut().zip(gradients) {
            if let Some(gradient) = gradient {
                oracle.step_exact(&[Some(gradient.iter().map(|g| f64::from(*g) * factor).collect())]);
            }
        }
    }

    fn check(&self, model: &Model, what: &str) {
        let (params, state) = (model.params(), model.optimizer.state_blocking().unwrap());
        for (index, oracle) in self.oracles.iter().enumerate() {
            let tensor = state.tensors[index].clone();
            let own = OptimizerState { steps_taken: tensor.steps, tensors: vec![tensor], ..OptimizerState::default() };
            let misses = oracle.misses(&params[index..=index], &own);
            assert!(misses.is_empty(), "{what}: {}", misses.join("\n"));
        }
    }
}

/// Which tensors have a gradient: none of them for two steps, each missing at some time, one from the
/// first step on, one only once.
fn present(step: usize, tensor: usize) -> bool {
    let masks = [0b0111, 0b1111, 0b0111, 0b0101, 0b0000, 0b0000, 0b0110, 0b0001, 0b1111, 0b0011];
    masks[step % masks.len()] >> tensor & 1 == 1
}

fn some_gradients(step: usize) -> Gradients {
    gradients(step).into_iter().enumerate().map(|(t, g)| present(step, t).then_some(g)).collect()
}

#[test]
fn tensors_without_a_gradient_stay_and_count_by_themselves() {
    for place in PLACES {
        for config in [config(), config().clip_global_norm(1.0)] {
            let gpu = gpu();
            let mut model = model(&gpu, &config, place);
            let mut alone = Alone::new(&config);
            for step in 0..25 {
                let gradients = some_gradients(step);
                let before = model.bits();
                model.step_some(&gradients);
                alone.step(&gradients);
                let after = model.bits();
                for (tensor, gradient) in gradients.iter().enumerate().filter(|(_, g)| g.is_none()) {
                    assert_eq!(before[tensor], after[tensor], "{place:?} step {step} {gradient:?}");
                    // Two slots a tensor follow the parameters.
                    let slots = 4 + 2 * tensor..4 + 2 * tensor + 2;
                    assert_eq!(before[slots.clone()], after[slots], "{place:?} step {step}");
                }
                let report = model.optimizer.wait_for_report().unwrap().unwrap();
                assert_eq!(report.steps_taken, step as u64 + 1);
            }
            alone.check(&model, &format!("{place:?} {config:?}"));
            model.assert_guards();
        }
    }
}

#[test]
fn missing_gradients_hold_for_their_own_encoder_whatever_the_order() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Separate);
    let mut alone = Alone::new(&config());
    let mut encoders = Vec::new();
    let sets: Vec<_> = (0..6).map(|i| fresh(&gpu, &gradients(i), 1)).collect();
    for (step, (_, slices)) in sets.iter().enumerate() {
        for (tensor, slice) in slices.iter().enumerate() {
            let slice = present(step, tensor).then(|| slice.clone());
            model.optimizer.set_gradient(tensor, slice).unwrap();
        }
        let mut encoder = encoder(&gpu);
        model.optimizer.step(&mut encoder).unwrap();
        encoders.push(Some(encoder.finish()));
    }
    // One of them is never submitted.
    for index in [5, 1, 3, 0, 4] {
        gpu.queue().submit([encoders[index].take().unwrap()]);
        alone.step(&some_gradients(index));
    }
    drop(encoders);
    alone.check(&model, "out of order");
    for step in 6..30 {
        let gradients = some_gradients(step);
        for (tensor, gradient) in gradients.iter().enumerate() {
            let slice = gradient.as_ref().map(|_| model.gradients[tensor].clone());
            model.optimizer.set_gradient(tensor, slice).unwrap();
        }
        model.step_some(&gradients);
        alone.step(&gradients);
    }
    alone.check(&model, "and on");
}

#[test]
fn a_tensor_that_joins_late_starts_its_bias_correction_at_one() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Arena);
    let mut alone = Alone::new(&config());
    let late = |step: usize| -> Gradients {
        gradients(step).into_iter().enumerate().map(|(t, g)| (t != 3 || step >= 300).then_some(g)).collect()
    };
    // More steps than a tensor's own ring has rows, 64 to a report.
    for round in 0..6 {
        for step in round * 64..round * 64 + 64 {
            model.step_some(&late(step));
            alone.step(&late(step));
        }
        model.optimizer.wait_for_report().unwrap();
    }
    alone.check(&model, "384 steps, a tensor from the 301st on");
    let state = model.optimizer.state_blocking().unwrap();
    assert_eq!(state.tensors.iter().map(|t| t.steps).collect::<Vec<_>>(), [384, 384, 384, 84]);
}

#[test]
fn an_own_count_stays_exact_far_past_its_own_ring() {
    let gpu = gpu();
    let config = OptimizerConfig::new(Adam { betas: [0.9, 0.9999], ..Adam::default() });
    let specs = [TensorSpec::new("a", [1]), TensorSpec::new("b", [1])];
    let params = [vec![0.5], vec![0.25]];
    let mut model = Model::new(&gpu, &config, &specs, &params, Place::Arena);
    let gradient = vec![0.25];
    let mut alone: Vec<_> = (0..2).map(|t| Oracle::new(&config, &specs[t..=t], &[params[t].clone()])).collect();
    for step in 0..900 {
        // b misses its first step after more than its own ring has rows.
        let b = (step % 300 != 299).then(|| gradient.clone());
        model.step_some(&[Some(gradient.clone()), b.clone()]);
        alone[0].step(&vec![Some(gradient.clone())]);
        if b.is_some() {
            alone[1].step(&vec![b]);
        }
        if step % 50 == 0 {
            model.optimizer.wait_for_report().unwrap();
        }
    }
    let (params, state) = (model.params(), model.optimizer.state_blocking().unwrap());
    for (t, oracle) in alone.iter().enumerate() {
        let tensor = state.tensors[t].clone();
        assert_eq!(tensor.steps, [900, 897][t]);
        let own = OptimizerState { steps_taken: tensor.steps, tensors: vec![tensor], ..OptimizerState::default() };
        assert_eq!(oracle.misses(&params[t..=t], &own), Vec::<String>::new());
    }
}

#[test]
fn gradients_in_fresh_buffers_at_odd_offsets_every_step() {
    let gpu = gpu();
    for place in PLACES {
        let config = config().clip_global_norm(1.0);
        let mut model = model(&gpu, &config, place);
        let mut oracle = oracle(&config);
        for step in 0..40 {
            let (packed, slices) = fresh(&gpu, &gradients(step), step % 16);
            rebind(&mut model.optimizer, &slices);
            model.submit();
            oracle.step_all(&gradients(step));
            assert!(packed.broken_guards(&gpu).is_empty(), "{place:?} step {step}");
        }
        oracle.check(&model.optimizer, &format!("{place:?}"));
        model.assert_guards();
    }
}

fn grouped() -> OptimizerConfig {
    config()
        .group(Group::matching("layer1.*").set("lr", 1e-2).set("weight_decay", 0.0))
        .group(Group::matching("layer2.*").set("betas", [0.5, 0.9]))
}

#[test]
fn rates_set_at_run_time_hold_from_the_next_submission_on() {
    let gpu = gpu();
    for place in PLACES {
        let mut model = model(&gpu, &grouped(), place);
        let mut oracle = oracle(&grouped());
        for step in 0..12 {
            match step {
                2 => {
                    model.optimizer.set_lr(5e-3).unwrap();
                    oracle.set(|o| o.set_lr(5e-3));
                }
                4 => {
                    model.optimizer.set_group_lr("layer1.*", 2e-4).unwrap();
                    oracle.set(|o| o.set_group_lr("layer1.*", 2e-4));
                }
                6 => {
                    model.optimizer.set_group_weight_decay("layer2.*", 0.9).unwrap();
                    oracle.set(|o| o.set_group_weight_decay("layer2.*", 0.9));
                }
                8 => {
                    model.optimizer.set_lr(0.0).unwrap();
                    oracle.set(|o| o.set_lr(0.0));
                }
                _ => {}
            }
            model.step(&gradients(step));
            let report = oracle.step_all(&gradients(step));
            let seen = model.optimizer.wait_for_report().unwrap().unwrap();
            assert_eq!(seen.lr as f32, report.lr as f32);
        }
        oracle.check(&model.optimizer, &format!("{place:?}"));
    }
}

#[test]
fn a_rate_acts_on_steps_recorded_before_and_submitted_after() {
    let gpu = gpu();
    let mut model = model(&gpu, &config(), Place::Arena);
    let mut oracle = oracle(&config());
    let mut recorded = encoder(&gpu);
    model.write_gradients(&gradients(0));
    model.optimizer.step(&mut recorded).unwrap();
    model.optimizer.set_lr(0.125).unwrap();
    oracle.set(|o| o.set_lr(0.125));
    gpu.queue().submit([recorded.finish()]);
    // And this one too late for it.
    model.optimizer.set_lr(7.0).unwrap();
    oracle.step_all(&gradients(0));
    oracle.check(&model.optimizer, "set between recording and submission");
}

#[test]
fn schedules_follow_the_steps_really_taken() {
    let gpu = gpu();
    let schedule = Schedule::from(Cosine { total_steps: 25, min_lr: 1e-5 }).with_warmup(5);
    let config = grouped().schedule(schedule);
    for place in PLACES {
        let mut model = model(&gpu, &config, place);
        let mut oracle = oracle(&config);
        for step in 0..30 {
            let mut values = gradients(step);
            if step % 7 == 3 {
                values[0][0] = f32::INFINITY;
            }
            model.step(&values);
            let want = oracle.step_all(&values);
            let got = model.optimizer.wait_for_report().unwrap().unwrap();
            assert_eq!((got.skipped, got.steps_taken), (want.skipped, want.steps_taken));
            // The device multiplies two f32, each rounded once.
            assert!((got.lr - want.lr).abs() <= 2e-7 * want.lr, "{place:?} step {step}: {} {}", got.lr, want.lr);
        }
        oracle.check(&model.optimizer, &format!("{place:?}"));
    }
}

#[test]
fn a_rate_set_under_a_schedule_acts_on_the_very_next_step() {
    let gpu = gpu();
    // The end is a rate, not a factor: with another base rate every factor differs.
    let config = config().schedule(Cosine { total_steps: 10, min_lr: 5e-4 });
    let mut model = model(&gpu, &config, Place::Arena);
    let mut oracle = oracle(&config);
    for step in 0..12 {
        if step % 4 == 3 {
            let lr = 1e-3 * step as f64;
            model.optimizer.set_lr(lr).unwrap();
            oracle.set(|o| o.set_lr(lr));
        }
        model.step(&gradients(step));
        let want = oracle.step_all(&gradients(step));
        let got = model.optimizer.wait_for_report().unwrap().unwrap();
        assert!((got.lr - want.lr).abs() <= 2e-7 * want.lr, "step {step}: {} {}", got.lr, want.lr);
    }
    oracle.check(&model.optimizer, "three rates under a cosine");
}

#[test]
fn a_schedule_goes_on_past_the_ring() {
    let gpu = gpu();
    let total = STEP_ROWS + STEP_ROWS / 2;
    let config =
        OptimizerConfig::new(Sgd { lr: 1e-2, ..Sgd::default() }).schedule(Cosine { total_steps: total, min_lr: 1e-5 });
    let (mut model, mut oracle) = tiny(&gpu, &config);
    for _ in 0..total / 64 {
        submit(&gpu, |encoder| (0..64).for_each(|_| model.optimizer.step(encoder).unwrap()));
        for _ in 0..64 {
            oracle.step_all(&[vec![0.25]]);
        }
        model.optimizer.wait_for_report().unwrap();
    }
    oracle.check(&model.optimizer, "a cosine longer than the table");
}

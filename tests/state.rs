//! State in and out: through files, between backends, and under steps that are recorded.

mod support;

use support::model::{Model, PLACES, Place};
use support::oracle::{Oracle, Run};
use support::variations::variations;
use support::{Numbers, encoder, gpu};
use wgpu_optim::rules::{AdamW, RmsProp, Sgd};
use wgpu_optim::{Group, OptimizerConfig, OptimizerState, TensorSpec, rules};

const SHAPES: [&[u64]; 4] = [&[3], &[64, 65], &[], &[0, 5]];

fn specs() -> Vec<TensorSpec> {
    SHAPES.iter().enumerate().map(|(i, shape)| TensorSpec::new(format!("layer.{i}"), *shape)).collect()
}

fn values(seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    specs().iter().map(|s| numbers.take(s.elements().unwrap() as usize)).collect()
}

fn gradients(step: usize) -> Vec<Vec<f32>> {
    values(100 + step as u64)
}

fn model(config: &OptimizerConfig, params: &[Vec<f32>], place: Place) -> Model {
    Model::new(&gpu(), config, &specs(), params, place)
}

fn adamw() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default())
}

fn write_params(model: &Model, params: &[Vec<f32>]) {
    for (tensor, params) in model.optimizer.tensors().iter().zip(params) {
        model.gpu.write(&tensor.params, params).unwrap();
    }
}

/// Out to a file's bytes and in again.
fn through_a_file(model: &Model) -> OptimizerState {
    let state = model.optimizer.state_blocking().unwrap();
    let bytes = state.to_safetensors().unwrap();
    let read = OptimizerState::from_safetensors(&bytes, model.optimizer.plan()).unwrap();
    assert_eq!(read, state);
    read
}

#[test]
fn every_rule_goes_on_from_a_file_to_the_same_bits() {
    for rule in rules::all() {
        for (variation, place) in variations(rule.as_ref()).into_iter().zip(PLACES.into_iter().cycle()) {
            let config = variation.config;
            let mut straight = model(&config, &values(1), place);
            (0..4).for_each(|step| straight.step(&gradients(step)));

            let mut first = model(&config, &values(1), place);
            (0..2).for_each(|step| first.step(&gradients(step)));
            let state = through_a_file(&first);
            // Elsewhere in memory, and not as new: it has gone another way.
            let mut second = model(&config, &values(2), Place::Separate);
            second.step(&gradients(50));
            second.optimizer.load_state(&state).unwrap();
            assert_eq!(second.optimizer.state_blocking().unwrap(), state, "{}", variation.label);
            write_params(&second, &first.params());
            (2..4).for_each(|step| second.step(&gradients(step)));
            assert_eq!(second.bits(), straight.bits(), "{}", variation.label);
        }
    }
}

#[test]
fn a_loaded_state_replaces_one_that_has_moved_on() {
    let mut straight = model(&adamw(), &values(1), Place::Arena);
    (0..4).for_each(|step| straight.step(&gradients(step)));
    let mut other = model(&adamw(), &values(1), Place::OneBuffer);
    (0..2).for_each(|step| other.step(&gradients(step)));
    let (params, state) = (other.params(), through_a_file(&other));
    // Three more steps that are taken back, one of them skipped.
    other.step(&gradients(7));
    let mut bad = gradients(8);
    bad[1][5] = f32::NAN;
    other.step(&bad);
    other.step(&gradients(9));
    other.optimizer.load_state(&state).unwrap();
    assert_eq!(other.optimizer.report().unwrap(), None, "a report of before the load");
    write_params(&other, &params);
    (2..4).for_each(|step| other.step(&gradients(step)));
    assert_eq!(other.bits(), straight.bits());
    let report = other.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!((report.steps_taken, report.steps_skipped), (4, 0));
}

fn narrow(state: &OptimizerState<f64>) -> OptimizerState {
    convert(state, |x| *x as f32)
}

/// The GPU keeps the sums of weights in f32.
fn convert<A, B>(state: &OptimizerState<A>, f: impl Fn(&A) -> B) -> OptimizerState<B> {
    let mut converted = state.map(f);
    for tensor in &mut converted.tensors {
        tensor.weight_sum = f64::from(tensor.weight_sum as f32);
    }
    converted
}

#[test]
fn state_moves_between_the_backends() {
    for rule in rules::all() {
        let config = OptimizerConfig::from_boxed(rule);
        let wrap = |g: Vec<Vec<f32>>| g.into_iter().map(Some).collect::<Vec<_>>();
        // CPU to GPU: the oracle's state, rounded.
        let mut oracle = Oracle::new(&config, &specs(), &values(1));
        for step in 0..3 {
            oracle.step_all(&gradients(step));
        }
        let params: Vec<Vec<f32>> = oracle.exact.params.iter().map(|p| p.iter().map(|x| *x as f32).collect()).collect();
        let state = narrow(&oracle.exact.optimizer.state());
        let mut on_gpu = model(&config, &params, Place::TwoBuffers);
        on_gpu.optimizer.load_state(&state).unwrap();
        assert_eq!(on_gpu.optimizer.state_blocking().unwrap(), state);

        // And back, where the f32 twin takes it exactly.
        let mut on_cpu = Run::<f32>::new(&config, &specs(), &params);
        on_cpu.optimizer.load_state(&through_a_file(&on_gpu)).unwrap();
        assert_eq!(on_cpu.optimizer.state(), state);

        // Both go on as the oracle does from there.
        let mut from_here = Oracle::new(&config, &specs(), &params);
        from_here.exact.optimizer.load_state(&convert(&state, |x| f64::from(*x))).unwrap();
        from_here.peer.optimizer.load_state(&state).unwrap();
        for step in 3..6 {
            from_here.step_all(&gradients(step));
            on_gpu.step(&gradients(step));
            on_cpu.step(&wrap(gradients(step)));
        }
        from_here.check(&on_gpu.optimizer, "from the CPU to the GPU");
        let misses = from_here.misses(&on_cpu.params, &on_cpu.optimizer.state());
        assert_eq!(misses, Vec::<String>::new());

        // On one backend, to the same bits.
        let mut again = Run::<f32>::new(&config, &specs(), &on_cpu.params);
        let bytes = on_cpu.optimizer.state().to_safetensors().unwrap();
        let read = OptimizerState::from_safetensors(&bytes, again.optimizer.plan()).unwrap();
        again.optimizer.load_state(&read).unwrap();
        on_cpu.step(&wrap(gradients(6)));
        again.step(&wrap(gradients(6)));
        assert_eq!((&again.params, again.optimizer.state()), (&on_cpu.params, on_cpu.optimizer.state()));
    }
}

#[test]
fn counts_of_tensors_that_missed_steps_are_kept() {
    let present = |step: usize, tensor: usize| tensor != 1 || step % 3 == 2;
    let some = |step: usize| -> Vec<_> {
        gradients(step).into_iter().enumerate().map(|(t, g)| present(step, t).then_some(g)).collect()
    };
    let mut straight = model(&adamw(), &values(1), Place::Arena);
    let mut first = model(&adamw(), &values(1), Place::Arena);
    for step in 0..7 {
        straight.step_some(&some(step));
        first.step_some(&some(step));
    }
    let state = through_a_file(&first);
    assert_eq!(state.tensors.iter().map(|t| t.steps).collect::<Vec<_>>(), [7, 2, 7, 0]);
    let mut second = model(&adamw(), &first.params(), Place::Arena);
    second.optimizer.load_state(&state).unwrap();
    let mut cpu = Run::<f32>::new(&adamw(), &specs(), &first.params());
    cpu.optimizer.load_state(&state).unwrap();
    for step in 7..12 {
        straight.step_some(&some(step));
        second.step_some(&some(step));
        cpu.step(&some(step));
    }
    assert_eq!(second.bits(), straight.bits());
    let counts = |state: OptimizerState| state.tensors.iter().map(|t| t.steps).collect::<Vec<_>>();
    assert_eq!(counts(second.optimizer.state_blocking().unwrap()), counts(cpu.optimizer.state()));
}

#[test]
fn a_load_acts_on_steps_recorded_before_it() {
    let gpu = gpu();
    let mut saved = model(&adamw(), &values(1), Place::Arena);
    (0..5).for_each(|step| saved.step(&gradients(step)));
    let state = through_a_file(&saved);
    let mut other = model(&adamw(), &saved.params(), Place::Arena);
    other.write_gradients(&gradients(5));
    let mut recorded = encoder(&gpu);
    other.optimizer.step(&mut recorded).unwrap();
    let mut dropped = encoder(&gpu);
    other.optimizer.step(&mut dropped).unwrap();
    drop(dropped);
    other.optimizer.load_state(&state).unwrap();
    gpu.queue().submit([recorded.finish()]);
    saved.step(&gradients(5));
    assert_eq!(other.bits(), saved.bits());
    assert_eq!(other.optimizer.wait_for_report().unwrap().unwrap().steps_taken, 6);
    // And rows of the table are there for what follows.
    for step in 6..300 {
        saved.step(&gradients(step % 8));
        other.step(&gradients(step % 8));
        if step % 40 == 0 {
            other.optimizer.wait_for_report().unwrap();
        }
    }
    assert_eq!(other.bits(), saved.bits());
}

#[test]
fn a_load_far_ahead_and_back_brings_its_own_rows() {
    let mut config = adamw();
    config.schedule = wgpu_optim::schedule::InverseTime { decay: 0.01 }.into();
    for taken in [100_000u64, 4095, 4096, 3_000_000_000, 7] {
        let mut run = model(&config, &values(1), Place::Arena);
        let mut oracle = Oracle::new(&config, &specs(), &values(1));
        run.step(&gradients(0));
        let mut state = run.optimizer.state_blocking().unwrap();
        state.steps_taken = taken;
        state.tensors.iter_mut().for_each(|t| t.steps = taken);
        // One that is behind, so that it counts by itself.
        state.tensors[1].steps = taken - 5;
        run.optimizer.load_state(&state).unwrap();
        write_params(&run, &values(1));
        oracle.exact.optimizer.load_state(&convert(&state, |x| f64::from(*x))).unwrap();
        oracle.peer.optimizer.load_state(&state).unwrap();
        for step in 1..4 {
            run.step(&gradients(step));
            oracle.step_all(&gradients(step));
        }
        let state = run.optimizer.state_blocking().unwrap();
        assert_eq!(oracle.misses(&run.params(), &state), Vec::<String>::new(), "{taken} steps");
    }
}

#[test]
fn frozen_tensors_have_no_state() {
    let config = adamw().group(Group::matching("layer.1").frozen());
    let mut run = model(&config, &values(1), Place::Arena);
    run.step(&gradients(0));
    let state = through_a_file(&run);
    assert_eq!(state.tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["layer.0", "layer.2", "layer.3"]);
    run.optimizer.load_state(&state).unwrap();
}

/// A small file: two rules, three slots, a scalar.
fn small() -> (Vec<u8>, OptimizerState, Model) {
    let config = OptimizerConfig::new(RmsProp { centered: true, ..RmsProp::default() })
        .group(Group::matching("b").rule(Sgd { momentum: 0.5, ..Sgd::default() }));
    let specs = [TensorSpec::new("a", [2, 3]), TensorSpec::new("b", [])];
    let mut model = Model::new(&gpu(), &config, &specs, &[vec![0.5; 6], vec![0.25]], Place::Arena);
    model.step(&[vec![1.0, -2.0, 3.0, -4.0, 5.0, -6.0], vec![7.0]]);
    let state = through_a_file(&model);
    (state.to_safetensors().unwrap(), state, model)
}

#[test]
fn a_truncated_file_is_an_error_at_every_length() {
    let (bytes, state, model) = small();
    let plan = model.optimizer.plan();
    assert_eq!(OptimizerState::from_safetensors(&bytes, plan).unwrap(), state);
    for len in 0..bytes.len() {
        let read = OptimizerState::from_safetensors(&bytes[..len], plan);
        assert!(read.is_err(), "{len} of {} bytes", bytes.len());
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(OptimizerState::from_safetensors(&longer, plan).is_err());
}

/// A flip is refused, or shows in the state, or (in padding and in the order of the header's keys) means
/// nothing; it never panics. What is read fits the plan.
#[test]
fn a_flipped_bit_never_panics() {
    let (bytes, state, mut model) = small();
    let (mut refused, mut changed) = (0, 0);
    for byte in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[byte] ^= 1 << bit;
            match OptimizerState::from_safetensors(&flipped, model.optimizer.plan()) {
                Err(_) => refused += 1,
                Ok(read) => {
                    // By bits: a flip can make a NaN.
                    changed += u32::from(format!("{read:?}") != format!("{state:?}"));
                    read.check(model.optimizer.plan()).unwrap();
                }
            }
        }
    }
    assert!(refused > 1000 && changed > 100, "{refused} refused, {changed} changed");
    model.optimizer.load_state(&state).unwrap();
}

#[test]
fn a_file_of_another_kind_is_an_error_that_says_so() {
    let (bytes, _, model) = small();
    let plan = model.optimizer.plan();
    let says = |bytes: &[u8], words: &[&str]| {
        let error = OptimizerState::from_safetensors(bytes, plan).unwrap_err().to_string();
        words.iter().for_each(|word| assert!(error.contains(word), "{error:?} does not say {word:?}"));
    };
    let edited = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap_or_else(|| panic!("no {from}"));
        let mut edited = bytes.clone();
        edited[at..at + from.len()].copy_from_slice(to.as_bytes());
        edited
    };
    says(b"not a safetensors file at all", &["safetensors"]);
    says(&edited("wgpu-optim", "gpgpu-otim"), &["not a wgpu-optim state"]);
    says(&edited("\"version\":\"2\"", "\"version\":\"9\""), &["version", "9"]);
    says(&edited("\"steps_taken\":\"1\"", "\"steps_taken\":\"x\""), &["steps_taken", "not a count"]);
    says(&edited("\"steps:a\":\"1\"", "\"steps:a\":\"5\""), &["\"a\" took 5 steps of 1"]);
    says(&edited("\"rule:b\":\"sgd\"", "\"rule:b\":\"xyz\""), &["\"b\" was saved by rule \"xyz\""]);
    says(&edited("a.square_avg", "a.square_sum"), &["\"a.square_avg\" is missing", "\"a.square_sum\" is not a slot"]);

    let plain = safetensors::serialize(
        [("a.exp_avg", safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap())],
        None,
    );
    says(&plain.unwrap(), &["not an optimizer state"]);
}

#[test]
fn the_configuration_stands_in_the_state() {
    let config = adamw().group(Group::matching("*.1").set("lr", 0.25)).clip_global_norm(1.0);
    let mut on_gpu = model(&config, &values(1), Place::Arena);
    let on_cpu = Run::<f32>::new(&config, &specs(), &values(1));
    let text = config.to_toml();
    assert_eq!(through_a_file(&on_gpu).config.as_deref(), Some(text.as_str()));
    assert_eq!(on_cpu.optimizer.state().config, Some(text.clone()));
    assert_eq!(config.differences(&toml::from_str(&text).unwrap()), []);

    // It is the present one's, whatever was loaded.
    let other = adamw();
    let tensors = on_gpu.optimizer.tensors().to_vec();
    on_gpu.optimizer.reconfigure(&other, tensors).unwrap();
    on_gpu.optimizer.load_state(&on_cpu.optimizer.state()).unwrap();
    assert_eq!(on_gpu.optimizer.state_blocking().unwrap().config, Some(other.to_toml()));

    // What does not fit says why, and which way leads on.
    let mut accumulating = adamw();
    accumulating.gradient.accumulate = 2;
    let refusing = Run::<f32>::new(&accumulating, &specs(), &values(1));
    let bytes = on_cpu.optimizer.state().to_safetensors().unwrap();
    let error = OptimizerState::from_safetensors(&bytes, refusing.optimizer.plan()).unwrap_err().to_string();
    for words in ["\"layer.0.grad_accumulator\" is missing", "of another configuration", "reconfigure"] {
        assert!(error.contains(words), "{error}");
    }

    // Without it, as in files of earlier versions, a state is one all the same.
    let bare = OptimizerState { config: None, ..on_cpu.optimizer.state() };
    let bytes = bare.to_safetensors().unwrap();
    assert!(!String::from_utf8_lossy(&bytes[..2000]).contains("[optimizer]"));
    let read = OptimizerState::from_safetensors(&bytes, on_cpu.optimizer.plan()).unwrap();
    assert_eq!(read, bare);
    on_gpu.optimizer.load_state(&read).unwrap();
}

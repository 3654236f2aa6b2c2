//! Gradients whose squares, or sums, leave f32: what rules make of them is the same on both backends, and right.
//! Rules that square or multiply gradients see them held at 2^60, all others as they are; sums end at the largest f32.

mod support;

use support::gpu;
use support::model::{Model, Place};
use support::oracle::{Oracle, Run};
use support::{Numbers, wide};
use wgpu_optim::rules::{self, Adagrad, AdamW, Sgd};
use wgpu_optim::{OnNonfinite, OptimizerConfig, OptimizerState, Rule, StateFormat, StorageConfig, TensorSpec, verify};

const SIZES: [f32; 4] = [1e20, 1e25, 1e30, 3e38];

const SHAPES: [&[u64]; 3] = [&[7, 41], &[9], &[1]];

fn specs() -> Vec<TensorSpec> {
    SHAPES.iter().map(|shape| TensorSpec::new(format!("t{shape:?}"), shape.to_vec())).collect()
}

fn draw(seed: u64) -> Vec<Vec<f32>> {
    let mut numbers = Numbers::new(seed);
    SHAPES.iter().map(|shape| numbers.take(shape.iter().product::<u64>() as usize)).collect()
}

/// Of that size, of both signs, from half of it up; in the second step ordinary, of `least` and more; a zero and an
/// ordinary one among them.
fn gradients(size: f32, step: u64, least: f32) -> Vec<Vec<f32>> {
    let mut values = draw(70 + step);
    for (i, x) in values.iter_mut().flatten().enumerate() {
        let ordinary = step == 1 || i % 7 == 3;
        *x = match i % 11 {
            5 => 0.0,
            _ if ordinary => least.copysign(*x) + *x,
            _ => size * (0.5 + 0.5 * x.abs()) * x.signum(),
        };
    }
    values
}

/// The rule at a rate that shows, with decay if it has any.
fn configured(rule: &dyn Rule, decay: f64) -> OptimizerConfig {
    let mut config = OptimizerConfig::from_boxed(rule.boxed());
    let lr = if rule.lr() < 1e-2 { 10.0 * rule.lr() } else { rule.lr() };
    config.rule.set_option("lr", &lr.into()).unwrap();
    // Rprop has none.
    let _ = config.rule.set_option("weight_decay", &decay.into());
    show(&mut config);
    config
}

/// Steps of LARS are next to nothing beside the parameters, whose rounding would be all that is seen.
fn show(config: &mut OptimizerConfig) {
    if config.rule.name() == "lars" {
        config.rule.set_option("trust_coefficient", &1.0.into()).unwrap();
    }
}

fn all_finite(params: &[Vec<f32>], state: &OptimizerState) -> bool {
    let slots = state.tensors.iter().flat_map(|t| t.slots.iter().map(|(_, values)| values));
    params.iter().chain(slots).flatten().all(|x| x.is_finite())
}

/// Runs both backends beside the oracle; every figure of either that is not as it should be.
fn misses(what: &str, config: &OptimizerConfig, size: f32) -> Vec<String> {
    let start: Vec<Vec<f32>> = draw(1).iter().map(|p| p.iter().map(|x| x / 32.0).collect()).collect();
    // Beside a norm of 3e38 · √297 an ordinary gradient is clipped to a subnormal number. WGSL lets a device take that as
    // zero, and some do, which is nothing to most rules and another sign to those that go by it. From 512 up it stays normal.
    let by_sign = ["rprop", "lion"].contains(&config.rule.name()) && config.gradient.clip_global_norm.is_some();
    let least = if by_sign { 512.0 } else { 0.0 };
    let mut oracle = Oracle::new(config, &specs(), &start);
    let mut model = Model::new(&gpu(), config, &specs(), &start, Place::Arena);
    for step in 0..4 * config.gradient.accumulate {
        oracle.step_all(&gradients(size, step, least));
        model.step(&gradients(size, step, least));
    }
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    let state = model.optimizer.state_blocking().unwrap();
    let peer_state = oracle.peer.optimizer.state();
    let mut misses = oracle.misses(&model.params(), &state);
    let own = peer_misses(&oracle, &start);
    misses.extend(own.into_iter().map(|miss| format!("the CPU's f32: {miss}")));
    if !all_finite(&model.params(), &state) || !all_finite(&oracle.peer.params, &peer_state) {
        misses.push("not finite".to_owned());
    }
    if (report.steps_taken, report.steps_skipped, report.nonfinite) != (4, 0, 0) {
        misses.push(format!("{report:?}"));
    }
    misses.into_iter().map(|miss| format!("{what} at {size:e}: {miss}")).collect()
}

/// What of the f32 twins is off by more than rounding explains: it is the floor of [`Oracle::misses`], and must not hide
/// what both backends have wrong.
fn peer_misses(oracle: &Oracle, start: &[Vec<f32>]) -> Vec<String> {
    const ROUNDING: f64 = 1e-3;
    let off = |found: &[f32], exact: &[f64], start: &[f64]| {
        let error = support::update_error(&wide(found), exact, start);
        (error.is_nan() || error > ROUNDING).then(|| format!("{error:.1e}"))
    };
    let mut misses = Vec::new();
    for (t, start) in start.iter().enumerate() {
        misses.extend(off(&oracle.peer.params[t], &oracle.exact.params[t], &wide(start)));
    }
    let (exact, peer) = (oracle.exact.optimizer.state(), oracle.peer.optimizer.state());
    for (exact, peer) in exact.tensors.iter().zip(&peer.tensors) {
        for ((name, exact), (_, peer)) in exact.slots.iter().zip(&peer.slots) {
            let zero = vec![0.0; exact.len()];
            misses.extend(off(peer, exact, &zero).map(|error| format!("{name} {error}")));
        }
    }
    misses
}

fn assert_none(misses: Vec<String>) {
    assert!(misses.is_empty(), "{} misses:\n{}", misses.len(), misses.join("\n"));
}

#[test]
fn every_rule_makes_of_huge_gradients_what_the_oracle_does() {
    let mut all = Vec::new();
    for rule in rules::all() {
        for size in SIZES {
            all.extend(misses(rule.name(), &configured(rule.as_ref(), 0.1), size));
        }
        for size in [1e25, 3e38] {
            let clipped = configured(rule.as_ref(), 0.0).clip_global_norm(1.0);
            all.extend(misses(&format!("{} clipped", rule.name()), &clipped, size));
        }
        let mut few = configured(rule.as_ref(), 0.0);
        few.gradient.accumulate = 2;
        all.extend(misses(&format!("{} accumulated", rule.name()), &few, 1e30));
        let mut loose = configured(rule.as_ref(), 0.1);
        // What is clipped is huge too.
        loose.gradient.clip_value = Some(1e28);
        all.extend(misses(&format!("{} clipped by value", rule.name()), &loose, 3e38));
    }
    assert_none(all);
}

#[test]
fn so_does_every_option() {
    let mut all = Vec::new();
    for variation in rules::all().iter().flat_map(|rule| support::variations::variations(rule.as_ref())) {
        // Its variance is what cancellation leaves of two numbers: f32 has no digits of it.
        if variation.label.contains("centered=true") {
            continue;
        }
        let mut config = variation.config;
        show(&mut config);
        all.extend(misses(&variation.label, &config, 3e38));
    }
    assert_none(all);
}

#[test]
fn so_do_stored_numbers_of_fewer_bits() {
    let mut all = Vec::new();
    for rule in rules::all() {
        for (name, storage) in verify::named_storages().into_iter().skip(1) {
            let config = configured(rule.as_ref(), 0.1).storage(storage);
            let findings = verify::compare_special_values(&gpu(), &config, 3, 3e38).unwrap();
            let missed = findings.iter().filter(|finding| !finding.passed());
            all.extend(missed.map(|miss| format!("{} {name}: {miss:?}", rule.name())));
        }
    }
    assert_none(all);
}

/// Where a row and a column of them cross, the product of their means leaves f32, and the element moves as the others do.
#[test]
fn a_mean_square_by_rows_and_columns_ends_at_f32() {
    const SIDE: usize = 1024;
    let config = OptimizerConfig::named("adafactor").unwrap();
    let specs = [TensorSpec::new("w", [SIDE as u64; 2])];
    let start = [vec![1.0; SIDE * SIDE]];
    let mut gradient = vec![0.0; SIDE * SIDE];
    for i in 0..SIDE {
        gradient[3 * SIDE + i] = 1e30;
        gradient[i * SIDE + 5] = 1e30;
    }
    let mut model = Model::new(&gpu(), &config, &specs, &start, Place::Arena);
    let mut peer = Run::<f32>::new(&config, &specs, &start);
    let mut exact = Run::<f64>::new(&config, &specs, &start);
    for _ in 0..2 {
        model.step(std::slice::from_ref(&gradient));
        peer.step(&[Some(gradient.clone())]);
        exact.step(&[Some(wide(&gradient))]);
    }
    assert!(all_finite(&model.params(), &model.optimizer.state_blocking().unwrap()));
    for at in [0, 3 * SIDE, 5, 3 * SIDE + 5] {
        let want = 1.0 - exact.params[0][at];
        assert_eq!(want > 0.0, at > 0, "{at}: {want:e}");
        for found in [model.params()[0][at], peer.params[0][at]] {
            let found = f64::from(1.0 - found);
            // The weights themselves are rounded.
            assert!((found - want).abs() <= 1e-3 * want + 2e-7, "{at}: {found:e}, expected {want:e}");
        }
    }
}

/// The sum of two micro-batches leaves f32, and their mean does not.
#[test]
fn sums_of_micro_batches_are_no_reason_to_skip() {
    for on_nonfinite in [OnNonfinite::Skip, OnNonfinite::Zero, OnNonfinite::Propagate] {
        let mut config = configured(&AdamW::default(), 0.0);
        (config.gradient.accumulate, config.gradient.on_nonfinite) = (2, on_nonfinite);
        assert_none(misses(&format!("{on_nonfinite:?}"), &config, 3e38));
    }
}

/// A step of Adam is of one size whatever the gradient's: so it stays where the gradient's square leaves f32.
#[test]
fn a_step_does_not_grow_with_the_gradient() {
    for name in ["adam", "adamw", "adamax", "nadam", "rmsprop", "adagrad", "yogi", "adabelief", "adan", "lamb", "lion"]
    {
        let mut config = OptimizerConfig::named(name).unwrap();
        config.rule.set_option("lr", &1e-3.into()).unwrap();
        let specs = [TensorSpec::new("w", [4])];
        let move_of = |size: f32| {
            let mut model = Model::new(&gpu(), &config, &specs, &[vec![1.0; 4]], Place::Arena);
            let mut peer = Run::<f32>::new(&config, &specs, &[vec![1.0; 4]]);
            for _ in 0..2 {
                model.step(&[vec![size; 4]]);
                peer.step(&[Some(vec![size; 4])]);
            }
            [1.0 - model.params()[0][0], 1.0 - peer.params[0][0]]
        };
        let [ordinary, _] = move_of(1e6);
        for size in SIZES {
            let moved = move_of(size);
            assert!(moved.iter().all(|m| (m / ordinary - 1.0).abs() < 1e-2), "{name} {size:e}: {moved:?}, {ordinary}");
        }
    }
}

/// One element's sum leaves f32. The others of its 256 go on: a scale that is not finite would make NaN of all.
#[test]
fn one_element_spoils_no_other_in_eight_bits() {
    let rules: [(&str, Box<dyn Rule>, f32); 3] = [
        ("adagrad", Box::new(Adagrad::default()), 1.5e19),
        ("adagrad", Box::new(Adagrad::default()), 3e38),
        ("sgd", Box::new(Sgd { momentum: 0.9, ..Sgd::default() }), 3e38),
    ];
    for (name, rule, size) in rules {
        let storage = StorageConfig { state: StateFormat::Q8, ..StorageConfig::default() };
        let config = OptimizerConfig::from_boxed(rule).storage(storage);
        let specs = [TensorSpec::new("w", [4096])];
        let mut gradient = vec![1e-3; 4096];
        gradient[7] = size;
        let start = [vec![1.0; 4096]];
        let mut model = Model::new(&gpu(), &config, &specs, &start, Place::Arena);
        let mut peer = Run::<f32>::new(&config, &specs, &start);
        let mut exact = Run::<f64>::new(&config, &specs, &start);
        // Squares at 2^120 at most: hundreds of steps until the sum is full.
        for step in 0..300 {
            model.step(std::slice::from_ref(&gradient));
            if step < 5 || step == 299 {
                let bad = model.params()[0].iter().filter(|p| !p.is_finite()).count();
                assert_eq!(bad, 0, "{name} {size:e}, step {step}");
            }
            peer.step(&[Some(gradient.clone())]);
            exact.step(&[Some(wide(&gradient))]);
        }
        assert!(peer.params[0].iter().all(|p| p.is_finite()), "{name} {size:e}");
        assert!(exact.params[0].iter().all(|p| p.is_finite()), "{name} {size:e}");
        let state = model.optimizer.state_blocking().unwrap();
        let scales = &state.tensors[0].storage[0].scales;
        assert!(scales.iter().all(|scale| scale.is_finite()), "{name} {size:e}: {scales:?}");
        assert_eq!(model.optimizer.wait_for_report().unwrap().unwrap().steps_skipped, 0);
    }
}

/// What is left in the state at the largest f32 loads into other storage as a number.
#[test]
fn saturated_state_of_f32_becomes_bf16() {
    let config = |state| {
        OptimizerConfig::new(Sgd { momentum: 0.9, ..Sgd::default() })
            .storage(StorageConfig { state, ..StorageConfig::default() })
    };
    let specs = [TensorSpec::new("w", [4])];
    let mut wide = Run::<f32>::new(&config(StateFormat::F32), &specs, &[vec![0.0; 4]]);
    for _ in 0..3 {
        wide.step(&[Some(vec![3e38; 4])]);
    }
    let state = wide.optimizer.state();
    assert_eq!(state.tensors[0].slots[0].1, [f32::MAX; 4]);
    let mut state = state;
    let mut narrow = Run::<f32>::new(&config(StateFormat::Bf16), &specs, &[vec![0.0; 4]]);
    state.tensors[0].storage = narrow.optimizer.state().tensors[0].storage.clone();
    narrow.optimizer.load_state(&state).unwrap();
    assert!(narrow.optimizer.state().tensors[0].slots[0].1.iter().all(|x| x.is_finite()));
    let mut model = Model::new(&gpu(), &config(StateFormat::Bf16), &specs, &[vec![0.0; 4]], Place::Arena);
    model.optimizer.load_state(&state).unwrap();
    assert!(model.optimizer.state_blocking().unwrap().tensors[0].slots[0].1.iter().all(|x| x.is_finite()));
}

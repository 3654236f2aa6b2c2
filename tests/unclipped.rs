//! Groups whose gradients no norm-type key acts on nor counts: against PyTorch's arithmetic by hand, and the GPU against the
//! oracle.

mod support;

use support::model::{Model, PLACES, Place};
use support::oracle::{Oracle, Run};
use support::small::{gradients, parameters, specs};
use support::{gpu, look};
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::{GradientConfig, Group, HealthConfig, OnNonfinite, OptimizerConfig, TensorSpec};

fn spared(config: OptimizerConfig) -> OptimizerConfig {
    config.group(Group::matching("layer2.*").unclipped())
}

type Key = (&'static str, fn(&mut GradientConfig));

const KEYS: [Key; 5] = [
    ("clip_global_norm", |g| g.clip_global_norm = Some(0.25)),
    ("normalize_global_norm", |g| g.normalize_global_norm = Some(2.0)),
    ("clip_tensor_norm", |g| g.clip_tensor_norm = Some(0.25)),
    ("clip_max_abs", |g| g.clip_max_abs = Some(0.1)),
    ("clip_adaptive", |g| g.clip_adaptive = Some(0.01)),
];

/// `clip_grad_norm_` over the parameters of the other groups.
#[test]
fn what_is_spared_neither_counts_nor_is_scaled() {
    let gpu = gpu();
    let config = OptimizerConfig::new(Sgd { lr: 1.0, ..Sgd::default() })
        .clip_global_norm(1.0)
        .group(Group::matching("b").unclipped().named("spared"));
    let specs = ["a", "b"].map(|name| TensorSpec::new(name, [2]));
    let start = vec![vec![0.0f32, 0.0]; 2];
    let mut run = Run::<f64>::new(&config, &specs, &start);
    let mut model = Model::new(&gpu, &config, &specs, &start, Place::Arena);
    let report = run.step(&[Some(vec![3.0, 4.0]), Some(vec![100.0, -200.0])]);
    assert_eq!(report.global_norm, Some(5.0), "of what counts");
    let coefficient = 1.0 / (5.0 + 1e-6);
    assert_eq!(run.params[0], [-3.0 * coefficient, -4.0 * coefficient]);
    assert_eq!(run.params[1], [-100.0, 200.0]);
    model.step(&[vec![3.0, 4.0], vec![100.0, -200.0]]);
    let report = model.optimizer.wait_for_report().unwrap().unwrap();
    assert!((report.global_norm.unwrap() - 5.0).abs() < 1e-6, "{report:?}");
    assert_eq!(model.params()[1], [-100.0, 200.0]);
    assert!((model.params()[0][0] + 0.6).abs() < 1e-6);
    // With nothing that counts the norm is 0.
    let all = OptimizerConfig::new(Sgd::default()).clip_global_norm(1.0).group(Group::matching("*").unclipped());
    let report = Run::<f64>::new(&all, &specs, &start).step(&[Some(vec![3.0, 4.0]), Some(vec![1.0, 1.0])]);
    assert_eq!((report.global_norm, report.clip_coefficient), (Some(0.0), 1.0));
}

#[test]
fn no_key_acts_on_what_is_spared() {
    let gpu = gpu();
    for (name, key) in KEYS {
        for (accumulate, all) in [(1, false), (2, false), (1, true)] {
            let mut gradient = GradientConfig { accumulate, clip_value: Some(0.5), ..GradientConfig::default() };
            key(&mut gradient);
            let base = || OptimizerConfig::new(AdamW { eps: 1e-2, ..AdamW::default() });
            let config = match all {
                true => base().gradient(gradient.clone()).group(Group::matching("*").unclipped()),
                false => spared(base().gradient(gradient.clone())),
            };
            let place = PLACES[usize::from(accumulate == 2) % PLACES.len()];
            let mut model = Model::new(&gpu, &config, &specs(), &parameters(), place);
            let mut oracle = Oracle::new(&config, &specs(), &parameters());
            // The same without any such key.
            gradient = GradientConfig { accumulate, clip_value: Some(0.5), ..GradientConfig::default() };
            let mut plain = Run::<f64>::new(&base().gradient(gradient), &specs(), &parameters());
            for step in 0..4 {
                model.step(&gradients(step));
                oracle.step_all(&gradients(step));
                plain.step(&gradients(step).iter().map(|g| Some(support::wide(g))).collect::<Vec<_>>());
            }
            oracle.check(&model.optimizer, &format!("{name} accumulate {accumulate} all {all}"));
            let exact = oracle.exact.params_f64();
            assert_eq!(exact[2], plain.params[2], "{name}: the clip by value alone");
            assert_eq!(exact[0] == plain.params[0], all, "{name}");
        }
    }
}

#[test]
fn what_is_spared_can_cause_a_skip_and_is_seen() {
    let gpu = gpu();
    let config = spared(OptimizerConfig::new(Sgd::default()).clip_global_norm(0.5));
    let whole = OptimizerConfig::new(Sgd::default()).clip_global_norm(0.5);
    let mut looks = Vec::new();
    for config in [&config, &whole] {
        let mut model = Model::new(&gpu, config, &specs(), &parameters(), Place::Arena);
        model.optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
        model.step(&gradients(0));
        looks.push(look(&mut model.optimizer).unwrap());
    }
    let norms = |i: usize| looks[i].tensors.iter().map(|t| t.gradient_norm.to_bits()).collect::<Vec<_>>();
    assert_eq!(norms(0), norms(1), "health sees all");
    let mut values = gradients(0);
    values[2][5] = f32::NAN;
    let mut model = Model::new(&gpu, &config, &specs(), &parameters(), Place::Arena);
    let mut oracle = Oracle::new(&config, &specs(), &parameters());
    model.step(&values);
    let want = oracle.step_all(&values);
    let got = model.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!((got.skipped, got.nonfinite), (true, 1));
    assert_eq!((want.skipped, want.nonfinite), (true, 1));
    let mut zero = config.clone();
    zero.gradient.on_nonfinite = OnNonfinite::Zero;
    let mut model = Model::new(&gpu, &zero, &specs(), &parameters(), Place::Arena);
    let mut oracle = Oracle::new(&zero, &specs(), &parameters());
    model.step(&values);
    oracle.step_all(&values);
    oracle.check(&model.optimizer, "zeroed");
}

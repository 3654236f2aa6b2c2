//! A rule from another crate: the example runs, and mistakes are told with the rule's own line.

mod support;

#[path = "../examples/custom_rule.rs"]
mod example;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use example::{Signum, SignumHyper};
use support::model::{Model, Place};
use wgpu_optim::options::range::{Declaration, NON_NEGATIVE};
use wgpu_optim::plan::Plan;
use wgpu_optim::rules::AdamW;
use wgpu_optim::schedule::Cosine;
use wgpu_optim::storage::{StateFormat, StorageConfig};
use wgpu_optim::{
    Arena, Decay, Element, Error, Float, HealthConfig, Optimizer, OptimizerConfig, OptionError, OptionValue, Options,
    Rule, Scalars, Slot, TensorSpec, Twin, verify,
};

#[test]
fn the_example_reaches_its_minimum() {
    let w = example::run(&support::gpu()).unwrap();
    // Its steps end at 1e-4, and the sign turns within one step of the minimum.
    assert!(w.iter().all(|w| (w - 3.0).abs() < 5e-3), "{w:?}");
}

/// Signum with another text or another twin.
#[derive(Debug, Clone)]
struct Broken {
    inner: Signum,
    wgsl: Cow<'static, str>,
    factor: f64,
    slots: Vec<Slot>,
    scalars: &'static [&'static str],
    /// Whether its text is not even WGSL, for now.
    spoiled: Arc<AtomicBool>,
    /// Whether f32 keeps three binary digits of the direction only, as after a cancellation.
    lossy: bool,
}

impl Options for Broken {
    fn options(&self) -> Vec<(&'static str, Option<OptionValue>)> {
        self.inner.options()
    }
    fn set_option(&mut self, key: &str, value: &OptionValue) -> Result<(), OptionError> {
        self.inner.set_option(key, value)
    }
    fn declarations(&self) -> Vec<Declaration> {
        self.inner.declarations()
    }
    fn check_ranges(&self) -> Result<(), OptionError> {
        self.inner.check_ranges()
    }
}

impl Rule for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }
    fn reference(&self) -> &'static str {
        "none"
    }
    fn lr(&self) -> f64 {
        self.inner.lr
    }
    fn decay(&self) -> Decay {
        self.inner.decay()
    }
    fn slots(&self) -> Vec<Slot> {
        self.slots.clone()
    }
    fn wgsl(&self) -> &str {
        if self.spoiled.load(Relaxed) { "not WGSL" } else { &self.wgsl }
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        self.scalars
    }
    fn scalars(&self, step: u64, lr: f64) -> Scalars {
        self.inner.scalars(step, lr)
    }
    fn check(&self) -> Result<(), OptionError> {
        self.inner.check()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

impl Twin for Broken {
    type State<F: Float> = [F; 1];
    type Hyper<F: Float> = SignumHyper<F>;

    fn direction<F: Float>(&self, e: Element<F>, s: &mut [F; 1], h: &SignumHyper<F>) -> F {
        let direction = F::of(self.factor) * self.inner.direction(e, s, h);
        if self.lossy && size_of::<F>() == size_of::<f32>() {
            return F::of(f32::from_bits((direction.f64() as f32).to_bits() & 0xfff0_0000).into());
        }
        direction
    }
}

fn broken(wgsl: impl Into<Cow<'static, str>>, factor: f64) -> Broken {
    let inner = Signum::default();
    let (slots, scalars) = (inner.slots(), inner.scalar_names());
    Broken { slots, scalars, inner, wgsl: wgsl.into(), factor, spoiled: Arc::default(), lossy: false }
}

#[test]
fn a_slot_needs_a_name_of_its_own() {
    let sound = || broken(Signum::default().wgsl().to_owned(), 1.0);
    let specs = [TensorSpec::new("w", [2, 2])];
    for name in ["ema", "master", "grad_accumulator", "row_var", "col_var", sound().slots[0].name] {
        let mut rule = sound();
        rule.slots.push(Slot::signed(name));
        let error = Plan::new(&OptimizerConfig::new(rule), &specs).unwrap_err();
        assert!(matches!(&error, Error::Slot { rule, slot, .. } if rule == "broken" && slot == name), "{error}");
    }
    let mut rule = sound();
    rule.slots.push(Slot::signed("its_own"));
    Plan::new(&OptimizerConfig::new(rule), &specs).unwrap();
}

/// Names stand in a kernel's text: nothing but a name may stand there.
#[test]
fn names_of_slots_and_scalars_are_identifiers() {
    let specs = [TensorSpec::new("w", [2, 2])];
    let names = ["", "_", "__own", "1st", "exp avg", "exp-avg", "größe", "a;} fn more() {"];
    for name in names {
        let mut rule = broken(Signum::default().wgsl().to_owned(), 1.0);
        rule.slots.push(Slot::signed(name));
        let error = Plan::new(&OptimizerConfig::new(rule), &specs).unwrap_err();
        assert!(matches!(&error, Error::Slot { slot, .. } if slot == name), "{error}");
        assert!(error.to_string().contains("identifier"), "{error}");
    }
    for name in names {
        let rule = Broken { scalars: vec![name].leak(), ..broken(Signum::default().wgsl().to_owned(), 1.0) };
        let error = Plan::new(&OptimizerConfig::new(rule), &specs).unwrap_err();
        assert!(matches!(&error, Error::Shader { rule, reason } if rule == "broken" && reason.contains("identifier")));
    }
    for name in ["_own", "exp_avg2", "Z"] {
        let mut rule = Broken { scalars: vec![name].leak(), ..broken(Signum::default().wgsl().to_owned(), 1.0) };
        rule.slots.push(Slot::signed(name));
        Plan::new(&OptimizerConfig::new(rule), &specs).unwrap();
    }
}

wgpu_optim::options! {
    /// What goes by the name of a rule of the library.
    pub struct Imitator {
        /// Learning rate.
        pub lr: f64 = 1e-3, in NON_NEGATIVE,
    }
}

wgpu_optim::rule! { Imitator as rule {
    name: "adamw",
    reference: "none",
    decay: Decay::Decoupled(0.0),
    // The last is a word of WGSL, and spoils the text that the engine adds.
    slots: [Slot::signed("exp_avg"), Slot::unsigned("exp_avg_sq"), Slot::unsigned("loop")],
    constants: [("AMSGRAD", rule.lr < 0.0)],
    wgsl: concat!(include_str!("../shaders/rules/adamw.wgsl"), include_str!("../shaders/rules/shared/adam.wgsl")),
    scalars: |_, _| ImitatorHyper {
        beta1_complement: 0.1,
        beta2_complement: 0.001,
        eps: 1e-8,
        inverse_correction1: 1.0,
        inverse_root_correction2: 1.0,
    },
} }

impl Twin for Imitator {
    type State<F: Float> = [F; 3];
    type Hyper<F: Float> = ImitatorHyper<F>;
    fn direction<F: Float>(&self, e: Element<F>, _: &mut [F; 3], _: &ImitatorHyper<F>) -> F {
        e.g
    }
}

/// Neither its name nor its text makes a rule the library's own: the compiler's words are about a rule from outside, whose
/// accesses wgpu checks.
#[test]
fn a_rule_under_a_name_of_ours_is_not_ours() {
    let gpu = support::gpu();
    assert_eq!(Imitator::default().wgsl(), AdamW::default().wgsl());
    let arena = Arena::new(&gpu, [TensorSpec::new("w", [4])]).unwrap();
    let error = Optimizer::new(&gpu, &OptimizerConfig::new(Imitator::default()), arena.tensors().to_vec()).unwrap_err();
    assert!(matches!(&error, Error::Shader { rule, .. } if rule == "adamw"), "{error}");
}

#[test]
fn a_sound_copy_passes() {
    let text = Signum::default().wgsl().to_owned();
    verify::check_rule(&support::gpu(), &broken(text, 1.0)).unwrap();
}

#[test]
fn a_twin_that_disagrees_is_told_with_the_rules_line() {
    let text = Signum::default().wgsl().to_owned();
    let error = verify::check_rule(&support::gpu(), &broken(text, 1.001)).unwrap_err();
    let Error::Twin { rule, reason } = error else { panic!("{error}") };
    assert_eq!(rule, "broken");
    assert!(reason.contains("line 8 of its WGSL: fn direction("), "{reason}");
}

/// What is unstable in f32 is so on both sides, and agrees with itself: the twin's own error is no excuse beyond 1e-3.
#[test]
fn arithmetic_that_loses_its_digits_is_told_though_both_sides_lose_them() {
    let digits = |mask: &str| {
        let lossy =
            format!("return bitcast<vec4<f32>>(bitcast<vec4<u32>>(0.7 * sign((*s).exp_avg)) & vec4<u32>({mask}));");
        let text = Signum::default().wgsl().replace("return sign((*s).exp_avg);", &lossy);
        assert!(text.contains(&lossy), "{text}");
        Broken { lossy: mask != "0xffffffffu", ..broken(text, 0.7) }
    };
    verify::check_rule(&support::gpu(), &digits("0xffffffffu")).unwrap();
    let error = verify::check_rule(&support::gpu(), &digits("0xfff00000u")).unwrap_err();
    assert!(matches!(error, Error::Twin { .. }), "{error}");
}

#[test]
fn text_that_does_not_compile_is_quoted_by_its_own_line() {
    let text = Signum::default().wgsl().replace("return sign", "return sgn");
    let error = verify::check_rule(&support::gpu(), &broken(text, 1.0)).unwrap_err();
    let Error::Shader { rule, reason } = error else { panic!("{error}") };
    assert_eq!(rule, "broken");
    assert!(reason.contains("wgsl:10:") && reason.contains("sgn"), "{reason}");
}

/// What the engine does around a rule it does for one from outside: every storage, clipping, accumulation,
/// a schedule, limits, an average.
#[test]
fn the_engine_does_around_the_example_what_it_does_around_its_own() {
    let gpu = support::gpu();
    for (name, storage) in verify::named_storages() {
        let mut config = OptimizerConfig::new(Signum::default()).clip_global_norm(1.0);
        config.gradient.accumulate = 2;
        config.schedule = Cosine { total_steps: 10, min_lr: 0.0 }.into();
        config.weights.max_norm = Some(5.0);
        config.storage = storage;
        let findings = verify::compare(&gpu, &config, 4).unwrap();
        assert!(findings.iter().all(|f| f.passed()), "{name}: {findings:?}");
    }
}

#[test]
fn a_setting_that_cannot_be_stays_as_it_was() {
    let gpu = support::own_gpu();
    let rule = broken(Signum::default().wgsl().to_owned(), 1.0);
    let spoiled = rule.spoiled.clone();
    let specs = [TensorSpec::new("w", [5])];
    let mut model = Model::new(&gpu, &OptimizerConfig::new(rule), &specs, &[vec![1.0; 5]], Place::Arena);
    let refused =
        |outcome: wgpu_optim::Result<()>| assert!(matches!(outcome, Err(Error::Shader { .. })), "{outcome:?}");
    let gradient = |model: &Model| support::model::read_slice(&gpu, &model.gradients[0]);

    spoiled.store(true, Relaxed);
    refused(model.optimizer.set_zero_gradients(true));
    refused(model.optimizer.set_health(Some(HealthConfig::default())));
    spoiled.store(false, Relaxed);
    model.step(&[vec![1.0; 5]]);
    assert_eq!(gradient(&model), [1f32.to_bits(); 5]);
    model.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!(model.optimizer.health().unwrap(), None);

    model.optimizer.set_health(Some(HealthConfig { interval: 1, ..HealthConfig::default() })).unwrap();
    spoiled.store(true, Relaxed);
    refused(model.optimizer.set_health(None));
    spoiled.store(false, Relaxed);
    model.step(&[vec![1.0; 5]]);
    model.optimizer.wait_for_report().unwrap().unwrap();
    assert_eq!(model.optimizer.health().unwrap().map(|health| health.steps_taken), Some(2));
}

/// The code below that of zero would be that of its neighbours.
#[test]
fn negative_values_of_a_slot_without_signs_become_zero_in_eight_bits() {
    let storage = StorageConfig { state: StateFormat::Q8, ..StorageConfig::default() };
    // The gradient itself, in a slot that is said to have no sign.
    let text = Signum::default().wgsl().replace("average((*s).exp_avg, e.g, h.beta, h.beta_complement)", "e.g");
    assert!(text.contains("exp_avg = e.g;"), "{text}");
    let mut rule = broken(text, 1.0);
    rule.slots = vec![Slot::unsigned("exp_avg")];
    let config = OptimizerConfig::new(rule).storage(storage);
    let specs = [TensorSpec::new("w", [4096])];
    let mut model = Model::new(&support::gpu(), &config, &specs, &[vec![1.0; 4096]], Place::Arena);
    model.step(&[[-0.5, 0.25, 1.0, -1.0].repeat(1024)]);
    let slots = model.optimizer.state_blocking().unwrap().tensors[0].slots.clone();
    for quad in slots[0].1.chunks_exact(4) {
        assert_eq!([quad[0], quad[2], quad[3]], [0.0, 1.0, 0.0]);
        assert!((quad[1] - 0.25).abs() < 0.01, "{quad:?}");
    }
}

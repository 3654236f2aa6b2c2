//! Our own kernels are compiled without bounds checks: between guard words, at every alignment and
//! around every length where a loop ends, they touch what is theirs and nothing else.
//!
//! All tensors lie in one pair of buffers and mostly in one dispatch, so that what a kernel reads or
//! writes too far is in its binding, where no driver's robustness hides it.

mod support;

use support::model::{Packed, read_slice};
use support::oracle::Oracle;
use support::{Numbers, gpu, submit};
use wgpu_optim::options::range::Declaration;
use wgpu_optim::rules::AdamW;
use wgpu_optim::{
    Decay, Element, Float, Gpu, Optimizer, OptimizerConfig, OptimizerState, OptionError, OptionValue, Options, Rule,
    Scalars, Slot, Tensor, TensorSpec, Twin, rules,
};

/// Words past a multiple of 256 bytes at which tensors start.
const ALIGNMENTS: std::ops::Range<usize> = 0..16;

/// A vector, a block and four blocks, and what is around them.
fn lengths() -> Vec<usize> {
    (1..10).chain(4093..4100).chain(16_380..16_391).collect()
}

fn short_lengths() -> Vec<usize> {
    (1..10).chain(4093..4100).collect()
}

struct Run {
    gpu: Gpu,
    optimizer: Optimizer,
    params: Packed,
    gradients: Packed,
    values: Vec<Vec<f32>>,
}

/// A tensor of each length at each alignment, gradients `ahead` words further on.
fn run(config: &OptimizerConfig, lengths: &[usize], ahead: usize, clear: bool) -> Run {
    let gpu = gpu();
    let slices: Vec<_> = lengths.iter().flat_map(|len| ALIGNMENTS.map(move |shift| (*len, shift))).collect();
    let params = Packed::new(&gpu, &slices);
    let gradients = Packed::new(&gpu, &slices.iter().map(|(len, shift)| (*len, shift + ahead)).collect::<Vec<_>>());
    let mut numbers = Numbers::new(1);
    let mut tensors = Vec::new();
    let mut values = Vec::new();
    for (i, spec) in specs(lengths).iter().enumerate() {
        let (slice, gradient) = (params.slice(i), gradients.slice(i));
        let start: Vec<f32> = numbers.take(slices[i].0).iter().map(|x| x / 32.0).collect();
        gpu.write(&slice, &start).unwrap();
        gpu.write(&gradient, &start.iter().map(|x| 16.0 * x).collect::<Vec<_>>()).unwrap();
        tensors.push(Tensor::new(spec.name.clone(), spec.shape.clone(), slice).with_gradient(gradient));
        values.push(start);
    }
    let mut optimizer = Optimizer::new(&gpu, config, tensors).unwrap();
    optimizer.set_zero_gradients(clear).unwrap();
    submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    Run { gpu, optimizer, params, gradients, values }
}

fn specs(lengths: &[usize]) -> Vec<TensorSpec> {
    let each = |len: &usize| ALIGNMENTS.map(move |shift| (*len, shift)).collect::<Vec<_>>();
    lengths.iter().flat_map(each).map(|(len, shift)| TensorSpec::new(format!("{len}@{shift}"), [len as u64])).collect()
}

impl Run {
    fn assert_within(&self, what: &str, clear: bool) {
        assert_eq!(self.params.broken_guards(&self.gpu), Vec::<usize>::new(), "{what}: around parameters");
        assert_eq!(self.gradients.broken_guards(&self.gpu), Vec::<usize>::new(), "{what}: around gradients");
        let words = support::model::read_words(&self.gpu, &self.gradients.buffer);
        for ((start, len), values) in self.gradients.places.iter().zip(&self.values) {
            let expected = |x: &f32| if clear { 0 } else { (16.0 * x).to_bits() };
            assert!(words[*start..start + len].iter().copied().eq(values.iter().map(expected)), "{what}: gradients");
        }
        // The scan reads no guard either: they are NaN.
        let state = self.optimizer.state_blocking().unwrap();
        assert_eq!((state.steps_taken, state.steps_skipped), (1, 0), "{what}");
    }

    fn outcome(&self) -> (Vec<Vec<u32>>, OptimizerState) {
        let bits = |p: Vec<f32>| p.into_iter().map(f32::to_bits).collect();
        let params = self.optimizer.params_blocking().unwrap().into_iter().map(bits).collect();
        (params, self.optimizer.state_blocking().unwrap())
    }
}

fn adamw() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default()).clip_global_norm(1.0)
}

#[test]
fn kernels_stay_within_their_tensors_at_every_alignment_and_length() {
    let lengths = lengths();
    let mut oracle: Option<Oracle> = None;
    for ahead in [0, 1, 2, 3, 4, 8] {
        for clear in [false, true] {
            let run = run(&adamw(), &lengths, ahead, clear);
            let what = format!("gradients {ahead} words ahead, clear = {clear}");
            run.assert_within(&what, clear);
            let oracle = oracle.get_or_insert_with(|| {
                let mut oracle = Oracle::new(&adamw(), &specs(&lengths), &run.values);
                let gradients: Vec<Vec<f32>> =
                    run.values.iter().map(|p| p.iter().map(|x| 16.0 * x).collect()).collect();
                oracle.step_all(&gradients);
                oracle
            });
            oracle.check(&run.optimizer, &what);
        }
    }
}

#[test]
fn so_does_every_rule() {
    for rule in rules::all() {
        for gradient in ["skip", "propagate"] {
            let mut config = OptimizerConfig::from_boxed(rule.clone());
            config.gradient.set_option("on_nonfinite", &OptionValue::from(gradient)).unwrap();
            for clear in [false, true] {
                let run = run(&config, &short_lengths(), 1, clear);
                run.assert_within(&format!("{} {gradient} {clear}", rule.name()), clear);
            }
        }
    }
}

/// AdamW as another crate would bring it: under a name that is not ours, so that wgpu checks accesses.
#[derive(Debug, Clone)]
struct Outside(AdamW);

impl Options for Outside {
    fn options(&self) -> Vec<(&'static str, Option<OptionValue>)> {
        self.0.options()
    }
    fn set_option(&mut self, key: &str, value: &OptionValue) -> Result<(), OptionError> {
        self.0.set_option(key, value)
    }
    fn declarations(&self) -> Vec<Declaration> {
        self.0.declarations()
    }
    fn check_ranges(&self) -> Result<(), OptionError> {
        self.0.check_ranges()
    }
}

impl Twin for Outside {
    type State<F: Float> = <AdamW as Twin>::State<F>;
    type Hyper<F: Float> = <AdamW as Twin>::Hyper<F>;
    fn direction<F: Float>(&self, e: Element<F>, s: &mut Self::State<F>, h: &Self::Hyper<F>) -> F {
        self.0.direction(e, s, h)
    }
}

impl Rule for Outside {
    fn name(&self) -> &'static str {
        "outside"
    }
    fn reference(&self) -> &'static str {
        self.0.reference()
    }
    fn lr(&self) -> f64 {
        self.0.lr()
    }
    fn decay(&self) -> Decay {
        self.0.decay()
    }
    fn slots(&self) -> Vec<Slot> {
        self.0.slots()
    }
    fn constants(&self) -> Vec<(&'static str, bool)> {
        self.0.constants()
    }
    fn wgsl(&self) -> &str {
        self.0.wgsl()
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        self.0.scalar_names()
    }
    fn scalars(&self, step: u64, lr: f64) -> Scalars {
        self.0.scalars(step, lr)
    }
    fn check(&self) -> Result<(), OptionError> {
        self.0.check()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

#[test]
fn a_checked_update_gives_the_same_bits() {
    let checked = OptimizerConfig::new(Outside(AdamW::default())).clip_global_norm(1.0);
    for ahead in [0, 1] {
        let ours = run(&adamw(), &lengths(), ahead, true);
        let outside = run(&checked, &lengths(), ahead, true);
        outside.assert_within("checked", true);
        let (params, mut state) = outside.outcome();
        state.tensors.iter_mut().for_each(|t| t.rule = "adamw".to_owned());
        let (our_params, our_state) = ours.outcome();
        // It names the rule.
        assert!(state.config != our_state.config);
        state.config.clone_from(&our_state.config);
        assert!(params == our_params, "parameters differ");
        assert!(state == our_state, "state differs");
    }
}

#[test]
fn a_word_written_too_far_is_found() {
    let run = run(&adamw(), &[4097], 1, false);
    run.assert_within("untouched", false);
    let (start, len) = run.params.places[5];
    for word in [start - 1, start + len] {
        let old = support::model::read_words(&run.gpu, &run.params.buffer)[word];
        run.gpu.queue().write_buffer(&run.params.buffer, word as u64 * 4, &[1, 2, 3, 4]);
        assert_eq!(run.params.broken_guards(&run.gpu), [word]);
        run.gpu.queue().write_buffer(&run.params.buffer, word as u64 * 4, &old.to_le_bytes());
    }
    assert_ne!(read_slice(&run.gpu, &run.params.slice(0))[0], run.values[0][0].to_bits(), "a step was taken");
}

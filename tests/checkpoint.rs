//! Checkpoints: taken while training goes on, resumed to the same bits, written whole or not at all.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::model::{Model, PLACES, Place, buffer};
use support::oracle::Run;
use support::variations::variations;
use support::{Numbers, encoder, gpu};
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::schedule::{Cosine, Plateau};
use wgpu_optim::verify;
use wgpu_optim::{
    Checkpoint, DynamicScale, EmaConfig, Error, Group, LossScale, OptimizerConfig, Slice, Tensor, TensorSpec, rules,
    wgpu,
};

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

fn model(config: &OptimizerConfig, seed: u64, place: Place) -> Model {
    Model::new(&gpu(), config, &specs(), &values(seed), place)
}

fn adamw() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default())
}

/// All that an engine can have: accumulation, a dynamic scale, an average, a schedule.
fn full(config: OptimizerConfig) -> OptimizerConfig {
    let mut config = config.clip_global_norm(1.0).ema(EmaConfig { decay: 0.9, warmup: true, interval: 2 });
    config.gradient.accumulate = 2;
    let scale = DynamicScale { init: 64.0, growth_interval: 2, ..DynamicScale::default() };
    config.gradient.loss_scale = Some(LossScale::Dynamic(scale));
    config.schedule(Cosine { total_steps: 20, min_lr: 0.0 })
}

/// A folder that is removed in the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wgpu-optim-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> std::path::PathBuf {
        self.0.join("run.safetensors")
    }

    fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Steps one way and through a checkpoint: recorded between steps of one encoder, saved to a file, loaded by an
/// optimizer that lies elsewhere and has gone another way.
fn resumes(config: &OptimizerConfig, place: Place, what: &str) {
    let mut straight = model(config, 1, place);
    (0..7).for_each(|step| straight.step(&gradients(step)));

    let mut first = model(config, 1, place);
    (0..2).for_each(|step| first.step(&gradients(step)));
    first.write_gradients(&gradients(2));
    let mut recorded = encoder(&first.gpu);
    first.optimizer.step(&mut recorded).unwrap();
    let pending = first.optimizer.record_checkpoint(&mut recorded).unwrap();
    // What comes after is not in it.
    first.optimizer.step(&mut recorded).unwrap();
    first.gpu.queue().submit([recorded.finish()]);
    first.step(&gradients(50));
    let folder = Folder::new("resumes");
    pending.wait().unwrap().save(folder.file()).unwrap();
    drop(first);

    let mut second = model(config, 2, Place::Separate);
    second.step(&gradients(51));
    let checkpoint = Checkpoint::load(folder.file(), second.optimizer.plan()).unwrap();
    second.optimizer.load_checkpoint(&checkpoint).unwrap();
    assert_eq!(second.optimizer.checkpoint_blocking().unwrap(), checkpoint, "{what}");
    (3..7).for_each(|step| second.step(&gradients(step)));
    assert_eq!(second.bits(), straight.bits(), "{what}");
    let [a, b] = [&straight, &second].map(|m| m.optimizer.checkpoint_blocking().unwrap());
    assert_eq!(a, b, "{what}");
}

#[test]
fn every_rule_with_every_option_resumes_to_the_same_bits() {
    let mut count = 0;
    for rule in rules::all() {
        for (variation, place) in variations(rule.as_ref()).into_iter().zip(PLACES.into_iter().cycle()) {
            resumes(&variation.config.clone(), place, &variation.label);
            count += 1;
        }
        count += 1;
        resumes(&full(OptimizerConfig::from_boxed(rule.boxed())), Place::Arena, &format!("{} in full", rule.name()));
    }
    println!("reliability: configurations (rule x option) that resumed to the same bits on the GPU: {count}");
}

/// In every storage, through a file, to the same bits.
#[test]
fn every_rule_in_every_storage_resumes_to_the_same_bits() {
    let mut count = 0;
    for rule in rules::all() {
        for (name, storage) in verify::named_storages().into_iter().skip(1) {
            let config = OptimizerConfig::from_boxed(rule.boxed()).storage(storage);
            resumes(&config, Place::Arena, &format!("{} {name}", rule.name()));
            count += 1;
        }
    }
    println!("reliability: configurations (rule x storage) that resumed to the same bits on the GPU: {count}");
}

#[test]
fn the_cpu_resumes_to_the_same_bits() {
    println!("reliability: rules that resumed to the same bits on the CPU: {}", rules::all().len());
    let wrap = |g: Vec<Vec<f32>>| g.into_iter().map(Some).collect::<Vec<_>>();
    for rule in rules::all() {
        let config = full(OptimizerConfig::from_boxed(rule));
        let mut straight = Run::<f32>::new(&config, &specs(), &values(1));
        for step in 0..5 {
            straight.step(&wrap(gradients(step)));
        }
        let checkpoint = Checkpoint::new(straight.optimizer.state())
            .with_params(straight.optimizer.plan(), straight.params.clone())
            .unwrap()
            .with_extra("seed", "7");
        let bytes = checkpoint.to_safetensors().unwrap();
        let read = Checkpoint::from_safetensors(&bytes, straight.optimizer.plan()).unwrap();
        assert_eq!(read, checkpoint);
        let params: Vec<_> = read.params.iter().flatten().map(|t| t.values.clone()).collect();
        let mut second = Run::<f32>::new(&config, &specs(), &params);
        second.optimizer.load_state(&read.state).unwrap();
        for step in 5..9 {
            straight.step(&wrap(gradients(step)));
            second.step(&wrap(gradients(step)));
        }
        assert_eq!((second.params, second.optimizer.state()), (straight.params, straight.optimizer.state()));
    }
}

#[test]
fn rates_set_at_run_time_and_a_plateau_are_resumed() {
    let config = adamw()
        .group(Group::matching("layer.0").set("weight_decay", 0.5))
        .schedule(Plateau { patience: 0, ..Plateau::default() });
    let go = |m: &mut Model, from: usize| {
        for step in from..from + 3 {
            m.step(&gradients(step));
            m.optimizer.report_loss(1.0).unwrap();
        }
    };
    let mut straight = model(&config, 1, Place::Arena);
    assert_eq!(straight.optimizer.state_blocking().unwrap().rates, None, "nothing is set yet");
    straight.optimizer.set_lr(0.02).unwrap();
    straight.optimizer.set_group_weight_decay("layer.0", 0.25).unwrap();
    go(&mut straight, 0);
    let checkpoint = straight.optimizer.checkpoint_blocking().unwrap();
    let bytes = checkpoint.to_safetensors().unwrap();
    let mut second = model(&config, 2, Place::Arena);
    second.optimizer.set_group_lr("layer.0", 7.0).unwrap();
    let read = Checkpoint::from_safetensors(&bytes, second.optimizer.plan()).unwrap();
    second.optimizer.load_checkpoint(&read).unwrap();
    assert_eq!(second.optimizer.rates().state(), straight.optimizer.rates().state());
    go(&mut straight, 3);
    go(&mut second, 3);
    assert_eq!(second.bits(), straight.bits());
    assert!(second.optimizer.rates().plateau().factor < 0.01, "{:?}", second.optimizer.rates().plateau());

    // Nothing set: back to the configuration.
    let plain = model(&config, 1, Place::Arena).optimizer.checkpoint_blocking().unwrap();
    second.optimizer.load_checkpoint(&plain).unwrap();
    assert_eq!(second.optimizer.rates().state(), None);

    // Other groups than those that rates were set for.
    let mut other = model(&adamw(), 1, Place::Arena);
    let error = Checkpoint::from_safetensors(&bytes, other.optimizer.plan()).unwrap_err().to_string();
    assert!(error.contains("rates were set at run time for groups") && error.contains("layer.0"), "{error}");
    assert!(other.optimizer.load_checkpoint(&checkpoint).is_err());
}

#[test]
fn all_that_does_not_fit_is_told_and_nothing_is_changed() {
    let specs = |names: &[(&str, &[u64])]| -> Vec<_> { names.iter().map(|(n, s)| TensorSpec::new(*n, *s)).collect() };
    let build = |specs: &[TensorSpec], config: &OptimizerConfig| {
        let params: Vec<_> = specs.iter().map(|s| vec![0.5; s.elements().unwrap() as usize]).collect();
        Model::new(&gpu(), config, specs, &params, Place::Arena)
    };
    let saved = build(
        &specs(&[("same", &[4]), ("reshaped", &[2, 3]), ("gone", &[2]), ("ruled", &[3]), ("extra.w", &[1])]),
        &adamw().group(Group::matching("ruled").rule(Sgd { momentum: 0.9, ..Sgd::default() })),
    );
    let bytes = saved.optimizer.checkpoint_blocking().unwrap().to_safetensors().unwrap();
    let mut target = build(
        &specs(&[("same", &[4]), ("reshaped", &[3, 2]), ("new", &[2]), ("ruled", &[3]), ("extra.w", &[1])]),
        &adamw(),
    );
    target.step(&[vec![1.0; 4], vec![1.0; 6], vec![1.0; 2], vec![1.0; 3], vec![1.0]]);
    let before = target.bits();
    let error = Checkpoint::from_safetensors(&bytes, target.optimizer.plan()).unwrap_err().to_string();
    for words in [
        "\"reshaped\" has shape [2, 3], expected [3, 2]",
        "\"reshaped.exp_avg\" has shape [2, 3], expected [3, 2]",
        "\"reshaped.exp_avg_sq\" has shape",
        "\"new\" is missing",
        "\"gone\" is not",
        "\"gone.exp_avg\" is not",
        "\"ruled\" was saved by rule \"sgd\", expected \"adamw\"",
        "\"ruled.exp_avg\" is missing",
        "\"ruled.momentum_buffer\" is not",
    ] {
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
    assert!(!error.contains("same") && !error.contains("extra.w"), "{error}");
    assert_eq!(target.bits(), before);

    // A checkpoint of another shape handed over directly, parameters first.
    let checkpoint = saved.optimizer.checkpoint_blocking().unwrap();
    let error = target.optimizer.load_checkpoint(&checkpoint).unwrap_err().to_string();
    for words in ["\"new\" is missing", "the parameters of \"new\" are missing", "parameters of \"gone\""] {
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
    assert_eq!(target.bits(), before);
}

#[test]
fn a_checkpoint_without_parameters_is_one() {
    let mut run = model(&adamw(), 1, Place::Arena);
    run.step(&gradients(0));
    let mut recorded = encoder(&run.gpu);
    let pending = run.optimizer.record_state(&mut recorded).unwrap();
    run.gpu.queue().submit([recorded.finish()]);
    let checkpoint = pollster::block_on(pending).unwrap();
    assert_eq!(checkpoint.params, None);
    assert_eq!(checkpoint.state, run.optimizer.state_blocking().unwrap());
    let bytes = checkpoint.to_safetensors().unwrap();
    assert_eq!(Checkpoint::from_safetensors(&bytes, run.optimizer.plan()).unwrap(), checkpoint);
    let whole = pollster::block_on(run.optimizer.checkpoint()).unwrap();
    let expected = run.params().iter().map(Vec::len).sum::<usize>();
    assert_eq!(whole.params.unwrap().iter().map(|t| t.values.len()).sum::<usize>(), expected);
}

#[test]
fn the_memory_of_a_checkpoint_is_told_before() {
    let run = model(&adamw(), 1, Place::Arena);
    let before = run.gpu.objects_created();
    // 4,164 elements of parameters in four tensors, two slots of each in whole vectors, and the counts.
    let parts = [4 * 4164, 2 * 4 * (4 + 4160 + 4), 72 + 4 * 4, 4];
    assert_eq!(run.optimizer.checkpoint_bytes(), parts.iter().sum::<u64>());
    assert_eq!(run.gpu.objects_created(), before);
}

#[test]
fn an_encoder_that_never_runs_gives_an_error_not_a_hang() {
    let gpu = support::own_gpu();
    let run = Model::new(&gpu, &adamw(), &specs(), &values(1), Place::Arena);
    let mut dropped = encoder(&gpu);
    let pending = run.optimizer.record_checkpoint(&mut dropped).unwrap();
    drop(dropped);
    let error = pending.wait().unwrap_err();
    assert!(error.to_string().contains("dropped"), "{error}");

    gpu.set_timeout(Duration::from_millis(50));
    let mut kept = encoder(&gpu);
    let mut pending = run.optimizer.record_checkpoint(&mut kept).unwrap();
    assert_eq!(pending.try_take().unwrap(), None);
    let error = pending.wait().unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[test]
fn commands_that_the_device_refuses_give_no_checkpoint() {
    let gpu = support::own_gpu();
    let run = Model::new(&gpu, &adamw(), &specs(), &values(1), Place::Arena);
    let scope = gpu.device().push_error_scope(wgpu::ErrorFilter::Validation);
    let mut bad = encoder(&gpu);
    let pending = run.optimizer.record_checkpoint(&mut bad).unwrap();
    let small = buffer(&gpu, 4);
    bad.copy_buffer_to_buffer(&small, 0, &small, 64, 4);
    gpu.queue().submit([bad.finish()]);
    assert!(pollster::block_on(scope.pop()).is_some(), "the commands were not refused");
    let outcome = pending.wait();
    assert!(matches!(outcome, Err(Error::Device { .. })), "{outcome:?}");
}

#[test]
fn buffers_that_cannot_be_read_or_written_are_named() {
    let gpu = gpu();
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let descriptor = wgpu::BufferDescriptor { label: None, size: 16, usage, mapped_at_creation: false };
    let fixed = gpu.device().create_buffer(&descriptor);
    let tensor = Tensor::new("fixed", [4], Slice::new(&fixed, 0, 16));
    let mut optimizer = wgpu_optim::Optimizer::new(&gpu, &adamw(), [tensor]).unwrap();
    let checkpoint = optimizer.checkpoint_blocking().unwrap();
    let error = optimizer.load_checkpoint(&checkpoint).unwrap_err().to_string();
    assert!(error.contains("\"fixed\"") && error.contains("COPY_DST"), "{error}");
}

#[test]
fn parameters_that_are_not_those_of_the_tensors_are_refused() {
    let run = model(&adamw(), 1, Place::Arena);
    let (plan, checkpoint) = (run.optimizer.plan(), run.optimizer.checkpoint_blocking().unwrap());
    let with = |values: Vec<Vec<f32>>| Checkpoint::new(checkpoint.state.clone()).with_params(plan, values);
    let says = |outcome: wgpu_optim::Result<Checkpoint>, words: &str| {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    };
    assert_eq!(with(values(1)).unwrap(), checkpoint);
    says(with(values(1)[..2].to_vec()), "the parameters of \"layer.2\" are missing");
    says(with([values(1), vec![vec![1.0], vec![]]].concat()), "2 tensors more than the 4");
    let mut short = values(1);
    short[1].pop();
    says(with(short), "\"layer.1\" has 4159 parameters, expected 4160");

    // Put together by hand: neither saved nor loaded.
    let mut partial = checkpoint.clone();
    partial.params.as_mut().unwrap().remove(1);
    let error = partial.to_safetensors().unwrap_err().to_string();
    assert!(error.contains("\"layer.1\" are missing"), "{error}");
    says(partial.params_in_order(plan).map(|_| partial.clone()), "\"layer.1\" are missing");
    let mut reshaped = checkpoint;
    reshaped.params.as_mut().unwrap()[1].shape = vec![65, 64];
    assert!(reshaped.to_safetensors().is_err() && reshaped.check(plan).is_err());
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let folder = Folder::new("whole");
    let mut run = model(&adamw(), 1, Place::Arena);
    let first = run.optimizer.checkpoint_blocking().unwrap();
    first.save(folder.file()).unwrap();
    run.step(&gradients(0));
    let second = run.optimizer.checkpoint_blocking().unwrap().with_extra("epoch", "3");
    second.save(folder.file()).unwrap();
    assert_eq!(Checkpoint::load(folder.file(), run.optimizer.plan()).unwrap(), second);
    assert_eq!(folder.names(), ["run.safetensors"]);

    // Values that do not fit: refused before anything is written.
    let mut bad = first.clone();
    bad.state.tensors[0].slots[0].1.pop();
    assert!(bad.save(folder.file()).is_err());
    // A folder in the way of the name.
    let error = first.save(&folder.0).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
    assert!(first.save(folder.0.join("no/such/folder")).is_err());
    assert_eq!(Checkpoint::load(folder.file(), run.optimizer.plan()).unwrap(), second);
    assert_eq!(folder.names(), ["run.safetensors"]);
}

#[test]
fn the_same_checkpoint_makes_the_same_bytes() {
    let mut run = model(&full(adamw()), 1, Place::Arena);
    run.step(&gradients(0));
    let mut checkpoint = run.optimizer.checkpoint_blocking().unwrap();
    (0..20).for_each(|i| drop(checkpoint.extra.insert(format!("key {i}"), i.to_string())));
    let bytes = checkpoint.to_safetensors().unwrap();
    let read = Checkpoint::from_safetensors(&bytes, run.optimizer.plan()).unwrap();
    assert!((0..4).all(|_| checkpoint.to_safetensors().unwrap() == bytes && read.to_safetensors().unwrap() == bytes));
}

#[test]
fn a_missing_file_is_named() {
    let run = model(&adamw(), 1, Place::Arena);
    for path in ["/nowhere/run.safetensors", "/"] {
        let error = Checkpoint::load(path, run.optimizer.plan()).unwrap_err();
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[test]
fn a_checkpoint_during_an_evaluation_holds_the_weights_to_train_with() {
    let config = OptimizerConfig::from_boxed(rules::by_name("schedule_free_adamw").unwrap());
    let mut run = model(&config, 1, Place::Arena);
    (0..3).for_each(|step| run.step(&gradients(step)));
    let training = run.optimizer.checkpoint_blocking().unwrap();
    let mut recorded = encoder(&run.gpu);
    run.optimizer.begin_evaluation(&mut recorded).unwrap();
    run.gpu.queue().submit([recorded.finish()]);
    let expected: Vec<_> = training.params.iter().flatten().map(|t| t.values.clone()).collect();
    assert_ne!(run.params(), expected, "no other weights to evaluate with");
    assert_eq!(run.optimizer.checkpoint_blocking().unwrap(), training);
    assert!(run.optimizer.load_checkpoint(&training).is_err());
}

//! Bad input gets an error that names the tensor, the group or the key, before anything is changed;
//! nothing ever reaches the device's handler of uncaptured errors.

mod support;

use std::sync::{Arc, Mutex};

use support::model::{Model, Place, buffer};
use support::oracle::Run;
use support::{encoder, gpu, submit};
use wgpu_optim::rules::{AdamW, Sgd};
use wgpu_optim::twin::{Block, CpuKernel, Measure};
use wgpu_optim::wgpu::{self, BufferUsages};
use wgpu_optim::{
    Arena, Decay, Error, Gpu, Group, Optimizer, OptimizerConfig, OptionError, OptionValue, Options, Rule, Scalars,
    Slice, Slot, Tensor, TensorSpec, rules,
};

/// A caller's own device whose uncaptured errors are collected.
struct Watched {
    gpu: Gpu,
    uncaptured: Arc<Mutex<Vec<String>>>,
}

fn adapter() -> wgpu::Adapter {
    pollster::block_on(wgpu_optim::gpu::adapters()).into_iter().next().expect("an adapter")
}

fn open(adapter: &wgpu::Adapter) -> Watched {
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
    let uncaptured = Arc::<Mutex<Vec<String>>>::default();
    let seen = uncaptured.clone();
    device.on_uncaptured_error(Arc::new(move |error| seen.lock().unwrap().push(error.to_string())));
    Watched { gpu: Gpu::new(device, queue), uncaptured }
}

impl Watched {
    fn new() -> Self {
        open(&adapter())
    }

    fn assert_quiet(&self) {
        self.gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
        assert_eq!(*self.uncaptured.lock().unwrap(), Vec::<String>::new());
    }
}

fn adamw() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default())
}

fn refused(gpu: &Gpu, tensors: Vec<Tensor>) -> Error {
    Optimizer::new(gpu, &adamw(), tensors).map(drop).expect_err("tensors that cannot be used")
}

/// The error is about that tensor and says all of `words`.
#[track_caller]
fn assert_tensor(error: &Error, name: &str, words: &[&str]) {
    assert!(matches!(error, Error::Tensor { tensor, .. } if tensor == name), "{error}");
    assert_says(&error.to_string(), words);
}

#[track_caller]
fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
}

#[track_caller]
fn assert_option(error: &Error, table: &str, key: &str) {
    match error {
        Error::Option { table: t, source } => assert_eq!((t.as_str(), source.key.as_str()), (table, key), "{error}"),
        other => panic!("{other}"),
    }
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let watched = Watched::new();
    let gpu = &watched.gpu;
    let room = buffer(gpu, 1024);
    let good = Slice::new(&room, 0, 40);
    let tensor = |params: Slice| Tensor::new("layer.weight", [2, 5], params);
    let params = |offset: u64, size: u64| refused(gpu, vec![tensor(Slice::new(&room, offset, size))]);
    let gradient = |offset: u64, size: u64| {
        refused(gpu, vec![tensor(good.clone()).with_gradient(Slice::new(&room, offset, size))])
    };
    for (slice, what) in [(&params as &dyn Fn(u64, u64) -> Error, "parameters"), (&gradient, "gradient")] {
        assert_tensor(&slice(64, 44), "layer.weight", &[what, "44 bytes", "[2, 5]", "40"]);
        assert_tensor(&slice(64, 0), "layer.weight", &[what, "0 bytes"]);
        assert_tensor(&slice(66, 40), "layer.weight", &[what, "66", "multiple of 4"]);
        assert_tensor(&slice(1000, 40), "layer.weight", &[what, "1040", "1024"]);
        assert_tensor(&slice(u64::MAX - 3, 40), "layer.weight", &[what]);
    }
    let usage = BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let plain = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 1024,
        usage,
        mapped_at_creation: false,
    });
    let error = refused(gpu, vec![tensor(Slice::new(&plain, 0, 40))]);
    assert_tensor(&error, "layer.weight", &["parameters", "STORAGE"]);
    let error = refused(gpu, vec![tensor(good.clone()).with_gradient(Slice::new(&plain, 0, 40))]);
    assert_tensor(&error, "layer.weight", &["gradient", "STORAGE"]);

    // And later, when a gradient is bound elsewhere; the one bound before stays.
    let mut optimizer = Optimizer::new(gpu, &adamw(), [tensor(good)]).unwrap();
    let bound = Slice::new(&room, 512, 40);
    optimizer.set_gradient(0, Some(bound.clone())).unwrap();
    for (offset, size, words) in [(64, 44, ["44 bytes", "gradient"]), (66, 40, ["66", "multiple of 4"])] {
        let error = optimizer.set_gradient(0, Some(Slice::new(&room, offset, size))).unwrap_err();
        assert_tensor(&error, "layer.weight", &words);
        assert_eq!(optimizer.tensors()[0].gradient.as_ref(), Some(&bound));
    }
    let error = optimizer.set_gradient(0, Some(Slice::new(&room, 36, 40))).unwrap_err();
    assert!(matches!(error, Error::Overlap { .. }), "{error}");
    assert_eq!(optimizer.tensors()[0].gradient.as_ref(), Some(&bound));
    assert_tensor(&optimizer.set_gradient(1, None).unwrap_err(), "1", &["there are 1 tensors"]);
    submit(gpu, |encoder| optimizer.step(encoder).unwrap());
    watched.assert_quiet();
}

#[test]
fn tensors_that_share_memory_are_refused() {
    let gpu = gpu();
    let room = buffer(&gpu, 1024);
    let tensor = |name: &str, offset: u64, n: u64| Tensor::new(name, [n], Slice::new(&room, offset, 4 * n));
    let overlap = |tensors: Vec<Tensor>, names: [&str; 2], kind: &str| match refused(&gpu, tensors) {
        Error::Overlap { first, second, what } => {
            assert_eq!([first.as_str(), second.as_str()], names);
            assert_eq!(what, kind);
        }
        other => panic!("{other}"),
    };
    overlap(vec![tensor("b", 96, 10), tensor("a", 64, 9)], ["a", "b"], "parameters");
    overlap(vec![tensor("a", 64, 10), tensor("b", 64, 10)], ["a", "b"], "parameters");
    overlap(vec![tensor("a", 0, 100), tensor("c", 500, 1), tensor("b", 40, 2)], ["a", "b"], "parameters");
    // A gradient may share nobody's parameters, its own included.
    let with = |t: Tensor, offset: u64| {
        let size = t.params.size;
        t.with_gradient(Slice::new(&room, offset, size))
    };
    let kind = "parameters and gradient";
    overlap(vec![tensor("a", 0, 10), with(tensor("b", 64, 10), 36)], ["a", "b"], kind);
    overlap(vec![with(tensor("a", 64, 10), 64)], ["a", "a"], kind);
    overlap(vec![with(tensor("a", 64, 10), 100)], ["a", "a"], kind);

    // Neighbours that touch are fine, empty tensors are anywhere.
    let tensors = vec![with(tensor("a", 64, 10), 104), tensor("b", 144, 10), with(tensor("empty", 80, 0), 80)];
    Optimizer::new(&gpu, &adamw(), tensors).unwrap();
}

#[test]
fn names_and_shapes_that_cannot_be_are_refused() {
    let gpu = gpu();
    let room = buffer(&gpu, 1024);
    let tensor = |name: &str, offset: u64| Tensor::new(name, [2], Slice::new(&room, offset, 8));
    let error = refused(&gpu, vec![tensor("twice", 0), tensor("other", 64), tensor("twice", 128)]);
    assert_tensor(&error, "twice", &["given twice"]);
    let vast = Tensor::new("vast", [1 << 40, 1 << 40], Slice::new(&room, 0, 8));
    assert_tensor(&refused(&gpu, vec![vast]), "vast", &["too many elements"]);

    let arena = Arena::new(&gpu, [TensorSpec::new("w", [2])]).unwrap();
    assert_tensor(&arena.params("v").unwrap_err(), "v", &["no such tensor"]);
    assert!(arena.write_params("w", &[1.0]).is_err() && arena.write_gradient("w", &[1.0, 2.0, 3.0]).is_err());
    assert!(arena.write_gradient("v", &[1.0]).is_err());
    let error = Arena::new(&gpu, [TensorSpec::new("vast", [1 << 62])]).unwrap_err();
    assert_tensor(&error, "vast", &["longest buffer"]);
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let gpu = gpu();
    let new = |config: OptimizerConfig| {
        let arena = Arena::new(&gpu, [TensorSpec::new("layer.weight", [2]), TensorSpec::new("layer.bias", [2])]);
        let made = Optimizer::new(&gpu, &config, arena.unwrap().tensors().to_vec()).map(drop);
        // Both backends share the plan.
        let specs = [TensorSpec::new("layer.weight", [2]), TensorSpec::new("layer.bias", [2])];
        let cpu = wgpu_optim::cpu::CpuOptimizer::<f32>::new(&config, &specs).map(drop);
        assert_eq!(made, cpu);
        made
    };
    let group = |pattern: &str| new(adamw().group(Group::matching(pattern)));
    for (pattern, words) in [("*.scale", ["*.scale", "matches no tensor"]), ("layer[", ["layer[", "unclosed"])] {
        match group(pattern).unwrap_err() {
            error @ Error::Group { .. } => assert_says(&error.to_string(), &words),
            other => panic!("{other}"),
        }
    }
    // The first match wins; a later group may still match what an earlier one took.
    new(adamw().group(Group::matching("*")).group(Group::matching("*.bias"))).unwrap();

    let set =
        |key: &str, value: OptionValue| new(adamw().group(Group::matching("*.bias").set(key, value))).unwrap_err();
    let table = "groups.\"*.bias\"";
    assert_option(&set("momentum", OptionValue::Number(0.9)), table, "momentum");
    assert_option(&set("lr", OptionValue::Number(-1.0)), table, "lr");
    assert_option(&set("lr", OptionValue::Bool(true)), table, "lr");
    assert_option(&set("betas", OptionValue::Numbers(vec![0.9])), table, "betas");
    // An option of the optimizer's rule does not pass on to another rule of a group.
    let other = Group::matching("*.bias").rule(Sgd::default()).set("betas", [0.5, 0.5]);
    assert_option(&new(adamw().group(other)).unwrap_err(), table, "betas");
}

/// Options whose range holds −1.
const MAY_BE_NEGATIVE: [(&str, &str); 2] = [("sgd", "dampening"), ("adafactor", "beta2_decay")];

#[test]
fn impossible_hyperparameters_are_refused_by_key() {
    for rule in rules::all() {
        for (key, value) in rule.options() {
            let lists = |x: f64| match &value {
                Some(OptionValue::Number(_)) => vec![OptionValue::Number(x)],
                Some(OptionValue::Numbers(list)) => {
                    let at = |i: usize| {
                        let mut list = list.clone();
                        list[i] = x;
                        OptionValue::Numbers(list)
                    };
                    (0..list.len()).map(at).collect()
                }
                _ => Vec::new(),
            };
            let mut bad = vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0];
            bad.retain(|x| *x != -1.0 || !MAY_BE_NEGATIVE.contains(&(rule.name(), key)));
            if matches!(key, "betas" | "beta" | "rho" | "alpha") {
                bad.extend([1.0, 1.5]);
            }
            // Where it may be 0 by default, nothing is divided by it alone.
            if key == "eps" && value != Some(OptionValue::Number(0.0)) {
                // Subnormal numbers are zero on many GPUs.
                bad.extend([0.0, 1e-40]);
            }
            let fine = |value: &OptionValue| {
                // Of a pair only the first divides.
                matches!(value, OptionValue::Numbers(list) if key == "eps" && (0.0..1e-3).contains(&list[1]))
            };
            for value in bad.into_iter().flat_map(lists).filter(|value| !fine(value)) {
                let mut config = OptimizerConfig::from_boxed(rule.clone());
                // A whole number takes none of these in the first place.
                if let Err(error) = config.rule.set_option(key, &value) {
                    assert_eq!(error.key, key);
                    assert_says(&error.problem, &["expected a whole number"]);
                    continue;
                }
                let error = config.check().expect_err(&format!("{} with {key} = {value}", rule.name()));
                assert_option(&error, "optimizer", key);
            }
            // A wrong type.
            let wrong = OptionValue::from("much");
            let error = rule.clone().set_option(key, &wrong).unwrap_err();
            assert_eq!(error.key, key);
            assert_says(&error.problem, &["expected", "\"much\""]);
        }
        let error = rule.clone().set_option("learning_rate", &OptionValue::Number(0.1)).unwrap_err();
        let all: Vec<_> = rule.options().iter().map(|(key, _)| *key).collect();
        assert_says(&error.to_string(), &[&["learning_rate", "unknown key"], all.as_slice()].concat());
    }
    let nesterov = OptimizerConfig::new(Sgd { nesterov: true, ..Sgd::default() });
    assert_option(&nesterov.check().unwrap_err(), "optimizer", "nesterov");
}

#[test]
fn impossible_conditioning_is_refused_by_key() {
    for key in ["clip_value", "clip_global_norm", "normalize_global_norm"] {
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-40, 1e39] {
            let mut config = adamw();
            config.gradient.set_option(key, &OptionValue::Number(value)).unwrap();
            assert_option(&config.check().unwrap_err(), "gradient", key);
        }
    }
    let mut config = adamw().clip_global_norm(1.0);
    config.gradient.normalize_global_norm = Some(1.0);
    assert_option(&config.check().unwrap_err(), "gradient", "normalize_global_norm");
}

fn toml(text: &str) -> Result<OptimizerConfig, String> {
    toml::from_str(text).map_err(|e: toml::de::Error| e.to_string())
}

#[test]
fn a_configuration_file_is_read_whole() {
    let config = toml(
        r#"
        [optimizer]
        rule = "adamw"
        lr = 2e-3
        betas = [0.8, 0.9]
        [[groups]]
        match = "*.bias"
        weight_decay = 0
        [[groups]]
        match = "head.*"
        rule = "sgd"
        momentum = 0.5
        [[groups]]
        match = "embed.*"
        frozen = true
        [gradient]
        on_nonfinite = "zero"
        clip_value = 0.5
        [schedule]
        kind = "cosine"
        total_steps = 100
        min_lr = 1e-5
        warmup_steps = 7
        "#,
    )
    .unwrap();
    let value = |key: &str| config.rule.options().into_iter().find(|(k, _)| *k == key).unwrap().1.unwrap();
    assert_eq!((config.rule.name(), value("lr")), ("adamw", OptionValue::Number(2e-3)));
    assert_eq!(value("betas"), OptionValue::Numbers(vec![0.8, 0.9]));
    assert_eq!(config.groups.len(), 3);
    assert_eq!(config.groups[1].rule.as_ref().unwrap().name(), "sgd");
    assert!(config.groups[2].frozen);
    assert_eq!(config.gradient.clip_value, Some(0.5));
    assert_eq!(config.schedule.warmup_steps, 7);
    assert_eq!(config.schedule.lr(200, 2e-3), 1e-5);
}

#[test]
fn mistakes_in_a_configuration_file_are_named() {
    const SGD: &str = "[optimizer]\nrule = \"sgd\"\n";
    let cases: [(&str, &[&str]); 26] = [
        ("", &["optimizer"]),
        ("[optimizer]\nlr = 1.0", &["optimizer.rule", "missing"]),
        ("[optimizer]\nrule = \"adamv\"", &["\"adamv\"", "adamw", "sgd"]),
        ("[optimizer]\nrule = 3", &["optimizer.rule", "a string"]),
        ("[optimizer]\nrule = \"sgd\"\nlearning_rate = 1.0", &["optimizer.learning_rate", "unknown key", "momentum"]),
        ("[optimizer]\nrule = \"sgd\"\nlr = \"fast\"", &["optimizer.lr", "a number", "\"fast\""]),
        ("[optimizer]\nrule = \"sgd\"\nlr = -1.0", &["optimizer.lr", "at least 0", "-1.0"]),
        ("[optimizer]\nrule = \"sgd\"\nlr = nan", &["optimizer.lr"]),
        ("[optimizer]\nrule = \"adam\"\nbetas = [0.9]", &["optimizer.betas", "two numbers"]),
        ("[optimizer]\nrule = \"adam\"\nbetas = [0.9, 1.0]", &["optimizer.betas", "below 1"]),
        ("[optimizer]\nrule = \"adam\"\neps = 0.0", &["optimizer.eps", "divides"]),
        ("[optimizer]\nrule = \"adam\"\namsgrad = 1", &["optimizer.amsgrad", "true or false"]),
        ("[optimiser]\nrule = \"sgd\"", &["optimiser"]),
        ("[[groups]]\nlr = 1.0", &["groups.match", "missing"]),
        ("[[groups]]\nmatch = \"b\"\nrule = \"no\"", &["\"no\""]),
        ("[[groups]]\nmatch = \"b\"\nfrozen = 1.0", &["groups.\"b\".frozen", "true or false"]),
        ("[[groups]]\nmatch = \"b\"\nbetas = 1.0", &["groups.\"b\".betas", "unknown key"]),
        ("[gradient]\nclip = 1.0", &["gradient.clip", "unknown key", "clip_global_norm"]),
        ("[gradient]\non_nonfinite = \"explode\"", &["gradient.on_nonfinite", "propagate"]),
        (
            "[gradient]\nclip_global_norm = 1.0\nnormalize_global_norm = 1.0",
            &["gradient.normalize_global_norm", "clip_global_norm"],
        ),
        ("[schedule]\ntotal_steps = 3", &["schedule.kind", "missing", "cosine"]),
        ("[schedule]\nkind = \"cosign\"", &["schedule.kind", "\"cosign\"", "cosine"]),
        ("[schedule]\nkind = \"cosine\"\ntotal_steps = 2.5", &["schedule.total_steps", "whole number"]),
        ("[schedule]\nkind = \"cosine\"", &["schedule.total_steps", "at least 1"]),
        ("[schedule]\nkind = \"cosine\"\ntotal_steps = 5\nwarmup_steps = 5", &["schedule.total_steps", "at least 6"]),
        ("[schedule]\nkind = \"constant\"\ngamma = 0.5", &["schedule.gamma", "unknown key"]),
    ];
    toml(SGD).unwrap();
    for (text, words) in cases {
        let optimizer = if text.starts_with("[opt") || text.is_empty() { "" } else { SGD };
        let error = toml(&format!("{optimizer}{text}")).expect_err(text);
        assert_says(&error, words);
    }
}

#[test]
fn rates_at_run_time_are_checked() {
    let gpu = gpu();
    let config = adamw().group(Group::matching("*.bias").set("lr", 1e-2));
    let specs = [TensorSpec::new("a.weight", [2]), TensorSpec::new("a.bias", [2])];
    let params = [vec![1.0, 2.0], vec![3.0, 4.0]];
    let mut model = Model::new(&gpu, &config, &specs, &params, Place::Arena);
    let mut cpu = Run::<f32>::new(&config, &specs, &params);
    let (gpu_run, cpu_run) = (&mut model.optimizer, &mut cpu.optimizer);
    for bad in [-1.0, f64::NAN, f64::INFINITY, 1e39] {
        for error in [gpu_run.set_lr(bad).unwrap_err(), cpu_run.set_lr(bad).unwrap_err()] {
            assert_option(&error, "optimizer", "lr");
        }
        for error in [gpu_run.set_group_lr("*.bias", bad), cpu_run.set_group_lr("*.bias", bad)] {
            assert_says(&error.unwrap_err().to_string(), &["*.bias", "lr"]);
        }
        let errors = [gpu_run.set_group_weight_decay("*.bias", bad), cpu_run.set_group_weight_decay("*.bias", bad)];
        for error in errors {
            assert_says(&error.unwrap_err().to_string(), &["*.bias", "weight_decay"]);
        }
    }
    for error in [gpu_run.set_group_lr("*.scale", 0.1), gpu_run.set_group_weight_decay("*.scale", 0.1)] {
        assert_says(&error.unwrap_err().to_string(), &["*.scale", "*.bias"]);
    }
    // From a base rate of 0 groups have no ratio to it.
    gpu_run.set_lr(0.0).unwrap();
    gpu_run.set_group_lr("*.bias", 0.5).unwrap();
    assert_option(&gpu_run.set_lr(0.1).unwrap_err(), "optimizer", "lr");
    assert_eq!(gpu_run.rates().groups()[1].lr, 0.5);
}

#[test]
fn a_state_that_does_not_fit_is_refused_with_every_mismatch() {
    let gpu = gpu();
    let specs = |names: [&str; 3]| names.map(|name| TensorSpec::new(name, [4])).to_vec();
    let params = vec![vec![1.0; 4]; 3];
    let model = |config: &OptimizerConfig, names| Model::new(&gpu, config, &specs(names), &params, Place::Arena);
    let mut target = model(&adamw(), ["a", "b", "c"]);
    target.step(&params);
    let before = target.bits();

    let mut state = target.optimizer.state_blocking().unwrap();
    state.tensors[0].shape = vec![2, 2];
    state.tensors[0].slots[1].0 = "sum".to_owned();
    state.tensors[1].rule = "sgd".to_owned();
    state.tensors[1].steps = 7;
    state.tensors[1].slots[0].1.pop();
    state.tensors[2].name = "d".to_owned();
    let error = target.optimizer.load_state(&state).unwrap_err();
    let words = [
        "\"a\" has shape [2, 2], expected [4]",
        "\"a\" lacks slot \"exp_avg_sq\"",
        "\"a\" has an unknown slot \"sum\"",
        "\"b\" was saved by rule \"sgd\", expected \"adamw\"",
        "\"b\" took 7 steps of 1",
        "\"b\" has 3 values in slot \"exp_avg\", expected 4",
        "\"c\" is missing",
        "\"d\" is not among",
    ];
    assert!(matches!(error, Error::State(_)), "{error}");
    assert_says(&error.to_string(), &words);
    assert_eq!(target.bits(), before, "a refused state changed something");

    // The same through a file.
    let file = model(&adamw(), ["a", "b", "d"]).optimizer.state_blocking().unwrap().to_safetensors().unwrap();
    let error = wgpu_optim::OptimizerState::from_safetensors(&file, target.optimizer.plan()).unwrap_err();
    assert_says(&error.to_string(), &["\"c\" is missing", "\"d.exp_avg\"", "\"d.exp_avg_sq\""]);
}

#[test]
fn buffers_of_another_device_are_an_error() {
    // Of one instance. wgpu itself takes a buffer of another instance for one of its own.
    let adapter = adapter();
    let (mine, theirs) = (open(&adapter), open(&adapter));
    let foreign = buffer(&theirs.gpu, 64);
    let own = buffer(&mine.gpu, 64);
    let slice = |buffer: &wgpu::Buffer, offset: u64| Slice::new(buffer, offset, 16);

    let tensor = Tensor::new("w", [4], slice(&foreign, 0)).with_gradient(slice(&own, 0));
    let outcome =
        Optimizer::new(&mine.gpu, &adamw(), [tensor]).and_then(|mut optimizer| optimizer.step(&mut encoder(&mine.gpu)));
    assert!(matches!(outcome, Err(Error::Device { .. } | Error::Tensor { .. })), "{outcome:?}");

    let tensor = Tensor::new("w", [4], slice(&own, 0)).with_gradient(slice(&own, 32));
    let mut optimizer = Optimizer::new(&mine.gpu, &adamw(), [tensor]).unwrap();
    let outcome =
        optimizer.set_gradient(0, Some(slice(&foreign, 0))).and_then(|()| optimizer.step(&mut encoder(&mine.gpu)));
    assert!(matches!(outcome, Err(Error::Device { .. } | Error::Tensor { .. })), "{outcome:?}");
    assert!(mine.gpu.write(&slice(&foreign, 0), &[0.0; 4]).is_err());

    // And nothing is broken by it.
    optimizer.set_gradient(0, Some(slice(&own, 32))).unwrap();
    submit(&mine.gpu, |encoder| optimizer.step(encoder).unwrap());
    assert_eq!(optimizer.wait_for_report().unwrap().unwrap().steps_taken, 1);
    mine.assert_quiet();
    theirs.assert_quiet();
}

#[test]
fn destroyed_buffers_are_an_error() {
    let watched = Watched::new();
    let gpu = &watched.gpu;
    let slice = |buffer: &wgpu::Buffer| Slice::new(buffer, 0, 16);
    let (params, gone, good) = (buffer(gpu, 16), buffer(gpu, 16), buffer(gpu, 16));
    gone.destroy();
    let tensor = Tensor::new("w", [4], slice(&params)).with_gradient(slice(&gone));
    let mut optimizer = Optimizer::new(gpu, &adamw(), [tensor]).unwrap();
    for _ in 0..2 {
        let error = optimizer.step(&mut encoder(gpu)).unwrap_err();
        assert!(matches!(error, Error::Device { .. }), "{error}");
    }
    assert!(gpu.write(&slice(&gone), &[0.0; 4]).is_err());
    // With another gradient it goes on.
    optimizer.set_gradient(0, Some(slice(&good))).unwrap();
    submit(gpu, |encoder| optimizer.step(encoder).unwrap());
    assert_eq!(optimizer.wait_for_report().unwrap().unwrap().steps_taken, 1);

    params.destroy();
    assert!(matches!(optimizer.params_blocking(), Err(Error::Device { .. })));
    watched.assert_quiet();
}

#[test]
fn buffers_that_cannot_be_read_or_written_say_so() {
    let watched = Watched::new();
    let gpu = &watched.gpu;
    let storage = gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label: None,
        size: 64,
        usage: BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let slice = Slice::new(&storage, 0, 16);
    let tensor = Tensor::new("w", [4], slice.clone()).with_gradient(Slice::new(&storage, 32, 16));
    let mut optimizer = Optimizer::new(gpu, &adamw(), [tensor]).unwrap();
    submit(gpu, |encoder| optimizer.step(encoder).unwrap());
    assert_tensor(&optimizer.params_blocking().unwrap_err(), "w", &["COPY_SRC"]);
    assert!(matches!(gpu.write(&slice, &[0.0; 4]), Err(Error::Device { .. })));
    assert!(gpu.write(&Slice::new(&buffer(gpu, 16), 0, 16), &[0.0; 3]).is_err());
    watched.assert_quiet();
}

/// A rule from another crate, with that WGSL.
#[derive(Debug, Clone)]
struct Outside(&'static str);

impl Options for Outside {
    fn options(&self) -> Vec<(&'static str, Option<OptionValue>)> {
        Vec::new()
    }
    fn set_option(&mut self, key: &str, _: &OptionValue) -> Result<(), OptionError> {
        Err(OptionError::new(key, "none is allowed"))
    }
}

impl CpuKernel for Outside {
    fn update_f32(&self, _: Block<'_, f32>) {}
    fn update_f64(&self, _: Block<'_, f64>) {}
    fn measure_f32(&self, _: Block<'_, f32>) -> Measure {
        Measure::default()
    }
    fn measure_f64(&self, _: Block<'_, f64>) -> Measure {
        Measure::default()
    }
}

impl Rule for Outside {
    fn name(&self) -> &'static str {
        "outside"
    }
    fn reference(&self) -> &'static str {
        "none"
    }
    fn lr(&self) -> f64 {
        1.0
    }
    fn decay(&self) -> Decay {
        Decay::Coupled(0.0)
    }
    fn slots(&self) -> Vec<Slot> {
        Vec::new()
    }
    fn wgsl(&self) -> &str {
        self.0
    }
    fn scalar_names(&self) -> &'static [&'static str] {
        &[]
    }
    fn scalars(&self, _: u64) -> Scalars {
        Scalars::default()
    }
    fn check(&self) -> Result<(), OptionError> {
        Ok(())
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

#[test]
fn a_shader_of_another_crate_that_does_not_compile_is_an_error() {
    let watched = Watched::new();
    let new = |wgsl: &'static str| {
        let arena = Arena::new(&watched.gpu, [TensorSpec::new("w", [4])]).unwrap();
        Optimizer::new(&watched.gpu, &OptimizerConfig::new(Outside(wgsl)), arena.tensors().to_vec()).map(drop)
    };
    new("fn direction(p: vec4<f32>, g: vec4<f32>, s: ptr<function, State>, h: Hyper) -> vec4<f32> {\n    return g;\n}\n")
        .unwrap();
    for (wgsl, words) in [
        ("", ["outside", "direction"]),
        ("fn direction(\n", ["outside", "parsing error"]),
        (
            "fn direction(p: vec4<f32>, g: vec4<f32>, s: ptr<function, State>, h: Hyper) -> vec4<f32> {\n    return gg;\n}\n",
            // On the line where the rule's file has it.
            ["outside", "wgsl:2:"],
        ),
    ] {
        match new(wgsl).unwrap_err() {
            error @ Error::Shader { .. } => assert_says(&error.to_string(), &words),
            other => panic!("{other}"),
        }
    }
    watched.assert_quiet();
}

#[test]
fn a_device_that_is_lost_is_an_error_from_then_on() {
    let gpu = Gpu::headless().unwrap();
    let mut model = Model::new(&gpu, &adamw(), &[TensorSpec::new("w", [4])], &[vec![1.0; 4]], Place::Arena);
    model.step(&[vec![1.0; 4]]);
    model.optimizer.wait_for_report().unwrap();
    gpu.device().destroy();
    let _ = gpu.device().poll(wgpu::PollType::Poll);
    let outcome = model.optimizer.step(&mut encoder(&gpu));
    assert!(matches!(outcome, Err(Error::DeviceLost(_))), "{outcome:?}");
    assert!(matches!(model.optimizer.report(), Err(Error::DeviceLost(_))));
    assert!(matches!(model.optimizer.wait_for_report(), Err(Error::DeviceLost(_))));
    assert!(matches!(model.optimizer.params_blocking(), Err(Error::DeviceLost(_))));
    assert!(matches!(model.optimizer.state_blocking(), Err(Error::DeviceLost(_))));
    assert!(matches!(Arena::new(&gpu, [TensorSpec::new("v", [4])]), Err(Error::DeviceLost(_))));
}

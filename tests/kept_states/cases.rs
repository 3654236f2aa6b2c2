//! What is kept, and how it came about.

use wgpu_optim::rules::{self, Adafactor, AdamW, Lamb, Lars, Momentum, Rprop, ScheduleFreeAdamW, Sgd};
use wgpu_optim::schedule::{Cosine, Plateau};
use wgpu_optim::verify::{self, Variation};
use wgpu_optim::{
    Checkpoint, DynamicScale, EmaConfig, Group, LossScale, OptimizerConfig, Rule, Schedule, StateFormat, StorageConfig,
    TensorSpec, WeightsConfig, cpu::CpuOptimizer,
};

use super::support::oracle::Run;
use super::{TENSORS, draw, gradients, specs_to_text};

/// A run up to the file.
pub struct Case {
    pub name: String,
    config: OptimizerConfig,
    specs: Vec<TensorSpec>,
    micro_batches: u64,
    /// Parameters are left out where state alone is large.
    with_params: bool,
    /// What the caller does before a micro-batch.
    before: fn(&mut CpuOptimizer<f32>, u64),
    /// The micro-batch whose gradients overflow.
    spoiled: Option<u64>,
}

impl Case {
    fn new(name: &str, config: OptimizerConfig, specs: Vec<TensorSpec>) -> Self {
        let name = name.to_owned();
        Self { name, config, specs, micro_batches: 3, with_params: true, before: |_, _| {}, spoiled: None }
    }

    /// The file.
    pub fn made(&self) -> Vec<u8> {
        let mut run = Run::<f32>::new(&self.config, &self.specs, &draw(&self.specs, 1, 1.0));
        for (t, params) in run.params.iter_mut().enumerate() {
            let format = run.optimizer.plan().formats_of(t)[0];
            params.iter_mut().for_each(|x| *x = format.round(*x));
        }
        for batch in 0..self.micro_batches {
            (self.before)(&mut run.optimizer, batch);
            let mut gradients = gradients(&self.specs, batch, run.optimizer.loss_scale());
            if let (true, Some(first)) = (self.spoiled == Some(batch), gradients[0].as_mut()) {
                first[0] = f32::INFINITY;
            }
            run.step(&gradients);
        }
        write(&run, &self.specs, self.with_params)
    }
}

/// What the run writes.
pub fn write(run: &Run<f32>, specs: &[TensorSpec], with_params: bool) -> Vec<u8> {
    let checkpoint = Checkpoint::new(run.optimizer.state()).with_extra(TENSORS, specs_to_text(specs));
    let checkpoint = match with_params {
        true => checkpoint.with_params(run.optimizer.plan(), run.params.clone()).unwrap(),
        false => checkpoint,
    };
    checkpoint.to_safetensors().unwrap()
}

pub fn all() -> Vec<Case> {
    let mut cases: Vec<_> =
        verify::named_storages().into_iter().map(|(name, storage)| every_rule(name, storage)).collect();
    cases.push(every_option());
    cases.extend(engine());
    cases
}

/// A group for each, with tensors that begin with its name.
fn grouped(rules: Vec<(String, Box<dyn Rule>)>, shapes: &[&[u64]]) -> (OptimizerConfig, Vec<TensorSpec>) {
    let mut config = OptimizerConfig::new(Sgd::default());
    let mut specs = Vec::new();
    for (name, rule) in rules {
        config.groups.push(Group { rule: Some(rule), ..Group::matching(format!("{name}.*")) });
        specs.extend(shapes.iter().enumerate().map(|(i, shape)| TensorSpec::new(format!("{name}.{i}"), *shape)));
    }
    (config, specs)
}

/// With their defaults. 8 bits begin at 4,096 elements, of which parameters are the larger part.
fn every_rule(name: &str, storage: StorageConfig) -> Case {
    let rules = rules::all().into_iter().map(|rule| (rule.name().to_owned(), rule)).collect();
    let in_8_bits = storage.state == StateFormat::Q8;
    let shapes: &[&[u64]] = if in_8_bits { &[&[4096]] } else { &[&[3], &[5, 7]] };
    let (config, specs) = grouped(rules, shapes);
    Case { with_params: !in_8_bits, ..Case::new(name, config.storage(storage), specs) }
}

/// As many options away from their defaults as go together: slots that are there only then.
fn every_option() -> Case {
    let rules = rules::all().into_iter().map(|rule| {
        let most = verify::most_varied(rule.as_ref());
        (rule.name().to_owned(), most.config.rule)
    });
    let (config, specs) = grouped(rules.collect(), &[&[3], &[5, 7]]);
    Case::new("f32-options", config, specs)
}

fn small() -> Vec<TensorSpec> {
    let tensors: [(&str, &[u64]); 5] =
        [("first", &[3]), ("weight", &[5, 7]), ("stack", &[2, 3, 4]), ("late", &[4]), ("frozen", &[2])];
    tensors.map(|(name, shape)| TensorSpec::new(name, shape)).to_vec()
}

fn adamw() -> OptimizerConfig {
    OptimizerConfig::new(AdamW { lr: 1e-2, ..AdamW::default() })
        .group(Group::matching("frozen").frozen())
        .group(Group::matching("stack").rule(Momentum { lr: 1e-2, ..Momentum::default() }))
}

/// What the engine keeps beside a rule's state.
fn engine() -> Vec<Case> {
    let of = |name: &str, config: OptimizerConfig| Case::new(name, config, small());
    let narrow = |name: &str| verify::named_storages().into_iter().find(|(own, _)| *own == name).unwrap().1;
    let accumulating = |accumulate, scale| {
        let mut config = adamw();
        config.gradient.accumulate = accumulate;
        config.gradient.loss_scale = scale;
        config
    };
    let dynamic = DynamicScale { init: 64.0, growth_interval: 2, ..DynamicScale::default() };
    let warm = Schedule::from(Cosine { total_steps: 12, min_lr: 1e-4 }).with_warmup(2);
    let plateau = Plateau { patience: 0, factor: 0.5, ..Plateau::default() };
    let mut norms = OptimizerConfig::new(Lamb { lr: 1e-2, ..Lamb::default() })
        .group(Group::matching("late").rule(Lars { lr: 1e-1, ..Lars::default() }))
        .group(Group::matching("stack").rule(AdamW::default()))
        .weights(WeightsConfig { max_norm: Some(3.0), ..WeightsConfig::default() })
        .clip_global_norm(1.0);
    norms.gradient.clip_value = Some(0.4);
    let mut units = adamw();
    (units.gradient.clip_adaptive, units.common.maximize) = (Some(0.1), true);
    let factored = OptimizerConfig::new(Adafactor::default());
    let free = OptimizerConfig::new(ScheduleFreeAdamW { warmup_steps: 5, ..ScheduleFreeAdamW::default() });
    let signs = OptimizerConfig::new(Rprop::default()).group(Group::matching("first").set("lr", 0.1));
    let mixed = adamw().group(Group::matching("weight").set("params", "f16")).storage(StorageConfig::default());
    let average = |interval| EmaConfig { decay: 0.9, warmup: true, interval };
    vec![
        Case { micro_batches: 5, ..of("micro_batches", accumulating(4, Some(LossScale::Fixed(1024.0)))) },
        Case {
            micro_batches: 7,
            spoiled: Some(2),
            ..of("dynamic_scale", accumulating(2, Some(LossScale::Dynamic(dynamic))))
        },
        of("average", adamw().ema(average(2))),
        of("average-f16-master", adamw().ema(average(1)).storage(narrow("f16-master"))),
        Case {
            before: |optimizer, batch| {
                if batch == 1 {
                    optimizer.set_lr(2e-2).unwrap();
                    optimizer.set_group_lr("stack", 5e-3).unwrap();
                    optimizer.set_group_weight_decay("stack", 1e-3).unwrap();
                }
            },
            ..of("schedule", adamw().schedule(warm))
        },
        Case {
            before: |optimizer, batch| optimizer.report_loss([2.0, 1.0, 1.5][batch as usize]).unwrap(),
            ..of("plateau", adamw().schedule(plateau))
        },
        of("norms", norms),
        of("units", units),
        of("factored", factored.clone()),
        of("factored-bf16", factored.storage(narrow("bf16"))),
        of("schedule_free", free),
        of("signs", signs),
        of("mixed_storage", mixed),
        Case { micro_batches: 5, ..of("all_around", verify::all_around(&Variation::plain(&AdamW::default())).config) },
    ]
}

//! What the GPU makes of every rule in every storage, as digests: `scripts/digests` prints them before and after a
//! change that is to alter no bit.

mod support;

use support::digest::Digest;
use support::model::{Model, Place};
use support::{Numbers, gpu};
use wgpu_optim::rules::{self, AdamW};
use wgpu_optim::verify::{self, Variation};
use wgpu_optim::{EmaConfig, Gpu, LossScale, OnNonfinite, OptimizerConfig, Rule, StorageConfig, TensorSpec};

/// Within a vector and past a block, a matrix, a stack, and enough for 8 bits.
const SHAPES: [&[u64]; 6] = [&[1], &[3], &[17, 19], &[2, 3, 4], &[0, 7], &[4101]];

/// A way to run a configuration.
struct Setting {
    name: String,
    change: fn(&mut OptimizerConfig),
    place: Place,
    /// A thousand tensors of a few elements instead of [`SHAPES`].
    many: bool,
    /// Every third tensor misses a micro-batch, another each time.
    missing: bool,
    micro_batches: usize,
}

impl Setting {
    fn new(name: &str, change: fn(&mut OptimizerConfig)) -> Self {
        Self { name: name.to_owned(), change, place: Place::Arena, many: false, missing: false, micro_batches: 5 }
    }

    /// The line that is printed.
    fn line(&self, gpu: &Gpu, config: &OptimizerConfig, of: &str) -> String {
        let shapes: Vec<Vec<u64>> = match self.many {
            true => (0..1000).map(|t| vec![1 + t % 7]).collect(),
            false => SHAPES.iter().map(|shape| shape.to_vec()).collect(),
        };
        let spec = |(t, shape): (usize, &Vec<u64>)| TensorSpec::new(format!("tensor{t}"), shape.clone());
        let specs: Vec<_> = shapes.iter().enumerate().map(spec).collect();
        let mut numbers = Numbers::new(1);
        let mut draw =
            || -> Vec<_> { specs.iter().map(|spec| numbers.take(spec.elements().unwrap() as usize)).collect() };
        let mut model = Model::new(gpu, config, &specs, &draw(), self.place);
        for batch in 0..self.micro_batches {
            let mut gradients: Vec<_> = draw().into_iter().map(Some).collect();
            if self.missing {
                gradients.iter_mut().skip(batch % 3).step_by(3).for_each(|gradient| *gradient = None);
            }
            let dynamic = matches!(config.gradient.loss_scale, Some(LossScale::Dynamic(_)));
            // Where a configuration says what becomes of them.
            if config.gradient.on_nonfinite == OnNonfinite::Zero || dynamic && batch == 1 {
                gradients[0] = Some(vec![f32::INFINITY]);
            }
            model.step_some(&gradients);
        }
        let state = model.optimizer.state_blocking().unwrap();
        let params = model.params().iter().fold(Digest::new(), |digest, values| digest.floats(values));
        let counts = (state.steps_taken, state.steps_skipped, state.micro_batches, state.loss_scale, state.good_steps);
        let of_state = state.tensors.iter().fold(Digest::new().text(&format!("{counts:?}")), |digest, tensor| {
            let digest = digest.text(&format!("{} {:?}", tensor.steps, tensor.weight_sum));
            tensor.slots.iter().fold(digest, |digest, (name, values)| digest.text(name).floats(values))
        });
        format!("{of} {}: parameters {params} state {of_state}", self.name)
    }
}

/// Those whose code differs, and with code that is there already the ways in which memory and gradients differ.
fn settings() -> Vec<Setting> {
    let new = Setting::new;
    let clip = |c: &mut OptimizerConfig| c.gradient.clip_global_norm = Some(1.0);
    let accumulate = |c: &mut OptimizerConfig| c.gradient.accumulate = 2;
    vec![
        new("plain", |_| {}),
        new("clip_global_norm", clip),
        new("clip_tensor_norm", |c| c.gradient.clip_tensor_norm = Some(0.5)),
        new("ema", |c| c.ema = Some(EmaConfig { decay: 0.9, warmup: true, interval: 2 })),
        Setting { micro_batches: 8, ..new("accumulate", accumulate) },
        Setting {
            micro_batches: 7,
            ..new("micro_batches", |c| {
                c.gradient.accumulate = 2;
                c.gradient.loss_scale = Some(LossScale::Fixed(64.0));
            })
        },
        Setting { micro_batches: 8, missing: true, ..new("missing", accumulate) },
        Setting { place: Place::Separate, ..new("separate", clip) },
        Setting { place: Place::OneBuffer, missing: true, ..new("one_buffer", clip) },
        Setting { many: true, micro_batches: 2, ..new("many", clip) },
    ]
}

fn print_all(rule: &dyn Rule, storage_name: &str, storage: &StorageConfig) {
    let print = |setting: &Setting, variation: &Variation| {
        let mut config = variation.config.clone().storage(storage.clone());
        (setting.change)(&mut config);
        // Small tensors are the slowest here, and 8 bits none of theirs. An average of the weights wants f32 or a master.
        let left_out = setting.many && !["f32", "bf16"].contains(&storage_name);
        if !left_out && config.check().is_ok() {
            println!("{}", setting.line(&gpu(), &config, &format!("{} {storage_name}", rule.name())));
        }
    };
    let plain = Variation::plain(rule);
    settings().iter().for_each(|setting| print(setting, &plain));
    let mut more = vec![verify::most_varied(rule)];
    if rule.name() == AdamW::default().name() {
        more.extend(verify::around(&plain));
    }
    more.push(verify::all_around(&plain));
    for variation in more.iter().filter(|v| !v.label.is_empty()) {
        print(&Setting::new(&variation.label.replace(' ', ","), |_| {}), variation);
    }
}

#[test]
#[ignore = "prints, for scripts/digests"]
fn print() {
    let gpu = gpu();
    let info = gpu.device().adapter_info();
    println!("# {} {} {}", info.name, info.driver, info.driver_info);
    for rule in rules::all() {
        for (name, storage) in verify::named_storages() {
            print_all(rule.as_ref(), name, &storage);
        }
    }
}

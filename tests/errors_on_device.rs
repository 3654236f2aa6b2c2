//! Tensors, shaders and devices that cannot be used get an error that names the tensor or the rule; nothing ever reaches
//! the device's handler of uncaptured errors.

mod support;

use support::errors::{assert_says, assert_tensor};
use support::model::{Model, Place, buffer};
use support::watched::{Watched, adapter};
use support::{encoder, gpu, own_gpu, submit};
use wgpu_optim::options::range::Declaration;
use wgpu_optim::rules::AdamW;
use wgpu_optim::wgpu::{self, BufferUsages};
use wgpu_optim::{
    Arena, Decay, Element, Error, Float, Format, Gpu, Optimizer, OptimizerConfig, OptionError, OptionValue, Options,
    Rule, Scalars, Slice, Slot, StorageConfig, Tensor, TensorSpec, Twin,
};

fn adamw() -> OptimizerConfig {
    OptimizerConfig::new(AdamW::default())
}

fn refused(gpu: &Gpu, tensors: Vec<Tensor>) -> Error {
    Optimizer::new(gpu, &adamw(), tensors).map(drop).expect_err("tensors that cannot be used")
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let watched = Watched::own();
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
fn buffers_of_another_device_are_an_error() {
    // Of one instance. wgpu itself takes a buffer of another instance for one of its own.
    let adapter = adapter();
    let (mine, theirs) = (Watched::of(&adapter), Watched::of(&adapter));
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
    let watched = Watched::own();
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
    let watched = Watched::own();
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
    fn declarations(&self) -> Vec<Declaration> {
        Vec::new()
    }
    fn check_ranges(&self) -> Result<(), OptionError> {
        Ok(())
    }
}

impl Twin for Outside {
    type State<F: Float> = [F; 0];
    type Hyper<F: Float> = <AdamW as Twin>::Hyper<F>;
    fn direction<F: Float>(&self, e: Element<F>, _s: &mut Self::State<F>, _h: &Self::Hyper<F>) -> F {
        e.g
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
    fn scalars(&self, _: u64, _: f64) -> Scalars {
        Scalars::default()
    }
    fn boxed(&self) -> Box<dyn Rule> {
        Box::new(self.clone())
    }
}

#[test]
fn a_shader_of_another_crate_that_does_not_compile_is_an_error() {
    let watched = Watched::own();
    let new = |wgsl: &'static str| {
        let arena = Arena::new(&watched.gpu, [TensorSpec::new("w", [4])]).unwrap();
        Optimizer::new(&watched.gpu, &OptimizerConfig::new(Outside(wgsl)), arena.tensors().to_vec()).map(drop)
    };
    new("fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {\n    return e.g;\n}\n").unwrap();
    for (wgsl, words) in [
        ("", ["outside", "direction"]),
        ("fn direction(\n", ["outside", "parsing error"]),
        (
            "fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {\n    return e.gg;\n}\n",
            // On the line where the rule's file has it.
            ["outside", "wgsl:2:"],
        ),
        (
            // As it was before there were elements.
            "fn direction(p: vec4<f32>, g: vec4<f32>, s: ptr<function, State>, h: Hyper) -> vec4<f32> {\n    return g;\n}\n",
            ["outside", "fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32>"],
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
    let gpu = own_gpu();
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

#[test]
fn gradients_that_are_zeroed_do_not_share_memory() {
    let gpu = gpu();
    let room = buffer(&gpu, 1024);
    let slice = |offset: u64| Slice::new(&room, offset, 40);
    let tensor = |name: &str, at: u64, gradient: u64| Tensor::new(name, [10], slice(at)).with_gradient(slice(gradient));
    let tensors = [tensor("a", 0, 512), tensor("b", 64, 548), tensor("c", 128, 600)];
    let mut optimizer = Optimizer::new(&gpu, &adamw(), tensors).unwrap();
    let overlap = |outcome: wgpu_optim::Result<()>, names: [&str; 2]| match outcome {
        Err(Error::Overlap { first, second, what }) => {
            assert_eq!([first.as_str(), second.as_str()], names);
            assert!(what.contains("zeroed"), "{what}");
        }
        other => panic!("{other:?}"),
    };
    // Read only, they may.
    submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    overlap(optimizer.set_zero_gradients(true), ["a", "b"]);
    submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    optimizer.set_gradient(1, Some(slice(552))).unwrap();
    optimizer.set_zero_gradients(true).unwrap();
    submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    // On the way from one binding to another they may overlap; at a step they may not.
    optimizer.set_gradient(2, Some(slice(552))).unwrap();
    overlap(optimizer.step(&mut encoder(&gpu)), ["b", "c"]);
    optimizer.set_gradient(1, Some(slice(600))).unwrap();
    submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    assert_eq!(optimizer.wait_for_report().unwrap().unwrap().steps_taken, 4);
}

/// The rest of an arena's last four elements is its own only where the arena put it.
#[test]
fn a_slice_of_an_arena_that_was_cut_keeps_to_its_own() {
    let gpu = gpu();
    let arena = Arena::new(&gpu, [TensorSpec::new("whole", [8])]).unwrap();
    arena.write_params("whole", &[1.0; 8]).unwrap();
    arena.write_gradient("whole", &[1.0; 8]).unwrap();
    let cut = |slice: &Slice| {
        let mut first = slice.clone();
        first.size = 12;
        first
    };
    let first = Tensor::new("first", [3], cut(arena.params("whole").unwrap()));
    let first = first.with_gradient(cut(arena.gradient("whole").unwrap()));
    let mut optimizer = Optimizer::new(&gpu, &adamw(), [first]).unwrap();
    submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
    let found = support::model::read_slice(&gpu, arena.params("whole").unwrap());
    let moved: Vec<_> = found.iter().map(|bits| f32::from_bits(*bits) != 1.0).collect();
    assert_eq!(moved, [true, true, true, false, false, false, false, false]);
}

/// Updates by vectors write to the padding behind an arena's tensor: whoever lies there would be overwritten.
#[test]
fn the_padding_of_an_arena_is_taken() {
    let gpu = gpu();
    let halves = StorageConfig { params: Format::Bf16, gradients: Format::Bf16, ..StorageConfig::default() };
    for (config, reach) in [(adamw(), 16), (adamw().storage(halves), 8)] {
        let arena = Arena::for_config(&gpu, &config, [TensorSpec::new("arena", [1])]).unwrap();
        let [own] = arena.tensors() else { panic!("a tensor") };
        let width = own.params.size;
        let at = |slice: &Slice, offset: u64| Slice::new(&slice.buffer, offset, width);
        let elsewhere = || Slice::new(&buffer(&gpu, 16), 0, width);
        let refused = |outcome: wgpu_optim::Result<Optimizer>, what: &str| match outcome {
            Err(Error::Overlap { first, second, .. }) => {
                assert_eq!([first.as_str(), second.as_str()], ["arena", "guest"], "{what}");
            }
            other => panic!("{what}: {other:?}"),
        };
        let gradients = own.gradient.as_ref().unwrap();
        for offset in (4..reach).step_by(4) {
            // Parameters behind parameters, a gradient behind parameters, parameters behind a gradient that may be zeroed.
            let guest = Tensor::new("guest", [1], at(&own.params, offset));
            refused(Optimizer::new(&gpu, &config, [own.clone(), guest]), "parameters");
            let guest = Tensor::new("guest", [1], elsewhere()).with_gradient(at(&own.params, offset));
            refused(Optimizer::new(&gpu, &config, [own.clone(), guest.clone()]), "a gradient");
            let mut optimizer =
                Optimizer::new(&gpu, &config, [own.clone(), Tensor { gradient: None, ..guest.clone() }]).unwrap();
            assert!(matches!(optimizer.set_gradient(1, guest.gradient), Err(Error::Overlap { .. })));
            let guest = Tensor::new("guest", [1], at(gradients, offset));
            let outcome = Optimizer::new(&gpu, &config, [own.clone(), guest]).map(drop).unwrap_err();
            assert!(matches!(outcome, Error::Overlap { .. }), "{outcome}");
            // A gradient behind a gradient is only read, unless they are zeroed.
            let guest = Tensor::new("guest", [1], elsewhere()).with_gradient(at(gradients, offset));
            let mut optimizer = Optimizer::new(&gpu, &config, [own.clone(), guest]).unwrap();
            submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
            // A process that ends while its driver is at work may crash.
            optimizer.wait_for_report().unwrap();
            let zeroed = optimizer.set_zero_gradients(true);
            assert!(matches!(zeroed, Err(Error::Overlap { .. })), "{zeroed:?}");
        }
        // Behind it there is room, and where the arena's slice was cut there is no padding.
        let guest = Tensor::new("guest", [1], at(&own.params, reach)).with_gradient(at(gradients, reach));
        let mut optimizer = Optimizer::new(&gpu, &config, [own.clone(), guest]).unwrap();
        optimizer.set_zero_gradients(true).unwrap();
        submit(&gpu, |encoder| optimizer.step(encoder).unwrap());
        optimizer.wait_for_report().unwrap();
        let cut = Tensor::new("arena", [1], at(&own.params, 0));
        let guest = Tensor::new("guest", [1], at(&own.params, 4));
        Optimizer::new(&gpu, &config, [cut, guest]).unwrap();
    }
}

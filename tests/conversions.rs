//! The kernels' conversions, on the device, against the library's own, which `src/storage/bits.rs` checks
//! against another crate's: every pattern of 16 bits, and what lies between their values.

mod support;

use support::model::{buffer, read_words};
use support::{gpu, submit};
use wgpu_optim::storage::{Noise, bf16_bits, f16_bits, noise_key, stochastic_bf16_bits};
use wgpu_optim::wgpu::{self, BufferUsages, util::DeviceExt};
use wgpu_optim::{Format, Gpu};

const THREADS: u32 = 64;

/// What a test runs over its words, four at a time.
const HEAD: &str = "
struct Block { number: u32, }
@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> target_: array<vec4<u32>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&source) { target_[id.x] = convert(source[id.x], id.x); }
}
";

fn storage(file: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders/storage").join(file);
    let own = std::fs::read_to_string(path).unwrap();
    // `scripts/mutants` asks about these files too, and alters no file in its place.
    let text = |name: &str| std::fs::read_to_string(std::env::var_os(name)?).ok();
    match (text("WGPU_OPTIM_MUTANT_OF"), text("WGPU_OPTIM_MUTANT")) {
        (Some(of), Some(mutant)) if option_env!("WGPU_OPTIM_MUTANTS").is_some() && of == own => mutant,
        _ => own,
    }
}

/// Runs `convert(words: vec4<u32>, group: u32) -> vec4<u32>` over words.
fn run(gpu: &Gpu, convert: &str, words: &[u32]) -> Vec<u32> {
    let files = ["halves.wgsl", "bf16.wgsl", "f16.wgsl", "noise.wgsl"].map(storage).concat();
    let source = format!("{HEAD}{files}{convert}");
    let device = gpu.device();
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(source.into()),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let mut padded = words.to_vec();
    padded.resize(words.len().next_multiple_of(4), 0);
    let contents = bytemuck::cast_slice(&padded);
    let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents, usage: BufferUsages::STORAGE };
    let source = device.create_buffer_init(&descriptor);
    let target = buffer(gpu, contents.len() as u64);
    let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[
            wgpu::BindGroupEntry { binding: 0, resource: source.as_entire_binding() },
            wgpu::BindGroupEntry { binding: 1, resource: target.as_entire_binding() },
        ],
    });
    submit(gpu, |encoder| {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups((padded.len() as u32 / 4).div_ceil(THREADS), 1, 1);
    });
    let mut found = read_words(gpu, &target);
    found.truncate(words.len());
    found
}

fn all_patterns() -> Vec<u32> {
    (0..=0xffff).collect()
}

#[test]
fn every_pattern_widens_to_its_value() {
    let gpu = gpu();
    for (name, format) in [("f16", Format::F16), ("bf16", Format::Bf16)] {
        let convert = format!(
            "fn convert(words: vec4<u32>, group: u32) -> vec4<u32> {{ return widen_{name}(join_halves(words)); }}"
        );
        for (bits, found) in all_patterns().into_iter().zip(run(&gpu, &convert, &all_patterns())) {
            assert_eq!(found, format.value(bits).to_bits(), "{name} {bits:#x}");
        }
    }
}

/// Values of both formats, the ties between neighbours, what is just beside those, and what no format holds.
fn telling() -> Vec<u32> {
    let mut words = Vec::new();
    for format in [Format::F16, Format::Bf16] {
        for bits in 0..=0xffff {
            let value = format.value(bits).to_bits();
            let tie = match format {
                Format::F16 => value.wrapping_add(0x1000),
                _ => value.wrapping_add(0x8000),
            };
            words.extend([value, tie, tie.wrapping_add(1), tie.wrapping_sub(1)]);
        }
    }
    // Between subnormal numbers of f16, whose ties are elsewhere.
    for half in 0..0x400u16 {
        let tie = (f32::from(half) + 0.5) * 2f32.powi(-24);
        words.extend([tie, tie.next_up(), tie.next_down(), -tie].map(f32::to_bits));
    }
    let special = [0, 1, 0x007f_ffff, 0x0080_0000, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0x7fff_ffff, 0x7fc0_0000];
    words.extend(special.iter().flat_map(|bits| [*bits, bits | 0x8000_0000]));
    words
}

#[test]
fn every_rounding_is_the_hosts() {
    let gpu = gpu();
    let words = telling();
    type Round = fn(f32) -> u16;
    for (name, round) in [("nearest_f16", f16_bits as Round), ("nearest_bf16", bf16_bits)] {
        let convert = format!("fn convert(words: vec4<u32>, group: u32) -> vec4<u32> {{ return {name}(words); }}");
        for (bits, found) in words.iter().zip(run(&gpu, &convert, &words)) {
            assert_eq!(found, u32::from(round(f32::from_bits(*bits))), "{name} of {bits:#x}");
        }
    }
}

#[test]
fn chance_is_the_hosts() {
    let gpu = gpu();
    let words = telling();
    let noise = Noise { key: noise_key(42, "layer.weight"), steps: 1234 };
    for stream in [Noise::PARAMS, Noise::SLOTS, Noise::SLOTS + 1] {
        let (pair, shift) = (stream / 2, 16 * (stream % 2));
        let convert = format!(
            "fn convert(words: vec4<u32>, group: u32) -> vec4<u32> {{
                let noise = noise_of(vec2<u32>({}u, {}u), Block(0u), group * 4u, {pair}u);
                return stochastic_bf16(words, (noise >> vec4<u32>({shift}u)) & vec4<u32>(0xffffu));
            }}",
            noise.key, noise.steps
        );
        for (element, (bits, found)) in words.iter().zip(run(&gpu, &convert, &words)).enumerate() {
            let expected = stochastic_bf16_bits(f32::from_bits(*bits), noise.bits(element as u64, stream));
            assert_eq!(found, u32::from(expected), "stream {stream}, element {element}: {bits:#x}");
        }
    }
}

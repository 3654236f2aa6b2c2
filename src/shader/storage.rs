//! How kernels reach numbers as they are stored.

use std::fmt::Write as _;

use super::{Access, declare};
use crate::plan::{MASTER, Variant};
use crate::storage::{Format, Noise, Rounding, StateFormat};

/// Adds a text unless it is there: parameters and gradients may be stored alike, and several parts of a kernel share maths.
pub fn add_once(source: &mut String, text: &str) {
    if !source.contains(text) {
        source.push_str(text);
    }
}

/// The conversions of a format.
fn add_format(source: &mut String, format: Format) {
    let own = match format {
        Format::F32 => return,
        Format::F16 => file!("storage/f16.wgsl"),
        Format::Bf16 => file!("storage/bf16.wgsl"),
    };
    add_once(source, file!("storage/halves.wgsl"));
    add_once(source, own);
}

/// WGSL for the caller's own kernels that read or write numbers of 16 bits: `widen_f16` or `widen_bf16`
/// (from two words to the bits of four f32), `nearest_f16` or `nearest_bf16` (from those to four halves)
/// and `join_halves` (to two words). Empty for f32.
pub fn wgsl_conversions(format: Format) -> String {
    let mut source = String::new();
    add_format(&mut source, format);
    source
}

pub fn add_gradients(source: &mut String, variant: &Variant, access: Access, mode: &str) {
    let format = variant.storage.gradients;
    source.push_str(match (format == Format::F32, access.vector) {
        (true, true) => file!("access/gradients.f32.vector.wgsl"),
        (true, false) => file!("access/gradients.f32.words.wgsl"),
        (false, true) => file!("access/gradients.half.vector.wgsl"),
        (false, false) => file!("access/gradients.half.words.wgsl"),
    });
    add_format(source, format);
    add_widen(source, "gradients", format);
    declare(source, access, 1, mode, "gradients", element_of(format, access.vector));
}

pub fn add_weights(source: &mut String, variant: &Variant, access: Access) {
    let storage = &variant.storage;
    let format = storage.params;
    source.push_str(if storage.master { file!("weights/master.wgsl") } else { file!("weights/plain.wgsl") });
    source.push_str(match (format == Format::F32, access.vector) {
        (true, true) => file!("access/params.f32.vector.wgsl"),
        (true, false) => file!("access/params.f32.words.wgsl"),
        (false, true) => file!("access/params.half.vector.wgsl"),
        (false, false) => file!("access/params.half.words.wgsl"),
    });
    add_format(source, format);
    add_widen(source, "params", format);
    let narrowed = match (format, storage.rounding) {
        (Format::F32, _) => "bits",
        (Format::F16, _) => "nearest_f16(bits)",
        (Format::Bf16, Rounding::Nearest) => "nearest_bf16(bits)",
        (Format::Bf16, Rounding::Stochastic) => {
            add_once(source, file!("storage/noise.wgsl"));
            // The lower half of the first pair of streams.
            "stochastic_bf16(bits, noise_of(noise, block, i, 0u) & vec4<u32>(0xffffu))"
        }
    };
    let _ = writeln!(
        source,
        "fn narrow_params(bits: vec4<u32>, block: Block, i: u32, noise: vec2<u32>) -> vec4<u32> {{\n    return {narrowed};\n}}"
    );
    declare(source, access, 0, "read_write", "params", element_of(format, access.vector));
    if storage.master {
        add_engine_word(source, variant, "master_word", MASTER);
    }
}

fn add_widen(source: &mut String, what: &str, format: Format) {
    let widen = match format {
        Format::F32 => return,
        Format::F16 => "widen_f16",
        Format::Bf16 => "widen_bf16",
    };
    let _ = writeln!(source, "fn widen_{what}(words: vec2<u32>) -> vec4<u32> {{\n    return {widen}(words);\n}}");
}

fn element_of(format: Format, vector: bool) -> &'static str {
    match (format, vector) {
        (_, false) => "u32",
        (Format::F32, true) => "vec4<u32>",
        (_, true) => "vec2<u32>",
    }
}

/// The state buffer, in the longest words that every slot can be reached by.
pub fn add_state(source: &mut String, variant: &Variant, access: Access, mode: &str) {
    let shortest = variant.formats().map(StateFormat::quad_words).min();
    let (element, read, write) = match shortest {
        Some(1) => ("u32", file!("access/state/words.wgsl"), file!("access/state/words.write.wgsl")),
        Some(2) => ("vec2<u32>", file!("access/state/pairs.wgsl"), file!("access/state/pairs.write.wgsl")),
        _ => ("vec4<u32>", file!("access/state/vector.wgsl"), file!("access/state/vector.write.wgsl")),
    };
    source.push_str(read);
    if mode == "read_write" {
        source.push_str(write);
    }
    declare(source, access, 2, mode, "state", element);
}

/// The function that gives the word of four elements in a slot of the engine's own.
pub fn add_engine_word(source: &mut String, variant: &Variant, name: &str, slot: &str) {
    let first = first_word(variant, variant.engine_slot(slot).unwrap_or(0));
    let _ = writeln!(source, "fn {name}(block: Block, i: u32) -> u32 {{\n    return {first} + i;\n}}");
}

/// Where a kept slot starts in a block's state, as `StateFormat::words` adds them up.
fn first_word(variant: &Variant, slot: usize) -> String {
    let before: Vec<_> = variant.formats().take(slot).collect();
    let quads: u32 = before.iter().map(|format| format.quad_words()).sum();
    let scales = before.iter().filter(|format| **format == StateFormat::Q8).count();
    let mut text = "block.state".to_owned();
    if quads > 0 {
        let _ = write!(text, " + {quads}u * ((block.len + 3u) / 4u)");
    }
    if scales > 0 {
        let _ = write!(text, " + {scales}u * ((block.len + 255u) / 256u)");
    }
    text
}

/// Single gradients, by words.
pub fn add_gradient_elements(source: &mut String, variant: &Variant) {
    let format = variant.storage.gradients;
    add_format(source, format);
    add_element(source, "gradient", "gradients", format);
    declare(source, Access::default(), 1, "read", "gradients", "u32");
}

/// Single weights, by words.
pub fn add_weight_elements(source: &mut String, variant: &Variant) {
    let format = variant.storage.params;
    add_format(source, format);
    add_element(source, "param", "params", format);
    declare(source, Access::default(), 0, "read", "params", "u32");
    if !variant.storage.master {
        source.push_str(file!("weights/element.wgsl"));
        return;
    }
    source.push_str(file!("weights/element.master.wgsl"));
    let narrow = if format == Format::F16 { "nearest_f16" } else { "nearest_bf16" };
    let _ = writeln!(source, "fn narrow_param(bits: u32) -> u32 {{\n    return {narrow}(vec4<u32>(bits)).x;\n}}");
    add_engine_word(source, variant, "master_word", MASTER);
}

fn add_element(source: &mut String, what: &str, buffer: &str, format: Format) {
    let half = format!("(read_{buffer}(element / 2u) >> (element % 2u * 16u)) & 0xffffu");
    let bits = match format {
        Format::F32 => format!("read_{buffer}(element)"),
        Format::F16 => format!("widen_f16(vec2<u32>({half}, 0u)).x"),
        Format::Bf16 => format!("widen_bf16(vec2<u32>({half}, 0u)).x"),
    };
    let _ = writeln!(source, "fn {what}_at(element: u32) -> u32 {{\n    return {bits};\n}}");
}

/// How a rule's `State` is loaded and stored: slot after slot within a block; those that are off are not
/// in memory.
pub fn state_glue(source: &mut String, variant: &Variant, access: Access) {
    if variant.slots.is_empty() {
        source.push_str("struct State {\n    none: vec4<f32>,\n}\n");
    }
    let formats: Vec<_> = variant.formats().collect();
    let kept = |slot: usize| Some(variant.engine.len() + variant.active.iter().position(|a| *a == slot)?);
    // Where codes of a slot are looked up, and the code of zero.
    let table = |slot: usize| if variant.slots[slot].signed { ("0u", "SIGNED_ZERO") } else { ("UNSIGNED", "0u") };
    let scale = |first: &str| format!("{first} + (block.len + 3u) / 4u + i / 256u");

    let loads: Vec<_> = (0..variant.slots.len())
        .map(|slot| {
            let Some(place) = kept(slot) else { return "vec4<f32>()".to_owned() };
            let first = first_word(variant, place);
            match formats[place] {
                StateFormat::F32 => format!("unpack(state_f32({first} + i))"),
                StateFormat::Bf16 => format!("unpack(widen_bf16(state_half({first} + i / 2u)))"),
                StateFormat::Q8 => {
                    format!("decode_q8(read_state({first} + i / 4u), read_state({}), {})", scale(&first), table(slot).0)
                }
            }
        })
        .collect();
    let _ = writeln!(
        source,
        "fn load_state(block: Block, i: u32) -> State {{\n    return State({});\n}}",
        if loads.is_empty() { "vec4<f32>()".to_owned() } else { loads.join(", ") }
    );

    let (mut stores, mut settles, mut held) = (String::new(), String::new(), String::new());
    let mut pairs = Vec::new();
    for (slot, name) in variant.slots.iter().map(|slot| slot.name).enumerate() {
        let Some(place) = kept(slot) else { continue };
        let first = first_word(variant, place);
        let _ = match formats[place] {
            StateFormat::F32 => writeln!(stores, "    set_state_f32({first} + i, pack(s.{name}));"),
            StateFormat::Bf16 => {
                // Streams follow those of `Noise`, two in a pair.
                let stream = Noise::SLOTS as usize + place;
                let (pair, shift) = (stream / 2, 16 * (stream % 2));
                if !pairs.contains(&pair) {
                    pairs.push(pair);
                    let _ = writeln!(stores, "    let noise{pair} = noise_of(noise, block, i, {pair}u);");
                }
                writeln!(
                    stores,
                    "    set_state_half({first} + i / 2u, join_halves(stochastic_bf16(pack(s.{name}), (noise{pair} >> vec4<u32>({shift}u)) & vec4<u32>(0xffffu))));"
                )
            }
            StateFormat::Q8 => {
                let (table, zero) = table(slot);
                let _ = writeln!(held, "var<private> held_{name}: vec4<f32>;");
                let _ = writeln!(stores, "    held_{name} = s.{name};\n    raise_peak({slot}u, i, count, s.{name});");
                writeln!(
                    settles,
                    "        let scale{slot} = peak_of({slot}u, i);\n        write_state({first} + i / 4u, encode_q8(held_{name}, scale{slot}, {table}, {zero}));\n        if i % 256u == 0u {{\n            write_state({}, scale{slot});\n        }}",
                    scale(&first)
                )
            }
        };
    }
    if variant.formats().any(|format| format == StateFormat::Bf16) {
        add_format(source, Format::Bf16);
        add_once(source, file!("storage/noise.wgsl"));
    }
    let _ =
        writeln!(source, "fn store_state(block: Block, i: u32, count: u32, s: State, noise: vec2<u32>) {{\n{stores}}}");
    if settles.is_empty() {
        source.push_str(file!("access/state/settle.none.wgsl"));
    } else {
        source.push_str(file!("storage/q8.wgsl"));
        // wgpu has no uniforms beside arrays of bindings.
        let space = if access.bundle.is_some() { "storage, read" } else { "uniform" };
        let _ = writeln!(source, "@group(1) @binding(4) var<{space}> codes: Codes;");
        source.push_str(&held);
        // All scales of before are read, and all threads have said how large their values are.
        let _ = writeln!(
            source,
            "fn finish_state(block: Block, i: u32, count: u32) {{\n    storageBarrier();\n    workgroupBarrier();\n    if count > 0u {{\n{settles}    }}\n}}"
        );
    }
}

//! Any tensors anywhere under any limits: refused, or laid out with every element once, within the limits.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wgpu_optim::TensorSpec;
use wgpu_optim::layout::{ArenaLayout, BLOCK, DeviceLimits, GradientPlace, Layout, Placement};
use wgpu_optim::storage::{Format, StateFormat};

#[derive(Debug, Arbitrary)]
struct Drawn {
    /// Elements in blocks, so that lengths are far apart, and beside them.
    blocks: u16,
    elements: u16,
    gap: u16,
    gradient_gap: u16,
    variant: bool,
    new_buffer: bool,
    padded: bool,
    gradient: Option<bool>,
}

#[derive(Debug, Arbitrary)]
struct Input {
    binding: u32,
    buffer: u32,
    alignment: bool,
    workgroups: u16,
    bundle: u16,
    slots: u8,
    tensors: Vec<Drawn>,
    shapes: Vec<Vec<u64>>,
}

fuzz_target!(|input: Input| {
    let limits = DeviceLimits {
        binding: u64::from(input.binding).max(1 << 18),
        buffer: u64::from(input.buffer).max(1 << 18),
        alignment: if input.alignment { 256 } else { 32 },
        workgroups: u32::from(input.workgroups).max(1),
        bundle: u32::from(input.bundle),
    };
    let (mut buffer, mut offset, mut gradient_at) = (0, 0, 0);
    let (mut placements, mut gradients) = (Vec::new(), Vec::new());
    for (tensor, drawn) in input.tensors.iter().take(64).enumerate() {
        if drawn.new_buffer {
            (buffer, offset) = (buffer + 1, 0);
        }
        // In an arena slices start at vectors.
        let elements = u64::from(drawn.blocks % 128) * BLOCK + u64::from(drawn.elements);
        let step = if drawn.padded { 16 } else { 4 };
        offset = (offset + u64::from(drawn.gap) * 4).next_multiple_of(step);
        gradient_at = (gradient_at + u64::from(drawn.gradient_gap) * 4).next_multiple_of(step);
        let variant = usize::from(drawn.variant);
        // A matter of the code, as in a plan.
        let (params, gradient) = if drawn.variant { (Format::Bf16, Format::F16) } else { (Format::F32, Format::F32) };
        let kept = if drawn.variant { StateFormat::Q8 } else { StateFormat::F32 };
        let slots = vec![kept; usize::from(input.slots % 6)].into();
        let padded = drawn.padded;
        placements.push(Placement {
            tensor,
            elements,
            variant,
            params,
            gradients: gradient,
            slots,
            buffer: 2 * buffer + variant,
            offset,
            padded,
        });
        gradients.push(drawn.gradient.map(|other| GradientPlace {
            buffer: usize::from(other),
            offset: gradient_at,
            padded: drawn.padded,
        }));
        let bytes = (elements * 4).next_multiple_of(step);
        (offset, gradient_at) = (offset + bytes, gradient_at + bytes);
    }
    let Ok(layout) = Layout::new(&placements, &limits) else { return };
    let laid: u64 = layout.blocks.iter().map(|b| u64::from(b.len)).sum();
    assert_eq!(laid, placements.iter().map(|p| p.elements).sum::<u64>());
    for window in &layout.windows {
        assert!(window.bytes.end - window.bytes.start <= limits.binding && window.bytes.start % limits.alignment == 0);
        assert!(window.state * 4 <= limits.binding.min(limits.buffer));
    }
    let spans = layout.spans(&gradients, &limits);
    let spanned: u64 = spans
        .iter()
        .flat_map(|s| &layout.blocks[s.blocks.start as usize..s.blocks.end as usize])
        .map(|b| u64::from(b.len))
        .sum();
    let wanted: u64 = placements.iter().zip(&gradients).filter(|(_, g)| g.is_some()).map(|(p, _)| p.elements).sum();
    assert_eq!(spanned, wanted);
    for span in &spans {
        assert!(span.gradient_bytes.end - span.gradient_bytes.start <= limits.binding);
        let [x, y] = limits.dispatch(span.blocks.len() as u32);
        assert!(x <= limits.workgroups && u64::from(x) * u64::from(y) >= span.blocks.len() as u64);
    }
    let dispatches = layout.dispatches(spans.clone(), &limits, true);
    assert_eq!(dispatches.iter().map(|d| d.spans.len()).sum::<usize>(), spans.len());
    for dispatch in &dispatches {
        let most = dispatch.bundle.map_or(1, std::num::NonZeroU32::get);
        assert!(dispatch.spans.len() <= most as usize && (dispatch.bundle.is_none() || most <= limits.bundle));
    }

    let specs: Vec<_> =
        input.shapes.into_iter().take(64).enumerate().map(|(i, s)| TensorSpec::new(format!("{i}"), s)).collect();
    if let Ok(arena) = ArenaLayout::new(&specs, &vec![[Format::Bf16, Format::F32]; specs.len()], &limits) {
        assert!(arena.segments.iter().flat_map(|s| s.bytes()).all(|bytes| bytes <= limits.buffer));
    }
});

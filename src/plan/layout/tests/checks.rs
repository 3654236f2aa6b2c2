//! What every layout must keep to.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::super::*;

/// What a kernel may touch of a tensor, in bytes of the buffer: with its padding, if that is its own, and
/// up to a whole word.
pub fn reach(offset: u64, elements: u64, padded: bool, format: Format) -> Range<u64> {
    let touched = if padded { elements.next_multiple_of(4) } else { elements };
    offset..offset + (touched * format.bytes()).next_multiple_of(WORD)
}

/// Checks a plan and its spans for those gradients (by tensor) against everything the kernels assume.
pub fn check(placements: &[Placement], gradients: &[Option<GradientPlace>], limits: &DeviceLimits) -> Layout {
    let layout = Layout::new(placements, limits).unwrap();
    let by_tensor: HashMap<usize, &Placement> = placements.iter().map(|p| (p.tensor, p)).collect();
    check_blocks(&layout, placements);
    check_parts(&layout, placements);
    for window in &layout.windows {
        check_window(&layout, window, &by_tensor, limits);
    }
    check_rows(&layout);
    check_state(&layout, placements);
    check_spans(&layout, &by_tensor, gradients, limits);
    check_dispatches(&layout, gradients, limits);
    layout
}

/// Every element of every tensor is in exactly one block, and every block has a partial of its own, in
/// the tensors' order.
pub fn check_blocks(layout: &Layout, placements: &[Placement]) {
    let mut of_tensor: HashMap<usize, Vec<&TensorBlock>> = HashMap::new();
    layout.blocks.iter().for_each(|b| of_tensor.entry(b.tensor).or_default().push(b));
    let mut order: Vec<_> = placements.iter().collect();
    order.sort_by_key(|p| p.tensor);
    let mut partial = 0;
    for p in order {
        let mut blocks = of_tensor.remove(&p.tensor).unwrap_or_default();
        blocks.sort_by_key(|b| b.number);
        let mut next = 0;
        for (number, block) in blocks.iter().enumerate() {
            assert_eq!(block.number, number as u64);
            assert!(block.len > 0 && u64::from(block.len) <= BLOCK);
            next += u64::from(block.len);
            assert!(u64::from(block.len) == BLOCK || next == p.elements, "a short block inside a tensor");
            assert_eq!(block.partial, partial);
            partial += 1;
        }
        assert_eq!(next, p.elements);
    }
    assert!(of_tensor.is_empty());
}

/// Every block's part of a sum is in exactly one part of its tensor's, in the tensors' order.
pub fn check_parts(layout: &Layout, placements: &[Placement]) {
    let grouped = layout.blocks.len() as u64 > MOST_PARTS;
    assert_eq!(!layout.groups.is_empty(), grouped);
    assert_eq!(layout.parts(), if grouped { layout.groups.len() } else { layout.blocks.len() });
    let mut order: Vec<_> = placements.iter().collect();
    order.sort_by_key(|p| p.tensor);
    let (mut next_part, mut next_block) = (0, 0);
    for p in order {
        let [first, count] = layout.parts_of(p.tensor);
        assert_eq!(first, next_part);
        next_part += count;
        let end = next_block + p.elements.div_ceil(BLOCK) as u32;
        for part in first..next_part {
            let [block, blocks] = if grouped { layout.groups[part as usize] } else { [part, 1] };
            assert!(block == next_block && (1..=GROUP).contains(&blocks));
            next_block += blocks;
        }
        assert_eq!(next_block, end);
    }
    assert_eq!(next_part as usize, layout.parts());
}

/// A window is within the limits, and its blocks are where their tensors are and within its binding.
pub fn check_window(layout: &Layout, window: &Window, by_tensor: &HashMap<usize, &Placement>, limits: &DeviceLimits) {
    assert_eq!(window.bytes.start % limits.alignment, 0);
    let bytes = window.bytes.end - window.bytes.start;
    assert!(bytes > 0 && bytes <= limits.binding.min(WINDOW_CAP));
    assert!(window.state * WORD <= limits.binding.min(limits.buffer));
    assert!(!window.runs.is_empty() && window.runs.iter().all(|run| !run.pieces.is_empty()));
    let mut end = window.bytes.start;
    for run in &window.runs {
        for row in run.pieces.iter().flat_map(|piece| piece.blocks.clone()) {
            let block = &layout.blocks[row as usize];
            let p = by_tensor[&block.tensor];
            assert_eq!((window.variant, window.buffer), (p.variant, p.buffer));
            assert_eq!((window.params, window.gradients), (p.params, p.gradients));
            assert_eq!(window.slots, p.slots);
            let size = p.params.bytes();
            let first = window.bytes.start + u64::from(block.start) * size;
            assert_eq!(first, p.offset + block.number * BLOCK * size);
            let own = reach(p.offset, p.elements, p.padded, p.params);
            let touched = if run.vector { block.len.next_multiple_of(4) } else { block.len };
            let last = first + (u64::from(touched) * size).next_multiple_of(WORD);
            assert!(own.start <= first && last <= own.end, "a block reaches past its tensor");
            assert!(last <= window.bytes.end, "a block reaches past its binding");
            assert!(!run.vector || block.start.is_multiple_of(4), "a vector that is not aligned");
            // A half of a word that is a neighbour's is written by nobody else.
            assert!(first.is_multiple_of(WORD), "a block starts within a word");
            end = end.max(own.end.min(first + u64::from(block.len.next_multiple_of(4)) * size));
        }
    }
    // Nothing is bound beyond the last block: another tensor's gradient may be there.
    assert_eq!(window.bytes.end, end);
}

/// The rows of the block table are the windows' runs one after another, each row in one piece, and a
/// piece says of its rows what is so.
pub fn check_rows(layout: &Layout) {
    let mut row = 0;
    for piece in layout.windows.iter().flat_map(|w| &w.runs).flat_map(|run| &run.pieces) {
        assert_eq!(piece.blocks.start, row);
        row = piece.blocks.end;
        let mut element = piece.elements.start;
        for block in &layout.blocks[piece.blocks.start as usize..piece.blocks.end as usize] {
            assert_eq!((block.tensor, block.number * BLOCK), (piece.tensor, element));
            element += u64::from(block.len);
        }
        assert_eq!(element, piece.elements.end);
        assert_eq!(piece.ragged, element % 4 != 0);
    }
    assert_eq!(row as usize, layout.blocks.len());
}

/// State of blocks neither overlaps nor leaves its window, starts at whole vectors, and is found again
/// element by element.
pub fn check_state(layout: &Layout, placements: &[Placement]) {
    let mut found: HashMap<(usize, usize), u64> = HashMap::new();
    for (index, window) in layout.windows.iter().enumerate() {
        let mut ranges = Vec::new();
        for row in window.runs.iter().flat_map(|run| &run.pieces).flat_map(|piece| piece.blocks.clone()) {
            let block = &layout.blocks[row as usize];
            let shortest = window.slots.iter().map(|slot| slot.quad_words()).min().unwrap_or(1);
            assert!(block.state.is_multiple_of(shortest), "state that its kernel cannot address");
            let words: u64 = window.slots.iter().map(|slot| u64::from(slot.words(block.len))).sum();
            ranges.push(u64::from(block.state)..u64::from(block.state) + words);
        }
        ranges.sort_by_key(|range| range.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert!(ranges.iter().all(|range| range.end <= window.state));
        layout.for_each_state(index, |part| {
            assert_eq!(part.format.words(part.elements.len() as u32) as usize, part.words.len());
            assert!(part.words.end as u64 <= window.state);
            // Blocks are checked to be disjoint; so it is enough that they add up.
            *found.entry((part.tensor, part.slot)).or_default() += part.elements.len() as u64;
        });
    }
    let expected: HashMap<_, _> = placements
        .iter()
        .filter(|p| p.elements > 0)
        .flat_map(|p| (0..p.slots.len()).map(|slot| ((p.tensor, slot), p.elements)))
        .collect();
    assert_eq!(found, expected);
}

/// Every block of a tensor with a gradient is in exactly one span, whose binding holds its gradient
/// where the kernel looks for it.
pub fn check_spans(
    layout: &Layout,
    by_tensor: &HashMap<usize, &Placement>,
    gradients: &[Option<GradientPlace>],
    limits: &DeviceLimits,
) {
    let mut times = vec![0u8; layout.blocks.len()];
    for span in layout.spans(gradients, limits) {
        let window = &layout.windows[span.window];
        let bound = &span.gradient_bytes;
        assert_eq!(bound.start % limits.alignment, 0);
        assert!(bound.end > bound.start && bound.end - bound.start <= limits.binding.min(WINDOW_CAP));
        assert!(!span.blocks.is_empty());
        for row in span.blocks.clone() {
            times[row as usize] += 1;
            let block = &layout.blocks[row as usize];
            let place = gradients[block.tensor].expect("a span for a tensor without a gradient");
            assert_eq!(span.gradient, place.buffer);
            // As the kernel computes it.
            let format = window.gradients;
            let element = block.start.wrapping_add(span.gradient_shift);
            let byte = bound.start + u64::from(element) * format.bytes();
            assert_eq!(byte, place.offset + block.number * BLOCK * format.bytes());
            let own = reach(place.offset, by_tensor[&block.tensor].elements, place.padded, format);
            let touched = if span.vector { block.len.next_multiple_of(4) } else { block.len };
            let last = byte + (u64::from(touched) * format.bytes()).next_multiple_of(WORD);
            assert!(byte.is_multiple_of(WORD));
            assert!(last <= own.end, "a block reaches past its gradient");
            assert!(last <= bound.end, "a block reaches past the binding");
            assert!(!span.vector || element.is_multiple_of(4));
            // A kernel by vectors must find the parameters as vectors too.
            let run = window.runs.iter().find(|run| run.pieces.iter().any(|p| p.blocks.contains(&row))).unwrap();
            assert!(run.vector || !span.vector);
        }
    }
    for (row, times) in times.into_iter().enumerate() {
        let wanted = u8::from(gradients[layout.blocks[row].tensor].is_some());
        assert_eq!(times, wanted, "block {row} is in {times} spans");
    }
}

/// What a list binds more of the gradients moves none of them.
fn check_rebased(layout: &Layout, own: &Span, span: &Span) {
    let bytes = layout.windows[own.window].gradients.bytes();
    let place = |span: &Span| {
        let first = layout.blocks[span.blocks.start as usize].start;
        span.gradient_bytes.start / bytes + u64::from(first.wrapping_add(span.gradient_shift))
    };
    assert_eq!(place(span), place(own), "{span:?} for {own:?}");
    let within =
        span.gradient_bytes.start <= own.gradient_bytes.start && own.gradient_bytes.end <= span.gradient_bytes.end;
    assert!(within && span.gradient == own.gradient && span.vector == own.vector, "{span:?} for {own:?}");
}

/// Every span is in exactly one dispatch, with spans of its code, and no array is longer than the device allows, nor
/// shorter where a few tensors have a gradient than where all have.
pub fn check_dispatches(layout: &Layout, gradients: &[Option<GradientPlace>], limits: &DeviceLimits) {
    let spans = layout.spans(gradients, limits);
    let mut seen = HashSet::new();
    let code = |span: &Span| (layout.windows[span.window].variant, span.vector);
    for bundled in [true, false] {
        seen.clear();
        for dispatch in layout.dispatches(spans.clone(), limits, bundled) {
            let [first, rest @ ..] = dispatch.spans.as_slice() else { panic!("a dispatch of nothing") };
            assert!(rest.iter().all(|span| code(span) == code(first)));
            for span in &dispatch.spans {
                assert!(seen.insert((span.window, span.blocks.clone())), "a span is in two dispatches");
                let own = spans.iter().find(|own| own.window == span.window && own.blocks == span.blocks);
                check_rebased(layout, own.unwrap_or_else(|| panic!("{span:?} is none of the spans")), span);
            }
            // The same pipelines where some tensors have no gradient as where all have.
            let runs = layout.windows.iter().flat_map(|w| w.runs.iter().map(move |run| (w.variant, run.vector)));
            let few = spans.iter().filter(|span| code(span) == code(first)).count();
            if bundled && few <= runs.filter(|run| *run == code(first)).count() {
                assert_eq!(dispatch.bundle, layout.bundles(limits)[&code(first)]);
            }
            match dispatch.bundle {
                Some(size) => {
                    assert!(bundled && dispatch.spans.len() <= size.get() as usize && size.get() <= limits.bundle);
                }
                None if dispatch.is_list() => {
                    assert!(bundled, "a list where there should be none");
                    let same = |span: &Span| (span.window, span.gradient, span.gradient_bytes.clone());
                    assert!(rest.iter().all(|span| same(span) == same(first)), "a list of two pairs of buffers");
                    let bytes = first.gradient_bytes.end - first.gradient_bytes.start;
                    assert!(bytes <= window_limit(limits), "{bytes} bytes bound for a list");
                    assert!(first.gradient_bytes.start.is_multiple_of(limits.alignment));
                }
                None => assert!(rest.is_empty()),
            }
        }
        assert_eq!(seen.len(), spans.len(), "a span is in no dispatch");
    }
    let counts = spans.iter().fold(HashMap::<_, usize>::new(), |mut counts, span| {
        *counts.entry(code(span)).or_default() += 1;
        counts
    });
    // Long ones stay by themselves.
    let short = layout.blocks.len() <= 4 * 1024;
    let many = short && counts.values().any(|count| *count >= 4) && limits.bundle >= 4;
    let bundles = layout.dispatches(spans, limits, true).iter().filter(|d| d.bundle.is_some()).count();
    assert!(!many || bundles > 0, "no bundle of {counts:?}");
}

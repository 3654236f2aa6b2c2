//! Layouts as pure plans: that every element is updated once, by a kernel that reaches it, and that
//! nothing else is. The kernels run without bounds checks on the strength of this.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use proptest::prelude::*;

use super::*;
use crate::TensorSpec;

/// What a kernel may touch of a tensor, in bytes of the buffer: with its padding, if that is its own, and
/// up to a whole word.
fn reach(offset: u64, elements: u64, padded: bool, format: Format) -> Range<u64> {
    let touched = if padded { elements.next_multiple_of(4) } else { elements };
    offset..offset + (touched * format.bytes()).next_multiple_of(WORD)
}

/// The storage of each variant that is drawn: parameters, gradients, slots.
const STORAGE: [(Format, Format, &[StateFormat]); 5] = [
    (Format::F32, Format::F32, &[]),
    (Format::F32, Format::F32, &[StateFormat::F32, StateFormat::F32]),
    (Format::F32, Format::Bf16, &[StateFormat::F32; 4]),
    (Format::Bf16, Format::F32, &[StateFormat::F32, StateFormat::Bf16, StateFormat::Bf16]),
    (Format::F16, Format::F16, &[StateFormat::F32, StateFormat::Q8, StateFormat::Q8]),
];

/// Checks a plan and its spans for those gradients (by tensor) against everything the kernels assume.
fn check(placements: &[Placement], gradients: &[Option<GradientPlace>], limits: &DeviceLimits) -> Layout {
    let layout = Layout::new(placements, limits).unwrap();
    let by_tensor: HashMap<usize, &Placement> = placements.iter().map(|p| (p.tensor, p)).collect();
    check_blocks(&layout, placements);
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
fn check_blocks(layout: &Layout, placements: &[Placement]) {
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

/// A window is within the limits, and its blocks are where their tensors are and within its binding.
fn check_window(layout: &Layout, window: &Window, by_tensor: &HashMap<usize, &Placement>, limits: &DeviceLimits) {
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
fn check_rows(layout: &Layout) {
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
fn check_state(layout: &Layout, placements: &[Placement]) {
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
fn check_spans(
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

/// Every span is in exactly one dispatch, with spans of its code, and no array is longer than the device allows, nor
/// shorter where a few tensors have a gradient than where all have.
fn check_dispatches(layout: &Layout, gradients: &[Option<GradientPlace>], limits: &DeviceLimits) {
    let spans = layout.spans(gradients, limits);
    let mut seen = HashSet::new();
    let code = |span: &Span| (layout.windows[span.window].variant, span.vector);
    for bundled in [true, false] {
        seen.clear();
        for dispatch in layout.dispatches(spans.clone(), limits, bundled) {
            let [first, rest @ ..] = dispatch.spans.as_slice() else { panic!("a dispatch of nothing") };
            assert!(rest.iter().all(|span| code(span) == code(first)));
            assert!(dispatch.spans.iter().all(|span| seen.insert(span.clone())), "a span is in two dispatches");
            let planned = layout.bundles(limits).get(&code(first)).copied().flatten();
            assert!(!bundled || dispatch.bundle >= planned);
            match dispatch.bundle {
                Some(size) => {
                    assert!(bundled && dispatch.spans.len() <= size.get() as usize && size.get() <= limits.bundle);
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
    let many = counts.values().any(|count| *count >= 4) && limits.bundle >= 4;
    let bundles = layout.dispatches(spans, limits, true).iter().filter(|d| d.bundle.is_some()).count();
    assert!(!many || bundles > 0, "no bundle of {counts:?}");
}

fn limits() -> impl Strategy<Value = DeviceLimits> {
    let binding = prop_oneof![
        Just(1u64 << 17),
        Just((1 << 18) + 4),
        Just((1 << 20) - 4),
        Just(128 << 20),
        Just(u64::from(u32::MAX)),
    ];
    (binding, prop_oneof![Just(16u64), Just(32), Just(256)], prop_oneof![Just(16u32), Just(65_535)]).prop_flat_map(
        |(binding, alignment, workgroups)| {
            let buffer = prop_oneof![Just(binding / 2), Just(binding), Just(1 << 40)];
            let bundle = prop_oneof![Just(0u32), Just(3), Just(5), Just(1024)];
            (buffer, bundle).prop_map(move |(buffer, bundle)| DeviceLimits {
                binding,
                buffer,
                alignment,
                workgroups,
                bundle,
            })
        },
    )
}

fn elements() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0u64..10,
        2 => 4090u64..4103,
        2 => 16_380u64..16_390,
        2 => 1u64..100_000,
        1 => 100_000u64..600_000,
    ]
}

/// A tensor as drawn: elements, variant, buffer, words of gap ahead of it, whether it has padding.
type Drawn = (u64, usize, usize, u64, bool);

fn drawn() -> impl Strategy<Value = Drawn> {
    (elements(), 0..STORAGE.len(), 0usize..2, prop_oneof![3 => Just(0u64), 1 => 1u64..70], any::<bool>())
}

/// Where drawn slices come to lie: one behind another in their buffers.
fn lay(slices: &[(u64, usize, u64, bool, Format)], base: u64) -> Vec<(usize, u64)> {
    let mut ends = [base; 4];
    slices
        .iter()
        .map(|(elements, buffer, gap, padded, format)| {
            let start = ends[*buffer] + gap * WORD;
            let start = if *padded { start.next_multiple_of(VECTOR) } else { start };
            ends[*buffer] = reach(start, *elements, *padded, *format).end.next_multiple_of(WORD);
            (*buffer, start)
        })
        .collect()
}

fn placements(tensors: &[Drawn], base: u64) -> Vec<Placement> {
    let slices: Vec<_> = tensors.iter().map(|t| (t.0, t.2, t.3, t.4, STORAGE[t.1].0)).collect();
    let places = lay(&slices, base);
    let all = tensors.iter().zip(places).enumerate();
    all.map(|(tensor, ((elements, variant, _, _, padded), (buffer, offset)))| Placement {
        tensor,
        elements: *elements,
        variant: *variant,
        params: STORAGE[*variant].0,
        gradients: STORAGE[*variant].1,
        slots: STORAGE[*variant].2.into(),
        buffer,
        offset,
        padded: *padded,
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tensors_anywhere_are_laid_out_right(
        tensors in prop::collection::vec(drawn(), 0..24),
        gradients in prop::collection::vec(
            (any::<bool>(), 0usize..3, prop_oneof![Just(0u64), 1u64..9], any::<bool>(), 0u8..5), 24),
        base in prop_oneof![Just(0u64), Just(4), Just(1 << 12), Just((1 << 33) + 12)],
        mirrored in any::<bool>(),
        limits in limits(),
    ) {
        let placements = placements(&tensors, base);
        // Gradients as parameters lie, or anywhere; one tensor in five has none.
        let slices: Vec<_> = tensors
            .iter()
            .zip(&gradients)
            .map(|(t, g)| {
                let format = STORAGE[t.1].1;
                if mirrored { (t.0, t.2, t.3, t.4, format) } else { (t.0, g.1, g.2, g.3 && t.4, format) }
            })
            .collect();
        let places = lay(&slices, if mirrored { base } else { 0 });
        let gradients: Vec<_> = places
            .iter()
            .zip(&slices)
            .zip(&gradients)
            .zip(&tensors)
            .map(|(((place, slice), g), t)| {
                let present = g.4 > 0 && t.0 > 0;
                present.then_some(GradientPlace { buffer: place.0, offset: place.1, padded: slice.3 })
            })
            .collect();
        check(&placements, &gradients, &limits);
    }

    #[test]
    fn an_arena_is_disjoint_aligned_and_within_limits(
        drawn in prop::collection::vec((elements(), 0..STORAGE.len()), 0..40),
        limits in limits(),
    ) {
        let lengths: Vec<_> = drawn.iter().map(|(n, _)| *n).collect();
        let formats: Vec<Formats> = drawn.iter().map(|(_, v)| [STORAGE[*v].0, STORAGE[*v].1]).collect();
        let specs: Vec<_> = lengths.iter().enumerate().map(|(i, n)| TensorSpec::new(format!("{i}"), [*n])).collect();
        let fits = |(n, [a, b]): (&u64, &Formats)| {
            let [narrow, wide] = [a.bytes().min(b.bytes()), a.bytes().max(b.bytes())];
            n.next_multiple_of(ARENA_ALIGNMENT / narrow) * wide <= limits.buffer
        };
        let arena = match ArenaLayout::new(&specs, &formats, &limits) {
            Ok(arena) => arena,
            Err(error) => {
                let unfit = lengths.iter().zip(&formats).position(|pair| !fits(pair));
                let first = unfit.expect("an error where all tensors fit");
                let named = matches!(&error, Error::Tensor { tensor, .. } if *tensor == first.to_string());
                prop_assert!(named, "{error}");
                return Ok(());
            }
        };
        prop_assert!(lengths.iter().zip(&formats).all(fits));
        let mut ends = vec![0; arena.segments.len()];
        let mut counts = vec![0; arena.segments.len()];
        for (((segment, element), n), formats) in arena.places.iter().zip(&lengths).zip(&formats) {
            prop_assert_eq!(&arena.segments[*segment].formats, formats);
            prop_assert!(formats.iter().all(|f| (element * f.bytes()).is_multiple_of(ARENA_ALIGNMENT)));
            // In order, so that disjoint means behind the last.
            prop_assert!(*element >= ends[*segment]);
            ends[*segment] = element + n.next_multiple_of(4);
            counts[*segment] += usize::from(*n > 0);
            prop_assert!(ends[*segment] <= arena.segments[*segment].elements);
        }
        for (segment, tensors) in arena.segments.iter().zip(counts) {
            let bytes = segment.bytes()[0].max(segment.bytes()[1]);
            prop_assert!(bytes <= limits.buffer);
            prop_assert!(bytes <= limits.binding || tensors <= 1, "{bytes} bytes, {tensors} tensors");
        }
    }

    #[test]
    fn a_dispatch_covers_its_workgroups_within_the_limit(
        workgroups in prop_oneof![1u32..100, Just(65_535)],
        share in 0.0f64..=1.0,
    ) {
        let limits = DeviceLimits { binding: 1 << 20, buffer: 1 << 20, alignment: 256, workgroups, bundle: 0 };
        let most = (u64::from(workgroups) * u64::from(workgroups)).min(u64::from(u32::MAX));
        let count = ((most as f64 * share) as u64).clamp(1, most) as u32;
        let [x, y] = limits.dispatch(count);
        prop_assert!(x >= 1 && y >= 1 && x <= workgroups && y <= workgroups);
        let launched = u64::from(x) * u64::from(y);
        prop_assert!(launched >= u64::from(count));
        // Less than a row and a column too many.
        prop_assert!(launched < u64::from(count) + u64::from(x) + u64::from(y));
    }
}

const REAL: DeviceLimits =
    DeviceLimits { binding: (1 << 31) - 4, buffer: 1 << 48, alignment: 256, workgroups: 65_535, bundle: 0 };

fn alone(elements: u64, offset: u64, padded: bool) -> (Vec<Placement>, Vec<Option<GradientPlace>>) {
    let (params, gradients, slots) = (Format::F32, Format::F32, [StateFormat::F32; 2].into());
    let placement = Placement { tensor: 0, elements, variant: 0, params, gradients, slots, buffer: 0, offset, padded };
    (vec![placement], vec![Some(GradientPlace { buffer: 0, offset, padded })])
}

#[test]
fn eight_billion_elements_past_every_u32() {
    let (placements, gradients) = alone((1 << 33) + 3, (1 << 34) + 4, false);
    let layout = check(&placements, &gradients, &REAL);
    assert_eq!(layout.blocks.len(), (1 << 21) + 1);
    assert!(layout.windows.iter().all(|w| w.bytes.end - w.bytes.start <= 1 << 30));
    assert!(layout.windows.last().unwrap().bytes.end > 1 << 35);
}

#[test]
fn more_blocks_than_a_kernel_can_index_are_an_error() {
    let (placements, _) = alone((u64::from(u32::MAX) + 1) * BLOCK, 0, true);
    let error = Layout::new(&placements, &REAL).unwrap_err();
    assert!(error.to_string().contains("2^32"), "{error}");
}

#[test]
fn neighbours_with_parallel_gradients_are_one_dispatch() {
    let tensors: Vec<Drawn> = (0..20).map(|i| (1000 + i, 1, 0, 0, true)).collect();
    let placements = placements(&tensors, 0);
    let gradients: Vec<_> =
        placements.iter().map(|p| Some(GradientPlace { buffer: 7, offset: p.offset, padded: true })).collect();
    let layout = check(&placements, &gradients, &REAL);
    let spans = layout.spans(&gradients, &REAL);
    assert_eq!(spans.len(), 1);
    assert_eq!((spans[0].vector, spans[0].gradient_shift), (true, 0));
}

#[test]
fn a_long_ragged_tensor_goes_by_vectors_but_for_its_last_block() {
    let (placements, gradients) = alone(100 * BLOCK + 3, 0, false);
    let layout = check(&placements, &gradients, &REAL);
    let spans = layout.spans(&gradients, &REAL);
    let shapes: Vec<_> = spans.iter().map(|s| (s.vector, s.blocks.len())).collect();
    assert_eq!(shapes, [(true, 100), (false, 1)]);
}

#[test]
fn a_misplaced_block_is_found() {
    let tensors = [(10_000, 1, 0, 3, false), (5000, 1, 0, 1, false), (4097, 2, 1, 0, true)];
    let placements = placements(&tensors, 0);
    let gradients: Vec<_> = placements
        .iter()
        .map(|p| Some(GradientPlace { buffer: p.buffer, offset: p.offset, padded: p.padded }))
        .collect();
    let layout = check(&placements, &gradients, &REAL);
    let by_tensor: HashMap<usize, &Placement> = placements.iter().map(|p| (p.tensor, p)).collect();
    let caught = |change: &dyn Fn(&mut Layout)| {
        let mut layout = layout.clone();
        change(&mut layout);
        let outcome = std::panic::catch_unwind(|| {
            check_blocks(&layout, &placements);
            layout.windows.iter().for_each(|w| check_window(&layout, w, &by_tensor, &REAL));
            check_rows(&layout);
            check_state(&layout, &placements);
            check_spans(&layout, &by_tensor, &gradients, &REAL);
        });
        outcome.is_err()
    };
    assert!(!caught(&|_| {}));
    for row in 0..layout.blocks.len() {
        assert!(caught(&|l| l.blocks[row].start += 1), "start of {row}");
        assert!(caught(&|l| l.blocks[row].len -= 1), "length of {row}");
        assert!(caught(&|l| l.blocks[row].state += 4), "state of {row}");
        assert!(caught(&|l| l.blocks[row].partial ^= 1), "partial of {row}");
        assert!(caught(&|l| l.blocks[row].number ^= 1), "number of {row}");
    }
    assert!(caught(&|l| l.windows[0].bytes.start += 256));
    assert!(caught(&|l| l.windows[0].bytes.end -= 4));
    assert!(caught(&|l| l.windows[0].state -= 4));
    assert!(!layout.windows[0].runs[1].vector);
    assert!(caught(&|l| l.windows[0].runs[1].vector = true));
}

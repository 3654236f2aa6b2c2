//! Layouts as pure plans: that every element is updated once, by a kernel that reaches it, and that
//! nothing else is. The kernels run without bounds checks on the strength of this.

use std::collections::HashMap;
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::tensor::TensorSpec;

mod checks;
use checks::*;

/// The storage of each variant that is drawn: parameters, gradients, slots.
const STORAGE: [(Format, Format, &[StateFormat]); 5] = [
    (Format::F32, Format::F32, &[]),
    (Format::F32, Format::F32, &[StateFormat::F32, StateFormat::F32]),
    (Format::F32, Format::Bf16, &[StateFormat::F32; 4]),
    (Format::Bf16, Format::F32, &[StateFormat::F32, StateFormat::Bf16, StateFormat::Bf16]),
    (Format::F16, Format::F16, &[StateFormat::F32, StateFormat::Q8, StateFormat::Q8]),
];

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
fn many_small_tensors_are_groups_of_their_own() {
    let tensors: Vec<Drawn> = (0..4200).map(|i| (if i % 70 == 69 { 300 * BLOCK } else { 5 }, 1, 0, 0, true)).collect();
    let placements = placements(&tensors, 0);
    let layout = Layout::new(&placements, &REAL).unwrap();
    check_parts(&layout, &placements);
    assert_eq!((layout.parts(), layout.most_parts()), (4200 + 60, 2));
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
fn only_short_spans_are_bundled() {
    let limits = DeviceLimits { bundle: 1024, ..REAL };
    let bundles = |elements: u64, buffers: usize| {
        let placements: Vec<_> = (0..buffers)
            .map(|buffer| Placement { tensor: buffer, buffer, ..alone(elements, 0, true).0.remove(0) })
            .collect();
        let layout = Layout::new(&placements, &limits).unwrap();
        let place = |buffer| Some(GradientPlace { buffer, offset: 0, padded: true });
        let spans = layout.spans(&(0..buffers).map(place).collect::<Vec<_>>(), &limits);
        layout.dispatches(spans, &limits, true).iter().map(|d| d.bundle.map(NonZeroU32::get)).collect::<Vec<_>>()
    };
    assert_eq!(bundles(1024 * BLOCK, 5), [Some(8)]);
    assert_eq!(bundles(1025 * BLOCK, 5), [None; 5]);
    assert_eq!(bundles(16, 3), [None; 3]);
    assert_eq!(bundles(16, 1500), [Some(1024); 2]);
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

//! Sums over gradients and weights, in fixed order.

use super::passes::map;
use crate::twin::{Element, UpdateSettings, condition};
use crate::wide::widest;

/// Elements that are added up in one go.
const STRETCH: usize = 1 << 12;

/// Sums that a stretch is added up in side by side, to be vectors.
const LANES: usize = 16;

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Elements that are not finite, which then have no part in the sums.
    pub nonfinite: bool,
    /// Squares and largest magnitudes.
    pub sizes: bool,
}

/// What a tensor adds up to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sizes {
    /// Sum of squares.
    pub squares: f64,
    /// Largest magnitude.
    pub largest: f64,
}

impl Sizes {
    fn with(self, other: Self) -> Self {
        Self { squares: self.squares + other.squares, largest: f64::max(self.largest, other.largest) }
    }
}

/// The sizes of each tensor's values as the norm sees them, and all non-finite elements.
pub fn sums<F: Element>(tensors: &[&[F]], wanted: Wanted, settings: &UpdateSettings) -> (Vec<Sizes>, u64) {
    let stretches: Vec<_> =
        tensors.iter().enumerate().flat_map(|(t, values)| values.chunks(STRETCH).map(move |c| (t, c))).collect();
    let parts = map(stretches, |(t, values)| {
        (
            t,
            widest(
                #[inline(always)]
                || sum(values, wanted, settings),
            ),
        )
    });
    let mut totals = vec![Sizes::default(); tensors.len()];
    let mut nonfinite = 0;
    for (t, (sizes, bad)) in parts {
        totals[t] = totals[t].with(sizes);
        nonfinite += bad;
    }
    (totals, nonfinite)
}

#[inline(always)]
fn sum<F: Element>(values: &[F], wanted: Wanted, settings: &UpdateSettings) -> (Sizes, u64) {
    // A pass of its own over what is in the first cache then: whole numbers can be added up in any order.
    let mut nonfinite = 0u32;
    if wanted.nonfinite {
        values.iter().for_each(|x| nonfinite += u32::from(!x.is_finite()));
    }
    let sizes = if wanted.sizes { sizes(values, wanted.nonfinite, settings) } else { Sizes::default() };
    (sizes, nonfinite.into())
}

/// Sums side by side, in the order that the lanes have at any width of vectors.
struct Lanes<F> {
    squares: [f64; LANES],
    largest: [F; LANES],
}

impl<F: Element> Lanes<F> {
    #[inline(always)]
    fn add(&mut self, mut x: [F; LANES], finite_only: bool, settings: &UpdateSettings) {
        if finite_only {
            x.iter_mut().for_each(|x| *x = if x.is_finite() { *x } else { F::zero() });
        }
        if settings.clip_value.is_some() || settings.zero_nonfinite || settings.unscale != 1.0 {
            x.iter_mut().for_each(|x| *x = condition(*x, settings));
        }
        for ((x, squares), largest) in x.iter().zip(&mut self.squares).zip(&mut self.largest) {
            *squares += x.f64() * x.f64();
            *largest = if x.abs() > *largest { x.abs() } else { *largest };
        }
    }
}

#[inline(always)]
fn sizes<F: Element>(values: &[F], finite_only: bool, settings: &UpdateSettings) -> Sizes {
    let mut lanes = Lanes { squares: [0.0; LANES], largest: [F::zero(); LANES] };
    let (whole, rest) = values.as_chunks::<LANES>();
    for x in whole {
        lanes.add(*x, finite_only, settings);
    }
    if !rest.is_empty() {
        let mut last = [F::zero(); LANES];
        last[..rest.len()].copy_from_slice(rest);
        lanes.add(last, finite_only, settings);
    }
    let sizes = lanes.squares.iter().zip(&lanes.largest);
    sizes
        .map(|(squares, largest)| Sizes { squares: *squares, largest: largest.f64() })
        .fold(Sizes::default(), Sizes::with)
}

//! Sums over gradients and weights, in fixed order.

use super::parallel::map;
use super::update::condition;
use super::wide::widest;
use crate::rule::kernel::{CpuFloat, UpdateSettings};

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

/// A sum of squares, which may leave f64 where its root does not: added up by stretches at three fixed scales, as on the
/// GPU (Blue 1978). Nothing that f32 holds leaves the middle one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Squares {
    small: f64,
    middle: f64,
    large: f64,
}

/// What numbers of a stretch are scaled by whose squares leave f64.
const SCALE: i32 = 600;

impl Squares {
    /// Of a stretch, whose sum of squares that is, or at that scale would be.
    fn of_sum(plain: f64, at: impl Fn(f64) -> f64) -> Self {
        let scale = 2f64.powi(SCALE);
        if plain >= 2f64.powi(900) {
            Self { large: at(1.0 / scale), ..Self::default() }
        } else if plain < 2f64.powi(-800) {
            Self { small: at(scale), ..Self::default() }
        } else {
            Self { middle: plain, ..Self::default() }
        }
    }

    /// Of a stretch of numbers.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let at = |scale: f64| values.clone().fold(0.0, |sum, x| sum + (x * scale) * (x * scale));
        Self::of_sum(at(1.0), at)
    }

    /// Both.
    pub fn with(self, other: Self) -> Self {
        Self { small: self.small + other.small, middle: self.middle + other.middle, large: self.large + other.large }
    }

    /// The root of the sum.
    pub fn root(self) -> f64 {
        let scale = 2f64.powi(SCALE);
        if self.large > 0.0 {
            (self.large + self.middle / scale / scale).sqrt() * scale
        } else if self.middle == 0.0 {
            self.small.sqrt() / scale
        } else {
            (self.middle + self.small / scale / scale).sqrt()
        }
    }
}

/// What a tensor adds up to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sizes {
    /// Sum of squares.
    pub squares: Squares,
    /// Largest magnitude.
    pub largest: f64,
}

impl Sizes {
    fn with(self, other: Self) -> Self {
        Self { squares: self.squares.with(other.squares), largest: f64::max(self.largest, other.largest) }
    }
}

/// The sizes of each tensor's values as the norm sees them, and all non-finite elements.
pub fn sums<F: CpuFloat>(tensors: &[&[F]], wanted: Wanted, settings: &UpdateSettings) -> (Vec<Sizes>, u64) {
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
fn sum<F: CpuFloat>(values: &[F], wanted: Wanted, settings: &UpdateSettings) -> (Sizes, u64) {
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

impl<F: CpuFloat> Lanes<F> {
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
fn sizes<F: CpuFloat>(values: &[F], finite_only: bool, settings: &UpdateSettings) -> Sizes {
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
    let plain = lanes.squares.iter().fold(0.0, |sum, squares| sum + squares);
    let largest = lanes.largest.iter().fold(0.0, |largest, x| f64::max(largest, x.f64()));
    if size_of::<F>() == size_of::<f32>() {
        return Sizes { squares: Squares { middle: plain, ..Squares::default() }, largest };
    }
    let one = |x: &F| if finite_only && !x.is_finite() { 0.0 } else { condition(*x, settings).f64() };
    let at = |scale: f64| values.iter().map(|x| one(x) * scale).fold(0.0, |sum, x| sum + x * x);
    Sizes { squares: Squares::of_sum(plain, at), largest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_right_wherever_its_squares_are() {
        let near =
            |found: f64, want: f64| assert!((found - want).abs() <= 1e-14 * want, "{found:e}, expected {want:e}");
        for size in [1.0, 1e-30, 1e30, 1e140, 1e-140, 1e200, 1e-200, 1e300, 1e-300] {
            near(Squares::of([3.0 * size, 4.0 * size].into_iter()).root(), 5.0 * size);
            near(Squares::of(std::iter::repeat_n(size, 4)).with(Squares::of([0.0].into_iter())).root(), 2.0 * size);
        }
        // Stretches of several sizes, the lesser ones of which are told apart from nothing.
        let of = |x: f64| Squares::of([x].into_iter());
        near(of(1e200).with(of(1.0)).with(of(1e-200)).root(), 1e200);
        near(of(3e140).with(of(4e140)).root(), 5e140);
        near(of(1.0).with(of(1e-200)).root(), 1.0);
        assert_eq!(Squares::default().root().to_bits(), 0);
        assert_eq!(Squares::of([0.0, -0.0].into_iter()).root().to_bits(), 0);
        assert!(of(f64::NAN).root().is_nan());
    }
}

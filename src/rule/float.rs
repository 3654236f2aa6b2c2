//! The two number types the CPU backend computes in.

/// `f32` (the fast path) or `f64` (the oracle of the tests).
pub trait Float: num_traits::Float + std::fmt::Debug + Send + Sync + 'static {
    /// Rounds to this type.
    fn of(x: f64) -> Self;
    /// Widens, exactly.
    fn f64(self) -> f64;
}

impl Float for f32 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        f64::from(self)
    }
}

impl Float for f64 {
    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }
}

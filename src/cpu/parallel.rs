//! Work on all threads.

#[cfg(feature = "rayon")]
use rayon::prelude::*;

/// What `f` makes of each, in order.
pub fn map<T: Send, R: Send>(items: Vec<T>, f: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
    #[cfg(feature = "rayon")]
    return items.into_par_iter().map(f).collect();
    #[cfg(not(feature = "rayon"))]
    return items.into_iter().map(f).collect();
}

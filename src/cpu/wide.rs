//! Loops in the widest vectors of the processor at hand, whatever the build was for. No instruction set changes
//! a bit: nothing is contracted or reordered.

/// Instruction sets that the processor has. Only this module makes one, and asks the processor before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level(Set);

/// Instruction sets worth a copy of a loop.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "other processors have one set for all"))]
enum Set {
    Build,
    Avx2,
    Avx512,
}

/// Runs `f` in the widest vectors. It and what it calls must be `inline(always)`, or they stay as they are.
#[inline]
pub fn widest<R>(f: impl FnOnce() -> R) -> R {
    at(best(), f)
}

#[cfg(target_arch = "x86_64")]
fn best() -> Level {
    let set = if std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512vl") {
        Set::Avx512
    } else if std::is_x86_feature_detected!("avx2") {
        Set::Avx2
    } else {
        Set::Build
    };
    Level(set)
}

#[cfg(not(target_arch = "x86_64"))]
fn best() -> Level {
    Level(Set::Build)
}

/// Runs `f` at that level.
#[cfg(not(target_arch = "x86_64"))]
pub fn at<R>(_level: Level, f: impl FnOnce() -> R) -> R {
    f()
}

/// Runs `f` at that level.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the only way to build one function for a wider instruction set")]
pub fn at<R>(level: Level, f: impl FnOnce() -> R) -> R {
    #[target_feature(enable = "avx2")]
    fn avx2<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    #[target_feature(enable = "avx512f,avx512vl")]
    fn avx512<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    match level.0 {
        Set::Build => f(),
        // SAFETY: outside this module a level comes from `best`, which asked the processor, or from `levels`, which
        // leaves out what is wider.
        Set::Avx2 => unsafe { avx2(f) },
        Set::Avx512 => unsafe { avx512(f) },
    }
}

/// The levels of this processor.
#[cfg(test)]
pub fn levels() -> Vec<Level> {
    let all = [Set::Build, Set::Avx2, Set::Avx512].map(Level);
    let widest = all.iter().position(|level| *level == best()).unwrap_or_default();
    all[..=widest].to_vec()
}

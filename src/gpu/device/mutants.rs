//! One altered file of shaders in place of its own, for `scripts/mutants`, which asks whether the tests would see it. Only
//! in builds with `WGPU_OPTIM_MUTANTS` set when they were compiled; in others there is nothing of it.

use std::borrow::Cow;

/// The text, and with `WGPU_OPTIM_MUTANT_OF` and `WGPU_OPTIM_MUTANT`, two files, that with the first replaced by the second.
/// Kernels are concatenations of whole files.
pub fn altered(source: &str) -> Cow<'_, str> {
    if option_env!("WGPU_OPTIM_MUTANTS").is_none() {
        return source.into();
    }
    let text = |name: &str| std::env::var_os(name).and_then(|path| std::fs::read_to_string(path).ok());
    match (text("WGPU_OPTIM_MUTANT_OF"), text("WGPU_OPTIM_MUTANT")) {
        (Some(own), Some(mutant)) if source.contains(&own) => source.replace(&own, &mutant).into(),
        _ => source.into(),
    }
}

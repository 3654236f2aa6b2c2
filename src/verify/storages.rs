//! The lists of storages that checks go through.

use crate::storage::{Format, Master, Rounding, StateFormat, StorageConfig};

/// Storages that runs are made in, by one word; the first is f32.
pub fn named_storages() -> [(&'static str, StorageConfig); 5] {
    use Format::Bf16;
    let of = |format, state, rounding| StorageConfig {
        params: format,
        gradients: format,
        state,
        rounding,
        ..StorageConfig::default()
    };
    [
        ("f32", StorageConfig::default()),
        ("bf16", of(Bf16, StateFormat::Bf16, Rounding::Stochastic)),
        ("bf16-master", of(Bf16, StateFormat::Bf16, Rounding::Nearest)),
        ("f16-master", of(Format::F16, StateFormat::Bf16, Rounding::Nearest)),
        ("q8", of(Bf16, StateFormat::Q8, Rounding::Stochastic)),
    ]
}

/// Storages that meet every format, mixed too, with a master, without, and rounded stochastically; the first is f32.
pub fn storages() -> Vec<StorageConfig> {
    use Format::{Bf16, F16, F32};
    let of = |params, gradients, state| StorageConfig { params, gradients, state, ..StorageConfig::default() };
    vec![
        StorageConfig::default(),
        of(Bf16, Bf16, StateFormat::Bf16),
        of(F16, F16, StateFormat::Q8),
        StorageConfig { rounding: Rounding::Stochastic, seed: 7, ..of(Bf16, Bf16, StateFormat::Bf16) },
        StorageConfig { rounding: Rounding::Stochastic, seed: 8, ..of(Bf16, F32, StateFormat::Q8) },
        StorageConfig { master: Some(Master::None), ..of(F16, Bf16, StateFormat::F32) },
        StorageConfig { master: Some(Master::None), ..of(Bf16, F16, StateFormat::F32) },
        of(F32, F16, StateFormat::Bf16),
        of(F32, F32, StateFormat::Q8),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{OptionValue, Options};

    /// What an option of storage takes, and which of it no storage of a list has.
    fn unmet(list: &[StorageConfig]) -> Vec<String> {
        let has = |key: &str, wanted: &OptionValue| {
            list.iter().flat_map(Options::options).any(|(own, value)| own == key && value.as_ref() == Some(wanted))
        };
        let mut unmet = Vec::new();
        for declared in StorageConfig::default().declarations() {
            let words = declared.takes.split('"').skip(1).step_by(2);
            // A master is what 16 bits have unless they say otherwise, so that nothing in it stands for "f32".
            let words = words.filter(|word| (declared.key, *word) != ("master", "f32"));
            unmet.extend(
                words.filter(|word| !has(declared.key, &(*word).into())).map(|w| format!("{} {w}", declared.key)),
            );
            if !declared.takes.contains('"')
                && list.iter().flat_map(Options::options).all(|(k, v)| k != declared.key || v == declared.default)
            {
                unmet.push(declared.key.to_owned());
            }
        }
        unmet
    }

    #[test]
    fn every_value_of_every_option_is_in_some_storage() {
        assert_eq!(unmet(&storages()), [""; 0]);
        assert_eq!(unmet(&storages()[..1]).len(), 9, "what meets nothing is told");
    }

    #[test]
    fn all_of_them_can_be_and_each_is_there_once() {
        let named = named_storages().map(|(_, storage)| storage);
        for list in [named.as_slice(), &storages()] {
            for (place, storage) in list.iter().enumerate() {
                storage.check().unwrap();
                assert!(!list[..place].contains(storage), "{storage:?}");
            }
            assert_eq!(list[0], StorageConfig::default());
        }
    }
}

//! Storages by one word, for what compares them.

use clap::ValueEnum;
use wgpu_optim::{StorageConfig, verify};

/// How parameters, gradients and state lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Storage {
    /// All in f32
    F32,
    /// All in bf16, parameters rounded stochastically
    Bf16,
    /// All in bf16, with f32 masters of the parameters
    Bf16Master,
    /// All in f16 but state in bf16, with f32 masters of the parameters
    F16Master,
    /// Parameters and gradients as bf16, state in 8 bits
    Q8,
}

impl Storage {
    fn named(self) -> (&'static str, StorageConfig) {
        let [f32, bf16, bf16_master, f16_master, q8] = verify::named_storages();
        match self {
            Self::F32 => f32,
            Self::Bf16 => bf16,
            Self::Bf16Master => bf16_master,
            Self::F16Master => f16_master,
            Self::Q8 => q8,
        }
    }

    pub fn name(self) -> &'static str {
        self.named().0
    }

    pub fn config(self) -> StorageConfig {
        self.named().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Theirs is the order of the list that they come from.
    #[test]
    fn words_of_the_command_line_are_the_storages_names() {
        for storage in Storage::value_variants() {
            assert_eq!(storage.to_possible_value().unwrap().get_name(), storage.name());
        }
    }
}

//! Storages by one word, for what compares them.

use clap::ValueEnum;
use wgpu_optim::{Format, Rounding, StateFormat, StorageConfig};

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
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Bf16Master => "bf16-master",
            Self::F16Master => "f16-master",
            Self::Q8 => "q8",
        }
    }

    pub fn config(self) -> StorageConfig {
        let of = |format, state, rounding| StorageConfig {
            params: format,
            gradients: format,
            state,
            rounding,
            ..StorageConfig::default()
        };
        match self {
            Self::F32 => StorageConfig::default(),
            Self::Bf16 => of(Format::Bf16, StateFormat::Bf16, Rounding::Stochastic),
            Self::Bf16Master => of(Format::Bf16, StateFormat::Bf16, Rounding::Nearest),
            Self::F16Master => of(Format::F16, StateFormat::Bf16, Rounding::Nearest),
            Self::Q8 => of(Format::Bf16, StateFormat::Q8, Rounding::Stochastic),
        }
    }
}

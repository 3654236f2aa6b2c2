//! Runs of the program, and files for them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use tempfile::TempDir;

pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program with those arguments and environment variables.
pub fn program(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpu-optim"));
    let output = command.args(arguments).envs(environment.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    // The program's own lines: drivers have their say on stderr too.
    let stderr = text(output.stderr).lines().filter(|l| !l.contains("XDG_RUNTIME_DIR")).collect::<Vec<_>>().join("\n");
    Outcome { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr }
}

/// The JSON that a run prints; the run must succeed.
pub fn json(arguments: &[&str]) -> serde_json::Value {
    let outcome = program(arguments, &[]);
    assert_eq!(outcome.code, 0, "{arguments:?}: {}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e} in {}", outcome.stdout))
}

/// A tensor of a file to write.
pub type Named = (String, Vec<usize>, Vec<f32>);

pub fn named(name: &str, shape: &[usize], values: &[f32]) -> Named {
    (name.to_owned(), shape.to_vec(), values.to_vec())
}

pub fn serialize(tensors: &[Named]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, shape, values)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

pub fn read(path: &Path) -> Vec<Named> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        assert_eq!(view.dtype(), Dtype::F32);
        (name, view.shape().to_vec(), f32s(view.data()))
    });
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

pub fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// A folder for a test's files, removed after it.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The path as an argument.
    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and gives its path as an argument.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), contents).unwrap();
        self.arg(name)
    }

    /// The names of all files in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

/// The bytes of a state or a checkpoint that says it is of another configuration.
pub fn changed_config(bytes: &[u8], config: &str) -> Vec<u8> {
    with_metadata(bytes, |metadata| {
        metadata.insert("config".to_owned(), config.to_owned());
    })
}

/// The bytes of a state or a checkpoint that does not say which configuration it is of, as earlier versions wrote it.
pub fn without_config(bytes: &[u8]) -> Vec<u8> {
    with_metadata(bytes, |metadata| {
        metadata.remove("config").unwrap();
        metadata.remove("extra:total_epochs");
    })
}

fn with_metadata(bytes: &[u8], change: impl FnOnce(&mut HashMap<String, String>)) -> Vec<u8> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    change(&mut metadata);
    safetensors::serialize(SafeTensors::deserialize(bytes).unwrap().tensors(), Some(metadata)).unwrap()
}

//! What a run that goes on may have otherwise than the one that it goes on from.

use std::path::Path;

use wgpu_optim::{Checkpoint, Difference, OptimizerConfig};

use crate::error::{Error, Result};

/// The tables of a configuration.
const TABLES: [&str; 8] = ["optimizer", "groups", "gradient", "weights", "ema", "noise", "storage", "schedule"];

/// What `--allow` names.
#[derive(Debug, Clone, Copy)]
pub struct Allowed<'a>(&'a [String]);

impl<'a> Allowed<'a> {
    /// The list of `--allow`: keys and tables of the configuration, and `own` words of the command's.
    ///
    /// # Errors
    /// A word is none of these, and so would allow nothing.
    pub fn new(list: &'a [String], own: &[&str]) -> Result<Self> {
        for word in list {
            let table = word.split(['.', '[']).next().unwrap_or_default();
            if !own.contains(&word.as_str()) && !TABLES.contains(&table) {
                let known = [own, &TABLES].concat().join(", ");
                return Err(Error::input(format!(
                    "--allow: {word:?} is nothing that can differ; there are {known}, and keys such as optimizer.lr"
                )));
            }
        }
        Ok(Self(list))
    }

    /// Whether that key, or a table that it stands in, is named.
    pub fn covers(&self, key: &str) -> bool {
        self.0.iter().any(|word| {
            let rest = key.strip_prefix(word.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }
}

/// The configuration that a file was written under, where it says so: files of earlier versions do not.
pub fn saved_config(path: &Path, bytes: &[u8]) -> Result<Option<OptimizerConfig>> {
    let text = Checkpoint::config_from_safetensors(bytes).map_err(|e| Error::from(e).about(path))?;
    let parse = |text: String| {
        toml::from_str(&text)
            .map_err(|e| Error::file(path, format!("the configuration in it cannot be read: {}", e.message())))
    };
    text.map(parse).transpose()
}

/// The configuration to load a file under that was written under `before`: stored as is `asked` for. What else differs
/// is for a reconfiguration, which cannot change the storage in the middle of a run.
pub fn stored_as(before: &OptimizerConfig, asked: &OptimizerConfig) -> OptimizerConfig {
    before.clone().storage(asked.storage.clone())
}

/// Something that differs: its key, and how a message tells it.
pub type Told = (String, String);

/// What a message tells of a configuration's differences.
pub fn told(differences: &[Difference]) -> Vec<Told> {
    differences.iter().map(|d| (d.key.clone(), d.to_string())).collect()
}

/// Refuses what differs and is not allowed to.
///
/// # Errors
/// Every such difference, and what would allow it.
pub fn check(path: &Path, differences: Vec<Told>, allowed: Allowed<'_>) -> Result<()> {
    let refused: Vec<_> = differences.into_iter().filter(|(key, _)| !allowed.covers(key)).collect();
    if refused.is_empty() {
        return Ok(());
    }
    // Shells take brackets for something of theirs, and a list's tables are told by their number: it goes as a whole.
    let mut keys: Vec<_> = refused.iter().map(|(key, _)| key.split('[').next().unwrap_or(key)).collect();
    keys.dedup();
    let words: Vec<_> = refused.iter().map(|(_, text)| text.as_str()).collect();
    Err(Error::file(
        path,
        format!(
            "is of another run: {}. Give what it was made with, or let it differ with --allow {}",
            words.join("; "),
            keys.join(",")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_covers_its_keys_and_no_others() {
        let list = ["gradient".to_owned(), "groups[1]".to_owned(), "optimizer.lr".to_owned(), "seed".to_owned()];
        let allowed = Allowed::new(&list, &["seed"]).unwrap();
        for key in ["gradient.accumulate", "groups[1].lr", "optimizer.lr", "seed"] {
            assert!(allowed.covers(key), "{key}");
        }
        for key in ["optimizer.lr_decay", "groups[10].lr", "groups[0].lr", "batch", "schedule.kind"] {
            assert!(!allowed.covers(key), "{key}");
        }
        let wrong = ["optimiser.lr".to_owned()];
        assert!(Allowed::new(&wrong, &["seed"]).unwrap_err().to_string().contains("optimiser.lr"));
        let other = ["seed".to_owned()];
        assert!(Allowed::new(&other, &[]).is_err(), "a word of another command's");
    }
}

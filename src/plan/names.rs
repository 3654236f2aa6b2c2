//! Names of tensors: each once, and each with entries of a file that are no other's.

use std::collections::HashMap;

use super::Plan;
use super::slots::{METADATA, scales_of, slot_key};
use crate::error::{Error, Result};
use crate::storage::StateFormat;

/// An entry of a file that a tensor has: its key, and the slot that it is of, or none for the parameters.
type Entry = (String, Option<&'static str>);

impl Plan {
    /// Refuses names under which a saved state could not be told apart from another's, or could not be read.
    pub(super) fn check_names(&self) -> Result<()> {
        for (tensor, planned) in self.tensors.iter().enumerate() {
            let name = planned.spec.name.as_str();
            if name == METADATA {
                return Err(Error::tensor(name, "safetensors files keep that name for themselves: it needs another"));
            }
            // One key of two tensors starts with the names of both, so one name with the other and a dot.
            for (at, _) in name.match_indices('.') {
                if let Some(owner) = self.tensor_named(&name[..at]) {
                    self.check_apart(owner, tensor)?;
                }
            }
        }
        Ok(())
    }

    fn check_apart(&self, owner: usize, tensor: usize) -> Result<()> {
        let owners: HashMap<_, _> = self.entries_of(owner).into_iter().collect();
        let [name, other] = [tensor, owner].map(|t| &self.tensors[t].spec.name);
        for (key, slot) in self.entries_of(tensor) {
            if let Some(theirs) = owners.get(&key) {
                let what =
                    |slot: &Option<&str>| slot.map_or("the parameters".to_owned(), |slot| format!("slot {slot:?}"));
                let problem = format!(
                    "a file would have {} of it and {} of tensor {other:?} both under {key:?}: one of the two tensors \
                     needs another name",
                    what(&slot),
                    what(theirs)
                );
                return Err(Error::tensor(name, problem));
            }
        }
        Ok(())
    }

    /// All that a file can hold of a tensor.
    fn entries_of(&self, tensor: usize) -> Vec<Entry> {
        let name = &self.tensors[tensor].spec.name;
        let mut entries = vec![(name.clone(), None)];
        if self.group_of(tensor).frozen {
            return entries;
        }
        entries.extend(self.slots_of(tensor).into_iter().map(|slot| (slot_key(name, slot.name), Some(slot.name))));
        let variant = self.variant_of(tensor);
        let scaled = variant.kept().zip(variant.formats()).filter(|(_, format)| *format == StateFormat::Q8);
        entries.extend(scaled.map(|(slot, _)| (scales_of(&slot_key(name, slot.name)), Some(slot.name))));
        entries
    }
}

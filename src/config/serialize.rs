//! The configuration out through serde, in the shape in which it is read.

use serde::ser::{SerializeStruct, Serializer};
use serde::{Serialize, ser::SerializeMap};

use super::OptimizerConfig;
use super::tables::{Table, Tables};

impl Serialize for OptimizerConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Tables { optimizer, groups, gradient, weights, ema, storage, schedule, then } = Tables::of(self);
        let has_weights = !weights.0.is_empty();
        let len = 4 + usize::from(!groups.is_empty()) + usize::from(has_weights) + usize::from(ema.is_some());
        let mut document = serializer.serialize_struct("OptimizerConfig", len)?;
        document.serialize_field("optimizer", &optimizer)?;
        if !groups.is_empty() {
            document.serialize_field("groups", &groups)?;
        }
        document.serialize_field("gradient", &gradient)?;
        if has_weights {
            document.serialize_field("weights", &weights)?;
        }
        if let Some(ema) = ema {
            document.serialize_field("ema", &ema)?;
        }
        document.serialize_field("storage", &storage)?;
        document.serialize_field("schedule", &Sequence { first: schedule, then })?;
        document.end()
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// A schedule, and those that take over from it.
struct Sequence {
    first: Table,
    then: Vec<Table>,
}

impl Serialize for Sequence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let then = (!self.then.is_empty()).then_some(&self.then);
        let mut table = serializer.serialize_map(Some(self.first.0.len() + usize::from(then.is_some())))?;
        for (key, value) in &self.first.0 {
            table.serialize_entry(key, value)?;
        }
        if let Some(then) = then {
            table.serialize_entry("then", then)?;
        }
        table.end()
    }
}

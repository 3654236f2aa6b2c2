//! The configuration out through serde, in the shape in which it is read.

use serde::ser::{SerializeStruct, Serializer};
use serde::{Serialize, ser::SerializeMap};

use super::OptimizerConfig;
use super::tables::{GroupTables, Sequence, Table, Tables};

impl Serialize for OptimizerConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Tables { optimizer, groups, gradient, weights, ema, noise, storage, schedule, schedules } =
            Tables::of(self);
        let has_weights = !weights.0.is_empty();
        let optional = [!groups.is_empty(), has_weights, ema.is_some(), noise.is_some(), !schedules.is_empty()];
        let len = 4 + optional.into_iter().filter(|is_there| *is_there).count();
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
        if let Some(noise) = noise {
            document.serialize_field("noise", &noise)?;
        }
        document.serialize_field("storage", &storage)?;
        document.serialize_field("schedule", &schedule)?;
        if !schedules.is_empty() {
            document.serialize_field("schedules", &ByOption(&schedules))?;
        }
        document.end()
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl Serialize for GroupTables {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { own, schedule, schedules } = self;
        let len = own.0.len() + usize::from(schedule.is_some()) + usize::from(!schedules.is_empty());
        let mut table = serializer.serialize_map(Some(len))?;
        for (key, value) in &own.0 {
            table.serialize_entry(key, value)?;
        }
        if let Some(schedule) = schedule {
            table.serialize_entry("schedule", schedule)?;
        }
        if !schedules.is_empty() {
            table.serialize_entry("schedules", &ByOption(schedules))?;
        }
        table.end()
    }
}

/// Schedules under the names of their options.
struct ByOption<'a>(&'a [(String, Sequence)]);

impl Serialize for ByOption<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, schedule)| (key, schedule)))
    }
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

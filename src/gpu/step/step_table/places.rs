//! Where what the step table holds starts, as arithmetic without a device.

use std::ops::RangeInclusive;

use crate::error::{Error, Result};
use crate::gpu::abi::{ROW_WORDS, RatesRow, TrackSource};
use crate::plan::Plan;

/// Rows of a ring that groups go by: steps that can be recorded and not yet known to be done.
pub const STEP_ROWS: u64 = 4096;

/// Rows of the ring of a tensor with a track of its own: as many as a budget for all tensors allows.
const OWN_ROWS: RangeInclusive<u64> = 16..=256;
const OWN_BUDGET: u64 = 87_381;

const TRACK_WORDS: u64 = (size_of::<TrackSource>() / 4) as u64;
const RATES_WORDS: u64 = (size_of::<RatesRow>() / 4) as u64;

/// How much of everything there is.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// That of `[optimizer]` among them.
    pub groups: u64,
    /// Groups whose scalars no group before them has.
    pub scalars: u64,
    /// Schedules of rates, the groups' own among them.
    pub schedules: u64,
    pub tensors: u64,
}

/// Where it starts, in words.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    pub rates_at: u64,
    pub factors_at: u64,
    /// Of the rings that groups go by.
    pub rows_at: u64,
    /// Of the rings of tensors with a track of their own, and the rows of each.
    pub own_at: u64,
    pub own_rows: u64,
    words: u64,
}

impl Counts {
    pub fn of(plan: &Plan) -> Self {
        let schedules = 1 + plan.groups.iter().filter(|group| group.schedule.is_some()).count();
        let counts = [plan.groups.len(), plan.scalars.first_groups().len(), schedules, plan.tensors.len()];
        let [groups, scalars, schedules, tensors] = counts.map(|count| count as u64);
        Self { groups, scalars, schedules, tensors }
    }

    /// What a binding of so many bytes does not hold, in words, with the most that it would.
    fn too_many(self, binding: u64) -> String {
        let Self { groups, scalars, tensors, .. } = self;
        let bytes = Places::with(self).bytes();
        let [none, one] = [0, 1].map(|scalars| Places::with(Self { scalars, ..self }).bytes());
        let most = match binding.saturating_sub(none) / (one - none) {
            0 => "fewer tensors or groups fit".to_owned(),
            most => format!("at most {most} groups with scalars of their own fit; others must share theirs"),
        };
        format!(
            "{groups} groups (the one of [optimizer] among them), {scalars} of them with scalars of their own (other \
             options than lr and weight_decay), and {tensors} tensors take {bytes} bytes, and the longest binding has \
             {binding}: {most}"
        )
    }
}

impl Places {
    pub fn of(plan: &Plan) -> Self {
        Self::with(Counts::of(plan))
    }

    pub fn with(counts: Counts) -> Self {
        let Counts { groups, scalars, schedules, tensors } = counts;
        let row = ROW_WORDS as u64;
        let fitting = OWN_BUDGET / tensors.max(1);
        let own_rows = fitting.clamp(*OWN_ROWS.start(), *OWN_ROWS.end());
        let rates_at = (groups + tensors) * TRACK_WORDS;
        let factors_at = rates_at + groups * RATES_WORDS;
        let rows_at = factors_at + schedules * STEP_ROWS;
        let own_at = rows_at + scalars * STEP_ROWS * row;
        Self { rates_at, factors_at, rows_at, own_at, own_rows, words: own_at + tensors * own_rows * row }
    }

    /// [`Places::with`], if one binding holds it.
    ///
    /// # Errors
    /// It does not; the error says how many groups would fit.
    pub fn within(counts: Counts, binding: u64) -> Result<Self> {
        let places = Self::with(counts);
        match places.bytes() <= binding {
            true => Ok(places),
            false => Err(Error::Device { what: "the step table".to_owned(), reason: counts.too_many(binding) }),
        }
    }

    pub fn bytes(self) -> u64 {
        self.words * 4
    }

    /// The first word of a ring that groups go by.
    pub fn ring(self, scalars: usize) -> u64 {
        self.rows_at + scalars as u64 * STEP_ROWS * ROW_WORDS as u64
    }

    /// The first word of a schedule's factors; the first is that of `[schedule]`.
    pub fn factors(self, schedule: usize) -> u64 {
        self.factors_at + schedule as u64 * STEP_ROWS
    }

    /// The first word of the ring of the so-and-so-many-th tensor with a track of its own.
    pub fn own_ring(self, own: usize) -> u64 {
        self.own_at + own as u64 * self.own_rows * ROW_WORDS as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Places};
    use crate::OptimizerConfig;
    use crate::config::Group;
    use crate::plan::Plan;
    use crate::rules::AdamW;
    use crate::tensor::TensorSpec;

    fn counts(groups: u64, scalars: u64, tensors: u64) -> Counts {
        Counts { groups, scalars, schedules: 1, tensors }
    }

    /// What an error says fits is the most that does.
    #[test]
    fn an_error_names_the_most_that_fits() {
        for (binding, tensors) in [(128u64 << 20, 670u64), (128 << 20, 1), (1 << 30, 100_000)] {
            let groups = 1 << 14;
            let error = Places::within(counts(groups, groups, tensors), binding).unwrap_err().to_string();
            let words = error.split("at most ").nth(1).unwrap_or_else(|| panic!("{error}"));
            let most: u64 = words.split(' ').next().unwrap().parse().unwrap();
            assert!(Places::with(counts(groups, most, tensors)).bytes() <= binding, "{most} of {binding}");
            assert!(Places::with(counts(groups, most + 1, tensors)).bytes() > binding, "{most} of {binding}");
        }
        let error = Places::within(counts(2, 2, 100_000), 1 << 20).unwrap_err().to_string();
        assert!(error.contains("fewer tensors or groups fit"), "{error}");
    }

    /// Groups that differ in rate and decay have scalars in common, and then cost next to nothing.
    #[test]
    fn a_group_that_shares_its_scalars_takes_less_than_two_kibibytes() {
        let specs: Vec<_> = (0..1000).map(|t| TensorSpec::new(format!("t{t}"), [3])).collect();
        let plan = |groups: usize, key: &str| {
            let group = |t: usize| Group::matching(format!("t{t}")).set(key, 1e-3 * (t + 1) as f64 / 1000.0);
            let config = (0..groups).map(group).fold(OptimizerConfig::new(AdamW::default()), OptimizerConfig::group);
            Counts::of(&Plan::new(&config, &specs).unwrap())
        };
        for key in ["lr", "weight_decay"] {
            let [one, many] = [1, 1000].map(|groups| Places::with(plan(groups, key)).bytes());
            let each = (many - one) / 999;
            assert!(each < 2048, "{key}: {each} bytes a group");
        }
        assert_eq!(plan(1000, "eps").scalars, 1001);
    }
}

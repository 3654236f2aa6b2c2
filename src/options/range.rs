//! The numbers that options take, stated beside their defaults in [`options!`](crate::options!).

use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::ops::RangeBounds as _;

use super::{OptionError, OptionField, OptionValue};

const LARGEST: f64 = f32::MAX as f64;

/// A run of numbers, in words too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    low: Bound<f64>,
    high: Bound<f64>,
    words: &'static str,
    told: &'static str,
}

/// Finite: within f32.
pub const FINITE: Range = Range::new(Included(-LARGEST), Included(LARGEST), "finite").told("a finite number");

/// Finite and at least 0.
pub const NON_NEGATIVE: Range =
    Range::new(Included(0.0), Included(LARGEST), "finite, at least 0").told("a finite number, at least 0");

/// Finite and above 0.
pub const POSITIVE: Range =
    Range::new(Excluded(0.0), Included(LARGEST), "finite, above 0").told("a finite number above 0");

/// A term that keeps a denominator from zero. GPUs compute in f32 and may flush subnormal numbers, so it must be a
/// normal f32.
pub const DIVISOR: Range = Range::new(Included(f32::MIN_POSITIVE as f64), Included(LARGEST), "normal")
    .told("a normal f32 above 0 (1.2e-38 to 3.4e38), since it divides");

/// At least 0 and below 1: what a moving average keeps of what is old.
pub const RATE: Range = Range::new(Included(0.0), Excluded(1.0), "at least 0, below 1").told("at least 0 and below 1");

/// Above 0 and below 1: a factor that shrinks.
pub const FRACTION: Range = Range::new(Excluded(0.0), Excluded(1.0), "above 0, below 1").told("above 0 and below 1");

/// At least 1: a count that must not be 0.
pub const AT_LEAST_ONE: Range = Range::new(Included(1.0), Unbounded, "at least 1");

/// A list of steps that does not fall.
pub const RISING: Allowed = Allowed::Rising;

impl Range {
    /// The numbers between two bounds, with the words of documentation: `"at least 0, below 1"`.
    pub const fn new(low: Bound<f64>, high: Bound<f64>, words: &'static str) -> Self {
        Self { low, high, words, told: words }
    }

    /// The same range, with other words after "must be" in an error.
    pub const fn told(mut self, told: &'static str) -> Self {
        self.told = told;
        self
    }

    /// Whether the number is one of them.
    pub fn contains(&self, number: f64) -> bool {
        (self.low, self.high).contains(&number)
    }

    /// Whether an option of that name may have the number.
    ///
    /// # Errors
    /// It is out of range; the error says what is allowed.
    pub fn check(&self, key: &str, number: f64) -> Result<(), OptionError> {
        self.check_as(key, "", number, false)
    }

    fn check_as(&self, key: &str, place: &str, number: f64, whole: bool) -> Result<(), OptionError> {
        if self.contains(number) {
            return Ok(());
        }
        let got = if whole { number.to_string() } else { format!("{number:?}") };
        Err(OptionError::new(key, format!("{place}must be {}, got {got}", self.told)))
    }
}

/// What an option takes: a range makes one of every number that it has, an array of ranges one of each in turn.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Allowed {
    /// Every number lies in the range.
    Each(Range),
    /// The first number in the first range, and so on.
    InTurn(Vec<Range>),
    /// Steps that do not fall, one at least.
    Rising,
}

impl From<Range> for Allowed {
    fn from(range: Range) -> Self {
        Self::Each(range)
    }
}

impl<const N: usize> From<[Range; N]> for Allowed {
    fn from(ranges: [Range; N]) -> Self {
        Self::InTurn(ranges.to_vec())
    }
}

const PLACES: [&str; 4] = ["the first", "the second", "the third", "the fourth"];

impl Allowed {
    /// Whether an option may have its value. What is off, a word or a table has no range here.
    ///
    /// # Errors
    /// It is out of range; the error says what is allowed.
    pub fn check<T: OptionField>(&self, key: &str, value: &T) -> Result<(), OptionError> {
        let numbers = match value.to_value() {
            Some(OptionValue::Numbers(list)) => list,
            Some(value) => value.number().into_iter().collect(),
            None => return Ok(()),
        };
        match self {
            Self::Each(range) => numbers.iter().try_for_each(|n| range.check_as(key, "", *n, T::WHOLE)),
            Self::InTurn(ranges) => {
                let places = PLACES.iter().map(|place| format!("{place} ")).chain(std::iter::repeat(String::new()));
                let mut all = numbers.iter().zip(ranges).zip(places);
                all.try_for_each(|((n, range), place)| range.check_as(key, &place, *n, T::WHOLE))
            }
            Self::Rising if numbers.is_empty() || !numbers.is_sorted() => {
                Err(OptionError::new(key, "must be a rising list of steps"))
            }
            Self::Rising => Ok(()),
        }
    }

    fn words(&self, whole: bool, list: bool) -> String {
        let whole = if whole { "whole, " } else { "" };
        match self {
            Self::Each(range) if list => format!("each {whole}{}", range.words),
            Self::Each(range) => format!("{whole}{}", range.words),
            Self::InTurn(ranges) => {
                let count = ["no numbers", "one number", "two numbers", "three numbers", "four numbers"];
                let count = count.get(ranges.len()).copied().unwrap_or("numbers");
                let places = PLACES.into_iter().chain(std::iter::repeat("the next"));
                let parts: Vec<_> =
                    places.zip(ranges).map(|(place, range)| format!("{place} {}", range.words)).collect();
                format!("{count}: {}", parts.join(", "))
            }
            Self::Rising => "a rising list of whole numbers".to_owned(),
        }
    }
}

/// An option as it is declared.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Declaration {
    /// Its name.
    pub key: &'static str,
    /// Its default, `None` where it is off.
    pub default: Option<OptionValue>,
    /// What it takes, in words: `"finite, at least 0"`.
    pub takes: String,
}

impl Declaration {
    /// The option of that name, default and range.
    pub fn new<T: OptionField>(key: &'static str, default: &T, allowed: Option<&Allowed>) -> Self {
        let default = default.to_value();
        let list = matches!(default, Some(OptionValue::Numbers(_)));
        let takes = match allowed {
            Some(allowed) => allowed.words(T::WHOLE, list),
            None if T::WHOLE && !list => "whole, at least 0".to_owned(),
            None => T::EXPECTED.to_owned(),
        };
        Self { key, default, takes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::options! {
        /// One option of each shape.
        pub struct Shapes {
            /// A number.
            pub number: f64 = 1.0, in POSITIVE,
            /// A list with one range.
            pub list: [f64; 2] = [0.5, 0.5], in RATE,
            /// A list with two.
            pub pair: [f64; 2] = [0.5, 2.0], in [FRACTION, FINITE],
            /// A count.
            pub count: u64 = 1, in AT_LEAST_ONE,
            /// Off.
            pub off: Option<f64> = None, in DIVISOR,
            /// Steps.
            pub steps: Vec<u64> = vec![1], in RISING,
            /// Anything.
            pub free: f64 = 0.0,
            /// Likewise.
            pub plain: u64 = 0,
            /// A switch.
            pub switch: bool = false,
        }
    }

    #[test]
    fn ranges_are_told_in_words() {
        use crate::options::Options as _;
        let takes: Vec<_> = Shapes::default().declarations().into_iter().map(|d| (d.key, d.takes)).collect();
        let words = [
            ("number", "finite, above 0"),
            ("list", "each at least 0, below 1"),
            ("pair", "two numbers: the first above 0, below 1, the second finite"),
            ("count", "whole, at least 1"),
            ("off", "normal"),
            ("steps", "a rising list of whole numbers"),
            ("free", "a number"),
            ("plain", "whole, at least 0"),
            ("switch", "true or false"),
        ];
        assert_eq!(takes, words.map(|(key, takes)| (key, takes.to_owned())));
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_key_and_place() {
        use crate::options::Options as _;
        let told = |shapes: Shapes| shapes.check_ranges().unwrap_err().to_string();
        let sound = Shapes::default;
        sound().check_ranges().unwrap();
        Shapes { free: f64::NAN, off: Some(1.0), ..sound() }.check_ranges().unwrap();
        assert_eq!(told(Shapes { number: f64::NAN, ..sound() }), "number: must be a finite number above 0, got NaN");
        assert_eq!(told(Shapes { list: [0.5, 1.0], ..sound() }), "list: must be at least 0 and below 1, got 1.0");
        assert_eq!(
            told(Shapes { pair: [1.5, 2.0], ..sound() }),
            "pair: the first must be above 0 and below 1, got 1.5"
        );
        let infinite = Shapes { pair: [0.5, f64::INFINITY], ..sound() };
        assert_eq!(told(infinite), "pair: the second must be a finite number, got inf");
        assert_eq!(told(Shapes { count: 0, ..sound() }), "count: must be at least 1, got 0");
        assert!(told(Shapes { off: Some(0.0), ..sound() }).starts_with("off: must be a normal f32"));
        for steps in [vec![], vec![2, 1]] {
            assert_eq!(told(Shapes { steps, ..sound() }), "steps: must be a rising list of steps");
        }
    }
}

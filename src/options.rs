//! Options by name: what lets a configuration file, a parameter group and a listing speak of any
//! struct's fields with one set of error messages.

pub mod range;

use std::collections::BTreeMap;

use range::Declaration;

/// The value of an option, as configuration files write it.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(untagged))]
#[non_exhaustive]
pub enum OptionValue {
    /// `true` or `false`.
    Bool(bool),
    /// Any number; whole numbers are numbers too.
    Number(f64),
    /// A whole number that an `f64` would round.
    Whole(u64),
    /// A list of numbers, such as `betas`.
    Numbers(Vec<f64>),
    /// A word, such as `on_nonfinite = "skip"`.
    Text(String),
    /// Numbers by name, such as a dynamic `loss_scale`.
    Table(BTreeMap<String, f64>),
}

/// What a value that is of no use is told.
#[cfg(feature = "serde")]
const EXPECTED: &str = "true or false, a number, a list of numbers, a string or a table of numbers";

/// By hand, for an error that says what is allowed.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for OptionValue {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

#[cfg(feature = "serde")]
struct ValueVisitor;

#[cfg(feature = "serde")]
impl<'de> serde::de::Visitor<'de> for ValueVisitor {
    type Value = OptionValue;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_bool<E>(self, v: bool) -> Result<OptionValue, E> {
        Ok(OptionValue::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<OptionValue, E> {
        Ok(u64::try_from(v).map_or(OptionValue::Number(v as f64), OptionValue::whole))
    }

    fn visit_u64<E>(self, v: u64) -> Result<OptionValue, E> {
        Ok(OptionValue::whole(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<OptionValue, E> {
        Ok(OptionValue::Number(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<OptionValue, E> {
        Ok(OptionValue::Text(v.to_owned()))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<OptionValue, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = list.next_element().map_err(|_| unexpected::<A::Error>("another list"))? {
            numbers.push(number);
        }
        Ok(OptionValue::Numbers(numbers))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut table: A) -> Result<OptionValue, A::Error> {
        let mut numbers = BTreeMap::new();
        // Formats hand values of their own, such as dates, over as tables too.
        while let Some((key, number)) = table.next_entry().map_err(|_| unexpected::<A::Error>("another value"))? {
            numbers.insert(key, number);
        }
        Ok(OptionValue::Table(numbers))
    }
}

#[cfg(feature = "serde")]
fn unexpected<E: serde::de::Error>(found: &str) -> E {
    E::custom(format_args!("expected {EXPECTED}, got {found}"))
}

impl std::fmt::Display for OptionValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bool(v) => write!(f, "{v}"),
            Self::Number(v) => write!(f, "{v:?}"),
            Self::Whole(v) => write!(f, "{v}"),
            Self::Numbers(v) => write!(f, "{v:?}"),
            Self::Text(v) => write!(f, "{v:?}"),
            Self::Table(v) => write!(f, "{v:?}"),
        }
    }
}

impl OptionValue {
    fn whole(v: u64) -> Self {
        match v as f64 {
            // The cast back saturates, so what was rounded up to 2^64 is told apart.
            x if x < TWO_TO_64 && x as u64 == v => Self::Number(x),
            _ => Self::Whole(v),
        }
    }

    /// The number, or the list of numbers, that was written so.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let number = |text: &str| text.trim().parse::<f64>().ok();
        match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            Some(list) => list.split(',').map(number).collect::<Option<_>>().map(Self::Numbers),
            None => text.parse().map_or_else(|_| number(text).map(Self::Number), |whole| Some(Self::whole(whole))),
        }
    }

    /// The number that it is, rounded if it must be.
    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(v) => Some(*v),
            Self::Whole(v) => Some(*v as f64),
            _ => None,
        }
    }
}

const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;

impl From<f64> for OptionValue {
    fn from(v: f64) -> Self {
        Self::Number(v)
    }
}
impl From<bool> for OptionValue {
    fn from(v: bool) -> Self {
        Self::Bool(v)
    }
}
impl From<&str> for OptionValue {
    fn from(v: &str) -> Self {
        Self::Text(v.to_owned())
    }
}
impl<const N: usize> From<[f64; N]> for OptionValue {
    fn from(v: [f64; N]) -> Self {
        Self::Numbers(v.to_vec())
    }
}

/// Why an option was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct OptionError {
    /// The option's name.
    pub key: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl OptionError {
    /// An error about `key`.
    pub fn new(key: &str, problem: impl Into<String>) -> Self {
        Self { key: key.to_owned(), problem: problem.into() }
    }
}

/// A struct whose fields can be listed and set by name. [`options!`](crate::options!) writes it.
pub trait Options {
    /// Every option with its present value, in the order of declaration. An option that is off by
    /// default and not set has none.
    fn options(&self) -> Vec<(&'static str, Option<OptionValue>)>;

    /// Sets one option.
    ///
    /// # Errors
    /// The key is unknown (the error lists those that exist) or the value has the wrong type.
    fn set_option(&mut self, key: &str, value: &OptionValue) -> Result<(), OptionError>;

    /// Every option as it is declared: its default, and what it takes.
    fn declarations(&self) -> Vec<Declaration>;

    /// Whether every option lies in its range.
    ///
    /// # Errors
    /// The first that does not, and what is allowed.
    fn check_ranges(&self) -> Result<(), OptionError>;
}

/// A type that an option's field may have.
pub trait OptionField: Sized {
    /// What a value must look like, for messages: "a number".
    const EXPECTED: &'static str;
    /// Whether its numbers are whole.
    const WHOLE: bool = false;
    /// The field's value from a configuration's, if it has the right type.
    fn from_value(value: &OptionValue) -> Option<Self>;
    /// The configuration's value for the field, `None` where it is off.
    fn to_value(&self) -> Option<OptionValue>;
}

impl OptionField for f64 {
    const EXPECTED: &'static str = "a number";
    fn from_value(value: &OptionValue) -> Option<Self> {
        value.number()
    }
    fn to_value(&self) -> Option<OptionValue> {
        Some(OptionValue::Number(*self))
    }
}

impl OptionField for u64 {
    const EXPECTED: &'static str = "a whole number, at least 0";
    const WHOLE: bool = true;
    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Number(v) if v.fract() == 0.0 && (0.0..TWO_TO_64).contains(v) => Some(*v as u64),
            OptionValue::Whole(v) => Some(*v),
            _ => None,
        }
    }
    fn to_value(&self) -> Option<OptionValue> {
        Some(OptionValue::whole(*self))
    }
}

impl OptionField for bool {
    const EXPECTED: &'static str = "true or false";
    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Bool(v) => Some(*v),
            _ => None,
        }
    }
    fn to_value(&self) -> Option<OptionValue> {
        Some(OptionValue::Bool(*self))
    }
}

impl<const N: usize> OptionField for [f64; N] {
    const EXPECTED: &'static str = match N {
        2 => "a list of two numbers",
        3 => "a list of three numbers",
        _ => "a list of numbers of the right length",
    };
    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Numbers(v) => v.as_slice().try_into().ok(),
            _ => None,
        }
    }
    fn to_value(&self) -> Option<OptionValue> {
        Some(OptionValue::Numbers(self.to_vec()))
    }
}

impl OptionField for Vec<u64> {
    const EXPECTED: &'static str = "a list of whole numbers";
    const WHOLE: bool = true;
    fn from_value(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Numbers(v) => v.iter().map(|x| u64::from_value(&OptionValue::Number(*x))).collect(),
            _ => None,
        }
    }
    fn to_value(&self) -> Option<OptionValue> {
        // Steps of a run: none comes near 2^53, from where on a float would round them.
        Some(OptionValue::Numbers(self.iter().map(|x| *x as f64).collect()))
    }
}

impl<T: OptionField> OptionField for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    const WHOLE: bool = T::WHOLE;
    fn from_value(value: &OptionValue) -> Option<Self> {
        T::from_value(value).map(Some)
    }
    fn to_value(&self) -> Option<OptionValue> {
        self.as_ref().and_then(T::to_value)
    }
}

/// Declares a struct of options: its fields, their types, their defaults and, after `in`, the
/// [`range`] of their numbers, once. It gets `Default` and [`Options`] from the one declaration.
///
/// ```
/// use wgpu_optim::Options as _;
/// use wgpu_optim::options::range::{NON_NEGATIVE, RATE};
///
/// wgpu_optim::options! {
///     /// A rule of my own.
///     pub struct Mine {
///         /// Learning rate.
///         pub lr: f64 = 1e-3, in NON_NEGATIVE,
///         /// Shares of what is old.
///         pub betas: [f64; 2] = [0.9, 0.999], in RATE,
///         /// Any number at all.
///         pub free: f64 = 0.0,
///     }
/// }
/// assert_eq!(Mine::default().lr, 1e-3);
/// let error = Mine { lr: -1.0, ..Mine::default() }.check_ranges().unwrap_err();
/// assert_eq!(error.to_string(), "lr: must be a finite number, at least 0, got -1.0");
/// ```
///
/// A list may have a range for each of its numbers, as in `in [FRACTION, FINITE]`. What has no range takes every value of
/// its type. An option that is off is in range.
#[macro_export]
macro_rules! options {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $ty:ty = $default:expr, $(in $range:expr,)?)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $crate::Options for $name {
            fn options(&self) -> Vec<(&'static str, Option<$crate::OptionValue>)> {
                vec![$((stringify!($field), $crate::OptionField::to_value(&self.$field)),)*]
            }

            fn set_option(
                &mut self,
                key: &str,
                value: &$crate::OptionValue,
            ) -> Result<(), $crate::OptionError> {
                // Without options it is not read.
                let _ = value;
                match key {
                    $(stringify!($field) => {
                        self.$field = <$ty as $crate::OptionField>::from_value(value).ok_or_else(|| {
                            $crate::OptionError::new(
                                key,
                                format!("expected {}, got {value}", <$ty as $crate::OptionField>::EXPECTED),
                            )
                        })?;
                        Ok(())
                    })*
                    _ => Err($crate::OptionError::new(
                        key,
                        $crate::options::unknown_key(&[$(stringify!($field)),*]),
                    )),
                }
            }

            fn declarations(&self) -> Vec<$crate::options::range::Declaration> {
                let defaults = Self::default();
                // Without options it is not read.
                let _ = &defaults;
                vec![$({
                    let allowed: &[$crate::options::range::Allowed] = &[$($range.into())?];
                    $crate::options::range::Declaration::new(stringify!($field), &defaults.$field, allowed.first())
                },)*]
            }

            fn check_ranges(&self) -> Result<(), $crate::OptionError> {
                $($($crate::options::range::Allowed::from($range).check(stringify!($field), &self.$field)?;)?)*
                Ok(())
            }
        }
    };
}

/// Makes an option of an enum whose values are words.
macro_rules! words {
    ($type:ident: $expected:literal { $($word:literal => $value:ident),* $(,)? }) => {
        impl $type {
            /// As configurations spell it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$value => $word),* }
            }
        }

        impl $crate::options::OptionField for $type {
            const EXPECTED: &'static str = $expected;
            fn from_value(value: &$crate::options::OptionValue) -> Option<Self> {
                match value {
                    $crate::options::OptionValue::Text(text) => match text.as_str() {
                        $($word => Some(Self::$value),)*
                        _ => None,
                    },
                    _ => None,
                }
            }
            fn to_value(&self) -> Option<$crate::options::OptionValue> {
                Some($crate::options::OptionValue::from(self.name()))
            }
        }
    };
}
pub(crate) use words;

/// What an error says of a key that is not among `allowed`.
#[doc(hidden)]
pub fn unknown_key(allowed: &[&str]) -> String {
    match allowed {
        [] => "unknown key; none is allowed here".to_owned(),
        _ => format!("unknown key; allowed are {}", allowed.join(", ")),
    }
}

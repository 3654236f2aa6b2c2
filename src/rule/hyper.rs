//! The scalars of a step: computed by a rule on the host in f64, read by its maths.

/// Scalars a rule may hand from the host to its maths, per step.
pub const MAX_SCALARS: usize = 12;

/// The scalars of one step in the order of [`Rule::scalar_names`](crate::rule::Rule::scalar_names); the
/// rest is zero.
pub type Scalars = [f64; MAX_SCALARS];

/// Named scalars of a step, made from a row.
pub trait HyperRow<F>: Copy {
    /// Reads the row in the order of declaration.
    fn from_row(row: &Scalars) -> Self;
}

/// Declares the scalars that a rule hands to its maths: a struct generic over the number type, with
/// its names for the shader and its conversion to and from a table row.
#[macro_export]
macro_rules! hyper {
    ($(#[$meta:meta])* pub struct $name:ident { $($field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name<F> { $(#[allow(missing_docs)] pub $field: F,)* }

        impl $name<f64> {
            /// Members in order, as the WGSL `Hyper` names them.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            /// The row of the step table.
            pub fn row(self) -> $crate::Scalars {
                let mut row = [0.0; $crate::MAX_SCALARS];
                let values = [$(self.$field),*];
                row[..values.len()].copy_from_slice(&values);
                row
            }
        }

        impl<F: $crate::Float> $crate::HyperRow<F> for $name<F> {
            fn from_row(row: &$crate::Scalars) -> Self {
                let mut values = row.iter().map(|x| F::of(*x));
                // One value for each field: a row has at least as many.
                Self { $($field: values.next().unwrap_or_else(F::zero),)* }
            }
        }
    };
}

//! The declaration of a rule beside its options and its maths.

/// Writes [`Rule`](crate::Rule) for a struct of options that has an `lr`, from what sets it apart. Within, the rule goes by
/// the name after `as`. Keys stand in this order; those from `constants` to `check` may be left out, and are then
/// what [`Rule`](crate::Rule) provides.
///
/// `scalars` names a struct and gives its members: it is declared for numbers of any type, as [`hyper!`](crate::hyper!)
/// does, and is what [`Twin::Hyper`](crate::Twin::Hyper) and the WGSL's `Hyper` are made of. The step and the learning rate
/// stand between the bars. After `=` instead of the members comes an expression of a struct declared elsewhere.
///
/// ```
/// use wgpu_optim::prelude::*;
///
/// wgpu_optim::options! {
///     /// `u = g / (|g| + eps)`: nearly the sign of the gradient.
///     pub struct SoftSign {
///         /// Learning rate.
///         pub lr: f64 = 1e-3, in NON_NEGATIVE,
///         /// Gradients far above it count as ±1.
///         pub eps: f64 = 1e-8, in DIVISOR,
///     }
/// }
///
/// wgpu_optim::rule! { SoftSign as rule {
///     name: "soft_sign",
///     reference: "an example",
///     decay: Decay::Decoupled(0.0),
///     slots: [],
///     wgsl: "struct Hyper { eps: f32, }
///            fn direction(e: Element, s: ptr<function, State>, h: Hyper) -> vec4<f32> {
///                return e.g / (abs(e.g) + h.eps);
///            }",
///     scalars: |_, _| SoftSignHyper { eps: rule.eps },
/// } }
///
/// impl Twin for SoftSign {
///     type State<F: Float> = [F; 0];
///     type Hyper<F: Float> = SoftSignHyper<F>;
///     fn direction<F: Float>(&self, e: Element<F>, _s: &mut [F; 0], h: &SoftSignHyper<F>) -> F {
///         e.g / (e.g.abs() + h.eps)
///     }
/// }
///
/// assert_eq!(SoftSign::default().scalars(1, 1e-3)[0], 1e-8);
/// assert_eq!(SoftSign::default().scalar_names(), ["eps"]);
/// ```
#[macro_export]
macro_rules! rule {
    ($type:ident as $rule:ident {
        name: $name:expr,
        reference: $reference:expr,
        decay: $decay:expr,
        slots: $slots:expr,
        $(constants: $constants:expr,)?
        $(reduction: $reduction:expr,)?
        $(takes_any_gradient: $takes_any:expr,)?
        $(scaled_by_lr: $scaled:expr,)?
        $(scalars_use_lr: $use_lr:expr,)?
        $(check: $check:expr,)?
        wgsl: $wgsl:expr,
        scalars: |$step:pat_param, $lr:pat_param| $hyper:ident $($scalars:tt)+
    }) => {
        $crate::rule! { @declare $type $hyper $($scalars)+ }

        impl $crate::Rule for $type {
            fn name(&self) -> &'static str {
                $name
            }
            fn reference(&self) -> &'static str {
                $reference
            }
            fn lr(&self) -> f64 {
                self.lr
            }
            fn decay(&self) -> $crate::Decay {
                let $rule = self;
                // Not every rule looks at its options in each of these.
                let _ = $rule;
                $decay
            }
            fn slots(&self) -> Vec<$crate::Slot> {
                let $rule = self;
                let _ = $rule;
                Vec::from($slots)
            }
            $(fn constants(&self) -> Vec<(&'static str, bool)> {
                let $rule = self;
                Vec::from($constants)
            })?
            $(fn reduction(&self) -> $crate::Reduction {
                $reduction
            })?
            $(fn takes_any_gradient(&self) -> bool {
                $takes_any
            })?
            $(fn scaled_by_lr(&self) -> bool {
                $scaled
            })?
            $(fn scalars_use_lr(&self) -> bool {
                $use_lr
            })?
            $(fn check(&self) -> Result<(), $crate::OptionError> {
                $check(self)
            })?
            fn wgsl(&self) -> &str {
                $wgsl
            }
            fn scalar_names(&self) -> &'static [&'static str] {
                $hyper::NAMES
            }
            fn scalars(&self, $step: u64, $lr: f64) -> $crate::Scalars {
                let $rule = self;
                let _ = $rule;
                let hyper: $hyper<f64> = $crate::rule! { @made $hyper $($scalars)+ };
                hyper.row()
            }
            fn boxed(&self) -> Box<dyn $crate::Rule> {
                Box::new(self.clone())
            }
        }
    };
    // The struct of scalars, where the rule has its own.
    (@declare $type:ident $hyper:ident { $($scalar:ident: $value:expr),* $(,)? } $(,)?) => {
        $crate::hyper! {
            #[doc = concat!("Scalars of [`", stringify!($type), "`].")]
            pub struct $hyper { $($scalar,)* }
        }
    };
    (@declare $type:ident $hyper:ident = $made:expr $(,)?) => {};
    // Its value.
    (@made $hyper:ident { $($scalar:ident: $value:expr),* $(,)? } $(,)?) => {
        $hyper { $($scalar: $value,)* }
    };
    (@made $hyper:ident = $made:expr $(,)?) => {
        $made
    };
}

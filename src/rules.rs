//! The one list of rules.

use crate::rule::Rule;

mod adabelief;
mod adadelta;
mod adafactor;
mod adagrad;
mod adam;
mod adamax;
mod adamw;
mod adan;
mod lamb;
mod lars;
mod lion;
mod momentum;
mod nadam;
mod radam;
mod rmsprop;
mod rprop;
mod schedule_free_adamw;
mod sgd;
mod yogi;

pub use adabelief::AdaBelief;
pub use adadelta::Adadelta;
pub use adafactor::Adafactor;
pub use adagrad::Adagrad;
pub use adam::Adam;
pub use adamax::Adamax;
pub use adamw::AdamW;
pub use adan::Adan;
pub use lamb::Lamb;
pub use lars::Lars;
pub use lion::Lion;
pub use momentum::Momentum;
pub use nadam::NAdam;
pub use radam::RAdam;
pub use rmsprop::RmsProp;
pub use rprop::Rprop;
pub use schedule_free_adamw::ScheduleFreeAdamW;
pub use sgd::Sgd;
pub use yogi::Yogi;

/// Every rule of the library with its default options, in the order of the documentation.
pub fn all() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(Sgd::default()),
        Box::new(Momentum::default()),
        Box::new(Adagrad::default()),
        Box::new(Adadelta::default()),
        Box::new(RmsProp::default()),
        Box::new(Adam::default()),
        Box::new(AdamW::default()),
        Box::new(Adamax::default()),
        Box::new(NAdam::default()),
        Box::new(RAdam::default()),
        Box::new(Rprop::default()),
        Box::new(Lion::default()),
        Box::new(AdaBelief::default()),
        Box::new(Yogi::default()),
        Box::new(Adan::default()),
        Box::new(Lamb::default()),
        Box::new(Lars::default()),
        Box::new(Adafactor::default()),
        Box::new(ScheduleFreeAdamW::default()),
    ]
}

/// The rule of that name with its default options.
///
/// # Errors
/// [`Error::UnknownRule`](crate::error::Error::UnknownRule), listing the names there are.
pub fn by_name(name: &str) -> crate::error::Result<Box<dyn Rule>> {
    let all = all();
    let known: Vec<_> = all.iter().map(|r| r.name()).collect();
    let known = known.join(", ");
    all.into_iter()
        .find(|rule| rule.name() == name)
        .ok_or_else(|| crate::error::Error::UnknownRule { name: name.to_owned(), known })
}

/// Whether the rule's code is this library's own. By its type, which nobody else can give to a rule: another crate's may
/// have the name and the text of ours, and slots by any name, which stand in the text too.
pub(crate) fn is_ours(rule: &dyn Rule) -> bool {
    all().iter().any(|ours| ours.type_of_rule() == rule.type_of_rule())
}

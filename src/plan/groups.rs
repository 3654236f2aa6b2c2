//! Which tensors belong to which group.

use crate::config::{Glob, OptimizerConfig};
use crate::error::{Error, Result};
use crate::tensor::TensorSpec;

/// What chooses a group's tensors: its glob, and its text as it stands, so that a name with brackets in it can be
/// written as it is.
struct Selector<'a> {
    text: &'a str,
    glob: Result<Glob, String>,
}

impl Selector<'_> {
    fn is_match(&self, name: &str) -> bool {
        self.text == name || self.glob.as_ref().is_ok_and(|glob| glob.is_match(name))
    }
}

/// By tensor its group, 0 where none claims it. Where `may_be_empty`, groups may have lost their tensors.
///
/// # Errors
/// A group without a tensor, and why it has none.
pub fn groups_of(config: &OptimizerConfig, specs: &[TensorSpec], may_be_empty: bool) -> Result<Vec<usize>> {
    let selector = |text| Selector { text, glob: Glob::new(text) };
    let selectors: Vec<_> = config.groups.iter().map(|group| selector(group.pattern.as_str())).collect();
    let first = |spec: &TensorSpec| selectors.iter().position(|s| s.is_match(&spec.name)).map_or(0, |i| i + 1);
    let groups: Vec<usize> = specs.iter().map(first).collect();
    let mut has_any = vec![false; selectors.len() + 1];
    groups.iter().for_each(|group| has_any[*group] = true);
    let empty = has_any.iter().skip(1).position(|any| !any).filter(|_| !may_be_empty);
    match empty {
        Some(empty) => Err(why_empty(&selectors, empty, specs, &groups)),
        None => Ok(groups),
    }
}

fn why_empty(selectors: &[Selector<'_>], empty: usize, specs: &[TensorSpec], groups: &[usize]) -> Error {
    let selector = &selectors[empty];
    let mut owners: Vec<_> = specs
        .iter()
        .zip(groups)
        .filter(|(spec, _)| selector.is_match(&spec.name))
        .map(|(_, group)| group - 1)
        .collect();
    owners.sort_unstable();
    owners.dedup();
    let problem = match (&selector.glob, owners.as_slice()) {
        (Err(problem), _) => problem.clone(),
        (_, []) => "matches no tensor".to_owned(),
        (_, [owner]) if selectors[*owner].text == selector.text => {
            "is given twice, and the first has all its tensors".to_owned()
        }
        (_, owners) => {
            let owners: Vec<_> = owners.iter().map(|owner| format!("{:?}", selectors[*owner].text)).collect();
            format!("all tensors that it matches belong to earlier groups: {}", owners.join(", "))
        }
    };
    Error::Group { pattern: selector.text.to_owned(), problem }
}

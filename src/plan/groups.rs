//! Which tensors belong to which group.

use std::collections::{BTreeSet, HashMap};

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

/// Selectors by what a name must have to be chosen by them, so that a name is held against few of many.
struct Index<'a> {
    selectors: &'a [Selector<'a>],
    /// By the texts: a name that is one of them.
    names: HashMap<&'a str, usize>,
    /// By what every match starts with, or ends with, whichever is longer; each list in order.
    prefixes: Ends<'a>,
    suffixes: Ends<'a>,
}

/// Selectors by one end of the names that they can match.
#[derive(Default)]
struct Ends<'a> {
    by_text: HashMap<&'a str, Vec<usize>>,
    lengths: BTreeSet<usize>,
}

impl<'a> Ends<'a> {
    fn add(&mut self, text: &'a str, selector: usize) {
        self.by_text.entry(text).or_default().push(selector);
        self.lengths.insert(text.len());
    }

    /// Those whose text is the end of so many bytes, if there is such an end.
    fn at(&self, end: Option<&str>) -> &[usize] {
        end.and_then(|end| self.by_text.get(end)).map_or(&[], Vec::as_slice)
    }
}

impl<'a> Index<'a> {
    fn new(selectors: &'a [Selector<'a>]) -> Self {
        let mut index = Self {
            selectors,
            names: HashMap::with_capacity(selectors.len()),
            prefixes: Ends::default(),
            suffixes: Ends::default(),
        };
        for (place, selector) in selectors.iter().enumerate() {
            index.names.entry(selector.text).or_insert(place);
            if let Ok(glob) = &selector.glob {
                let [prefix, suffix] = glob.ends();
                match prefix.len() >= suffix.len() {
                    true => index.prefixes.add(prefix, place),
                    false => index.suffixes.add(suffix, place),
                }
            }
        }
        index
    }

    /// The first selector that chooses the name.
    fn first(&self, name: &str) -> Option<usize> {
        let mut first = self.names.get(name).copied();
        let starts = self.prefixes.lengths.iter().map(|len| self.prefixes.at(name.get(..*len)));
        let ends = self
            .suffixes
            .lengths
            .iter()
            .map(|len| self.suffixes.at(name.len().checked_sub(*len).and_then(|start| name.get(start..))));
        for candidates in starts.chain(ends) {
            let earlier = candidates.iter().take_while(|place| first.is_none_or(|first| **place < first));
            let found = earlier.copied().find(|place| self.selectors[*place].is_match(name));
            first = found.or(first);
        }
        first
    }
}

/// By tensor its group, 0 where none claims it. Where `may_be_empty`, groups may have lost their tensors.
///
/// # Errors
/// A group without a tensor, and why it has none.
pub fn groups_of(config: &OptimizerConfig, specs: &[TensorSpec], may_be_empty: bool) -> Result<Vec<usize>> {
    let selector = |text| Selector { text, glob: Glob::new(text) };
    let selectors: Vec<_> = config.groups.iter().map(|group| selector(group.pattern.as_str())).collect();
    let index = Index::new(&selectors);
    let groups: Vec<usize> = specs.iter().map(|spec| index.first(&spec.name).map_or(0, |i| i + 1)).collect();
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Glob, Index, Selector};

    proptest! {
        /// What the index finds is what going through all of them finds.
        #[test]
        fn the_index_finds_the_first_of_all(
            patterns in prop::collection::vec("[ab.*?ö\\[\\]{},]{0,6}", 1..12),
            names in prop::collection::vec("[ab.ö\\[\\]]{0,6}", 1..8),
        ) {
            let selectors: Vec<_> =
                patterns.iter().map(|text| Selector { text, glob: Glob::new(text) }).collect();
            let index = Index::new(&selectors);
            for name in &names {
                prop_assert_eq!(index.first(name), selectors.iter().position(|s| s.is_match(name)), "{}", name);
            }
        }
    }
}

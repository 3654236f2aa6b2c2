//! Which spans share a dispatch.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use super::{DeviceLimits, Layout, Span};

/// Fewer spans of one code go one by one: what their dispatches cost is less than what a bundle takes to set up.
const FEWEST: usize = 4;

/// The spans that one dispatch serves, all of one code.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dispatch {
    /// The spans, in the order of their workgroups.
    pub spans: Vec<Span>,
    /// Bindings in the arrays that they are reached by, where they are a bundle; at least as many as spans.
    pub bundle: Option<NonZeroU32>,
}

impl Dispatch {
    /// Its workgroups, one a block.
    pub fn blocks(&self) -> usize {
        self.spans.iter().map(|span| span.blocks.len()).sum()
    }
}

/// Spans of one kind of code: a variant's, by `vec4` or by words.
type Code = (usize, bool);

impl Layout {
    /// Bindings in the arrays of dispatches, by the code of their spans, vectors before words; `None` where each span
    /// has a dispatch of its own. They follow from where the parameters lie, so that a step in which some tensors
    /// have no gradient takes the pipelines of all others.
    pub fn bundles(&self, limits: &DeviceLimits) -> BTreeMap<Code, Option<NonZeroU32>> {
        let mut runs: BTreeMap<Code, usize> = BTreeMap::new();
        for (window, run) in self.windows.iter().flat_map(|w| w.runs.iter().map(move |run| (w, run))) {
            *runs.entry((window.variant, run.vector)).or_default() += 1;
        }
        runs.into_iter().map(|(code, runs)| (code, bundle_size(runs, limits))).collect()
    }

    /// Spans of one code together, as far as the device can; each by itself where `bundled` says no.
    pub fn dispatches(&self, spans: Vec<Span>, limits: &DeviceLimits, bundled: bool) -> Vec<Dispatch> {
        let planned = self.bundles(limits);
        let mut by_code: BTreeMap<Code, Vec<Span>> = BTreeMap::new();
        for span in spans {
            by_code.entry((self.windows[span.window].variant, span.vector)).or_default().push(span);
        }
        let mut dispatches = Vec::new();
        for (code, spans) in by_code {
            // Gradients can part a run in several spans, and send one to words.
            let planned = planned.get(&code).copied().flatten();
            let bundle = planned.max(bundle_size(spans.len(), limits)).filter(|_| bundled);
            let mut left = spans.into_iter();
            while left.len() > 0 {
                let count = bundle.map_or(1, |size| size.get() as usize);
                dispatches.push(Dispatch { spans: left.by_ref().take(count).collect(), bundle });
            }
        }
        dispatches
    }
}

/// A power of two, so that models which differ a little share pipelines.
fn bundle_size(spans: usize, limits: &DeviceLimits) -> Option<NonZeroU32> {
    let most = limits.bundle.checked_ilog2().map_or(0, |log| 1usize << log);
    if spans < FEWEST || most < FEWEST {
        return None;
    }
    NonZeroU32::new(spans.next_power_of_two().min(most) as u32)
}

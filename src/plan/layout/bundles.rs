//! Which spans share a dispatch.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::ops::Range;

use super::{DeviceLimits, Layout, Span, window_limit};

/// Fewer spans of one code go one by one: what their dispatches cost is less than what a bundle takes to set up.
const FEWEST: usize = 4;

/// Spans of more blocks on average go one by one too: what a dispatch costs is nothing beside four million elements,
/// and what is reached through an array may cost more than what is bound by itself.
const LONG: usize = 1024;

/// The spans that one dispatch serves, all of one code: one, a list of those in one pair of buffers, or a bundle of those in
/// any.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dispatch {
    /// The spans, in the order of their workgroups. Those of a list bind the same bytes of gradients.
    pub spans: Vec<Span>,
    /// Bindings in the arrays that they are reached by, where they are a bundle; at least as many as spans.
    pub bundle: Option<NonZeroU32>,
}

impl Dispatch {
    /// Whether its spans lie in one pair of buffers, so that a table of workgroups is all they need.
    pub fn is_list(&self) -> bool {
        self.bundle.is_none() && self.spans.len() > 1
    }

    /// Whether a table has a row for each of its workgroups; else a span says what they serve.
    pub fn has_table(&self) -> bool {
        self.is_list() || self.bundle.is_some()
    }

    /// Its workgroups, one a block.
    pub fn blocks(&self) -> usize {
        self.spans.iter().map(|span| span.blocks.len()).sum()
    }
}

/// Spans of one kind of code: a variant's, by `vec4` or by words.
type Code = (usize, bool);

impl Layout {
    /// Bindings in the arrays of dispatches, by the code of their spans, words before vectors; `None` where each span
    /// has a dispatch of its own. They follow from where the parameters lie.
    pub fn bundles(&self, limits: &DeviceLimits) -> BTreeMap<Code, Option<NonZeroU32>> {
        self.runs().into_iter().map(|(code, runs)| (code, bundle_size(&runs, limits))).collect()
    }

    /// The runs' lengths in blocks, by their code.
    fn runs(&self) -> BTreeMap<Code, Vec<usize>> {
        let mut runs: BTreeMap<Code, Vec<usize>> = BTreeMap::new();
        for (window, run) in self.windows.iter().flat_map(|w| w.runs.iter().map(move |run| (w, run))) {
            let blocks = run.pieces.iter().map(|piece| piece.blocks.len()).sum();
            runs.entry((window.variant, run.vector)).or_default().push(blocks);
        }
        runs
    }

    /// Spans of one code together, as far as the device can; each by itself where `bundled` says no.
    pub fn dispatches(&self, spans: Vec<Span>, limits: &DeviceLimits, bundled: bool) -> Vec<Dispatch> {
        let runs = self.runs();
        let mut by_code: BTreeMap<Code, Vec<Span>> = BTreeMap::new();
        for span in spans {
            by_code.entry((self.windows[span.window].variant, span.vector)).or_default().push(span);
        }
        let mut dispatches = Vec::new();
        for (code, spans) in by_code {
            let blocks: Vec<_> = spans.iter().map(|span| span.blocks.len()).collect();
            // A step in which some tensors have no gradient takes the pipelines of all others. Gradients can part a run
            // in several spans, and send one to words: then there are more spans than runs.
            let planned = runs.get(&code).filter(|runs| runs.len() >= spans.len()).unwrap_or(&blocks);
            let bundle = bundle_size(planned, limits);
            let bundle = bundle.filter(|_| bundled);
            if bundle.is_none() && bundled && !are_long(&blocks) {
                dispatches.extend(self.lists(spans, limits));
                continue;
            }
            let mut left = spans.into_iter();
            while left.len() > 0 {
                let count = bundle.map_or(1, |size| size.get() as usize);
                dispatches.push(Dispatch { spans: left.by_ref().take(count).collect(), bundle });
            }
        }
        dispatches
    }

    /// Spans of one pair of buffers together, wherever the gradients are in theirs, as far as one binding reaches.
    fn lists(&self, spans: Vec<Span>, limits: &DeviceLimits) -> Vec<Dispatch> {
        let mut lists: Vec<(Range<u64>, Vec<Span>)> = Vec::new();
        let mut last: HashMap<(usize, usize), usize> = HashMap::new();
        for span in spans {
            let pair = (span.window, span.gradient);
            if let Some((bytes, list)) = last.get(&pair).and_then(|index| lists.get_mut(*index)) {
                let start = bytes.start.min(span.gradient_bytes.start);
                let end = bytes.end.max(span.gradient_bytes.end);
                if end - start <= window_limit(limits) {
                    *bytes = start..end;
                    list.push(span);
                    continue;
                }
            }
            last.insert(pair, lists.len());
            lists.push((span.gradient_bytes.clone(), vec![span]));
        }
        let of_list = |(bytes, mut spans): (Range<u64>, Vec<Span>)| {
            for span in &mut spans {
                let ahead = (span.gradient_bytes.start - bytes.start) / self.windows[span.window].gradients.bytes();
                span.gradient_shift = span.gradient_shift.wrapping_add(ahead as u32);
                span.gradient_bytes = bytes.clone();
            }
            Dispatch { spans, bundle: None }
        };
        lists.into_iter().map(of_list).collect()
    }
}

/// Whether spans of so many blocks each go one by one, whatever they share.
fn are_long(spans: &[usize]) -> bool {
    spans.iter().sum::<usize>() > LONG * spans.len()
}

/// For spans of so many blocks: a power of two, so that models which differ a little share pipelines.
fn bundle_size(spans: &[usize], limits: &DeviceLimits) -> Option<NonZeroU32> {
    let most = limits.bundle.checked_ilog2().map_or(0, |log| 1usize << log);
    if spans.len() < FEWEST || most < FEWEST || are_long(spans) {
        return None;
    }
    NonZeroU32::new(spans.len().next_power_of_two().min(most) as u32)
}

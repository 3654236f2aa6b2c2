//! How state goes from the windows of one layout to those of another, within a bound on the memory that is taken
//! besides. Arithmetic without a device.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::transfer;
use crate::plan::Plan;
use crate::plan::layout::{Layout, StatePart};

/// A stretch of state to copy: window and word, in the old and in the new, and words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    pub from: (usize, usize),
    pub to: (usize, usize),
    pub words: usize,
}

/// A plan and where its tensors lie.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    pub plan: &'a Plan,
    pub layout: &'a Layout,
}

/// What becomes of the windows' state.
#[derive(Debug, Default)]
pub struct Changes {
    /// New windows that go on with an old one's memory, word for word.
    pub kept: Vec<(usize, usize)>,
    /// New windows that hold nothing of the old.
    pub fresh: Vec<usize>,
    /// All others: new memory, one batch after the other. There is always one, for what is no state.
    pub batches: Vec<Batch>,
}

/// New windows that are filled at the same time.
#[derive(Debug, Default)]
pub struct Batch {
    pub windows: Vec<usize>,
    pub copies: Vec<Copy>,
    /// Old windows of which nothing is needed after it.
    pub released: Vec<usize>,
}

impl Changes {
    /// In batches of so many bytes, or of one window where that is longer. `old` is by new tensor the one that it goes
    /// on with; the one that is `moved` is no matter of copies, and all of it is in the first batch.
    pub fn new(from: Side<'_>, to: Side<'_>, old: &[Option<usize>], moved: Option<usize>, spare: u64) -> Self {
        let copies = copies(from, to, old, moved);
        let mut by_window = vec![Vec::new(); to.layout.windows.len()];
        copies.into_iter().for_each(|copy: Copy| by_window[copy.to.0].push(copy));
        let windows_of = |side: Side<'_>, tensor: usize| -> BTreeSet<usize> {
            side.layout.pieces_of(tensor).into_iter().map(|(window, _)| window).collect()
        };
        let [moved_from, moved_to] = match moved {
            Some(tensor) => {
                let source = old[tensor].map(|source| windows_of(from, source));
                [source.unwrap_or_default(), windows_of(to, tensor)]
            }
            None => Default::default(),
        };
        let mut changes = Self { batches: vec![Batch::default()], ..Self::default() };
        // The moved tensor's first; then in the order of memory, so that what is old is soon done with.
        let own = |index: &usize| to.layout.windows[*index].state > 0;
        let others = (0..to.layout.windows.len()).filter(|index| !moved_to.contains(index));
        let mut taken = 0;
        for index in moved_to.iter().copied().chain(others).filter(own) {
            let state = to.layout.windows[index].state;
            match by_window[index].as_slice() {
                [] if !moved_to.contains(&index) => changes.fresh.push(index),
                [Copy { from: (old, 0), to: (_, 0), words }]
                    if !moved_to.contains(&index) && [state, from.layout.windows[*old].state] == [*words as u64; 2] =>
                {
                    changes.kept.push((index, *old));
                }
                _ => {
                    let full = taken > 0 && taken + state * 4 > spare;
                    if full && !moved_to.contains(&index) {
                        changes.batches.push(Batch::default());
                        taken = 0;
                    }
                    taken += state * 4;
                    let last = changes.batches.len() - 1;
                    changes.batches[last].windows.push(index);
                    changes.batches[last].copies.append(&mut by_window[index]);
                }
            }
        }
        changes.release(from.layout, &moved_from);
        changes
    }

    /// Finds what is needed for the last time in each batch.
    fn release(&mut self, old: &Layout, moved_from: &BTreeSet<usize>) {
        let mut last = vec![0; old.windows.len()];
        for (number, batch) in self.batches.iter().enumerate() {
            batch.copies.iter().for_each(|copy| last[copy.from.0] = number);
        }
        let kept: HashSet<_> = self.kept.iter().map(|(_, old)| *old).collect();
        for (window, number) in last.into_iter().enumerate() {
            debug_assert!(
                self.batches[0].windows.is_empty() || !moved_from.contains(&window) || !kept.contains(&window)
            );
            if !kept.contains(&window) && old.windows[window].state > 0 {
                self.batches[number].released.push(window);
            }
        }
    }

    /// The most bytes that there are at once beside those of the old windows, while one batch follows the other.
    pub fn most(&self, from: &Layout, to: &Layout) -> u64 {
        let bytes = |layout: &Layout, windows: &[usize]| -> i128 {
            windows.iter().map(|window| i128::from(layout.windows[*window].state) * 4).sum()
        };
        let (mut now, mut most) = (0, 0);
        for batch in &self.batches {
            now += bytes(to, &batch.windows);
            most = most.max(now);
            now -= bytes(from, &batch.released);
        }
        most as u64
    }
}

/// The most that a change takes besides what there is after it, where the tables take so much: these and what they are
/// written through, and the windows that are filled at once.
pub fn bytes(layout: &Layout, tables: u64, spare: u64) -> u64 {
    let longest = layout.windows.iter().map(|window| window.state * 4).max().unwrap_or(0);
    tables + transfer::staging_bytes(tables, spare) + layout.state_bytes().min(longest.max(spare))
}

/// What of the old state goes where in the new, in as few stretches as can be.
fn copies(from: Side<'_>, to: Side<'_>, old: &[Option<usize>], moved: Option<usize>) -> Vec<Copy> {
    // By tensor, slot and first element: window and word.
    let mut places = HashMap::new();
    let kept: HashSet<usize> = old.iter().flatten().copied().collect();
    for window in 0..from.layout.windows.len() {
        from.layout.for_each_state(window, |part| {
            if kept.contains(&part.tensor) {
                places.insert((part.tensor, part.slot, part.elements.start), (window, part.words.start));
            }
        });
    }
    let mut copies: Vec<Copy> = Vec::new();
    for window in 0..to.layout.windows.len() {
        to.layout.for_each_state(window, |StatePart { tensor, slot, elements, words, .. }| {
            let Some(source) = old[tensor].filter(|_| moved != Some(tensor)) else { return };
            let name = to.plan.variant_of(tensor).kept().nth(slot).map(|s| s.name);
            let Some(slot) = from.plan.variant_of(source).kept().position(|s| Some(s.name) == name) else {
                return;
            };
            let Some(from) = places.get(&(source, slot, elements.start)).copied() else { return };
            let copy = Copy { from, to: (window, words.start), words: words.len() };
            match copies.last_mut() {
                Some(last) if last.continues_with(&copy) => last.words += copy.words,
                _ => copies.push(copy),
            }
        });
    }
    copies
}

impl Copy {
    fn continues_with(&self, next: &Self) -> bool {
        (self.from.0, self.from.1 + self.words) == next.from && (self.to.0, self.to.1 + self.words) == next.to
    }
}

//! Jobs of the kernels that go by lines of tensors: who adds up what. Pure arithmetic, no device.

use std::ops::Range;

use bytemuck::Zeroable;

use crate::error::{Error, Result};
use crate::gpu::abi::{LineHeader, LineJob, LineSet};
use crate::lines::Lines;
use crate::plan::Plan;
use crate::plan::layout::{BLOCK, Layout};
use crate::shader::WORKGROUP;

/// Elements that a workgroup reads in a job: long enough to pay for the sum over its threads, short
/// enough to spread.
const JOB: u64 = 16_384;

/// Stretches of a line at most: one thread adds their sums up. Longer ones are read by more rounds of a job instead.
const STRETCHES: u64 = 4096;

/// Lines that lie side by side and that a workgroup takes together: their elements fill a cache line.
const SIDE_BY_SIDE: u64 = 64;

/// Words behind the last value, which the last components of a ragged tensor may read.
const PADDING: u64 = 16;

pub const UNITS: u32 = 0;
pub const AVERAGE: u32 = 1;
pub const MEAN: u32 = 2;

/// What goes by lines in all tensors of a plan.
#[derive(Debug, Default)]
pub struct LineTables {
    pub sets: Vec<LineSet>,
    pub units: Stage,
    pub gradients: Stage,
    pub rows: Stage,
    /// Parts of sums, of 16 bytes.
    pub partials: u64,
    /// Words of values, the headers first.
    pub words: u64,
    pub headers: Vec<LineHeader>,
    /// Where the factor of tensors stands whose units are not clipped.
    pub one: Option<u32>,
}

/// Sets that are added up at the same time.
#[derive(Debug, Default)]
pub struct Stage {
    pub jobs: Vec<LineJob>,
    /// Sets and first lines of the workgroups that add parts up.
    pub folds: Vec<[u32; 2]>,
    /// By part of a tensor, in the order of the block table: its first block, its first job.
    starts: Vec<[u32; 2]>,
}

/// A set with its lines.
type Set = (u32, Lines);

impl Stage {
    /// The jobs of a span's blocks.
    pub fn jobs_of(&self, blocks: &Range<u32>) -> Range<u32> {
        let at = |block| match self.starts.get(self.starts.partition_point(|[first, _]| *first < block)) {
            Some([_, job]) => *job,
            None => self.jobs.len() as u32,
        };
        at(blocks.start)..at(blocks.end)
    }

    /// The jobs of a set in one part of its tensor. Elements of a line ascend, and so do stretches of it and parts of
    /// the tensor: those that meet are a staircase, and the sum of their numbers is each one's own.
    fn add(&mut self, (index, lines): Set, set: &LineSet, part: u32, place: &LineJob) {
        let lines_here = u64::from(WORKGROUP / set.threads);
        let stretches = lines.length.div_ceil(set.steps.into());
        for first in (0..lines.count).step_by(lines_here as usize) {
            let last = (first + lines_here).min(lines.count) - 1;
            for stretch in 0..stretches {
                let from = stretch * u64::from(set.steps);
                let to = (from + u64::from(set.steps)).min(lines.length) - 1;
                let least = lines.element(first, from);
                let most = lines.element(last, to);
                // Parts of sums that no job writes stay zero.
                if least < place.end_element.into() && most >= place.first_element.into() {
                    self.jobs.push(LineJob {
                        line_set: index,
                        first_line: first as u32,
                        from_element: from as u32,
                        part: part + stretch as u32,
                        ..*place
                    });
                }
            }
        }
    }

    fn fold(&mut self, (index, lines): Set) {
        self.folds.extend((0..lines.count).step_by(WORKGROUP as usize).map(|first| [index, first as u32]));
    }
}

impl LineTables {
    /// `None` where nothing goes by lines.
    ///
    /// # Errors
    /// There are more sums than a kernel's 32 bits can count.
    pub fn new(plan: &Plan, layout: &Layout) -> Result<Option<Self>> {
        let tensors = plan.tensors.len();
        let places = places(layout);
        let mut parts = vec![0u32; tensors];
        places.iter().for_each(|(tensor, _, _)| parts[*tensor] += 1);

        let Some((headers, words)) = headers(plan) else { return Ok(None) };
        let one = (0..tensors).find(|t| spares_units(plan, *t)).map(|t| headers[t].units_at);
        let mut tables = Self { headers, words, one, ..Self::default() };
        let mut of_units = vec![Vec::new(); tensors];
        let mut of_gradients = vec![Vec::new(); tensors];
        for t in (0..tensors).filter(|t| plan.is_live(*t)) {
            let header = tables.headers[t];
            if let Some(lines) = plan.units(t) {
                of_units[t] = vec![tables.set(t, UNITS, lines, header.units_at, parts[t])];
            }
            if let Some(matrices) = plan.factored(t) {
                let rows = tables.set(t, AVERAGE, matrices.row_lines(), header.rows_at, parts[t]);
                let columns = tables.set(t, AVERAGE, matrices.column_lines(), header.columns_at, parts[t]);
                let means = tables.set(t, MEAN, matrices.matrix_lines(), header.means_at, 1);
                let place = LineJob { start: header.rows_at, end_element: rows.1.count as u32, ..LineJob::zeroed() };
                tables.rows.add(means, &tables.sets[means.0 as usize], 0, &place);
                tables.rows.fold(means);
                of_gradients[t] = vec![rows, columns];
            }
        }
        for (stage, sets) in [(&mut tables.units, of_units), (&mut tables.gradients, of_gradients)] {
            let mut part = vec![0u32; tensors];
            for (tensor, block, place) in &places {
                stage.starts.push([*block, stage.jobs.len() as u32]);
                for set in &sets[*tensor] {
                    stage.add(*set, &tables.sets[set.0 as usize], part[*tensor], place);
                }
                part[*tensor] += 1;
            }
            sets.into_iter().flatten().for_each(|set| stage.fold(set));
        }
        let most = tables.partials.max(tables.words);
        if most > u64::from(u32::MAX) {
            let problem =
                format!("adafactor and gradient.clip_adaptive take fewer than 2^32 in all, these tensors {most}");
            return Err(Error::Limit { what: "sums of lines", problem });
        }
        Ok(Some(tables))
    }

    /// A set of lines in a tensor of that many parts, with room for its sums.
    fn set(&mut self, tensor: usize, kind: u32, lines: Lines, out_at: u32, parts: u32) -> Set {
        let threads = threads(lines);
        let steps =
            (JOB / u64::from(WORKGROUP / threads)).max(lines.length.div_ceil(STRETCHES)).min(lines.length).max(1);
        // An empty tensor has neither parts nor stretches.
        let parts = (parts + lines.length.div_ceil(steps) as u32).saturating_sub(1);
        let set = LineSet {
            tensor: tensor as u32,
            kind,
            count: lines.count as u32,
            length: lines.length as u32,
            stride: lines.stride as u32,
            inner: lines.inner as u32,
            outer: lines.outer as u32,
            threads,
            steps: steps as u32,
            partials_at: self.partials as u32,
            parts,
            out_at,
        };
        // Of units, gradients and parameters are added up.
        let sums = if kind == UNITS { 2 } else { 1 };
        self.partials += sums * u64::from(parts) * lines.count;
        self.sets.push(set);
        (self.sets.len() as u32 - 1, lines)
    }
}

/// Whether units are clipped, but not this tensor's.
fn spares_units(plan: &Plan, tensor: usize) -> bool {
    plan.gradient.clip_adaptive.is_some() && plan.is_live(tensor) && !plan.is_clipped(tensor)
}

/// Where each tensor's values by line are, and the words of all. `None` where nothing goes by lines.
pub fn headers(plan: &Plan) -> Option<(Vec<LineHeader>, u64)> {
    if !plan.by_line() {
        return None;
    }
    let mut words = 8 * plan.tensors.len() as u64;
    let mut take = |count: u64| {
        words += count;
        (words - count) as u32
    };
    let mut headers = vec![LineHeader::default(); plan.tensors.len()];
    // Where no unit is clipped there is one, of a factor that nothing changes, the same for all such tensors.
    let one = (0..plan.tensors.len()).any(|t| spares_units(plan, t)).then(|| take(1));
    for (t, header) in headers.iter_mut().enumerate().filter(|(t, _)| plan.is_live(*t)) {
        if let Some(lines) = plan.units(t) {
            (header.units_at, header.units) = (take(lines.count), lines.count as u32);
        }
        if let Some(one) = one.filter(|_| spares_units(plan, t)) {
            (header.units_at, header.units) = (one, 1);
        }
        if let Some(matrices) = plan.factored(t) {
            header.rows_at = take(matrices.row_lines().count);
            header.columns_at = take(matrices.column_lines().count);
            header.means_at = take(matrices.matrix_lines().count);
            (header.rows, header.columns) = (matrices.rows as u32, matrices.columns as u32);
        }
    }
    Some((headers, words + PADDING))
}

/// Threads that share a line, a power of two.
fn threads(lines: Lines) -> u32 {
    let most = u64::from(WORKGROUP);
    let threads = if lines.stride == 1 {
        // Four elements each at least.
        1 << (lines.length / 4).max(1).ilog2()
    } else {
        let beside = lines.count.next_power_of_two().min(SIDE_BY_SIDE);
        lines.length.next_power_of_two().min(most / beside)
    };
    threads.clamp(1, most) as u32
}

/// The tensors' parts, in the order of the block table so that a span's jobs are neighbours: tensor, first
/// block, and where it lies.
fn places(layout: &Layout) -> Vec<(usize, u32, LineJob)> {
    let mut places = Vec::new();
    for window in &layout.windows {
        for piece in window.runs.iter().flat_map(|run| &run.pieces) {
            let first = &layout.blocks[piece.blocks.start as usize];
            let place = LineJob {
                first_element: piece.elements.start as u32,
                end_element: piece.elements.end as u32,
                start: first.start,
                state: first.state,
                block_state: window.slots.iter().map(|slot| slot.words(BLOCK as u32)).sum(),
                ..LineJob::zeroed()
            };
            places.push((piece.tensor, piece.blocks.start, place));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::layout::{DeviceLimits, Placement};
    use crate::rules::Adafactor;
    use crate::{GradientConfig, OptimizerConfig, TensorSpec};

    fn tables(shapes: &[&[u64]], binding: u64) -> (LineTables, Plan, Layout) {
        let specs: Vec<_> =
            shapes.iter().enumerate().map(|(i, s)| TensorSpec::new(format!("t{i}"), s.to_vec())).collect();
        let gradient = GradientConfig { clip_adaptive: Some(0.1), ..GradientConfig::default() };
        let plan = Plan::new(&OptimizerConfig::new(Adafactor::default()).gradient(gradient), &specs).unwrap();
        let limits = DeviceLimits { binding, buffer: 1 << 40, alignment: 256, workgroups: 65_535, bundle: 0 };
        let mut offset = 0;
        let placements: Vec<_> = (0..specs.len())
            .filter(|t| plan.is_live(*t))
            .map(|t| {
                let elements = plan.tensors[t].elements;
                let [params, gradients] = plan.formats_of(t);
                let placement = Placement {
                    tensor: t,
                    elements,
                    variant: plan.tensors[t].variant,
                    params,
                    gradients,
                    slots: plan.variant_of(t).formats().collect(),
                    buffer: 0,
                    offset,
                    padded: false,
                };
                offset += elements * 4;
                placement
            })
            .collect();
        let layout = Layout::new(&placements, &limits).unwrap();
        (LineTables::new(&plan, &layout).unwrap().unwrap(), plan, layout)
    }

    /// Plays a stage: which elements each line's parts take in, with one job a part of a line.
    fn check(stage: &Stage, sets: &[LineSet], elements: impl Fn(&LineSet) -> u64) {
        let mut seen: Vec<Vec<u32>> = sets.iter().map(|set| vec![0; elements(set) as usize]).collect();
        let mut written = std::collections::HashSet::new();
        for job in &stage.jobs {
            let set = &sets[job.line_set as usize];
            assert!(job.part < set.parts);
            let lines_here = WORKGROUP / set.threads;
            for line in job.first_line..(job.first_line + lines_here).min(set.count) {
                let base = line / set.inner * set.outer + line % set.inner;
                let end = (job.from_element + set.steps).min(set.length);
                // As the kernel asks.
                let meets = base + job.from_element * set.stride < job.end_element
                    && base + (end - 1) * set.stride >= job.first_element;
                let part = set.partials_at + job.part * set.count + line;
                assert!(!meets || written.insert(part), "a part is written twice");
                for k in job.from_element..(job.from_element + set.steps).min(set.length) {
                    let element = line / set.inner * set.outer + line % set.inner + k * set.stride;
                    if (job.first_element..job.end_element).contains(&element) {
                        assert!(meets, "an element is left out");
                        seen[job.line_set as usize][element as usize] += 1;
                    }
                }
            }
        }
        for (set, seen) in sets
            .iter()
            .zip(seen)
            .filter(|(set, _)| stage.folds.iter().any(|[s, _]| std::ptr::eq(&sets[*s as usize], *set)))
        {
            assert!(seen.iter().all(|n| *n == 1), "{set:?}");
            let folded: u32 =
                stage.folds.iter().filter(|[s, _]| std::ptr::eq(&sets[*s as usize], set)).map(|_| 1).sum();
            assert_eq!(folded, set.count.div_ceil(WORKGROUP));
        }
    }

    #[test]
    fn jobs_take_every_element_in_once_wherever_windows_end() {
        let shapes: [&[u64]; 7] = [&[300, 70], &[7, 1], &[1, 9], &[40, 3, 3], &[5000, 3], &[3, 40_000], &[64, 17]];
        for binding in [1 << 30, 1 << 16, 1 << 14] {
            let (tables, plan, layout) = tables(&shapes, binding);
            let elements = |set: &LineSet| plan.tensors[set.tensor as usize].elements;
            check(&tables.units, &tables.sets, elements);
            check(&tables.gradients, &tables.sets, elements);
            check(&tables.rows, &tables.sets, |set| plan.factored(set.tensor as usize).unwrap().row_lines().count);
            // Every job is in the range of the part that it belongs to, and in no other.
            let mut next = 0;
            for run in layout.windows.iter().flat_map(|w| &w.runs) {
                for piece in &run.pieces {
                    let jobs = tables.gradients.jobs_of(&piece.blocks);
                    assert_eq!(jobs.start, next);
                    next = jobs.end;
                    for job in jobs {
                        let job = &tables.gradients.jobs[job as usize];
                        assert_eq!(u64::from(job.first_element), piece.elements.start);
                    }
                }
            }
            assert_eq!(next as usize, tables.gradients.jobs.len());
        }
    }

    #[test]
    fn sums_of_a_matrix_in_many_windows_stay_small_beside_it() {
        // Two gigabytes in windows of 128 MiB.
        let (tables, _, layout) = tables(&[&[131_072, 4096]], 128 << 20);
        assert!(layout.windows.len() > 10);
        let bytes = tables.partials * 16;
        assert!(bytes < 2 * 131_072 * 4096 * 4 / 20, "{bytes} bytes of sums");
    }

    #[test]
    fn no_thread_goes_more_rounds_than_a_driver_allows() {
        // Software Vulkan ends the loops of an invocation after 65,535 rounds in all.
        for shape in [[1 << 27, 2], [2, 1 << 27], [1 << 22, 64]] {
            let (tables, ..) = tables(&[&shape], 1 << 30);
            for set in &tables.sets {
                // Of a job, two for units; of the thread that adds the parts up, likewise.
                assert!(2 * set.steps.div_ceil(set.threads) < 65_535, "{set:?}");
                assert!(2 * set.parts < 65_535, "{set:?}");
            }
        }
    }

    #[test]
    fn more_sums_than_a_kernel_can_count_are_refused() {
        // A thousand million rows each.
        let tables = |count: usize| {
            let specs: Vec<_> = (0..count).map(|i| TensorSpec::new(format!("t{i}"), [1 << 30, 2])).collect();
            let plan = Plan::new(&OptimizerConfig::new(Adafactor::default()), &specs).unwrap();
            LineTables::new(&plan, &Layout::default())
        };
        assert!(tables(3).is_ok());
        let error = tables(4).unwrap_err().to_string();
        assert!(error.contains("2^32"), "{error}");
    }

    #[test]
    fn sums_and_results_do_not_overlap() {
        let (tables, ..) = tables(&[&[300, 70], &[5], &[40, 3, 3]], 1 << 14);
        let mut sums: Vec<_> = tables
            .sets
            .iter()
            .map(|s| s.partials_at..s.partials_at + s.parts * s.count * if s.kind == UNITS { 2 } else { 1 })
            .collect();
        sums.sort_by_key(|r| r.start);
        assert!(sums.windows(2).all(|w| w[0].end <= w[1].start), "{sums:?}");
        assert!(u64::from(sums.last().unwrap().end) <= tables.partials);
        let mut results: Vec<_> = tables.sets.iter().map(|s| s.out_at..s.out_at + s.count).collect();
        results.sort_by_key(|r| r.start);
        assert!(results.windows(2).all(|w| w[0].end <= w[1].start), "{results:?}");
        assert!(results[0].start >= 24 && u64::from(results.last().unwrap().end) + 4 <= tables.words);
    }
}

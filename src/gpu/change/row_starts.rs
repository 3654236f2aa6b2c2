//! Rows of a tensor that start anew where they lie: what is reached is theirs, whatever the tensor's length.

use std::ops::Range;

use bytemuck::{bytes_of, cast_slice};
use wgpu::{BindingResource, BufferBinding, BufferSize, BufferUsages};

use super::row_moves::{Side, Slots, rows_of, stretches};
use super::transfer;
use crate::error::{Error, Result};
use crate::gpu::abi::{Rows, Run, Stretch};
use crate::gpu::device::pipelines::{Author, Bindings, Kind};
use crate::gpu::step::optimizer::Optimizer;
use crate::shader;

/// Bytes from one description of a dispatch to the next: where every device lets a binding start.
const STRIDE: usize = 512;

/// All elements of a group of four.
const WHOLE: u32 = 15;

/// The bindings of the kernel that starts rows anew.
pub fn start_bindings() -> Bindings {
    vec![(0, Kind::Uniform), (1, Kind::Read), (3, Kind::ReadWrite)]
}

impl Optimizer {
    /// Records that rows of a tensor start anew: parameters become 0 and slots what they start from. Rows lie
    /// along the first dimension. The tensor's count of steps stays, and what [`Optimizer::set_rows`] says of new rows
    /// holds. What it costs follows the rows that are named.
    ///
    /// # Errors
    /// There is no such tensor, it is frozen, has no rows or not so many; its state is `q8` and its rows are no
    /// multiple of 256 elements; other weights than those to train with lie in the parameters' place; or the device
    /// refuses what this needs. Nothing is recorded then.
    pub fn zero_rows(&mut self, encoder: &mut wgpu::CommandEncoder, name: &str, rows: &[u32]) -> Result<()> {
        self.check_training("zero_rows")?;
        let tensor = self.plan.movable_tensor(name)?;
        let planned = &self.plan.tensors[tensor];
        let (count, width) = planned.rows()?;
        if let Some(row) = rows.iter().find(|row| u64::from(**row) >= count) {
            return Err(Error::no_row(name, (*row).into(), count));
        }
        let mut rows = rows.to_vec();
        rows.sort_unstable();
        rows.dedup();
        self.start_rows(encoder, tensor, width, &rows)?;
        if let Some(lines) = &self.tables.lines {
            let places = transfer::factors_at(&self.plan, &lines.tables.headers, tensor);
            for (at, width) in places.zip(self.plan.factor_widths(tensor)) {
                let Some(width) = width else { continue };
                for row in &rows {
                    let first = u64::from(at) + u64::from(*row) * width;
                    encoder.clear_buffer(&lines.values, first * 4, Some(width * 4));
                }
            }
        }
        self.phases.follow(encoder, None);
        Ok(())
    }

    /// Records it for rows in order, each once.
    fn start_rows(&self, encoder: &mut wgpu::CommandEncoder, tensor: usize, width: u64, rows: &[u32]) -> Result<()> {
        let planned = &self.plan.tensors[tensor];
        let refused = |problem: String| Err(Error::tensor(&planned.spec.name, problem));
        if planned.elements > u64::from(u32::MAX) {
            return refused(format!("its rows cannot start anew: {} elements are more than 2^32", planned.elements));
        }
        let slots = Slots::of(&self.plan, tensor);
        let side = Side { layout: &self.layout, windows: &self.windows, tensor, elements: planned.elements };
        // What each dispatch is told and writes to, and all their runs.
        let (mut told, mut runs) = (Vec::new(), Vec::new());
        for (index, piece) in self.layout.pieces_of(tensor) {
            let own = runs_of(rows, width, &piece.elements);
            let Some(groups) = own.last().map(|(run, len)| run.before + len) else { continue };
            let listed = Stretch { first: runs.len() as u32, count: own.len() as u32, base: groups, elements: 0 };
            runs.extend(own.into_iter().map(|(run, _)| run));
            let [params, state] = stretches(side, piece, slots.format());
            let (window, buffers) = (&self.layout.windows[index], &self.windows[index]);
            let bytes = window.bytes.clone();
            let size = bytes.end - bytes.start;
            told.push((rows_of(listed, params, 0, &slots.params()), &buffers.params, bytes.start, size, groups));
            if let Some(buffer) = &buffers.state {
                told.push((rows_of(listed, state, 0, slots.kept()), buffer, 0, buffer.size(), groups));
            }
        }
        if told.is_empty() {
            return Ok(());
        }
        let (gpu, runs_at) = (&self.gpu, told.len() * STRIDE);
        let (bytes, longest) = (size_of_val(runs.as_slice()), gpu.limits().binding);
        if bytes as u64 > longest {
            return refused(format!("{} rows are more than a binding of {longest} bytes can list", rows.len()));
        }
        let mut contents = vec![0; runs_at];
        for ((rows, ..), place) in told.iter().zip(contents.chunks_exact_mut(STRIDE)) {
            place[..size_of::<Rows>()].copy_from_slice(bytes_of(rows));
        }
        contents.extend_from_slice(cast_slice(&runs));
        let table = gpu.buffer_of("rows", &contents, BufferUsages::UNIFORM | BufferUsages::STORAGE)?;
        let part = |buffer, offset, size| {
            BindingResource::Buffer(BufferBinding { buffer, offset, size: BufferSize::new(size) })
        };
        let layout = gpu.layout(&start_bindings())?;
        let groups = told.iter().enumerate().map(|(i, (_, buffer, offset, size, _))| {
            let entries = [
                (0, part(&table, (i * STRIDE) as u64, size_of::<Rows>() as u64)),
                (1, part(&table, runs_at as u64, bytes as u64)),
                (3, part(buffer, *offset, *size)),
            ];
            gpu.bind_group("rows", &layout, &entries)
        });
        let groups = groups.collect::<Result<Vec<_>>>()?;
        let pipeline = gpu.pipeline(shader::start_rows(), Author::Ours, &[start_bindings()])?;
        let descriptor = wgpu::ComputePassDescriptor { label: Some("rows"), timestamp_writes: None };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        pass.set_pipeline(&pipeline);
        for (group, (.., fours)) in groups.iter().zip(&told) {
            let [x, y] = gpu.limits().dispatch(fours.div_ceil(shader::WORKGROUP));
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(x, y, 1);
        }
        Ok(())
    }
}

/// The elements of rows that lie in a stretch, as runs of groups of four with their lengths. The rows come in order,
/// the stretch starts with a group.
fn runs_of(rows: &[u32], width: u64, elements: &Range<u64>) -> Vec<(Run, u32)> {
    let mut runs = Vec::new();
    let from = rows.partition_point(|row| (u64::from(*row) + 1) * width <= elements.start);
    let mut open: Option<Range<u64>> = None;
    for row in &rows[from..] {
        let first = (u64::from(*row) * width).max(elements.start);
        let end = ((u64::from(*row) + 1) * width).min(elements.end);
        if first >= elements.end {
            break;
        }
        match &mut open {
            Some(last) if last.end == first => last.end = end,
            last => last.replace(first..end).into_iter().for_each(|done| add_runs(&mut runs, done)),
        }
    }
    open.into_iter().for_each(|done| add_runs(&mut runs, done));
    let mut before = 0;
    for (run, len) in &mut runs {
        run.before = before;
        before += *len;
    }
    runs
}

/// Adds elements that follow each other: of the first and the last group a part, of those between all.
fn add_runs(runs: &mut Vec<(Run, u32)>, elements: Range<u64>) {
    let mut at = elements.start;
    while at < elements.end {
        let group = at / 4;
        let end = elements.end.min(group * 4 + 4);
        if end - at < 4 {
            let mask = (at..end).map(|element| 1 << (element - group * 4)).sum::<u32>();
            add_run(runs, group, 1, mask);
            at = end;
        } else {
            let whole = (elements.end - at) / 4;
            add_run(runs, group, whole, WHOLE);
            at += whole * 4;
        }
    }
}

/// Two parts of one group are one.
fn add_run(runs: &mut Vec<(Run, u32)>, first: u64, len: u64, mask: u32) {
    let (first, len) = (first as u32, len as u32);
    match runs.last_mut() {
        Some((last, 1)) if last.first == first => last.mask |= mask,
        _ => runs.push((Run { first, before: 0, mask, spare: 0 }, len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element of the rows once and no other, no group twice, wherever rows and stretches begin and end.
    #[test]
    fn runs_are_the_rows_elements() {
        let lists: [&[u32]; 7] = [&[], &[0], &[5], &[0, 1, 2], &[1, 3, 4, 9], &[0, 2, 4, 6, 8], &[2, 3, 11, 12]];
        for width in 1..14 {
            for rows in lists {
                for stretch in [0..200, 0..8, 8..16, 12..52, 16..17, 400..480] {
                    let mut found = Vec::new();
                    let mut groups = Vec::new();
                    let mut before = 0;
                    for (run, len) in runs_of(rows, width, &stretch) {
                        assert_eq!(run.before, before);
                        assert!(len > 0 && (1..=WHOLE).contains(&run.mask));
                        before += len;
                        for group in run.first..run.first + len {
                            groups.push(group);
                            let own = (0..4).filter(|i| run.mask >> i & 1 != 0).map(|i| u64::from(group * 4 + i));
                            found.extend(own);
                        }
                    }
                    let of_row = |row: &u32| u64::from(*row) * width..(u64::from(*row) + 1) * width;
                    let expected: Vec<_> = rows.iter().flat_map(of_row).filter(|e| stretch.contains(e)).collect();
                    assert_eq!(found, expected, "rows {rows:?} of {width} in {stretch:?}");
                    assert!(groups.is_sorted_by(|a, b| a < b), "rows {rows:?} of {width} in {stretch:?}");
                }
            }
        }
    }
}

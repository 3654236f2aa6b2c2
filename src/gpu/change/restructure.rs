//! Other tensors, other groups, other rows: the state follows, on the GPU.

use std::collections::HashSet;
use std::time::Instant;

use super::changes::{Batch, Changes, Copy};
use super::row_moves::{NEW, RowMove, Side, Slots};
use super::{changes, transfer};
use crate::config::OptimizerConfig;
use crate::error::{Error, Result};
use crate::gpu::abi::Control;
use crate::gpu::device::slice::Tensor;
use crate::gpu::device::upload::{Staging, Upload};
use crate::gpu::step::optimizer::{Optimizer, specs};
use crate::gpu::step::phases::Phase;
use crate::gpu::step::windows;
use crate::plan::Plan;
use crate::state::fed::Fed;

impl Optimizer {
    /// Takes tensors in, after those that are there. Their state starts anew and their count of steps at 0, so
    /// that bias corrections are those of a first step. All others go on as if nothing had happened.
    ///
    /// This waits for the device. Windows of state that stay as they are keep their memory; others are copied to new
    /// memory, as many at a time as fit [`Gpu::spare_memory`](crate::gpu::Gpu::spare_memory), or one where that is longer, or
    /// the one tensor of [`Optimizer::set_rows`]: [`OptimizerMemory::change`](crate::gpu::OptimizerMemory::change).
    ///
    /// # Errors
    /// As [`Optimizer::new`]; [`Error::StepsUnderWay`]; or the device has no memory. Nothing is changed then. Where there
    /// is more to copy than fits at a time, the memory for all of it is asked for before anything is given up; if the
    /// device then fails all the same, the old state is not whole any more: steps say so until a whole one is loaded.
    pub fn add_tensors(&mut self, tensors: impl IntoIterator<Item = Tensor>) -> Result<()> {
        let tensors = self.tensors.iter().cloned().chain(tensors).collect();
        self.rebuild(None, tensors, None)
    }

    /// Lets tensors go, their state with them. Places of those that stay close up. A group that is left without any
    /// stays, for tensors that come later.
    ///
    /// # Errors
    /// There is no such tensor; as [`Optimizer::add_tensors`]. Nothing is changed then.
    pub fn remove_tensors(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            self.plan.tensor_named(name).ok_or_else(|| Error::no_tensor(name))?;
        }
        let names: HashSet<&str> = names.iter().copied().collect();
        let stays = |t: &&Tensor| !names.contains(t.spec.name.as_str());
        let tensors = self.tensors.iter().filter(stays).cloned().collect();
        self.rebuild(None, tensors, None)
    }

    /// Goes on with another configuration, and so with other groups, and with other tensors where both must
    /// change at once. The state of a tensor follows where its rule is the same: by name, slot by slot. A tensor
    /// that changes its rule starts anew. Rates set at run time stay where the groups and their options are the same,
    /// and else give way to the new configuration's; the schedule is always the new one, at the count of steps so
    /// far.
    ///
    /// # Errors
    /// `[ema]` is new, and there are steps whose weights it would lack; as [`Optimizer::add_tensors`]. Nothing
    /// is changed then.
    pub fn reconfigure(&mut self, config: &OptimizerConfig, tensors: impl IntoIterator<Item = Tensor>) -> Result<()> {
        self.rebuild(Some(config), tensors.into_iter().collect(), None)
    }

    /// Replaces a tensor by one of the same name with other rows, along the first dimension, in other memory: new
    /// row `i` is the old row `rows[i]`, with all its slots, or a new one where that is `None`, with parameters
    /// of 0 and slots as they start; averages of the weights start from the parameters that you write there. So rows are gathered, dropped, repeated and appended.
    ///
    /// New rows have no bias correction of their own, since the
    /// tensor's count of steps stays: under `adam` and its kin (all that divide by the root of a moving average) their first
    /// steps are three to seven times as large as those of other rows (with betas of 0.9 and 0.999), which fades over some
    /// 1/(1 - beta2) steps. Where that is too much, give a new row the state of one that it resembles (`Some` of the row it
    /// was split from), keep new rows in a tensor of their own for as long, or lower the rate.
    ///
    /// # Errors
    /// There is no such tensor, it is frozen, or its rows are not of that length; an old row does not exist; its
    /// state is `q8`, and its rows are no multiple of 256 elements or the new tensor has fewer than 4,096; the new
    /// memory overlaps that of any tensor; as [`Optimizer::add_tensors`]. Nothing is changed then.
    pub fn set_rows(&mut self, tensor: Tensor, rows: &[Option<u32>]) -> Result<()> {
        let index = self.plan.movable_tensor(&tensor.spec.name)?;
        let sources = self.plan.tensors[index].row_sources(&tensor.spec, rows)?;
        let old = &self.tensors[index].params;
        if old.buffer == tensor.params.buffer
            && old.offset < tensor.params.reach()
            && tensor.params.offset < old.reach()
        {
            let name = tensor.spec.name;
            return Err(Error::Overlap { first: name.clone(), second: name, what: "old and new parameters" });
        }
        let mut tensors = self.tensors.clone();
        tensors[index] = tensor;
        self.rebuild(None, tensors, Some((index, sources)))
    }

    /// With another configuration, or its own, under which groups may have lost their tensors.
    fn rebuild(
        &mut self,
        config: Option<&OptimizerConfig>,
        tensors: Vec<Tensor>,
        moved: Option<(usize, Vec<u32>)>,
    ) -> Result<()> {
        let before = self.sync()?;
        self.check_training("a change of tensors")?;
        self.check_idle()?;
        let state = before.control.head(&self.plan);
        let specs = specs(&tensors);
        let plan = match config {
            Some(config) => Plan::new(config, &specs)?,
            None => Plan::going_on(&self.config, &specs)?,
        };
        // The caller's kernels have bound the loss scale: it stays where it is.
        let loss_scale = Some(self.tables.loss_scale.clone());
        let mut next = Self::of_plan(&self.gpu, config.unwrap_or(&self.config), tensors, plan, loss_scale)?;
        let old = self.plan.kept_in(&next.plan, moved.as_ref().map(|(t, _)| *t))?;
        let goes_on = old.iter().any(Option::is_some);
        self.plan.check_change(&next.plan, state.steps_taken, state.micro_batches, goes_on)?;
        next.set_zero_gradients(self.zero_gradients)?;
        next.set_health(self.monitor.as_ref().map(|m| m.config().clone()))?;

        let counts_of = |t: &Option<usize>| t.map_or(0, |t| before.counts.as_ref().map_or(0, |counts| counts[t]));
        let counts: Vec<u32> = old.iter().map(counts_of).collect();
        let sum_of =
            |t: &Option<usize>| t.map_or(0.0, |t| f32::from_bits(before.word_after_counts(self.tensors.len(), t)));
        let sums: Vec<f32> = old.iter().map(sum_of).collect();
        let mut upload = Upload::default();
        let rates = self.rates.under(&self.plan, &next.plan)?;
        let restart = next.plan_restart(&mut upload, rates, &state, &counts, 0)?;
        next.add_counts(&mut upload, &state, &counts, &sums, before.control.phase);
        let bytes = transfer::staging_bytes(upload.bytes(), self.gpu.spare_memory());
        let staging = Staging::new(&self.gpu, "a change of tensors", bytes)?;
        upload.submit(staging, None).map_err(|interrupted| interrupted.error)?;

        self.move_state(&mut next, &old, moved.as_ref())?;
        next.restart(restart);
        next.fed = Fed::new(&next.plan, |t| old[t].is_some_and(|t| self.fed.has(t)));
        *self = next;
        Ok(())
    }

    /// Gives the windows of `next` their state. Where that takes several batches, old windows are given up on the way.
    fn move_state(&mut self, next: &mut Self, old: &[Option<usize>], moved: Option<&(usize, Vec<u32>)>) -> Result<()> {
        let gpu = self.gpu.clone();
        let [from, to] = [&*self, &*next].map(|o| changes::Side { plan: &o.plan, layout: &o.layout });
        let Changes { kept, fresh, batches } = {
            let changes = Changes::new(from, to, old, moved.map(|(t, _)| *t), gpu.spare_memory());
            if changes.batches.len() > 1 {
                gpu.reserve(changes.most(from.layout, to.layout))?;
            }
            changes
        };
        for (new, old) in kept {
            next.windows[new].state = self.windows[old].state.clone();
        }
        for window in fresh {
            next.windows[window].state = windows::state(&gpu, &next.plan, &next.layout, window)?;
        }
        let count = batches.len();
        let several = count > 1;
        for (number, Batch { windows, copies, released }) in batches.into_iter().enumerate() {
            for window in windows {
                next.windows[window].state = windows::state(&gpu, &next.plan, &next.layout, window)?;
            }
            let first = number == 0;
            let moves = moved.filter(|_| first);
            let row_moves = moves.map(|(t, sources)| self.move_rows(next, *t, sources)).transpose()?;
            let factors = if first { self.factor_copies(next, old, moved) } else { Vec::new() };
            self.record_moves(next, &copies, &factors, row_moves.as_ref(), number + 1 == count)?;
            drop(row_moves);
            if several {
                if first {
                    self.give_up()?;
                }
                for window in released {
                    self.windows[window].state = None;
                }
                // What is released is free once nothing reads it any more.
                gpu.wait("a change of tensors", Instant::now())?;
            }
        }
        Ok(())
    }

    /// From here on the old state is not whole: nothing goes on from it.
    fn give_up(&mut self) -> Result<()> {
        let phase = Phase::Training.interrupted();
        let at = std::mem::offset_of!(Control, phase) as u64;
        self.gpu.put(&self.tables.control, at, &(phase as u32).to_ne_bytes())?;
        self.phases.settle(phase);
        // Bind groups keep buffers.
        self.bound = None;
        self.cache.clear();
        self.evaluation.forget_dispatches();
        Ok(())
    }

    /// The state of one batch of windows, and with the `last` what lies in memory that both share.
    fn record_moves(
        &self,
        next: &Self,
        copies: &[Copy],
        factors: &[[u64; 3]],
        row_moves: Option<&RowMove<'_>>,
        last: bool,
    ) -> Result<()> {
        self.gpu.scoped("a change of tensors", |device| -> Result<()> {
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("change of tensors") };
            let mut encoder = device.create_command_encoder(&descriptor);
            for Copy { from, to, words } in copies {
                if let (Some(source), Some(target)) = (&self.windows[from.0].state, &next.windows[to.0].state) {
                    let [from, to, size] = [from.1, to.1, *words].map(|n| n as u64 * 4);
                    encoder.copy_buffer_to_buffer(source, from, target, to, size);
                }
            }
            if let (Some(source), Some(target)) = (&self.tables.lines, &next.tables.lines) {
                for [from, to, words] in factors {
                    encoder.copy_buffer_to_buffer(&source.values, from * 4, &target.values, to * 4, words * 4);
                }
            }
            row_moves.iter().try_for_each(|moves| moves.record(&mut encoder))?;
            if last {
                let scale_at = std::mem::offset_of!(Control, loss_scale) as u64;
                encoder.copy_buffer_to_buffer(&next.tables.control, scale_at, &next.tables.loss_scale, 0, 4);
            }
            self.gpu.queue().submit([encoder.finish()]);
            Ok(())
        })?
    }

    /// What of the old means by row and by column goes where in the new: words from, to, and how many.
    fn factor_copies(&self, next: &Self, old: &[Option<usize>], moved: Option<&(usize, Vec<u32>)>) -> Vec<[u64; 3]> {
        let places = |optimizer: &Self, tensor: usize| -> Vec<u64> {
            let lines = optimizer.tables.lines.iter();
            let places = lines.flat_map(|l| transfer::factors_at(&optimizer.plan, &l.tables.headers, tensor));
            places.map(u64::from).collect()
        };
        let mut copies: Vec<[u64; 3]> = Vec::new();
        let mut add = |from: u64, to: u64, words: u64| match copies.last_mut() {
            Some(last) if last[0] + last[2] == from && last[1] + last[2] == to => last[2] += words,
            _ => copies.push([from, to, words]),
        };
        for (tensor, source) in old.iter().enumerate() {
            let Some(source) = source else { continue };
            let (from, to) = (places(self, *source), places(next, tensor));
            let elements = next.plan.slots_of(tensor).into_iter().skip(next.plan.variant_of(tensor).kept_count());
            let widths = next.plan.factor_widths(tensor);
            for (((from, to), slot), width) in from.into_iter().zip(to).zip(elements).zip(widths) {
                match (moved.filter(|(t, _)| *t == tensor), width) {
                    (Some((_, rows)), Some(width)) => {
                        for (row, source) in (0u64..).zip(rows).filter(|(_, source)| **source != NEW) {
                            add(from + u64::from(*source) * width, to + row * width, width);
                        }
                    }
                    _ => add(from, to, slot.elements()),
                }
            }
        }
        copies
    }

    fn move_rows<'a>(&'a self, next: &Self, tensor: usize, sources: &[u32]) -> Result<RowMove<'a>> {
        let (old, fresh) = (&self.plan.tensors[tensor], &next.plan.tensors[tensor]);
        let (_, width) = fresh.rows()?;
        let sources = if sources.is_empty() { &[NEW] } else { sources };
        let largest = old.elements.max(fresh.elements);
        let mut moved = RowMove::new(&self.gpu, &fresh.spec.name, sources, width, largest)?;
        let from = Side { layout: &self.layout, windows: &self.windows, tensor, elements: old.elements };
        let to = Side { layout: &next.layout, windows: &next.windows, tensor, elements: fresh.elements };
        moved.add(Some(from), to, &Slots::of(&next.plan, tensor))?;
        Ok(moved)
    }
}

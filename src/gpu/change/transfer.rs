//! Parameters and state, to the host and back.

use std::collections::HashMap;

use crate::error::Result;
use crate::gpu::abi::{Control, LineHeader};
use crate::gpu::device::slice::Tensor;
use crate::gpu::device::upload::{Interrupted, Staging, Upload};
use crate::gpu::readback::download::{Download, Source};
use crate::gpu::step::lines;
use crate::gpu::step::optimizer::Optimizer;
use crate::gpu::step::phases::Phase;
use crate::gpu::step::step_table::StepTable;
use crate::gpu::step::tables::TrackRows;
use crate::gpu::step::windows;
use crate::plan::layout::Layout;
use crate::plan::rates::{Rates, Saved};
use crate::plan::{FACTORS, Plan, PlannedSlot};
use crate::state::checkpoint::{Checkpoint, TensorParams};
use crate::state::fed::Fed;
use crate::state::{OptimizerState, TensorState};
use crate::storage::Q8_BLOCK;

/// What a load writes through at most, and at least where the whole is shorter.
const STAGING: std::ops::RangeInclusive<u64> = 256 << 10..=16 << 20;

/// Bytes of what a load of so much writes through: all of it where that is short, so that it is one submission.
pub fn staging_bytes(written: u64, spare: u64) -> u64 {
    written.clamp(*STAGING.start(), *STAGING.end()).min(spare.max(64 << 10)).next_multiple_of(4)
}

impl Optimizer {
    /// The parameters of all tensors in their order, as they are after all that is submitted so far.
    ///
    /// # Errors
    /// A buffer's usage lacks `COPY_SRC`, or the device fails.
    pub async fn params(&self) -> Result<Vec<Vec<f32>>> {
        Ok(values(&self.plan, &self.request_params()?.await?))
    }

    /// [`Optimizer::params`], waited for.
    ///
    /// # Errors
    /// A buffer's usage lacks `COPY_SRC`, or the device fails.
    pub fn params_blocking(&self) -> Result<Vec<Vec<f32>>> {
        self.check_readable()?;
        self.gpu.wait_for_queue("parameters")?;
        Ok(values(&self.plan, &self.request_params()?.wait()?))
    }

    fn request_params(&self) -> Result<Download> {
        self.check_readable()?;
        self.gpu.download(&self.tensors.iter().map(|t| t.params.source()).collect::<Vec<_>>())
    }

    /// The halves of words behind parameters of 16 bits that are a neighbour's, as they are now, by tensor.
    fn neighbours(&self) -> Result<HashMap<usize, [u8; 2]>> {
        let shares =
            |(_, tensor): &(usize, &Tensor)| !tensor.params.size.is_multiple_of(4) && !tensor.params.is_padded();
        let (tensors, last): (Vec<_>, Vec<_>) = (self.tensors.iter().enumerate().filter(shares))
            .map(|(t, Tensor { params, .. })| (t, Source { offset: params.end() - 4, size: 4, ..params.source() }))
            .unzip();
        if tensors.is_empty() {
            return Ok(HashMap::new());
        }
        let words = self.gpu.download(&last)?.wait()?;
        Ok(tensors.into_iter().zip(words.iter().map(|word| [word[2], word[3]])).collect())
    }

    /// The state, as it is after all that is submitted so far. Where the moving average is swapped in, its slot holds the
    /// weights to train with, and the state says so ([`OptimizerState::swapped`]) and can be neither saved nor loaded.
    ///
    /// # Errors
    /// A load or a change of tensors ended half done, or the device fails.
    pub async fn state(&self) -> Result<OptimizerState> {
        Ok(self.decode(&self.request_state()?.await?))
    }

    /// [`Optimizer::state`], waited for.
    ///
    /// # Errors
    /// As [`Optimizer::state`].
    pub fn state_blocking(&self) -> Result<OptimizerState> {
        self.gpu.wait_for_queue("the state")?;
        Ok(self.decode(&self.request_state()?.wait()?))
    }

    fn request_state(&self) -> Result<Download> {
        let phase = self.phases.current();
        if phase.is_loading() {
            phase.check_training("the state")?;
        }
        self.gpu.download(&self.state_sources().collect::<Vec<_>>())
    }

    /// What [`decode_state`] wants to see.
    pub(in crate::gpu) fn state_sources(&self) -> impl Iterator<Item = Source> {
        let windows = self.windows.iter().filter_map(|w| w.state.as_ref());
        let by_line = self.tables.lines.as_ref().map(|lines| &lines.values);
        std::iter::once(&self.tables.control).chain(windows).chain(by_line).map(Source::whole)
    }

    fn decode(&self, parts: &[Vec<u8>]) -> OptimizerState {
        decode_state(&self.plan, &self.layout, &self.rates.saved(), parts)
    }

    /// Replaces the state, after all that is submitted so far is done. Steps recorded before and
    /// submitted after start from the new state. Asks the device for [`Optimizer::load_bytes`], and for nothing else.
    ///
    /// # Errors
    /// It does not fit the tensors, the moving average is swapped in, or the device has no memory; nothing is changed
    /// then. Where the device fails or is late in the middle of a long load, nothing goes on before a whole state is
    /// loaded: steps say so, and those that were recorded before are skipped.
    pub fn load_state(&mut self, state: &OptimizerState) -> Result<()> {
        state.check(&self.plan)?;
        self.load(state, None)
    }

    /// Replaces the state, as [`Optimizer::load_state`], and the parameters that the checkpoint holds, each by its name.
    ///
    /// # Errors
    /// It does not fit the tensors, other weights than those to train with lie in the parameters' place, a parameter
    /// buffer's usage lacks `COPY_DST`; as [`Optimizer::load_state`].
    pub fn load_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        checkpoint.check(&self.plan)?;
        let params = checkpoint.params_in_order(&self.plan)?;
        if params.is_some() {
            self.check_writable()?;
        }
        self.load(&checkpoint.state, params)
    }

    /// Bytes of device memory that [`Optimizer::load_state`] and [`Optimizer::load_checkpoint`] take while they run: at
    /// most 16 MiB, through which all else is written, and some words to read.
    pub fn load_bytes(&self) -> u64 {
        let shared = self.tensors.iter().filter(|t| !t.params.size.is_multiple_of(4) && !t.params.is_padded()).count();
        let read = self.tables.control.size() + 4 * shared as u64;
        read + staging_bytes(self.loaded_bytes(), self.gpu.spare_memory())
    }

    /// Parameters and state.
    fn loaded_bytes(&self) -> u64 {
        self.layout.state_bytes() + self.tensors.iter().map(|t| t.params.source().size).sum::<u64>()
    }

    fn load(&mut self, state: &OptimizerState, params: Option<Vec<&TensorParams>>) -> Result<()> {
        let before = self.sync()?;
        let phase = Phase::of(before.control.phase).resumed();
        for phase in [self.phases.current().resumed(), phase] {
            // The weights that an evaluation has kept beside are not those of the state.
            if phase != Phase::Evaluating || params.is_some() {
                phase.check_training("loading a state")?;
            }
        }
        let by_name = state.by_name();
        let saved: Vec<_> = self.tensors.iter().map(|t| by_name.get(t.spec.name.as_str()).copied()).collect();
        let counts: Vec<u32> = saved.iter().map(|s| s.map_or(0, |s| s.steps as u32)).collect();
        let mut rates = self.rates.clone();
        rates.resume(&state.saved_rates());
        if !self.behind(state, &counts).is_empty() || !self.step_table.parting(&rates).is_empty() {
            self.step_table.check_tracks(self.reports.dropped())?;
        }
        let neighbours = if params.is_some() { self.neighbours()? } else { HashMap::new() };
        // All that is asked for, before anything is written.
        let bytes = staging_bytes(self.loaded_bytes(), self.gpu.spare_memory());
        let staging = Staging::new(&self.gpu, "a load", bytes)?;
        self.fill_windows()?;

        let mut upload = Upload::default();
        for (t, params) in params.into_iter().flatten().enumerate() {
            let (source, format) = (self.tensors[t].params.source(), self.plan.formats_of(t)[0]);
            let half = neighbours.get(&t).copied().unwrap_or_default();
            upload.add_later(&source.buffer, source.offset, source.size, move || {
                let mut bytes = format.encode(&params.values);
                let rest = source.size as usize - bytes.len();
                bytes.extend(&half[..rest]);
                bytes
            });
        }
        for (index, window) in self.windows.iter().enumerate() {
            let Some(buffer) = &window.state else {
                continue;
            };
            let (this, saved) = (&*self, &saved);
            upload.add_later(buffer, 0, self.layout.windows[index].state * 4, move || this.encode_window(index, saved));
        }
        if let Some(lines) = &self.tables.lines {
            for (t, saved) in saved.iter().enumerate() {
                for (name, at) in FACTORS.into_iter().zip(factors_at(&self.plan, &lines.tables.headers, t)) {
                    let slot = saved.and_then(|s| s.slots.iter().find(|(n, _)| n == name));
                    if let Some((_, values)) = slot {
                        upload.add(&lines.values, u64::from(at) * 4, bytemuck::cast_slice(values));
                    }
                }
            }
        }
        let restart = self.plan_restart(&mut upload, rates, state, &counts, before.executed())?;
        let sums: Vec<_> = saved.iter().map(|s| s.map_or(0.0, |s| s.weight_sum as f32)).collect();
        let (loss_scale, _) = self.plan.gradient.resumed_scale(state.saved_scale());
        upload.add(&self.tables.loss_scale, 0, bytemuck::bytes_of(&(loss_scale as f32)));
        // Last: it ends the load.
        self.add_counts(&mut upload, state, &counts, &sums, phase as u32);
        let phase_at = std::mem::offset_of!(Control, phase) as u64;
        let interrupted = phase.interrupted();
        if let Err(Interrupted { error, begun }) =
            upload.submit(staging, Some((&self.tables.control, phase_at, interrupted as u32)))
        {
            if begun {
                self.phases.settle(interrupted);
            }
            return Err(error);
        }
        self.phases.settle(phase);
        self.restart(restart);
        self.fed = Fed::new(&self.plan, |t| counts[t] > 0);
        Ok(())
    }

    /// The bytes of a window's state.
    fn encode_window(&self, index: usize, saved: &[Option<&TensorState>]) -> Vec<u8> {
        let mut words = vec![0u32; self.layout.windows[index].state as usize];
        self.layout.for_each_state(index, |part| {
            let name = self.plan.variant_of(part.tensor).kept().nth(part.slot).map(|s| s.name);
            let Some(saved) = saved[part.tensor] else { return };
            if let Some((name, values)) = saved.slots.iter().find(|(n, _)| Some(n.as_str()) == name) {
                let first = part.elements.start / Q8_BLOCK as usize;
                let scales = saved.scales(name).and_then(|scales| scales.get(first..));
                let signed = self.plan.is_signed(part.tensor, part.slot);
                part.format.encode(&values[part.elements], signed, scales, &mut words[part.words]);
            }
        });
        bytemuck::cast_slice(&words).to_vec()
    }

    /// Asks for the windows' state that a change of tensors has given up and not brought back.
    fn fill_windows(&mut self) -> Result<()> {
        for (index, window) in self.windows.iter_mut().enumerate() {
            if window.state.is_none() {
                window.state = windows::state(&self.gpu, &self.plan, &self.layout, index)?;
            }
        }
        Ok(())
    }

    /// Plans to write the control block: the state's counts and those of the tensors, and their Σγ².
    pub(in crate::gpu) fn add_counts(
        &self,
        upload: &mut Upload<'_>,
        state: &OptimizerState,
        counts: &[u32],
        sums: &[f32],
        phase: u32,
    ) {
        let (loss_scale, good_steps) = self.plan.gradient.resumed_scale(state.saved_scale());
        let head = Control {
            taken: state.steps_taken as u32,
            skipped: state.steps_skipped as u32,
            micro: state.micro_batches as u32,
            loss_scale: loss_scale as f32,
            unscale: self.plan.gradient.unscale(loss_scale) as f32,
            good_steps,
            phase,
            generation: self.reports.next_generation(),
            ..Control::default()
        };
        let counts_at = size_of::<Control>() as u64;
        upload.add(&self.tables.control, counts_at, bytemuck::cast_slice(counts));
        if self.plan.averages() {
            upload.add(&self.tables.control, counts_at + 4 * counts.len() as u64, bytemuck::cast_slice(sums));
        }
        upload.add(&self.tables.control, 0, bytemuck::bytes_of(&head));
    }

    /// Plans to go on from counts that are written while nothing is under way.
    pub(in crate::gpu) fn plan_restart(
        &self,
        upload: &mut Upload<'_>,
        rates: Rates,
        state: &OptimizerState,
        counts: &[u32],
        executed_before: u64,
    ) -> Result<Restart> {
        let (mut table, mut rows) = (self.step_table.clone(), self.tables.rows.clone());
        let parting = table.restart(upload, &rates, state, counts, executed_before)?;
        // A tensor that is behind follows its own count, and one of a group that was set apart its group's numbers.
        let apart =
            (0..counts.len()).filter(|t| self.plan.is_live(*t) && parting.contains(&self.plan.tensors[*t].group));
        let own = self.behind(state, counts).into_iter().chain(apart).map(|tensor| (tensor, Some(counts[tensor])));
        self.add_tracks(upload, (&mut table, &mut rows), &rates, own)?;
        if self.plan.averages() {
            // An evaluation may be recorded before any step.
            self.tables.write_last_step(upload, &rows, &table.last_scalars(&rates), counts)?;
        }
        Ok(Restart { rates, table, rows })
    }

    /// Goes on as planned, now that it is written. Nothing in it can fail.
    pub(in crate::gpu) fn restart(&mut self, Restart { rates, table, rows }: Restart) {
        (self.rates, self.step_table, self.tables.rows) = (rates, table, rows);
        self.latest = None;
        self.reports.forget();
        if let Some(monitor) = &mut self.monitor {
            monitor.forget();
        }
    }

    /// Tensors that have not taken every step.
    fn behind(&self, state: &OptimizerState, counts: &[u32]) -> Vec<usize> {
        let lags = |t: &usize| self.plan.is_live(*t) && u64::from(counts[*t]) != state.steps_taken;
        (0..counts.len()).filter(lags).collect()
    }
}

/// What the host knows of a state that is being written.
#[derive(Debug)]
pub struct Restart {
    rates: Rates,
    table: StepTable,
    rows: TrackRows,
}

/// The state in the bytes of the control block and of the windows' state.
pub fn decode_state(plan: &Plan, layout: &Layout, rates: &Saved, parts: &[Vec<u8>]) -> OptimizerState {
    let (head, counts) = parts[0].split_at(size_of::<Control>());
    let control: Control = bytemuck::pod_read_unaligned(head);
    let counts: Vec<u32> = counts.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
    let mut tensors: Vec<_> = (0..plan.tensors.len())
        .map(|t| {
            let slot = |s: PlannedSlot| (s.name.to_owned(), vec![0.0; s.elements() as usize]);
            TensorState {
                name: plan.tensors[t].spec.name.clone(),
                shape: plan.tensors[t].spec.shape.clone(),
                rule: plan.group_of(t).rule.name().to_owned(),
                steps: counts[t].into(),
                weight_sum: weight_sum(plan, &counts, t),
                slots: plan.slots_of(t).into_iter().map(slot).collect(),
                storage: plan.slot_storage(t),
            }
        })
        .collect();
    let mut parts = parts[1..].iter();
    for (index, window) in layout.windows.iter().enumerate() {
        if window.state == 0 {
            continue;
        }
        let Some(bytes) = parts.next() else {
            break;
        };
        let words: Vec<u32> = bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        layout.for_each_state(index, |part| {
            let tensor = &mut tensors[part.tensor];
            let (name, values) = &mut tensor.slots[part.slot];
            let signed = plan.is_signed(part.tensor, part.slot);
            let first = part.elements.start / Q8_BLOCK as usize;
            let scales = part.format.decode(&words[part.words], signed, &mut values[part.elements]);
            if let Some(storage) = tensor.storage.iter_mut().find(|s| s.slot == *name).filter(|_| !scales.is_empty()) {
                storage.scales[first..first + scales.len()].copy_from_slice(scales);
            }
        });
    }
    if let (Some((headers, _)), Some(bytes)) = (lines::headers(plan), parts.next()) {
        for (t, tensor) in tensors.iter_mut().enumerate() {
            let kept = plan.variant_of(t).kept_count();
            for ((_, values), at) in tensor.slots[kept..].iter_mut().zip(factors_at(plan, &headers, t)) {
                let bytes = bytes[at as usize * 4..].chunks_exact(4);
                values.iter_mut().zip(bytes).for_each(|(v, b)| *v = bytemuck::pod_read_unaligned(b));
            }
        }
    }
    let mut live = (0..tensors.len()).map(|t| !plan.group_of(t).frozen);
    tensors.retain(|_| live.next().unwrap_or(false));
    let swapped = Phase::of(control.phase) == Phase::Averaged;
    OptimizerState { swapped, tensors, ..control.head(plan) }.with_rates(rates.clone())
}

impl Control {
    /// The state that it counts: rates and tensors are not in it.
    pub fn head(&self, plan: &Plan) -> OptimizerState {
        OptimizerState {
            steps_taken: self.taken.into(),
            steps_skipped: self.skipped.into(),
            micro_batches: self.micro.into(),
            loss_scale: self.loss_scale.into(),
            dynamic_scale: plan.gradient.has_dynamic_scale(),
            good_steps: self.good_steps.into(),
            ema_interval: plan.ema.as_ref().map(|ema| ema.interval),
            config: Some(plan.config.to_string()),
            ..OptimizerState::default()
        }
    }
}

/// Where a tensor's means by row and by column are, in words; nowhere if it has none.
pub fn factors_at(plan: &Plan, headers: &[LineHeader], tensor: usize) -> impl Iterator<Item = u32> {
    let factored = plan.is_live(tensor) && plan.factored(tensor).is_some();
    let header = factored.then(|| headers[tensor]);
    header.into_iter().flat_map(|header| [header.rows_at, header.columns_at])
}

/// A tensor's Σγ², which follows all tensors' counts.
fn weight_sum(plan: &Plan, counts: &[u32], tensor: usize) -> f64 {
    let bits = counts.get(plan.tensors.len() + tensor).filter(|_| plan.variant_of(tensor).averages());
    bits.map_or(0.0, |bits| f32::from_bits(*bits).into())
}

/// The parameters of all tensors in the bytes of whole words.
pub fn values(plan: &Plan, parts: &[Vec<u8>]) -> Vec<Vec<f32>> {
    let one = |(t, bytes): (usize, &Vec<u8>)| {
        let mut values = plan.formats_of(t)[0].decode(bytes);
        values.truncate(plan.tensors[t].elements as usize);
        values
    };
    parts.iter().enumerate().map(one).collect()
}

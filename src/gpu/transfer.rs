//! Parameters and state, to the host and back.

use wgpu::BufferUsages;

use super::optimizer::Optimizer;
use super::readback::{Download, Source};
use super::rows::Control;
use crate::state::{OptimizerState, TensorState};
use crate::{Error, Result};

impl Optimizer {
    /// The parameters of all tensors in their order, as they are after all that is submitted so far.
    ///
    /// # Errors
    /// A buffer's usage lacks `COPY_SRC`, or the device fails.
    pub async fn params(&self) -> Result<Vec<Vec<f32>>> {
        Ok(values(&self.request_params()?.await?))
    }

    /// [`Optimizer::params`], waited for.
    ///
    /// # Errors
    /// A buffer's usage lacks `COPY_SRC`, or the device fails.
    pub fn params_blocking(&self) -> Result<Vec<Vec<f32>>> {
        Ok(values(&self.request_params()?.wait()?))
    }

    fn request_params(&self) -> Result<Download> {
        let sources = self
            .tensors
            .iter()
            .map(|t| {
                let slice = &t.params;
                if !slice.buffer.usage().contains(BufferUsages::COPY_SRC) && slice.size > 0 {
                    let problem =
                        format!("its parameters cannot be read: usage {:?} lacks COPY_SRC", slice.buffer.usage());
                    return Err(Error::tensor(&t.spec.name, problem));
                }
                Ok(Source { buffer: slice.buffer.clone(), offset: slice.offset, size: slice.size })
            })
            .collect::<Result<Vec<_>>>()?;
        self.gpu.download(&sources)
    }

    /// The state, as it is after all that is submitted so far.
    ///
    /// # Errors
    /// The device fails.
    pub async fn state(&self) -> Result<OptimizerState> {
        Ok(self.decode_state(&self.request_state()?.await?))
    }

    /// [`Optimizer::state`], waited for.
    ///
    /// # Errors
    /// The device fails.
    pub fn state_blocking(&self) -> Result<OptimizerState> {
        Ok(self.decode_state(&self.request_state()?.wait()?))
    }

    fn request_state(&self) -> Result<Download> {
        let whole = |buffer: &wgpu::Buffer| Source { buffer: buffer.clone(), offset: 0, size: buffer.size() };
        let control = std::iter::once(whole(&self.tables.control));
        let states = self.windows.iter().filter_map(|w| w.state.as_ref()).map(whole);
        self.gpu.download(&control.chain(states).collect::<Vec<_>>())
    }

    fn decode_state(&self, parts: &[Vec<u8>]) -> OptimizerState {
        let (head, counts) = parts[0].split_at(size_of::<Control>());
        let control: Control = bytemuck::pod_read_unaligned(head);
        let counts: Vec<u32> = counts.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        let mut tensors: Vec<_> = (0..self.tensors.len())
            .map(|t| {
                let elements = self.plan.tensors[t].elements as usize;
                let kept = self.plan.variant_of(t).kept();
                TensorState {
                    name: self.tensors[t].spec.name.clone(),
                    shape: self.tensors[t].spec.shape.clone(),
                    rule: self.plan.group_of(t).rule.name().to_owned(),
                    steps: counts[t].into(),
                    weight_sum: self.weight_sum(&counts, t),
                    slots: kept.map(|s| (s.name.to_owned(), vec![0.0; elements])).collect(),
                }
            })
            .collect();
        let mut parts = parts[1..].iter();
        for (index, window) in self.windows.iter().enumerate() {
            let Some(bytes) = window.state.as_ref().and_then(|_| parts.next()) else {
                continue;
            };
            self.layout.for_each_state(index, |tensor, slot, elements, words| {
                let values = &mut tensors[tensor].slots[slot].1[elements];
                let bytes = bytes[words.start * 4..words.end * 4].chunks_exact(4);
                values.iter_mut().zip(bytes).for_each(|(v, b)| *v = bytemuck::pod_read_unaligned(b));
            });
        }
        let mut live = (0..tensors.len()).map(|t| !self.plan.group_of(t).frozen);
        tensors.retain(|_| live.next().unwrap_or(false));
        OptimizerState {
            steps_taken: control.taken.into(),
            steps_skipped: control.skipped.into(),
            micro_batches: control.micro.into(),
            loss_scale: control.loss_scale.into(),
            good_steps: control.good_steps.into(),
            plateau: self.rates.plateau(),
            tensors,
        }
    }

    /// A tensor's Σγ², which follows all tensors' counts.
    fn weight_sum(&self, counts: &[u32], tensor: usize) -> f64 {
        let bits = counts.get(self.tensors.len() + tensor).filter(|_| self.plan.variant_of(tensor).averages());
        bits.map_or(0.0, |bits| f32::from_bits(*bits).into())
    }

    /// Replaces the state, after all that is submitted so far is done. Steps recorded before and
    /// submitted after start from the new state.
    ///
    /// # Errors
    /// It does not fit the tensors, and nothing is changed; or the device fails.
    pub fn load_state(&mut self, state: &OptimizerState) -> Result<()> {
        state.check(&self.plan)?;
        let before = self.sync()?;
        let mut counts = vec![0u32; self.tensors.len()];
        let saved: Vec<_> = self.tensors.iter().map(|t| state.tensor(&t.spec.name)).collect();
        for (count, saved) in counts.iter_mut().zip(&saved) {
            *count = saved.map_or(0, |s| s.steps as u32);
        }
        for (index, window) in self.windows.iter().enumerate() {
            let Some(buffer) = &window.state else {
                continue;
            };
            let mut words = vec![0f32; self.layout.windows[index].state as usize];
            self.layout.for_each_state(index, |tensor, slot, elements, range| {
                let name = self.plan.variant_of(tensor).kept().nth(slot).map(|s| s.name);
                let slots = saved[tensor].into_iter().flat_map(|s| &s.slots);
                if let Some((_, values)) = slots.into_iter().find(|(n, _)| Some(n.as_str()) == name) {
                    words[range].copy_from_slice(&values[elements]);
                }
            });
            self.gpu.queue().write_buffer(buffer, 0, bytemuck::cast_slice(&words));
        }
        let loss_scale = self.plan.gradient.resumed_scale(state.loss_scale);
        let head = Control {
            taken: state.steps_taken as u32,
            skipped: state.steps_skipped as u32,
            micro: state.micro_batches as u32,
            loss_scale: loss_scale as f32,
            unscale: self.plan.gradient.unscale(loss_scale) as f32,
            good_steps: state.good_steps as u32,
            ..Control::default()
        };
        let scale = bytemuck::bytes_of(&head.loss_scale);
        self.gpu.queue().write_buffer(&self.tables.loss_scale, 0, scale);
        self.rates.set_plateau(state.plateau);
        self.gpu.queue().write_buffer(&self.tables.control, 0, bytemuck::bytes_of(&head));
        let counts_at = size_of::<Control>() as u64;
        self.gpu.queue().write_buffer(&self.tables.control, counts_at, bytemuck::cast_slice(&counts));
        if self.plan.averages() {
            let sums: Vec<_> = saved.iter().map(|s| s.map_or(0.0, |s| s.weight_sum as f32)).collect();
            let at = counts_at + 4 * counts.len() as u64;
            self.gpu.queue().write_buffer(&self.tables.control, at, bytemuck::cast_slice(&sums));
        }
        self.latest = None;
        // A tensor that is behind follows its own count.
        self.reports.forget();
        self.step_table.restart(&self.gpu, &self.plan, &self.rates, state, &counts, before.executed());
        for (tensor, count) in counts.into_iter().enumerate() {
            if self.plan.is_live(tensor) && u64::from(count) != state.steps_taken {
                self.own_lane(tensor, Some(count))?;
            }
        }
        Ok(())
    }
}

fn values(parts: &[Vec<u8>]) -> Vec<Vec<f32>> {
    parts.iter().map(|bytes| bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()).collect()
}

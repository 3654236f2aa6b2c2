//! The step table: rates and scalars of coming steps, computed in f64 and uploaded ahead.
//!
//! Each lane has a ring of rows that the GPU indexes with its own count of steps taken, so a skip or
//! a dropped encoder needs no word from the host. Uploads land before encoders that are recorded but
//! not submitted, so a row may be overwritten only when the count that the GPU *reported* has passed
//! it, and a step may be recorded only while every count that it can meet has a row.

use std::collections::HashMap;

use bytemuck::cast_slice;
use wgpu::BufferUsages;

use crate::config::schedule::held;
use crate::error::{Error, Result};
use crate::gpu::abi::{LaneSource, ROW_WORDS, RatesRow};
use crate::gpu::device::context::Gpu;
use crate::gpu::device::upload::Writes;
use crate::gpu::readback::reports::{Ended, Snapshot};
use crate::plan::Plan;
use crate::plan::rates::Rates;
use crate::rule::hyper::Scalars;
use crate::state::OptimizerState;

/// Rows of a group's ring: steps that can be recorded and not yet known to be done.
pub const STEP_ROWS: u64 = 4096;

/// Rows of the ring of a tensor that missed steps: as many as a budget for all tensors allows.
const OWN_ROWS: std::ops::RangeInclusive<u64> = 16..=256;
const OWN_BUDGET_WORDS: u64 = 1 << 20;

/// Of these, rings in one write at most.
const OWN_WRITE: usize = 4096;

const LANE_WORDS: u64 = (size_of::<LaneSource>() / 4) as u64;
const RATES_WORDS: u64 = (size_of::<RatesRow>() / 4) as u64;

/// Clones write to the same buffer: one is changed, and takes the place of the other when all is written.
#[derive(Debug, Clone)]
pub struct StepTable {
    buffer: wgpu::Buffer,
    rates_at: u64,
    factors_at: u64,
    /// A group's each, then those of tensors with a lane of their own.
    lanes: Vec<Lane>,
    groups: usize,
    /// By tensor, whether it has one.
    has_own: Vec<bool>,
    /// First word of the rings of tensors with a lane of their own, and the rows of each.
    own_at: u64,
    own_rows: u64,
    /// What the GPU is known to have counted, and when.
    known: Known,
    /// Steps recorded since the optimizer was made.
    recorded: u64,
    /// Of them, those that were submitted and not executed.
    refused: u64,
    /// What the device's count of executed steps is ahead of ours since a state was loaded.
    executed_ahead: i128,
    /// The device's count of executed steps in the state that was loaded.
    started_from: u64,
    /// Whether a change of rates may have been written by half.
    rates_are_stale: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    taken: u64,
    /// Of the recorded steps, those executed by then.
    executed: u64,
    /// Micro-batches of the step under way then.
    micro: u64,
}

#[derive(Debug, Clone)]
struct Lane {
    group: usize,
    /// The tensor whose count it follows; `None` follows the optimizer's.
    tensor: Option<usize>,
    rows_at: u64,
    rows: u64,
    /// The least count that its tensors can have.
    confirmed: u64,
    /// Rows are there for counts below this.
    filled: u64,
}

/// Where what the table holds starts, in words.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    own_rows: u64,
    rates_at: u64,
    factors_at: u64,
    rows_at: u64,
    own_at: u64,
    words: u64,
}

impl Places {
    pub fn of(plan: &Plan) -> Self {
        Self::for_counts(plan.groups.len() as u64, plan.tensors.len() as u64)
    }

    pub fn for_counts(groups: u64, tensors: u64) -> Self {
        let row = ROW_WORDS as u64;
        let fitting = OWN_BUDGET_WORDS / (row * tensors.max(1));
        let own_rows = fitting.clamp(*OWN_ROWS.start(), *OWN_ROWS.end());
        let rates_at = (groups + tensors) * LANE_WORDS;
        let factors_at = rates_at + groups * RATES_WORDS;
        let rows_at = factors_at + STEP_ROWS;
        let own_at = rows_at + groups * STEP_ROWS * row;
        Self { own_rows, rates_at, factors_at, rows_at, own_at, words: own_at + tensors * own_rows * row }
    }

    pub fn bytes(self) -> u64 {
        self.words * 4
    }

    /// Groups that fit beside those tensors, that of `[optimizer]` among them.
    pub fn most_groups(tensors: u64, binding: u64) -> u64 {
        let [none, one] = [0, 1].map(|groups| Self::for_counts(groups, tensors).bytes());
        binding.saturating_sub(none) / (one - none)
    }
}

impl StepTable {
    pub fn new(gpu: &Gpu, plan: &Plan, rates: &Rates) -> Result<Self> {
        let (groups, tensors) = (plan.groups.len(), plan.tensors.len());
        let Places { own_rows, rates_at, factors_at, rows_at, own_at, words } = Places::of(plan);
        let row = ROW_WORDS as u64;
        if words * 4 > gpu.limits().binding {
            let most = Places::most_groups(tensors as u64, gpu.limits().binding);
            let reason = format!(
                "{groups} groups (the one of [optimizer] among them) and {tensors} tensors take {} bytes, and the longest \
                 binding has {}: at most {most} groups fit",
                words * 4,
                gpu.limits().binding
            );
            return Err(Error::Device { what: "the step table".to_owned(), reason });
        }
        let buffer = gpu.buffer("step table", words * 4, BufferUsages::STORAGE | BufferUsages::COPY_DST)?;
        let lanes = (0..groups as u64)
            .map(|g| Lane {
                group: g as usize,
                tensor: None,
                rows_at: rows_at + g * STEP_ROWS * row,
                rows: STEP_ROWS,
                confirmed: 0,
                filled: 0,
            })
            .collect();
        let mut table = Self {
            buffer,
            rates_at,
            factors_at,
            lanes,
            groups,
            has_own: vec![false; tensors],
            own_at,
            own_rows,
            known: Known::default(),
            recorded: 0,
            refused: 0,
            executed_ahead: 0,
            started_from: 0,
            rates_are_stale: false,
        };
        let to: &mut dyn Writes = &mut &*gpu;
        table.write_lanes(to)?;
        table.write_rates(to, rates)?;
        table.fill(to, plan, rates)?;
        Ok(table)
    }

    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Word offsets and sizes for the kernels: rates, factors, rows of factors.
    pub fn places(&self) -> [u32; 3] {
        [self.rates_at as u32, self.factors_at as u32, STEP_ROWS as u32]
    }

    pub fn lanes(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// The scalars of each lane's last step, if it has taken any, by the counts that are confirmed.
    pub fn last_scalars(&self, plan: &Plan, rates: &Rates) -> Vec<Scalars> {
        let of = |lane: &Lane| scalars(plan, rates, lane.group, lane.confirmed.max(1));
        self.lanes.iter().map(of).collect()
    }

    /// Whether any tensor counts by itself, so that reports must bring the counts.
    pub fn needs_counts(&self) -> bool {
        self.lanes.len() > self.groups
    }

    /// Whether a tensor has a lane of its own.
    pub fn has_lane(&self, tensor: usize) -> bool {
        self.has_own[tensor]
    }

    /// Whether the snapshot is of a step, and not of a state that was only loaded.
    pub fn is_of_a_step(&self, snapshot: &Snapshot) -> bool {
        snapshot.executed() > self.started_from
    }

    /// Takes in what the GPU reported.
    pub fn confirm(&mut self, snapshot: &Snapshot) {
        let executed = i128::from(snapshot.executed()) - self.executed_ahead;
        let Ok(executed) = u64::try_from(executed) else {
            return;
        };
        if executed < self.known.executed {
            return;
        }
        self.known = Known { taken: snapshot.control.taken.into(), executed, micro: snapshot.control.micro.into() };
        for lane in &mut self.lanes {
            match (lane.tensor, &snapshot.counts) {
                (None, _) => lane.confirmed = self.known.taken,
                (Some(tensor), Some(counts)) => lane.confirmed = counts[tensor].into(),
                (Some(_), None) => {}
            }
        }
    }

    /// Makes room for one more step, with rows for every count that it can meet.
    pub fn reserve(&mut self, to: &mut dyn Writes, plan: &Plan, rates: &Rates, dropped: u64) -> Result<()> {
        if self.rates_are_stale {
            self.rates_changed(to, rates)?;
        }
        let ahead = self.ahead(dropped);
        if self
            .lanes
            .iter()
            .any(|lane| lane.filled - lane.confirmed < lane.rows / 2 || lane.confirmed + ahead >= lane.filled)
        {
            self.fill(to, plan, rates)?;
        }
        match self.lanes.iter().find(|lane| lane.confirmed + ahead >= lane.filled) {
            Some(lane) => Err(Error::StepTableFull { pending: ahead, rows: lane.rows }),
            None => {
                self.recorded += 1;
                Ok(())
            }
        }
    }

    /// Gives tensors without one a lane of their own, since from now on they can miss steps: those with the counts
    /// that they have, or without one those of all. Returns tensors and lanes.
    ///
    /// Steps recorded earlier will use them too, as their upload lands before them; so their rows must cover
    /// all that are under way.
    pub fn add_lanes(
        &mut self,
        to: &mut dyn Writes,
        plan: &Plan,
        rates: &Rates,
        tensors: impl IntoIterator<Item = (usize, Option<u32>)>,
        dropped: u64,
    ) -> Result<Vec<(usize, u32)>> {
        let mut added = Vec::new();
        for (tensor, count) in tensors {
            if self.has_lane(tensor) {
                continue;
            }
            // Without a count of its own it has missed none yet.
            let start = count.map_or(self.known.taken, u64::from);
            let own = (self.lanes.len() - self.groups) as u64;
            self.has_own[tensor] = true;
            added.push((tensor, self.lanes()));
            self.lanes.push(Lane {
                group: plan.tensors[tensor].group,
                tensor: Some(tensor),
                rows_at: self.own_at + own * self.own_rows * ROW_WORDS as u64,
                rows: self.own_rows,
                confirmed: start,
                filled: start,
            });
        }
        if !added.is_empty() {
            self.check_lanes(dropped)?;
            self.write_lanes(to)?;
            self.fill(to, plan, rates)?;
        }
        Ok(added)
    }

    /// Takes in how steps had ended before the device's count was read that is confirmed now. If all had, those that
    /// it did not execute were refused, and never will be.
    pub fn settle(&mut self, ended: Ended) {
        if ended.dropped + ended.finished == self.recorded {
            self.refused = ended.finished.saturating_sub(self.known.executed);
        }
    }

    /// Whether tensors could have lanes of their own now.
    pub fn check_lanes(&self, dropped: u64) -> Result<()> {
        let pending = self.ahead(dropped);
        if pending < self.own_rows { Ok(()) } else { Err(Error::StepTableFull { pending, rows: self.own_rows }) }
    }

    /// Steps recorded and not known to be executed, refused or dropped.
    pub fn ahead(&self, dropped: u64) -> u64 {
        self.recorded.saturating_sub(self.known.executed + self.refused).saturating_sub(dropped)
    }

    /// Whether the step recorded last completes one of so many micro-batches, if all that is under way is done in order.
    pub fn completes(&self, dropped: u64, accumulate: u64) -> bool {
        (self.known.micro + self.ahead(dropped)).is_multiple_of(accumulate.max(1))
    }

    /// Rates have changed: rewrites them, and the factors ahead. Where that fails, the next step writes those that
    /// it is given then, or is refused.
    pub fn rates_changed(&mut self, to: &mut dyn Writes, rates: &Rates) -> Result<()> {
        self.rates_are_stale = true;
        self.write_rates(to, rates)?;
        let (confirmed, filled) = (self.lanes[0].confirmed, self.lanes[0].filled);
        self.write_factors(to, rates, confirmed..filled)?;
        self.rates_are_stale = false;
        Ok(())
    }

    /// A state is loaded while nothing is under way: counts start from there, with those rates.
    pub fn restart(
        &mut self,
        to: &mut dyn Writes,
        plan: &Plan,
        rates: &Rates,
        state: &OptimizerState,
        counts: &[u32],
        executed_before: u64,
    ) -> Result<()> {
        let taken = state.steps_taken;
        // Steps recorded earlier and not yet submitted are still to come.
        let executed = i128::from(executed_before) - self.executed_ahead;
        self.known = Known { taken, executed: executed.try_into().unwrap_or(0), micro: state.micro_batches };
        self.started_from = taken + state.steps_skipped;
        self.executed_ahead = i128::from(self.started_from) - executed;
        for lane in &mut self.lanes {
            lane.confirmed = lane.tensor.map_or(taken, |t| counts[t].into());
            lane.filled = lane.confirmed;
        }
        self.write_rates(to, rates)?;
        self.fill(to, plan, rates)?;
        self.rates_are_stale = false;
        Ok(())
    }

    /// Extends every ring as far as the confirmed counts allow.
    fn fill(&mut self, to: &mut dyn Writes, plan: &Plan, rates: &Rates) -> Result<()> {
        for index in 0..self.groups {
            let lane = self.lanes[index].clone();
            let rows = lane.filled..lane.confirmed + lane.rows;
            if rows.is_empty() {
                continue;
            }
            let words = |t: u64| scalars(plan, rates, lane.group, t + 1).map(|x| x as f32);
            self.write_ring(to, lane.rows_at, lane.rows, rows.clone(), words)?;
            if index == 0 {
                self.write_factors(to, rates, rows.clone())?;
            }
            self.lanes[index].filled = rows.end;
        }
        self.fill_own(to, plan, rates)
    }

    /// The same of the tensors' own rings, which are short and many: neighbours in one write, as a write costs more than
    /// what it brings. So whole rings are written, with the rows that are there already as they are.
    fn fill_own(&mut self, to: &mut dyn Writes, plan: &Plan, rates: &Rates) -> Result<()> {
        // Most tensors share a group and a count with others.
        let mut rings: HashMap<(usize, u64), Vec<[f32; ROW_WORDS]>> = HashMap::new();
        let lacking = |lane: &Lane| lane.filled < lane.confirmed + lane.rows;
        let mut next = self.groups;
        while next < self.lanes.len() {
            let run = self.lanes[next..].iter().take_while(|lane| lacking(lane)).take(OWN_WRITE).count();
            let lanes = next..next + run;
            next = lanes.end.max(next + 1);
            let mut rows = Vec::new();
            for lane in &self.lanes[lanes.clone()] {
                let ring = rings.entry((lane.group, lane.confirmed)).or_insert_with(|| {
                    let mut ring = vec![[0.0; ROW_WORDS]; lane.rows as usize];
                    for count in lane.confirmed..lane.confirmed + lane.rows {
                        ring[(count % lane.rows) as usize] =
                            scalars(plan, rates, lane.group, count + 1).map(|x| x as f32);
                    }
                    ring
                });
                rows.extend_from_slice(ring);
            }
            if run > 0 {
                to.put(&self.buffer, self.lanes[lanes.start].rows_at * 4, cast_slice(rows.as_flattened()))?;
            }
            for lane in &mut self.lanes[lanes] {
                lane.filled = lane.confirmed + lane.rows;
            }
        }
        Ok(())
    }

    fn write_factors(&self, to: &mut dyn Writes, rates: &Rates, rows: std::ops::Range<u64>) -> Result<()> {
        self.write_ring(to, self.factors_at, STEP_ROWS, rows, |t| [(rates.factor(t) * rates.unit()) as f32])
    }

    fn write_ring<const N: usize>(
        &self,
        to: &mut dyn Writes,
        at: u64,
        rows: u64,
        range: std::ops::Range<u64>,
        words: impl Fn(u64) -> [f32; N],
    ) -> Result<()> {
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min((start / rows + 1) * rows);
            let values: Vec<[f32; N]> = (start..end).map(&words).collect();
            let word = at + start % rows * N as u64;
            to.put(&self.buffer, word * 4, cast_slice(values.as_flattened()))?;
            start = end;
        }
        Ok(())
    }

    fn write_lanes(&self, to: &mut dyn Writes) -> Result<()> {
        let rows: Vec<_> = self
            .lanes
            .iter()
            .map(|lane| LaneSource {
                group: lane.group as u32,
                counts: lane.tensor.map_or(0, |t| t as u32 + 1),
                rows_at: lane.rows_at as u32,
                rows: lane.rows as u32,
            })
            .collect();
        to.put(&self.buffer, 0, cast_slice(&rows))
    }

    fn write_rates(&self, to: &mut dyn Writes, rates: &Rates) -> Result<()> {
        let rows: Vec<_> = rates
            .groups()
            .iter()
            .map(|group| {
                let decays = group.decays();
                RatesRow {
                    lr: held(group.lr / rates.unit()) as f32,
                    coupled: decays.coupled as f32,
                    decoupled: decays.decoupled as f32,
                    in_ratio: decays.in_ratio as f32,
                    sign: group.sign as f32,
                    unscaled: u32::from(!group.scaled),
                    spare: [0; 2],
                }
            })
            .collect();
        to.put(&self.buffer, self.rates_at * 4, cast_slice(&rows))
    }
}

/// The scalars of a group's step, at the rate that it has.
fn scalars(plan: &Plan, rates: &Rates, group: usize, step: u64) -> Scalars {
    plan.groups[group].rule.scalars(step, rates.groups()[group].lr)
}

//! The step table: rates and scalars of coming steps, computed in f64 and uploaded ahead.
//!
//! Each lane goes by a ring of rows that the GPU indexes with its own count of steps taken, so a skip or
//! a dropped encoder needs no word from the host. Groups with the same scalars go by one ring. Uploads land before
//! encoders that are recorded but not submitted, so a row may be overwritten only when the count that the GPU
//! *reported* has passed it, and a step may be recorded only while every count that it can meet has a row.

mod places;
mod progress;
mod rows;

use crate::error::{Error, Result};
use crate::gpu::device::context::Gpu;
use crate::gpu::device::upload::Writes;
use crate::gpu::readback::reports::{Ended, Snapshot};
use crate::plan::Plan;
use crate::plan::rates::Rates;
use crate::rule::hyper::Scalars;
use crate::state::OptimizerState;

use places::Counts;
pub use places::{Places, STEP_ROWS};
use progress::Progress;

/// Clones write to the same buffer: one is changed, and takes the place of the other when all is written.
#[derive(Debug, Clone)]
pub struct StepTable {
    buffer: wgpu::Buffer,
    places: Places,
    /// Rows of the groups' rings are there for counts below this.
    filled: u64,
    /// By group, the ring of its scalars; the lanes of groups come first.
    rings: Vec<usize>,
    /// Lanes of tensors with one of their own, behind those of the groups.
    own: Vec<OwnLane>,
    /// By tensor, whether it has one.
    has_own: Vec<bool>,
    progress: Progress,
    /// Whether a change of rates may have been written by half.
    rates_are_stale: bool,
}

/// The lane of a tensor that has missed steps.
#[derive(Debug, Clone)]
struct OwnLane {
    group: usize,
    tensor: usize,
    /// The least count that it can have.
    confirmed: u64,
    /// Rows are there for counts below this.
    filled: u64,
}

impl StepTable {
    pub fn new(gpu: &Gpu, plan: &Plan, rates: &Rates) -> Result<Self> {
        let places = Places::within(Counts::of(plan), gpu.limits().binding)?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = gpu.buffer("step table", places.bytes(), usage)?;
        let mut table = Self {
            buffer,
            places,
            filled: 0,
            rings: (0..plan.groups.len()).map(|group| plan.scalars.of_group(group)).collect(),
            own: Vec::new(),
            has_own: vec![false; plan.tensors.len()],
            progress: Progress::default(),
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
        [self.places.rates_at as u32, self.places.factors_at as u32, STEP_ROWS as u32]
    }

    pub fn lanes(&self) -> u32 {
        (self.rings.len() + self.own.len()) as u32
    }

    /// The scalars of each lane's last step, if it has taken any, by the counts that are confirmed.
    pub fn last_scalars(&self, plan: &Plan, rates: &Rates) -> Vec<Scalars> {
        let of = |group: usize, count: u64| rows::scalars(plan, rates, group, count.max(1));
        let groups = (0..self.rings.len()).map(|group| of(group, self.progress.taken()));
        groups.chain(self.own.iter().map(|lane| of(lane.group, lane.confirmed))).collect()
    }

    /// Whether any tensor counts by itself, so that reports must bring the counts.
    pub fn needs_counts(&self) -> bool {
        !self.own.is_empty()
    }

    /// Whether a tensor has a lane of its own.
    pub fn has_lane(&self, tensor: usize) -> bool {
        self.has_own[tensor]
    }

    /// Whether the snapshot is of a step, and not of a state that was only loaded.
    pub fn is_of_a_step(&self, snapshot: &Snapshot) -> bool {
        self.progress.is_of_a_step(snapshot)
    }

    /// Takes in what the GPU reported.
    pub fn confirm(&mut self, snapshot: &Snapshot) {
        if !self.progress.confirm(snapshot) {
            return;
        }
        if let Some(counts) = &snapshot.counts {
            self.own.iter_mut().for_each(|lane| lane.confirmed = counts[lane.tensor].into());
        }
    }

    /// [`Progress::settle`]
    pub fn settle(&mut self, ended: Ended) {
        self.progress.settle(ended);
    }

    /// [`Progress::ahead`]
    pub fn ahead(&self, dropped: u64) -> u64 {
        self.progress.ahead(dropped)
    }

    /// [`Progress::completes`]
    pub fn completes(&self, dropped: u64, accumulate: u64) -> bool {
        self.progress.completes(dropped, accumulate)
    }

    /// Makes room for one more step, with rows for every count that it can meet.
    pub fn reserve(&mut self, to: &mut dyn Writes, plan: &Plan, rates: &Rates, dropped: u64) -> Result<()> {
        if self.rates_are_stale {
            self.rates_changed(to, rates)?;
        }
        let ahead = self.ahead(dropped);
        let is_short = |ring: &RingState| ring.left() < ring.rows / 2 || ring.left() <= ahead;
        if self.ring_states().any(|ring| is_short(&ring)) {
            self.fill(to, plan, rates)?;
        }
        let full = self.ring_states().find(|ring| ring.left() <= ahead);
        match full {
            Some(ring) => Err(Error::StepTableFull { pending: ahead, rows: ring.rows }),
            None => {
                self.progress.record();
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
            let start = count.map_or(self.progress.taken(), u64::from);
            self.has_own[tensor] = true;
            added.push((tensor, self.lanes()));
            self.own.push(OwnLane { group: plan.tensors[tensor].group, tensor, confirmed: start, filled: start });
        }
        if !added.is_empty() {
            self.check_lanes(dropped)?;
            self.write_lanes(to)?;
            self.fill(to, plan, rates)?;
        }
        Ok(added)
    }

    /// Whether tensors could have lanes of their own now.
    pub fn check_lanes(&self, dropped: u64) -> Result<()> {
        let (pending, rows) = (self.ahead(dropped), self.places.own_rows);
        if pending < rows { Ok(()) } else { Err(Error::StepTableFull { pending, rows }) }
    }

    /// Rates have changed: rewrites them, and the factors ahead. Where that fails, the next step writes those that
    /// it is given then, or is refused.
    pub fn rates_changed(&mut self, to: &mut dyn Writes, rates: &Rates) -> Result<()> {
        self.rates_are_stale = true;
        self.write_rates(to, rates)?;
        self.write_factors(to, rates, self.progress.taken()..self.filled)?;
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
        self.progress.restart(state, executed_before);
        self.filled = self.progress.taken();
        for lane in &mut self.own {
            lane.confirmed = counts[lane.tensor].into();
            lane.filled = lane.confirmed;
        }
        self.write_rates(to, rates)?;
        self.fill(to, plan, rates)?;
        self.rates_are_stale = false;
        Ok(())
    }

    /// Extends every ring as far as the confirmed counts allow.
    fn fill(&mut self, to: &mut dyn Writes, plan: &Plan, rates: &Rates) -> Result<()> {
        let rows = self.filled..self.progress.taken() + STEP_ROWS;
        if !rows.is_empty() {
            self.write_rings(to, plan, rates, rows.clone())?;
            self.write_factors(to, rates, rows.clone())?;
            self.filled = rows.end;
        }
        self.fill_own(to, plan, rates)
    }

    fn ring_states(&self) -> impl Iterator<Item = RingState> {
        let groups = RingState { rows: STEP_ROWS, confirmed: self.progress.taken(), filled: self.filled };
        let own = self.own.iter().map(|lane| RingState {
            rows: self.places.own_rows,
            confirmed: lane.confirmed,
            filled: lane.filled,
        });
        std::iter::once(groups).chain(own)
    }
}

/// How far the rows of a ring are there.
struct RingState {
    rows: u64,
    confirmed: u64,
    filled: u64,
}

impl RingState {
    /// Counts from the confirmed one on that have a row.
    fn left(&self) -> u64 {
        self.filled - self.confirmed
    }
}

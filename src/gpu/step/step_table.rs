//! The step table: rates and scalars of coming steps, computed in f64 and uploaded ahead.
//!
//! Each track goes by a ring of rows that the GPU indexes with its own count of steps taken, so a skip or
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
    /// By group; the tracks of groups come first.
    groups: Vec<GroupTrack>,
    /// Tracks of tensors with one of their own, behind those of the groups.
    own: Vec<OwnTrack>,
    /// By tensor, whether it has one.
    has_own: Vec<bool>,
    progress: Progress,
    /// Whether a change of rates may have been written by half.
    rates_are_stale: bool,
}

/// The track of a group.
#[derive(Debug, Clone)]
struct GroupTrack {
    /// The ring of its scalars.
    ring: usize,
    /// Its schedule among all.
    schedule: usize,
    /// Whether none of its tensors goes by it: it has none, or was given other numbers than the groups that it shares its
    /// ring with.
    idle: bool,
    /// The [`Rates::version`] that is written.
    version: u64,
}

/// The track of a tensor that has missed steps, or whose group goes by a ring no longer.
#[derive(Debug, Clone)]
struct OwnTrack {
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
            groups: group_tracks(plan, rates),
            own: Vec::new(),
            has_own: vec![false; plan.tensors.len()],
            progress: Progress::default(),
            rates_are_stale: false,
        };
        let to: &mut dyn Writes = &mut &*gpu;
        table.write_tracks(to)?;
        table.write_rates(to, rates)?;
        table.fill(to, rates)?;
        Ok(table)
    }

    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Word offsets and sizes for the kernels: rates, factors, rows of factors.
    pub fn places(&self) -> [u32; 3] {
        [self.places.rates_at as u32, self.places.factors_at as u32, STEP_ROWS as u32]
    }

    pub fn tracks(&self) -> u32 {
        (self.groups.len() + self.own.len()) as u32
    }

    /// The scalars of each track's last step, if it has taken any, by the counts that are confirmed.
    pub fn last_scalars(&self, rates: &Rates) -> Vec<Scalars> {
        let of = |group: usize, count: u64| rates.scalars(group, count.saturating_sub(1));
        let groups = (0..self.groups.len()).map(|group| of(group, self.progress.taken()));
        groups.chain(self.own.iter().map(|track| of(track.group, track.confirmed))).collect()
    }

    /// Whether any tensor counts by itself, so that reports must bring the counts.
    pub fn needs_counts(&self) -> bool {
        !self.own.is_empty()
    }

    /// Whether a tensor has a track of its own.
    pub fn has_track(&self, tensor: usize) -> bool {
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
            self.own.iter_mut().for_each(|track| track.confirmed = counts[track.tensor].into());
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

    /// [`Progress::next_count`]
    pub fn next_count(&self, dropped: u64, accumulate: u64) -> u64 {
        self.progress.next_count(dropped, accumulate)
    }

    /// Makes room for one more step, with rows for every count that it can meet.
    pub fn reserve(&mut self, to: &mut dyn Writes, rates: &Rates, dropped: u64) -> Result<()> {
        if self.rates_are_stale {
            // Which of them is not known.
            self.groups.iter_mut().for_each(|track| track.version = u64::MAX);
            self.rates_changed(to, rates)?;
        }
        let ahead = self.ahead(dropped);
        let is_short = |ring: &RingState| ring.left() < ring.rows / 2 || ring.left() <= ahead;
        if self.ring_states().any(|ring| is_short(&ring)) {
            self.fill(to, rates)?;
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

    /// Gives tensors without one a track of their own, since from now on they can miss steps: those with the counts
    /// that they have, or without one those of all. Returns tensors and tracks.
    ///
    /// Steps recorded earlier will use them too, as their upload lands before them; so their rows must cover
    /// all that are under way.
    pub fn add_tracks(
        &mut self,
        to: &mut dyn Writes,
        plan: &Plan,
        rates: &Rates,
        tensors: impl IntoIterator<Item = (usize, Option<u32>)>,
        dropped: u64,
    ) -> Result<Vec<(usize, u32)>> {
        let mut added = Vec::new();
        for (tensor, count) in tensors {
            if self.has_track(tensor) {
                continue;
            }
            // Without a count of its own it has missed none yet.
            let start = count.map_or(self.progress.taken(), u64::from);
            self.has_own[tensor] = true;
            added.push((tensor, self.tracks()));
            self.own.push(OwnTrack { group: plan.tensors[tensor].group, tensor, confirmed: start, filled: start });
        }
        if !added.is_empty() {
            self.check_tracks(dropped)?;
            self.write_tracks(to)?;
            self.fill(to, rates)?;
        }
        Ok(added)
    }

    /// Whether tensors could have tracks of their own now.
    pub fn check_tracks(&self, dropped: u64) -> Result<()> {
        let (pending, rows) = (self.ahead(dropped), self.places.own_rows);
        if pending < rows { Ok(()) } else { Err(Error::StepTableFull { pending, rows }) }
    }

    /// The groups that these rates have leave a ring which others go by too.
    pub fn parting(&self, rates: &Rates) -> Vec<usize> {
        let mut followers = vec![0; self.groups.len()];
        self.groups.iter().filter(|track| !track.idle).for_each(|track| followers[track.ring] += 1);
        let mut parting = Vec::new();
        for (group, track) in self.groups.iter().enumerate().filter(|(_, track)| !track.idle) {
            // The last one stays: the ring is its own then.
            if followers[track.ring] > 1 && rates.stands_apart(group) {
                followers[track.ring] -= 1;
                parting.push(group);
            }
        }
        parting
    }

    /// Those groups go by their rings no longer; their tensors are to have tracks of their own.
    pub fn part(&mut self, groups: &[usize]) {
        groups.iter().for_each(|group| self.groups[*group].idle = true);
    }

    /// What follows may be written by half.
    pub fn rates_may_be_stale(&mut self) {
        self.rates_are_stale = true;
    }

    /// Rates have changed: rewrites them, the factors ahead, and the rows ahead of groups whose numbers have changed.
    /// Where that fails, the next step writes those that it is given then, or is refused.
    pub fn rates_changed(&mut self, to: &mut dyn Writes, rates: &Rates) -> Result<()> {
        self.rates_are_stale = true;
        self.write_rates(to, rates)?;
        let rows = self.progress.taken()..self.filled;
        self.write_factors(to, rates, rows.clone())?;
        let changed: Vec<_> = (0..self.groups.len()).map(|g| self.groups[g].version != rates.version(g)).collect();
        if changed.contains(&true) {
            self.write_rings(to, rates, rows, |group| changed[group])?;
            let own = self.own.iter_mut().filter(|track| changed[track.group]);
            own.for_each(|track| track.filled = track.confirmed);
            self.fill_own(to, rates)?;
        }
        self.take_versions(rates);
        self.rates_are_stale = false;
        Ok(())
    }

    fn take_versions(&mut self, rates: &Rates) {
        self.groups.iter_mut().enumerate().for_each(|(group, track)| track.version = rates.version(group));
    }

    /// A state is loaded while nothing is under way: counts start from there, with those rates. Returns the groups whose
    /// tensors are to have tracks of their own.
    pub fn restart(
        &mut self,
        to: &mut dyn Writes,
        rates: &Rates,
        state: &OptimizerState,
        counts: &[u32],
        executed_before: u64,
    ) -> Result<Vec<usize>> {
        self.progress.restart(state, executed_before);
        self.filled = self.progress.taken();
        for track in &mut self.own {
            track.confirmed = counts[track.tensor].into();
            track.filled = track.confirmed;
        }
        let parting = self.parting(rates);
        self.part(&parting);
        self.write_rates(to, rates)?;
        self.fill(to, rates)?;
        self.take_versions(rates);
        self.rates_are_stale = false;
        Ok(parting)
    }

    /// Extends every ring as far as the confirmed counts allow.
    fn fill(&mut self, to: &mut dyn Writes, rates: &Rates) -> Result<()> {
        let rows = self.filled..self.progress.taken() + STEP_ROWS;
        if !rows.is_empty() {
            self.write_rings(to, rates, rows.clone(), |_| true)?;
            self.write_factors(to, rates, rows.clone())?;
            self.filled = rows.end;
        }
        self.fill_own(to, rates)
    }

    fn ring_states(&self) -> impl Iterator<Item = RingState> {
        let groups = RingState { rows: STEP_ROWS, confirmed: self.progress.taken(), filled: self.filled };
        let own = self.own.iter().map(|track| RingState {
            rows: self.places.own_rows,
            confirmed: track.confirmed,
            filled: track.filled,
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

fn group_tracks(plan: &Plan, rates: &Rates) -> Vec<GroupTrack> {
    let mut idle = vec![true; plan.groups.len()];
    (0..plan.tensors.len()).filter(|t| plan.is_live(*t)).for_each(|t| idle[plan.tensors[t].group] = false);
    let mut schedules = 0;
    let track = |(group, idle): (usize, bool)| {
        let schedule = match plan.groups[group].schedule {
            Some(_) => {
                schedules += 1;
                schedules
            }
            None => 0,
        };
        GroupTrack { ring: plan.scalars.of_group(group), schedule, idle, version: rates.version(group) }
    };
    idle.into_iter().enumerate().map(track).collect()
}

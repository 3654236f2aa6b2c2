//! Writes the rows of the step table.

use std::collections::HashMap;
use std::ops::Range;

use bytemuck::cast_slice;

use super::{GroupTrack, OwnTrack, STEP_ROWS, StepTable};
use crate::config::schedule::held;
use crate::error::Result;
use crate::gpu::abi::{ROW_WORDS, RatesRow, TrackSource};
use crate::gpu::device::upload::Writes;
use crate::plan::rates::{GroupRates, Rates};
use crate::rule::hyper::MAX_SCALARS;

/// Of tensors' own rings, so many in one write at most.
const OWN_WRITE: usize = 4096;

impl StepTable {
    /// Those rows of the rings that groups go by, of rings of groups that are `wanted`.
    pub(super) fn write_rings(
        &self,
        to: &mut dyn Writes,
        rates: &Rates,
        rows: Range<u64>,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<()> {
        let mut written = vec![false; self.groups.len()];
        for (group, track) in self.groups.iter().enumerate().filter(|(group, track)| !track.idle && wanted(*group)) {
            // All that go by it have the same.
            if !std::mem::replace(&mut written[track.ring], true) {
                let row = |count: u64| row_of(rates, group, count);
                self.write_ring(to, self.places.ring(track.ring), STEP_ROWS, rows.clone(), row)?;
            }
        }
        Ok(())
    }

    /// Extends the tensors' own rings, which are short and many: neighbours in one write, as a write costs more than
    /// what it brings. So whole rings are written, with the rows that are there already as they are.
    pub(super) fn fill_own(&mut self, to: &mut dyn Writes, rates: &Rates) -> Result<()> {
        let rows = self.places.own_rows;
        // Most tensors share a group and a count with others.
        let mut rings: HashMap<(usize, u64), Vec<[f32; ROW_WORDS]>> = HashMap::new();
        let lacking = |track: &OwnTrack| track.filled < track.confirmed + rows;
        let mut next = 0;
        while next < self.own.len() {
            let run = self.own[next..].iter().take_while(|track| lacking(track)).take(OWN_WRITE).count();
            let tracks = next..next + run;
            next = tracks.end.max(next + 1);
            let mut written = Vec::new();
            for track in &self.own[tracks.clone()] {
                let ring = rings.entry((track.group, track.confirmed)).or_insert_with(|| {
                    let mut ring = vec![[0.0; ROW_WORDS]; rows as usize];
                    for count in track.confirmed..track.confirmed + rows {
                        ring[(count % rows) as usize] = row_of(rates, track.group, count);
                    }
                    ring
                });
                written.extend_from_slice(ring);
            }
            if run > 0 {
                to.put(&self.buffer, self.places.own_ring(tracks.start) * 4, cast_slice(written.as_flattened()))?;
            }
            for track in &mut self.own[tracks] {
                track.filled = track.confirmed + rows;
            }
        }
        Ok(())
    }

    /// The factors of those steps, of every schedule.
    pub(super) fn write_factors(&self, to: &mut dyn Writes, rates: &Rates, rows: Range<u64>) -> Result<()> {
        let own = self.groups.iter().enumerate().filter(|(_, track)| track.schedule > 0);
        for (group, track) in std::iter::once((0, &self.groups[0])).chain(own) {
            let factor = |t: u64| [(rates.factor_of(group, t) * rates.unit_of(group)) as f32];
            self.write_ring(to, self.places.factors(track.schedule), STEP_ROWS, rows.clone(), factor)?;
        }
        Ok(())
    }

    fn write_ring<const N: usize>(
        &self,
        to: &mut dyn Writes,
        at: u64,
        rows: u64,
        range: Range<u64>,
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

    pub(super) fn write_tracks(&self, to: &mut dyn Writes) -> Result<()> {
        let groups = self.groups.iter().enumerate().map(|(group, track)| TrackSource {
            group: group as u32,
            counts: 0,
            rows_at: self.places.ring(track.ring) as u32,
            rows: STEP_ROWS as u32,
        });
        let own = self.own.iter().enumerate().map(|(place, track)| TrackSource {
            group: track.group as u32,
            counts: track.tensor as u32 + 1,
            rows_at: self.places.own_ring(place) as u32,
            rows: self.places.own_rows as u32,
        });
        let rows: Vec<_> = groups.chain(own).collect();
        to.put(&self.buffer, 0, cast_slice(&rows))
    }

    pub(super) fn write_rates(&self, to: &mut dyn Writes, rates: &Rates) -> Result<()> {
        let row = |(group, track): (usize, &GroupTrack)| {
            let rate = rates.groups()[group];
            // Where the rows have it, its kind is left.
            let scheduled = rates.scheduled_decay(group, 0).is_some();
            let decays =
                if scheduled { GroupRates { decay: rate.decay.with_lambda(1.0), ..rate } } else { rate }.decays();
            RatesRow {
                lr: held(rate.lr * rate.scale / rates.unit_of(group)) as f32,
                coupled: decays.coupled as f32,
                decoupled: decays.decoupled as f32,
                in_ratio: decays.in_ratio as f32,
                sign: rate.sign as f32,
                factors_at: if rate.scaled { self.places.factors(track.schedule) as u32 } else { 0 },
                spare: [0; 2],
            }
        };
        let rows: Vec<_> = self.groups.iter().enumerate().map(row).collect();
        to.put(&self.buffer, self.places.rates_at * 4, cast_slice(&rows))
    }
}

/// The row for that count of steps taken.
fn row_of(rates: &Rates, group: usize, count: u64) -> [f32; ROW_WORDS] {
    let mut row = [0.0; ROW_WORDS];
    for (word, scalar) in row.iter_mut().zip(rates.scalars(group, count)) {
        *word = scalar as f32;
    }
    row[MAX_SCALARS] = rates.scheduled_decay(group, count).unwrap_or(1.0) as f32;
    row
}

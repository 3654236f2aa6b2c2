//! What the device told of the steps.

use wgpu_optim::{Health, Report};

/// Reports and looks at the gradients' health as far as they have arrived, oldest first. A run does
/// not wait for them, so not every step has one.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    pub reports: Vec<Report>,
    pub looks: Vec<Health>,
}

impl Telemetry {
    /// Keeps a report unless it is known.
    pub fn report(&mut self, report: Option<Report>) {
        let step = |r: &Report| r.steps_taken + r.steps_skipped;
        let known = self.reports.last().map_or(0, step);
        self.reports.extend(report.filter(|r| step(r) > known));
    }

    /// Keeps a look unless it is known.
    pub fn look(&mut self, look: Option<&Health>) {
        let known = self.looks.last().map_or(0, |look| look.steps_taken);
        self.looks.extend(look.filter(|look| look.steps_taken > known).cloned());
    }
}

//! What became of the steps that were recorded, as far as the device has told.

use super::optimizer::Optimizer;
use super::phases::Phase;
use crate::error::{Error, Result};
use crate::gpu::readback::download::Source;
use crate::gpu::readback::reports::Snapshot;
use crate::state::report::Report;

impl Optimizer {
    /// The newest report that has arrived, of a whole step where micro-batches are added up and one is taken. Never
    /// waits; steps submitted just now are not in it.
    ///
    /// # Errors
    /// The device is lost.
    pub fn report(&mut self) -> Result<Option<Report>> {
        self.collect()?;
        Ok(self.latest.as_ref().map(|snapshot| self.report_of(snapshot)))
    }

    /// Waits until everything submitted is done and gives the newest report.
    ///
    /// # Errors
    /// The device is lost, or does not finish within [`Gpu::timeout`](crate::gpu::Gpu::timeout).
    pub fn wait_for_report(&mut self) -> Result<Option<Report>> {
        let snapshot = self.sync()?;
        Ok(self.step_table.is_of_a_step(&snapshot).then(|| self.report_of(&snapshot)))
    }

    /// Reads the control block as it is after all that is submitted. Other threads may be about to run
    /// this optimizer's callbacks, so reports alone do not tell that.
    pub(in crate::gpu) fn sync(&mut self) -> Result<Snapshot> {
        let control = Source { buffer: self.tables.control.clone(), offset: 0, size: self.tables.control.size() };
        // What has ended by now is in the copy, or was refused. What ends later may be in neither.
        self.gpu.wait_for_queue("the end of what was submitted")?;
        let (ended, changes) = (self.reports.ended(), self.phases.pending());
        let parts = self.gpu.download(&[control])?.wait()?;
        self.collect()?;
        let snapshot = Snapshot::of(&parts[0], true);
        self.take(snapshot.clone());
        self.step_table.settle(ended);
        if changes == 0 {
            self.phases.settle(Phase::of(snapshot.control.phase));
        }
        Ok(snapshot)
    }

    /// Whether all that is recorded so far is done or dropped, as far as is known after [`Optimizer::sync`].
    pub(in crate::gpu) fn check_idle(&self) -> Result<()> {
        // Another thread that polls may be about to run the callbacks of what is done.
        let mut looks = 0..20;
        while self.phases.pending() > 0 && looks.next().is_some() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        match self.step_table.ahead(self.reports.dropped()) + self.phases.pending() {
            0 => Ok(()),
            pending => Err(Error::StepsUnderWay { pending }),
        }
    }

    pub(in crate::gpu) fn collect(&mut self) -> Result<()> {
        self.gpu.poll()?;
        if self.gpu.faults().stalls_readbacks() {
            return Ok(());
        }
        for snapshot in self.reports.collect() {
            self.take(snapshot);
        }
        // Frees the slots, so that later looks find one.
        if let Some(monitor) = &mut self.monitor {
            monitor.latest(&self.plan, self.reports.generation());
        }
        Ok(())
    }

    fn take(&mut self, snapshot: Snapshot) {
        self.step_table.confirm(&snapshot);
        // A micro-batch that is only accumulated tells less than a step, and is told of until there is one.
        let newer = self.latest.as_ref().is_none_or(|latest| {
            latest.executed() <= snapshot.executed() && (snapshot.completes() || !latest.completes())
        });
        if newer && self.step_table.is_of_a_step(&snapshot) {
            self.latest = Some(snapshot);
        }
    }

    fn report_of(&self, snapshot: &Snapshot) -> Report {
        let control = &snapshot.control;
        let power = |exponent: i32| f64::from(exponent).exp2();
        let norm = f64::from(control.norm_mantissa) * power(control.norm_exponent);
        // A micro-batch that is only accumulated has no norm, and is not clipped.
        let completes = snapshot.completes();
        Report {
            steps_taken: control.taken.into(),
            steps_skipped: control.skipped.into(),
            skipped: control.skip != 0,
            nonfinite: control.nonfinite.into(),
            lr: control.lr.into(),
            global_norm: (completes && self.plan.gradient.needs_norm()).then_some(norm),
            clip_coefficient: if completes { f64::from(control.coefficient) * power(control.exponent) } else { 1.0 },
            loss_scale: control.loss_scale.into(),
            accumulated: control.micro.into(),
            without_gradient: self.fed.missing(),
        }
    }
}

//! Waits for the device, none of them without an end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::context::Gpu;
use crate::error::{Error, Result};

/// How long a blocking call waits for the device, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// [`Gpu::timeout`], in nanoseconds; the largest number is no end.
#[derive(Debug)]
pub struct Patience(AtomicU64);

impl Default for Patience {
    fn default() -> Self {
        Self(AtomicU64::new(TIMEOUT.as_nanos() as u64))
    }
}

impl Gpu {
    /// How long a blocking call waits for the device before it is an [`Error::Timeout`]. A minute, unless
    /// [`Gpu::set_timeout`] says otherwise.
    pub fn timeout(&self) -> Duration {
        match self.patience().0.load(Ordering::Relaxed) {
            u64::MAX => Duration::MAX,
            nanos => Duration::from_nanos(nanos),
        }
    }

    /// Sets [`Gpu::timeout`] for all that share the device. The device does what is submitted in order, so a call waits
    /// for the caller's own work too: who submits more than a minute's of it sets a longer time, or [`Duration::MAX`] to
    /// wait for as long as it takes.
    pub fn set_timeout(&self, timeout: Duration) {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.patience().0.store(nanos, Ordering::Relaxed);
    }

    /// What is left of the time to wait for something since then.
    fn left(&self, since: Instant) -> Duration {
        match self.timeout() {
            Duration::MAX => Duration::MAX,
            timeout => timeout.saturating_sub(since.elapsed()),
        }
    }

    /// That the time since then is up, if it is.
    pub(in crate::gpu) fn check_time(&self, what: &'static str, since: Instant) -> Result<()> {
        if !self.left(since).is_zero() {
            return Ok(());
        }
        let polled = self.poll_device(wgpu::PollType::Poll);
        self.check_alive()?;
        let busy = !matches!(polled, Ok(wgpu::PollStatus::QueueEmpty));
        Err(Error::Timeout { what, after: self.timeout(), busy })
    }

    /// Lets the device make progress without waiting.
    pub(in crate::gpu) fn poll(&self) -> Result<()> {
        self.check_lost()?;
        // Only a wait can fail.
        let _ = self.poll_device(wgpu::PollType::Poll);
        self.check_alive()
    }

    /// Waits until all that was submitted is done, for what is left of the time since then.
    pub(in crate::gpu) fn wait(&self, what: &'static str, since: Instant) -> Result<()> {
        self.check_lost()?;
        let timeout = Some(self.left(since)).filter(|left| *left < Duration::MAX);
        let waited = self.poll_device(wgpu::PollType::Wait { submission_index: None, timeout });
        self.check_alive()?;
        waited.map(drop).map_err(|_| Error::Timeout { what, after: self.timeout(), busy: true })
    }

    /// Waits for what was submitted before something more is, for which a call will wait anyway: some drivers wait in the
    /// submission itself, without an end.
    pub(in crate::gpu) fn wait_for_queue(&self, what: &'static str) -> Result<()> {
        self.wait(what, Instant::now())
    }

    /// A driver that loses the device while it is polled makes wgpu panic: by then the device is only good for being
    /// dropped, so the panic ends here and the lost flag stays, with its text. A callback of the caller's that panics
    /// cannot be told from it, and may have left wgpu's locks poisoned as well.
    fn poll_device(&self, poll: wgpu::PollType) -> Result<wgpu::PollStatus, wgpu::PollError> {
        let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.faults().poll();
            self.device().poll(poll)
        }));
        polled.unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
            self.set_lost(&format!("a panic while it was polled: {text}"));
            Err(wgpu::PollError::Timeout)
        })
    }
}

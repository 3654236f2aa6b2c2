//! What steps did, read back late, and which recorded steps will never be done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::context::Gpu;
use super::mailbox::Mailbox;
use super::rows::Control;
use super::tables::control_bytes;
use crate::Result;
use crate::step::Plan;

/// Steps whose report can be under way at once; a step that finds none free has no report.
const SLOTS: usize = 8;

#[derive(Debug)]
pub struct Reports {
    mailbox: Mailbox<Asked>,
    bytes: u64,
    /// Counts the states loaded: reports asked for earlier speak of the old one.
    generation: u64,
    dropped: Arc<AtomicU64>,
}

/// What a report was asked for.
#[derive(Debug)]
struct Asked {
    /// Whether the tensors' counts were copied too.
    counts: bool,
    generation: u64,
}

/// Lives in the encoder's callback: called when the step is done, dropped if it never will be.
struct StepGuard {
    dropped: Arc<AtomicU64>,
    finished: bool,
}

impl StepGuard {
    fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for StepGuard {
    fn drop(&mut self) {
        if !self.finished {
            self.dropped.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// The control block as a step left it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub control: Control,
    /// The tensors' counts, where they were asked for.
    pub counts: Option<Vec<u32>>,
}

impl Snapshot {
    /// The snapshot in the bytes of a control block.
    pub fn of(control: &[u8], counts: bool) -> Self {
        let (head, rest) = control.split_at(size_of::<Control>());
        let counts = counts.then(|| rest.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect());
        Self { control: bytemuck::pod_read_unaligned(head), counts }
    }

    /// The word of a tensor in what follows all tensors' counts; 0 where nothing does.
    pub fn word_after_counts(&self, tensors: usize, tensor: usize) -> u32 {
        self.counts.as_ref().and_then(|words| words.get(tensors + tensor)).copied().unwrap_or(0)
    }

    /// Steps that the device has executed: taken, skipped or only accumulated.
    pub fn executed(&self) -> u64 {
        [self.control.taken, self.control.skipped, self.control.accumulated].map(u64::from).iter().sum()
    }
}

/// Bytes of all slots.
pub fn bytes(plan: &Plan) -> u64 {
    SLOTS as u64 * control_bytes(plan)
}

impl Reports {
    pub fn new(gpu: &Gpu, plan: &Plan) -> Result<Self> {
        let bytes = control_bytes(plan);
        let mailbox = Mailbox::new(gpu, "report", SLOTS, bytes)?;
        Ok(Self { mailbox, bytes, generation: 0, dropped: Arc::default() })
    }

    /// Recorded steps that were dropped unsubmitted.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Acquire)
    }

    /// Copies the control block into a free slot, if there is one, and follows the step's fate in any
    /// case.
    pub fn request(&mut self, encoder: &mut wgpu::CommandEncoder, control: &wgpu::Buffer, counts: bool) {
        let guard = StepGuard { dropped: self.dropped.clone(), finished: false };
        encoder.on_submitted_work_done(move || guard.finish());
        let bytes = if counts { self.bytes } else { size_of::<Control>() as u64 };
        let asked = Asked { counts, generation: self.generation };
        self.mailbox.post(encoder, asked, |encoder, slot| encoder.copy_buffer_to_buffer(control, 0, slot, 0, bytes));
    }

    /// Drops the reports that are under way.
    pub fn forget(&mut self) {
        self.generation += 1;
    }

    /// The reports that have arrived since, the oldest first.
    pub fn collect(&mut self) -> Vec<Snapshot> {
        let current = self.generation;
        let read =
            |asked: Asked, bytes: &[u8]| (asked.generation == current).then(|| Snapshot::of(bytes, asked.counts));
        let mut arrived: Vec<_> = self.mailbox.collect(read).into_iter().flatten().collect();
        arrived.sort_by_key(Snapshot::executed);
        arrived
    }
}

//! What steps did, read back late, and which recorded steps will never be done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::mailbox::Mailbox;
use crate::error::Result;
use crate::gpu::abi::{Control, control_bytes};
use crate::gpu::device::context::Gpu;
use crate::plan::Plan;

/// Steps whose report can be under way at once; a step that finds none free has no report.
const SLOTS: usize = 8;

/// Of these, slots that micro-batches leave to what completes a step.
const OF_STEPS: usize = SLOTS / 2;

/// Of the state that an optimizer starts with: not that of memory that nothing was ever copied to.
pub const FIRST_GENERATION: u32 = 1;

#[derive(Debug)]
pub struct Reports {
    /// Whether the tensors' counts were copied too.
    mailbox: Mailbox<bool>,
    bytes: u64,
    /// Counts the states loaded, as the control block does: a report that has another number was copied before, or
    /// never copied, and is what its slot held from before.
    generation: u32,
    dropped: Arc<AtomicU64>,
    finished: Arc<AtomicU64>,
}

/// How recorded steps have ended, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Dropped unsubmitted.
    pub dropped: u64,
    /// Submitted, and done or refused: wgpu tells of both in one way.
    pub finished: u64,
}

/// Lives in the encoder's callback: called when the step is done, dropped if it never will be.
struct StepGuard {
    dropped: Arc<AtomicU64>,
    finished: Arc<AtomicU64>,
    was_called: bool,
}

impl StepGuard {
    fn finish(mut self) {
        self.was_called = true;
    }
}

impl Drop for StepGuard {
    fn drop(&mut self) {
        let ended = if self.was_called { &self.finished } else { &self.dropped };
        ended.fetch_add(1, Ordering::AcqRel);
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

    /// Whether it is of a step, and not of a micro-batch that is only accumulated.
    pub fn completes(&self) -> bool {
        self.control.micro == 0
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
        Ok(Self { mailbox, bytes, generation: FIRST_GENERATION, dropped: Arc::default(), finished: Arc::default() })
    }

    /// Recorded steps that were dropped unsubmitted.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Acquire)
    }

    /// How recorded steps have ended, as far as callbacks have told.
    pub fn ended(&self) -> Ended {
        Ended { dropped: self.dropped(), finished: self.finished.load(Ordering::Acquire) }
    }

    /// Copies the control block into a free slot, if there is one, and follows the step's fate in any
    /// case. `completes` says whether it is thought to complete a step.
    pub fn request(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        control: &wgpu::Buffer,
        counts: bool,
        completes: bool,
    ) {
        let guard = StepGuard { dropped: self.dropped.clone(), finished: self.finished.clone(), was_called: false };
        encoder.on_submitted_work_done(move || guard.finish());
        let bytes = if counts { self.bytes } else { size_of::<Control>() as u64 };
        if self.mailbox.free() <= if completes { 0 } else { OF_STEPS } {
            return;
        }
        self.mailbox.post(encoder, counts, |encoder, slot| encoder.copy_buffer_to_buffer(control, 0, slot, 0, bytes));
    }

    /// The number of the state that is loaded.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The number of the state that is loaded next.
    pub fn next_generation(&self) -> u32 {
        self.generation.wrapping_add(1)
    }

    /// That state is loaded: what was reported of the old one no longer counts.
    pub fn forget(&mut self) {
        self.generation = self.next_generation();
    }

    /// The reports that have arrived since, the oldest first.
    pub fn collect(&mut self) -> Vec<Snapshot> {
        let mut arrived = self.mailbox.collect(|counts, bytes| Snapshot::of(bytes, counts));
        arrived.retain(|snapshot| snapshot.control.generation == self.generation);
        arrived.sort_by_key(Snapshot::executed);
        arrived
    }
}

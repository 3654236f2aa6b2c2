//! Health, from passes of its own over the gradients and from the update itself, at an interval.

use super::tables::Tables;
use crate::config::{Due, HealthConfig};
use crate::error::Result;
use crate::gpu::abi::{Control, Partial};
use crate::gpu::device::context::Gpu;
use crate::gpu::readback::download::Source;
use crate::gpu::readback::mailbox::Mailbox;
use crate::plan::Plan;
use crate::state::health::{Health, Seen};

/// Looks that can be under way at once; a step that finds none free is not looked at, but a later one.
const SLOTS: usize = 2;

#[derive(Debug)]
pub struct Monitor {
    config: HealthConfig,
    due: Due,
    /// Whether the last look met a micro-batch that was thought to complete a step: then every one is tried.
    misjudged: bool,
    mailbox: Mailbox<Vec<usize>>,
    latest: Option<Health>,
}

impl Monitor {
    pub fn new(gpu: &Gpu, plan: &Plan, config: HealthConfig) -> Result<Self> {
        config.check().map_err(|e| e.within("health"))?;
        let sums = 3 * plan.tensors.len() * size_of::<Partial>();
        let mailbox = Mailbox::new(gpu, "health", SLOTS, (size_of::<Control>() + sums) as u64)?;
        Ok(Self { due: Due::new(config.interval), config, misjudged: false, mailbox, latest: None })
    }

    pub fn config(&self) -> &HealthConfig {
        &self.config
    }

    /// Counts a recorded step or micro-batch, and says whether to look at it. Whether it completes a step only the
    /// device knows; what the host thinks is right unless encoders are dropped or reordered.
    pub fn is_due(&mut self, completes: bool) -> bool {
        self.due.next((completes || self.misjudged) && self.mailbox.free() > 0)
    }

    /// Records the copy of what this step's passes found, for the tensors that have a gradient.
    pub fn request(&mut self, encoder: &mut wgpu::CommandEncoder, tables: &Tables, seen: Vec<usize>) {
        let head = size_of::<Control>() as u64;
        let Source { buffer, offset, size } = tables.looks();
        self.mailbox.post(encoder, seen, |encoder, slot| {
            encoder.copy_buffer_to_buffer(&tables.control, 0, slot, 0, head);
            encoder.copy_buffer_to_buffer(&buffer, offset, slot, head, size);
        });
    }

    /// Another state is loaded: what was seen with the one before no longer counts.
    pub fn forget(&mut self) {
        self.latest = None;
    }

    /// The newest look that has arrived, of the state with that number.
    pub fn latest(&mut self, plan: &Plan, generation: u32) -> Option<&Health> {
        let config = &self.config;
        let arrived = self.mailbox.collect(|seen, bytes| read(config, plan, generation, &seen, bytes));
        for look in arrived.into_iter().flatten() {
            let Look::At(health) = look else {
                self.misjudged = true;
                self.due.again();
                continue;
            };
            self.misjudged = false;
            if self.latest.as_ref().is_none_or(|latest| latest.steps_taken <= health.steps_taken) {
                self.latest = Some(health);
            }
        }
        self.latest.as_ref()
    }
}

/// What a look met.
enum Look {
    At(Health),
    /// A micro-batch that was only accumulated.
    BetweenSteps,
}

/// `None` for what is not of the state with that number.
fn read(config: &HealthConfig, plan: &Plan, generation: u32, seen: &[usize], bytes: &[u8]) -> Option<Look> {
    let (head, rest) = bytes.split_at(size_of::<Control>());
    let control: Control = bytemuck::pod_read_unaligned(head);
    if control.generation != generation {
        return None;
    }
    if control.micro != 0 {
        return Some(Look::BetweenSteps);
    }
    let sums: Vec<Partial> = rest.chunks_exact(size_of::<Partial>()).map(bytemuck::pod_read_unaligned).collect();
    let count = plan.tensors.len();
    let tensors = seen
        .iter()
        .map(|&t| {
            let gradient = &sums[t];
            let found = Seen {
                elements: plan.tensors[t].elements,
                gradient_norm: gradient.norm(),
                gradient_max: gradient.largest.into(),
                zeros: gradient.zeros.into(),
                nonfinite: gradient.count.into(),
                weights_norm: sums[count + t].norm(),
                change_norm: sums[2 * count + t].norm(),
            };
            (plan.tensors[t].spec.name.clone(), found)
        })
        .collect();
    Some(Look::At(Health::judge(config, control.taken.into(), tensors)))
}

//! Sums by tensor of what blocks have found, in stages: groups of blocks where there are many, then tensors.

use bytemuck::cast_slice;
use wgpu::{Buffer, BufferUsages};

use crate::error::Result;
use crate::gpu::abi::Partial;
use crate::gpu::device::context::Gpu;
use crate::plan::layout::Layout;
use crate::shader::WORKGROUP;

/// Parts, tracks and tensors that the few threads of a CPU adapter's workgroups go through one after the other at most.
/// Software Vulkan ends an invocation's loops after 65,535 rounds in all; beyond a few thousand, more threads are no
/// slower.
const FEW: usize = 1 << 14;

/// Sets of parts that a sum goes through at most: a look at the steps' health has two whatever the rule.
const SETS: u64 = 2;

/// Groups of blocks whose parts are added up first.
#[derive(Debug)]
pub struct Groups {
    pub table: Buffer,
    pub parts: Buffer,
}

/// Threads of a workgroup that goes through that many rows in all.
pub fn workgroup(gpu: &Gpu, rows: usize) -> u32 {
    if rows > FEW { WORKGROUP } else { gpu.workgroup_size() }
}

/// Bytes of the groups' table and of their parts.
pub fn bytes(layout: &Layout) -> u64 {
    size_of_val(layout.groups.as_slice()) as u64 + part_bytes(layout)
}

fn part_bytes(layout: &Layout) -> u64 {
    SETS * (layout.groups.len() * size_of::<Partial>()) as u64
}

impl Groups {
    /// `None` where there are too few blocks for groups.
    pub fn new(gpu: &Gpu, layout: &Layout) -> Result<Option<Self>> {
        if layout.groups.is_empty() {
            return Ok(None);
        }
        let table = gpu.buffer_of("groups of blocks", cast_slice(&layout.groups), BufferUsages::STORAGE)?;
        let parts = gpu.buffer("parts of groups", part_bytes(layout), BufferUsages::STORAGE)?;
        Ok(Some(Self { table, parts }))
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::{Zeroable, bytes_of};

    use super::*;
    use crate::gpu::abi::{Control, Settings, TensorRow};
    use crate::gpu::device::pipelines::Author;
    use crate::gpu::device::pipelines::layout_of;
    use crate::gpu::readback::download::Source;
    use crate::rules::Sgd;
    use crate::shader::{self, Kernel, Parts};
    use crate::{Arena, Optimizer, OptimizerConfig, TensorSpec};

    fn with(count: u32, zeros: u32) -> Partial {
        Partial { count, zeros, ..Partial::zeroed() }
    }

    /// What a kernel that sums parts up makes of those of one tensor or group.
    fn sum(gpu: &Gpu, kernel: Kernel, parts: &[Partial]) -> Partial {
        let count = parts.len() as u32;
        let row = TensorRow { partials: count, ..TensorRow::zeroed() };
        let sums_at = (size_of::<TensorRow>() / 4) as u32;
        let settings = Settings { blocks: count, parts: count, tensors: 1, sums_at, ..Settings::zeroed() };
        let storage = BufferUsages::STORAGE;
        let settings = gpu.buffer_of("settings", bytes_of(&settings), BufferUsages::UNIFORM).unwrap();
        let parts = gpu.buffer_of("parts", cast_slice(parts), storage).unwrap();
        let copied = storage | BufferUsages::COPY_SRC;
        let bindings = layout_of(&kernel.tables);
        let (rows, at) = match kernel.entry {
            "sum_groups" => (gpu.buffer_of("rows", cast_slice(&[[0, count]]), storage).unwrap(), 0),
            _ => {
                let tables = [bytes_of(&row), bytes_of(&Partial::zeroed())].concat();
                (gpu.buffer_of("tables", &tables, copied).unwrap(), size_of::<TensorRow>())
            }
        };
        let sums = gpu.buffer("sums", size_of::<Partial>() as u64, copied).unwrap();
        let buffers = [&settings, &rows, &parts, &sums].map(Buffer::as_entire_binding);
        let entries: Vec<_> = (0..bindings.len() as u32).zip(buffers).collect();
        let group = gpu.bind_group("sum", &gpu.layout(&bindings).unwrap(), &entries).unwrap();
        let pipeline = gpu.pipeline(kernel, Author::Ours, &[bindings]).unwrap();
        let mut encoder = gpu.device().create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.dispatch_workgroups(1, 1, 1);
        }
        gpu.queue().submit([encoder.finish()]);
        let from = if at > 0 { rows } else { sums };
        let bytes = gpu.download(&[Source::whole(&from)]).unwrap().wait().unwrap().concat();
        bytemuck::pod_read_unaligned(&bytes[at..at + size_of::<Partial>()])
    }

    #[test]
    fn elements_that_are_found_stay_at_the_largest_count() {
        let gpu = Gpu::headless().unwrap_or_else(|e| panic!("this test needs a GPU adapter: {e}"));
        let spec = TensorSpec::new("w", [5000]);
        let arena = Arena::new(&gpu, vec![spec]).unwrap();
        arena.write_gradient("w", &[f32::INFINITY; 5000]).unwrap();
        let config = OptimizerConfig::new(Sgd::default());
        let mut optimizer = Optimizer::new(&gpu, &config, arena.tensors().to_vec()).unwrap();
        let found_at = std::mem::offset_of!(Control, found) as u64;
        for (before, found) in [(0, 5000), (u32::MAX - 4999, u32::MAX), (u32::MAX, u32::MAX), (0, 5000)] {
            // As if other spans had been read already.
            gpu.put(&optimizer.tables.control, found_at, bytes_of(&before)).unwrap();
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            optimizer.step(&mut encoder).unwrap();
            gpu.queue().submit([encoder.finish()]);
            let report = optimizer.wait_for_report().unwrap().unwrap();
            assert_eq!((report.nonfinite, report.skipped), (found.into(), true), "{before}");
        }
    }

    #[test]
    fn counts_that_pass_32_bits_stay_at_the_largest() {
        let gpu = Gpu::headless().unwrap_or_else(|e| panic!("this test needs a GPU adapter: {e}"));
        const HALF: u32 = 1 << 31;
        // Twice 2^32 in all, and 2^32 - 1.
        let parts = [with(HALF, 1), with(HALF, HALF), with(HALF, HALF - 2), with(HALF, 0)];
        for kernel in [shader::sum_groups(Parts::Step), shader::sum_tensors(Parts::Step)] {
            for threads in [8, 256] {
                let found = sum(&gpu, kernel.clone().with_workgroup(threads), &parts);
                assert_eq!((found.count, found.zeros), (u32::MAX, u32::MAX), "{} {threads}", kernel.entry);
                let found = sum(&gpu, kernel.clone().with_workgroup(threads), &parts[..1]);
                assert_eq!((found.count, found.zeros), (HALF, 1), "{} {threads}", kernel.entry);
            }
        }
    }
}

//! Writes through a staging buffer of bounded length: at once where they fit it, else part by part.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use wgpu::{BufferUsages, MapMode};

use super::context::Gpu;
use crate::error::{Error, Result};

/// What is no longer lies in one part whole.
const WHOLE: u64 = 256;

/// Between two looks at a mapping that the device's last wait did not bring.
const PAUSE: Duration = Duration::from_millis(1);

/// Where bytes for a buffer go: to the queue at once, or into an [`Upload`].
pub trait Writes {
    /// Writes whole words, ordered with the queue's submissions.
    fn put(&mut self, to: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()>;
}

impl Writes for &Gpu {
    fn put(&mut self, to: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        Gpu::put(self, to, offset, bytes)
    }
}

impl Writes for Upload<'_> {
    fn put(&mut self, to: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.add(to, offset, bytes);
        Ok(())
    }
}

/// Bytes for buffers, in the order in which they are written. Nothing is asked of the device before they are.
#[derive(Default)]
pub struct Upload<'a>(Vec<Write<'a>>);

struct Write<'a> {
    to: wgpu::Buffer,
    offset: u64,
    size: u64,
    contents: Contents<'a>,
}

enum Contents<'a> {
    Here(Vec<u8>),
    /// What is long is made when its turn comes.
    Later(Box<dyn FnOnce() -> Vec<u8> + 'a>),
}

/// An upload that failed.
#[derive(Debug)]
pub struct Interrupted {
    pub error: Error,
    /// Whether some of it is written, so that neither the old is there nor the new.
    pub begun: bool,
}

impl<'a> Upload<'a> {
    /// Plans to write whole words.
    pub fn add(&mut self, to: &wgpu::Buffer, offset: u64, bytes: &[u8]) {
        let contents = Contents::Here(bytes.to_vec());
        self.0.push(Write { to: to.clone(), offset, size: bytes.len() as u64, contents });
    }

    /// Plans to write whole words, as many as are told, that are made then.
    pub fn add_later(&mut self, to: &wgpu::Buffer, offset: u64, size: u64, make: impl FnOnce() -> Vec<u8> + 'a) {
        self.0.push(Write { to: to.clone(), offset, size, contents: Contents::Later(Box::new(make)) });
    }

    /// What it writes.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|write| write.size).sum()
    }

    /// Writes it all, after all that is submitted so far. Where that takes more than one part, `mark` is written first,
    /// and what it writes to should be written last.
    pub fn submit(self, mut staging: Staging, mark: Option<(&wgpu::Buffer, u64, u32)>) -> Result<(), Interrupted> {
        let fail = |begun| move |error| Interrupted { error, begun };
        if let Some((to, offset, word)) = mark.filter(|_| self.bytes() > staging.buffer.size()) {
            staging.put(to, offset, &word.to_ne_bytes()).map_err(fail(false))?;
        }
        for Write { to, offset, size, contents } in self.0 {
            let bytes = match contents {
                Contents::Here(bytes) => bytes,
                Contents::Later(make) => make(),
            };
            debug_assert_eq!(bytes.len() as u64, size, "an upload of another length than told");
            let outcome = staging.put(&to, offset, &bytes);
            outcome.map_err(fail(staging.parts > 0))?;
        }
        let outcome = staging.send();
        outcome.map_err(fail(staging.parts > 0))
    }
}

/// Memory that the host writes to and the device copies from.
pub struct Staging {
    gpu: Gpu,
    what: &'static str,
    buffer: wgpu::Buffer,
    view: Option<wgpu::BufferViewMut>,
    filled: u64,
    copies: Vec<Copy>,
    /// Parts that are submitted.
    parts: u64,
}

/// To a buffer, from where the last copy ended.
struct Copy {
    to: wgpu::Buffer,
    offset: u64,
    size: u64,
}

impl Staging {
    /// Asks for that many bytes, all that an upload through them asks for. `what` is uploaded.
    pub fn new(gpu: &Gpu, what: &'static str, bytes: u64) -> Result<Self> {
        let size = bytes.max(WHOLE).next_multiple_of(4);
        let buffer = gpu.mapped_buffer("upload", size, BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC)?;
        let mut staging = Self { gpu: gpu.clone(), what, buffer, view: None, filled: 0, copies: Vec::new(), parts: 0 };
        staging.open()?;
        Ok(staging)
    }

    fn open(&mut self) -> Result<()> {
        let view = self.buffer.get_mapped_range_mut(..);
        self.view = Some(view.map_err(|e| self.refused(&e))?);
        Ok(())
    }

    fn refused(&self, reason: &dyn std::fmt::Display) -> Error {
        let refused = || Error::Device { what: self.what.to_owned(), reason: reason.to_string() };
        self.gpu.check_lost().err().unwrap_or_else(refused)
    }

    fn put(&mut self, to: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (left, room) = ((bytes.len() - done) as u64, self.buffer.size() - self.filled);
            if room == 0 || (left <= WHOLE && left > room) {
                self.send()?;
                self.reopen()?;
                continue;
            }
            let size = left.min(room);
            if let Some(view) = &mut self.view {
                let part = &bytes[done..done + size as usize];
                view.slice(self.filled as usize..(self.filled + size) as usize).copy_from_slice(part);
            }
            self.copies.push(Copy { to: to.clone(), offset: offset + done as u64, size });
            self.filled += size;
            done += size as usize;
        }
        Ok(())
    }

    /// Submits the part that is there.
    fn send(&mut self) -> Result<()> {
        self.view = None;
        self.filled = 0;
        let copies = std::mem::take(&mut self.copies);
        self.gpu.scoped(self.what, |device| {
            self.buffer.unmap();
            let descriptor = wgpu::CommandEncoderDescriptor { label: Some("upload") };
            let mut encoder = device.create_command_encoder(&descriptor);
            let mut from = 0;
            for Copy { to, offset, size } in &copies {
                encoder.copy_buffer_to_buffer(&self.buffer, from, to, *offset, *size);
                from += size;
            }
            self.gpu.queue().submit([encoder.finish()]);
        })?;
        self.parts += 1;
        Ok(())
    }

    /// Waits until the part is copied, to write the next.
    fn reopen(&mut self) -> Result<()> {
        if self.gpu.faults().interrupts_upload() {
            return Err(Error::Timeout { what: self.what, after: self.gpu.timeout(), busy: true });
        }
        let mapped = Arc::new(OnceLock::new());
        let outcome = mapped.clone();
        self.gpu.scoped(self.what, |_| {
            self.buffer.map_async(MapMode::Write, .., move |result| {
                let _ = outcome.set(result.is_ok());
            });
        })?;
        let since = Instant::now();
        loop {
            let waited = self.gpu.wait(self.what, since);
            match mapped.get() {
                Some(true) => return self.open(),
                Some(false) => return Err(self.refused(&"the staging memory could not be mapped")),
                None => waited?,
            }
            self.gpu.check_time(self.what, since)?;
            // Another thread may be about to run the callback.
            std::thread::sleep(PAUSE);
        }
    }
}

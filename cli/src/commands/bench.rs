use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use wgpu_optim::{Gpu, OnNonfinite, OptimizerConfig, rules};

use crate::error::{Error, Result};
use crate::output::{self, Outputs};
use crate::plot::{self, Curve};
use crate::progress::{Progress, Verbosity};
use crate::storage::Storage;
use crate::timing::cpu::CpuSubject;
use crate::timing::gpu::GpuSubject;
use crate::timing::{self, Case, Runs, Timing};
use crate::{backend, style};

/// Measure steps on GPU and CPU beside a stream of the same bytes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wgpu-optim bench
  wgpu-optim bench --rule adamw,lion --elements 1M,16M --backend gpu
  wgpu-optim bench --storage f32,bf16,q8 --elements 16M --tensors 1 --backend gpu
  wgpu-optim bench --plot bench.svg --format json > bench.json

The stream reads and writes what a step does and computes nothing; it takes turns
with the step. Its rate is what the memory gives, and a step's share of it says how
much the optimizer costs beyond that. \"default\" tests gradients for NaN and infinity
first, which reads them twice; \"propagate\" does not. Sizes take k, M and G, which
multiply by 1024 each. GPU times are the GPU's own where it has timestamps.")]
pub struct Args {
    /// Rules to measure, with commas between
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "adamw")]
    rule: Vec<String>,
    /// Where to compute
    #[arg(long, value_enum, default_value = "both")]
    backend: Backends,
    /// Parameters of all tensors together, likewise
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1k,64k,1M,16M")]
    elements: Vec<Size>,
    /// Tensors that share them, likewise [default: 1, and 1000 where there are as many elements]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    tensors: Vec<Size>,
    /// How numbers lie in memory; on the CPU parameters and gradients are f32, rounded to it
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',', default_value = "f32")]
    storage: Vec<Storage>,
    /// Where tensors lie on the GPU
    #[arg(long, value_enum, default_value = "arena")]
    buffers: Buffers,
    /// Runs to take the median of [default: what fits in 2 s, from 7 to 101]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: Option<u32>,
    /// What to print
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// Draw rates over sizes
    #[arg(long, value_name = "P.svg")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    verbosity: Verbosity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backends {
    /// The GPU, then the CPU
    Both,
    /// The GPU
    Gpu,
    /// The CPU, in f32 on all cores
    Cpu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Buffers {
    /// All in one arena
    Arena,
    /// Each in buffers of its own, as callers have who allocate them one by one
    Own,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Table,
    /// A JSON array
    Json,
}

/// A whole number above 0, `64k` for instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, shift) = match text.char_indices().next_back() {
            Some((at, 'k' | 'K')) => (&text[..at], 10),
            Some((at, 'm' | 'M')) => (&text[..at], 20),
            Some((at, 'g' | 'G')) => (&text[..at], 30),
            _ => (text, 0),
        };
        let size = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
        match size.filter(|n| (1..=1 << 32).contains(n)).and_then(|n| usize::try_from(n).ok()) {
            Some(size) => Ok(Self(size)),
            None => Err("expected a whole number from 1 to 4G, such as 1000, 64k or 16M".to_owned()),
        }
    }
}

#[derive(Debug, Clone)]
struct Job {
    rule: &'static str,
    config: &'static str,
    storage: Storage,
    on_gpu: bool,
    case: Case,
}

#[derive(Debug)]
struct Row {
    job: Job,
    timing: Timing,
    clock: &'static str,
}

impl Row {
    fn gb_per_s(&self) -> f64 {
        self.timing.bytes_moved as f64 / self.timing.step_s / 1e9
    }

    fn stream_gb_per_s(&self) -> f64 {
        self.timing.bytes_moved as f64 / self.timing.stream_s / 1e9
    }

    fn share(&self) -> f64 {
        self.timing.stream_s / self.timing.step_s
    }
}

pub fn run(args: &Args) -> Result<()> {
    let jobs = jobs(args)?;
    if args.buffers == Buffers::Own && args.backend == Backends::Cpu {
        return Err(Error::input("--buffers: on the CPU every tensor has memory of its own"));
    }
    let outputs = Outputs::new(args.plot.as_deref())?;
    plot::check_name(args.plot.as_deref())?;
    let gpu = match args.backend {
        Backends::Cpu => None,
        _ => Some(Gpu::headless()?),
    };
    let runs = args.runs.map_or(Runs::While(Duration::from_secs(2)), |runs| Runs::Exactly(runs as usize));

    let progress = Progress::new(args.verbosity, jobs.len(), "rows");
    let mut rows = Vec::new();
    for job in jobs {
        let Case { elements, tensors, .. } = job.case;
        let place = if job.on_gpu { "GPU" } else { "CPU" };
        progress.message(format!("{} {} on the {place}, {elements} in {tensors}", job.rule, job.config));
        rows.push(measure(job, gpu.as_ref(), runs)?);
        progress.inc();
    }
    drop(progress);

    if args.plot.is_some() {
        outputs.write(&[draw(&rows)?.into_bytes()])?;
    }
    match args.format {
        Format::Json => output::print_json(&rows.iter().map(|row| to_json(row, gpu.as_ref())).collect()),
        Format::Table => output::print(&table(&rows, gpu.as_ref())),
    }
}

fn tensors_of(args: &Args) -> &[Size] {
    if args.tensors.is_empty() { &[Size(1), Size(1000)] } else { &args.tensors }
}

fn jobs(args: &Args) -> Result<Vec<Job>> {
    let places = match args.backend {
        Backends::Both => [true, false].as_slice(),
        Backends::Gpu => &[true],
        Backends::Cpu => &[false],
    };
    let mut jobs = Vec::new();
    for name in &args.rule {
        let rule = rules::by_name(name)?;
        for on_gpu in places {
            for elements in &args.elements {
                for tensors in tensors_of(args).iter().filter(|tensors| tensors.0 <= elements.0) {
                    for storage in &args.storage {
                        for (config_name, on_nonfinite) in
                            [("default", OnNonfinite::Skip), ("propagate", OnNonfinite::Propagate)]
                        {
                            let mut config = OptimizerConfig::from_boxed(rule.boxed()).storage(storage.config());
                            config.gradient.on_nonfinite = on_nonfinite;
                            let own_buffers = args.buffers == Buffers::Own;
                            let case = Case { config, elements: elements.0, tensors: tensors.0, own_buffers };
                            let (rule, storage) = (rule.name(), *storage);
                            jobs.push(Job { rule, config: config_name, storage, on_gpu: *on_gpu, case });
                        }
                    }
                }
            }
        }
    }
    if jobs.is_empty() {
        let problem = "--tensors: there are more tensors than --elements for each of them to have one";
        return Err(Error::input(problem));
    }
    for elements in &args.elements {
        for tensors in args.tensors.iter().filter(|tensors| tensors.0 > elements.0) {
            let (elements, tensors) = (elements.0, tensors.0);
            output::notice(&format!("left out: {elements} --elements are fewer than {tensors} --tensors"));
        }
    }
    Ok(jobs)
}

fn measure(job: Job, gpu: Option<&Gpu>, runs: Runs) -> Result<Row> {
    let (measured, clock) = match gpu.filter(|_| job.on_gpu) {
        Some(gpu) => {
            let mut subject = GpuSubject::new(gpu, &job.case)?;
            (timing::measure(&mut subject, runs)?, subject.clock_name())
        }
        None => (timing::measure(&mut CpuSubject::new(&job.case)?, runs)?, "host"),
    };
    Ok(Row { job, timing: measured, clock })
}

/// The adapter, or how many threads there are.
fn adapter(on_gpu: bool, gpu: Option<&Gpu>) -> String {
    match gpu.filter(|_| on_gpu) {
        Some(gpu) => backend::place(Some(gpu)),
        None => format!("CPU, {} threads", rayon::current_num_threads()),
    }
}

fn to_json(row: &Row, gpu: Option<&Gpu>) -> Value {
    let Row { job, timing, clock } = row;
    json!({
        "rule": job.rule,
        "config": job.config,
        "backend": if job.on_gpu { "gpu" } else { "cpu" },
        "adapter": adapter(job.on_gpu, gpu),
        "storage": job.storage.name(),
        "elements": job.case.elements,
        "tensors": job.case.tensors,
        "buffers": if job.on_gpu && job.case.own_buffers { "own" } else { "arena" },
        "runs": timing.runs,
        "median_s": timing.step_s,
        "bytes_moved": timing.bytes_moved,
        "gb_per_s": row.gb_per_s(),
        "stream_gb_per_s": row.stream_gb_per_s(),
        "share_of_stream": row.share(),
        "host_us": timing.host_us,
        "clock": clock,
    })
}

fn table(rows: &[Row], gpu: Option<&Gpu>) -> String {
    let width = rows.iter().map(|row| row.job.rule.len()).max().unwrap_or(0).max(4);
    let mut text = String::new();
    let mut place = None;
    for row in rows {
        let Row { job, timing, clock } = row;
        if place != Some((job.on_gpu, *clock)) {
            let whose = if *clock == "timestamp" { "the GPU's timestamps" } else { "the host's clock" };
            let gap = if place.is_some() { "\n" } else { "" };
            let buffers = if job.on_gpu && job.case.own_buffers { ", tensors in buffers of their own" } else { "" };
            text += &format!("{gap}{}, timed by {whose}{buffers}\n", style::heading(&adapter(job.on_gpu, gpu)));
            text += &style::heading(&format!(
                "{:<width$}  {:<9}  {:<11}  {:>10}  {:>7}  {:>10}  {:>8}  {:>8}  {:>7}  {:>8}  {:>4}\n",
                "rule", "config", "storage", "elements", "tensors", "step", "GB/s", "stream", "share", "host", "runs"
            ));
            place = Some((job.on_gpu, *clock));
        }
        let host = timing.host_us.map_or_else(|| "-".to_owned(), |us| format!("{us:.1} us"));
        text += &format!(
            "{:<width$}  {:<9}  {:<11}  {:>10}  {:>7}  {:>10}  {:>8}  {:>8}  {:>7}  {host:>8}  {:>4}\n",
            job.rule,
            job.config,
            job.storage.name(),
            job.case.elements,
            job.case.tensors,
            duration(timing.step_s),
            figures(row.gb_per_s()),
            figures(row.stream_gb_per_s()),
            figures(row.share()),
            timing.runs,
        );
    }
    text + "step: median time; stream: GB/s of the same bytes without the maths; host: time to record a step\n"
}

/// Three digits that count.
fn figures(x: f64) -> String {
    let before = if x > 0.0 { x.log10().floor() as i32 + 1 } else { 1 };
    format!("{x:.*}", (3 - before).clamp(0, 6) as usize)
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", 1e6 * s),
        s if s < 1.0 => format!("{:.2} ms", 1e3 * s),
        s => format!("{s:.2} s"),
    }
}

/// A panel for each rule and backend.
fn draw(rows: &[Row]) -> Result<String> {
    let mut panels: Vec<(String, Vec<Curve>)> = Vec::new();
    let mut seen = Vec::new();
    for row in rows {
        let key = (row.job.rule, row.job.on_gpu, row.job.storage);
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let own: Vec<_> = rows.iter().filter(|r| (r.job.rule, r.job.on_gpu, r.job.storage) == key).collect();
        let stored = if key.2 == Storage::F32 { String::new() } else { format!(" in {}", key.2.name()) };
        let title = format!("{}{stored} on the {}", key.0, if key.1 { "GPU" } else { "CPU" });
        panels.push((title, curves(&own)));
    }
    plot::log_log(panels, "elements", "memory traffic (GB/s)")
}

/// Steps by configuration and number of tensors, and the streams of the configurations.
fn curves(rows: &[&Row]) -> Vec<Curve> {
    let mut tensors: Vec<_> = rows.iter().map(|row| row.job.case.tensors).collect();
    tensors.sort_unstable();
    tensors.dedup();
    let line = |config: &str, count: usize, rate: fn(&Row) -> f64| -> Vec<_> {
        let own = rows.iter().filter(|row| row.job.config == config && row.job.case.tensors == count);
        let mut points: Vec<_> = own.map(|row| (row.job.case.elements as f64, rate(row))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let colours = plot::PALETTE;
    let kinds = tensors.iter().flat_map(|count| [("default", *count), ("propagate", *count)]);
    let steps = kinds.zip(colours.iter().cycle()).map(|((config, count), colour)| {
        let plural = if count == 1 { "" } else { "s" };
        let name = format!("{config}, {count} tensor{plural}");
        Curve::lines(name, *colour, line(config, count, Row::gb_per_s)).marked()
    });
    // The streams of few tensors are those of many.
    let stream = line("default", tensors[0], Row::stream_gb_per_s);
    steps.chain([Curve::lines("stream of default", plot::GREY, stream).dashed()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_count() {
        let texts = [0.0, 0.000_312, 0.0612, 1.0, 3.456, 99.96, 1234.5].map(figures);
        assert_eq!(texts, ["0.00", "0.000312", "0.0612", "1.00", "3.46", "100.0", "1234"]);
    }

    #[test]
    fn sizes() {
        for (text, size) in [("1", 1), ("1000", 1000), ("64k", 65_536), ("16M", 16_777_216), ("1g", 1 << 30)] {
            assert_eq!(text.parse(), Ok(Size(size)));
        }
        for text in ["", "0", "k", "-1", "1.5", "1kk", "5G", "99999999999999999999", "1é"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}

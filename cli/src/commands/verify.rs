use clap::ValueEnum;
use serde_json::{Value, json};
use wgpu_optim::rules::{self, AdamW, Sgd};
use wgpu_optim::verify::{self, Finding, Variation};
use wgpu_optim::{Gpu, OptimizerConfig, Rule, TensorSpec};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::progress::{Progress, Verbosity};
use crate::storage::Storage;
use crate::{backend, output, style};

/// Check this machine's GPU against the float64 oracle
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  wgpu-optim verify --selftest                  some seconds: is this driver sane?
  wgpu-optim verify                             every rule with every option and storage
  wgpu-optim verify --rule adamw,lion           only those rules
  wgpu-optim verify --json | jq '.[] | select(.passed | not)'

An error is |found - exact| / |exact - start|, in norms over a tensor; the worst
tensor counts. Allowed are 1e-5, or twice what the same arithmetic in f32 on the
CPU is off where that is more, up to 1e-3 or what rounding the parameters
explains. Of what is not stored in f32 each step is checked by
itself: beside that, no number may be more than one step of its storage off. Norms of
gradients of 1e25 and 1e-28, zeros of both signs and subnormal numbers; a gradient
that is not finite changes no bit under on_nonfinite = \"skip\"; two runs end with
the same bits; tensors between poisoned words at odd offsets end with those of an
arena, and the words stay. A miss ends with exit code 1.")]
pub struct Args {
    /// The rules to check, with commas between [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    rule: Vec<String>,
    /// Steps of each comparison
    #[arg(long, value_name = "N", default_value_t = verify::STEPS as u32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    steps: u32,
    /// Only what takes seconds: rules with their defaults, and AdamW with all else
    #[arg(long)]
    selftest: bool,
    /// Print the checks as a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    verbosity: Verbosity,
}

/// What a check looks at.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// Parameters and state against the oracle.
    Oracle,
    /// The same with gradients of that magnitude, and with zeros and subnormal numbers.
    Special(f32),
    /// A step that is skipped changes no bit.
    Skip,
    /// Two runs end with the same bits.
    Determinism,
    /// Poisoned words beside the tensors stay, and the tensors end as in an arena.
    Guards,
}

/// Kinds of checks by bits, which a rule has by itself and with all that the engine does around it.
const BY_BITS: [Kind; 3] = [Kind::Skip, Kind::Determinism, Kind::Guards];

/// Their squares overflow and underflow f32.
const MAGNITUDES: [f32; 3] = [1e25, 1.0, 1e-28];

#[derive(Debug)]
struct Check {
    kind: Kind,
    variation: Variation,
}

/// What a check came to.
#[derive(Debug)]
struct Verdict {
    /// The worst parameters and the worst slot, as far as there are any.
    parameters: Option<Finding>,
    slot: Option<Finding>,
    /// What went wrong, if something did.
    miss: Option<String>,
}

pub fn run(args: &Args) -> Result<()> {
    let checks = checks(args)?;
    let gpu = Gpu::headless()?;
    let info = gpu.device().adapter_info();
    let driver = format!("{} {}", info.driver, info.driver_info);
    let place = format!("{}, driver {}", backend::place(Some(&gpu)), driver.trim());
    // JSON is all that stdout has then.
    if args.json {
        output::notice(&place);
    } else {
        output::print(&format!("{}\n", style::heading(&place)))?;
    }

    let progress = Progress::new(args.verbosity, checks.len(), "checks");
    let mut verdicts = Vec::new();
    for check in &checks {
        progress.message(check.name());
        verdicts.push(check.run(&gpu, args.steps as usize));
        progress.inc();
    }
    drop(progress);

    if args.json {
        output::print_json(&checks.iter().zip(&verdicts).map(|(c, v)| to_json(c, v)).collect())?;
    } else {
        output::print(&table(&checks, &verdicts))?;
    }
    let mut misses = checks.iter().zip(&verdicts).filter_map(|(c, v)| Some((c, v.miss.as_ref()?)));
    let Some((check, miss)) = misses.next() else { return Ok(()) };
    let more = match misses.count() {
        0 => String::new(),
        n => format!("; {n} more"),
    };
    Err(Error::failed(format!("{}: {miss}{more}", check.name())))
}

fn checks(args: &Args) -> Result<Vec<Check>> {
    let rules = match args.rule.as_slice() {
        [] => rules::all(),
        names => names.iter().map(|name| rules::by_name(name)).collect::<Result<_, _>>()?,
    };
    let checks = |rule: &dyn Rule| {
        let plain = Variation::plain(rule);
        let whole = verify::all_around(&plain);
        let check = |kind, variation| Check { kind, variation };
        let oracle = |variation| check(Kind::Oracle, variation);
        if args.selftest {
            let mut checks = vec![oracle(plain.clone())];
            if rule.name() == AdamW::default().name() || !args.rule.is_empty() {
                checks.extend(verify::around(&plain).into_iter().map(oracle));
                checks.extend(stored(&plain).map(oracle));
                checks.extend(BY_BITS.map(|kind| check(kind, whole.clone())));
            }
            if rule.name() == AdamW::default().name() {
                checks.extend(special());
            }
            return checks;
        }
        let variations = verify::variations(rule);
        let mut checks: Vec<_> = variations.iter().cloned().map(oracle).collect();
        checks.extend(verify::around(&plain).into_iter().map(oracle));
        checks.extend(variations.iter().flat_map(stored).map(oracle));
        checks.extend(variations.iter().map(|v| oracle(verify::all_around(v))));
        checks.extend(stored(&plain).map(|v| oracle(verify::all_around(&v))));
        for kind in BY_BITS {
            checks.extend([plain.clone(), whole.clone()].map(|variation| check(kind, variation)));
        }
        if rule.name() == Sgd::default().name() {
            checks.extend(special());
        }
        checks
    };
    Ok(rules.iter().flat_map(|rule| checks(rule.as_ref())).collect())
}

/// A variation in every storage but f32.
fn stored(variation: &Variation) -> impl Iterator<Item = Variation> {
    let others = Storage::value_variants().iter().filter(|storage| **storage != Storage::F32);
    others.map(|storage| Variation {
        label: format!("{} storage {}", variation.label, storage.name()).trim_start().to_owned(),
        config: variation.config.clone().storage(storage.config()),
    })
}

/// Norms at every magnitude: rules differ in how they take small and large gradients, norms do not.
fn special() -> impl Iterator<Item = Check> {
    type Change = fn(&mut OptimizerConfig);
    let limits: [(&str, Change); 3] = [
        ("gradient.clip_global_norm=1", |c| c.gradient.clip_global_norm = Some(1.0)),
        ("gradient.clip_tensor_norm=1", |c| c.gradient.clip_tensor_norm = Some(1.0)),
        ("gradient.normalize_global_norm=1", |c| c.gradient.normalize_global_norm = Some(1.0)),
    ];
    limits.into_iter().flat_map(|(label, change)| {
        MAGNITUDES.into_iter().filter(move |m| *m >= 1.0 || label.contains("normalize")).map(move |magnitude| {
            let mut config = OptimizerConfig::new(Sgd { lr: 0.5, ..Sgd::default() });
            change(&mut config);
            let label = format!("{label} with gradients of {magnitude:e}");
            Check { kind: Kind::Special(magnitude), variation: Variation { label, config } }
        })
    })
}

impl Check {
    fn rule(&self) -> &'static str {
        self.variation.config.rule.name()
    }

    /// The options that are away from their defaults, in words.
    fn options(&self) -> &str {
        if self.variation.label.is_empty() { "default" } else { &self.variation.label }
    }

    fn name(&self) -> String {
        format!("{} ({}), {}", self.rule(), self.options(), self.kind.name())
    }

    fn run(&self, gpu: &Gpu, steps: usize) -> Verdict {
        let config = &self.variation.config;
        let bits = |miss: Result<Option<String>>| {
            let miss = miss.unwrap_or_else(|error| Some(error.to_string()));
            Verdict { parameters: None, slot: None, miss }
        };
        match self.kind {
            Kind::Oracle => match verify::compare(gpu, config, steps) {
                Ok(findings) => Verdict::of(findings),
                Err(error) => bits(Err(error.into())),
            },
            Kind::Special(magnitude) => match verify::compare_special_values(gpu, config, steps, magnitude) {
                Ok(findings) => Verdict::of(findings),
                Err(error) => bits(Err(error.into())),
            },
            Kind::Guards => bits(verify::check_guard_words(gpu, config, steps).map_err(Into::into)),
            Kind::Skip => bits(skip(gpu, config)),
            Kind::Determinism => bits(determinism(gpu, config, steps)),
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Oracle => "oracle",
            Self::Special(_) => "special values",
            Self::Guards => "guards",
            Self::Skip => "skip",
            Self::Determinism => "determinism",
        }
    }
}

impl Verdict {
    fn of(findings: Vec<Finding>) -> Self {
        let miss = findings.iter().filter(|f| !f.passed()).max_by(|a, b| excess(a).total_cmp(&excess(b))).map(|f| {
            let what = if f.what == "parameters" { f.what.clone() } else { format!("slot {}", f.what) };
            format!("{what} of {} are {:.1e} off, allowed {:.1e}", f.tensor, f.error, f.allowed)
        });
        let (parameters, slots): (Vec<_>, Vec<_>) = findings.into_iter().partition(|f| f.what == "parameters");
        Self { parameters: worst(parameters), slot: worst(slots), miss }
    }
}

/// The error as a share of what is allowed; NaN is beyond all.
fn excess(finding: &Finding) -> f64 {
    if finding.error.is_nan() { f64::INFINITY } else { finding.error / finding.allowed }
}

fn worst(findings: Vec<Finding>) -> Option<Finding> {
    findings.into_iter().max_by(|a, b| excess(a).total_cmp(&excess(b)))
}

/// Tensors of the checks of bits: within a vector, past a block, and an empty one.
const SIZES: [u64; 3] = [5, 4099, 0];

/// An optimizer on the device, and a source of gradients for it.
struct Run {
    engine: Engine,
    drawn: u32,
    accumulate: u64,
}

impl Run {
    fn new(gpu: &Gpu, config: &OptimizerConfig) -> Result<Self> {
        let specs: Vec<_> = SIZES.iter().map(|n| TensorSpec::new(format!("tensor of {n}"), [*n])).collect();
        let mut drawn = 1;
        let params = SIZES.iter().map(|n| values(&mut drawn, *n)).collect();
        Ok(Self {
            engine: Engine::new(Some(gpu), config, &specs, params)?,
            drawn,
            accumulate: config.gradient.accumulate,
        })
    }

    /// A step, all its micro-batches; `spoil` is put somewhere into the first.
    fn step(&mut self, mut spoil: Option<f32>) -> Result<()> {
        for _ in 0..self.accumulate {
            let mut gradients: Vec<_> = SIZES.iter().map(|n| Some(values(&mut self.drawn, *n))).collect();
            if let (Some(value), Some(Some(gradient))) = (spoil.take(), gradients.get_mut(1)) {
                gradient[4097] = value;
            }
            self.engine.step(&gradients)?;
        }
        Ok(())
    }

    /// Parameters, state and counts of steps taken, as bits, and the count of steps skipped.
    fn bits(&self) -> Result<(Vec<u64>, u64)> {
        let state = self.engine.state()?;
        let counts = [state.steps_taken, state.micro_batches].into_iter().chain(state.tensors.iter().map(|t| t.steps));
        let params = self.engine.params()?;
        let slots = state.tensors.iter().flat_map(|t| &t.slots).map(|(_, values)| values);
        let floats = params.iter().chain(slots).flatten().map(|x| u64::from(x.to_bits()));
        Ok((counts.chain(floats).collect(), state.steps_skipped))
    }
}

/// Numbers in [-1, 1) that look random, by Knuth's multiplicative hash of their index.
fn values(drawn: &mut u32, count: u64) -> Vec<f32> {
    let next = |_| {
        *drawn += 1;
        let hash = drawn.wrapping_mul(2_654_435_761);
        ((hash ^ hash >> 15) >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// What a gradient that is not finite changes, though its step is to be skipped.
fn skip(gpu: &Gpu, config: &OptimizerConfig) -> Result<Option<String>> {
    let mut run = Run::new(gpu, config)?;
    for (skipped, value) in (0..).zip([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7f80_0001)]) {
        run.step(None)?;
        let (before, _) = run.bits()?;
        run.step(Some(value))?;
        let (after, count) = run.bits()?;
        let what = format!("a gradient with {value} (bits {:08x})", value.to_bits());
        if count != skipped + 1 {
            return Ok(Some(format!("{what} was not skipped")));
        }
        if before != after {
            let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            return Ok(Some(format!("{what} was skipped, yet changed {changed} values")));
        }
    }
    Ok(None)
}

/// Where two runs of the same differ.
fn determinism(gpu: &Gpu, config: &OptimizerConfig, steps: usize) -> Result<Option<String>> {
    let bits = || {
        let mut run = Run::new(gpu, config)?;
        (0..steps).try_for_each(|_| run.step(None))?;
        run.bits()
    };
    let ((first, _), (second, _)) = (bits()?, bits()?);
    let differ = first.iter().zip(&second).filter(|(a, b)| a != b).count();
    Ok((differ > 0).then(|| format!("two runs differ in {differ} of {} values", first.len())))
}

fn table(checks: &[Check], verdicts: &[Verdict]) -> String {
    let width = checks.iter().map(|c| c.rule().len()).max().unwrap_or(0);
    let heading = format!(
        "{:<width$}  {:<21}  {:<21}  {:<7}  options",
        "rule", "parameters (allowed)", "slots (allowed)", "verdict"
    );
    let mut text = style::heading(&heading) + "\n";
    let figure = |finding: &Option<Finding>| {
        let text = finding.as_ref().map(|f| format!("{:.1e} ({:.1e})", f.error, f.allowed));
        text.unwrap_or_else(|| "-".to_owned())
    };
    for (check, verdict) in checks.iter().zip(verdicts) {
        let [parameters, slots] = match check.kind {
            Kind::Oracle | Kind::Special(_) => [figure(&verdict.parameters), figure(&verdict.slot)],
            Kind::Skip => ["skip: no bit changes".to_owned(), String::new()],
            Kind::Determinism => ["two runs, same bits".to_owned(), String::new()],
            Kind::Guards => ["guards stay".to_owned(), String::new()],
        };
        let outcome = if verdict.miss.is_some() { style::error("MISS   ") } else { "ok     ".to_owned() };
        let (rule, options) = (check.rule(), check.options());
        text += &format!("{rule:<width$}  {parameters:<21}  {slots:<21}  {outcome}  {options}\n");
    }
    let missed = verdicts.iter().filter(|v| v.miss.is_some()).count();
    text + &format!("{} checks, {missed} missed\n", checks.len())
}

fn to_json(check: &Check, verdict: &Verdict) -> Value {
    let finding = |finding: &Option<Finding>| {
        finding.as_ref().map(
            |f| json!({ "what": f.what, "tensor": f.tensor, "error": f.error, "allowed": f.allowed, "passed": f.passed() }),
        )
    };
    json!({
        "check": check.kind.name(),
        "rule": check.rule(),
        "options": check.options(),
        "worst_parameters": finding(&verdict.parameters),
        "worst_slot": finding(&verdict.slot),
        "passed": verdict.miss.is_none(),
        "miss": verdict.miss,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(what: &str, error: f64) -> Finding {
        Finding { what: what.to_owned(), tensor: "w".to_owned(), error, allowed: 1e-5 }
    }

    #[test]
    fn errors_within_what_is_allowed_are_no_miss() {
        let verdict = Verdict::of(vec![finding("parameters", 1e-7), finding("sum", 2e-7), finding("parameters", 3e-7)]);
        assert_eq!((verdict.parameters.unwrap().error, verdict.slot.unwrap().error), (3e-7, 2e-7));
        assert_eq!(verdict.miss, None);
    }

    #[test]
    fn a_perturbed_result_is_a_miss() {
        for wrong in [1.1e-5, f64::NAN, f64::INFINITY] {
            for what in ["parameters", "sum"] {
                let verdict =
                    Verdict::of(vec![finding("parameters", 1e-7), finding(what, wrong), finding("sum", 1e-7)]);
                let miss = verdict.miss.unwrap();
                assert!(miss.contains(what) && miss.contains(" of w are "), "{miss}");
            }
        }
    }
}

//! A training run as one HTML file: no script, nothing to fetch.

use clap::{ArgMatches, Command};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use wgpu_optim::{Health, Verdict};

use crate::error::Result;
use crate::health::word;
use crate::network::Epoch;
use crate::network::telemetry::Telemetry;
use crate::network::trainer::Steps;
use crate::plot::{Chart, training};

const CSS: &str = "
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fafafa; max-width: 1080px;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.place { color: #555; margin: 0 0 1.5rem; }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; padding: 0; list-style: none; }
.figures li { background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: .5rem 1rem; min-width: 8rem; }
.figures b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)); gap: 1rem; }
figure { margin: 0; background: #fff; border: 1px solid #ddd; border-radius: 6px; overflow: hidden; }
figure svg { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; background: #fff; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid #ddd; padding: .25rem .75rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
.ill { background: #d55e00; color: #fff; }
pre { background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: .75rem 1rem; overflow-x: auto; }
footer { margin-top: 2rem; color: #555; font-size: .85rem; }
@media (max-width: 480px) { .charts { grid-template-columns: 1fr; } }
";

/// What a report tells of a run.
#[derive(Debug)]
pub struct Run<'a> {
    /// The configuration that it ended with, in full.
    pub config: &'a str,
    /// The file that was given, as it is written.
    pub written: Option<&'a str>,
    /// All options of the command line, those that were not given included.
    pub options: &'a [(String, String)],
    pub place: &'a str,
    pub history: &'a [Epoch],
    pub steps: Steps,
    /// Mini-batches after the last step.
    pub left: u64,
    pub seconds: f64,
    pub telemetry: &'a Telemetry,
}

/// Every option of the command that was called, with its value, in the order of its help.
pub fn options(parser: &Command, matches: &ArgMatches) -> Vec<(String, String)> {
    let Some((name, matches)) = matches.subcommand() else { return Vec::new() };
    let arguments = parser.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
    let option = |argument: &clap::Arg| {
        let (id, name) = (argument.get_id().as_str(), argument.get_long()?);
        // Help and its like hold no value.
        let values = matches.try_get_raw(id).ok()?;
        let words: Vec<_> = values.into_iter().flatten().map(|word| word.to_string_lossy().into_owned()).collect();
        let value = if words.is_empty() { "-".to_owned() } else { words.join(",") };
        Some((format!("--{name}"), value))
    };
    arguments.filter_map(option).collect()
}

/// The file's text.
pub fn html(run: &Run<'_>) -> Result<String> {
    let scores = figures(&training::scores(run.history))?;
    let steps = figures(&training::steps(&run.telemetry.reports))?;
    let health = figures(&training::health(&run.telemetry.looks))?;
    let last = run.history.last();
    let accuracy = last.map(|e| format!("{:.2} %", 100.0 * e.held_back.accuracy()));
    let loss = last.map(|e| format!("{:.4}", e.training.loss));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="color-scheme" content="light";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Training report" }
                style { (PreEscaped(CSS)) }
            }
            body {
                h1 { "Training on handwritten digits" }
                p.place { (run.place) }
                ul.figures {
                    (figure_of("held-back accuracy", accuracy.as_deref().unwrap_or("-")))
                    (figure_of("training loss", loss.as_deref().unwrap_or("-")))
                    (figure_of("epochs", &run.history.len().to_string()))
                    (figure_of("steps taken", &run.steps.taken.to_string()))
                    (figure_of("steps skipped", &run.steps.skipped.to_string()))
                    @if run.left > 0 {
                        (figure_of("mini-batches without a step", &run.left.to_string()))
                    }
                    (figure_of("seconds", &format!("{:.1}", run.seconds)))
                }
                h2 { "Scores" }
                (scores)
                // A run that was resumed at its end took none.
                @if !run.telemetry.reports.is_empty() {
                    h2 { "Steps" }
                    (steps)
                }
                h2 { "Health of the gradients" }
                @if let Some(look) = run.telemetry.looks.last() {
                    (health)
                    (table(look))
                } @else {
                    p { "Nobody looked at a step of this run." }
                }
                h2 { "Configuration" }
                p { "In full, with all that the command line changed:" }
                pre { (run.config.trim()) }
                @if let Some(written) = run.written {
                    p { "As it was given:" }
                    pre { (written.trim()) }
                }
                h2 { "Options" }
                div.wide {
                    table {
                        tbody {
                            @for (name, value) in run.options {
                                tr { td { (name) } td { (value) } }
                            }
                        }
                    }
                }
                footer { "Written by wgpu-optim " (env!("CARGO_PKG_VERSION")) ". The file needs no network." }
            }
        }
    };
    Ok(page.into_string())
}

fn figure_of(what: &str, value: &str) -> Markup {
    html! { li { b { (value) } (what) } }
}

fn figures(charts: &[Chart]) -> Result<Markup> {
    let drawn = charts.iter().map(|chart| Ok((&chart.title, chart.svg((520, 400))?))).collect::<Result<Vec<_>>>()?;
    Ok(html! {
        div.charts {
            @for (title, svg) in &drawn {
                figure role="img" aria-label=(title) { (PreEscaped(scalable(svg))) }
            }
        }
    })
}

/// The picture without its fixed size: the page decides, and the view box keeps the shape.
fn scalable(svg: &str) -> String {
    let size = svg.find("width=").zip(svg.find("viewBox="));
    size.map_or_else(|| svg.to_owned(), |(from, to)| [&svg[..from], &svg[to..]].concat())
}

fn table(look: &Health) -> Markup {
    html! {
        p { "The last look, at step " (look.steps_taken) ":" }
        div.wide {
            table {
                thead {
                    tr {
                        th { "tensor" } th { "norm" } th { "largest" } th { "zeros" } th { "not finite" }
                        th { "update/weights" } th { "verdict" }
                    }
                }
                tbody {
                    @for t in &look.tensors {
                        tr {
                            td { (t.name) }
                            td { (format!("{:.2e}", t.gradient_norm)) }
                            td { (format!("{:.2e}", t.gradient_max)) }
                            td { (format!("{:.1} %", 100.0 * t.zeros)) }
                            td { (format!("{:.1} %", 100.0 * t.nonfinite)) }
                            td { (t.update_ratio.map_or_else(|| "-".to_owned(), |r| format!("{r:.2e}"))) }
                            td.ill[t.verdict != Verdict::Healthy] { (word(t.verdict)) }
                        }
                    }
                }
            }
        }
    }
}

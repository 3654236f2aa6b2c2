//! The losses that a `plateau` schedule watches, from a file.

use std::path::Path;

use wgpu_optim::Schedule;
use wgpu_optim::schedule::Kind;

use crate::error::{Error, Result};
use crate::{input, output};

/// The losses of that many steps: needed by `plateau` and refused by any other kind of schedule.
pub fn read(path: Option<&Path>, schedule: &Schedule, steps: u64) -> Result<Vec<f64>> {
    let losses = read_all(path, schedule)?;
    let Some(path) = path else { return Ok(losses) };
    let given = losses.len() as u64;
    if given < steps {
        return Err(Error::file(path, format!("{given} losses for {steps} steps: every step needs one")));
    }
    if given > steps {
        output::notice(&format!("{}: {given} losses for {steps} steps: the rest is not used", path.display()));
    }
    Ok(losses)
}

/// All losses of the file.
pub fn read_all(path: Option<&Path>, schedule: &Schedule) -> Result<Vec<f64>> {
    match (path, matches!(schedule.kind, Kind::Plateau(_))) {
        (None, false) => Ok(Vec::new()),
        (None, true) => Err(Error::input("--losses is missing: the schedule \"plateau\" needs the losses")),
        (Some(_), false) => Err(Error::input("--losses: only the schedule \"plateau\" reads losses")),
        (Some(path), true) => numbers(path),
    }
}

/// The numbers of a file, one a line; empty lines are none.
fn numbers(path: &Path) -> Result<Vec<f64>> {
    let number = |(line, text): (usize, &str)| {
        let text = text.trim();
        text.parse()
            .map_err(|_| Error::file(path, format!("line {line} ({:?}): expected a number", input::quote(text))))
    };
    let text = input::text(path)?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines.map(number).collect()
}

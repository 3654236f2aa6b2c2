//! Files that the user names.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use wgpu_optim::OptimizerConfig;

use crate::error::{Error, Result};

/// A file's bytes. Takes no more memory than the file is long, whatever its contents claim, so only
/// regular files will do.
pub fn bytes(path: &Path) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::file(path, e);
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(Error::file(path, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    bytes.try_reserve_exact(size).map_err(|_| Error::file(path, format!("its {size} bytes do not fit in memory")))?;
    file.take(metadata.len()).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// A file's text, without the byte order mark that some editors put before it.
pub fn text(path: &Path) -> Result<String> {
    let text = String::from_utf8(bytes(path)?).map_err(|_| Error::file(path, "is not UTF-8 text"))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// A run configuration.
pub fn config(path: &Path) -> Result<OptimizerConfig> {
    parse(path, &text(path)?)
}

/// Longest run configuration. On text that is none the parser takes time out of proportion.
const LONGEST_CONFIG: usize = 1 << 20;

/// Longest quotation of a file in a message.
const LONGEST_QUOTE: usize = 60;

/// What a file says, short enough for a message.
pub fn quote(text: &str) -> String {
    match text.char_indices().nth(LONGEST_QUOTE) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// A run configuration from the text of that file.
pub fn parse(path: &Path, text: &str) -> Result<OptimizerConfig> {
    if text.len() > LONGEST_CONFIG {
        return Err(Error::file(path, format!("is longer than {LONGEST_CONFIG} bytes: not a run configuration")));
    }
    let config: OptimizerConfig = toml::from_str(text).map_err(|error| Error::file(path, problem(text, &error)))?;
    config.check_schedule().map_err(|e| Error::from(e).about(path))?;
    Ok(config)
}

/// The error in one line. The parser's own words do not always name the key, so its line is quoted.
fn problem(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim().to_owned();
    let Some(start) = error.span().map(|span| span.start).filter(|start| *start > 0) else {
        return message;
    };
    let number = text.as_bytes()[..start.min(text.len())].iter().filter(|b| **b == b'\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    format!("line {} ({}): {message}", number + 1, quote(line))
}

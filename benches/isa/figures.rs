//! The table of docs/performance.md, written and read.

use std::fmt::Write as _;

use crate::assembly::counts;
use crate::driver::Compiled;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
const COLUMNS: [&str; 7] = [
    "instructions",
    "of the loop",
    "vector, loop",
    "memory, loop",
    "vector registers",
    "spills",
    "local memory, bytes",
];
/// What a figure may grow by without being changed in the table.
const GROWTH: f64 = 1.1;

/// A kernel's figures.
pub struct Row {
    name: String,
    figures: [u64; COLUMNS.len()],
}

impl Row {
    pub fn of(name: &str, compiled: &Compiled) -> Self {
        let (all, main) = counts(&compiled.assembly);
        let of = |key: &str| compiled.statistics.get(key).copied().unwrap_or(0);
        let figures = [
            all.all().into(),
            main.all().into(),
            main.vector.into(),
            main.memory.into(),
            of("VGPRs"),
            of("Spilled SGPRs") + of("Spilled VGPRs"),
            of("LDS size"),
        ];
        Self { name: name.to_owned(), figures }
    }
}

/// The rows as the document has them.
pub fn table(rows: &[Row]) -> String {
    let mut table = format!("| kernel | {} |\n|---|{}\n", COLUMNS.join(" | "), "---:|".repeat(COLUMNS.len()));
    for row in rows {
        let figures: Vec<_> = row.figures.iter().map(u64::to_string).collect();
        let _ = writeln!(table, "| {} | {} |", row.name, figures.join(" | "));
    }
    table
}

/// Whether no figure has grown. Those of another driver's compiler say nothing.
pub fn compare(rows: &[Row], driver: &str) -> Result<bool, String> {
    let text = std::fs::read_to_string(DOCUMENT).map_err(|e| format!("{DOCUMENT}: {e}"))?;
    let section = text.split("\n## ").find(|section| section.starts_with("What a compiler makes of it"));
    let section = section.ok_or("docs/performance.md has no section \"What a compiler makes of it\"")?;
    if !section.contains(driver) {
        println!("docs/performance.md has figures of another driver than {driver}: nothing is compared");
        return Ok(true);
    }
    let mut fine = true;
    for row in rows {
        let start = format!("| {} | ", row.name);
        let line = section.lines().find_map(|line| line.strip_prefix(&start));
        let line = line.ok_or_else(|| format!("docs/performance.md has no row {:?}", row.name))?;
        let known: Vec<u64> = line.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
        for ((column, found), known) in COLUMNS.iter().zip(row.figures).zip(&known) {
            if found as f64 > GROWTH * *known as f64 {
                println!("{}: {column} grew from {known} to {found}", row.name);
                fine = false;
            }
        }
        if known.len() != COLUMNS.len() {
            return Err(format!("docs/performance.md: row {:?} has {} figures", row.name, known.len()));
        }
    }
    Ok(fine)
}

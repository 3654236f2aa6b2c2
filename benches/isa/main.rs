//! What AMD's compiler makes of the kernels: instructions, registers, spills. RADV compiles for a GPU that is not there,
//! so this needs no hardware. `scripts/isa` runs it; docs/performance.md holds the figures, which must not grow by more
//! than a tenth.

mod assembly;
mod driver;
mod figures;
mod kernels;

use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("isa: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool, String> {
    let driver = driver::Driver::new()?;
    let mut rows = Vec::new();
    for (name, kernel) in kernels::all() {
        let compiled = driver.compile(&kernel).map_err(|e| format!("{name}: {e}"))?;
        if std::env::args().any(|argument| argument == name) {
            println!("{}", compiled.assembly);
        }
        rows.push(figures::Row::of(&name, &compiled));
    }
    println!("{}\n", driver.name());
    println!("{}", figures::table(&rows));
    figures::compare(&rows, driver.name())
}

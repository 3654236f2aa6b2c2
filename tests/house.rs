//! Who may use whom: the wings of `src`, as docs/architecture.md lists them. Every arrow points downwards, and nothing
//! inside the crate goes through `lib.rs`, which only hands names out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Wings from the ground up. Those of one floor may use each other.
const FLOORS: [&[&str]; 9] = [
    &["error", "options", "storage", "lines", "tensor"],
    &["rule"],
    &["rules"],
    &["config"],
    &["plan"],
    &["state"],
    &["shader"],
    &["cpu", "gpu"],
    &["verify"],
];

/// Neighbours that do not know each other.
const APART: [[&str; 2]; 4] = [["cpu", "gpu"], ["gpu", "cpu"], ["cpu", "shader"], ["shader", "state"]];

/// The same within `gpu`.
const GPU_FLOORS: [&[&str]; 5] = [&["abi"], &["device"], &["readback"], &["step"], &["change"]];

/// Lines of a file that can be read at one sitting.
const LONGEST: usize = 450;

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => (),
        }
    }
}

/// Sources with the modules that they are, tests left out.
fn sources() -> Vec<(Vec<String>, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    let of = |path: PathBuf| {
        let module = path.strip_prefix(&root).unwrap().with_extension("");
        let module: Vec<String> = module.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        (module, std::fs::read_to_string(&path).unwrap())
    };
    let mut sources: Vec<_> =
        found.into_iter().map(of).filter(|(module, _)| !module.contains(&"tests".into())).collect();
    sources.sort();
    sources
}

/// Code without comments and without what follows the first module of tests.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| line.split("//").next().unwrap_or(""));
    lines.collect::<Vec<_>>().join("\n")
}

/// Paths in a module's code, from the crate's root.
fn paths(module: &[String], code: &str) -> BTreeSet<Vec<String>> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            // The rest of a longer path, and `$crate` of macros for others.
            if code[..at].ends_with(|c: char| word(c) || c == ':' || c == '$') {
                continue;
            }
            let mut path = if start == "super::" { module.to_vec() } else { Vec::new() };
            let mut rest = &code[at..];
            loop {
                let len = rest.find(|c: char| !word(c)).unwrap_or(rest.len());
                let part = &rest[..len];
                match part {
                    "crate" => (),
                    "super" => drop(path.pop()),
                    // A list, a glob.
                    "" => break path.push(rest.chars().take(1).collect()),
                    _ => path.push(part.to_owned()),
                }
                rest = &rest[len..];
                match rest.strip_prefix("::") {
                    Some(after) => rest = after,
                    // A macro lives at the root by its nature.
                    None if rest.starts_with('!') => break path.clear(),
                    None => break,
                }
            }
            if !path.is_empty() {
                found.insert(path);
            }
        }
    }
    found
}

fn floor(floors: &[&[&str]], wing: &str) -> Option<usize> {
    floors.iter().position(|wings| wings.contains(&wing))
}

#[test]
fn arrows_point_downwards() {
    let mut wrong = BTreeMap::<String, BTreeSet<String>>::new();
    for (module, text) in sources().iter().filter(|(module, _)| module[0] != "lib") {
        let own = floor(&FLOORS, &module[0]).unwrap_or_else(|| panic!("src/{} is on no floor", module.join("/")));
        for path in paths(module, &code(text)) {
            let (wing, whole) = (path[0].as_str(), path.join("::"));
            let up = match floor(&FLOORS, wing) {
                Some(floor) => floor > own || APART.contains(&[module[0].as_str(), wing]),
                // Through lib.rs.
                None => true,
            };
            let inside = module[0] == "gpu" && wing == "gpu" && module.len() > 1 && path.len() > 1;
            let up_inside = inside
                && match floor(&GPU_FLOORS, &path[1]) {
                    Some(floor_of) => Some(floor_of) > floor(&GPU_FLOORS, &module[1]),
                    None => true,
                };
            if up || up_inside {
                wrong.entry(module.join("::")).or_default().insert(whole);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Files that use each other, but for a file and those in its folder. `Gpu` is one thing in several files.
#[test]
fn files_do_not_go_round_in_circles() {
    let sources: BTreeMap<_, _> = sources().into_iter().filter(|(module, _)| module[0] != "lib").collect();
    let used = |module: &[String]| -> BTreeSet<Vec<String>> {
        let file = |mut path: Vec<String>| {
            while !path.is_empty() && !sources.contains_key(&path) {
                path.pop();
            }
            path
        };
        let files = paths(module, &unfolded(&code(&sources[module]))).into_iter().map(file);
        files.filter(|path| !path.starts_with(module) && !module.starts_with(path)).collect()
    };
    let arrows: BTreeMap<_, _> = sources.keys().map(|module| (module.clone(), used(module))).collect();
    let mut round = Vec::new();
    for start in arrows.keys().filter(|module| !module.starts_with(&["gpu".into(), "device".into()])) {
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = arrows[start].iter().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(&arrows[module]);
            }
        }
        if seen.contains(start) {
            round.push(start.join("::"));
        }
    }
    assert_eq!(round, [""; 0]);
}

/// Lists in paths written out: `a::{b, c::{d, e}}` as `a::b`, `a::c::d` and `a::c::e`.
fn unfolded(code: &str) -> String {
    let (mut text, mut heads, mut start) = (String::new(), vec![String::new()], String::new());
    for line in code.split_inclusive(';').filter(|statement| statement.contains("use ")) {
        let statement = &line[line.rfind("use ").map_or(0, |at| at + 4)..];
        for c in statement.chars().filter(|c| !c.is_whitespace()) {
            match c {
                '{' => heads.push(std::mem::take(&mut start)),
                ',' | '}' | ';' => {
                    if !start.is_empty() {
                        text += &format!("{}{start};\n", heads.concat());
                        start.clear();
                    }
                    if c == '}' {
                        heads.pop();
                    }
                }
                _ => start.push(c),
            }
        }
        heads.truncate(1);
        start.clear();
    }
    text + code
}

/// What looks for arrows finds them.
#[test]
fn arrows_are_seen() {
    let module = ["plan".to_owned(), "rates".to_owned()];
    let found = |code: &str| paths(&module, code).into_iter().map(|path| path.join("::")).collect::<Vec<_>>();
    assert_eq!(found("use crate::gpu::Gpu;"), ["gpu::Gpu"]);
    assert_eq!(found("use super::super::cpu;"), ["cpu"]);
    assert_eq!(found("let x = super::Plan::new(); crate::state::f(1)"), ["plan::Plan::new", "state::f"]);
    assert_eq!(found("use crate::{Error, Result};"), ["{"]);
    assert_eq!(found("crate::options! { $crate::Options }"), [""; 0]);
    let list = unfolded("x; use crate::{gpu::{Gpu, Slice}, cpu};");
    assert_eq!(found(&list), ["cpu", "gpu::Gpu", "gpu::Slice", "{"]);
    assert_eq!(code("a // crate::gpu\nb\n#[cfg(test)]\nmod tests {\n crate::gpu"), "a \nb");
}

/// The table of docs/architecture.md is this one.
#[test]
fn the_documented_wings_are_these() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| wing |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    let wings: Vec<String> = rows.map(|row| row.split('|').nth(1).unwrap().replace(['`', ' '], "")).collect();
    let expected: Vec<String> = FLOORS
        .iter()
        .flat_map(|wings| {
            if wings.contains(&"error") {
                vec![wings.join(",")]
            } else {
                wings.iter().map(|wing| (*wing).to_owned()).collect()
            }
        })
        .collect();
    assert_eq!(wings, expected);
}

#[test]
fn files_can_be_read_at_one_sitting() {
    let long = |(module, text): (Vec<String>, String)| {
        let lines = text.lines().count();
        (lines > LONGEST).then(|| format!("src/{}.rs has {lines} lines", module.join("/")))
    };
    let long: Vec<_> = sources().into_iter().filter_map(long).collect();
    assert_eq!(long, [""; 0]);
}

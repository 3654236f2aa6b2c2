//! Documents name what is there.

use std::path::Path;

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_table_of_dependencies_has_all_and_no_others() {
    let mut names = std::collections::BTreeSet::new();
    for manifest in ["Cargo.toml", "cli/Cargo.toml"] {
        let manifest: toml::Table = read(manifest).parse().unwrap();
        for table in ["dependencies", "dev-dependencies"] {
            let table = manifest.get(table).and_then(|t| t.as_table());
            names.extend(table.into_iter().flatten().map(|(name, _)| name.clone()));
        }
    }
    names.remove("wgpu-optim");
    let document = read("docs/dependencies.md");
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let listed = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2).map(str::to_owned));
    assert_eq!(listed.collect::<std::collections::BTreeSet<_>>(), names);
}

#[test]
fn every_example_is_short_and_shown_once() {
    let document = read("docs/examples.md");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut shown = document.lines().filter_map(|line| line.strip_prefix("## ")).collect::<Vec<_>>();
    shown.sort_unstable();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = if path.is_dir() { path.join("main.rs") } else { path.clone() };
        // What examples share is none.
        if text.exists() {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            assert!(read(text).lines().count() < 200, "{name} is too long to be taken in");
            names.push(name);
        }
    }
    names.sort_unstable();
    assert_eq!(shown, names);
}

/// Links of documents to files lead somewhere.
#[test]
fn links_lead_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documents = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = documents.filter(|path| path.extension().is_some_and(|e| e == "md"));
    for path in documents.chain([root.join("README.md"), root.join("CONTRIBUTING.md")]) {
        let text = read(&path);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            let here = file.is_empty() || target.contains("://") || path.parent().unwrap().join(file).exists();
            assert!(here, "{}: {target:?} leads nowhere", path.display());
        }
    }
}

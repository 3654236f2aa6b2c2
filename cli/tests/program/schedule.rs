use serde_json::{Value, json};

use crate::fixtures::{Folder, json as run, program};

fn config(folder: &Folder, schedule: &str) -> String {
    folder.write("run.toml", format!("[optimizer]\nrule = \"sgd\"\nlr = 0.5\n\n{schedule}"))
}

fn rates(rows: &Value) -> Vec<f64> {
    rows.as_array().unwrap().iter().map(|row| row["lr"].as_f64().unwrap()).collect()
}

#[test]
fn every_step_has_its_rate() {
    let folder = Folder::new();
    let linear = "[schedule]\nkind = \"linear\"\ntotal_steps = 6\nend_factor = 0.0\nwarmup_steps = 2\n";
    // Groups match the tensors of a model that is not here.
    let path = config(&folder, &format!("{linear}\n[[groups]]\nmatch = \"*.bias\"\nlr = 1.0\n"));
    let rows = run(&["schedule", "--config", &path, "--json"]);
    assert_eq!(rates(&rows), [0.25, 0.5, 0.5, 0.375, 0.25, 0.125, 0.0]);
    assert_eq!(rows[3], json!({ "t": 3, "lr": 0.375 }));
    let rows = run(&["schedule", "--config", &path, "--json", "--steps", "2"]);
    assert_eq!(rates(&rows), [0.25, 0.5]);
}

#[test]
fn a_schedule_is_as_long_as_all_its_parts() {
    let folder = Folder::new();
    let linear = "kind = \"linear\"\nend_factor = 0.0\n";
    let parts = format!(
        "[schedule]\n{linear}total_steps = 1000\n[[schedule.then]]\nafter = 3\nkind = \"constant\"\n\
         [[schedule.then]]\nafter = 2\n{linear}total_steps = 2\n"
    );
    let (path, plot) = (config(&folder, &parts), folder.arg("lr.svg"));
    let rows = run(&["schedule", "--config", &path, "--json", "--plot", &plot]);
    assert_eq!(rates(&rows)[3..], [0.5, 0.5, 0.5, 0.25, 0.0]);
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains("linear, then constant, then linear"), "the plot lacks its parts");
}

#[test]
fn a_rate_past_f32_is_shown_where_it_is_held() {
    let folder = Folder::new();
    let path = config(&folder, "[schedule]\nkind = \"exponential\"\ngamma = 1e20\n");
    let rows = run(&["schedule", "--config", &path, "--json", "--steps", "4"]);
    assert_eq!(rates(&rows)[2..], [f64::from(f32::MAX); 2]);
}

#[test]
fn losses_lower_a_plateau() {
    let folder = Folder::new();
    let path = config(&folder, "[schedule]\nkind = \"plateau\"\nfactor = 0.5\npatience = 0\n");
    let losses = folder.write("losses.txt", "1\n0.5\n0.5\n0.4\n");
    let rows = run(&["schedule", "--config", &path, "--json", "--losses", &losses]);
    assert_eq!(rates(&rows), [0.5, 0.5, 0.5, 0.25, 0.25]);
    for (more, culprit) in [
        (["--steps", "6", "--losses", losses.as_str()].as_slice(), "4 losses for 6 steps"),
        (&[], "--losses is missing"),
    ] {
        let outcome = program(&[["schedule", "--config", &path].as_slice(), more].concat(), &[]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (2, ""));
        assert!(outcome.stderr.contains(culprit), "{}", outcome.stderr);
    }
}

#[test]
fn a_long_schedule_is_a_short_table_and_a_small_picture() {
    let folder = Folder::new();
    let path = config(&folder, "[schedule]\nkind = \"cosine\"\ntotal_steps = 1000000\nmin_lr = 0.0625\n");
    let plot = folder.arg("lr.svg");
    let outcome = program(&["schedule", "--config", &path, "--plot", &plot], &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert_eq!(lines.len(), 21, "{}", outcome.stdout);
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["0", "5.000000e-1"]);
    assert_eq!(lines[20].split_whitespace().collect::<Vec<_>>(), ["1000000", "6.250000e-2"]);
    let svg = std::fs::read_to_string(&plot).unwrap();
    for text in ["Learning rate", "learning rate", "t (steps taken so far)", "cosine"] {
        assert!(svg.contains(text), "the plot lacks {text:?}");
    }
    assert!(svg.len() < 100_000);
}

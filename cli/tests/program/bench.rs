use crate::fixtures::{Folder, json, program};

#[test]
fn rows_are_those_asked_for_and_fit_together() {
    let folder = Folder::new();
    let plot = folder.arg("p.svg");
    // LAMB measures its update ahead of it; SGD has no state.
    let arguments = ["bench", "--rule", "sgd,lamb", "--elements", "1k,5001", "--tensors", "1,7", "--runs", "3"];
    let rows = json(&[arguments.as_slice(), &["--format", "json", "--plot", &plot]].concat());
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 2 * 2 * 2 * 2 * 2);
    let number = |row: &serde_json::Value, key: &str| row[key].as_f64().unwrap();
    for row in rows {
        let gb_per_s = number(row, "bytes_moved") / number(row, "median_s") / 1e9;
        assert!((gb_per_s / number(row, "gb_per_s") - 1.0).abs() < 1e-12, "{row}");
        let share = number(row, "gb_per_s") / number(row, "stream_gb_per_s");
        assert!((share / number(row, "share_of_stream") - 1.0).abs() < 1e-12, "{row}");
        assert_eq!((&row["runs"], &row["storage"]), (&3.into(), &"f32".into()));
        match row["backend"].as_str().unwrap() {
            "gpu" => {
                assert!(number(row, "host_us") > 0.0 && ["timestamp", "host"].contains(&row["clock"].as_str().unwrap()))
            }
            _ => assert!(row["host_us"].is_null() && row["clock"] == "host"),
        }
    }
    let bytes = |rule: &str, config: &str| {
        let row = rows.iter().find(|r| r["rule"] == rule && r["config"] == config && r["elements"] == 1024).unwrap();
        row["bytes_moved"].as_u64().unwrap() / 1024
    };
    assert_eq!((bytes("sgd", "default"), bytes("sgd", "propagate"), bytes("lamb", "default")), (16, 12, 48));
    let svg = std::fs::read_to_string(&plot).unwrap();
    for text in ["sgd on the GPU", "lamb on the CPU", "elements", "GB/s", "default, 1 tensor", "7 tensors", "stream"] {
        assert!(svg.contains(text), "the plot lacks {text:?}");
    }
}

#[test]
fn the_table_says_where_and_by_which_clock() {
    let arguments = ["bench", "--backend", "cpu", "--elements", "100", "--tensors", "1,100,1000", "--runs", "1"];
    let outcome = program(&arguments, &[("WGPU_ADAPTER_NAME", "no such adapter")]);
    assert_eq!(outcome.code, 0, "the CPU needs no adapter: {}", outcome.stderr);
    assert_eq!(outcome.stderr, "left out: 100 --elements are fewer than 1000 --tensors");
    let lines: Vec<_> = outcome.stdout.lines().collect();
    assert!(lines[0].starts_with("CPU, ") && lines[0].ends_with("timed by the host's clock"), "{}", outcome.stdout);
    // 1,000 tensors cannot share 100 elements.
    assert_eq!(lines.len(), 2 + 4 + 1, "{}", outcome.stdout);
}

#[test]
fn every_storage_is_measured_on_both_backends() {
    let arguments = ["bench", "--storage", "f32,bf16,bf16-master,f16-master,q8", "--elements", "8k", "--tensors", "1"];
    let rows = json(&[arguments.as_slice(), &["--runs", "1", "--format", "json"]].concat());
    let moved = |backend: &str| -> Vec<_> {
        let own = rows.as_array().unwrap().iter().filter(|r| r["backend"] == backend && r["config"] == "propagate");
        own.map(|r| (r["storage"].as_str().unwrap(), r["bytes_moved"].as_f64().unwrap() / 8192.0)).collect()
    };
    let q8 = 4.0 / 64.0;
    let on_gpu = [28.0, 14.0, 22.0, 22.0, 10.0 + q8];
    // Parameters and gradients are f32 there.
    let on_cpu = [28.0, 20.0, 28.0, 28.0, 16.0 + q8];
    for (backend, expected) in [("gpu", on_gpu), ("cpu", on_cpu)] {
        let names = ["f32", "bf16", "bf16-master", "f16-master", "q8"];
        assert_eq!(moved(backend), names.into_iter().zip(expected).collect::<Vec<_>>(), "{backend}");
    }
}

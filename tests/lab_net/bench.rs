use std::{fs, process::Command};

use serde_json::Value;
use warren::lab::testing::{program, scratch};

fn bench(args: &[&str]) -> (bool, String) {
    let mut command = Command::new(program("warren").unwrap());
    command.args(["lab", "bench"]).args(args).env("XDG_RUNTIME_DIR", runtime());
    let output = command.output().unwrap();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

fn runtime() -> std::path::PathBuf {
    let runtime = scratch().join("run");
    fs::create_dir_all(&runtime).unwrap();
    runtime
}

pub(crate) fn a_short_bench_finds_every_figure_and_they_add_up() {
    let (json, plot) = (scratch().join("bench.json"), scratch().join("bench.svg"));
    let (json, plot) = (json.to_str().unwrap(), plot.to_str().unwrap());
    let line = "--rounds 2 --seconds 0.05 --against none --json";
    let mut args: Vec<&str> = line.split(' ').collect();
    args.extend([json, "--plot", plot]);
    let (success, text) = bench(&args);
    assert!(success, "{text}");
    let found: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
    assert_eq!(
        (&found["run"]["rounds"], &found["failures"]),
        (&2.into(), &Value::Array(Vec::new())),
        "{text}"
    );
    let figures = found["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 54, "{text}");
    for figure in figures {
        let (key, results) = (figure["key"].as_str().unwrap(), figure["results"].as_object().unwrap());
        assert!(results.contains_key("warren"), "{key}");
        for (name, result) in results {
            let rounds: Vec<f64> =
                result["rounds"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            let median = result["median"].as_f64().unwrap();
            assert_eq!(rounds.len(), 2, "{key} of {name}");
            // A number read from text may differ in its last digit.
            let middle = f64::midpoint(rounds[0], rounds[1]);
            assert!((median - middle).abs() <= middle * 1e-9, "{key} of {name}: {median}, {rounds:?}");
            // So short a time may take no tick of the processor and no page; nothing may be lost at all.
            let may_be_nothing = key.contains("_cpu")
                || ["stalled_", "idle_", "dump_added"].iter().any(|of| key.starts_with(of));
            assert!(median > 0.0 || may_be_nothing && median == 0.0, "{key} of {name}: {median}");
        }
    }
    let of = |key: &str, name: &str| {
        let figure = figures.iter().find(|figure| figure["key"] == key).unwrap();
        figure["results"][name]["median"].as_f64().unwrap()
    };
    assert_eq!(of("stalled_lost", "warren"), 0.0);
    assert!((1.0..=100.0).contains(&of("hot_64_top", "warren")));
    assert!(of("rps_p99", "warren") >= of("rps_p50", "warren"));
    assert!(of("bulk_peak", "warren") >= of("bulk_rss", "warren"));
    assert!(text.contains("new connections, 32 clients") && text.contains("at least 0.5 x none: "), "{text}");
    let drawing = fs::read_to_string(plot).unwrap();
    assert!(
        drawing.starts_with("<svg ") && drawing.contains("8 streams") && drawing.contains(">warren</text>")
    );
    assert!(!runtime().join("warren-lab/bench").exists());
}

pub(crate) fn a_bench_of_what_cannot_start_says_so_and_fails() {
    let (success, text) = bench(&[
        "--rounds",
        "1",
        "--seconds",
        "0.05",
        "--only",
        "rps",
        "--against",
        "none",
        "--binary",
        "no=/bin/true",
    ]);
    assert!(!success && text.contains("not measured: no, raising the mesh: "), "{text}");
    // The others were measured all the same.
    assert!(text.contains("requests, 64 connections") && text.contains("their median"), "{text}");
}

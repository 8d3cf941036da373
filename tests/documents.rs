//! Documents that are made from the code are those that the code makes now. `WARREN_BLESS=1 cargo test --test documents`
//! writes them anew.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::Command,
};

use serde_json::Value;
use warren::{
    protocols::config,
    telemetry::metrics::{self, Declaration},
};

/// The path of a file of the repository.
fn path_of(path: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join(path)
}

/// Fails unless the file at `path` holds `text`; writes it there if that is asked for.
#[track_caller]
fn up_to_date(path: &str, text: &str) {
    let file = path_of(path);
    if std::env::var_os("WARREN_BLESS").is_some() {
        fs::write(&file, text).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    if found != text {
        let line = found.lines().zip(text.lines()).take_while(|(found, made)| found == made).count() + 1;
        panic!("{path} is out of date from line {line} on: run WARREN_BLESS=1 cargo test --test documents");
    }
}

#[test]
fn settings_document_is_up_to_date() {
    up_to_date("docs/settings.md", &config::document());
}

#[test]
fn every_setting_is_declared_once_and_says_what_it_does() {
    let mut names = BTreeSet::new();
    for section in config::variables() {
        assert!(!section.title.is_empty());
        for var in section.vars {
            assert!(names.insert(var.name), "{} is declared twice", var.name);
            assert!(var.help.ends_with('.') && !var.form.is_empty(), "{var:?}");
            assert!(!var.help.contains('|') && !var.default.contains('|'), "{var:?} breaks its table");
        }
    }
    assert!(names.len() > 90, "only {} variables", names.len());
}

const METRICS: &str = "\
# Metrics

Every family of a scrape of `:15020/metrics`. The names and labels of `istio_build` and of the opened, closed, sent and
received families are stable; all others may change. A family without a sample is left out of a scrape.
`WARREN_BLESS=1 cargo test --test documents` writes this file anew from the declarations in the code.
[operations.md](operations.md) says what to look at.

| Family | Type | Labels | What |
|---|---|---|---|
";

#[test]
fn metrics_document_is_up_to_date() {
    up_to_date("docs/metrics.md", &metrics_document());
}

/// The table of all families. Long lists of labels stand below the table, once each.
fn metrics_document() -> String {
    let mut families: Vec<&Declaration> = metrics::describe().to_vec();
    families.sort_by_key(|family| family.name);
    let (mut text, mut lists) = (METRICS.to_owned(), Vec::<&[&str]>::new());
    for family in families {
        let labels = match family.labels.len() {
            0..=4 => in_backquotes(family.labels),
            _ => {
                let known = lists.iter().position(|list| *list == family.labels).unwrap_or_else(|| {
                    lists.push(family.labels);
                    lists.len() - 1
                });
                format!("list {}", known + 1)
            }
        };
        writeln!(text, "| `{}` | {} | {labels} | {} |", family.name, family.kind.as_str(), family.help)
            .unwrap();
    }
    for (number, list) in lists.iter().enumerate() {
        write!(text, "\nList {} of labels: {}.\n", number + 1, in_backquotes(list)).unwrap();
    }
    text
}

fn in_backquotes(labels: &[&str]) -> String {
    labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
}

const DEPENDENCIES: &str = "\
# Dependencies

Every crate that this one names, with the reason for it. The reasons are kept in
[dependencies.yaml](dependencies.yaml), and the rest is from `cargo metadata`:
`WARREN_BLESS=1 cargo test --test documents` writes this file anew. `deploy/sbom.py` lists what these bring along.
`deny.toml` says which licences and sources are allowed, and `.ci/run` checks it.

| Crate | Version | Licence | For | Why |
|---|---|---|---|---|
";

#[test]
fn dependencies_document_is_up_to_date_and_every_dependency_has_a_reason() {
    let reasons = fs::read_to_string(path_of("docs/dependencies.yaml")).unwrap();
    let mut reasons: BTreeMap<String, String> = serde_saphyr::from_str(&reasons).unwrap();
    let mut text = DEPENDENCIES.to_owned();
    for dependency in dependencies() {
        let [name, version, licence, part] = &dependency;
        let reason = reasons.remove(name).unwrap_or_else(|| panic!("docs/dependencies.yaml: why {name}?"));
        assert!(!reason.contains('|'), "the reason for {name} breaks its table");
        writeln!(text, "| `{name}` | {version} | {licence} | {part} | {reason} |").unwrap();
    }
    assert!(reasons.is_empty(), "docs/dependencies.yaml: there is no {reasons:?} any more");
    up_to_date("docs/dependencies.md", &text);
}

/// Name, version, licence and use of each direct dependency. Uses that ship come before those of builds and tests.
fn dependencies() -> Vec<[String; 4]> {
    // One platform for all: a dependency of one processor is in the document of each.
    let arguments = [
        "metadata",
        "--locked",
        "--format-version=1",
        "--all-features",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(path_of(".")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |list: &Value, id: &Value| {
        list.as_array().unwrap().iter().find(|one| one["id"] == *id).unwrap().clone()
    };
    let root = of(&metadata["resolve"]["nodes"], &metadata["resolve"]["root"]);
    let mut all = BTreeSet::new();
    for dependency in root["deps"].as_array().unwrap() {
        let package = of(&metadata["packages"], &dependency["pkg"]);
        // What only the fuzzer has beside the tests does not ship.
        let uses = dependency["dep_kinds"].as_array().unwrap().iter();
        let kinds: Vec<&Value> =
            uses.filter(|of| of["target"] != "cfg(fuzzing)").map(|of| &of["kind"]).collect();
        let part = if kinds.contains(&&Value::Null) {
            (0, "the proxy")
        } else if kinds.contains(&&Value::from("build")) {
            (1, "the build")
        } else {
            (2, "tests")
        };
        let text = |key: &str| package[key].as_str().unwrap().to_owned();
        // Dependencies of tests cannot be optional: these are behind the feature `cluster`.
        let part = match package["name"].as_str().unwrap() {
            "futures-util" => (0, "the lab"),
            "k8s-openapi" | "kube" => (2, "tests"),
            _ => part,
        };
        all.insert((part.0, [text("name"), text("version"), text("license"), part.1.to_owned()]));
    }
    all.into_iter().map(|(_, row)| row).collect()
}

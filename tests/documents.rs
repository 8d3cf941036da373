//! Documents that are made from the code are those that the code makes now. `WARREN_BLESS=1 cargo test --test documents`
//! writes them anew.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

use warren::{
    protocols::config,
    telemetry::metrics::{self, Declaration},
};

/// Fails unless the file at `path` holds `text`; writes it there if that is asked for.
#[track_caller]
fn up_to_date(path: &str, text: &str) {
    let file = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join(path);
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

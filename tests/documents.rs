//! Documents that are made from the code are those that the code makes now. `WARREN_BLESS=1 cargo test --test documents`
//! writes them anew.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::{collections::BTreeSet, fs, path::PathBuf};

use warren::protocols::config;

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

//! Rows have names of their own, and are found by them.

use std::collections::BTreeSet;

use super::*;

#[test]
fn rows_have_names_of_their_own_and_are_found_by_them() {
    let names: BTreeSet<&str> = ALL.iter().map(|entry| entry.name).collect();
    assert_eq!((names.len(), chosen(&[]).unwrap().len()), (ALL.len(), ALL.len()));
    let only = ["mute".to_owned(), "idle".to_owned()];
    let found: Vec<&str> = chosen(&only).unwrap().iter().map(|entry| entry.name).collect();
    assert_eq!(found, ["idle", "mute"]);
    let error = chosen(&["mutes".to_owned()]).unwrap_err().to_string();
    assert!(error.starts_with("no row is called mutes: there are idle, paced"), "{error}");
}

use std::collections::BTreeSet;

use super::*;

#[test]
fn names_are_told_apart_and_say_what_they_are() {
    let names: BTreeSet<&str> = ALL.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), ALL.len());
    for family in ALL {
        let name = family.name;
        assert_eq!(name.ends_with("_total"), family.kind == Kind::Counter, "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
        assert!(!family.help.ends_with('.') && !family.help.is_empty(), "{name}");
        let labels: BTreeSet<&&str> = family.labels.iter().collect();
        assert_eq!(labels.len(), family.labels.len(), "{name}");
    }
}

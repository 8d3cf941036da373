use std::collections::BTreeMap;

use super::*;
use crate::protocols::config::{self, Inputs, reader::Reader, tests::good, variables};

#[test]
fn every_variable_is_declared_whatever_is_set() {
    let sections = variables();
    let declared: Vec<&str> = sections.iter().flat_map(|s| &s.vars).map(|var| var.name).collect();
    for (name, value, ..) in good() {
        let inputs = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let inputs = Inputs {
            vars: &inputs,
            mesh_file: None,
            cores: 8,
            memory: Default::default(),
            file_exists: &|_| false,
            fake_ca_allowed: true,
        };
        let mut r = Reader::new(&inputs);
        let _ = config::read(&mut r);
        for var in r.into_asked().iter().flat_map(|section| &section.vars) {
            assert!(declared.contains(&var.name), "{} is asked for only with {name}={value}", var.name);
        }
        let is_declared = |declared: &&str| {
            *declared == name || declared.ends_with('*') && name.starts_with(declared.trim_end_matches('*'))
        };
        assert!(name == "XDS_UNKNOWN" || declared.iter().any(is_declared), "{name}");
    }
}

#[test]
fn variables_that_say_the_same_share_a_row() {
    static VARS: [Var; 3] =
        [Var::flag("A", "true", "One."), Var::flag("B", "", "Two."), Var::flag("C", "true", "One.")];
    let text = settings(&[Section { title: "Title", vars: VARS.iter().collect() }]);
    let rows: Vec<&str> = text.lines().skip_while(|line| *line != "## Title").skip(4).collect();
    assert_eq!(rows, ["| `A`, `C` | boolean | `true` | One. |", "| `B` | boolean | unset | Two. |"]);
}

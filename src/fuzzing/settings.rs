//! Settings: an environment, and the mesh file.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::protocols::config::{Inputs, Origin, TokenSource, parse};

/// What stands between the environment and the mesh file.
const MESH_FILE_BEGINS: &str = "\n---\n";
/// The value of a variable in an error, and the name of a variable that the environment may have chosen.
const SHOWN_BYTES: usize = 4 * 300;

/// Lines of `NAME=VALUE`, in which `\n` is a line break, and then perhaps the mesh file. The settings are read or every
/// bad value is named, and no secret is shown.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (lines, mesh_file) = match text.split_once(MESH_FILE_BEGINS) {
        Some((lines, file)) => (lines, Some(file)),
        None => (&*text, None),
    };
    let vars: BTreeMap<String, String> = lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.replace("\\n", "\n")))
        .collect();
    let file_exists = |path: &str| path == "/exists";
    let inputs = Inputs {
        vars: &vars,
        mesh_file,
        cores: 4,
        memory: Default::default(),
        file_exists: &file_exists,
        fake_ca_allowed: false,
    };
    match (parse(&inputs), parse(&inputs)) {
        (Ok(config), Ok(again)) => {
            let summary = config.summary();
            assert_eq!(summary, again.summary());
            let read: Value = serde_saphyr::from_str(&summary).expect("a summary that is no YAML");
            assert!(read.is_object());
            if let TokenSource::Value(secret) = &config.control.token {
                let told = format!("{config:?}{summary}");
                let is_unique = secret.expose().len() > 12 && !others_say(&vars, secret.expose());
                assert!(!is_unique || !told.contains(secret.expose()), "a secret is told");
            }
            assert!(config.warnings.iter().all(|warning| !warning.reason.is_empty()));
        }
        (Err(invalid), Err(again)) => {
            assert!(!invalid.is_empty() && invalid == again);
            for one in &invalid {
                assert!(!one.reason.is_empty() && !one.to_string().is_empty());
                assert!(one.origin == Origin::MeshFile || !one.name.is_empty());
                assert!(
                    one.value.len() <= SHOWN_BYTES + one.name.len(),
                    "{} bytes are shown",
                    one.value.len()
                );
            }
        }
        (one, other) => panic!("the same settings are read in two ways: {one:?} and {other:?}"),
    }
}

/// Whether another variable, or the defaults, have this text too.
fn others_say(vars: &BTreeMap<String, String>, text: &str) -> bool {
    let defaults = format!("{:?}", crate::protocols::config::Config::default());
    let count = vars.iter().filter(|(name, value)| name.contains(text) || value.contains(text)).count();
    count > 1 || defaults.contains(text)
}

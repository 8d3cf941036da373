//! Holds README.md and ARCHITECTURE.md to the source.

use std::collections::BTreeSet;

use super::{
    report,
    source::{File, files, read},
};

/// Constants that bound nothing: what the wire, the kernel or the settings fix.
const NO_LIMITS: [(&str, &str); 25] = [
    ("src/protocols/config/otlp.rs", "MILLIS_MAX"),
    ("src/protocols/config/otlp.rs", "QUEUE_MAX"),
    ("src/protocols/config/export.rs", "INTERVAL_MIN"),
    ("src/protocols/config/drain.rs", "MOST_SECONDS"),
    ("src/protocols/config/pool.rs", "DAY"),
    ("src/protocols/config/ca.rs", "DAY"),
    ("src/protocols/config/socket.rs", "SECONDS_MAX"),
    ("src/protocols/config/socket.rs", "PROBES_MAX"),
    ("src/protocols/config/http2.rs", "WINDOW_MAX"),
    ("src/protocols/config/http2.rs", "CONNECTION_WINDOW_MIN"),
    ("src/protocols/config/inpod.rs", "UDS_PATH_BYTES"),
    ("src/protocols/route/hop.rs", "HBONE_PORT"),
    ("src/protocols/route/failover.rs", "UNAVAILABLE"),
    ("src/protocols/tls/record.rs", "HEADER_LEN"),
    ("src/protocols/tls/record.rs", "OVERHEAD"),
    ("src/protocols/tls/aead.rs", "TAG_LEN"),
    ("src/protocols/tls/record.rs", "EXPLICIT_NONCE_LEN"),
    ("src/protocols/xds/delta.rs", "ROOM_FOR_COUNT"),
    ("src/protocols/xds/delta.rs", "FIRST_BYTES_MAX"),
    ("src/actors/sys/fdpass.rs", "CONTROL_WORDS"),
    ("src/actors/sys/pulse.rs", "HEAD"),
    ("src/actors/sys/pulse.rs", "UNTOUCHED"),
    ("src/actors/sys/socket.rs", "BEGINS"),
    ("src/actors/sys/socket.rs", "GOES_ON"),
    ("src/actors/sys/socket.rs", "MARK_BITS"),
];

#[test]
fn the_code_map_names_every_file_and_no_other() {
    let mut mapped: BTreeSet<String> = BTreeSet::new();
    let mut directory = String::new();
    for line in section(&read("ARCHITECTURE.md"), "## Code map").lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            directory = heading.trim_matches('`').to_owned();
        } else if let Some(cell) = line.strip_prefix("| `") {
            let names = cell.split(" | ").next().unwrap_or_default();
            mapped.extend(names.split(", ").map(|name| format!("{directory}/{}", name.trim_matches('`'))));
        }
    }
    let files = files();
    let sources: BTreeSet<&str> = files
        .iter()
        .filter(|file| file.path.starts_with("src/") && !file.is_test_file())
        .map(|file| file.path.as_str())
        .collect();
    let covers = |entry: &String, file: &str| {
        entry.as_str() == file || entry.ends_with('/') && file.starts_with(entry.as_str())
    };
    let missing = sources.iter().filter(|file| !mapped.iter().any(|entry| covers(entry, file)));
    let stale = mapped.iter().filter(|entry| !sources.iter().any(|file| covers(entry, file)));
    let missing = missing.map(|file| format!("{file}: not in the code map of ARCHITECTURE.md"));
    let stale = stale.map(|entry| format!("ARCHITECTURE.md: there is no {entry}"));
    report(missing.chain(stale).collect());
}

#[test]
fn the_limits_name_every_bound_and_no_other() {
    let text = read("ARCHITECTURE.md");
    let limits = section(&text, "## Limits");
    let mut listed: BTreeSet<(String, String)> = BTreeSet::new();
    for row in limits.lines().filter(|line| line.starts_with('|')) {
        // A constant and its file: `NAME` in `path`.
        for (at, _) in row.match_indices("` in `") {
            let name = row[..at].rsplit('`').next().unwrap_or_default();
            let path = row[at + "` in `".len()..].split('`').next().unwrap_or_default();
            listed.insert((format!("src/{path}"), name.to_owned()));
        }
    }
    let files = files();
    let mut wrong = Vec::new();
    for (path, name) in &listed {
        let known = files.iter().find(|file| file.path == *path);
        if known.is_none_or(|file| file.words(name).next().is_none()) {
            wrong.push(format!("ARCHITECTURE.md: there is no {name} in {path}"));
        }
    }
    let mut none: BTreeSet<(&str, &str)> = NO_LIMITS.into_iter().collect();
    for file in
        files.iter().filter(|file| file.path.starts_with("src/") && !file.path.starts_with("src/lab/"))
    {
        for (name, at) in bounds(file) {
            let bound = (file.path.clone(), name);
            let before = none.len();
            none.retain(|(path, name)| *path != bound.0 || *name != bound.1);
            let is_none = none.len() < before;
            if !listed.contains(&bound) && !is_none {
                wrong.push(format!(
                    "{}: {} is not among the limits of ARCHITECTURE.md",
                    file.place(at),
                    bound.1
                ));
            }
        }
    }
    wrong
        .extend(none.iter().map(|(path, name)| format!("{path}: there is no {name} that could be no limit")));
    report(wrong);
}

/// Constants of a type that bounds something, outside tests.
fn bounds(file: &File) -> Vec<(String, usize)> {
    let types = ["Duration", "usize", "u16", "u32", "u64", "i32", "f64"];
    let consts = file.words("const").filter(|at| !file.is_test(*at));
    consts
        .filter_map(|at| {
            let (name, kind) = file.code[at + "const".len()..].split_once(':')?;
            let kind = kind.trim_start().split([' ', ';', '=']).next()?;
            let name = name.trim();
            let is_name = name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            (is_name && types.contains(&kind)).then(|| (name.to_owned(), at))
        })
        .collect()
}

#[test]
fn tests_named_in_architecture_exist() {
    let files = files();
    let text = read("ARCHITECTURE.md");
    let named = text.split('`').skip(1).step_by(2);
    let tests = named.filter(|name| {
        name.matches('_').count() >= 3
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    });
    let is_metric = |name: &str| ["istio_", "warren_"].iter().any(|prefix| name.starts_with(prefix));
    let unknown = tests.filter(|name| {
        let defined = |file: &File| file.words(name).any(|at| file.code[..at].ends_with("fn "));
        !is_metric(name) && !files.iter().any(defined)
    });
    report(unknown.map(|name| format!("ARCHITECTURE.md: there is no test {name}")).collect());
}

#[test]
fn the_readme_names_every_metric_and_no_other() {
    let readme = read("README.md");
    let metrics = section(&readme, "## Metrics");
    let mut wrong = Vec::new();
    let mut known = BTreeSet::new();
    for file in files().iter().filter(|file| file.path.starts_with("src/actors/telemetry/")) {
        for (at, name) in texts(file).filter(|(at, _)| !file.is_test(*at)) {
            let prefixes = ["istio_", "warren_", "workload_manager_", "process_"];
            let is_metric = prefixes.iter().any(|prefix| name.starts_with(prefix))
                && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if is_metric && known.insert(format!("`{name}`")) && !metrics.contains(&format!("`{name}`")) {
                wrong.push(format!("{}: {name} is not in README.md", file.place(at)));
            }
        }
    }
    let named = metrics.split('`').skip(1).step_by(2).map(|name| format!("`{name}`"));
    let stale = named.filter(|name| name.matches('_').count() >= 2 && !known.contains(name));
    wrong.extend(stale.map(|name| format!("README.md: there is no metric {name}")));
    report(wrong);
}

/// What follows `heading` up to the next one of its level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let at = text.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is no {heading:?}"));
    let body = &text[at + heading.len() + 2..];
    let level = heading.split(' ').next().unwrap_or_default();
    body.find(&format!("\n{level} ")).map_or(body, |end| &body[..end])
}

/// The texts in the code, without escapes: what stands between two quotes that the code has blanked.
fn texts(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let is_blanked = |at: usize| file.code.as_bytes()[at] == b' ';
    let quotes: Vec<usize> =
        file.text.match_indices('"').map(|(at, _)| at).filter(|at| is_blanked(*at)).collect();
    let pairs: Vec<(usize, usize)> = quotes.windows(2).map(|pair| (pair[0], pair[1])).collect();
    pairs.into_iter().map(|(open, close)| (open, &file.text[open + 1..close]))
}

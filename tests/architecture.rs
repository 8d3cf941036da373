//! Holds the source to the rules of ARCHITECTURE.md: who may know whom, what pure code may not touch, where unsafe code
//! may be, how large things may get; and holds the documents to the source. Reads files, nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
use std::collections::BTreeSet;

#[path = "architecture/documents.rs"]
mod documents;
#[path = "architecture/limits.rs"]
mod limits;
#[path = "architecture/modules.rs"]
mod modules;
#[path = "architecture/source.rs"]
mod source;

use modules::Modules;
use source::{File, closing, files};

/// Most lines of a file, tests included.
const FILE_LINES: usize = 600;
/// Most lines of the file in the middle.
const MEDIAN_LINES: usize = 250;
/// Most lines of a function outside tests.
const FUNCTION_LINES: usize = 70;

/// The layers, and the layers each may know besides itself. What is not in a layer (`main.rs`, `lib.rs`) may know all.
const LAYERS: [(&str, &[&str]); 9] = [
    ("protocols", &[]),
    ("supervisor", &[]),
    ("sys", &["protocols"]),
    ("runtime", &["sys", "protocols", "supervisor"]),
    ("telemetry", &["runtime", "sys", "protocols"]),
    ("dataplane", &["telemetry", "runtime", "sys", "protocols"]),
    ("actors", &["dataplane", "telemetry", "runtime", "sys", "protocols", "supervisor"]),
    ("keeper", &["actors", "dataplane", "telemetry", "runtime", "sys", "protocols", "supervisor"]),
    ("lab", &["actors", "dataplane", "telemetry", "runtime", "sys", "protocols", "supervisor"]),
];

/// What `protocols` may not name: actors, sockets, tasks, clocks, the environment, files, chance of its own.
const IMPURE: [&str; 23] = [
    "ractor",
    "socket2",
    "libc",
    "hyper",
    "tonic::transport",
    "tokio::net",
    "tokio::spawn",
    "tokio::task",
    "tokio::time",
    "tokio::runtime",
    "tokio::fs",
    "tokio::process",
    "tokio::signal",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::env",
    "std::fs",
    "std::process",
    "std::thread",
    "rand::rng",
    "rand::random",
];

/// Calls that read a clock or draw chance, whatever the type is imported as.
const IMPURE_CALLS: [&str; 4] = ["now", "elapsed", "from_os_rng", "thread_rng"];

/// Where `protocols` may name what it else may not: file, path, reason. Each has to be in use.
const EXCEPTIONS: [(&str, &str, &str); 2] =
    [("src/protocols/relay.rs", "tokio::net", RELAY), ("src/protocols/relay/tcp.rs", "tokio::net", RELAY)];
const RELAY: &str = "the application's side of a relay is a TCP connection; the bytes are moved by polls of its traits, \
    never by a task";

/// Folders in which, and below which, no modules know each other in a circle.
const FREE_OF_CIRCLES: [&str; 1] = ["src"];

#[test]
fn layers_know_only_those_below_them() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| file.path.starts_with("src/")) {
        let Some((layer, below)) =
            LAYERS.iter().find(|(layer, _)| *layer == file.module.first().map_or("", |m| m))
        else {
            continue;
        };
        for path in file.paths() {
            let [first, other, ..] = path.parts.as_slice() else { continue };
            let is_other = first == "crate" && other != layer && LAYERS.iter().any(|(name, _)| name == other);
            // What an actor speaks to is played by the lab in its tests.
            let is_partner = *layer == "actors" && other == "lab" && file.is_test(path.at);
            if is_other && !below.contains(&other.as_str()) && !is_partner {
                wrong.push(format!(
                    "{}: {layer} must not know {}",
                    file.place(path.at),
                    path.parts.join("::")
                ));
            }
        }
    }
    report(wrong);
}

#[test]
fn protocols_touch_no_actor_socket_task_clock_environment_or_file() {
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for file in files().iter().filter(|file| file.path.starts_with("src/protocols/")) {
        let mut found: Vec<(usize, String)> = Vec::new();
        for path in file.paths() {
            let name = path.parts.join("::");
            let banned = IMPURE.iter().find(|banned| {
                name.strip_prefix(*banned).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            });
            found.extend(banned.map(|banned| (path.at, (*banned).to_owned())));
        }
        for call in IMPURE_CALLS {
            let is_call = |at: &usize| file.code[at + call.len()..].starts_with('(');
            let is_of_another =
                |at: &usize| file.code[..*at].ends_with("::") || file.code[..*at].ends_with('.');
            found.extend(
                file.words(call).filter(is_call).filter(is_of_another).map(|at| (at, call.to_owned())),
            );
        }
        for (at, what) in found.into_iter().filter(|(at, _)| !file.is_test(*at)) {
            match EXCEPTIONS.iter().find(|(path, name, _)| *path == file.path && *name == what) {
                Some(exception) => drop(used.insert(exception)),
                None => wrong.push(format!("{}: {what}", file.place(at))),
            }
        }
    }
    let unused = EXCEPTIONS.iter().filter(|exception| !used.contains(exception));
    wrong.extend(
        unused.map(|(path, name, _)| format!("{path}: the exception for {name} is not needed any more")),
    );
    report(wrong);
}

#[test]
fn no_two_modules_know_each_other_in_a_circle() {
    let modules = Modules::new(files().iter().filter(|file| file.path.starts_with("src/")));
    let mut wrong = Vec::new();
    for top in FREE_OF_CIRCLES {
        let top: Vec<String> = top.split('/').skip(1).map(str::to_owned).collect();
        let folders = modules.folders(&top);
        assert!(!folders.is_empty(), "{top:?} has no modules");
        wrong.extend(folders.iter().flat_map(|folder| modules.circles(folder)));
    }
    report(wrong);
}

#[test]
fn a_circle_is_found_behind_a_re_export() {
    let circles = |parts: &str, whole: &str| {
        let file = |path: &str, text: &str| File::new(format!("src/{path}"), text.to_owned());
        let files = [
            file("a/mod.rs", whole),
            file("a/part.rs", parts),
            file("a/other.rs", "use super::part::Part; pub struct Other(Part);"),
        ];
        Modules::new(&files).circles(&["a".to_owned()])
    };
    let whole = "mod other; mod part; pub use self::{other::Other as Another, part::Part};";
    assert_eq!(circles("pub struct Part;", whole), [""; 0]);
    let found = circles("use super::Another; pub struct Part(Box<Another>);", whole);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[1].contains("src/a/part.rs:1: in src/a, part knows other"), "{found:?}");
    // The code of the folder's own file is one of its parts.
    let found =
        circles("use super::Whole; pub struct Part(Box<Whole>);", "mod part; pub struct Whole(part::Part);");
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn unsafe_code_is_in_sys_only() {
    let mut wrong = Vec::new();
    for file in files().iter().filter(|file| !file.path.starts_with("src/sys/")) {
        for word in ["unsafe", "unsafe_code"] {
            wrong.extend(file.words(word).map(|at| format!("{}: {word}", file.place(at))));
        }
    }
    report(wrong);
}

#[test]
fn files_are_small() {
    let files = files();
    let mut wrong: Vec<String> = files
        .iter()
        .filter(|file| file.lines() > FILE_LINES)
        .map(|file| format!("{}: {} lines, at most {FILE_LINES}", file.path, file.lines()))
        .collect();
    let mut lines: Vec<usize> = files.iter().map(File::lines).collect();
    lines.sort_unstable();
    let median = lines[lines.len() / 2];
    if median > MEDIAN_LINES {
        wrong.push(format!("the median file has {median} lines, at most {MEDIAN_LINES}"));
    }
    report(wrong);
}

#[test]
fn functions_are_short() {
    let mut wrong = Vec::new();
    for file in files() {
        for at in file.words("fn").filter(|at| !file.is_test(*at)) {
            let Some(end) = file.code[at..].find(['{', ';']).map(|end| at + end) else { continue };
            if file.code[end..].starts_with('{') {
                let lines = file.code[at..closing(&file.code, end)].lines().count();
                if lines > FUNCTION_LINES {
                    wrong.push(format!("{}: {lines} lines, at most {FUNCTION_LINES}", file.place(at)));
                }
            }
        }
    }
    report(wrong);
}

#[test]
fn no_test_is_left_out_and_nothing_is_left_to_do() {
    let mut wrong = Vec::new();
    for file in files() {
        let attribute = file.words("ignore").filter(|at| {
            let before = file.code[..*at].trim_end();
            before.ends_with("#[") || before.ends_with(',') && file.code[at + 6..].starts_with(")]")
        });
        wrong.extend(attribute.map(|at| format!("{}: a test that does not run", file.place(at))));
        for name in ["todo", "unimplemented", "dbg"] {
            let called = file.words(name).filter(|at| file.code[at + name.len()..].starts_with('!'));
            wrong.extend(called.map(|at| format!("{}: {name}!", file.place(at))));
        }
    }
    report(wrong);
}

#[test]
fn the_source_is_read_as_it_is_meant() {
    let text = r###"
use std::{fs, net::{self, TcpStream as Stream}, time::*};
use super::super::relay::{End, Side};
// use ractor::Actor;
const TEXT: &str = "tokio::net \" {"; const RAW: &str = r#"std::env "{"#; const C: char = '"';
fn f<'a>(x: &'a str) -> impl Sized + use<'a> { crate::lab::main(tokio::time::sleep(x)) }
#[cfg(test)]
mod tests { fn g() { std::thread::spawn(f) } }
fn after() {}
"###;
    let file = File::new("src/protocols/hbone/x.rs".to_owned(), text.to_owned());
    let names: Vec<String> = file.paths().iter().map(|path| path.parts.join("::")).collect();
    assert_eq!(
        names,
        [
            "std::fs",
            "std::net::self",
            "std::net::TcpStream",
            "std::time",
            "crate::protocols::relay::End",
            "crate::protocols::relay::Side",
            "crate::lab::main",
            "tokio::time::sleep",
            "std::thread::spawn",
        ]
    );
    let in_test: Vec<bool> = file.paths().iter().map(|path| file.is_test(path.at)).collect();
    assert_eq!(in_test, [false, false, false, false, false, false, false, false, true]);
    let after = file.words("after").next().unwrap();
    assert!(!file.is_test(after));
    assert_eq!(file.place(after), "src/protocols/hbone/x.rs:9");
}

/// Fails with every violation.
#[track_caller]
fn report(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} violations:\n{}", wrong.len(), wrong.join("\n"));
}

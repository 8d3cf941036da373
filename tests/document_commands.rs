//! Runs the commands of documents as a reader would, and compares what they print.
//!
//! A block ```` ```console ```` has commands, each after `$ `, and below each what it prints. In what is printed, `…`
//! stands for any text of a line, and a line of `…` alone for any lines. A command that ends in ` &` goes on until the
//! end of the document. A command has to end with 0, and is tried again until it prints what the document says.
#![cfg(feature = "lab")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice, missing_docs)]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Nothing takes longer unless it hangs, or the document is wrong.
const LIMIT: Duration = Duration::from_secs(25);
/// How long to wait before a command is tried again.
const PAUSE: Duration = Duration::from_millis(200);
const ANYTHING: &str = "…";

/// A command of a document.
struct Step {
    line: usize,
    command: String,
    printed: Vec<String>,
}

/// A reader at work in a folder of its own.
struct Reader {
    folder: PathBuf,
    background: Vec<Child>,
}

#[test]
fn getting_started_prints_what_it_says() {
    follow("docs/getting-started.md", 15);
}

#[test]
fn the_chaos_guide_prints_what_it_says() {
    follow("docs/chaos-guide.md", 11);
}

#[test]
fn every_document_with_commands_to_run_is_followed() {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut with: Vec<String> = docs
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .filter(|path| !steps(&fs::read_to_string(path).unwrap()).is_empty())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    with.sort();
    assert_eq!(with, ["chaos-guide.md", "getting-started.md"]);
}

#[test]
fn what_is_printed_is_compared_line_by_line() {
    let matches = |pattern: &[&str], text: &str| {
        matches(&pattern.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>(), text)
    };
    assert!(matches(&["a … c", "d"], "a b c  \nd\n"));
    assert!(!matches(&["a … c"], "a b c\nd\n") && !matches(&["a … c", "d"], "a b c\n"));
    assert!(!matches(&["a … c"], "a b d\n") && !matches(&["b"], "a b\n"));
    assert!(matches(&["…", "d", "…"], "a\nb\nd\n") && !matches(&["…", "d"], "d\ne\n"));
    assert!(matches(&[], "") && !matches(&[], "a\n"));
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs all commands of a document, which has at least so many.
fn follow(document: &str, least: usize) {
    let steps = steps(&fs::read_to_string(root().join(document)).unwrap());
    assert!(steps.len() >= least, "{document} has {} commands", steps.len());
    let mut reader = Reader::new(document);
    for step in steps {
        let deadline = Instant::now() + LIMIT;
        let Step { line, command, printed } = &step;
        let background = command.strip_suffix(" &").map(|command| reader.begin(command));
        loop {
            let (ended_well, said) = match &background {
                Some(output) => (reader.goes_on(), fs::read_to_string(output).unwrap()),
                None => reader.run(command),
            };
            if ended_well && matches(printed, &said) {
                break;
            }
            let wanted = printed.join("\n");
            assert!(
                Instant::now() < deadline,
                "{document}:{line}: {command}\nprints:\n{said}\nand not:\n{wanted}"
            );
            std::thread::park_timeout(PAUSE);
        }
    }
}

/// The commands of the console blocks of a document.
fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (number, text) in document.lines().enumerate() {
        if text.starts_with("```") {
            inside = text == "```console";
        } else if let Some(command) = text.strip_prefix("$ ").filter(|_| inside) {
            steps.push(Step { line: number + 1, command: command.to_owned(), printed: Vec::new() });
        } else if let Some(step) = steps.last_mut().filter(|_| inside) {
            step.printed.push(text.to_owned());
        }
    }
    steps
}

/// Whether the lines of `text` are those of the pattern.
fn matches(pattern: &[String], text: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines_match(pattern, &lines)
}

fn lines_match(pattern: &[String], lines: &[&str]) -> bool {
    match (pattern.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, rest)), _) if first == ANYTHING => {
            (0..=lines.len()).any(|skipped| lines_match(rest, &lines[skipped..]))
        }
        (Some((first, rest)), Some((line, others))) => line_matches(first, line) && lines_match(rest, others),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

fn line_matches(pattern: &str, line: &str) -> bool {
    match pattern.split_once(ANYTHING) {
        None => line == pattern.trim_end(),
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.into_iter().any(|at| line_matches(after, &rest[at..]))
        }),
    }
}

// === impl Reader ===

impl Reader {
    /// A reader with the samples of `deploy/` and the program under test.
    fn new(document: &str) -> Self {
        let name = format!("warren-{}-{}", document.replace(['/', '.'], "-"), std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(folder.join("bin")).unwrap();
        std::os::unix::fs::symlink(root().join("deploy"), folder.join("deploy")).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_warren"), folder.join("bin/warren")).unwrap();
        Self { folder, background: Vec::new() }
    }

    /// A shell that runs `command`, with both of its outputs in `output`.
    fn shell(&self, command: &str, output: &Path) -> Command {
        let mut path = self.folder.join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let output = File::create(output).unwrap();
        let mut shell = Command::new("bash");
        shell.args(["-o", "pipefail", "-c", command]).current_dir(&self.folder).stdin(Stdio::null());
        shell.env("PATH", path).env("XDG_RUNTIME_DIR", &self.folder);
        shell.stdout(output.try_clone().unwrap()).stderr(output);
        shell
    }

    /// Runs a command. Returns whether it ended with 0, and what it printed.
    fn run(&self, command: &str) -> (bool, String) {
        let output = self.folder.join("output");
        let status = self.shell(command, &output).status().unwrap();
        (status.success(), fs::read_to_string(&output).unwrap())
    }

    /// Begins a command that goes on. Returns the file that it prints to.
    fn begin(&mut self, command: &str) -> PathBuf {
        let output = self.folder.join(format!("background-{}", self.background.len()));
        let child = self.shell(&format!("exec {command}"), &output).spawn().unwrap();
        self.background.push(child);
        output
    }

    /// Whether what was begun last goes on.
    fn goes_on(&mut self) -> bool {
        self.background.last_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for child in &mut self.background {
            // One that is told to end takes its mesh down.
            let _ = Command::new("kill").arg(child.id().to_string()).stderr(Stdio::null()).status();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

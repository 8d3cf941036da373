//! The script that makes a release, in a repository of its own.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// What the script reads and changes.
const FILES: [&str; 5] = ["Cargo.toml", "Cargo.lock", "CHANGELOG.md", "deploy", "tests/manifests"];
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A repository that has nothing but [`FILES`].
struct Repository(PathBuf);

#[test]
fn a_release_has_one_version_everywhere_and_its_changes_as_its_message() {
    let repository = Repository::new("made");
    let output = repository.release("98.7.6");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(repository.git(&["status", "--porcelain"]).is_empty());
    let read = |file: &str| fs::read_to_string(repository.0.join(file)).unwrap();
    assert!(read("Cargo.toml").contains("\nversion = \"98.7.6\"\n"));
    assert!(read("Cargo.lock").contains("name = \"warren\"\nversion = \"98.7.6\"\n"));
    assert!(read("deploy/chart/Chart.yaml").contains("\nversion: 98.7.6\nappVersion: 98.7.6\n"));
    assert!(read("deploy/kubernetes/base/kustomization.yaml").contains("newTag: 98.7.6"));
    assert_eq!(repository.git(&["grep", "-cF", VERSION, "--", "deploy", "tests/manifests"]), "");
    let changes = read("CHANGELOG.md");
    let (before, after) = changes.split_once("## [Unreleased]\n\n## [98.7.6] - 20").unwrap();
    assert!(before.starts_with("# Changelog") && after.contains(&format!("## [{VERSION}]")));
    let message = repository.git(&["tag", "-l", "--format=%(contents)", "v98.7.6"]);
    assert!(message.starts_with("warren 98.7.6\n\n### "), "{message}");
    assert!(!message.contains("The first version."), "{message}");
}

#[test]
fn what_is_no_release_is_refused_and_changes_nothing() {
    let repository = Repository::new("refused");
    let refused = |version: &str, why: &str| {
        let output = repository.release(version);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{version}: {said}");
        assert!(said.starts_with("release.sh: ") && said.contains(why), "{version}: {said}");
    };
    let head = repository.git(&["rev-parse", "HEAD"]);
    for version in ["", "1.2", "v1.2.3", "1.2.3 4"] {
        refused(version, "is no version");
    }
    refused(VERSION, "already");
    repository.git(&["tag", "v98.7.6"]);
    refused("98.7.6", "there is a tag v98.7.6");
    fs::write(repository.0.join("CHANGELOG.md"), format!("## [Unreleased]\n\n## [{VERSION}]\n\n- a\n"))
        .unwrap();
    refused("98.7.5", "not committed");
    repository.git(&["commit", "-qam", "No changes"]);
    refused("98.7.5", "nothing under Unreleased");
    assert_eq!(repository.git(&["rev-parse", "HEAD~1"]), head);
    assert!(repository.git(&["status", "--porcelain"]).is_empty());
}

// === impl Repository ===

impl Repository {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("warren-release-{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("tests")).unwrap();
        let repository = Self(folder);
        for file in FILES {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            let copied =
                Command::new("cp").arg("-r").arg(from).arg(repository.0.join(file)).status().unwrap();
            assert!(copied.success(), "{file}");
        }
        repository.git(&["init", "-q"]);
        repository.git(&["add", "."]);
        repository.git(&["commit", "-qm", "All"]);
        repository
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.0);
        for (name, value) in [("NAME", "a"), ("EMAIL", "a@b")] {
            command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
        }
        command
    }

    fn git(&self, args: &[&str]) -> String {
        let output = self.command(Path::new("git")).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn release(&self, version: &str) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/release.sh");
        self.command(&script).arg(version).output().unwrap()
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

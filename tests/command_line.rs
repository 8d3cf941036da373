//! The command line as people meet it: where options may stand, what an error says, what shells complete.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

fn warren(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
    let Output { status, stdout, stderr } = command.env_clear().args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn an_error_is_at_most_two_lines_with_the_nearest_match() {
    for (args, said) in [
        (
            &["tre"][..],
            "unrecognized subcommand 'tre'; a similar subcommand exists: 'tree'\nSee `warren --help`.",
        ),
        (&["xyzzy"], "unrecognized subcommand 'xyzzy'\nSee `warren --help`."),
        (
            &["tree", "--wacth"],
            "unexpected argument '--wacth' found; a similar argument exists: '--watch'\nSee `warren tree --help`.",
        ),
        (
            &["chaos", "kil", "xds"],
            "unrecognized subcommand 'kil'; a similar subcommand exists: 'kill'\nSee `warren chaos --help`.",
        ),
        (
            &["crashes", "seven"],
            "invalid value 'seven' for '[NUMBER]': invalid digit found in string\nSee `warren crashes --help`.",
        ),
        (
            &["--admin", "127.0.0.1:1", "version"],
            "--admin is for commands that ask a running proxy\nSee `warren version --help`.",
        ),
    ] {
        let (code, stdout, stderr) = warren(args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}");
        assert_eq!(stderr, format!("Error: {said}\n"), "{args:?}");
    }
}

#[cfg(feature = "lab")]
#[test]
fn an_error_of_the_lab_names_the_command() {
    let (code, _, stderr) = warren(&["lab", "up", "--no-prxy", "mesh.yaml"]);
    let want = "Error: unexpected argument '--no-prxy' found; a similar argument exists: '--no-proxy'\n\
                See `warren lab up --help`.\n";
    assert_eq!((code, stderr.as_str()), (Some(2), want));
    let (code, _, stderr) = warren(&["lab", "--name", "absent", "status"]);
    assert_eq!(code, Some(1));
    assert_eq!(warren(&["lab", "status", "--name", "absent"]), (Some(1), String::new(), stderr));
}

/// Nobody listens on the port, which the error names: so the option has been read.
#[test]
fn options_stand_before_and_after_the_command() {
    for args in [
        &["--admin", "127.0.0.1:1", "tree"][..],
        &["tree", "--admin", "127.0.0.1:1"],
        &["tree", "--admin=127.0.0.1:1"],
        &["chaos", "--admin", "127.0.0.1:1", "kill", "xds"],
        &["chaos", "kill", "--admin", "127.0.0.1:1", "xds"],
        &["chaos", "kill", "xds", "--admin", "127.0.0.1:1"],
        &["--admin=127.0.0.1:1", "chaos", "tasks"],
    ] {
        let (code, _, stderr) = warren(args);
        assert_eq!(code, Some(1), "{args:?}: {stderr}");
        assert!(stderr.starts_with("Error: no proxy answers on 127.0.0.1:1: "), "{args:?}: {stderr}");
    }
}

#[test]
fn the_proxy_ignores_whatever_follows_its_name() {
    for args in [
        &[][..],
        &["proxy"],
        &["proxy", "ztunnel"],
        &["proxy", "ztunnel", "--log-level", "debug", "-x"],
        &["proxy", "--help", "ztunnel"],
    ] {
        // A setting that is wrong ends it at once: so it was the proxy that was started.
        let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
        let output = command.env_clear().args(args).env("PROXY_MODE", "neither").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("PROXY_MODE") && said.lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn help_and_version_are_found_in_every_way_people_ask_for_them() {
    let version = |args| {
        let (code, stdout, _) = warren(args);
        assert_eq!(code, Some(0), "{args:?}");
        stdout
    };
    let said = version(&["--version"]);
    assert!(said.starts_with("warren ") && said.lines().count() == 1, "{said}");
    assert!(said.contains("rustc 1.") && said.contains("aws-lc-rs 1."), "{said}");
    assert_eq!((version(&["-V"]), version(&["version"])), (said.clone(), said));
    let (code, help, _) = warren(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(help.contains("Usage: warren") && help.contains("Examples:"), "{help}");
    // Not a terminal: no colours.
    assert!(!help.contains('\x1b'), "{help}");
    assert_eq!((warren(&["help"]).1, warren(&["-h"]).0), (help, Some(0)));
    assert_eq!(warren(&["help", "tree"]).1, warren(&["tree", "--help"]).1);
    assert!(warren(&["proxy", "--help"]).1.contains("Usage: warren proxy"));
    let has_lab = warren(&["--help"]).1.contains("  lab ");
    assert_eq!(has_lab, cfg!(feature = "lab"));
}

#[test]
fn the_version_tells_of_the_build_as_json() {
    let (code, stdout, _) = warren(&["version", "-o", "json"]);
    let told: std::collections::BTreeMap<String, String> = serde_json::from_str(&stdout).unwrap();
    let about: Vec<&str> = told.keys().map(String::as_str).collect();
    let want = [
        "buildProfile",
        "buildStatus",
        "cryptoProvider",
        "gitRevision",
        "istioVersion",
        "rustVersion",
        "target",
        "version",
    ];
    assert_eq!((code, about), (Some(0), want.to_vec()));
    assert_eq!(told["version"], env!("CARGO_PKG_VERSION"));
    let profile =
        std::path::Path::new(env!("CARGO_BIN_EXE_warren")).parent().and_then(|folder| folder.file_name());
    assert_eq!(Some(told["buildProfile"].as_ref()), profile);
    assert_eq!(warren(&["version", "-o", "xml"]).0, Some(2));
}

#[cfg(feature = "lab")]
#[test]
fn each_command_has_a_manual_page() {
    let directory = std::env::temp_dir().join(format!("warren-man-{}", std::process::id()));
    let missing = warren(&["man", directory.to_str().unwrap()]);
    assert!(missing.0 == Some(1) && missing.2.starts_with("Error: cannot write into "), "{missing:?}");
    std::fs::create_dir(&directory).unwrap();
    let written = warren(&["man", directory.to_str().unwrap()]);
    let page = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
    let (top, tree) = (page("warren.1"), page("warren-chaos-kill.1"));
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(written, (Some(0), String::new(), String::new()));
    assert!(top.contains(".TH warren 1") && top.contains("warren\\-lab(1)"), "{top}");
    assert!(tree.contains("Path of the actor in the tree"), "{tree}");
}

#[test]
fn completions_are_made_for_three_shells_and_bash_reads_its_own() {
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef warren"), ("fish", "complete -c warren")]
    {
        let (code, script, stderr) = warren(&["completions", shell]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(script.contains(mark) && script.contains("quarantine"), "{shell}: {script}");
    }
    let (code, _, stderr) = warren(&["completions", "bsh"]);
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("[possible values: bash, zsh, fish]; a similar value exists: 'bash'"),
        "{stderr}"
    );
    let mut bash =
        Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(warren(&["completions", "bash"]).1.as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

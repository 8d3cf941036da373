//! Bad settings, as the operator meets them: the process names each and its reason, and exits with 1.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Command, Output};

fn run(args: &[&str], settings: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
    command.env_clear().args(args).envs(settings.iter().copied());
    command.output().unwrap()
}

#[test]
fn every_bad_setting_is_named_at_once_with_its_value_and_the_process_exits_with_1() {
    let bad = [
        ("PROXY_MODE", "neither"),
        ("NETWORK", "a/b"),
        ("IPV6_ENABLED", "perhaps"),
        ("PACKET_MARK", "-1"),
        ("INPOD_PORT_REUSE", "yes please"),
        ("ENABLE_ORIG_SRC", "sometimes"),
        ("KEEPALIVE_ENABLED", "2"),
        ("KEEPALIVE_TIME", "soon"),
        ("KEEPALIVE_RETRIES", "many"),
        ("HTTP2_STREAM_WINDOW_SIZE", "4MiB"),
        ("HTTP2_FRAME_SIZE", "1"),
        ("POOL_MAX_STREAMS_PER_CONNECTION", "70000"),
        ("POOL_UNUSED_RELEASE_TIMEOUT", "5 minutes or so"),
        ("CONNECTION_TERMINATION_DEADLINE", "later"),
        ("TERMINATION_GRACE_PERIOD_SECONDS", "-30"),
        ("ENABLE_RESPONSE_BAGGAGE", "maybe"),
        ("TLS12_ENABLED", "old"),
        ("XDS_ADDRESS", "not an address"),
        ("CA_ADDRESS", "ftp://10.0.0.1:21"),
        ("SECRET_TTL", "a while"),
        ("RUST_LOG", "warren=loudly"),
        ("ISTIO_META_DNS_PROXY_ADDR", "somewhere"),
        ("ZTUNNEL_WORKER_THREADS", "a few"),
        ("WARREN_TLS_HANDSHAKE_TIMEOUT", "0s"),
    ];
    let output = run(&["proxy", "ztunnel"], &bad);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for (name, value) in bad {
        if name == "NETWORK" {
            continue;
        }
        let line = said.lines().find(|line| line.contains(name));
        let line = line.unwrap_or_else(|| panic!("nothing is said of {name}:\n{said}"));
        assert!(line.contains(value), "{line}");
        let reason = line.len() - name.len() - value.len();
        assert!(reason > 10, "no reason in {line:?}");
    }
}

#[test]
fn a_bad_local_source_ends_the_start_with_its_place() {
    let file = std::env::temp_dir().join(format!("warren-local-{}.yaml", std::process::id()));
    std::fs::write(&file, "workloads:\n  - {namespace: ns, workloadIps: [10.0.0.1]}\n").unwrap();
    let path = file.to_str().unwrap();
    let bad = "policies:\n  - {name: p, namespace: ns, scope: Everywhere}";
    let cases = [
        (("LOCAL_XDS_PATH", path), [path, "services", "2"]),
        (("LOCAL_XDS_PATH", "/nowhere.yaml"), ["LOCAL_XDS_PATH", "/nowhere.yaml", "No such file"]),
        (("LOCAL_XDS", bad), ["LOCAL_XDS", "Everywhere", "2"]),
    ];
    for (setting, words) in cases {
        let output = run(&[], &[setting]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_single_bad_setting_is_enough() {
    let output = run(&[], &[("CONNECTION_TERMINATION_DEADLINE", "later")]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        said.lines().filter(|line| line.contains("CONNECTION_TERMINATION_DEADLINE")).count(),
        1,
        "{said}"
    );
    assert!(!said.contains("panicked"), "{said}");
}

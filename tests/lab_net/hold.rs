use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::Instant,
};

use warren::lab::{
    net::{
        Namespace,
        cell::{self, Entered},
    },
    process::{ProcessError, Program},
    testing::scratch,
};

use crate::support::*;

const HELPER: &str = "LAB_NET_HOLD";

/// In a process started by [`a_killed_cell_takes_its_processes_along`]: a cell that holds a program for ever.
pub(crate) fn helper() -> Option<ExitCode> {
    let file = PathBuf::from(env::var_os(HELPER)?);
    match cell::enter() {
        Ok(Entered::Inside) => {}
        Ok(Entered::Finished(code)) => return Some(ExitCode::from(code)),
        Err(error) => panic!("{error}"),
    }
    let namespace = Namespace::create("held").unwrap();
    // A grandchild outlives its parent's pipe and would escape a list of children.
    let held =
        Program::new("held", "/bin/sh").args(["-c", "sleep 600 & sleep 600"]).start(&namespace).unwrap();
    let pids = [cell::outer_pid().unwrap(), held.outer_pid().unwrap()];
    fs::write(file.with_extension("part"), format!("{} {}", pids[0], pids[1])).unwrap();
    fs::rename(file.with_extension("part"), file).unwrap();
    loop {
        thread::park();
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        thread::park_timeout(SHORT / 100);
    }
}

fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    // A zombie only waits for its parent to ask.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The ids of processes that descend from `pid`.
fn descendants(pid: &str) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children: Vec<String> = children.split_whitespace().map(str::to_owned).collect();
    children.iter().flat_map(|child| descendants(child)).chain(children.clone()).collect()
}

pub(crate) fn a_killed_cell_takes_its_processes_along() {
    let file = scratch().join("pids");
    let mut outer = Command::new("/proc/self/exe").env(HELPER, &file).spawn().unwrap();
    wait_until("the cell starts", || file.exists());
    let pids = fs::read_to_string(&file).unwrap();
    let (holder, shell) = pids.split_once(' ').unwrap();
    let mut all = Vec::new();
    wait_until("the shell has started another", || {
        all = descendants(holder);
        all.len() >= 2
    });
    assert!(all.iter().any(|pid| pid == shell), "{all:?}");
    all.push(holder.to_owned());
    assert!(all.iter().all(|pid| runs(pid)));
    outer.kill().unwrap();
    outer.wait().unwrap();
    wait_until("all processes of the cell end", || !all.iter().any(|pid| runs(pid)));
}

pub(crate) fn the_cell_has_no_network_but_its_own() {
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let up = |line: &&str| !line.trim().starts_with("lo:");
    // Some kernels put idle tunnel devices into every namespace.
    let others: Vec<&str> = interfaces.lines().skip(2).filter(up).collect();
    assert!(others.iter().all(|line| line.split_whitespace().nth(1) == Some("0")), "{others:?}");
    assert!(std::net::TcpStream::connect_timeout(&at("192.0.2.1", 80), SHORT).is_err());
    assert!(cell::is_inside());
}

pub(crate) fn a_program_runs_in_its_namespace_and_ends_with_its_owner() {
    let pair = Pair::new();
    let log = scratch().join("log");
    let script = "cat /proc/net/if_inet6; echo $GREETING $1; exec sleep 600";
    let program = Program::new("shell", "/bin/sh").args(["-c", script, "sh", "argument"]);
    let mut running = program.env("GREETING", "hello").log(&log).start(&pair.a).unwrap();
    let deadline = Instant::now() + LIMIT;
    while !running.log_text().contains("hello argument") {
        assert!(Instant::now() < deadline, "{}", running.log_text());
        thread::park_timeout(SHORT / 100);
    }
    assert!(running.log_text().contains("fd000000000000000000000000010001"), "{}", running.log_text());
    let used = running.usage().unwrap();
    assert!(used.resident_bytes > 0 && used.threads == 1, "{used:?}");
    assert!(running.status().unwrap().is_none());
    assert!(matches!(running.wait(SHORT), Err(ProcessError::TimedOut { .. })));
    let status = fs::read_to_string(format!("/proc/{}/status", running.outer_pid().unwrap())).unwrap();
    assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    let pid = running.outer_pid().unwrap().to_string();
    assert!(runs(&pid));
    drop(running);
    assert!(!runs(&pid));
}

pub(crate) fn a_program_that_ends_too_soon_is_reported_with_its_log() {
    let pair = Pair::new();
    let program = Program::new("flop", "/bin/sh").args(["-c", "echo bad setting; exit 3"]);
    let mut running = program.log(scratch().join("log")).start(&pair.a).unwrap();
    let error = running.wait_until("get ready", LIMIT, || false).unwrap_err().to_string();
    assert!(error.contains("flop has ended (exit status: 3)") && error.ends_with("bad setting"), "{error}");
    let error = Program::new("x", "/does/not/exist").start(&pair.a).unwrap_err().to_string();
    assert!(error.starts_with("cannot start x (/does/not/exist) in warren-t-pod-a: "), "{error}");
}

pub(crate) fn a_program_sees_its_own_resolv_conf() {
    let pair = Pair::new();
    let file = scratch().join("resolv");
    fs::write(&file, "nameserver 10.77.0.53\n").unwrap();
    let program = Program::new("cat", "/bin/cat").args(["/etc/resolv.conf"]).resolv_conf(&file);
    let mut running = program.log(scratch().join("log")).start(&pair.a).unwrap();
    assert!(running.wait(LIMIT).unwrap().success(), "{}", running.log_text());
    assert_eq!(running.log_text(), "nameserver 10.77.0.53\n");
    assert!(!fs::read_to_string("/etc/resolv.conf").unwrap_or_default().contains("10.77.0.53"));
}

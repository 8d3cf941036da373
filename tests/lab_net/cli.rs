use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
    time::Instant,
};

use clap::Parser;
use warren::{
    command_line,
    lab::{
        cli::{self, LabArgs, MeshSource, UpArgs},
        hosts::Host,
        testbed::{Access, ServiceError, Services},
        testing::scratch,
        topology::{HostPlan, PodPlan, Topology},
    },
};

use crate::support::*;

const HELPER: &str = "LAB_NET_CLI";

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    lab: LabArgs,
}

/// A mesh file with a line a pod, `NAME IP`, and nobody who serves it.
struct Lines;
struct Nobody;

impl MeshSource for Lines {
    type Services = Nobody;

    fn topology(&self, up: &UpArgs) -> Result<Topology, String> {
        let mut topology = Topology::new();
        topology.nodes.push(HostPlan::new("one", ips(&["10.77.0.1"])));
        let text = fs::read_to_string(&up.file).map_err(|error| error.to_string())?;
        for line in text.lines() {
            let (name, ip) = line.split_once(' ').ok_or_else(|| format!("bad line {line:?}"))?;
            let mut pod = PodPlan::new(name, "one", ip.parse().map_err(|_| format!("bad address {ip:?}"))?);
            pod.redirection = None;
            pod.host.apps.push("http 8080".parse().unwrap());
            topology.pods.push(pod);
        }
        Ok(topology)
    }

    fn services(&self, _: &UpArgs) -> Result<Nobody, String> {
        Ok(Nobody)
    }

    fn reload(&self, _: &UpArgs, _: &mut Nobody) -> Result<(), String> {
        Ok(())
    }
}

impl Services for Nobody {
    fn start_control(&mut self, host: &Host, directory: &Path) -> Result<Access, ServiceError> {
        let address = (host.ips()[0], 15012).into();
        Ok(Access { address, root_cert: directory.join("root"), token: directory.join("token") })
    }

    fn start_cni(&mut self, _: &Host, _: &Path) -> Result<(), ServiceError> {
        Ok(())
    }

    fn add_pod(&mut self, _: &PodPlan, _: &Host) -> Result<(), ServiceError> {
        Ok(())
    }

    fn remove_pod(&mut self, _: &PodPlan) -> Result<(), ServiceError> {
        Ok(())
    }
}

/// In a process that a test started: the command line, and for `fetch URL-HOST` a client in its own network.
pub(crate) fn helper() -> Option<ExitCode> {
    env::var_os(HELPER)?;
    Some(match command_line::parse::<Line>(env::args_os()) {
        Ok(line) => cli::run(line.lab, Lines),
        Err(code) => code,
    })
}

fn lab(args: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(args).env(HELPER, "1").env("XDG_RUNTIME_DIR", runtime());
    command
}

fn runtime() -> PathBuf {
    let runtime = scratch().join("run");
    fs::create_dir_all(&runtime).unwrap();
    runtime
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        pause(SHORT / 20);
    }
}

fn interfaces(host: &str) -> String {
    text(&lab(&["exec", host, "--", "cat", "/proc/self/net/fib_trie"]).output().unwrap())
}

pub(crate) fn a_lab_is_found_from_other_shells_until_it_is_down() {
    let mesh = scratch().join("mesh");
    fs::write(&mesh, "a 10.77.1.1\nb 10.77.1.2\n").unwrap();
    let mut up = lab(&["up", "--no-proxy", mesh.to_str().unwrap()]).spawn().unwrap();
    let status = || lab(&["status"]).output().unwrap();
    wait_for("the lab is up", || status().status.success());
    let shown = text(&status());
    assert!(shown.contains("pod:default/a") && shown.contains("10.77.1.2"), "{shown}");

    assert!(interfaces("a").contains("10.77.1.1") && !interfaces("a").contains("10.77.1.2"));
    let unknown = lab(&["exec", "x", "--", "true"]).output().unwrap();
    assert!(
        text(&unknown).contains("there is no x; there are: control:control, node:one"),
        "{}",
        text(&unknown)
    );
    let code = lab(&["exec", "b", "sh", "-c", "exit 7"]).status().unwrap();
    assert_eq!(code.code(), Some(7));
    let twice = lab(&["up", "--no-proxy", mesh.to_str().unwrap()]).output().unwrap();
    assert!(!twice.status.success() && text(&twice).contains("is up already"), "{}", text(&twice));

    fs::write(&mesh, "b 10.77.1.2\nc 10.77.1.3\n").unwrap();
    wait_for("the edit takes effect", || text(&status()).contains("pod:default/c"));
    assert!(!text(&status()).contains("pod:default/a"));
    assert!(interfaces("c").contains("10.77.1.3"));

    let mark = scratch().join("mark");
    let script = format!("touch {}; sleep 600", mark.display());
    let mut held = lab(&["exec", "b", "--", "sh", "-c", &script]).spawn().unwrap();
    wait_for("a command runs", || mark.exists());
    let down = lab(&["down"]).output().unwrap();
    assert!(down.status.success() && text(&down).contains("lab lab is down"), "{}", text(&down));
    assert!(up.wait().unwrap().success());
    assert!(!held.wait().unwrap().success());
    let gone = status();
    assert!(!gone.status.success() && text(&gone).contains("no lab called lab is up"), "{}", text(&gone));
}

pub(crate) fn a_killed_lab_leaves_nothing_that_hinders_the_next() {
    let mesh = scratch().join("mesh");
    fs::write(&mesh, "a 10.77.1.1\n").unwrap();
    let status = || lab(&["status", "--name", "x"]).output().unwrap();
    for _ in 0..2 {
        let mut up = lab(&["up", "--no-proxy", "--name", "x", mesh.to_str().unwrap()]).spawn().unwrap();
        wait_for("the lab is up", || status().status.success());
        up.kill().unwrap();
        up.wait().unwrap();
        wait_for("the lab is gone", || !status().status.success());
    }
}

pub(crate) fn a_bad_mesh_file_is_reported_and_an_edit_to_one_keeps_the_mesh() {
    let mesh = scratch().join("mesh");
    let up = || lab(&["up", "--no-proxy", mesh.to_str().unwrap()]);
    let missing = up().output().unwrap();
    assert!(!missing.status.success() && text(&missing).contains("No such file"), "{}", text(&missing));
    fs::write(&mesh, "nonsense\n").unwrap();
    let bad = up().output().unwrap();
    assert!(!bad.status.success() && text(&bad).contains("bad line \"nonsense\""), "{}", text(&bad));

    fs::write(&mesh, "a 10.77.1.1\n").unwrap();
    let log = scratch().join("log");
    let mut running = up().stdout(fs::File::create(&log).unwrap()).spawn().unwrap();
    let status = || lab(&["status"]).output().unwrap();
    wait_for("the lab is up", || status().status.success());
    fs::write(&mesh, "nonsense\n").unwrap();
    wait_for("the edit is refused", || fs::read_to_string(&log).unwrap().contains("bad line"));
    assert!(text(&status()).contains("pod:default/a"));
    assert!(lab(&["down"]).status().unwrap().success());
    assert!(running.wait().unwrap().success());
}

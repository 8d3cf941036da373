//! Pods that fall out of the mesh without anything having crashed: found, repaired, or named.

use std::{
    collections::BTreeSet,
    fs,
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use warren::{
    lab::{
        apps::{Stop, background_thread},
        control::mesh_file::Mesh,
        hosts::Role,
        net::redirect::{Redirection, set_mute},
        testbed::readiness,
    },
    sys::lab::take_descriptor,
};

use crate::{
    flood::actors,
    logs,
    metrics::{metrics, metrics_show},
    quarantine::{admin, raise_breakable},
    support::*,
    zds,
};

/// [`MESH`], and a pod that has no IPv4.
const SIX: &str = "  - {name: six, serviceAccount: six, node: one, ip: 'fd77::1:3', run: echo 9000}\n";

/// A pod that got no canary for so long is left alone: it is audited every second.
const QUIET: Duration = Duration::from_secs(3);

/// What readiness says besides its first line, which must be that all is well.
fn note(lab: &Lab, node: &str) -> Option<String> {
    let answer = readiness(lab.node(node).unwrap()).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let (first, rest) = answer.body.split_once('\n').unwrap();
    assert_eq!(first, "ready");
    (!rest.is_empty()).then(|| rest.trim_end().to_owned())
}

fn unhealthy(lab: &Lab, node: &str, reason: &str) -> f64 {
    metrics(lab, node).sum("warren_pods_unhealthy", &[("reason", reason)])
}

fn named(lab: &Lab, pod: &str, reason: &str) -> String {
    let begun = Instant::now();
    let said = eventually(&format!("word of {pod}"), || note(lab, "one"));
    println!("{pod}: named after {:?}: {said}", begun.elapsed());
    assert!(
        said.starts_with("out of the mesh: pod ") && said.contains(&format!("(default/{pod}): ")),
        "{said}"
    );
    assert_eq!(unhealthy(lab, "one", reason), 1.0);
    let pod = format!("default/{pod}");
    let is_named = |line: &&str| line.contains("pod is out of the mesh") && line.contains(&pod);
    let count = || logs::log(lab, "one").lines().filter(is_named).count();
    // A line is written soon after readiness has it.
    eventually("line of the pod", || (count() > 0).then_some(()));
    assert_eq!(count(), 1, "{}", logs::log(lab, "one"));
    said
}

fn sound_again(lab: &Lab, reason: &str) {
    eventually("sound pods", || note(lab, "one").is_none().then_some(()));
    assert_eq!(unhealthy(lab, "one", reason), 0.0);
}

/// A number of the calling thread's namespace, from a file of pairs of lines: names, and what they are.
fn counter(file: &str, group: &str, name: &str) -> u64 {
    let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(file)).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix(group));
    let rows: Vec<Vec<&str>> = rows.map(|line| line.split(' ').collect()).collect();
    let at = rows[0].iter().position(|known| *known == name).unwrap();
    rows[1][at].parse().unwrap()
}

/// Waits until a pod whose programs open no connection is sent no canary any more.
fn left_alone(lab: &Lab, pod: &str) {
    let opened = || lab.pod(pod).unwrap().run(|| counter("snmp", "Tcp:", "ActiveOpens")).unwrap();
    let (mut last, mut since) = (opened(), Instant::now());
    eventually("pod that is left alone", || {
        let now = opened();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (now > 0 && since.elapsed() > QUIET).then_some(())
    });
}

pub(crate) fn a_pod_that_lost_its_redirection_is_named_until_it_is_back() {
    let mut lab = raise(&format!("{MESH}{SIX}"));
    for (pod, family) in [("near", "IPv4"), ("six", "IPv6")] {
        let full = format!("default/{pod}");
        left_alone(&lab, pod);
        lab.hosts_mut().release(Role::Pod, &full).unwrap();
        let said = named(&lab, pod, "redirection");
        assert!(said.contains(&format!("{family} connections are not redirected to port 15001")), "{said}");
        // Nobody else is the worse for it.
        open(&lab, "client", SERVER).unwrap();
        lab.hosts_mut().redirect(Role::Pod, &full, Redirection::default()).unwrap();
        sound_again(&lab, "redirection");
        eventually("line of the pod's return", || {
            logs::log(&lab, "one").contains("pod is in the mesh again").then_some(())
        });
    }
    // The canaries of all that time are in no metric and no line.
    let counted = metrics(&lab, "one").sum("istio_tcp_connections_opened_total", &[]);
    assert_eq!(counted, 2.0, "one connection of the client each time");
    let log = logs::log(&lab, "one");
    assert!(!log.contains("192.0.2.1") && !log.contains("2001:db8::1"), "{log}");
}

pub(crate) fn a_pod_without_a_network_is_named_until_it_has_one() {
    let lab = raise(MESH);
    left_alone(&lab, "near");
    lab.hosts().set_connected(Role::Pod, "default/near", false).unwrap();
    let said = named(&lab, "near", "network");
    assert!(said.contains("no interface that is up"), "{said}");
    lab.hosts().set_connected(Role::Pod, "default/near", true).unwrap();
    sound_again(&lab, "network");
}

pub(crate) fn a_listener_that_was_shut_down_is_bound_again() {
    let mut lab = raise(MESH);
    // The cell sees the machine's own /proc.
    let (pid, outer) = (lab.proxy("one").unwrap().pid(), lab.proxy("one").unwrap().outer_pid().unwrap());
    for (port, from, to) in [(15001, "near", SERVER), (15008, "server", NEAR), (15006, "bare", NEAR)] {
        let mut live = open(&lab, from, to).unwrap();
        let inode = lab.pod("near").unwrap().run(|| listening_inode(port)).unwrap();
        let link = format!("socket:[{inode}]");
        let descriptors = fs::read_dir(Path::new("/proc").join(outer.to_string()).join("fd")).unwrap();
        let is_it = |fd: &fs::DirEntry| fs::read_link(fd.path()).is_ok_and(|to| to.to_str() == Some(&link));
        let fd = descriptors.map(Result::unwrap).find(is_it).unwrap().file_name();
        let stolen = take_descriptor(pid, fd.to_str().unwrap().parse().unwrap()).unwrap();
        socket2::SockRef::from(&stolen.as_fd()).shutdown(std::net::Shutdown::Both).unwrap();
        let new = eventually(&format!("new listener on {port}"), || {
            let now = lab.pod("near").unwrap().run(|| listening_inode(port)).unwrap();
            (now != 0 && now != inode).then_some(now)
        });
        assert_ne!(new, inode);
        drop(open_at_last(&lab, from, to));
        echo(&mut live, b"nothing else has ended").unwrap();
    }
    assert_eq!(note(&lab, "one"), None);
}

pub(crate) fn a_pod_whose_own_rules_drop_what_it_sends_is_named_until_they_are_gone() {
    let lab = raise(MESH);
    let mut live = open(&lab, "client", SERVER).unwrap();
    let near = lab.pod("near").unwrap();
    left_alone(&lab, "near");
    set_mute(near, true).unwrap();
    let said = named(&lab, "near", "redirection");
    assert!(said.contains("IPv4 connections are not redirected to port 15001"), "{said}");
    set_mute(near, false).unwrap();
    sound_again(&lab, "redirection");
    echo(&mut live, b"of no concern").unwrap();
    drop(open_at_last(&lab, "client", NEAR));
}

pub(crate) fn an_accept_loop_that_is_lost_is_placed_again_and_nobody_is_out_of_the_mesh() {
    let lab = raise_breakable(MESH);
    let mut live = open(&lab, "client", SERVER).unwrap();
    admin(&lab, "one", "POST /tasks/capture%2Faccept/panic");
    metrics_show(&lab, "one", "lost loop", |now| {
        // It panics when it next takes a connection.
        let _ = open(&lab, "client", NEAR);
        now.sum("warren_task_panics_total", &[("kind", "capture/accept")]) == 1.0
    });
    for (from, to) in [("client", SERVER), ("server", NEAR), ("bare", NEAR)] {
        drop(open_at_last(&lab, from, to));
    }
    echo(&mut live, b"nothing has ended").unwrap();
    assert_eq!(note(&lab, "one"), None);
}

/// The port of a canary may be in use for another connection of the pod; connection tracking then changes it on the way.
pub(crate) fn a_canary_whose_port_is_in_use_is_known_all_the_same() {
    let mut lab = raise(MESH);
    let few = || fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40007");
    lab.pod("client").unwrap().run(few).unwrap().unwrap();
    // Connects take ports of one parity first.
    let mut live: Vec<_> = (0..4).map(|_| open(&lab, "client", SERVER).unwrap()).collect();
    let ports: BTreeSet<u16> = live.iter().map(|stream| stream.local_addr().unwrap().port()).collect();
    assert!(ports.len() == 4 && ports.iter().all(|port| (40000..=40007).contains(port)), "{ports:?}");
    let full = "default/client";
    lab.hosts_mut().release(Role::Pod, full).unwrap();
    named(&lab, "client", "redirection");
    lab.hosts_mut().redirect(Role::Pod, full, Redirection::default()).unwrap();
    sound_again(&lab, "redirection");
    live.iter_mut().for_each(|stream| echo(stream, b"nothing has ended").unwrap());
}

/// `late` is a pod of the mesh for the control plane alone. A waypoint that speaks HBONE itself, a pod in the host's
/// network and a pod of another node are no business of this node's istio-cni.
const LATE: &str =
    "  - {name: late, serviceAccount: late, node: one, ip: 10.77.1.3, captured: false, protocol: HBONE}
  - {name: waypoint, serviceAccount: w, node: one, ip: 10.77.1.4, captured: false, protocol: HBONE,
     announce: {nativeTunnel: true}}
  - {name: agent, serviceAccount: a, node: one, ip: 10.77.1.5, captured: false, protocol: HBONE,
     announce: {hostNetwork: true}}
";

pub(crate) fn a_pod_that_istio_cni_has_not_handed_over_is_named_until_it_is() {
    let mut lab = raise_breakable(&format!("{MESH}{LATE}"));
    let said = named(&lab, "late", "not handed over");
    assert!(said.contains("istio-cni has not handed it over"), "{said}");
    assert!(!said.contains("waypoint") && !said.contains("agent"), "{said}");
    assert_eq!(note(&lab, "two"), None, "it is a pod of the other node");
    let root = actors(&lab, "one", "root")[0].clone();
    assert_eq!(root["notes"], serde_json::json!([said]));
    // A new audit takes nothing back.
    let restarts = || actors(&lab, "one", "root/dataplane/audit")[0]["restarts"].as_u64().unwrap();
    admin(&lab, "one", "POST /actors/root/dataplane/audit/kill");
    eventually("another audit", || (restarts() > 0).then_some(()));
    assert_eq!(note(&lab, "one"), Some(said));

    lab.hosts_mut().redirect(Role::Pod, "default/late", Redirection::default()).unwrap();
    let cni = zds::cni(&mut lab, "one");
    zds::runtime().block_on(cni.add(zds::cni_pod(&lab, "late"))).unwrap();
    sound_again(&lab, "not handed over");
    drop(open_at_last(&lab, "client", SERVER));
}

pub(crate) fn a_node_whose_certificates_are_all_refused_is_ready_and_says_so() {
    let settings = [("CA_ADDRESS", "https://10.77.0.254:15013")];
    let lab = raise_with(MESH, &settings, Default::default());
    let both = "without a certificate: 2 of 2 identities, such as spiffe://";
    let said =
        eventually("word of the certificates", || note(&lab, "one").filter(|said| said.starts_with(both)));
    eventually("line of the certificates", || {
        logs::log(&lab, "one").contains("no workload of this node has a certificate").then_some(())
    });
    assert_eq!(actors(&lab, "one", "root")[0]["notes"][0], said.as_str());
}

/// Opens and drops connections from inside a pod as fast as it can.
fn flood(stop: Stop) -> u64 {
    let mut opened = 0;
    while !stop.is_stopped() {
        let Ok(socket) = Socket::new(Domain::IPV4, Type::STREAM, None) else { continue };
        socket.set_nonblocking(true).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        // It is under way: nothing waits for it.
        let _ = socket.connect(&addr("10.77.2.9:1").into());
        opened += 1;
    }
    opened
}

pub(crate) fn a_flooded_listener_is_no_lost_redirection() {
    let lab = raise_breakable(MESH);
    let (pod, path) = (lab.pod("client").unwrap(), "root/dataplane/audit");
    let overflows = || pod.run(|| counter("netstat", "TcpExt:", "ListenOverflows")).unwrap();
    let restarts = || actors(&lab, "one", path)[0]["restarts"].as_u64().unwrap();
    let flooding = background_thread(pod, flood).unwrap();
    let overflow = |more: u64| {
        let before = overflows();
        eventually("overflow", || (overflows() > before + more).then_some(()));
    };
    overflow(0);
    for _ in 0..3 {
        // A new one takes nothing for known: it sends canaries into the flood.
        let before = restarts();
        admin(&lab, "one", &format!("POST /actors/{path}/kill"));
        eventually("another audit", || (restarts() > before).then_some(()));
        overflow(1000);
    }
    assert!(flooding.finish().unwrap() > 1000);
    eventually("sound pods", || note(&lab, "one").is_none().then_some(()));
    let log = logs::log(&lab, "one");
    assert!(!log.contains("connections are not redirected"), "{log}");
}

/// The polls of an audit do not ask for nf_tables rules, so what has changed there is told by the kernel, or found after
/// half a minute: the log says which.
pub(crate) fn changed_rules_are_examined_because_the_kernel_tells_of_them() {
    let mut lab = raise_with(MESH, &[("RUST_LOG", "info,audit=debug")], Default::default());
    left_alone(&lab, "near");
    let before = examined(&lab, "near");
    assert!(!before.is_empty() && before.iter().all(|line| !line.contains("rules")), "{before:?}");
    lab.hosts_mut().release(Role::Pod, "default/near").unwrap();
    named(&lab, "near", "redirection");
    let after = examined(&lab, "near");
    assert!(after.get(before.len()).is_some_and(|first| first.contains("rules")), "{after:?}");
}

/// The log's lines of examinations of a pod, each with its cause.
fn examined(lab: &Lab, pod: &str) -> Vec<String> {
    let uid = Mesh::parse(MESH).unwrap().pod(pod).unwrap().kubernetes_uid();
    let log = logs::log(lab, "one");
    log.lines().filter(|line| line.contains("cause=") && line.contains(&uid)).map(str::to_owned).collect()
}

/// Pods that have no connection.
const IDLE: usize = 30;
/// Descriptors of an idle pod, at most.
const DESCRIPTORS: usize = 11;

pub(crate) fn an_idle_pod_holds_few_descriptors() {
    let pod = |n: usize| format!("  - {{name: i{n}, serviceAccount: i, node: one, ip: 10.77.1.{}}}\n", n + 1);
    let pods: String = (0..IDLE).map(pod).collect();
    let mesh = format!("nodes: {{one: 10.77.0.1, two: 10.77.0.2}}\npods:\n{pods}");
    let mut lab = raise_with(&mesh, &[("ZTUNNEL_WORKER_THREADS", "2")], Default::default());
    // Pods that came together are examined within two looks.
    left_alone(&lab, &format!("i{}", IDLE - 1));
    let mut held = |node| {
        let pid = lab.proxy(node).unwrap().outer_pid().unwrap();
        fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).unwrap().count()
    };
    let (with, without) = (held("one"), held("two"));
    assert!(
        with > without && with <= without + IDLE * DESCRIPTORS,
        "{with} with {IDLE} pods, {without} with none"
    );
}

/// The inode of the socket that listens on `port` in the calling thread's namespace; 0 for none.
fn listening_inode(port: u16) -> u64 {
    const LISTENS: &str = "0A";
    let wanted = format!(":{port:04X}");
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|table| table.lines().skip(1).map(str::to_owned).collect::<Vec<_>>())
        .find_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            (columns[1].ends_with(&wanted) && columns[3] == LISTENS).then(|| columns[9].parse().unwrap())
        })
        .unwrap_or(0)
}

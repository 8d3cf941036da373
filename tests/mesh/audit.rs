//! Pods that fall out of the mesh without anything having crashed: found, repaired, or named.

use std::{fs, os::fd::AsFd, path::Path, time::Instant};

use warren::{
    actors::sys::lab::take_descriptor,
    lab::{hosts::Role, net::redirect::Redirection, world::readiness},
};

use crate::{logs, metrics::metrics, support::*};

/// [`MESH`], and a pod that has no IPv4.
const SIX: &str = "  - {name: six, serviceAccount: six, node: one, ip: 'fd77::1:3', run: echo 9000}\n";

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
    let log = logs::log(lab, "one");
    let lines = log.lines().filter(|line| line.contains("pod is out of the mesh"));
    assert_eq!(lines.filter(|line| line.contains(&format!("default/{pod}"))).count(), 1, "{log}");
    said
}

fn sound_again(lab: &Lab, reason: &str) {
    eventually("sound pods", || note(lab, "one").is_none().then_some(()));
    assert_eq!(unhealthy(lab, "one", reason), 0.0);
}

pub fn a_pod_that_lost_its_redirection_is_named_until_it_is_back() {
    let mut lab = raise(&format!("{MESH}{SIX}"));
    for (pod, family) in [("near", "IPv4"), ("six", "IPv6")] {
        let full = format!("default/{pod}");
        lab.hosts_mut().release(Role::Pod, &full).unwrap();
        let said = named(&lab, pod, "redirection");
        assert!(said.contains(&format!("{family} connections are not redirected to port 15001")), "{said}");
        // Nobody else is the worse for it.
        open(&lab, "client", SERVER).unwrap();
        lab.hosts_mut().redirect(Role::Pod, &full, Redirection::default()).unwrap();
        sound_again(&lab, "redirection");
        assert!(logs::log(&lab, "one").contains("pod is in the mesh again"));
    }
    // The canaries of all that time are in no metric and no line.
    let counted = metrics(&lab, "one").sum("istio_tcp_connections_opened_total", &[]);
    assert_eq!(counted, 2.0, "one connection of the client each time");
    let log = logs::log(&lab, "one");
    assert!(!log.contains("192.0.2.1") && !log.contains("2001:db8::1"), "{log}");
}

pub fn a_pod_without_a_network_is_named_until_it_has_one() {
    let lab = raise(MESH);
    lab.hosts().set_connected(Role::Pod, "default/near", false).unwrap();
    let said = named(&lab, "near", "network");
    assert!(said.contains("no interface that is up"), "{said}");
    lab.hosts().set_connected(Role::Pod, "default/near", true).unwrap();
    sound_again(&lab, "network");
}

pub fn a_listener_that_was_shut_down_is_bound_again() {
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

//! Descriptors that run short: the pod that hoards them waits, and nobody else does.

use std::{io::Write, net::TcpStream, path::PathBuf};

use warren::lab::{testbed::Launch, testing::program};

use crate::{
    metrics::{metrics, metrics_show},
    support::*,
};

/// The limit of open files of the proxies.
const FILES: usize = 256;
/// Connections of the hoarder. Each would take two descriptors.
const HOARDED: usize = 300;

const PODS: &str = "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, run: [echo 9000]}
  - {name: other, serviceAccount: other, node: two, ip: 10.77.2.2, run: [echo 9000]}
  - {name: bare, serviceAccount: bare, node: two, ip: 10.77.2.9, captured: false, run: [echo 9000]}
";
const OTHER: &str = "10.77.2.2:9000";
const LATE: &str = "10.77.2.3:9000";

/// The proxy, with few descriptors.
fn narrow() -> Launch {
    let limited = format!("ulimit -n {FILES} && exec \"$0\" proxy ztunnel");
    let binary = program("warren").unwrap().to_str().unwrap().to_owned();
    Launch { args: vec!["-c".into(), limited, binary], ..Launch::new(PathBuf::from("/bin/sh")) }
}

fn is_ready(lab: &Lab) {
    let mut stream = dial_from(lab.node("two").unwrap(), addr("127.0.0.1:15021")).unwrap();
    stream.write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    match end_of(&mut stream) {
        End::Closed(answer) => assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii()),
        end => panic!("readiness: {end:?}"),
    }
}

pub(crate) fn a_pod_whose_connections_are_hoarded_waits_while_others_go_on() {
    let mut lab = raise_as(PODS, Some(narrow()), Default::default());
    open(&lab, "client", SERVER).unwrap();
    let bare = lab.pod("bare").unwrap();
    let hoard: Vec<TcpStream> = (0..HOARDED).map(|_| dial_from(bare, addr(SERVER)).unwrap()).collect();
    metrics_show(&lab, "two", "pod that waits", |metrics| {
        metrics.sum("warren_pods_waiting_for_descriptors", &[]) == 1.0
            && metrics.sum("warren_pod_descriptors", &[("workload_pod", "default/server")]) > 20.0
    });
    is_ready(&lab);
    // Tunnels, plaintext, and the pods of a node among themselves.
    let mut served = Vec::new();
    for from in ["client", "bare", "client", "bare"] {
        served.push(open(&lab, from, OTHER).unwrap());
    }
    // Another pod comes while the first one waits.
    let late = "  - {name: late, serviceAccount: late, node: two, ip: 10.77.2.3, run: [echo 9000]}";
    change(&mut lab, &format!("{PODS}{late}\n"));
    served.push(open_at_last(&lab, "client", LATE));
    served.push(open(&lab, "late", OTHER).unwrap());
    is_ready(&lab);
    let now = metrics(&lab, "two");
    let (open_files, most) = (now.sum("process_open_fds", &[]), FILES as f64 * 0.75);
    assert!(open_files < most, "{open_files} of {FILES} descriptors are open");
    assert_eq!(now.sum("warren_pods_waiting_for_descriptors", &[]), 1.0);
    // It is served once it is left alone.
    drop(hoard);
    metrics_show(&lab, "two", "end of the wait", |metrics| {
        metrics.sum("warren_pods_waiting_for_descriptors", &[]) == 0.0
    });
    open_at_last(&lab, "client", SERVER);
}

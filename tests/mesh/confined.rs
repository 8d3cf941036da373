//! What the processes of proxies may do once they serve (docs/security.md).

use std::fs;

use crate::support::*;

/// NET_ADMIN, NET_RAW, SYS_ADMIN and NET_BIND_SERVICE (capabilities(7)).
const NEEDED: u64 = 1 << 12 | 1 << 13 | 1 << 21 | 1 << 10;

/// The fields of the status of each thread of a node's proxy.
fn threads(lab: &mut Lab, node: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let pid = lab.proxy(node).unwrap().outer_pid().unwrap();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let of = |status: String| {
        let field = |name: &&str| {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.unwrap().trim().to_owned()
        };
        fields.iter().map(field).collect()
    };
    tasks.filter_map(|task| status(task.unwrap())).map(of).collect()
}

pub(crate) fn every_thread_of_a_proxy_has_the_privileges_it_needs_and_no_other() {
    let mut lab = raise(MESH);
    drop((open(&lab, "client", SERVER).unwrap(), open(&lab, "bare", SERVER).unwrap()));
    for node in ["one", "two"] {
        let threads = threads(&mut lab, node, &["Seccomp", "NoNewPrivs", "CapEff", "CapPrm", "CapInh"]);
        assert!(threads.len() >= 3, "{threads:?}");
        for thread in threads {
            assert_eq!(thread[..2], ["2", "1"], "{thread:?}");
            let sets: Vec<u64> =
                thread[2..].iter().map(|set| u64::from_str_radix(set, 16).unwrap()).collect();
            assert_eq!(sets, [NEEDED, NEEDED, 0], "{thread:?}");
        }
    }
}

pub(crate) fn without_the_filter_the_other_privileges_are_given_up_all_the_same() {
    let mut lab = raise_with(MESH, &[("WARREN_SECCOMP", "off")], Default::default());
    for thread in threads(&mut lab, "one", &["Seccomp", "NoNewPrivs", "CapEff"]) {
        assert_eq!(thread, ["0", "1", &format!("{NEEDED:016x}")]);
    }
}

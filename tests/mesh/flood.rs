//! What somebody outside sends in floods waits outside the mailboxes, as the admission table of docs/control-path.md has it.

use std::{net::TcpStream, time::Instant};

use serde_json::Value;
use warren::lab::hosts::Role;

use crate::{
    metrics::{Metrics, metrics, metrics_show},
    policy::deny,
    quarantine::{admin, raise_breakable},
    support::*,
};

/// Threads of a proxy, each of which dials for itself.
const SHARDS: usize = 2;

/// The actors of a node's proxy whose path ends so.
pub(crate) fn actors(lab: &Lab, node: &str, end: &str) -> Vec<Value> {
    let mut left: Vec<Value> = serde_json::from_str(&admin(lab, node, "GET /actors")).unwrap();
    let mut found = Vec::new();
    while let Some(mut actor) = left.pop() {
        if let Value::Array(children) = actor["children"].take() {
            left.extend(children);
        }
        if actor["path"].as_str().unwrap().ends_with(end) {
            found.push(actor);
        }
    }
    found
}

/// Messages in the mailboxes of these actors: of each, and handled by all of them.
fn mail(lab: &Lab, node: &str, end: &str) -> (Vec<u64>, u64) {
    let actors = actors(lab, node, end);
    let depths = actors.iter().map(|actor| actor["mailbox"]["depth"].as_u64().unwrap()).collect();
    (depths, actors.iter().map(|actor| actor["handlers"]["handled"].as_u64().unwrap()).sum())
}

/// The path of a pod's actor, not of the proxy's own.
fn path(lab: &Lab, node: &str, end: &str) -> String {
    let actors = actors(lab, node, end);
    let mut paths = actors.iter().map(|actor| actor["path"].as_str().unwrap());
    paths.find(|path| !path.contains("/self/")).unwrap().to_owned()
}

pub(crate) fn a_flood_of_connections_to_a_mute_peer_is_one_question_and_one_dial_a_shard() {
    const CONNECTIONS: usize = 200;
    let mesh = format!(
        "{MESH}  - {{name: mute, serviceAccount: mute, node: two, ip: 10.77.2.3, captured: false, protocol: HBONE}}\n"
    );
    let lab = raise_with(&mesh, &[("ZTUNNEL_WORKER_THREADS", "2")], Default::default());
    // It takes connections and never says a word.
    let mute = listen(lab.pod("mute").unwrap(), 15008);
    mute.set_nonblocking(true).unwrap();
    let mut flood: Vec<TcpStream> =
        (0..CONNECTIONS).map(|_| dial(&lab, "client", "10.77.2.3:9000").unwrap()).collect();
    let labels = [("reporter", "source"), ("destination_workload", "mute")];
    metrics_show(&lab, "one", "flood that waits", |now| {
        now.sum("istio_tcp_connections_opened_total", &labels) == CONNECTIONS as f64
    });
    let asked = metrics(&lab, "one").sum("warren_actor_messages_total", &[("kind", "tunnel")]);
    // And its start.
    assert!(asked <= 1.0 + SHARDS as f64, "{asked} messages");
    assert!(mail(&lab, "one", "").0.iter().all(|depth| *depth <= 1));
    // All who wait share the failure of the one dial.
    for stream in &mut flood {
        assert!(is_turned_away(&end_of(stream)));
    }
    let dialled = std::iter::from_fn(|| mute.accept().ok()).count();
    assert!((1..=SHARDS).contains(&dialled), "{dialled} dials");
    metrics_show(&lab, "one", "failures", |now| {
        now.sum("istio_tcp_connections_failed_total", &labels) == CONNECTIONS as f64
    });
}

pub(crate) fn a_flood_of_policy_changes_is_checked_in_one_go_and_the_last_one_counts() {
    const CHANGES: usize = 30;
    let mut lab = raise_breakable(MESH);
    let mut live = open(&lab, "client", SERVER).unwrap();
    let policy = path(&lab, "two", "/policy");
    let before = mail(&lab, "two", &policy).1;
    admin(&lab, "two", &format!("POST /actors/{policy}/slow?ms=1000&for=60"));
    let begun = Instant::now();
    for change in 0..CHANGES {
        let name = format!("changing-{}", change % 2);
        self::change(&mut lab, &format!("{MESH}policies:\n{}", deny(&name, "near", "server")));
        let (depths, _) = mail(&lab, "two", &policy);
        assert!(depths.iter().all(|depth| *depth <= 1), "{depths:?}");
        echo(&mut live, b"of no concern").unwrap();
    }
    let handled = mail(&lab, "two", &policy).1 - before;
    // One that was under way, and then at most one a second.
    let most = begun.elapsed().as_secs() + 2;
    assert!(handled <= most, "{handled} checks for {CHANGES} changes, of at most {most}");
    change(&mut lab, &format!("{MESH}policies:\n{}", deny("last", "client", "server")));
    assert!(is_turned_away(&end_of(&mut live)));
}

pub(crate) fn audits_of_a_listener_whose_actor_hangs_do_not_pile_up() {
    let mut lab = raise_breakable(MESH);
    // A pod that is not well is examined every second.
    lab.hosts_mut().release(Role::Pod, "default/server").unwrap();
    for kind in ["/inbound", "/plaintext", "/outbound"] {
        let victim = path(&lab, "two", kind);
        admin(&lab, "two", &format!("POST /actors/{victim}/hang?ms=20000"));
        eventually(&format!("restart of {victim}"), || {
            let (depths, _) = mail(&lab, "two", kind);
            assert!(depths.iter().all(|depth| *depth <= 1), "{depths:?} wait for {kind}");
            let now = actors(&lab, "two", &victim).pop()?;
            (now["restarts"] == 1 && now["state"] == "up").then_some(())
        });
    }
    // Slow, but alive: each look waits for its answer.
    let victim = path(&lab, "two", "/outbound");
    let before = mail(&lab, "two", "/outbound").1;
    admin(&lab, "two", &format!("POST /actors/{victim}/slow?ms=400&for=60"));
    eventually("five looks", || {
        let (depths, handled) = mail(&lab, "two", "/outbound");
        assert!(depths.iter().all(|depth| *depth <= 1), "{depths:?}");
        (handled >= before + 5).then_some(())
    });
    assert_eq!(actors(&lab, "two", &victim)[0]["restarts"], 1);
}

pub(crate) fn every_lost_look_out_of_an_audit_is_told_once() {
    const PANICS: u64 = 6;
    let lab = raise_breakable(MESH);
    admin(&lab, "one", &format!("POST /tasks/audit%2Flook/panic?times={PANICS}"));
    let count = |now: &Metrics, name, kind| now.sum(name, &[("kind", kind)]);
    metrics_show(&lab, "one", "repair of every audit", |now| {
        let (depths, _) = mail(&lab, "one", "/audit");
        assert!(depths.iter().all(|depth| *depth <= 1), "{depths:?}");
        count(now, "warren_task_panics_total", "audit/look") == PANICS as f64
            && count(now, "warren_actor_restarts_total", "audit") == PANICS as f64
    });
    assert_eq!(count(&metrics(&lab, "one"), "warren_actor_crashes_total", "audit"), PANICS as f64);
    assert!(actors(&lab, "one", "/audit").iter().all(|actor| actor["state"] == "up"));
}

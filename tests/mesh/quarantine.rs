//! Input that crashes its handler is quarantined, and costs nobody else anything.

use std::io::{Read, Write};

use warren::lab::{
    cni::{CniError, Outcome},
    hosts::Role,
    net::redirect::Redirection,
    testbed::readiness,
};

use crate::{
    logs,
    metrics::metrics_show,
    policy::{deny, turned_away},
    support::*,
    zds::{cni, cni_pod, netns, runtime},
};

/// Asks the admin port of a node's proxy.
pub(crate) fn admin(lab: &Lab, node: &str, request: &str) -> String {
    eventually("answer of the admin port", || {
        let mut stream = dial_from(lab.node(node).unwrap(), addr("127.0.0.1:15000")).ok()?;
        stream
            .write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
    })
}

pub(crate) fn raise_breakable(mesh: &str) -> Lab {
    raise_with(mesh, &[("WARREN_CHAOS", "true")], Default::default())
}

/// Waits until one input of this kind is quarantined, and is listed by its name.
fn quarantined(lab: &Lab, node: &str, kind: &str, name: &str) {
    let labels = [("kind", kind)];
    metrics_show(lab, node, "quarantine", |metrics| metrics.sum("warren_quarantined", &labels) == 1.0);
    let listed = admin(lab, node, "GET /quarantine");
    assert!(listed.contains(kind) && listed.contains(name), "{listed}");
}

pub(crate) fn a_resource_that_crashed_the_tables_twice_is_quarantined_and_the_rest_applies() {
    let mut lab = raise_breakable(&format!("{MESH}policies:\n{}", deny("changing", "near", "server")));
    turned_away(&lab, "near", SERVER);
    open(&lab, "client", SERVER).unwrap();
    admin(&lab, "two", "POST /inputs/default/changing/panic?times=2");
    let (changed, another) = (deny("changing", "bare", "server"), deny("another", "client", "server"));
    change(&mut lab, &format!("{MESH}policies:\n{changed}{another}"));
    quarantined(&lab, "two", "resource", "default/changing");
    eventually("refusal by name", || {
        let seen = lab.services().control().unwrap().seen();
        let seen = seen.borrow();
        let told = |text: &str| text.contains("default/changing") && text.contains("quarantined: crashed");
        seen.latest_nacks.iter().any(|nack| told(&nack.message)).then_some(())
    });
    turned_away(&lab, "client", SERVER);
    // The version before the change still holds.
    turned_away(&lab, "near", SERVER);
}

pub(crate) fn a_peer_that_crashed_its_tunnel_twice_is_not_dialled_for_a_while() {
    let lab = raise_breakable(MESH);
    admin(&lab, "one", "POST /inputs/10.77.2.1:15008/panic?times=2");
    eventually("quarantine of the peer", || {
        assert!(open(&lab, "client", SERVER).is_err(), "it was to panic");
        admin(&lab, "one", "GET /quarantine").contains("10.77.2.1:15008").then_some(())
    });
    quarantined(&lab, "one", "peer", "10.77.2.1:15008");
    assert!(open(&lab, "client", SERVER).is_err());
    eventually("reason in the log", || logs::log(&lab, "one").contains("quarantined: crashed").then_some(()));
    open(&lab, "client", NEAR).unwrap();
}

pub(crate) fn a_pod_whose_start_crashed_twice_is_quarantined_and_tried_at_once_in_another_namespace() {
    let mut lab = raise_breakable(&format!(
        "{MESH}  - {{name: late, serviceAccount: late, node: one, ip: 10.77.1.3, captured: false, protocol: HBONE,
     run: echo 9000}}\n"
    ));
    let cni = cni(&mut lab, "one");
    let mut live = open(&lab, "client", SERVER).unwrap();
    lab.hosts_mut().redirect(Role::Pod, "default/late", Redirection::default()).unwrap();
    admin(&lab, "one", "POST /inputs/default/late/panic?times=2");
    let pod = cni_pod(&lab, "late");
    let uid = pod.uid.clone();
    let refused = runtime().block_on(cni.add(pod));
    let told = |why: &str| why.contains("panicked while starting");
    assert!(matches!(&refused, Err(CniError::Failed(Outcome::Refused(why))) if told(why)), "{refused:?}");
    // It is tried again by itself; after the second crash it is not, for a while.
    eventually("refusal of the pod by name", || {
        let said = readiness(lab.node("one").unwrap()).unwrap().body;
        (said.contains(&uid) && said.contains("quarantined: crashed its handler 2 times")).then_some(())
    });
    quarantined(&lab, "one", "pod", "default/late");
    metrics_show(&lab, "one", "one pod that waits and two that are served", |now| {
        let state = |state| now.sum("warren_pods", &[("state", state)]);
        (state("up"), state("unhealthy"), state("pending")) == (2.0, 0.0, 1.0)
    });
    echo(&mut live, b"still here").unwrap();
    open(&lab, "client", NEAR).unwrap();

    let ip = "10.77.1.4".parse().unwrap();
    let new = lab.hosts_mut().add(Role::Pod, "default/again", &[ip]).unwrap().namespace().clone();
    lab.hosts_mut().redirect(Role::Pod, "default/again", Redirection::default()).unwrap();
    let mut pod = cni_pod(&lab, "late");
    pod.netns = Some(netns(&new));
    runtime().block_on(cni.add(pod)).unwrap();
    assert_eq!(admin(&lab, "one", "GET /quarantine").trim(), "[]");
    metrics_show(&lab, "one", "three pods that are served", |now| {
        now.sum("warren_pods", &[("state", "up")]) == 3.0 && now.sum("warren_quarantined", &[]) == 0.0
    });
    echo(&mut live, b"still here").unwrap();
}

pub(crate) fn what_is_counted_by_state_has_samples_at_all_times() {
    let lab = raise(MESH);
    for (node, pods) in [("one", 2.0), ("two", 1.0)] {
        metrics_show(&lab, node, "pods and their certificates", |now| {
            let value = |name, label| now.find(name, &[label]).map(|sample| sample.value).next();
            value("warren_pods", ("state", "up")) == Some(pods)
                && value("warren_pods", ("state", "unhealthy")) == Some(0.0)
                && value("warren_pods", ("state", "pending")) == Some(0.0)
                && value("warren_certificates", ("state", "available")) == Some(pods)
                && value("warren_certificates", ("state", "unavailable")) == Some(0.0)
                && value("warren_certificates", ("state", "initializing")) == Some(0.0)
                && value("warren_actors_quarantined", ("kind", "capture")) == Some(0.0)
                && value("warren_actors_quarantined", ("kind", "xds")) == Some(0.0)
                && value("warren_quarantined", ("kind", "pod")) == Some(0.0)
        });
    }
}

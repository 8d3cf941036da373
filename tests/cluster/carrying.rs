//! Identities, entering and leaving the mesh, and policies.

use crate::{
    harness::{Cluster, LIMIT, MESHED, OUTSIDE, PodOn, eventually, is_ready, pause},
    mesh::{callers, identity, label, metrics_on, outsiders, servers},
};

const OPENED: &str = "istio_tcp_connections_opened_total";
/// More than two periods of the servers' probes, each of 2 s at most, with the failures that they allow.
const PROBES: std::time::Duration = std::time::Duration::from_secs(8);

pub(crate) fn connections_between_and_within_nodes_are_mutual_tls_with_both_identities(cluster: &Cluster) {
    for caller in callers(cluster) {
        for server in servers(cluster) {
            let count = |reporter: &str, node: &str, security: &str| {
                let labels = [
                    ("reporter", reporter),
                    ("source_principal", &identity("caller")),
                    ("destination_principal", &identity("server")),
                    ("connection_security_policy", security),
                ];
                metrics_on(cluster, node).sum(OPENED, &labels)
            };
            let all = || {
                let source = count("source", &caller.node, "mutual_tls");
                let destination = count("destination", &server.node, "mutual_tls");
                let plain =
                    count("source", &caller.node, "unknown") + count("destination", &server.node, "unknown");
                (source, destination, plain)
            };
            let before = all();
            for _ in 0..5 {
                let answer =
                    cluster.get(MESHED, &caller.name, &format!("http://{}:8080/", server.ip)).unwrap();
                assert!(answer.starts_with(&server.name), "{answer}");
            }
            let wanted = (before.0 + 5.0, before.1 + 5.0, before.2);
            eventually(&format!("count of 5 connections {} to {}", caller.node, server.node), LIMIT, || {
                let now = all();
                if now == wanted { Ok(()) } else { Err(format!("{now:?} is not {wanted:?}")) }
            });
            println!(
                "{} to {}: 5 at both proxies, by mutual TLS, with both identities",
                caller.node, server.node
            );
        }
    }
}

pub(crate) fn a_namespace_enters_the_mesh_by_its_label_and_leaves_it(cluster: &Cluster) {
    let (caller, outsider) = (&callers(cluster)[0], &outsiders(cluster)[1]);
    let url = format!("http://{}:8080/", outsider.ip);
    // In plaintext nobody has an identity, so that the caller is told by its name.
    let counted = |security: &str| {
        let labels = [
            ("reporter", "source"),
            ("source_workload", "caller"),
            ("destination_workload_namespace", OUTSIDE),
            ("connection_security_policy", security),
        ];
        metrics_on(cluster, &caller.node).sum(OPENED, &labels)
    };
    let goes_by = |security: &str| {
        eventually(&format!("connection by {security} to {}", outsider.name), LIMIT, || {
            let before = counted(security);
            cluster.get(MESHED, &caller.name, &url)?;
            // The counter is written when the connection opens, before its answer.
            let after = counted(security);
            if after > before { Ok(()) } else { Err(format!("{security}: {before} before, {after} after")) }
        });
    };
    goes_by("unknown");
    label(cluster, OUTSIDE, true);
    goes_by("mutual_tls");
    label(cluster, OUTSIDE, false);
    goes_by("unknown");
}

const STRICT: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: warren-tests}
spec: {mtls: {mode: STRICT}}";

pub(crate) fn strict_keeps_out_who_is_not_in_the_mesh_but_no_probe(cluster: &Cluster) {
    let (caller, outsider) = (&callers(cluster)[0], &outsiders(cluster)[0]);
    let started: Vec<i32> = restarts(cluster);
    for server in servers(cluster) {
        allowed(cluster, OUTSIDE, outsider, &server);
    }
    cluster.apply(STRICT);
    for server in servers(cluster) {
        refused(cluster, OUTSIDE, outsider, &server);
        allowed(cluster, MESHED, caller, &server);
    }
    // A pod that is new is found ready by probes that come in plaintext, and the others stay so.
    cluster.delete_pod(MESHED, &servers(cluster)[0].name);
    assert_eq!(servers(cluster).len(), cluster.nodes().len());
    pause(PROBES);
    for pod in cluster.pods(MESHED, "app=server") {
        assert!(is_ready(&pod), "{:?} is not ready under STRICT", pod.metadata.name);
    }
    assert_eq!(restarts(cluster).iter().sum::<i32>(), 0, "before: {started:?}");
    cluster.delete(STRICT);
    for server in servers(cluster) {
        allowed(cluster, OUTSIDE, outsider, &server);
    }
}

/// How often the servers' containers were started again, by the kubelet's probes or otherwise.
fn restarts(cluster: &Cluster) -> Vec<i32> {
    cluster.pods(MESHED, "app=server").iter().map(|pod| crate::harness::last_end(pod).0).collect()
}

const RULES: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: rules, namespace: warren-tests}
spec:
  action: ACTION
  selector: {matchLabels: {app: server}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/warren-tests/sa/caller]}}]
    to: [{operation: {ports: [\"8080\"]}}]";

pub(crate) fn allow_and_deny_go_by_the_callers_identity(cluster: &Cluster) {
    let caller = &callers(cluster)[0];
    let client = &cluster.one_on_each_node(MESHED, "app=client")[0];
    let outsider = &outsiders(cluster)[0];
    let allow = RULES.replace("ACTION", "ALLOW");
    cluster.apply(&allow);
    for server in servers(cluster) {
        refused(cluster, MESHED, client, &server);
        refused(cluster, OUTSIDE, outsider, &server);
        allowed(cluster, MESHED, caller, &server);
    }
    cluster.apply(&RULES.replace("ACTION", "DENY"));
    for server in servers(cluster) {
        refused(cluster, MESHED, caller, &server);
        allowed(cluster, MESHED, client, &server);
    }
    cluster.delete(&allow);
    for server in servers(cluster) {
        allowed(cluster, MESHED, caller, &server);
    }
}

#[track_caller]
fn allowed(cluster: &Cluster, namespace: &str, from: &PodOn, server: &PodOn) {
    let url = format!("http://{}:8080/", server.ip);
    let what = format!("answer of {} on {} to {}", server.name, server.node, from.name);
    let answer = eventually(&what, LIMIT, || cluster.get(namespace, &from.name, &url));
    assert!(answer.starts_with(&server.name), "{answer}");
}

#[track_caller]
fn refused(cluster: &Cluster, namespace: &str, from: &PodOn, server: &PodOn) {
    let url = format!("http://{}:8080/", server.ip);
    let what = format!("refusal by {} on {} of {}", server.name, server.node, from.name);
    let why = eventually(&what, LIMIT, || match cluster.get(namespace, &from.name, &url) {
        Ok(answer) => Err(format!("it was answered {answer}")),
        Err(why) => Ok(why),
    });
    println!("{} is refused by {}: {why}", from.name, server.name);
}

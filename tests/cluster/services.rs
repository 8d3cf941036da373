//! Services of every kind, ServiceEntries and names.

use std::collections::BTreeSet;

use crate::{
    harness::{Cluster, LIMIT, MESHED, PodOn, eventually},
    mesh::{callers, outsiders, servers},
};

/// Enough that two endpoints are not left out by chance (1 in a million).
const REQUESTS: &str = "20";

const HEADLESS: &str = "
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: warren-tests}
spec:
  clusterIP: None
  selector: {app: server}
  ports: [{port: 8080, name: http}]";

pub(crate) fn a_headless_service_and_its_pods_are_reached_by_name(cluster: &Cluster) {
    cluster.apply(HEADLESS);
    let wanted: BTreeSet<String> = servers(cluster).into_iter().map(|server| server.ip).collect();
    for caller in callers(cluster) {
        eventually(&format!("addresses of all pods for {}", caller.name), LIMIT, || {
            let found = cluster.app(MESHED, &caller.name, &["resolve", "headless.warren-tests"]).output;
            let found: BTreeSet<String> = found.split_whitespace().map(str::to_owned).collect();
            if found == wanted { Ok(()) } else { Err(format!("{found:?} is not {wanted:?}")) }
        });
        // The caller's C library prefers the address that is nearest to its own, so that one pod answers.
        let answer = cluster.get(MESHED, &caller.name, "http://headless.warren-tests:8080/").unwrap();
        assert!(servers(cluster).iter().any(|server| answer.starts_with(&server.name)), "{answer}");
    }
    cluster.delete(HEADLESS);
}

const EXTERNAL_NAME: &str = "
apiVersion: v1
kind: Service
metadata: {name: alias, namespace: warren-tests}
spec: {type: ExternalName, externalName: server.warren-tests.svc.cluster.local}";

pub(crate) fn an_external_name_leads_to_the_service_behind_it(cluster: &Cluster) {
    cluster.apply(EXTERNAL_NAME);
    for caller in callers(cluster) {
        answered_by(cluster, &caller, "http://alias.warren-tests/", &servers(cluster));
    }
    cluster.delete(EXTERNAL_NAME);
}

const KEPT: &str = "
apiVersion: v1
kind: Service
metadata: {name: same-zone, namespace: warren-tests}
spec:
  selector: {app: server}
  trafficDistribution: PreferClose
  ports: [{port: 80, targetPort: 8080, name: http}]
---
apiVersion: v1
kind: Service
metadata: {name: same-node, namespace: warren-tests}
spec:
  selector: {app: server}
  trafficDistribution: PreferSameNode
  ports: [{port: 80, targetPort: 8080, name: http}]";

pub(crate) fn services_keep_to_the_node_or_zone_that_they_are_told_to(cluster: &Cluster) {
    cluster.apply(KEPT);
    let zone = |node: &str| {
        let path = "jsonpath={.metadata.labels.topology\\.kubernetes\\.io/zone}";
        cluster.kubectl_ok(&["get", "node", node, "-o", path])
    };
    let servers = servers(cluster);
    for caller in callers(cluster) {
        let on_node: Vec<PodOn> =
            servers.iter().filter(|server| server.node == caller.node).cloned().collect();
        let here = zone(&caller.node);
        let in_zone: Vec<PodOn> =
            servers.iter().filter(|server| zone(&server.node) == here).cloned().collect();
        println!("{} of zone {here:?}: {} of {} servers", caller.node, in_zone.len(), servers.len());
        answered_by(cluster, &caller, "http://server.warren-tests/", &servers);
        // internalTrafficPolicy: Local, PreferSameNode and PreferClose
        answered_by(cluster, &caller, "http://near.warren-tests/", &on_node);
        answered_by(cluster, &caller, "http://same-node.warren-tests/", &on_node);
        answered_by(cluster, &caller, "http://same-zone.warren-tests/", &in_zone);
    }
    cluster.delete(KEPT);
}

const NO_SELECTOR: &str = "
apiVersion: v1
kind: Service
metadata: {name: by-hand, namespace: warren-tests}
spec:
  ports: [{port: 80, targetPort: 8080, name: http}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand-1, namespace: warren-tests, labels: {kubernetes.io/service-name: by-hand}}
addressType: IPv4
ports: [{port: 8080, name: http}]
endpoints: [{addresses: [\"ADDRESS\"]}]";

pub(crate) fn a_service_without_a_selector_leads_to_its_endpoint_slice(cluster: &Cluster) {
    let server = servers(cluster).remove(1);
    let objects = NO_SELECTOR.replace("ADDRESS", &server.ip);
    cluster.apply(&objects);
    for caller in callers(cluster) {
        answered_by(cluster, &caller, "http://by-hand.warren-tests/", std::slice::from_ref(&server));
    }
    cluster.delete(&objects);
}

const ENTRIES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: by-address, namespace: warren-tests}
spec:
  hosts: [by-address.example.com]
  addresses: [240.200.0.7]
  ports: [{number: 80, targetPort: 8080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: ADDRESS}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: allocated, namespace: warren-tests}
spec:
  hosts: [allocated.example.com]
  ports: [{number: 80, targetPort: 8080, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: ADDRESS}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: by-name, namespace: warren-tests}
spec:
  hosts: [by-name.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
  endpoints: [{address: outsider.warren-tests-outside.svc.cluster.local}]";

pub(crate) fn service_entries_are_reached_by_name_address_or_endpoint_name(cluster: &Cluster) {
    let outsiders = outsiders(cluster);
    let objects = ENTRIES.replace("ADDRESS", &outsiders[0].ip);
    cluster.apply(&objects);
    for caller in callers(cluster) {
        let first = &outsiders[..1];
        answered_by(cluster, &caller, "http://by-address.example.com/", first);
        answered_by(cluster, &caller, "http://240.200.0.7/", first);
        answered_by(cluster, &caller, "http://allocated.example.com/", first);
        // The name stands for a service, which has a pod on each node.
        answered_by(cluster, &caller, "http://by-name.example.com/", &outsiders);
    }
    cluster.delete(&objects);
}

pub(crate) fn a_name_that_nobody_has_is_not_found(cluster: &Cluster) {
    for caller in callers(cluster) {
        let ended = cluster.app(MESHED, &caller.name, &["resolve", "nothing.warren-tests.svc.cluster.local"]);
        assert!(!ended.ok && ended.output.contains("not known"), "{}", ended.output);
        let found = cluster.app(MESHED, &caller.name, &["resolve", "server"]).output;
        let path = ["-n", MESHED, "get", "service", "server", "-o", "jsonpath={.spec.clusterIP}"];
        assert_eq!(found.trim(), cluster.kubectl_ok(&path).trim());
    }
}

/// All of `pods`, and nobody else, answer requests to `url`.
#[track_caller]
fn answered_by(cluster: &Cluster, caller: &PodOn, url: &str, pods: &[PodOn]) {
    let wanted: BTreeSet<String> = pods.iter().map(|pod| pod.name.clone()).collect();
    eventually(&format!("answers to {} from {wanted:?} by {url}", caller.name), LIMIT, || {
        let ended = cluster.app(MESHED, &caller.name, &["get", url, REQUESTS]);
        if !ended.ok {
            return Err(ended.output);
        }
        let first = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let found: BTreeSet<String> = ended.output.lines().map(first).collect();
        if found == wanted { Ok(()) } else { Err(format!("it was {found:?}")) }
    });
}

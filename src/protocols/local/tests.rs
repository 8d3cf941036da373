//! Sources of state, as operators write them and as a dump has them.

use super::*;
use crate::protocols::mesh::{LocalNode, Mesh, TunnelProtocol, fixtures::ip};

/// The example of docs/spec/controlplane.md 2.7.
const EXAMPLE: &str = r#"
# two workloads
workloads:
  - name: local
    namespace: default
    serviceAccount: default
    node: local
    protocol: HBONE
    workloadIps: [127.0.0.1]
    services:
      default/example.com: {80: 8080}
      default/example2.com: {80: 8080}
  - name: local-tcp
    namespace: default
    serviceAccount: default
    node: local
    workloadIps: [127.0.0.2]
    services: {"default/example.com": {"80": 8080}, "default/example2.com": {"80": 8080}}
policies:
  - name: deny-9999
    namespace: default
    scope: Namespace
    action: Allow
    dryRun: false
    rules: [[[{notDestinationPorts: [9999]}]]]
services:
  - name: example
    namespace: default
    hostname: example.com
    vips: [/127.10.0.1]
    ports: {80: 8080}
    subjectAltNames: ["spiffe://cluster.local/ns/default/sa/local"]
    canonical: true
  - {name: example2, namespace: default, hostname: example2.com, vips: [remote/127.10.0.2], ports: {80: 8080}, endpoints: {}}
"#;

fn error(text: &str) -> String {
    LocalState::parse(text).unwrap_err().to_string()
}

fn mesh(state: &LocalState) -> Mesh {
    let mesh = Mesh::new(LocalNode {
        network: String::new(),
        node: Some("local".into()),
        cluster_domain: "cluster.local".into(),
    });
    let decode = |r: &Resource| {
        Change::decode(wl::Address::decode(&*r.resource.as_ref().unwrap().value).unwrap()).unwrap()
    };
    mesh.writer().apply(state.addresses.iter().map(decode));
    mesh
}

#[test]
fn the_example_of_the_contract_is_read() {
    let state = LocalState::parse(EXAMPLE).unwrap();
    let mesh = mesh(&state);
    let local = mesh.workload_by_ip("", ip("127.0.0.1")).unwrap();
    assert_eq!(
        (local.protocol(), local.identity().as_str()),
        (TunnelProtocol::Hbone, "spiffe://cluster.local/ns/default/sa/default")
    );
    assert_eq!(mesh.workload_by_ip("", ip("127.0.0.2")).unwrap().protocol(), TunnelProtocol::Tcp);
    let service = mesh.service_by_vip("", ip("127.10.0.1"), "default").unwrap();
    assert_eq!(mesh.endpoints(&service).unwrap().workloads().len(), 2);
    assert!(service.canonical() && service.sans().len() == 1);
    assert_eq!(
        mesh.service_by_vip("remote", ip("127.10.0.2"), "default").unwrap().hostname(),
        "example2.com"
    );
    let [policy] = &*state.policies else { panic!() };
    assert_eq!(policy.name, "default/deny-9999");
}

#[test]
fn all_keys_are_taken() {
    let state = LocalState::parse(
        r#"
workloads:
  - {namespace: ns, workloadIps: ["fd00::1", 10.0.0.1], services: {}, uid: a-uid, name: a, waypoint: {destination: /10.9.0.1, hboneMtlsPort: 15008}, networkGateway: {destination: ns/gate.example, hboneMtlsPort: 15009}, protocol: TCP, networkMode: HostNetwork, trustDomain: td, network: far, workloadName: app, workloadType: cronjob, canonicalName: c, canonicalRevision: r, hostname: a.example, nativeTunnel: true, applicationTunnel: {protocol: PROXY, port: null}, authorizationPolicies: [ns/p], status: Unhealthy, clusterId: k, locality: {region: eu}, capacity: 3}
services:
  - {name: s, namespace: ns, hostname: s.example, vips: [], ports: {}, cidrVips: [{network: "", cidr: 10.1.0.0/16}], waypoint: {destination: ns/w.example, hboneMtlsPort: 15008}, weightedWaypoints: [{destination: {destination: /10.9.0.2, hboneMtlsPort: 15008}, weight: 2}], loadBalancer: {routingPreferences: [Region, Node], mode: Failover, healthPolicy: AllowAll}, ipFamilies: IPv4, visibility: Namespace}
policies:
  - {name: p, namespace: ns, scope: WorkloadSelector, action: Deny, dryRun: true, rules: [[[{principals: [{Exact: a}, {Prefix: b}, {Suffix: c}, {Presence: []}], sourceIps: [10.0.0.0/8, 10.0.0.1], serviceAccounts: [{namespace: ns, serviceAccount: sa}]}]]]}
"#,
    )
    .unwrap();
    let mesh = mesh(&state);
    let workload = mesh.workload("a-uid").unwrap();
    assert_eq!((workload.capacity(), workload.network(), workload.addresses().len()), (3, "far", 2));
    assert!(workload.waypoint().is_some() && workload.network_gateway().is_some() && workload.host_network());
    let service = mesh.service("ns", "s.example").unwrap();
    assert_eq!((service.weighted_waypoints().len(), service.cidr_vips().len()), (1, 1));
}

#[test]
fn a_fault_is_named_with_its_line() {
    let cases = [
        ("workloads:\n  - {namespace: ns, workloadIps: [10.0.0.1]}\n", "services", "2"),
        ("workload: []\n", "workload", "1"),
        (
            "services:\n  - name: s\n    namespace: ns\n    hostname: h\n    vips: [10.0.0.1]\n    ports: {}\n",
            "network/ip",
            "5",
        ),
        (
            "policies:\n  - {name: p, namespace: ns, scope: Mesh, action: Allow, dryRun: false, rules: []}\n",
            "Mesh",
            "2",
        ),
        (
            "workloads:\n  - {namespace: ns, name: a, workloadIps: [300.0.0.1], services: {}}\n",
            "300.0.0.1",
            "2",
        ),
    ];
    for (text, word, line) in cases {
        let error = error(text);
        assert!(error.contains(word) && error.contains(line), "{text}: {error}");
    }
    let twice = "workloads:\n- {namespace: ns, name: a, workloadIps: [], services: {}}\n- {namespace: ns, name: a, workloadIps: [], services: {}}\n";
    assert_eq!(error(twice), "line 3: workload Kubernetes//Pod/ns/a: is in line 2 already");
    let nameless = "workloads:\n- {namespace: ns, workloadIps: [], services: {}}\n";
    assert_eq!(error(nameless), "line 2: workload ns/: has neither a name nor a uid");
    let bad = "workloads:\n- {namespace: ns, name: a, workloadIps: [], services: {nowhere: {}}}\n";
    assert!(error(bad).starts_with("line 2: workload ns/a: "), "{}", error(bad));
}

#[test]
fn a_source_of_comments_is_an_empty_mesh() {
    let state = LocalState::parse("# nothing yet\n").unwrap();
    assert!(state.addresses.is_empty() && state.policies.is_empty());
}

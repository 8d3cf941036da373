#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::{policy as policy_json, service as service_json, staged, workload as workload_json};
use crate::protocols::{
    mesh::{
        fixtures::{TestMesh, Wl, octets, pod, service},
        policy::Policy,
    },
    pb::{security as spb, workload as pb},
};

fn port(service_port: u32, target_port: u32) -> pb::Port {
    pb::Port { service_port, target_port, ..Default::default() }
}

/// A pod that uses every field.
fn rich() -> Wl {
    let Wl(mut wire) = pod("a", "10.0.0.1 fd00::1");
    wire.network = "net1".into();
    wire.trust_domain = "td".into();
    wire.canonical_revision = "v1".into();
    wire.canonical_name = "app".into();
    wire.workload_name = "a-deployment".into();
    wire.hostname = "a.example".into();
    wire.tunnel_protocol = pb::TunnelProtocol::Hbone.into();
    wire.network_mode = pb::NetworkMode::HostNetwork.into();
    wire.native_tunnel = true;
    wire.cluster_id = "c1".into();
    wire.status = pb::WorkloadStatus::Unhealthy.into();
    wire.capacity = Some(3);
    wire.authorization_policies = vec!["ns1/deny".into()];
    wire.locality = Some(pb::Locality { region: "r".into(), zone: "z".into(), subzone: String::new() });
    wire.application_tunnel =
        Some(pb::ApplicationTunnel { protocol: pb::application_tunnel::Protocol::Proxy.into(), port: 15088 });
    let address = pb::NetworkAddress { network: "net1".into(), address: octets("10.9.9.9"), length: None };
    wire.waypoint = Some(pb::GatewayAddress {
        destination: Some(pb::gateway_address::Destination::Address(address)),
        hbone_mtls_port: 15008,
    });
    wire.network_gateway = Some(pb::GatewayAddress {
        destination: Some(pb::gateway_address::Destination::Hostname(pb::NamespacedHostname {
            namespace: "istio-system".into(),
            hostname: "gw.example".into(),
        })),
        hbone_mtls_port: 15009,
    });
    let ports = pb::PortList { ports: vec![port(80, 8080)] };
    wire.services = [("ns1/svc.ns1".to_owned(), ports)].into();
    Wl(wire)
}

#[test]
fn a_workload_has_every_field_of_the_contract() {
    let mesh = TestMesh::new().with(rich());
    assert_eq!(
        workload_json(&mesh.pod("a")),
        json!({
            "workloadIps": ["10.0.0.1", "fd00::1"],
            "waypoint": {"destination": "net1/10.9.9.9", "hboneMtlsPort": 15008},
            "networkGateway": {"destination": "istio-system/gw.example", "hboneMtlsPort": 15009},
            "protocol": "HBONE",
            "networkMode": "HostNetwork",
            "uid": "Kubernetes//Pod/ns1/a",
            "name": "a",
            "namespace": "ns1",
            "trustDomain": "td",
            "serviceAccount": "sa-a",
            "network": "net1",
            "workloadName": "a-deployment",
            "workloadType": "deployment",
            "canonicalName": "app",
            "canonicalRevision": "v1",
            "hostname": "a.example",
            "node": "node-2",
            "nativeTunnel": true,
            "applicationTunnel": {"protocol": "PROXY", "port": 15088},
            "authorizationPolicies": ["ns1/deny"],
            "status": "Unhealthy",
            "clusterId": "c1",
            "locality": {"region": "r", "zone": "z"},
            "services": ["ns1/svc.ns1"],
            "capacity": 3,
        })
    );
}

#[test]
fn a_bare_workload_has_what_the_readers_need_and_no_empty_field() {
    let Wl(mut wire) = pod("b", "");
    wire.node.clear();
    let mesh = TestMesh::new().with(Wl(wire));
    let shown = workload_json(&mesh.pod("b"));
    for always in
        ["workloadIps", "protocol", "networkMode", "name", "namespace", "status", "clusterId", "capacity"]
    {
        assert!(shown.get(always).is_some(), "{always}: {shown}");
    }
    for absent in ["waypoint", "networkGateway", "node", "hostname", "locality", "services", "nativeTunnel"] {
        assert!(shown.get(absent).is_none(), "{absent}: {shown}");
    }
    assert_eq!(shown["workloadIps"], json!([]));
}

#[test]
fn a_service_shows_the_endpoints_that_it_admits() {
    let mut svc = service("svc.ns1", "net1/10.1.0.1 net1/10.2.0.0/16");
    svc.0.subject_alt_names = vec!["spiffe://td/ns/ns1/sa/x".into()];
    svc.0.canonical = true;
    svc.0.ip_families = pb::IpFamilies::Dual.into();
    svc.0.visibility = pb::service::Visibility::Namespace.into();
    svc.0.load_balancing = Some(pb::LoadBalancing {
        routing_preference: vec![pb::load_balancing::Scope::Zone.into()],
        mode: pb::load_balancing::Mode::Failover.into(),
        ..Default::default()
    });
    let Wl(mut ready) = pod("ready", "10.0.0.2");
    let ports = pb::PortList { ports: vec![port(80, 8081)] };
    ready.services = [("ns1/svc.ns1".to_owned(), ports)].into();
    let mesh = TestMesh::new().with(svc).with(Wl(ready)).with(rich());
    let found = mesh.mesh.service("ns1", "svc.ns1").unwrap();
    let endpoints = mesh.mesh.endpoints(&found).unwrap();
    assert_eq!(
        service_json(&found, Some(&endpoints)),
        json!({
            "name": "svc",
            "namespace": "ns1",
            "hostname": "svc.ns1",
            "vips": ["net1/10.1.0.1"],
            "cidrVips": [{"network": "net1", "cidr": "10.2.0.0/16"}],
            "ports": {"80": 8080},
            "endpoints": {
                "Kubernetes//Pod/ns1/ready": {
                    "workloadUid": "Kubernetes//Pod/ns1/ready", "port": {"80": 8081}, "status": "Healthy",
                },
            },
            "subjectAltNames": ["spiffe://td/ns/ns1/sa/x"],
            "loadBalancer": {
                "routingPreferences": ["Zone"], "mode": "Failover", "healthPolicy": "OnlyHealthy",
            },
            "ipFamilies": "Dual",
            "canonical": true,
            "visibility": "Namespace",
        })
    );
    // Kiali's pages need these, even empty.
    let headless = TestMesh::new().with(service("h.ns1", ""));
    let shown = service_json(&headless.mesh.service("ns1", "h.ns1").unwrap(), None);
    assert_eq!((&shown["vips"], &shown["endpoints"]), (&json!([]), &json!({})));
}

#[test]
fn endpoints_of_an_unknown_service_are_staged() {
    let mesh = TestMesh::new().with(rich());
    let endpoints = mesh.mesh.all_endpoints().remove(0);
    assert_eq!(
        staged(&endpoints),
        json!({"Kubernetes//Pod/ns1/a": {
            "workloadUid": "Kubernetes//Pod/ns1/a", "port": {"80": 8080}, "status": "Unhealthy",
        }})
    );
}

#[test]
fn a_policy_keeps_its_rules_clauses_and_matches() {
    let exact =
        |text: &str| spb::StringMatch { match_type: Some(spb::string_match::MatchType::Exact(text.into())) };
    let presence = spb::StringMatch { match_type: Some(spb::string_match::MatchType::Presence(())) };
    let net = spb::Address { address: octets("10.0.0.0"), length: 8 };
    let account = spb::ServiceAccountMatch { namespace: "ns1".into(), service_account: "sa".into() };
    let matching = spb::Match {
        namespaces: vec![exact("ns1")],
        not_principals: vec![presence],
        source_ips: vec![net],
        destination_ports: vec![80],
        service_accounts: vec![account],
        ..Default::default()
    };
    let rules = vec![spb::Rule { clauses: vec![spb::Clause { matches: vec![matching] }] }];
    let wire = spb::Authorization {
        name: "deny".into(),
        namespace: "ns1".into(),
        scope: spb::Scope::Namespace.into(),
        action: spb::Action::Deny.into(),
        rules,
        ..Default::default()
    };
    assert_eq!(
        policy_json(&Policy::decode("ns1/deny", wire).0),
        json!({
            "name": "deny",
            "namespace": "ns1",
            "scope": "Namespace",
            "action": "Deny",
            "dryRun": false,
            "rules": [[[{
                "namespaces": [{"Exact": "ns1"}],
                "notPrincipals": [{"Presence": []}],
                "sourceIps": ["10.0.0.0/8"],
                "destinationPorts": [80],
                "serviceAccounts": [{"namespace": "ns1", "serviceAccount": "sa"}],
            }]]],
        })
    );
}

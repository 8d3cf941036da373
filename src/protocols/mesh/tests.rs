//! What lookups find.

pub(super) mod orders;

use super::{
    WorkloadInfo,
    fixtures::{NODE, TestMesh, ip, pod, service},
};

/// The key of the service of `ip` for a client of `namespace`, in the default network.
fn by_vip(mesh: &TestMesh, address: &str, namespace: &str) -> Option<String> {
    let found = mesh.mesh.service_by_vip("", ip(address), namespace)?;
    Some(found.key().to_string())
}

fn by_host(mesh: &TestMesh, host: &str, namespace: &str) -> Option<String> {
    Some(mesh.mesh.service_by_host(host, namespace)?.key().to_string())
}

#[test]
fn workloads_are_found_by_uid_address_and_hostname() {
    let t = TestMesh::new()
        .with(pod("a", "10.0.0.1 fd00::1"))
        .with(pod("b", "10.0.0.1").network("n2"))
        .with(pod("c", "").hostname("c.example"));
    let name = |network, address| t.mesh.workload_by_ip(network, ip(address)).map(|w| w.name().to_owned());
    assert_eq!(name("", "10.0.0.1").as_deref(), Some("a"));
    assert_eq!(name("", "fd00::1").as_deref(), Some("a"));
    assert_eq!(name("n2", "10.0.0.1").as_deref(), Some("b"));
    assert_eq!(name("n2", "fd00::1"), None);
    assert_eq!(name("", "10.0.0.2"), None);
    assert!(t.mesh.workload("Kubernetes//Pod/ns1/c").is_some());
    assert!(t.mesh.workload("Kubernetes//Pod/ns1/d").is_none());
    let host = |name: &str| {
        let (namespace, hostname) = name.split_once('/').unwrap();
        t.mesh.workload_by_hostname(&super::ServiceName::new(namespace, hostname)).is_some()
    };
    assert_eq!([host("ns1/c.example"), host("ns2/c.example"), host("ns1/d.example")], [true, false, false]);
}

#[test]
fn of_workloads_that_share_an_address_pods_win_then_hbone_then_the_latest() {
    let entry = |name: &str| pod(name, "10.0.0.1").uid(&format!("x/WorkloadEntry/ns1/{name}"));
    let mut t = TestMesh::new();
    let mut steps = Vec::new();
    for workload in [
        entry("e1"),
        entry("e2"),
        entry("h1").hbone(),
        entry("e3"),
        pod("p1", "10.0.0.1"),
        pod("p2", "10.0.0.1").hbone(),
        pod("p3", "10.0.0.1"),
        pod("p4", "10.0.0.1").hbone(),
    ] {
        t.put(workload);
        steps.push(t.mesh.workload_by_ip("", ip("10.0.0.1")).unwrap().name().to_owned());
    }
    assert_eq!(steps, ["e1", "e2", "h1", "h1", "p1", "p2", "p2", "p4"]);
    t.remove("Kubernetes//Pod/ns1/p4");
    t.remove("Kubernetes//Pod/ns1/p2");
    assert_eq!(t.mesh.workload_by_ip("", ip("10.0.0.1")).unwrap().name(), "p3");
}

#[test]
fn host_network_workloads_own_no_address() {
    let mut t = TestMesh::new().with(pod("a", "10.0.0.1").host_network());
    assert!(t.mesh.workload_by_ip("", ip("10.0.0.1")).is_none());
    t.put(pod("a", "10.0.0.1"));
    assert!(t.mesh.workload_by_ip("", ip("10.0.0.1")).is_some());
    t.put(pod("a", "10.0.0.1").host_network());
    assert!(t.mesh.workload_by_ip("", ip("10.0.0.1")).is_none());
}

#[test]
fn a_local_pod_is_an_exact_match_among_those_of_the_own_node() {
    let info = |name: &str, namespace: &str, service_account: &str| WorkloadInfo {
        name: name.into(),
        namespace: namespace.into(),
        service_account: service_account.into(),
    };
    let t = TestMesh::new().with(pod("a", "10.0.0.1").local()).with(pod("b", "10.0.0.2").node("other"));
    let found = |info: &WorkloadInfo| t.mesh.local_workload(info).is_some();
    assert!(found(&info("a", "ns1", "sa-a")));
    assert!(!found(&info("a", "ns1", "sa-b")));
    assert!(!found(&info("a", "ns2", "sa-a")));
    assert!(!found(&info("", "ns1", "sa-a")));
    assert!(!found(&info("b", "ns1", "sa-b")), "it runs on another node than {NODE}");
    let nameless = TestMesh::on_node(None).with(pod("b", "10.0.0.2").node("other"));
    assert!(nameless.mesh.local_workload(&info("b", "ns1", "sa-b")).is_some());
}

#[test]
fn of_services_that_share_an_address_the_own_namespace_wins_then_the_canonical_one() {
    let t = TestMesh::new()
        .with(service("a.example", "10.1.0.1").namespace("ns3"))
        .with(service("a.example", "10.1.0.1").namespace("ns2").canonical())
        .with(service("a.example", "10.1.0.1").namespace("ns1"));
    for (namespace, want) in [("ns1", "ns1"), ("ns2", "ns2"), ("ns3", "ns3"), ("ns4", "ns2")] {
        assert_eq!(by_vip(&t, "10.1.0.1", namespace), Some(format!("{want}/a.example")));
        assert_eq!(by_host(&t, "a.example", namespace), Some(format!("{want}/a.example")));
    }
    let all: Vec<String> =
        t.mesh.services_by_host("a.example", "ns3").iter().map(|s| s.namespace().into()).collect();
    assert_eq!(all, ["ns3", "ns2", "ns1"]);
}

#[test]
fn without_a_better_reason_the_first_by_name_wins_in_whatever_order_they_came() {
    for order in [["ns2", "ns3"], ["ns3", "ns2"]] {
        let mut t = TestMesh::new();
        for namespace in order {
            t.put(service("a.example", "10.1.0.1 10.2.0.0/16").namespace(namespace));
        }
        assert_eq!(by_vip(&t, "10.1.0.1", "ns9").as_deref(), Some("ns2/a.example"));
        assert_eq!(by_vip(&t, "10.2.0.1", "ns9").as_deref(), Some("ns2/a.example"));
        assert_eq!(by_host(&t, "a.example", "ns9").as_deref(), Some("ns2/a.example"));
    }
}

#[test]
fn private_services_are_seen_by_their_own_namespace_only() {
    let t = TestMesh::new().with(service("a.example", "10.1.0.1 10.2.0.0/16").private());
    for (namespace, seen) in [("ns1", true), ("ns2", false)] {
        assert_eq!(by_vip(&t, "10.1.0.1", namespace).is_some(), seen);
        assert_eq!(by_vip(&t, "10.2.0.1", namespace).is_some(), seen);
        assert_eq!(by_host(&t, "a.example", namespace).is_some(), seen);
    }
    assert!(t.mesh.service("ns1", "a.example").is_some());
}

#[test]
fn an_exact_address_that_is_hidden_falls_through_to_a_range() {
    let t = TestMesh::new()
        .with(service("exact.example", "10.1.0.1").private())
        .with(service("range.example", "10.1.0.0/16").namespace("ns2"));
    assert_eq!(by_vip(&t, "10.1.0.1", "ns1").as_deref(), Some("ns1/exact.example"));
    assert_eq!(by_vip(&t, "10.1.0.1", "ns3").as_deref(), Some("ns2/range.example"));
}

#[test]
fn ranges_are_found_by_the_longest_prefix_of_the_right_family_and_network() {
    let mut t = TestMesh::new()
        .with(service("wide.example", "10.0.0.0/8 fd00::/16"))
        .with(service("narrow.example", "10.1.0.0/16 fd00:1::/32"))
        .with(service("other.example", "n2/10.1.1.0/24"))
        .with(service("all6.example", "::/0"));
    let cases = [
        ("10.1.1.1", Some("ns1/narrow.example")),
        ("10.2.1.1", Some("ns1/wide.example")),
        ("11.1.1.1", None),
        ("fd00:1::1", Some("ns1/narrow.example")),
        ("fd00:2::1", Some("ns1/wide.example")),
        ("2001::1", Some("ns1/all6.example")),
    ];
    for (address, want) in cases {
        assert_eq!(by_vip(&t, address, "ns9").as_deref(), want, "{address}");
    }
    let other = t.mesh.service_by_vip("n2", ip("10.1.1.1"), "ns9").unwrap();
    assert_eq!(other.hostname(), "other.example");
    t.remove("ns1/narrow.example");
    assert_eq!(by_vip(&t, "10.1.1.1", "ns9").as_deref(), Some("ns1/wide.example"));
    t.put(service("wide.example", "fd00::/16"));
    assert_eq!(by_vip(&t, "10.1.1.1", "ns9"), None);
    assert_eq!(by_vip(&t, "fd00:1::1", "ns9").as_deref(), Some("ns1/wide.example"));
}

#[test]
fn an_exact_address_beats_a_range_and_the_own_namespace_beats_a_narrow_one() {
    let t = TestMesh::new()
        .with(service("exact.example", "10.1.0.1").namespace("ns2"))
        .with(service("own.example", "10.0.0.0/8"))
        .with(service("narrow.example", "10.1.0.0/16").namespace("ns2").canonical());
    assert_eq!(by_vip(&t, "10.1.0.1", "ns1").as_deref(), Some("ns2/exact.example"));
    assert_eq!(by_vip(&t, "10.1.0.2", "ns1").as_deref(), Some("ns1/own.example"));
    assert_eq!(by_vip(&t, "10.1.0.2", "ns3").as_deref(), Some("ns2/narrow.example"));
}

#[test]
fn of_one_range_the_canonical_service_wins() {
    let t = TestMesh::new()
        .with(service("a.example", "10.0.0.0/8").namespace("ns2"))
        .with(service("b.example", "10.0.0.0/8").namespace("ns3").canonical());
    assert_eq!(by_vip(&t, "10.1.0.1", "ns1").as_deref(), Some("ns3/b.example"));
}

#[test]
fn a_policy_that_a_workload_names_twice_is_named_once() {
    let names = ["ns1/b", "ns1/a", "ns1/b"].map(String::from).to_vec();
    let t = TestMesh::new().with(pod("a", "10.0.0.1").edit(|pb| pb.authorization_policies = names));
    assert_eq!(t.pod("a").policies(), ["ns1/b", "ns1/a"].map(Box::from));
}

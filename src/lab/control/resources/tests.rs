use super::*;

fn address(resources: &Resources, name: &str) -> wl::address::Type {
    wl::Address::decode(resources.address[name].value.clone()).unwrap().r#type.unwrap()
}

fn workload(resources: &Resources, name: &str) -> wl::Workload {
    match address(resources, name) {
        wl::address::Type::Workload(workload) => workload,
        wl::address::Type::Service(_) => panic!("{name} is a service"),
    }
}

fn policy(resources: &Resources, name: &str) -> az::Authorization {
    az::Authorization::decode(resources.authorization[name].value.clone()).unwrap()
}

fn mesh(text: &str) -> Resources {
    Resources::of(&Mesh::parse(text).unwrap())
}

const MESH: &str = "
nodes: {one: }
pods:
  - {name: a, ip: 10.77.64.1, app: web, announce: {network: n, networkGateway: n/10.1.1.1:9, capacity: 2}}
  - {name: b, ip: 10.77.64.2, namespace: other, captured: false, waypoint: other/wp, announce: {status: unhealthy}}
services:
  - {name: web, vips: [10.96.0.1, 10.97.0.0/16], ports: {80: 8080}, app: web, loadBalancing: {mode: strict, preference: [node]},
     weightedWaypoints: {10.77.64.2: 3, other/wp: 1}}
policies:
  - {name: w, action: DENY, app: web}
  - name: rules
    action: ALLOW
    rules: [{from: {principals: ['*', 'td/*', '*/sa/x', exact], ipBlocks: [10.1.2.3/8]}, to: {notPorts: [1]}}, {}]
strict: [other]
";

#[test]
fn workloads_carry_their_services_and_policies() {
    let resources = mesh(MESH);
    let a = workload(&resources, "Kubernetes//Pod/default/a");
    assert_eq!(a.tunnel_protocol(), wl::TunnelProtocol::Hbone);
    assert_eq!((a.network.as_str(), a.capacity, a.canonical_name.as_str()), ("n", Some(2), "web"));
    assert_eq!(a.authorization_policies, ["default/w"]);
    assert_eq!(a.services["default/web.default.svc.cluster.local"].ports[0].target_port, 8080);
    assert_eq!(a.network_gateway.unwrap().hbone_mtls_port, 9);
    let b = workload(&resources, "Kubernetes//Pod/other/b");
    assert_eq!((b.tunnel_protocol(), b.status()), (wl::TunnelProtocol::None, wl::WorkloadStatus::Unhealthy));
    assert_eq!(b.authorization_policies, ["istio-system/istio_converted_static_strict"]);
    assert_eq!(b.addresses, [[10, 77, 64, 2]]);
    let wl::gateway_address::Destination::Hostname(waypoint) = b.waypoint.unwrap().destination.unwrap()
    else {
        panic!("by name");
    };
    assert_eq!((waypoint.namespace.as_str(), waypoint.hostname.as_str()), ("other", "wp"));
}

#[test]
fn services_carry_addresses_ports_and_aliases() {
    let resources = mesh(MESH);
    let name = "default/web.default.svc.cluster.local";
    let wl::address::Type::Service(web) = address(&resources, name) else { panic!("a service") };
    assert_eq!((web.addresses[0].length, web.addresses[1].length), (None, Some(16)));
    assert_eq!(web.load_balancing.unwrap().mode(), wl::load_balancing::Mode::Strict);
    assert_eq!(web.weighted_waypoints.iter().map(|waypoint| waypoint.weight).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(resources.address[name].aliases, ["/10.96.0.1", "/10.97.0.0/16"]);
    assert_eq!(resources.address["Kubernetes//Pod/default/a"].aliases, ["n/10.77.64.1"]);
}

#[test]
fn policies_keep_the_nesting_of_the_wire() {
    let resources = mesh(MESH);
    let rules = policy(&resources, "default/rules");
    let [first, second] = rules.rules.as_slice() else { panic!("two rules") };
    assert!(second.clauses.is_empty(), "matches everything");
    let [from, to] = first.clauses.as_slice() else { panic!("from and to") };
    use az::string_match::MatchType::{Exact, Prefix, Presence, Suffix};
    let kinds: Vec<_> = from.matches[0].principals.iter().map(|m| m.match_type.clone().unwrap()).collect();
    assert_eq!(kinds, [Presence(()), Prefix("td/".into()), Suffix("/sa/x".into()), Exact("exact".into())]);
    assert_eq!(from.matches[0].source_ips[0], az::Address { address: vec![10, 0, 0, 0], length: 8 });
    assert_eq!(to.matches[0].not_destination_ports, [1]);
    let strict = policy(&resources, "istio-system/istio_converted_static_strict");
    assert_eq!((strict.scope(), strict.action()), (az::Scope::WorkloadSelector, az::Action::Deny));
    let none = &strict.rules[0].clauses[0].matches[0].not_principals[0];
    assert_eq!(none.match_type, Some(Presence(())));
    assert_eq!(policy(&resources, "default/w").scope(), az::Scope::WorkloadSelector);
}

#[test]
fn a_resource_keeps_its_version_until_it_changes() {
    let (one, other) = (mesh(MESH), mesh(&MESH.replace("80: 8080", "80: 8081")));
    assert_eq!(one, mesh(MESH));
    let changed: Vec<_> = one
        .address
        .iter()
        .filter(|(name, r)| other.address[*name].version != r.version)
        .map(|(n, _)| n)
        .collect();
    assert_eq!(changed, ["Kubernetes//Pod/default/a", "default/web.default.svc.cluster.local"]);
    assert!(one.authorization.values().all(|r| r.version.is_empty()));
}

#[test]
fn bulk_adds_what_it_says() {
    let mut resources = Resources::default();
    resources.add_bulk(5000);
    let workloads = resources.address.keys().filter(|name| name.contains("//Pod/")).count();
    assert_eq!(workloads, 5000);
    let services: Vec<_> = resources.address.keys().filter(|name| !name.contains("//Pod/")).collect();
    for i in [0, 49, 50, 4999] {
        let workload = workload(&resources, &format!("Kubernetes//Pod/bulk-{}/bulk-{i}", i % 50));
        let service = workload.services.keys().next().unwrap();
        assert!(services.contains(&service), "{service} of bulk-{i}");
    }
}

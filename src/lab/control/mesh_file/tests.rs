use std::net::IpAddr;

use super::*;

/// The example of the module's documentation.
const EXAMPLE: &str = "
nodes: {one: 10.77.0.1, two: }
pods:
  - {name: client, node: one}
  - {name: web-1, namespace: shop, serviceAccount: web, node: two, app: web, version: v2, run: http 8080 hello}
  - {name: bare, node: two, captured: false}
  - name: all
    namespace: shop
    node: two
    ip: [10.77.1.1, 'fd00::1']
    app: web
    captured: true
    protocol: TCP
    run: [http 8080 hi, echo 9000]
    waypoint: shop/wp.shop.svc.cluster.local
    announce:
      status: unhealthy
      trustDomain: other.example
      network: remote
      networkGateway: remote/10.77.0.9:15009
      capacity: 3
      locality: {region: r, zone: z}
outside:
  - {name: db, run: echo 9000}
services:
  - {name: web, namespace: shop, ports: {80: 8080}, app: web}
  - name: mixed
    vips: [10.96.0.9, remote/10.96.0.10, 10.97.0.0/16]
    ports: {80: 8080, 443: 8443}
    endpoints: [client, shop/web-1]
    loadBalancing: {mode: failover, preference: [network, node], health: allowAll}
  - {name: headless, vips: [], ports: {9000: 9000}, endpoints: [bare]}
policies:
  - name: only-client
    namespace: shop
    action: ALLOW
    rules:
      - from: {serviceAccounts: [default/default]}
        to: {ports: [8080]}
      - from:
          - {namespaces: [default], notPrincipals: ['*/sa/bad']}
          - {ipBlocks: [10.0.0.0/8, 10.1.1.1]}
  - {name: web-only, namespace: shop, action: DENY, app: web, rules: [{to: {notPorts: [8080]}}]}
strict: [shop]
";

fn problems(text: &str) -> Vec<String> {
    match Mesh::parse(text) {
        Err(MeshFileError::Invalid(problems)) => {
            problems.0.iter().map(|p| format!("{}: {}", p.line, p.what)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_file_is_understood() {
    let mesh = Mesh::parse(EXAMPLE).unwrap();
    assert_eq!(mesh.nodes["one"], "10.77.0.1".parse::<IpAddr>().unwrap());
    let client = mesh.pod("client").unwrap();
    assert_eq!((client.namespace.as_str(), client.service_account.as_str()), ("default", "default"));
    assert_eq!((client.app.as_str(), client.captured, client.protocol), ("client", true, Protocol::Hbone));
    assert_eq!(client.workload_uid(), "Kubernetes//Pod/default/client");
    assert_eq!(client.spiffe_id(), "spiffe://cluster.local/ns/default/sa/default");
    assert_eq!(mesh.pod("shop/web-1").unwrap().run, ["http 8080 hello"]);
    assert_eq!(mesh.pod("bare").unwrap().protocol, Protocol::Tcp, "nobody ends a tunnel for it");
    let all = mesh.pod("all").unwrap();
    assert_eq!((all.ips.len(), all.run.len(), all.announce.status), (2, 2, Status::Unhealthy));
    assert_eq!(all.spiffe_id(), "spiffe://other.example/ns/shop/sa/default");
    let [web, mixed, headless] = mesh.services.as_slice() else { panic!() };
    assert_eq!(
        (web.hostname.as_str(), web.endpoints.as_slice()),
        ("web.shop.svc.cluster.local", &[1, 3][..])
    );
    assert_eq!(web.vips.len(), 1);
    let vips: Vec<_> = mixed.vips.iter().map(|v| format!("{}/{}", v.network, v.addresses)).collect();
    assert_eq!(vips, ["/10.96.0.9/32", "remote/10.96.0.10/32", "/10.97.0.0/16"]);
    assert_eq!((mixed.endpoints.as_slice(), headless.vips.len()), (&[0, 1][..], 0));
    let [only_client, web_only] = mesh.policies.as_slice() else { panic!() };
    assert_eq!((only_client.scope, only_client.rules.len()), (Scope::Namespace, 2));
    assert_eq!(only_client.rules[1].from[1].ip_blocks.any.len(), 2);
    assert_eq!((web_only.scope, web_only.pods.as_slice()), (Scope::Workload, &[1, 3][..]));
    assert_eq!(web_only.rules[0].to[0].ports.none, [8080]);
    assert_eq!(mesh.pods_of("two").count(), 3);
}

#[test]
fn every_problem_is_named_at_once_with_its_line() {
    let found = problems(
        "nodes:
  one: 10.77.0.1
  two: 10.77.0.999
pods:
  - {name: a, node: three}
  - {name: a, node: one, ip: 10.77.0.1}
  - {name: Upper, node: one}
  - {name: b, waypoint: nowhere}
  - {name: c, node: one, ip: 10.77.0.254}
services:
  - {name: web, ports: {0: 1}, endpoints: [ghost], vips: [ten]}
policies:
  - {name: p, action: ALLOW, scope: workload, rules: [{from: {principals: ['spiffe://x/ns/a/sa/b']}}]}
  - {name: p, action: DENY, rules: [{from: {serviceAccounts: [x], ipBlocks: [y]}}]}
strict: [nowhere]
",
    );
    let want = [
        "3: node two: ip \"10.77.0.999\": invalid IP address syntax",
        "5: pod default/a: there is no node \"three\"",
        "6: pod default/a: the address 10.77.0.1 is taken",
        "6: pod default/a: is on line 5 already",
        "7: pod default/Upper: name \"Upper\" is not 1 to 63 lower-case letters, digits and inner hyphens",
        "8: pod default/b: says no node, and there is not exactly one",
        "8: pod default/b: waypoint \"nowhere\": \"nowhere\" is neither namespace/hostname, address nor network/address, each with or without :port",
        "9: pod default/c: the address 10.77.0.254 is taken",
        "11: service default/web: 0 is no service port",
        "11: service default/web: vip \"ten\" is neither address, address/length nor network/address",
        "11: service default/web: there is no pod \"ghost\", or more than one",
        "13: policy default/p: app and pods go with the scope workload, and it with them",
        "13: policy default/p: principal \"spiffe://x/ns/a/sa/b\" can never match: leave out spiffe://",
        "14: policy default/p: service account \"x\" is not namespace/account",
        "14: policy default/p: address block \"y\": invalid IP address syntax",
        "14: policy default/p: is on line 13 already",
        "15: strict: no pod is in the namespace \"nowhere\"",
    ];
    assert_eq!(found, want);
}

#[test]
fn unknown_keys_and_wrong_kinds_name_their_line() {
    for (text, key, line) in [
        ("nodes: {one: }\npods:\n  - name: a\n    knode: one\n", "knode", 4),
        ("nodes: {one: }\nservice: []\n", "service", 2),
        ("policies:\n  - {name: a, action: ALLOW, rules: [{from: {namespace: [x]}}]}\n", "namespace", 2),
        ("policies:\n  - name: a\n    action: PERHAPS\n", "PERHAPS", 3),
        ("services:\n  - name: a\n    ports: {80: 99999}\n", "99999", 3),
        ("pods:\n  - {name: a, name: b}\n", "name", 2),
        ("pods: [", "", 1),
    ] {
        let error = Mesh::parse(text).unwrap_err();
        assert!(matches!(error, MeshFileError::Yaml(_)), "{error}");
        let shown = error.to_string();
        assert!(shown.contains(key) && shown.contains(&format!("{line}:")), "{shown}");
    }
}

#[test]
fn chosen_addresses_do_not_depend_on_what_stands_around() {
    let of = |text: &str, pod: &str| Mesh::parse(text).unwrap().pod(pod).unwrap().ips[0];
    let alone = of("nodes: {n: }\npods: [{name: web}]", "web");
    let among =
        of("nodes: {n: , m: }\npods: [{name: a, node: n}, {name: web, node: m}, {name: z, node: n}]", "web");
    assert_eq!(alone, among);
    // The chosen address gives way to a host that states the same address.
    let taken = format!("nodes: {{n: }}\npods: [{{name: web}}, {{name: first, ip: {alone}}}]");
    assert_ne!(of(&taken, "web"), alone);
    assert_eq!(alone.to_string(), "10.77.72.97", "and never changes from version to version");
}

#[test]
fn a_thousand_pods_get_a_thousand_addresses() {
    let pods: String = (0..1000).map(|i| format!("  - name: p-{i}\n")).collect();
    let mesh = Mesh::parse(&format!("nodes: {{n: }}\npods:\n{pods}")).unwrap();
    let ips: std::collections::HashSet<_> = mesh.pods.iter().flat_map(|pod| &pod.ips).collect();
    let uids: std::collections::HashSet<_> = mesh.pods.iter().map(Pod::kubernetes_uid).collect();
    assert_eq!((ips.len(), uids.len()), (1000, 1000));
    assert_eq!(mesh.pods[0].kubernetes_uid().len(), 36);
}

#[test]
fn an_empty_file_is_an_empty_mesh_and_a_missing_one_is_named() {
    assert_eq!(Mesh::parse("# nothing yet\n").unwrap(), Mesh::default());
    let error = Mesh::read(Path::new("/nonexistent/mesh.yaml")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read /nonexistent/mesh.yaml"), "{error}");
}

#[test]
fn a_pod_name_that_two_namespaces_have_needs_its_namespace() {
    let mesh = Mesh::parse("nodes: {n: }\npods: [{name: a}, {name: a, namespace: b}]").unwrap();
    assert!(mesh.pod("a").is_none() && mesh.pod("b/a").is_some() && mesh.pod("c/a").is_none());
}

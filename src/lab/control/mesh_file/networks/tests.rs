use crate::lab::control::mesh_file::{Mesh, MeshFileError};

const PODS: &str = "
nodes: {one: , two: , three: }
pods:
  - {name: near, node: one, ip: 10.77.1.1, app: web}
  - {name: far, node: two, serviceAccount: far, ip: 10.77.2.1, app: web}
  - {name: odd, node: two, ip: 10.77.2.2, announce: {network: n3, networkGateway: n3/10.77.3.9}}
  - {name: gateway, node: two, ip: 10.77.2.9, captured: false}
services:
  - {name: web, ports: {80: 9000}, app: web, vips: [10.96.0.1, other/10.96.0.2]}
  - {name: gws, ports: {15009: 15008}, endpoints: [gateway]}
";

fn parse(networks: &str) -> Result<Mesh, Vec<String>> {
    Mesh::parse(&format!("{PODS}networks:\n{networks}")).map_err(|error| match error {
        MeshFileError::Invalid(problems) => problems.0.into_iter().map(|problem| problem.what).collect(),
        other => vec![other.to_string()],
    })
}

#[test]
fn the_pods_of_a_network_get_its_name_and_gateway_and_services_are_known_on_all() {
    for (gateway, want) in [
        ("n2/10.77.2.9", "n2/10.77.2.9:15008"),
        ("default/gws.default.svc.cluster.local:15009", "default/gws.default.svc.cluster.local:15009"),
    ] {
        let mesh = parse(&format!("  - {{name: n2, nodes: [two], gateway: {gateway}}}")).unwrap();
        let announced = |name: &str| {
            let announce = &mesh.pod(name).unwrap().announce;
            (announce.network.clone(), announce.network_gateway.clone())
        };
        assert_eq!(announced("near"), (String::new(), None));
        assert_eq!(announced("far"), ("n2".into(), Some(want.into())));
        assert_eq!(announced("odd"), ("n3".into(), Some("n3/10.77.3.9".into())), "its own words");
        assert_eq!(announced("gateway"), ("n2".into(), None), "a gateway is behind none");
        let web = &mesh.services[0];
        let vips: Vec<_> = web.vips.iter().map(|v| format!("{}/{}", v.network, v.addresses.addr())).collect();
        assert_eq!(vips, ["/10.96.0.1", "other/10.96.0.2", "n2/10.96.0.1"]);
        let far = "spiffe://cluster.local/ns/default/sa/far";
        assert!(web.subject_alt_names.iter().any(|san| san == far), "{:?}", web.subject_alt_names);
        assert_eq!(mesh.network_of("two"), "n2");
        assert_eq!(mesh.network_of("one"), "");
    }
}

#[test]
fn each_problem_of_a_network_is_named() {
    for (networks, want) in [
        ("  - {name: n2, nodes: [four]}", "network n2: there is no node \"four\""),
        ("  - {name: '', nodes: []}", "network : the name is not letters, digits and hyphens"),
        ("  - {name: n2, nodes: []}\n  - {name: n2, nodes: []}", "there is another network of that name"),
        (
            "  - {name: n2, nodes: [one]}\n  - {name: n3, nodes: [one]}",
            "\"one\" is on another network already",
        ),
        ("  - {name: n2, nodes: [two], gateway: nobody}", "gateway \"nobody\": \"nobody\" is neither"),
        (
            "  - {name: n2, nodes: [two], gateway: n2/10.77.9.9}",
            "gateway n2/10.77.9.9:15008 is neither a pod nor a service with pods",
        ),
        (
            "  - {name: n2, nodes: [two], gateway: default/nowhere}",
            "gateway default/nowhere:15008 is neither a pod nor a service with pods",
        ),
    ] {
        let problems = parse(networks).unwrap_err();
        assert!(problems.len() == 1 && problems[0].contains(want), "{networks}: {problems:?}");
    }
}

use super::*;

#[test]
fn the_mesh_has_everybody_and_the_marker() {
    let mesh = Mesh::parse(MESH).unwrap();
    let cast = DemoPods::of(&mesh).unwrap();
    assert_eq!((mesh.pods.len(), mesh.nodes.len()), (5, 2));
    assert!(!cast.stranger.captured && cast.client.captured);
    assert_eq!(cast.client.identity, "spiffe://cluster.local/ns/front/sa/client");
    for server in &cast.servers {
        let pod = mesh.pod(&server.full_name).unwrap();
        assert!(pod.run.iter().any(|run| run == &format!("http {WEB} {MARKER}")));
        assert!(pod.run.iter().any(|run| run == &format!("echo {ECHO}")));
    }
    let namespaces: std::collections::BTreeSet<&str> =
        mesh.pods.iter().map(|pod| pod.namespace.as_str()).collect();
    assert_eq!(namespaces.len(), 2);
    assert_eq!(cast.lines().len(), 3);
}

#[test]
fn another_mesh_is_refused_with_what_it_lacks() {
    let error = DemoPods::of(&Mesh::default()).unwrap_err();
    assert_eq!(error.to_string(), "the demo's mesh has no front/client");
}

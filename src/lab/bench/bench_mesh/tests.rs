use super::*;

#[test]
fn every_layout_is_a_mesh_of_its_pods() {
    for layout in [Layout::Pair, Layout::OneNode, Layout::Neighbours] {
        for captured in [true, false] {
            let mesh = layout.mesh(captured).unwrap();
            assert_eq!(mesh.pods.len(), layout.pods().len());
            assert!(mesh.pods.iter().all(|pod| pod.captured == captured && pod.namespace == "bench"));
        }
    }
}

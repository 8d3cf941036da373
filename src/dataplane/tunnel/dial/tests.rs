use super::*;

fn size<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

/// A tunnel keeps them for as long as it lives. The first is held twice by the task around it.
#[test]
fn futures_of_tunnels_stay_small() {
    let sizes = [("dial", size(run::<PodNetwork>), 600), ("tunnel", size(carry::<PodNetwork>), 1700)];
    for (name, size, most) in sizes {
        assert!(size <= most, "the future of a {name} has {size} bytes, more than {most}");
    }
}

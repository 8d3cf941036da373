//! Which hops may be joined, one case a line.

use crate::protocols::mesh::fixtures::{TestMesh, addr, ip, pod};
use crate::protocols::route::{Source, is_between_pods};

#[test]
fn only_a_pod_asked_for_itself_by_a_pod_that_speaks_as_itself_may_be_joined() {
    let t = TestMesh::new()
        .with(pod("client", "10.0.0.99 fd00::99").hbone().local())
        .with(pod("server", "10.0.0.1 10.0.0.2 fd00::1").hbone().local());
    let cases = [
        ("10.0.0.99", "10.0.0.1:15008", "10.0.0.1:80", true),
        ("10.0.0.99", "10.0.0.2:15008", "10.0.0.2:15008", true),
        ("fd00::99", "[fd00::1]:15008", "[fd00::1]:80", true),
        // A waypoint, by another's address or by name.
        ("10.0.0.99", "10.0.0.1:15008", "10.0.0.7:80", false),
        ("10.0.0.99", "10.0.0.1:15008", "10.0.0.2:80", false),
        ("10.0.0.99", "10.0.0.1:15008", "web.example:80", false),
        // A gateway, or something else that is no proxy of pods.
        ("10.0.0.99", "10.0.0.1:15009", "10.0.0.1:80", false),
        // An address that is not the destination's.
        ("10.0.0.99", "10.0.0.3:15008", "10.0.0.3:80", false),
        // A client that speaks from an address its tunnels would not come from.
        ("10.0.0.98", "10.0.0.1:15008", "10.0.0.1:80", false),
        ("fd00::99", "10.0.0.1:15008", "10.0.0.1:80", false),
        ("10.0.0.99", "[fd00::1]:15008", "[fd00::1]:80", false),
    ];
    for (client, to, authority, want) in cases {
        let source = Source { workload: &t.pod("client"), client: ip(client) };
        let got = is_between_pods(&source, &t.pod("server"), addr(to), &authority.parse().unwrap());
        assert_eq!(got, want, "{client} to {to} for {authority}");
    }
}

//! The enrolment rule on a virtual clock.

use std::collections::BTreeSet;

use super::*;
use crate::protocols::mesh::fixtures::{NAMESPACE, NODE, Wl, pod};

/// The rule, the clock, and the pods that are handed over.
struct World {
    rule: Enrolment,
    now: Instant,
    workloads: Vec<Arc<Workload>>,
    served: BTreeSet<&'static str>,
    current: bool,
}

impl World {
    fn new(workloads: impl IntoIterator<Item = Wl>) -> Self {
        Self {
            rule: Enrolment::new(place()),
            now: Instant::now(),
            workloads: workloads.into_iter().map(|workload| Arc::new(workload.decode())).collect(),
            served: BTreeSet::new(),
            current: true,
        }
    }

    /// Looks every second until `seconds` have passed, and returns what has changed, with the second.
    fn run(&mut self, seconds: u64) -> Vec<(u64, String)> {
        let mut seen = Vec::new();
        for second in 0..=seconds {
            let at = self.now + Duration::from_secs(second);
            let served = |workload: &Workload| self.served.contains(workload.name());
            let changes = self.rule.look(at, &self.workloads, self.current, served);
            seen.extend(changes.into_iter().map(|change| (second, text(&change))));
        }
        self.now += Duration::from_secs(seconds);
        seen
    }
}

fn place() -> ProxyPlace {
    ProxyPlace {
        node: NODE.to_owned(),
        cluster_id: "Kubernetes".to_owned(),
        account: Some((NAMESPACE.to_owned(), "sa-proxy".to_owned())),
    }
}

fn text(change: &Change) -> String {
    match change {
        Change::Missing(workload) => format!("missing {}", workload.name()),
        Change::HandedOver(workload) => format!("handed over {}", workload.name()),
        Change::Gone(uid) => format!("gone {uid}"),
    }
}

fn web() -> Wl {
    pod("web", "10.0.0.1").local().hbone()
}

fn seen(list: &[(u64, &str)]) -> Vec<(u64, String)> {
    list.iter().map(|(second, text)| (*second, (*text).to_owned())).collect()
}

#[test]
fn a_pod_is_named_after_its_time_and_until_it_is_handed_over() {
    let mut world = World::new([web()]);
    assert_eq!(world.run(30), seen(&[(10, "missing web")]));
    world.served.insert("web");
    assert_eq!(world.run(30), seen(&[(0, "handed over web")]));
}

#[test]
fn a_pod_that_is_handed_over_in_time_is_never_named() {
    let mut world = World::new([web()]);
    assert_eq!(world.run(9), []);
    world.served.insert("web");
    assert_eq!(world.run(100), []);
}

#[test]
fn a_named_pod_that_goes_or_leaves_the_mesh_is_named_no_more() {
    let gone = seen(&[(0, &format!("gone Kubernetes//Pod/{NAMESPACE}/web"))]);
    for after in [vec![], vec![pod("web", "10.0.0.1").local()]] {
        let mut world = World::new([web()]);
        assert_eq!(world.run(10), seen(&[(10, "missing web")]));
        world.workloads = World::new(after).workloads;
        assert_eq!(world.run(10), gone);
    }
}

#[test]
fn a_pod_that_is_being_removed_has_longer() {
    let mut world = World::new([web()]);
    world.served.insert("web");
    assert_eq!(world.run(1), []);
    world.served.clear();
    assert_eq!(world.run(59), []);
    // istio-cni has taken back a pod that stays.
    assert_eq!(world.run(1), seen(&[(1, "missing web")]));

    let mut world = World::new([web()]);
    world.served.insert("web");
    assert_eq!(world.run(1), []);
    world.served.clear();
    world.workloads.clear();
    assert_eq!(world.run(100), []);
    // A later pod of the same name has no past.
    world.workloads = World::new([web()]).workloads;
    assert_eq!(world.run(10), seen(&[(10, "missing web")]));
}

#[test]
fn nobody_is_named_while_the_tables_or_the_hand_over_are_not_current() {
    let mut world = World::new([web()]);
    world.current = false;
    assert_eq!(world.run(100), []);
    world.current = true;
    assert_eq!(world.run(9), []);
    world.current = false;
    assert_eq!(world.run(1), []);
    world.current = true;
    assert_eq!(world.run(9), []);
    assert_eq!(world.run(1), seen(&[(1, "missing web")]));
    // The name stays while nobody can tell.
    world.current = false;
    assert_eq!(world.run(100), []);
}

#[test]
fn only_pods_that_istio_cni_hands_over_to_this_proxy_are_expected() {
    let cases = [
        ("a pod of the mesh", web(), true),
        ("a sandwiched waypoint, which is redirected", web().tunnel(true, 15088), true),
        ("a pod that is not ready", web().unhealthy(), true),
        ("a pod outside of the mesh", pod("web", "10.0.0.1").local(), false),
        ("a waypoint or gateway that speaks HBONE itself", web().edit(|pb| pb.native_tunnel = true), false),
        ("a pod in the host's network", web().host_network(), false),
        ("a pod of another node", web().node("node-2"), false),
        ("a pod of another cluster", web().edit(|pb| pb.cluster_id = "other".to_owned()), false),
        ("a workload entry", web().uid("Kubernetes/networking.istio.io/WorkloadEntry/ns1/web"), false),
        ("a proxy", web().edit(|pb| pb.service_account = "sa-proxy".to_owned()), false),
    ];
    for (what, workload, expected) in cases {
        assert_eq!(place().expects(&workload.decode()), expected, "{what}");
    }
}

#[test]
fn no_more_pods_are_followed_than_may_be_handed_over() {
    let pods = (0..MAX_EXPECTED_PODS + 5).map(|n| pod(&format!("p{n:05}"), "10.0.0.1").local().hbone());
    let mut world = World::new(pods);
    assert_eq!(world.run(10).len(), MAX_EXPECTED_PODS);
}

//! What pushes do to the tables.

use std::{collections::BTreeSet, sync::Arc};

use proptest::{collection::vec, prelude::*, sample::select};

use crate::protocols::mesh::{
    CHANGES_PER_TURN, Change, Mesh, ServiceName,
    fixtures::{TestMesh, Wl, ip, pod, service},
    push_order,
};

const WEB: &str = "web.ns1.svc.cluster.local";

/// The names of all endpoints of [`WEB`], whether it is known or not.
fn staged(mesh: &Mesh) -> Vec<String> {
    let all = mesh.all_endpoints();
    let mut names: Vec<String> = all
        .iter()
        .filter(|endpoints| endpoints.service().hostname() == WEB)
        .flat_map(|endpoints| endpoints.workloads().iter().map(|workload| workload.name().to_owned()))
        .collect();
    names.sort();
    names
}

/// The names of those endpoints of [`WEB`] it would use.
fn usable(mesh: &Mesh) -> Vec<String> {
    let Some(service) = mesh.service("ns1", WEB) else { return Vec::new() };
    let Some(endpoints) = mesh.endpoints(&service) else { return Vec::new() };
    let admitted = endpoints.workloads().iter().filter(|workload| service.admits(workload));
    let mut names: Vec<String> = admitted.map(|workload| workload.name().to_owned()).collect();
    names.sort();
    names
}

fn web(name: &str) -> Wl {
    pod(name, "10.0.0.1").of(WEB, &[])
}

fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/ns1/{name}")
}

#[test]
fn endpoints_may_come_before_their_service() {
    let mut t = TestMesh::new().with(web("a")).with(web("b"));
    assert_eq!((staged(&t.mesh), usable(&t.mesh).len()), (vec!["a".into(), "b".into()], 0));
    t.remove(&uid("b"));
    t.put(service(WEB, "10.1.0.1"));
    assert_eq!(usable(&t.mesh), ["a"]);
    t.remove(&uid("a"));
    assert!(usable(&t.mesh).is_empty() && t.mesh.all_endpoints().is_empty());
}

#[test]
fn endpoints_survive_their_service() {
    let mut t = TestMesh::new().with(service(WEB, "10.1.0.1")).with(web("a"));
    assert_eq!(t.remove(&format!("ns1/{WEB}")).removed, 1);
    assert!(t.mesh.service_by_vip("", ip("10.1.0.1"), "ns1").is_none() && usable(&t.mesh).is_empty());
    t.put(service(WEB, "10.1.0.1"));
    assert_eq!(usable(&t.mesh), ["a"]);
}

#[test]
fn a_health_policy_may_change_at_any_time() {
    let mut t = TestMesh::new().with(service(WEB, "")).with(web("a")).with(web("b").unhealthy());
    assert_eq!(usable(&t.mesh), ["a"]);
    t.put(service(WEB, "").allow_all());
    assert_eq!(usable(&t.mesh), ["a", "b"]);
    t.put(service(WEB, ""));
    assert_eq!(usable(&t.mesh), ["a"]);
    t.put(web("a").unhealthy());
    t.put(web("b"));
    assert_eq!(usable(&t.mesh), ["b"]);
}

#[test]
fn a_workload_that_changes_leaves_nothing_behind() {
    let mut t = TestMesh::new().with(service(WEB, "")).with(web("a").hostname("a.example").local());
    let info = crate::protocols::mesh::WorkloadInfo {
        name: "a".into(),
        namespace: "ns1".into(),
        service_account: "sa-a".into(),
    };
    assert!(t.mesh.local_workload(&info).is_some());
    t.put(pod("a", "10.0.0.2").of("other", &[]));
    assert!(t.mesh.workload_by_ip("", ip("10.0.0.1")).is_none());
    assert!(t.mesh.workload_by_ip("", ip("10.0.0.2")).is_some());
    assert!(t.mesh.workload_by_hostname(&ServiceName::new("ns1", "a.example")).is_none());
    assert!(t.mesh.local_workload(&info).is_none());
    assert!(usable(&t.mesh).is_empty());
    assert_eq!((t.mesh.workload_count(), t.mesh.service_count()), (1, 1));
    t.remove(&uid("a"));
    assert!(t.mesh.workload_by_ip("", ip("10.0.0.2")).is_none());
    assert_eq!((t.mesh.workload_count(), t.mesh.all_workloads().len()), (0, 0));
}

#[test]
fn removal_names_mean_a_uid_first_then_a_service_else_nothing() {
    let mut t = TestMesh::new()
        .with(service("h", ""))
        .with(pod("a", "10.0.0.1").uid("ns1/h"))
        .with(service("h2", ""));
    assert_eq!(t.remove("ns1/h").removed, 1);
    assert_eq!((t.mesh.workload_count(), t.mesh.service_count()), (0, 2));
    assert_eq!(t.remove("ns1/h").removed, 1);
    for unknown in ["ns1/h", "Kubernetes//Pod/ns1/zzz", "nothing", "", "ns1/h2/x"] {
        assert_eq!(t.remove(unknown).removed, 0, "{unknown}");
    }
    assert_eq!(t.mesh.service_count(), 1);
}

#[test]
fn changes_count_in_their_order() {
    let mut t = TestMesh::new().with(service(WEB, "")).with(web("a"));
    let workload = |w: Wl| Change::Workload(w.decode());
    t.writer.apply([Change::Remove(uid("a").into()), workload(web("a").capacity(5))].into_iter());
    assert_eq!(usable(&t.mesh), ["a"]);
    assert_eq!(t.pod("a").capacity(), 5);
    t.writer.apply([workload(web("a").capacity(6)), Change::Remove(uid("a").into())].into_iter());
    assert!(usable(&t.mesh).is_empty());
    t.writer.apply([workload(web("b")), Change::Remove(uid("b").into()), workload(web("b"))].into_iter());
    assert_eq!(usable(&t.mesh), ["b"]);
}

#[test]
fn a_push_that_removes_what_it_brings_keeps_it() {
    let mut t = TestMesh::new().with(service(WEB, "")).with(web("a")).with(web("b"));
    let updates = vec![web("a").capacity(9).into(), service(WEB, "10.1.0.1").into()];
    let removals = vec![uid("a"), uid("b"), format!("ns1/{WEB}")];
    t.writer.apply(push_order(updates, removals));
    assert_eq!(usable(&t.mesh), ["a"]);
    assert_eq!(t.pod("a").capacity(), 9);
}

#[test]
fn what_is_pushed_again_as_it_was_changes_nothing() {
    let mut t = TestMesh::new().with(web("a").local().hbone()).with(service(WEB, "10.1.0.1 10.2.0.0/16"));
    let (workload, service_before) = (t.pod("a"), t.mesh.service("ns1", WEB).unwrap());
    let applied = t.put(web("a").local().hbone());
    assert_eq!(applied, crate::protocols::mesh::Applied::default());
    assert_eq!(t.put(service(WEB, "10.1.0.1 10.2.0.0/16")).services, 0);
    assert!(Arc::ptr_eq(&workload, &t.pod("a")));
    assert!(Arc::ptr_eq(&service_before, &t.mesh.service("ns1", WEB).unwrap()));
}

#[test]
fn a_slice_builds_the_endpoints_of_a_service_once() {
    let mut t = TestMesh::new();
    let mut changes = (0..CHANGES_PER_TURN + 10).map(|n| web(&format!("w{n}")).into());
    t.writer.apply(changes.by_ref().take(CHANGES_PER_TURN));
    let first = t.mesh.all_endpoints();
    assert_eq!((first.len(), first[0].workloads().len()), (1, CHANGES_PER_TURN));
    t.writer.apply(changes);
    assert_eq!(first[0].workloads().len(), CHANGES_PER_TURN, "what a reader holds does not change");
    assert_eq!(t.mesh.all_endpoints()[0].workloads().len(), CHANGES_PER_TURN + 10);
}

#[test]
fn a_writer_that_dies_in_the_middle_of_a_push_is_replaced() {
    let mut t = TestMesh::new().with(service(WEB, ""));
    let changes = [Some(web("a")), None].into_iter().map(|w| Change::from(w.expect("bad input")));
    let apply = std::panic::AssertUnwindSafe(|| t.writer.apply(changes));
    assert!(std::panic::catch_unwind(apply).is_err());
    let mut t = TestMesh { writer: t.mesh.writer(), mesh: t.mesh };
    t.put(web("b"));
    assert_eq!(usable(&t.mesh), ["a", "b"]);
}

#[test]
fn identities_of_the_own_node_appear_with_the_first_tunnel_and_vanish_with_the_last_workload() {
    let text = |list: &[crate::protocols::identity::Identity]| -> Vec<String> {
        list.iter().map(|identity| identity.service_account().to_owned()).collect()
    };
    let sa = |w: Wl| w.edit(|pb| pb.service_account = "sa".into());
    let mut t = TestMesh::new();
    let check = |applied: crate::protocols::mesh::Applied,
                 appeared: &[&str],
                 vanished: &[&str],
                 local: bool,
                 step: &str| {
        assert_eq!(text(&applied.identities_appeared), appeared, "{step}");
        assert_eq!(text(&applied.identities_vanished), vanished, "{step}");
        assert_eq!(applied.local_changed, local, "{step}");
    };
    check(t.put(sa(pod("far", "10.0.0.9").hbone())), &[], &[], false, "another node");
    check(t.put(sa(pod("a", "10.0.0.1").local())), &[], &[], true, "no tunnel");
    check(t.put(sa(pod("b", "10.0.0.2").local().hbone())), &["sa"], &[], true, "first tunnel");
    check(t.put(sa(pod("c", "10.0.0.3").local().hbone())), &[], &[], true, "second tunnel");
    check(t.put(sa(pod("c", "10.0.0.4").local().hbone())), &[], &[], true, "changed");
    check(t.remove(&uid("b")), &[], &[], true, "one removed");
    check(t.remove(&uid("c")), &[], &[], true, "last tunnel removed");
    check(t.remove(&uid("a")), &[], &["sa"], true, "last one removed");
    check(t.remove(&uid("far")), &[], &[], false, "another node removed");
    let native = |w: Wl| w.edit(|pb| pb.native_tunnel = true);
    check(t.put(native(sa(pod("d", "10.0.0.5").local()))), &["sa"], &[], true, "native tunnel");
    check(t.put(native(pod("d", "10.0.0.5").local())), &["sa-d"], &["sa"], true, "another account");
    check(t.put(native(pod("d", "10.0.0.5").node("elsewhere"))), &[], &["sa-d"], true, "moved away");
    let both = [Change::from(sa(pod("e", "10.0.0.6").local().hbone())), Change::Remove(uid("e").into())];
    check(t.writer.apply(both.into_iter()), &[], &[], true, "came and went in one slice");
    let mut nameless = TestMesh::on_node(None);
    check(nameless.put(pod("a", "10.0.0.1").local().hbone()), &[], &[], true, "no own node");
}

#[test]
fn slices_of_a_push_add_up() {
    let mut t = TestMesh::new();
    let mut sum = t.put(pod("a", "10.0.0.1").local().hbone());
    sum.merge(t.put(pod("b", "10.0.0.2").local().hbone()));
    sum.merge(t.remove(&uid("a")));
    sum.merge(t.put(service(WEB, "")));
    let names: Vec<_> = sum.identities_appeared.iter().map(|identity| identity.service_account()).collect();
    assert_eq!(names, ["sa-b"]);
    assert_eq!(sum.identities_vanished.len(), 1);
    assert_eq!((sum.workloads, sum.services, sum.removed, sum.local_changed), (2, 1, 1, true));
}

#[test]
fn replicas_share_their_parts_and_unused_parts_go() {
    let deployment = |n: usize, of: usize| {
        pod(&format!("w{n}"), "").edit(|pb| {
            pb.service_account = format!("sa{of}");
            pb.canonical_name = format!("app{of}");
            pb.workload_name = format!("app{of}");
        })
    };
    let mut t = TestMesh::new();
    t.writer.apply((0..5000).map(|n| deployment(n, n % 50).into()));
    assert_eq!(t.mesh.interned(), (50, 1, 50));
    for round in 0..4 {
        t.writer.apply((0..5000).map(|n| deployment(n, 100 + round * 5000 + n).into()));
    }
    let (templates, places, identities) = t.mesh.interned();
    assert!(templates < 13_000 && identities < 13_000 && places == 1, "{templates} {identities}");
    t.writer.apply((0..5000).map(|n| Change::Remove(uid(&format!("w{n}")).into())));
    let (templates, ..) = t.mesh.interned();
    assert!(templates <= 2 * 1024, "{templates} of nothing");
}

#[test]
fn pods_that_are_their_own_owners_share_a_template() {
    let bare = |n: usize| {
        pod(&format!("w{n}"), "").edit(|pb| {
            pb.service_account = "sa".into();
            pb.canonical_name = pb.name.clone();
            pb.workload_name = pb.name.clone();
        })
    };
    let mut t = TestMesh::new();
    t.writer.apply((0..100).map(|n| bare(n).into()));
    assert_eq!(t.mesh.interned(), (1, 1, 1));
    let seven = t.mesh.workload(&uid("w7")).unwrap();
    assert_eq!((seven.canonical_name(), seven.workload_name()), ("w7", "w7"));
}

/// A small world in which changes collide often.
#[derive(Clone, Debug)]
enum Op {
    Workload { n: u8, ip: u8, network: bool, services: Vec<u8>, variant: u8 },
    Service { n: u8, namespace: u8, vip: u8, cidr: u8, canonical: bool },
    RemoveWorkload(u8),
    RemoveService(u8, u8),
}

impl Op {
    fn change(&self) -> Change {
        match self {
            Self::Workload { n, ip, network, services, variant } => {
                let mut workload = pod(&format!("w{n}"), &format!("10.0.0.{ip}"));
                for service in services {
                    workload = workload.of(&format!("s{service}"), &[(80, 80 + u32::from(*variant))]);
                }
                workload = if *network { workload.network("n2") } else { workload };
                match variant {
                    0 => workload.hbone(),
                    1 => workload.local().hbone(),
                    2 => workload.host_network(),
                    3 => workload.unhealthy(),
                    _ => workload.uid(&format!("entry/{n}")),
                }
                .into()
            }
            Self::Service { n, namespace, vip, cidr, canonical } => {
                let made = service(&format!("s{n}"), &format!("10.1.0.{vip} 10.2.0.0/{cidr}"))
                    .namespace(&format!("ns{namespace}"));
                if *canonical { made.canonical().into() } else { made.into() }
            }
            Self::RemoveWorkload(n) => Change::Remove(uid(&format!("w{n}")).into()),
            Self::RemoveService(n, namespace) => Change::Remove(format!("ns{namespace}/s{n}").into()),
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let workload = (0..12_u8, 1..6_u8, any::<bool>(), vec(0..4_u8, 0..3), 0..5_u8)
        .prop_map(|(n, ip, network, services, variant)| Op::Workload { n, ip, network, services, variant });
    let service = (0..4_u8, 1..3_u8, 1..4_u8, select(vec![8, 16, 24]), any::<bool>())
        .prop_map(|(n, namespace, vip, cidr, canonical)| Op::Service { n, namespace, vip, cidr, canonical });
    prop_oneof![
        4 => workload,
        2 => service,
        1 => (0..12_u8).prop_map(Op::RemoveWorkload),
        1 => (0..4_u8, 1..3_u8).prop_map(|(n, namespace)| Op::RemoveService(n, namespace)),
    ]
}

/// Everything lookups tell, in a form that does not depend on the order in which things came.
fn image(mesh: &Mesh) -> BTreeSet<String> {
    let mut image = BTreeSet::new();
    for workload in mesh.all_workloads() {
        image.insert(format!("{workload:?}"));
    }
    for endpoints in mesh.all_endpoints() {
        let mut uids: Vec<&str> = endpoints.workloads().iter().map(|workload| workload.uid()).collect();
        uids.sort_unstable();
        image.insert(format!("{} {uids:?} {}", endpoints.service(), endpoints.top_capacity()));
    }
    for last in 0..8 {
        for network in ["", "n2"] {
            let found = mesh.workload_by_ip(network, ip(&format!("10.0.0.{last}")));
            image.insert(format!("{network}/{last}: {:?}", found.map(|workload| workload.claim())));
        }
        for namespace in ["ns1", "ns2", "ns3"] {
            for net in [format!("10.1.0.{last}"), format!("10.2.{last}.1")] {
                let found = mesh.service_by_vip("", ip(&net), namespace);
                image.insert(format!(
                    "{net} {namespace}: {:?}",
                    found.map(|service| service.key().to_string())
                ));
            }
            let hosts = mesh.services_by_host(&format!("s{last}"), namespace);
            let hosts: Vec<&str> = hosts.iter().map(|service| service.key().as_str()).collect();
            image.insert(format!("s{last} {namespace}: {hosts:?}"));
        }
    }
    image.insert(format!("{} {}", mesh.workload_count(), mesh.service_count()));
    image
}

proptest! {
    #[test]
    fn slices_in_any_order_equal_a_rebuild(ops in vec(op(), 0..60), cuts in vec(1..9_usize, 1..9)) {
        let mut t = TestMesh::new();
        let mut changes = ops.iter().map(Op::change);
        let mut cuts = cuts.iter().cycle();
        let mut left = ops.len();
        while left > 0 {
            let slice = *cuts.next().unwrap();
            t.writer.apply(changes.by_ref().take(slice));
            left = left.saturating_sub(slice);
        }
        let mut rebuilt = TestMesh::new();
        for service in t.mesh.all_services() {
            rebuilt.writer.apply([Change::Service(service)].into_iter());
        }
        rebuilt.writer.apply(t.mesh.all_workloads().iter().map(|w| Change::Workload((**w).clone())));
        prop_assert_eq!(image(&t.mesh), image(&rebuilt.mesh));
    }
}

#[test]
fn an_answer_about_policies_counts_for_keys_that_were_named_before_it() {
    let naming = |name: &str, keys: &[&str]| {
        pod(name, "10.0.0.9").local().edit(|pb| {
            pb.authorization_policies = keys.iter().map(|key| (*key).into()).collect();
        })
    };
    let mut mesh = TestMesh::new();
    mesh.put(naming("a", &["ns/early"]));
    assert!(!mesh.mesh.has_answered("ns/early"));
    mesh.mesh.writer().answered_policies();
    assert!(mesh.mesh.has_answered("ns/early"));
    // Another workload that names it, and a change of the first, take nothing back.
    mesh.put(naming("b", &["ns/early", "ns/late"]));
    mesh.put(naming("a", &["ns/early", "ns/late"]));
    assert!(mesh.mesh.has_answered("ns/early") && !mesh.mesh.has_answered("ns/late"));
    mesh.mesh.writer().answered_policies();
    assert!(mesh.mesh.has_answered("ns/late"));
    // A key that nobody names any more is forgotten.
    mesh.put(naming("a", &[]));
    assert!(mesh.mesh.has_answered("ns/late"));
    mesh.put(naming("b", &[]));
    assert_eq!((mesh.mesh.has_answered("ns/late"), mesh.mesh.named_policies()), (false, 0));
    mesh.put(naming("b", &["ns/late"]));
    assert!(!mesh.mesh.has_answered("ns/late"));
}

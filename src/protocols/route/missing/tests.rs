//! What a connection asks for: alone, and against a control plane that is a model.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::protocols::{
    mesh::{
        Change,
        fixtures::{NAMESPACE, Svc, TestMesh, Wl, addr, ip, pod, service},
    },
    route::{Pick, outbound},
};

const CLIENT: &str = "10.0.0.1";
const HOST: &str = "web.ns1.svc.cluster.local";
const WAYPOINT: &str = "waypoint.ns1.svc.cluster.local";

fn client() -> TestMesh {
    TestMesh::new().with(pod("client", CLIENT).hbone().local())
}

fn needs(t: &TestMesh, dst: &str) -> Vec<String> {
    let workload = t.pod("client");
    let source = Source { workload: &workload, client: ip(CLIENT) };
    missing_outbound(&t.mesh, &source, OrigDst::new(addr(dst)))
}

fn asked(t: &TestMesh, authority: &str) -> Vec<String> {
    let local = t.pod("client");
    missing_inbound(&t.mesh, &local, ip(CLIENT), &authority.parse().unwrap())
}

#[test]
fn an_unknown_destination_is_asked_for_by_its_address() {
    assert_eq!(needs(&client(), "10.0.0.9:80"), ["/10.0.0.9"]);
    assert_eq!(needs(&client(), "[fd00::9]:80"), ["/fd00::9"]);
    let known = client().with(pod("server", "10.0.0.2")).with(service(HOST, "10.1.0.1"));
    assert!(needs(&known, "10.0.0.2:80").is_empty() && needs(&known, "10.1.0.1:80").is_empty());
}

#[test]
fn a_waypoint_is_asked_for_as_it_is_referred_to() {
    let t = client()
        .with(service("one.ns1.svc.cluster.local", "10.1.0.1").waypoint("10.1.0.9"))
        .with(service("two.ns1.svc.cluster.local", "10.1.0.2").waypoint("ns1/waypoint.ns1.svc.cluster.local"))
        .with(pod("server", "10.0.0.2").hbone().waypoint("10.1.0.9"));
    assert_eq!(needs(&t, "10.1.0.1:80"), ["/10.1.0.9"]);
    assert_eq!(needs(&t, "10.1.0.2:80"), ["ns1/waypoint.ns1.svc.cluster.local"]);
    assert_eq!(needs(&t, "10.0.0.2:80"), ["/10.1.0.9"]);
    let t = t.with(service(WAYPOINT, "10.1.0.9"));
    assert!(["10.1.0.1:80", "10.1.0.2:80", "10.0.0.2:80"].iter().all(|dst| needs(&t, dst).is_empty()));
}

#[test]
fn gateways_of_other_networks_are_asked_for_once_each() {
    let far = |name, address| pod(name, address).hbone().network("far").of(HOST, &[]);
    let t = client()
        .with(service(HOST, "10.1.0.1"))
        .with(far("a", "10.2.0.1").network_gateway("10.9.0.1"))
        .with(far("b", "10.2.0.2").network_gateway("10.9.0.1"))
        .with(pod("near", "10.0.0.2").hbone().of(HOST, &[]).network_gateway("10.9.0.2"));
    assert_eq!(needs(&t, "10.1.0.1:80"), ["/10.9.0.1"]);
}

#[test]
fn a_request_for_the_own_address_asks_for_nothing_and_one_for_a_service_for_that_service() {
    let t = TestMesh::new().with(pod("client", CLIENT).hbone().local().of(HOST, &[]));
    assert!(asked(&t, "10.0.0.1:80").is_empty());
    assert_eq!(asked(&t, "10.0.0.7:80"), ["/10.0.0.7"]);
    assert_eq!(asked(&t, &format!("{HOST}:80")), [format!("{NAMESPACE}/{HOST}")]);
    assert!(asked(&t, "other.ns1.svc.cluster.local:80").is_empty());
    let labels = missing_labels(&t.mesh, &t.pod("client"), ClientAddr::new(addr("10.0.0.8:9")));
    assert_eq!(labels, ["/10.0.0.8".to_owned(), format!("{NAMESPACE}/{HOST}")]);
}

/// All resources of a mesh. It answers for names as istiod does: for a service with its endpoints.
#[derive(Clone, Debug)]
struct Plane {
    pods: Vec<Wl>,
    services: Vec<Svc>,
}

impl Plane {
    fn mesh(&self) -> TestMesh {
        let all = self.services.iter().cloned().map(Change::from);
        all.chain(self.pods.iter().cloned().map(Change::from)).fold(client(), TestMesh::with)
    }

    fn answer(&self, name: &str) -> Vec<Change> {
        let workloads = self.pods.iter().map(|pod| pod.clone().decode());
        let found: Vec<_> = workloads
            .filter(|workload| {
                let named = |ip: &IpAddr| format!("{}/{ip}", workload.network()) == name;
                workload.uid() == name || workload.addresses().iter().any(named)
            })
            .map(Change::Workload)
            .collect();
        if !found.is_empty() {
            return found;
        }
        let is_it = |service: &&Svc| {
            let service = (*service).clone().decode();
            let vip = service.vips().iter().any(|vip| format!("{}/{}", vip.network, vip.ip) == name);
            service.key().as_str() == name || vip
        };
        let Some(service) = self.services.iter().find(is_it) else { return Vec::new() };
        let key = service.clone().decode().key().clone();
        let endpoints = self.pods.iter().map(|pod| pod.clone().decode());
        let endpoints = endpoints.filter(|pod| pod.membership(&key).is_some()).map(Change::Workload);
        [Change::from(service.clone())].into_iter().chain(endpoints).collect()
    }
}

/// The routes that are drawn for a connection.
fn routes(t: &TestMesh, dst: &str) -> BTreeSet<String> {
    let workload = t.pod("client");
    let source = Source { workload: &workload, client: ip(CLIENT) };
    let route = |seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut pick = Pick { rng: &mut rng, excluded: &[], suspicion: None, recorder: () };
        match outbound(&t.mesh, &source, OrigDst::new(addr(dst)), &mut pick) {
            Ok(route) => format!("{:?} {:?}", route.hop, route.destination.map(|w| w.uid().to_owned())),
            Err(error) => error.to_string(),
        }
    };
    (0..48).map(route).collect()
}

fn plane() -> impl Strategy<Value = Plane> {
    let waypoint = prop_oneof![
        3 => Just(None),
        1 => Just(Some("10.1.0.0")),
        1 => Just(Some("10.0.1.0")),
        1 => Just(Some("ns1/s1.ns1.svc.cluster.local")),
        1 => Just(Some("10.7.7.7")),
    ];
    let of = prop::option::of(0u8..3);
    let far = prop_oneof![3 => Just(None), 1 => Just(Some("10.0.1.1")), 1 => Just(Some("10.1.0.2"))];
    let pods = prop::collection::vec((of, waypoint.clone(), far, any::<bool>()), 0..5);
    let services = prop::collection::vec((waypoint, any::<bool>()), 0..3);
    (pods, services).prop_map(|(pods, services)| {
        let pods = pods.into_iter().enumerate().map(|(i, (of, waypoint, far, hbone))| {
            let mut made = pod(&format!("p{i}"), &format!("10.0.1.{i}"));
            made = if hbone { made.hbone() } else { made };
            made = of.map_or(made.clone(), |s| made.of(&format!("s{s}.ns1.svc.cluster.local"), &[]));
            made = waypoint.map_or(made.clone(), |at| made.waypoint(at));
            far.map_or(made.clone(), |at| made.network("far").network_gateway(at))
        });
        let services = services.into_iter().enumerate().map(|(i, (waypoint, weighted))| {
            let made = service(&format!("s{i}.ns1.svc.cluster.local"), &format!("10.1.0.{i}"));
            match waypoint {
                Some(at) if weighted => made.weighted(&[(at, 1), ("10.0.1.2", 1)]),
                Some(at) => made.waypoint(at),
                None => made,
            }
        });
        Plane { pods: pods.collect(), services: services.collect() }
    })
}

proptest! {
    #[test]
    fn who_asks_for_what_is_missing_routes_as_who_knows_everything(
        plane in plane(), service in any::<bool>(), number in 0u8..5,
    ) {
        let dst = if service { format!("10.1.0.{number}:80") } else { format!("10.0.1.{number}:80") };
        let mut partial = client();
        let mut answered = BTreeSet::new();
        loop {
            let names: Vec<_> = needs(&partial, &dst).into_iter().filter(|n| !answered.contains(n)).collect();
            if names.is_empty() {
                break;
            }
            for name in names {
                for change in plane.answer(&name) {
                    partial.put(change);
                }
                answered.insert(name);
            }
        }
        prop_assert_eq!(routes(&partial, &dst), routes(&plane.mesh(), &dst));
        prop_assert!(answered.len() <= 8, "{answered:?}");
    }
}

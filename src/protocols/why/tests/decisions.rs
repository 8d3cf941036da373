//! Explanations against the decisions of the data path, for 10,000 random connections.

use rand::Rng;

use super::*;
use crate::protocols::{
    mesh::fixtures::{Svc, Wl},
    rbac,
    route::{self, Hop, InboundHbone, Pick, Route, RouteError, Source, Upstream},
    why::outbound::Trail,
};

const MESHES: u64 = 100;
const CONNECTIONS_EACH: u64 = 100;
const PODS: u8 = 9;
const SERVICES: u8 = 5;

/// What may be changed of a resource, each with its probability.
type Changes<T, const N: usize> = [(f64, fn(T) -> T); N];

fn pick<'a, T>(rng: &mut SmallRng, of: &'a [T]) -> &'a T {
    &of[rng.random_range(0..of.len())]
}

fn random_pod(rng: &mut SmallRng, index: u8) -> Wl {
    let ips = *pick(rng, &["4", "4", "4", "46", ""]);
    let mut text = String::new();
    for family in ips.chars() {
        text += &if family == '4' { format!("10.0.0.{index} ") } else { format!("fd00::{index:x} ") };
    }
    let mut made = pod(&format!("p{index}"), &text).capacity(*pick(rng, &[1, 1, 1, 3, 0]));
    if ips.is_empty() && rng.random() {
        made = made.hostname("pod.example");
    }
    let changes: Changes<Wl, 9> = [
        (0.7, Wl::hbone),
        (0.4, Wl::local),
        (0.2, Wl::unhealthy),
        (0.2, |made| made.network("n2").network_gateway("10.0.0.1")),
        (0.1, |made| made.waypoint("10.0.0.2")),
        (0.1, |made| made.waypoint("ns1/s1:80")),
        (0.1, |made| made.namespace("ns2")),
        (0.1, |made| made.tunnel(false, 9000)),
        (0.3, |made| made.locality("r", "z", "")),
    ];
    for (chance, change) in changes {
        if rng.random_bool(chance) {
            made = change(made);
        }
    }
    for service in 0..SERVICES {
        if rng.random_bool(0.4) {
            let own: [&[(u32, u32)]; 3] = [&[], &[(80, 8081)], &[(80, 0)]];
            let own = *pick(rng, &own);
            made = made.of(&format!("s{service}"), own);
        }
    }
    let named = *pick(rng, &["", "", "ns1/q0", "ns1/q1", "ns1/absent", "ns1/missing"]);
    made.edit(|pb| pb.authorization_policies.extend((!named.is_empty()).then(|| named.into())))
}

fn random_service(rng: &mut SmallRng, index: u8) -> Svc {
    let modes = [Mode::UnspecifiedMode, Mode::Strict, Mode::Failover, Mode::Passthrough];
    let scopes = [&[][..], &[Scope::Network, Scope::Region], &[Scope::Node], &[Scope::Region, Scope::Zone]];
    let (mode, scopes) = (*pick(rng, &modes), *pick(rng, &scopes));
    let mut made = service(&format!("s{index}"), &format!("10.1.0.{index}")).balancing(mode, scopes);
    let changes: Changes<Svc, 6> = [
        (0.2, |made| made.waypoint("10.0.0.2")),
        (0.1, |made| made.waypoint("ns1/s1:80")),
        (0.1, |made| made.weighted(&[("10.0.0.2", 1), ("10.0.0.3", 2)])),
        (0.2, Svc::allow_all),
        (0.2, |made| made.ports(&[(80, 0), (81, 8082)])),
        (0.1, Svc::private),
    ];
    for (chance, change) in changes {
        if rng.random_bool(chance) {
            made = change(made);
        }
    }
    made
}

fn random_policies(rng: &mut SmallRng) -> Vec<pb::Authorization> {
    let count = rng.random_range(0..5);
    let mut made = |index: usize| {
        let action = *pick(rng, &[pb::Action::Allow, pb::Action::Deny]);
        let matches = (0..rng.random_range(0..3)).map(|_| match rng.random_range(0..5) {
            0 => from_namespace("ns1"),
            1 => from_namespace("ns2"),
            2 => to_port(80),
            3 => to_port(8081),
            // A length that no address has: the value cannot be decoded.
            _ => pb::Match {
                source_ips: vec![pb::Address { address: vec![1; 3], length: 8 }],
                ..Default::default()
            },
        });
        let made = policy(&format!("q{index}"), action, matches.collect());
        let scope = *pick(rng, &[pb::Scope::Global, pb::Scope::Namespace, pb::Scope::WorkloadSelector]);
        pb::Authorization { scope: scope.into(), dry_run: rng.random_bool(0.2), ..made }
    };
    (0..count).map(&mut made).collect()
}

fn random_mesh(rng: &mut SmallRng) -> TestMesh {
    let mut t = TestMesh::new();
    for index in 0..SERVICES {
        let made = random_service(rng, index);
        t.put(made);
    }
    for index in 1..=PODS {
        let made = random_pod(rng, index);
        t.put(made);
    }
    set_policies(&mut t, random_policies(rng));
    t
}

/// What a connection gets, by the functions that the data path calls, in the order in which it calls them.
fn decided(t: &TestMesh, source: &Source<'_>, dst: OrigDst, seed: u64) -> (Verdict, Option<Route>) {
    let ports = settings().ports;
    if route::check_outbound(&ports, source, dst).is_err() {
        return (Verdict::Denied, None);
    }
    let route = match routed(t, source, dst, seed) {
        Ok(route) => route,
        Err(_) => return (Verdict::Denied, None),
    };
    let verdict = match (&route.hop, &route.destination) {
        (Hop::Tcp { .. }, _) => Verdict::Allowed,
        (Hop::Hbone { to: Upstream::Ip(to), authority, .. }, Some(there))
            if route::is_at_destination(*to, authority) && there.addresses().contains(&to.ip()) =>
        {
            let request = InboundHbone { local: there, dst: *to, authority, localhost_app_tunnel: true };
            match route::inbound_hbone(&t.mesh, &request, &ports) {
                Err(_) => Verdict::Denied,
                Ok(inbound) => allowed(
                    t,
                    there,
                    &rbac::Flow {
                        src: (source.client, 999).into(),
                        identity: Some(source.workload.identity()),
                        dst: inbound.target,
                    },
                ),
            }
        }
        _ => Verdict::Unknown,
    };
    (verdict, Some(route))
}

fn routed(t: &TestMesh, source: &Source<'_>, dst: OrigDst, seed: u64) -> Result<Route, RouteError> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut pick = Pick { rng: &mut rng, excluded: &[], suspicion: None, recorder: () };
    route::outbound(&t.mesh, source, dst, &mut pick)
}

fn allowed(t: &TestMesh, there: &Workload, flow: &rbac::Flow<'_>) -> Verdict {
    let destination = rbac::Destination { namespace: there.namespace(), policies: there.policies() };
    let absent = |key: &str| key.ends_with("/absent");
    match rbac::evaluate(&t.mesh.policies(), &destination, flow, &absent, &mut |_| {}) {
        rbac::Verdict::Allow => Verdict::Allowed,
        rbac::Verdict::Deny(_) => Verdict::Denied,
        rbac::Verdict::Unknown { .. } => Verdict::Unknown,
    }
}

/// What is chosen is among what the trail says may be chosen, whatever is drawn.
fn check_choices(t: &TestMesh, source: &Source<'_>, dst: OrigDst, seed: u64) {
    let mut trail = Trail::default();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut pick = Pick { rng: &mut rng, excluded: &[], suspicion: None, recorder: &mut trail };
    let with = route::outbound(&t.mesh, source, dst, &mut pick).map(|route| route.hop);
    let without = routed(t, source, dst, seed).map(|route| route.hop);
    assert_eq!(with, without, "a recorder changes nothing");
    for (chosen, may, is_last_resort) in &trail.choices {
        assert!(
            may.contains(chosen) || *is_last_resort && may.is_empty(),
            "{chosen} of {may:?}, seed {seed}"
        );
    }
}

#[test]
fn what_is_explained_is_what_ten_thousand_connections_get() {
    let (mut verdicts, mut hops) = ([0; 3], 0);
    for mesh_seed in 0..MESHES {
        let mut rng = SmallRng::seed_from_u64(mesh_seed);
        let t = random_mesh(&mut rng);
        let (settings, node) = (settings(), Node(t.mesh.clone()));
        let proxy = Proxy { mesh: &t.mesh, settings: &settings, here: &node };
        let mut left = CONNECTIONS_EACH;
        let clients: Vec<Arc<Workload>> = t.mesh.all_workloads();
        let clients: Vec<&Arc<Workload>> =
            clients.iter().filter(|workload| !workload.addresses().is_empty()).collect();
        while left > 0 {
            left -= 1;
            let client = *pick(&mut rng, &clients);
            let last = rng.random_range(1..=PODS);
            let port = *pick(&mut rng, &[80, 80, 81, 8081, 15008, 15001]);
            let dst: SocketAddr = match rng.random_range(0..10) {
                0..5 => format!("10.1.0.{}:{port}", last % SERVICES).parse().unwrap(),
                5..8 => format!("10.0.0.{last}:{port}").parse().unwrap(),
                8 => format!("[fd00::{last:x}]:{port}").parse().unwrap(),
                _ => format!("1.2.3.{last}:{port}").parse().unwrap(),
            };
            let seed = rng.random();
            let explained =
                explain(proxy, client.uid(), &dst.to_string(), &mut SmallRng::seed_from_u64(seed)).unwrap();
            let dst = OrigDst::new(dst);
            let same_family = client.addresses().iter().find(|ip| ip.is_ipv4() == dst.ip().is_ipv4());
            let source = Source { workload: client, client: *same_family.unwrap_or(&client.addresses()[0]) };
            let (verdict, route) = decided(&t, &source, dst, seed);
            let case = format!("mesh {mesh_seed}, {} to {dst}, seed {seed}", client.uid());
            assert_eq!(explained.verdict, verdict, "{case}: {}", lines(&explained));
            let to = route.as_ref().map(|route| match route.hop.upstream() {
                Upstream::Ip(addr) => addr.to_string(),
                Upstream::Host { host, port, .. } => format!("{host}:{port}"),
            });
            assert_eq!(explained.next_hop.map(|hop| hop.to), to, "{case}");
            check_choices(&t, &source, dst, seed);
            verdicts[verdict as usize] += 1;
            hops += usize::from(to.is_some());
        }
    }
    // The cases are of every kind.
    assert!(verdicts.iter().all(|count| *count > 500) && hops > 3_000, "{verdicts:?}, {hops} hops");
}

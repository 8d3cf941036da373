//! What single steps cost: `cargo bench`, or `cargo bench -- NAME` for those whose name contains it. Each is repeated
//! for a while in batches; the fastest batch is shown, which other programs disturb least.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::{
    env,
    hint::black_box,
    time::{Duration, Instant},
};

use prost::Message;
use rand::{SeedableRng, rngs::SmallRng};
use warren::{
    actors::telemetry::traffic::TrafficTable,
    lab::control::resources::{ADDRESS, Resources},
    protocols::{
        addr::OrigDst,
        labels::{Endpoint, Reporter, Security, ServiceName, TrafficLabels},
        mesh::{
            Change, LocalNode, Mesh,
            policy::{Policy, PolicyChange, PolicyTable},
        },
        outcome::ResponseFlag,
        pb::{security as az, workload as wl},
        rbac::{Destination, Flow, Verdict, evaluate},
        route::{Pick, Source, outbound},
    },
};

const WORKLOADS: u32 = 100_000;
/// Changes that are applied without a pause, as the proxy does.
const SLICE: usize = 256;
const BATCHES: u32 = 20;
const BATCH: Duration = Duration::from_millis(20);

fn main() {
    // Cargo adds `--bench`.
    let filter = env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let wanted = |name: &str| name.contains(&filter);
    if wanted("xds apply") || wanted("route") {
        let mesh = apply();
        if wanted("route") {
            routes(&mesh);
        }
    }
    if wanted("policy") {
        policies();
    }
    if wanted("metrics") {
        metrics();
    }
}

/// A large mesh, decoded and applied as it comes from the control plane.
fn apply() -> Mesh {
    let mut resources = Resources::default();
    resources.add_bulk(WORKLOADS);
    let encoded: Vec<_> = resources.of_type(ADDRESS).unwrap().values().map(|one| one.value.clone()).collect();
    let local = LocalNode {
        network: String::new(),
        node: Some("bulk-node-0".to_owned()),
        cluster_domain: "cluster.local".to_owned(),
    };
    let mesh = Mesh::new(local);
    let mut writer = mesh.writer();
    let begun = Instant::now();
    let mut changes = encoded
        .iter()
        .map(|bytes| Change::decode(wl::Address::decode(bytes.clone()).unwrap()).unwrap())
        .peekable();
    while changes.peek().is_some() {
        writer.apply(changes.by_ref().take(SLICE));
    }
    assert_eq!(mesh.workload_count(), WORKLOADS as usize);
    println!("{:34}{:>10.0} ms", "xds apply, 100,000 workloads", begun.elapsed().as_secs_f64() * 1e3);
    mesh
}

fn routes(mesh: &Mesh) {
    let source = mesh.workload("Kubernetes//Pod/bulk-0/bulk-0").unwrap();
    let source = Source { workload: &source, client: "10.128.0.0".parse().unwrap() };
    let mut rng = SmallRng::seed_from_u64(1);
    // Those of `Resources::add_bulk`.
    for (name, to) in
        [("route, to a workload", "10.128.10.10:8080"), ("route, to a service", "10.200.0.0:80")]
    {
        let to = OrigDst::new(to.parse().unwrap());
        let route = outbound(mesh, &source, to, &mut Pick { rng: &mut rng, avoid: &[] }).unwrap();
        assert!(route.destination.is_some(), "{name}");
        repeat(name, || {
            outbound(black_box(mesh), &source, black_box(to), &mut Pick { rng: &mut rng, avoid: &[] })
        });
    }
}

fn policies() {
    let change = |number: u32| {
        let name = format!("policy-{number}");
        let ports = az::Match { destination_ports: vec![number], ..Default::default() };
        let clauses = vec![az::Clause { matches: vec![ports] }];
        let policy = az::Authorization {
            namespace: "bench".to_owned(),
            scope: az::Scope::Namespace.into(),
            action: az::Action::Deny.into(),
            rules: vec![az::Rule { clauses }],
            name: name.clone(),
            ..Default::default()
        };
        PolicyChange::Upsert(Policy::decode(&format!("bench/{name}"), policy).unwrap())
    };
    let table = PolicyTable::default().with((1..=100).map(change).collect());
    let destination = Destination::<&str> { namespace: "bench", policies: &[] };
    let flow =
        Flow { src: "10.0.0.1:5000".parse().unwrap(), identity: None, dst: "10.0.0.2:8080".parse().unwrap() };
    assert_eq!(evaluate(&table, &destination, &flow, &mut |_| ()), Verdict::Allow);
    repeat("policy, 100 that do not match", || {
        matches!(evaluate(black_box(&table), &destination, black_box(&flow), &mut |_| ()), Verdict::Allow)
    });
}

fn metrics() {
    let table = TrafficTable::new(1000);
    let end = Endpoint { workload: Some("web"), namespace: Some("bench"), ..Endpoint::default() };
    let labels = TrafficLabels {
        reporter: Reporter::Source,
        source: end,
        destination: end,
        service: ServiceName { hostname: Some("web.bench.svc.cluster.local"), ..ServiceName::default() },
        security: Security::MutualTls,
    };
    repeat("metrics, a connection", || {
        let traffic = table.open(black_box(&labels));
        traffic.sent(1);
        traffic.close(ResponseFlag::Ok);
    });
    let traffic = table.open(&labels);
    repeat("metrics, a chunk of bytes", || traffic.received(black_box(1)));
}

/// Shows how long one takes, in the fastest of some batches.
fn repeat<T>(name: &str, mut one: impl FnMut() -> T) {
    let mut fastest = f64::INFINITY;
    for _ in 0..BATCHES {
        let (begun, mut count) = (Instant::now(), 0_u32);
        while begun.elapsed() < BATCH {
            for _ in 0..100 {
                black_box(one());
            }
            count += 100;
        }
        fastest = fastest.min(begun.elapsed().as_secs_f64() / f64::from(count));
    }
    println!("{name:34}{:>10.0} ns", fastest * 1e9);
}

//! Lookups while a push is applied, in every order of their steps. A step is one access to an index, which takes one
//! lock of a concurrent map; the map itself is taken at its word.

use std::{
    cell::RefCell,
    sync::{Arc, atomic::Ordering},
};

use loom::{sync::atomic::AtomicUsize, thread};

use super::{TestMesh, ip, pod, service};
use crate::protocols::mesh::{Change, Mesh, push_order};

thread_local! {
    /// What the threads of a model take turns at. Loom runs them on the thread of the test.
    static TURNS: RefCell<Option<Arc<AtomicUsize>>> = const { RefCell::new(None) };
}

/// A place where another thread of a model may have its turn.
pub(in crate::protocols::mesh) fn turn() {
    let turns = TURNS.with_borrow(Clone::clone);
    if let Some(turns) = turns {
        turns.fetch_add(1, Ordering::SeqCst);
    }
}

const WEB: &str = "web.ns1.svc.cluster.local";

type Changes = fn() -> Vec<Change>;

fn web(vips: &str) -> Change {
    service(WEB, vips).into()
}

fn endpoint(name: &str, ip: &str) -> Change {
    pod(name, ip).local().of(WEB, &[]).into()
}

fn uid(name: &str) -> String {
    format!("Kubernetes//Pod/ns1/{name}")
}

fn by_vip(mesh: &Mesh) -> bool {
    mesh.service_by_vip("", ip("10.1.0.1"), "ns1").is_some()
}

fn by_host(mesh: &Mesh) -> bool {
    mesh.service_by_host(WEB, "ns1").is_some()
}

fn by_ip(mesh: &Mesh) -> bool {
    mesh.workload_by_ip("", ip("10.0.0.1")).is_some()
}

fn has_endpoints(mesh: &Mesh) -> bool {
    let service = mesh.service("ns1", WEB).expect("it is there all the time");
    mesh.endpoints(&service).is_some_and(|endpoints| !endpoints.workloads().is_empty())
}

/// What is found before a push and after it is found all the time.
fn is_found_all_the_time(
    before: Changes,
    push: Changes,
    removals: &'static [&str],
    found: fn(&Mesh) -> bool,
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(move || {
        let mut t = TestMesh::new();
        t.writer.apply(before().into_iter());
        assert!(found(&t.mesh), "it is there before");
        TURNS.set(Some(Arc::new(AtomicUsize::new(0))));
        let mesh = t.mesh.clone();
        let reader = thread::spawn(move || assert!(found(&mesh), "it is gone meanwhile"));
        let removals = removals.iter().map(|name| uid(name)).collect();
        t.writer.apply(push_order(push(), removals));
        reader.join().unwrap();
        TURNS.set(None);
        assert!(found(&t.mesh), "it is there afterwards");
    });
}

#[test]
fn in_every_order_what_a_push_replaces_is_found() {
    let one: Changes = || vec![web("10.1.0.1"), endpoint("a", "10.0.0.1")];
    let same_address: Changes = || vec![service(WEB, "10.1.0.1").canonical().into()];
    is_found_all_the_time(one, same_address, &[], by_vip);
    is_found_all_the_time(one, same_address, &[], by_host);
    let two_addresses: Changes = || vec![web("10.1.0.2 10.1.0.1")];
    is_found_all_the_time(one, two_addresses, &[], by_vip);
    let same_workload: Changes = || vec![pod("a", "10.0.0.2 10.0.0.1").local().of(WEB, &[]).hbone().into()];
    is_found_all_the_time(one, same_workload, &[], by_ip);
    is_found_all_the_time(one, same_workload, &[], has_endpoints);
}

#[test]
fn in_every_order_what_moves_within_a_push_is_found() {
    let one: Changes = || vec![web("10.1.0.1"), endpoint("a", "10.0.0.1")];
    let other_service: Changes = || vec![service("db.ns1.svc", "10.1.0.1").into(), web("10.1.0.9")];
    is_found_all_the_time(one, other_service, &[], by_vip);
    let other_workload: Changes = || vec![endpoint("b", "10.0.0.1")];
    is_found_all_the_time(one, other_workload, &["a"], by_ip);
    is_found_all_the_time(one, other_workload, &["a"], has_endpoints);
}

#[test]
fn in_every_order_a_range_that_changes_is_found() {
    let exact: Changes = || vec![web("10.1.0.1")];
    let narrow: Changes = || vec![web("10.1.0.0/24")];
    let wide: Changes = || vec![web("10.1.0.0/16")];
    for (before, push) in [(narrow, wide), (wide, narrow), (exact, narrow), (wide, exact)] {
        is_found_all_the_time(before, push, &[], by_vip);
    }
}

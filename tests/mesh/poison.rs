//! A node full of pods, some of them poison: the others are served as if there were none, and the poison is named.

use std::{
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;
use warren::lab::{
    cni::{Cni, CniPod},
    control::resources::ResourceFault,
    hosts::Role,
    net::redirect::Redirection,
    testbed::readiness,
};

use crate::{
    logs::log,
    metrics::{metrics, metrics_show},
    policy::{deny, turned_away},
    support::*,
    zds::{cni, cni_pod, runtime},
};

/// Pods of the node.
const PODS: usize = 100;
/// A machine that has nothing else to do hands them over, and has a connection of each answered, in under 1 s.
const BUSY: Duration = Duration::from_secs(60);
/// Its namespace is none of a network.
const NOWHERE: usize = 13;
/// A program of its own has a port of the proxy.
const TAKEN: usize = 42;
/// Nobody can read its policy.
const GARBLED: usize = 77;

fn name(pod: usize) -> String {
    format!("p{pod:02}")
}

fn server(pod: usize) -> String {
    format!("10.77.1.{}:9000", pod + 100)
}

/// `client` on node two; on node one a hundred pods that the proxy is yet to hear of.
fn crowd() -> String {
    let pod = |pod: usize| {
        let name = name(pod);
        format!(
            "  - {{name: {name}, serviceAccount: {name}, node: one, ip: 10.77.1.{}, captured: false, protocol: HBONE, \
             run: echo 9000}}\n",
            pod + 100
        )
    };
    let pods: String = (0..PODS).map(pod).collect();
    format!(
        "nodes: {{one: 10.77.0.1, two: 10.77.0.2}}\npods:\n  - {{name: client, serviceAccount: client, node: two, ip: \
         10.77.2.1}}\n{pods}"
    )
}

/// Offers all pods at once, and waits until the proxy has answered for each.
fn offer(runtime: &Runtime, cni: &Arc<Cni>) {
    let mut status = cni.status();
    let before = status.borrow_and_update().snapshots;
    cni.hang_up();
    let snapshot = async { tokio::time::timeout(BUSY, status.wait_for(|now| now.snapshots > before)).await };
    runtime.block_on(snapshot).expect("an answer for every pod").unwrap();
}

pub(crate) fn poison_among_a_hundred_pods_is_named_and_the_others_serve() {
    let mut lab = raise(&crowd());
    // Its last bytes are no field.
    lab.services().control().unwrap().inject("default/garbled", Some(ResourceFault::Extended(vec![0xff; 9])));
    change(&mut lab, &format!("{}policies:\n{}", crowd(), deny("garbled", "nobody", &name(GARBLED))));
    let taken = listen(lab.pod(&name(TAKEN)).unwrap(), 15008);
    let cni = cni(&mut lab, "one");
    for pod in 0..PODS {
        let full = format!("default/{}", name(pod));
        lab.hosts_mut().redirect(Role::Pod, &full, Redirection::default()).unwrap();
        let mut known = cni_pod(&lab, &name(pod));
        if pod == NOWHERE {
            known.netns = Some(Arc::new(File::open("/proc/self/ns/mnt").unwrap().into()));
        }
        cni.know(known);
    }

    let offered = Instant::now();
    offer(&runtime(), &cni);
    let handed_over = offered.elapsed();
    let poison = [NOWHERE, TAKEN, GARBLED];
    for pod in (0..PODS).filter(|pod| !poison.contains(pod)) {
        open(&lab, "client", &server(pod)).unwrap_or_else(|error| panic!("{}: {error}", name(pod)));
    }
    let served = offered.elapsed();
    eprintln!("{PODS} pods: all answered for after {handed_over:?}, 97 have echoed after {served:?}");
    assert!(served < BUSY, "{served:?}");

    let uid = |pod: usize| cni_pod(&lab, &name(pod)).uid;
    let unready = readiness(lab.node("one").unwrap()).unwrap();
    assert_eq!(unready.status, 500);
    for (pod, why) in [(NOWHERE, "cannot enter the pod's network namespace"), (TAKEN, "15008")] {
        let said = |text: &str| text.contains(&uid(pod)) && text.contains(why);
        assert!(said(&unready.body), "{}", unready.body);
        assert!(log(&lab, "one").lines().any(said), "{} is not in the log", name(pod));
    }
    assert!(log(&lab, "one").contains("default/garbled"));
    let now = metrics(&lab, "one");
    let policies = [("url", "type.googleapis.com/istio.security.Authorization")];
    assert_eq!(now.sum("warren_xds_rejected_resources_total", &policies), 1.0);
    assert_eq!(now.sum("workload_manager_active_proxy_count", &[]), 98.0);
    assert_eq!(now.sum("workload_manager_pending_proxy_count", &[]), 2.0);
    // Without its policy nobody can know whom it lets in.
    turned_away(&lab, "client", &server(GARBLED));

    // Each is served as soon as what was wrong with it is right.
    drop(taken);
    lab.services().control().unwrap().inject("default/garbled", None);
    lab.services().settle(LIMIT).unwrap();
    let sound: CniPod = cni_pod(&lab, &name(NOWHERE));
    runtime().block_on(cni.add(sound)).unwrap();
    metrics_show(&lab, "one", "hundred pods", |now| {
        now.sum("workload_manager_active_proxy_count", &[]) == PODS as f64
    });
    for pod in poison {
        drop(open_at_last(&lab, "client", &server(pod)));
    }
}

//! Proxies and actors that are lost under traffic.

use crate::{
    harness::{Cluster, LIMIT, MESHED, OUTSIDE, PodOn, SYSTEM, eventually, last_end, ready_since},
    mesh::{Chart, callers, deploy, proxies, rolled_out, servers},
    traffic::{Cost, during},
};

pub(crate) fn actors_that_are_killed_cost_no_request_and_no_connection(cluster: &Cluster) {
    let proxies = proxies(cluster);
    let cost = during(cluster, "xds, certs, policy, audit and zds killed on each node", || {
        for proxy in &proxies {
            for actor in ["xds", "certs", "policy", "audit", "zds"] {
                let ended = cluster.warren(proxy, &["chaos", "kill", actor]);
                assert!(ended.ok, "warren chaos kill {actor}: {}", ended.output);
            }
        }
        for proxy in &proxies {
            for actor in ["root/meshsup/xds", "root/certs", "root/dataplane/zds"] {
                eventually(&format!("report of {actor} on {}", proxy.node), LIMIT, || {
                    let crashes = cluster.warren(proxy, &["crashes"]).output;
                    if crashes.contains(actor) { Ok(()) } else { Err(crashes) }
                });
            }
        }
        // All of them are up again: readiness needs each.
        crate::mesh::proxies(cluster);
    });
    cost.nothing_failed_and_nothing_was_cut();
}

pub(crate) fn a_proxy_that_is_deleted_is_replaced_and_its_node_served_again(cluster: &Cluster) {
    let lost = proxies(cluster).remove(0);
    let cost = during(cluster, "one proxy's pod deleted", || {
        cluster.delete_pod(SYSTEM, &lost.name);
        eventually("next proxy", LIMIT, || match cluster.pod(SYSTEM, &lost.name) {
            None => Ok(()),
            Some(_) => Err(format!("{} is still there", lost.name)),
        });
        rolled_out(cluster);
    });
    // The old process serves what is open until the next one takes it.
    for container in ["hold", "near"] {
        let kept = cost.sum(container, None);
        assert_eq!((kept.failed, kept.cut), (0, 0), "{}", cost.told());
    }
    only_its_node_lost_until_the_next_was_ready(&cost, cluster, &lost);
}

const KILLER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: killer, namespace: warren-tests-outside}
spec:
  nodeName: NODE
  hostPID: true
  restartPolicy: Never
  tolerations: [{operator: Exists}]
  containers:
  - {name: app, image: \"IMAGE\", args: [kill, UID, ztunnel], securityContext: {privileged: true}}";

pub(crate) fn a_proxy_that_is_killed_comes_back_and_other_nodes_lose_nothing_of_their_own(cluster: &Cluster) {
    let lost = proxies(cluster).remove(0);
    let killer = KILLER.replace("NODE", &lost.node).replace("UID", &lost.uid);
    let cost = during(cluster, "one proxy killed (SIGKILL)", || {
        cluster.apply(&killer);
        eventually("end of the proxy by signal 9", LIMIT, || {
            let end = cluster.pod(SYSTEM, &lost.name).map(|pod| last_end(&pod)).unwrap_or_default();
            let told = cluster.log(OUTSIDE, "killer", "app", 10).unwrap_or_default();
            if end.1.as_ref().is_some_and(|(code, _)| *code == 137) {
                Ok(())
            } else {
                Err(format!("{end:?}: {told}"))
            }
        });
        proxies(cluster);
    });
    cluster.delete(&killer);
    only_its_node_lost_until_the_next_was_ready(&cost, cluster, &lost);
}

/// The proxy's memory in the test of its end, and connections that need more than that.
const LITTLE_MEMORY: [&str; 2] = ["resources.requests.memory=16Mi", "resources.limits.memory=32Mi"];
const SWARM: &str = "4000";

pub(crate) fn a_proxy_that_is_out_of_memory_comes_back_and_its_node_is_served_again(cluster: &Cluster) {
    deploy(cluster, Chart::Warren, &LITTLE_MEMORY);
    let (caller, server) = (&callers(cluster)[0], &servers(cluster)[1]);
    let lost: Vec<PodOn> = proxies(cluster);
    during(cluster, "a proxy out of memory (a swarm of connections)", || {
        let to = format!("{}:8080", server.ip);
        let killed = || {
            let ends =
                lost.iter().filter_map(|proxy| cluster.pod(SYSTEM, &proxy.name)).map(|pod| last_end(&pod));
            ends.filter_map(|(_, end)| end).find(|(code, reason)| *code == 137 && reason == "OOMKilled")
        };
        // The swarm itself loses its connections.
        let swarm = cluster.app(MESHED, &caller.name, &["swarm", &to, SWARM]);
        eventually("end of a proxy for want of memory", LIMIT, || {
            killed().map(drop).ok_or_else(|| format!("none was killed; the swarm: {}", swarm.output))
        });
        proxies(cluster);
    });
    deploy(cluster, Chart::Warren, &[]);
}

/// docs/upgrades.md: clients of other nodes fail nothing and keep what they have within their node. Once the node has a
/// ready proxy again, nothing fails.
#[track_caller]
fn only_its_node_lost_until_the_next_was_ready(cost: &Cost, cluster: &Cluster, lost: &PodOn) {
    cost.only_a_node_lost_something(&lost.node);
    let next = proxies(cluster).into_iter().find(|proxy| proxy.node == lost.node).unwrap();
    let ready = ready_since(&cluster.pod(SYSTEM, &next.name).unwrap()).unwrap();
    // Kubernetes tells whole seconds.
    cost.nothing_failed_that_began_after(ready + 1.0);
}

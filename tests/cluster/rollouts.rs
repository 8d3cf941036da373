//! Rolling updates under traffic, and a node that is added.

use crate::{
    harness::{Cluster, LIMIT, MESHED, SYSTEM, eventually},
    mesh::{callers, proxies, rolled_out},
    traffic::during,
};

pub(crate) fn a_rolling_update_of_the_proxies_fails_no_request(cluster: &Cluster) {
    let cost = during(cluster, "rolling update of the proxies", || {
        cluster.kubectl_ok(&["-n", SYSTEM, "rollout", "restart", "daemonset/ztunnel"]);
        rolled_out(cluster);
    });
    // docs/upgrades.md: all of them move to the next process, those in tunnels with their tunnels.
    cost.nothing_failed_and_nothing_was_cut();
}

pub(crate) fn a_rolling_update_of_istio_cni_fails_no_request(cluster: &Cluster) {
    let cost = during(cluster, "rolling update of istio-cni", || {
        cluster.kubectl_ok(&["-n", SYSTEM, "rollout", "restart", "daemonset/istio-cni-node"]);
        cluster.kubectl_ok(&[
            "-n",
            SYSTEM,
            "rollout",
            "status",
            "daemonset/istio-cni-node",
            "--timeout=200s",
        ]);
        // Each proxy has found the next agent.
        proxies(cluster);
    });
    cost.nothing_failed_and_nothing_was_cut();
}

pub(crate) fn a_rolling_update_of_istiod_fails_no_request(cluster: &Cluster) {
    let cost = during(cluster, "rolling update of istiod", || {
        cluster.kubectl_ok(&["-n", SYSTEM, "rollout", "restart", "deployment/istiod"]);
        cluster.kubectl_ok(&["-n", SYSTEM, "rollout", "status", "deployment/istiod", "--timeout=200s"]);
        cluster.old_ones_gone(SYSTEM, "app=istiod");
        proxies(cluster);
    });
    cost.nothing_failed_and_nothing_was_cut();
}

pub(crate) fn a_node_that_is_added_is_served_and_costs_the_others_nothing(cluster: &Cluster) {
    let (Some(add), Some(remove)) = (&cluster.setup.add_node, &cluster.setup.remove_node) else {
        panic!(
            "WARREN_TESTS_ADD_NODE and WARREN_TESTS_REMOVE_NODE are not set: they are commands for a shell"
        );
    };
    let before = cluster.nodes();
    let cost = during(cluster, "a node is added", || {
        cluster.shell(add);
        eventually("further node", LIMIT, || match cluster.nodes().len() {
            count if count > before.len() => Ok(()),
            count => Err(format!("{count} nodes")),
        });
        proxies(cluster);
        cluster.one_on_each_node(MESHED, "app=client");
    });
    for caller in callers(cluster).iter().filter(|caller| !before.contains(&caller.node)) {
        cluster.get(MESHED, &caller.name, "http://server.warren-tests/").unwrap();
        assert!(cost.sum("near", Some(&caller.node)).ok > 0, "{}", cost.told());
    }
    for node in &before {
        for container in ["load", "hold", "near"] {
            let seen = cost.sum(container, Some(node));
            assert_eq!((seen.failed, seen.cut), (0, 0), "{}", cost.told());
        }
    }
    cluster.shell(remove);
    for node in cluster.nodes().iter().filter(|node| !before.contains(node)) {
        cluster.kubectl_ok(&["delete", "node", node]);
    }
}

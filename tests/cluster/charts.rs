//! Helm: values that are wrong, upgrade, rollback, the swap between charts, and the end.

use crate::{
    harness::{Cluster, LIMIT, MESHED, SYSTEM, eventually, state},
    mesh::{Chart, PROXIES, deploy, fresh, label, revision, rollback, rolled_out, try_deploy, uninstall},
    traffic::during,
};

pub(crate) fn wrong_values_are_refused_with_their_path(cluster: &Cluster) {
    let before = revision(cluster);
    for (set, path) in
        [("warren.chaoss=true", "/warren"), ("updateStrategy.type=Now", "/updateStrategy/type")]
    {
        let ended = try_deploy(cluster, Chart::Warren, &[set]);
        assert!(!ended.ok && ended.output.contains(&format!("at '{path}'")), "{set}: {}", ended.output);
    }
    assert_eq!(revision(cluster), before);
}

pub(crate) fn an_upgrade_and_its_rollback_fail_no_request(cluster: &Cluster) {
    let former = revision(cluster).unwrap();
    let upgrade = during(cluster, "helm upgrade", || {
        deploy(cluster, Chart::Warren, &["podAnnotations.tests=upgraded"]);
    });
    upgrade.nothing_failed_and_nothing_was_cut();
    let back = during(cluster, "helm rollback", || {
        rollback(cluster, &former);
        rolled_out(cluster);
    });
    back.nothing_failed_and_nothing_was_cut();
}

pub(crate) fn an_upgrade_that_cannot_start_leaves_the_former_proxies_serving(cluster: &Cluster) {
    let former = revision(cluster).unwrap();
    let cost = during(cluster, "helm upgrade to an image that is not there, and rollback", || {
        let ended = try_deploy(cluster, Chart::Warren, &["image=k8s.local/warren:is-not-there"]);
        assert!(ended.ok, "{}", ended.output);
        eventually("pod that cannot start", LIMIT, || {
            let states: Vec<String> = cluster.pods(SYSTEM, PROXIES).iter().map(state).collect();
            let stuck = states.iter().any(|state| state.contains("ImagePull"));
            if stuck { Ok(()) } else { Err(format!("{states:?}")) }
        });
        rollback(cluster, &former);
        rolled_out(cluster);
    });
    cost.nothing_failed_and_nothing_was_cut();
}

pub(crate) fn the_swap_from_ztunnels_chart_and_back_fails_no_request(cluster: &Cluster) {
    let theirs = during(cluster, "warren's chart to ztunnel's", || deploy(cluster, Chart::Ztunnel, &[]));
    theirs.nothing_failed_and_nothing_was_cut();
    let restart = during(cluster, "rolling update under ztunnel's chart", || {
        cluster.kubectl_ok(&["-n", SYSTEM, "rollout", "restart", "daemonset/ztunnel"]);
        rolled_out(cluster);
    });
    restart.nothing_failed_and_nothing_was_cut();
    let ours = during(cluster, "ztunnel's chart to warren's", || deploy(cluster, Chart::Warren, &[]));
    ours.nothing_failed_and_nothing_was_cut();
}

pub(crate) fn the_mesh_is_left_and_the_release_removed_without_harm_to_plain_traffic(cluster: &Cluster) {
    during(cluster, "the namespace leaves the mesh", || {
        label(cluster, MESHED, false);
        for pod in cluster.pods(MESHED, "app=client") {
            let name = pod.metadata.name.unwrap_or_default();
            eventually(&format!("{name} outside of the mesh"), LIMIT, || {
                let path = "jsonpath={.metadata.annotations.ambient\\.istio\\.io/redirection}";
                let found = cluster.kubectl_ok(&["-n", MESHED, "get", "pod", &name, "-o", path]);
                if found == "enabled" { Err(found) } else { Ok(()) }
            });
        }
    });
    let cost = during(cluster, "helm uninstall", || {
        uninstall(cluster);
        cluster.old_ones_gone(SYSTEM, PROXIES);
    });
    cost.nothing_failed_and_nothing_was_cut();
    assert!(cluster.pods(SYSTEM, PROXIES).is_empty());
    let left =
        cluster.kubectl_ok(&["-n", SYSTEM, "get", "daemonset,serviceaccount", "-l", PROXIES, "-o", "name"]);
    assert_eq!(left, "");
    // Back again, as the next test finds it.
    during(cluster, "helm install and the namespace enters the mesh", || fresh(cluster));
}

//! A real cluster, the one that KUBECONFIG names: installed by the chart, swapped, broken and upgraded under traffic.
//! The tests run one after the other, each from the same state, and what they made is removed at the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::Instant,
};

use crate::harness::{Cluster, Setup};

mod carrying;
mod charts;
mod harness;
mod losses;
mod mesh;
mod rollouts;
mod services;
mod traffic;

use carrying::*;
use charts::*;
use losses::*;
use rollouts::*;
use services::*;

/// A test's name and function.
type Test = (&'static str, fn(&Cluster));

/// Lists functions with their names.
macro_rules! tests {
    ($($test:ident),* $(,)?) => {
        &[$((stringify!($test), $test)),*]
    };
}

const TESTS: &[Test] = tests![
    wrong_values_are_refused_with_their_path,
    connections_between_and_within_nodes_are_mutual_tls_with_both_identities,
    a_namespace_enters_the_mesh_by_its_label_and_leaves_it,
    strict_keeps_out_who_is_not_in_the_mesh_but_no_probe,
    allow_and_deny_go_by_the_callers_identity,
    a_headless_service_and_its_pods_are_reached_by_name,
    an_external_name_leads_to_the_service_behind_it,
    services_keep_to_the_node_or_zone_that_they_are_told_to,
    a_service_without_a_selector_leads_to_its_endpoint_slice,
    service_entries_are_reached_by_name_address_or_endpoint_name,
    a_name_that_nobody_has_is_not_found,
    a_rolling_update_of_the_proxies_fails_no_request,
    a_rolling_update_of_istio_cni_fails_no_request,
    a_rolling_update_of_istiod_fails_no_request,
    a_node_that_is_added_is_served_and_costs_the_others_nothing,
    actors_that_are_killed_cost_no_request_and_no_connection,
    a_proxy_that_is_deleted_is_replaced_and_its_node_served_again,
    a_proxy_that_is_killed_comes_back_and_other_nodes_lose_nothing_of_their_own,
    a_proxy_that_is_out_of_memory_comes_back_and_its_node_is_served_again,
    an_upgrade_and_its_rollback_fail_no_request,
    an_upgrade_that_cannot_start_leaves_the_former_proxies_serving,
    the_swap_from_ztunnels_chart_and_back_fails_no_request,
    the_mesh_is_left_and_the_release_removed_without_harm_to_plain_traffic,
];

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let filters: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let chosen: Vec<&Test> = TESTS
        .iter()
        .filter(|(name, _)| filters.is_empty() || filters.iter().any(|filter| name.contains(filter)))
        .collect();
    if words.iter().any(|word| word == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let cluster = match Setup::read().and_then(Cluster::connect) {
        Ok(cluster) => cluster,
        Err(why) => {
            eprintln!("the tests of the cluster cannot run: {why}");
            println!("test result: FAILED. 0 passed; {} failed", chosen.len());
            return ExitCode::FAILURE;
        }
    };
    run(&cluster, &chosen)
}

fn run(cluster: &Cluster, chosen: &[&Test]) -> ExitCode {
    let before = mesh::before(cluster);
    let mut failed = Vec::new();
    for (name, test) in chosen {
        println!("\ntest {name} ...");
        let start = Instant::now();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            mesh::fresh(cluster);
            test(cluster);
        }));
        let verdict = if ended.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({} s)", start.elapsed().as_secs());
        if ended.is_err() {
            failed.push(*name);
        }
    }
    if catch_unwind(AssertUnwindSafe(|| mesh::put_back(cluster, &before))).is_err() {
        failed.push("what the tests made is not removed");
    }
    println!("\n{}\n", traffic::table());
    failed.iter().for_each(|name| println!("FAILED {name}"));
    let (word, passed) = if failed.is_empty() {
        ("ok", chosen.len())
    } else {
        ("FAILED", chosen.len() - failed.len().min(chosen.len()))
    };
    println!(
        "test result: {word}. {passed} passed; {} failed; {} filtered out",
        failed.len(),
        TESTS.len() - chosen.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! The lab's own network: hosts, redirection rules, processes and applications, in real namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::process::ExitCode;

use warren::{
    lab::testing::{Needs, Suite, Users, main as run},
    lab_tests,
};

mod apps;
mod bench;
mod cli;
mod demo;
mod hold;
mod hosts;
mod redirect;
mod support;
mod testbed;

use apps::*;
use bench::*;
use cli::*;
use demo::*;
use hold::*;
use hosts::*;
use redirect::*;
use testbed::*;

fn main() -> ExitCode {
    if let Some(code) = hold::helper().or_else(cli::helper) {
        return code;
    }
    let tests = lab_tests![
        hosts_of_any_address_reach_each_other,
        a_host_has_suitable_network_settings,
        a_removed_hosts_address_can_be_given_to_another_at_once,
        names_and_addresses_are_unique_and_unknown_ones_are_named,
        an_unplugged_host_is_silent_until_it_is_mended,
        outbound_connections_arrive_at_15001_with_their_destination,
        inbound_connections_arrive_at_15006_with_their_destination,
        hbone_is_not_redirected,
        packets_with_the_proxys_mark_escape,
        a_spoofed_source_gets_its_answers,
        loopback_and_the_pods_own_address_bypass_the_proxy,
        probes_bypass_the_proxy,
        inbound_capture_can_be_bypassed,
        virtual_interfaces_count_as_outbound,
        dns_is_redirected_only_if_asked_for,
        removed_rules_redirect_nothing,
        rules_applied_twice_are_refused_by_name,
        the_cell_has_no_network_but_its_own,
        a_killed_cell_takes_its_processes_along,
        a_program_runs_in_its_namespace_and_ends_with_its_owner,
        a_program_that_ends_too_soon_is_reported_with_its_log,
        a_program_sees_its_own_resolv_conf,
        the_web_server_names_the_pod_and_the_client,
        load_counts_requests_failures_and_connections,
        paced_echo_notices_a_stall_and_a_broken_connection,
        bulk_transfers_are_checked_both_ways,
        a_capture_finds_plaintext,
        a_lab_is_found_from_other_shells_until_it_is_down,
        a_killed_lab_leaves_nothing_that_hinders_the_next,
        a_bad_mesh_file_is_reported_and_an_edit_to_one_keeps_the_mesh,
        a_world_carries_the_pods_traffic_encrypted_between_nodes,
        an_edited_mesh_takes_effect_while_it_runs,
        a_dead_proxy_is_noticed_and_another_takes_its_place,
        load_flows_through_both_proxies,
        a_proxy_that_cannot_start_is_reported_with_its_log,
        a_host_cut_off_from_the_fabric_comes_back,
        the_demo_shows_every_claim_with_a_check_mark,
        an_interrupted_demo_leaves_nothing,
        a_short_bench_finds_every_figure_and_they_add_up,
        a_bench_of_what_cannot_start_says_so_and_fails,
    ];
    run(&Suite {
        tests,
        users: Users::RootAndUser,
        programs: &[Needs { name: "warren", path: env!("CARGO_BIN_EXE_warren") }],
    })
}

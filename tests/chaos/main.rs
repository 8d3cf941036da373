//! Every actor and every kind of task of a real proxy in a mesh of two nodes, broken one after the other: it is
//! repaired, and takes down no connection but those that hang on it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::process::ExitCode;

use warren::{
    lab::testing::{Needs, Suite, Users, main as run},
    lab_tests,
};

mod actors;
mod command;
mod crashes;
mod matrix;
mod names;
mod support;
mod tasks;
mod upgrades;

use actors::*;
use command::*;
use crashes::*;
use matrix::*;
use names::*;
use tasks::*;
use upgrades::*;

fn main() -> ExitCode {
    let tests = lab_tests![
        every_kind_of_actor_killed_or_panicking_costs_what_it_may_and_is_repaired,
        actors_that_hang_are_slow_or_cannot_start_cost_what_they_may,
        an_actor_of_a_kind_without_a_row_fails_the_matrix,
        a_killed_actor_is_restarted_and_costs_no_connection,
        a_panicking_actor_is_restarted_and_costs_no_connection,
        a_hung_actor_is_found_and_restarted_and_costs_no_connection,
        a_lost_dns_actor_costs_no_question,
        a_lost_supervisor_comes_back_with_all_that_is_below_it,
        a_lost_tunnel_or_owner_of_connections_costs_its_own_alone,
        a_panic_in_a_connection_closes_it_alone_and_is_said,
        a_panic_in_a_tunnel_closes_its_streams_alone,
        a_lost_shard_is_replaced_and_everything_is_placed_again,
        a_panic_of_a_viewers_task_ends_that_stream_alone_and_frees_its_place,
        a_panic_of_any_other_task_is_repaired_and_costs_no_connection,
        the_commands_draw_break_and_are_refused,
        panics_of_admin_connections_and_failed_starts_are_reported,
        streams_of_every_kind_outlive_upgrades_of_either_node,
        a_policy_that_comes_during_a_hand_over_cuts_its_streams_alone,
        what_is_lost_with_a_process_that_dies_in_a_hand_over_is_what_it_had,
        a_successor_that_does_not_answer_or_has_no_room_costs_no_stream,
    ];
    let programs = [Needs { name: "warren", path: env!("CARGO_BIN_EXE_warren") }];
    run(&Suite { tests, users: Users::Root, programs: &programs })
}

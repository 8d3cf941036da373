//! Traces, log records and metrics, as a collector gets them: two nodes with the real binary as their proxies, and `rotel` from PyPI.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::process::ExitCode;

use warren::{
    lab::testing::{Needs, Suite, Users, main as run},
    lab_tests,
};

mod collector;
mod connections;
#[allow(dead_code, reason = "what the tests of whole meshes need besides")]
#[path = "../mesh/metrics.rs"]
mod metrics;
mod pypi;
mod signals;
#[allow(dead_code, reason = "what the tests of whole meshes need besides")]
#[path = "../mesh/support.rs"]
mod support;
mod tree;

use connections::*;
use signals::*;

fn main() -> ExitCode {
    let tests = lab_tests![
        a_connection_is_one_trace_through_both_proxies,
        a_failed_connection_is_exported_although_it_was_not_sampled,
        a_collector_that_is_mute_or_dead_costs_spans_and_no_connection,
        a_restarted_actor_is_a_trace_of_its_own,
        the_access_log_of_a_connection_joins_its_trace,
        metrics_at_a_collector_are_those_of_a_scrape,
        logs_and_metrics_that_no_collector_takes_cost_no_connection,
    ];
    // Beside the compiled tests, and outside the cells, where there is a network.
    let rotel = match collector::ROTEL.obtain(env!("CARGO_TARGET_TMPDIR")) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(reason) => {
            eprintln!("error: no collector to test with: {reason}");
            return ExitCode::FAILURE;
        }
    };
    let programs = [
        Needs { name: "warren", path: env!("CARGO_BIN_EXE_warren") },
        Needs { name: "rotel", path: Box::leak(rotel.into_boxed_str()) },
    ];
    run(&Suite { tests, users: Users::Root, programs: &programs })
}

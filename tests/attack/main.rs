//! Every attack of `warren lab attack`, a short one of each, against one proxy with the memory that the chart requests:
//! the victim on the attackers' shard loses nothing, and the proxy recovers from each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::process::ExitCode;

use warren::{
    lab::{
        attack::TestCampaign,
        testing::{Needs, Suite, Users, main as run, program, scratch},
    },
    lab_tests,
};

/// The memory that the chart requests for the proxy, in bytes.
const REQUESTED: u64 = 512 << 20;

fn every_attack_costs_what_it_may_and_all_of_them_together_kill_nobody() {
    let (program, directory) = (program("warren").unwrap(), scratch());
    let campaign = TestCampaign { program: &program, directory: &directory, limit_bytes: REQUESTED };
    let verdicts = campaign.run().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(verdicts.len(), TestCampaign::count() + 1);
    let mut bad = Vec::new();
    for verdict in &verdicts {
        println!("{:22} {}", verdict.name, verdict.cost);
        if !verdict.complaints.is_empty() {
            bad.push(format!("{}: {}", verdict.name, verdict.complaints.join("; ")));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

fn main() -> ExitCode {
    let tests = lab_tests![every_attack_costs_what_it_may_and_all_of_them_together_kill_nobody];
    let programs = [Needs { name: "warren", path: env!("CARGO_BIN_EXE_warren") }];
    run(&Suite { tests, users: Users::Root, programs: &programs })
}

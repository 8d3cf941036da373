//! Rows of `warren lab upgrade`, with few streams: upgrades under every kind of stream, and hand-overs that are broken. The
//! command is the long one.

use warren::lab::{
    testing::{program, scratch},
    upgrade::TestUpgrades,
};

/// Runs these rows, each of which must hold.
fn hold(only: &str) {
    let (program, directory) = (program("warren").unwrap(), scratch());
    let upgrades = TestUpgrades { only, upgrades: 1, program: &program, directory: &directory };
    let verdicts = upgrades.run().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(verdicts.len(), only.split(',').count());
    let mut bad = Vec::new();
    for verdict in &verdicts {
        println!("{:22} {}", verdict.name, verdict.cost);
        if verdict.streams == 0 || !verdict.complaints.is_empty() {
            bad.push(format!("{}: {}", verdict.name, verdict.complaints.join("; ")));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

pub(crate) fn streams_of_every_kind_outlive_upgrades_of_either_node() {
    hold("idle,saturated,stopped,half-closed");
}

pub(crate) fn what_is_lost_with_a_process_that_dies_in_a_hand_over_is_what_it_had() {
    hold("kill-old-still,kill-old-offered,kill-new-prepared,kill-new-answered,kill-new-answered-tunnel");
}

pub(crate) fn a_successor_that_does_not_answer_or_has_no_room_costs_no_stream() {
    hold("mute,frozen,links-taken,descriptors");
}

pub(crate) fn a_policy_that_comes_during_a_hand_over_cuts_its_streams_alone() {
    hold("policy");
}

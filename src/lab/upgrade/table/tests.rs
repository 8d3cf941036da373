//! A row says what was lost, and whether that is what was due.

use super::*;

#[test]
fn a_row_says_what_was_lost_and_what_was_due() {
    let mut outcome = Outcome {
        name: "mixed",
        what: "all of these",
        streams: 1_000,
        upgrades: 50,
        new: 700,
        stalls_ms: [0.4, 12.0, 81.2],
        calm_ms: 9.0,
        grown_bytes: [3 << 20, 31 << 20],
        hand_over_ms: [120.0, 300.0],
        ..Outcome::default()
    };
    let text = markdown(std::slice::from_ref(&outcome), "A run.");
    let row = "| `mixed` | all of these | 50 | 0 of 1000 | equal | 700 | 0 | 0 / 12 / 81 ms (9) | +3 / +31 MiB | 120 / 300 ms |";
    assert_eq!(text.lines().last(), Some(row));
    assert_eq!(header().chars().count(), cells(&outcome).chars().count());
    (outcome.lost, outcome.had_to, outcome.wrong) = (7, 5, 1);
    outcome.complain("7 streams lost".to_owned());
    let text = markdown(&[outcome], "A run.");
    assert!(text.contains("| 7 of 1000 (5 due) | 1 WRONG |") && text.contains("**does not hold**"), "{text}");
}

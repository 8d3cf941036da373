//! The table has a row for each attack, and says where a ceiling was passed.

use super::*;
use crate::lab::attack::ceilings::QUIET;

#[test]
fn a_row_that_does_not_hold_says_so() {
    let held = Outcome {
        name: "pings",
        who: "peer",
        what: "PING",
        blows: 12_345,
        slowest_ms: 9,
        recovered_ms: Some(1_250),
        grown_bytes: 3 << 20,
        ..Outcome::default()
    };
    let broken = Outcome { name: "queries", complaints: vec!["lost".into()], ..Outcome::default() };
    let text = markdown(&[held.clone(), broken], &QUIET, "All of it.");
    assert!(
        text.contains("| `pings` | peer | PING | 12345 | 9 ms | 0 ms | 0 | +3 MiB | +0 | 1.2 s |"),
        "{text}"
    );
    assert!(text.contains("| never **does not hold** |"), "{text}");
    assert_eq!(cells(&held).len(), header().len());
}

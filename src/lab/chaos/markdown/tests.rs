use super::*;
use crate::lab::chaos::allowed::STANDARD;

fn outcome(fault: &str, more: &str) -> Outcome {
    let json = format!(
        "{{\"kind\": \"conns\", \"fault\": \"{fault}\", \"actor\": \"x\", \"streams\": 16, \"streamsLost\": 8, \
             \"requests\": 230, \"requestsFailed\": 18, \"wrong\": 0, \"stall\": 13.4, \"detect\": 1.9, \
             \"readiness\": \"ready\", {more}}}"
    );
    serde_json::from_str(&json).unwrap()
}

#[test]
fn each_kind_that_was_tried_has_a_row_and_the_last_trial_counts() {
    let outcomes = [
        outcome("kill", "\"repair\": 3000.0, \"complaints\": [\"late\"]"),
        outcome("kill", "\"repair\": 103.2, \"complaints\": []"),
        outcome("hang", "\"repair\": null, \"complaints\": []"),
        outcome("start", "\"repair\": 6400.0, \"complaints\": [\"late\"]"),
    ];
    let text = tables(&Allowed::parse(STANDARD).unwrap(), &outcomes);
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| conns")).collect();
    let short = "| conns | 8 of 16 | 18 of 230 | 1.9 ms | 103 ms | 13 ms | 103 ms |";
    let whole = "| conns | 8 + 18; 13 ms; 1.9 ms → 103 ms |  | 8 + 18; 13 ms |  | 8 + 18; 13 ms; 1.9 ms → 6.4 s \
                     **does not hold** | ready |";
    assert_eq!(rows, [short, whole]);
    assert!(!text.contains("| xds"), "{text}");
}

//! The blast-radius matrix, held to `src/lab/chaos/allowed.yaml`: who is lost with an actor, that its end is noticed and
//! repaired in time, and that readiness tells the truth. `warren lab chaos` is the long one.

use std::collections::BTreeSet;

use warren::lab::{
    chaos::{TestMatrix, Verdict},
    testing::{program, scratch},
};

/// Faults that are over soon: a hang that the watchdog finds, one of each kind of owner; slowness of those that most
/// depends on; starts that fail.
const SOME: &str =
    "xds/hang,zds/hang,audit/hang,capture plaintext/hang,certs/slow,tunnels/slow,telemetry/start";

fn run(only: &str, allowed: Option<&str>) -> Result<Vec<Verdict>, String> {
    let (program, directory) = (program("warren").unwrap(), scratch());
    let matrix = TestMatrix { only, program: &program, directory: &directory };
    let verdicts = allowed.map_or_else(|| matrix.run(), |allowed| matrix.run_by(allowed));
    verdicts.map_err(|error| error.to_string())
}

/// All of them hold.
fn assert_held(verdicts: &[Verdict]) {
    let mut bad = Vec::new();
    for Verdict { kind, fault, cost, complaints } in verdicts {
        println!("{kind:18} {fault:6} {cost}");
        if !complaints.is_empty() {
            bad.push(format!("{fault} of {kind}: {}", complaints.join("; ")));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

pub(crate) fn every_kind_of_actor_killed_or_panicking_costs_what_it_may_and_is_repaired() {
    let verdicts = run("*/kill,*/panic", None).unwrap();
    assert_held(&verdicts);
    let spared = TestMatrix::standard().matches("spared: \"").count();
    let rows = TestMatrix::standard().matches("- {kind: ").count() - spared;
    for fault in ["kill", "panic"] {
        let kinds: BTreeSet<&str> =
            verdicts.iter().filter(|verdict| verdict.fault == fault).map(|verdict| &*verdict.kind).collect();
        assert_eq!(kinds.len(), rows, "{fault}: {kinds:?}");
    }
}

pub(crate) fn actors_that_hang_are_slow_or_cannot_start_cost_what_they_may() {
    let verdicts = run(SOME, None).unwrap();
    assert_held(&verdicts);
    assert_eq!(verdicts.len(), SOME.split(',').count());
}

pub(crate) fn an_actor_of_a_kind_without_a_row_fails_the_matrix() {
    let without: String = TestMatrix::standard()
        .lines()
        .filter(|line| !line.contains("kind: xds,"))
        .map(|line| format!("{line}\n"))
        .collect();
    let error = run("telemetry/kill", Some(&without)).unwrap_err();
    assert!(error.contains("root/meshsup/xds is in no row: add one for its kind"), "{error}");
}

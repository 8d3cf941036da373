//! What died is told by `/crashes` and `warren crashes`, whatever it was.

use serde_json::Value;

use crate::{command::warren, support::*};

/// The report of this death of what is at `path`, as soon as there is one that `is` as wanted.
fn report(lab: &Lab, path: &str, death: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("report of {path}, {death}"), || {
        let (_, text) = admin(lab, "one", "GET /crashes").filter(|(status, _)| *status == 200)?;
        let shown: Value = serde_json::from_str(&text).unwrap();
        let reports = shown["reports"].as_array().unwrap();
        reports.iter().find(|found| found["path"] == path && found["death"] == death && is(found)).cloned()
    })
}

pub(crate) fn panics_of_admin_connections_and_failed_starts_are_reported() {
    let lab = raise();
    chaos(&lab, "one", "/tasks/http/panic");
    // Whichever connection is served next, of the three servers.
    drop(admin(&lab, "one", "GET /"));
    let died = report(&lab, "root/admin/console/http", "task-panicked", |_| true);
    assert_eq!((&died["is"], &died["again"]), (&"http".into(), &0.into()));
    assert!(died["location"].as_str().unwrap().starts_with("src/supervisor/faults/tripwire.rs:"), "{died}");
    let frames = died["backtrace"].as_array().unwrap();
    assert!(
        frames[0].as_str().unwrap().starts_with("warren::supervisor::faults::tripwire::panic_on_request"),
        "{died}"
    );
    assert_eq!(counter(&lab, "one", "warren_task_panics_total{kind=\"http\"}"), 1);

    chaos(&lab, "one", "/actors/root/telemetry/fail-starts?times=3");
    break_actor(&lab, "one", "root/telemetry", "kill");
    let failed = report(&lab, "root/telemetry", "start-failed", |found| found["again"] == 2);
    assert!(failed["reason"].as_str().unwrap().contains("it was told to fail"), "{failed}");
    let (code, listed, _) = warren(lab.node("one").unwrap(), &["crashes"]);
    let said = |death: &str, path: &str| {
        listed.lines().any(|line| line.contains(&format!("  {death}  ")) && line.contains(path))
    };
    assert_eq!(code, 0);
    assert!(said("task-panicked", "root/admin/console/http"), "{listed}");
    assert!(said("start-failed ", "root/telemetry"), "{listed}");
    let number = died["number"].to_string();
    let (code, shown, _) = warren(lab.node("one").unwrap(), &["crashes", &number]);
    assert!(
        code == 0 && shown.contains("\nframe     warren::supervisor::faults::tripwire::panic_on_request"),
        "{shown}"
    );
}

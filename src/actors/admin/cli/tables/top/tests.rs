//! Rates out of two looks.

use serde_json::json;

use super::*;

fn look(received: u64, cpu: f64) -> Value {
    json!({
        "pods": [{"uid": "u", "name": "ns/a", "opened": 10, "received": received, "sent": 3}],
        "process": {
            "uptimeSeconds": 90, "residentBytes": 25_000_000,
            "shards": [{"connections": 2, "tunnels": 1, "cpuSeconds": cpu}, {"connections": 1, "tunnels": 0, "cpuSeconds": 0}],
        },
    })
}

#[test]
fn rates_are_the_change_by_the_time() {
    let (before, now) = (look(1000, 5.0), look(5000, 5.5));
    let row = rates(&before, &now, 2.0).remove(0);
    assert_eq!((number(&row, "receivedPerSecond"), number(&row, "sentPerSecond")), (2000.0, 0.0));
    let line = process(&before, &now, 2.0);
    assert_eq!(line, "up 1m30s, 25.0 MB resident, 3 connections, 1 tunnels, processor by shard: 25% 0%");
}

#[test]
fn a_pod_that_was_not_there_before_has_no_rate() {
    let row = rates(&json!({"pods": []}), &look(5000, 0.0), 1.0).remove(0);
    assert_eq!(number(&row, "receivedPerSecond"), 0.0);
}

use std::time::SystemTime;

use super::*;
use crate::supervisor::{ExitNote, NodeState};

#[test]
fn a_tree_reads_from_the_root_down() {
    let leaf = NodeSnapshot {
        path: "root/xds".into(),
        id: "xds".into(),
        shown_as: Some("default/web".into()),
        kind_label: "xds",
        kind: NodeKind::Worker,
        state: NodeState::BackingOff,
        restarts: 2,
        last_exit: Some(ExitNote {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(86_400),
            reason: "panicked: \"x\"".to_owned(),
        }),
        load: Load {
            depth: 3,
            oldest: Duration::from_micros(1500),
            handled: 7,
            busy: Duration::from_millis(12),
            longest: Some(("tick", Duration::from_millis(9))),
            handling: Some(("ended", Duration::from_micros(250))),
        },
        children: vec![],
    };
    let root = NodeSnapshot {
        path: "root".into(),
        id: "root".into(),
        shown_as: None,
        kind_label: "supervisor",
        kind: NodeKind::Supervisor,
        state: NodeState::Up,
        restarts: 0,
        last_exit: None,
        load: Load::default(),
        children: vec![leaf],
    };
    let value = nodes(&[root]);
    assert_eq!(value[0]["lastExit"], Value::Null);
    assert!(value[0].get("name").is_none());
    assert_eq!(value[0]["handlers"]["now"], Value::Null);
    assert_eq!(
        value[0]["children"][0],
        json!({
            "path": "root/xds", "id": "xds", "name": "default/web", "is": "xds", "kind": "worker",
            "state": NodeState::BackingOff.as_str(), "restarts": 2,
            "lastExit": {"at": "1970-01-02T00:00:00Z", "reason": "panicked: \"x\""},
            "mailbox": {"depth": 3, "oldestMs": 1.5},
            "handlers": {
                "handled": 7, "busyMs": 12.0,
                "longest": {"kind": "tick", "ms": 9.0}, "now": {"kind": "ended", "ms": 0.25},
            },
            "children": [],
        })
    );
}

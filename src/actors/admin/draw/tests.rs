use serde_json::json;

use super::*;

fn idle() -> serde_json::Value {
    json!({"handled": 1, "busyMs": 0.5, "longest": {"kind": "tick", "ms": 0.5}, "now": null})
}

fn shown() -> Vec<ShownNode> {
    let leaf = |id: &str, state: &str, exit| {
        json!({"path": "p", "id": id, "is": "worker", "kind": "worker", "state": state, "restarts": 2,
            "lastExit": exit, "mailbox": {"depth": 0, "oldestMs": 0.0}, "handlers": idle(), "children": []})
    };
    let mut busy = leaf("c", "backing-off", json!(null));
    busy["mailbox"] = json!({"depth": 12, "oldestMs": 1500.0});
    busy["handlers"] = json!({"handled": 3, "busyMs": 2100.25, "longest": {"kind": "apply", "ms": 2000.0},
        "now": {"kind": "tick", "ms": 40.5}});
    let crash = json!({"at": "2026-01-02T03:04:05.678Z", "reason": "boom\n\u{1b}[2J!"});
    let inner = json!({"path": "p", "id": "inner", "is": "supervisor", "kind": "supervisor", "state": "up",
        "restarts": 0, "lastExit": null, "mailbox": {"depth": 0, "oldestMs": 0.0}, "handlers": idle(),
        "children": [leaf("a", "up", json!(null)), leaf("b", "down", crash)]});
    let mut inner = inner;
    inner["name"] = json!("default/web");
    inner["children"][0]["name"] = json!("default/web");
    let root = json!([{"path": "root", "id": "root", "is": "supervisor", "kind": "supervisor", "state": "up",
        "restarts": 0, "lastExit": null, "mailbox": {"depth": 0, "oldestMs": 0.0}, "handlers": idle(),
        "children": [inner, busy]}]);
    serde_json::from_value(root).unwrap()
}

#[test]
fn a_tree_is_drawn_in_columns() {
    let want = "\
ACTOR                   KIND        STATE        RESTARTS  QUEUE    BUSY   LONGEST     NOW        LAST CRASH
root                    supervisor  up           0                  500us
├─ inner (default/web)  supervisor  up           0                  500us
│  ├─ a                 worker      up           2                  500us
│  └─ b                 worker      down         2                  500us                         2026-01-02T03:04:05Z boom  [2J!
└─ c                    worker      backing-off  2         12 1.5s  2.1s   2.0s apply  40ms tick
";
    assert_eq!(draw(&shown(), false), want);
}

#[test]
fn notes_follow_the_tree() {
    let mut roots = shown();
    roots[0].notes = vec!["out of the mesh: pod a\u{1b}".to_owned()];
    let (plain, coloured) = (draw(&roots, false), draw(&roots, true));
    assert_eq!(plain, draw(&shown(), false) + "out of the mesh: pod a \n");
    assert!(coloured.ends_with("\x1b[33mout of the mesh: pod a \x1b[0m\n"), "{coloured}");
}

#[test]
fn what_is_quarantined_is_listed_in_columns() {
    assert_eq!(list(&[]), "nothing is quarantined\n");
    let aside: Vec<QuarantinedInput> = serde_json::from_value(json!([
        {"kind": "peer", "name": "10.0.0.1:15008", "crashes": 2, "retryInSeconds": 29},
        {"kind": "actor", "name": "root/a\n", "shownAs": "default/web", "crashes": 6, "retryInSeconds": null},
    ]))
    .unwrap();
    let want = "\
KIND      NAME                   CRASHES  NEXT TRY
peer      10.0.0.1:15008         2        in 29 s
actor     root/a  (default/web)  6        later
";
    assert_eq!(list(&aside), want);
}

#[test]
fn colours_change_nothing_but_colours() {
    let coloured = draw(&shown(), true);
    assert!(coloured.contains("\x1b[31mdown\x1b[0m") && coloured.contains("\x1b[32mup\x1b[0m"));
    let plain = [BOLD, GREEN, YELLOW, RED, PLAIN].iter().fold(coloured, |text, code| text.replace(code, ""));
    assert_eq!(plain, draw(&shown(), false));
}

#[test]
fn a_long_reason_is_cut() {
    let exit = Exit { at: "2026-01-02T03:04:05Z".to_owned(), reason: "é".repeat(200) };
    assert_eq!(exit.line(), format!("2026-01-02T03:04:05Z {}…", "é".repeat(90)));
}

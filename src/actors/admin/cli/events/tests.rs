//! Lines of events.

use super::*;

#[test]
fn an_event_is_a_line_and_what_is_missing_is_said() {
    let answer: Answer = serde_json::from_str(
        r#"{"last": 9, "missed": 3, "events": [
            {"number": 8, "at": "2026-01-01T00:00:00.5Z", "kind": "denial", "pod": "ns/a", "says": "x\u001b to y"},
            {"number": 9, "at": "2026-01-01T00:00:01Z", "kind": "push", "pod": null, "says": "3 addresses"}]}"#,
    )
    .unwrap();
    let screen = Screen { colours: false, is_terminal: false, columns: usize::MAX };
    let want = "(3 events are missing here)\n\
                2026-01-01T00:00:00.5Z denial      ns/a: x  to y\n\
                2026-01-01T00:00:01Z push        3 addresses\n";
    assert_eq!(lines(&answer, EventsFormat::Text, &screen).unwrap(), want);
    let json = lines(&answer, EventsFormat::Json, &screen).unwrap();
    assert_eq!(json.lines().count(), 2);
    assert!(json.starts_with(r#"{"number":8,"at":"2026"#), "{json}");
}

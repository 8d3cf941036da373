//! Queries for events, and what they show.

use super::*;

#[test]
fn queries_are_read_and_mistakes_are_named() {
    let wanted = Wanted::parse("after=7&wait=3&pod=ns%2Fa&kind=denial&other=1").unwrap();
    let want =
        Wanted { after: 7, wait: Duration::from_secs(3), pod: Some("ns/a".into()), kind: Some("denial") };
    assert_eq!(wanted, want);
    assert_eq!(Wanted::parse("wait=9999").unwrap().wait, WAIT_AT_MOST);
    assert_eq!(Wanted::parse("after=x").unwrap_err(), "after=x is no number");
    let unknown = Wanted::parse("kind=joy").unwrap_err();
    assert!(unknown.starts_with("no events \"joy\"; there are: pod, tunnel, "), "{unknown}");
}

#[test]
fn events_are_shown_by_pod_and_kind() {
    let events = Events::default();
    events.tell(EventKind::Pod, Some("ns/a"), || "served");
    events.tell(EventKind::Denial, Some("ns/b"), || "denied");
    let says = |query: &str| {
        let shown = shown(&events.after(0), &Wanted::parse(query).unwrap());
        let events = shown["events"].as_array().unwrap().clone();
        events.iter().map(|event| event["says"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(says(""), ["served", "denied"]);
    assert_eq!(says("pod=ns/a"), ["served"]);
    assert_eq!(says("kind=denial"), ["denied"]);
    assert_eq!(says("kind=denial&pod=ns/a"), [""; 0]);
}

#[test]
fn times_are_as_long_as_each_other() {
    let at = OffsetDateTime::UNIX_EPOCH + Duration::from_millis(61_020);
    assert_eq!(timestamp(at), "1970-01-01T00:01:01.020Z");
}

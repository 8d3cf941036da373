use super::*;

#[test]
fn reports_are_listed_and_one_is_shown_in_full() {
    let report = json!({
        "number": 7, "at": "2026-01-02T03:04:05Z", "path": "root/xds", "name": "default/web", "is": "xds", "death": "killed",
        "reason": "a\u{1b}b", "again": 0, "handling": {"kind": "ended", "ms": 1.5}, "trace": null, "waiting": 2,
        "location": null,
        "messages": [{"kind": "tick", "span": "step", "trace": trace(0xfe), "agoMs": 3.0, "waitedMs": 0.5,
            "tookMs": 0.25}],
        "backtrace": ["warren::run"],
    });
    let shown = json!({"dropped": 1, "reports": [report]});
    let list = draw(&shown, None).unwrap();
    let (line, rest) = list.split_once('\n').unwrap();
    assert_eq!(line, "   7  2026-01-02T03:04:05Z  killed         root/xds (default/web)  a b");
    assert_eq!(rest, "1 reports, 1 older ones dropped\n");
    let one = draw(&shown, Some(7)).unwrap();
    assert!(one.contains(" step 000000000000000000000000000000fe\n"), "{one}");
    assert!(one.contains("name      default/web\n"), "{one}");
    assert!(one.contains("message   tick") && one.ends_with("frame     warren::run\n"), "{one}");
    assert_eq!(draw(&shown, Some(8)), None);
}

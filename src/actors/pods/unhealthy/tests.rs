use super::*;

fn named(detail: &str) -> Named {
    Named { pod: "default/web".into(), unhealthy: Unhealthy::new(Reason::Network, detail) }
}

#[test]
fn pods_are_named_up_to_a_bound() {
    assert_eq!(describe(&BTreeMap::new()), "");
    let one = BTreeMap::from([("u1".into(), named("no network"))]);
    assert_eq!(describe(&one), "pod u1 (default/web): no network");
    let many = (0..MAX_NAMED_PODS + 3).map(|n| (format!("u{n:02}").into(), named("gone"))).collect();
    let text = describe(&many);
    assert!(text.contains("pod u15 ") && !text.contains("pod u16 "), "{text}");
    assert!(text.ends_with("; and 3 more"), "{text}");
}

use super::*;

#[test]
fn gateways_are_short_texts() {
    for (text, want) in [
        ("10.0.0.1", Some("10.0.0.1:15008")),
        ("10.0.0.1:15009", Some("10.0.0.1:15009")),
        ("remote/10.0.0.1", Some("remote/10.0.0.1:15008")),
        ("fd00::1", Some("[fd00::1]:15008")),
        ("[fd00::1]:9", Some("[fd00::1]:9")),
        ("shop/wp.shop.svc.cluster.local", Some("shop/wp.shop.svc.cluster.local:15008")),
        ("shop/wp.shop.svc.cluster.local:9", Some("shop/wp.shop.svc.cluster.local:9")),
        ("wp.shop.svc.cluster.local", None),
        ("10.0.0.1:0", None),
        ("shop/", None),
        ("/wp", None),
        ("shop/wp:http", None),
        ("", None),
    ] {
        assert_eq!(text.parse().ok().map(|g: Gateway| g.to_string()).as_deref(), want, "{text}");
    }
}

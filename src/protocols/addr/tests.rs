use super::*;

#[test]
fn authorities_parse_as_ip_or_host() {
    for (text, want) in [
        ("10.0.0.1:80", Some("10.0.0.1:80")),
        ("[::1]:80", Some("[::1]:80")),
        ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80")),
        ("web.ns.svc.cluster.local:8080", Some("web.ns.svc.cluster.local:8080")),
        ("10.0.0.1", None),
        ("10.0.0.1:0", None),
        ("host:0", None),
        ("host:99999", None),
        (":80", None),
        ("ho st:80", None),
        ("::1:80:", None),
        ("", None),
    ] {
        assert_eq!(text.parse::<HboneAddr>().ok().map(|a| a.to_string()), want.map(String::from), "{text}");
    }
}

#[test]
fn mapped_addresses_become_ipv4() {
    let mapped: SocketAddr = "[::ffff:10.1.2.3]:9".parse().unwrap();
    assert_eq!(OrigDst::new(mapped).to_string(), "10.1.2.3:9");
    assert_eq!(ClientAddr::new(mapped).ip().to_string(), "10.1.2.3");
}

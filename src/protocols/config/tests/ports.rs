//! Which ports lead back to the proxy.

use std::net::SocketAddr;

use super::read;

#[test]
fn illegal_ports_are_the_listeners() {
    let illegal = |vars: &[(&str, &str)], ip: &str, port| {
        read(vars).unwrap().listen.ports.is_illegal(SocketAddr::new(ip.parse().unwrap(), port))
    };
    let socks = [("UNSTABLE_ENABLE_SOCKS5", "true")];
    assert!([15001, 15006, 15008, 15053, 15080].iter().all(|port| illegal(&socks, "10.0.0.1", *port)));
    assert!(!illegal(&[], "10.0.0.1", 15080));
    for (name, value, ip, port, expected) in [
        ("ISTIO_META_DNS_CAPTURE", "false", "127.0.0.1", 15053, false),
        ("ISTIO_META_DNS_PROXY_ADDR", "localhost:5353", "10.0.0.1", 5353, true),
        ("ISTIO_META_DNS_PROXY_ADDR", "localhost:5353", "127.0.0.1", 15053, false),
        ("ISTIO_META_DNS_PROXY_ADDR", "0.0.0.0:53", "10.0.0.1", 53, true),
        ("ISTIO_META_DNS_PROXY_ADDR", "169.254.20.10:53", "169.254.20.10", 53, true),
        ("ISTIO_META_DNS_PROXY_ADDR", "169.254.20.10:53", "::ffff:169.254.20.10", 53, true),
        ("ISTIO_META_DNS_PROXY_ADDR", "169.254.20.10:53", "10.0.0.1", 53, false),
    ] {
        assert_eq!(illegal(&[(name, value)], ip, port), expected, "{name}={value}: {ip}:{port}");
    }
}

//! What a proxy answers on its HBONE port, and how it takes peers that do not answer on theirs.

use http::Method;

use crate::{
    logs::{access, line},
    metrics::metrics_show,
    support::{self, *},
    tunnel::{self, Ask, Mute, Said, certificate, id},
};

pub(crate) fn raw_hbone_is_answered_by_the_table_of_statuses() {
    let mut lab = raise(&format!(
        "{MESH}
services:
  - {{name: web, ports: {{80: 9000, 81: 15001}}, endpoints: [server]}}
"
    ));
    let (cert, server) = (certificate(&mut lab, &id("bare")), id("server"));
    let web = "web.default.svc.cluster.local";
    let ask = |method: &Method, authority: &str| {
        let ask = Ask::new(addr("10.77.2.1:15008"), &cert, &server, authority);
        tunnel::ask(lab.pod("bare").unwrap(), &Ask { method: method.clone(), ..ask })
    };
    // It comes first, since the log has only the first ten refusals of a client.
    assert_eq!(ask(&Method::GET, "10.77.2.1:9000"), Said::Status(400));
    for (authority, said) in [
        ("10.77.2.1:9000", Said::Echoed),
        (&format!("{web}:80"), Said::Echoed),
        // Not the address that was dialled, though one of a workload that exists.
        ("10.77.1.2:9000", Said::Status(400)),
        ("10.77.77.77:9000", Said::Status(400)),
        ("127.0.0.1:9000", Said::Status(400)),
        ("nonsense", Said::Status(400)),
        ("10.77.2.1:15001", Said::Status(503)),
        ("10.77.2.1:15006", Said::Status(503)),
        ("10.77.2.1:15008", Said::Status(503)),
        (&format!("{web}:81"), Said::Status(503)),
        (&format!("{web}:82"), Said::Status(503)),
        ("other.default.svc.cluster.local:80", Said::Status(503)),
        // Nobody listens there.
        ("10.77.2.1:9999", Said::Status(503)),
    ] {
        assert_eq!(ask(&Method::CONNECT, authority), said, "{authority}");
    }
    // Without a fitting server name there is no tunnel: this is the server's certificate.
    let wrong = id("near");
    let asked = Ask::new(addr("10.77.2.1:15008"), &cert, &wrong, "10.77.2.1:9000");
    let said = tunnel::ask(lab.pod("bare").unwrap(), &asked);
    assert!(matches!(&said, Said::Broken(why) if why.starts_with("tls: ")), "{said:?}");
    let bare = id("bare");
    for authority in ["10.77.2.1:9000", &format!("{web}:80")] {
        let line = line(&lab, "two", &[("dst.hbone_addr", authority)]);
        assert!(line.has(&[("src.identity", &bare), ("src.workload", "bare"), ("error", "")]), "{line:#?}");
    }
    line(&lab, "two", &[("error", "expected method CONNECT, got GET")]);
}

pub(crate) fn another_trust_domain_is_turned_away_on_both_sides() {
    let mut lab = raise(&format!(
        "{MESH}
  - {{name: stranger, serviceAccount: stranger, node: two, ip: 10.77.2.3, run: echo 9000,
     announce: {{trustDomain: other.example}}}}
"
    ));
    // A client from elsewhere with a certificate of the same authority.
    let elsewhere = certificate(&mut lab, "spiffe://other.example/ns/default/sa/bare");
    let server = id("server");
    let asked = Ask::new(addr("10.77.2.1:15008"), &elsewhere, &server, "10.77.2.1:9000");
    let said = tunnel::ask(lab.pod("bare").unwrap(), &asked);
    assert!(matches!(said, Said::Broken(_)), "{said:?}");
    // A captured client and a server from elsewhere: the connection ends without a byte.
    let end = support::ask(lab.pod("client").unwrap(), addr("10.77.2.3:9000"));
    assert!(is_turned_away(&end), "{end:?}");
    let line = line(&lab, "one", &[("direction", "outbound"), ("dst.workload", "stranger")]);
    assert!(!line.field("error").is_empty() && line.level == "error", "{line:#?}");
    // And the other way round.
    let end = support::ask(lab.pod("stranger").unwrap(), addr(SERVER));
    assert!(is_turned_away(&end), "{end:?}");
    // Nobody got as far as a stream.
    assert!(access(&lab, "two").iter().all(|line| !line.has(&[("direction", "inbound"), ("error", "")])));
    open(&lab, "client", SERVER).unwrap();
}

pub(crate) fn mute_peers_end_in_bounded_time_with_their_flag() {
    let settings = [
        ("WARREN_CONNECT_TIMEOUT", "1s"),
        ("WARREN_TLS_HANDSHAKE_TIMEOUT", "1s"),
        // A client gives a server the time for a certificate, too.
        ("WARREN_CERTIFICATE_TIMEOUT", "2s"),
        ("WARREN_H2_SETTINGS_TIMEOUT", "1s"),
        ("WARREN_CONNECT_RESPONSE_TIMEOUT", "2s"),
    ];
    let mute_pod = |name: &str, ip: &str| {
        format!(
            "  - {{name: {name}, serviceAccount: {name}, node: two, ip: {ip}, captured: false, protocol: HBONE}}\n"
        )
    };
    let pods = [
        ("mute-in-tcp", "10.77.2.11", None, &["NETWORK_POLICY"][..]),
        ("mute-in-tls", "10.77.2.12", Some(Mute::Tls), &["CONNECT"]),
        ("mute-in-http2", "10.77.2.13", Some(Mute::Http2), &["H2_HANDSHAKE_FAILURE"]),
        ("mute-in-connect", "10.77.2.14", Some(Mute::Answer), &["H2_HANDSHAKE_FAILURE"]),
    ];
    let mesh: String = pods.iter().map(|(name, ip, ..)| mute_pod(name, ip)).collect();
    let mut lab = raise_with(&format!("{MESH}{mesh}"), &settings, Default::default());
    let mut servers = Vec::new();
    for (name, _, mute, _) in pods {
        match mute {
            Some(mute) => {
                let cert = certificate(&mut lab, &id(name));
                servers.push(tunnel::mute(lab.pod(name).unwrap(), &cert, mute));
            }
            None => {
                let role = warren::lab::hosts::Role::Pod;
                lab.hosts_mut().set_connected(role, &format!("default/{name}"), false).unwrap();
            }
        }
    }
    for (name, ip, _, flags) in pods {
        let end = support::ask(lab.pod("client").unwrap(), addr(&format!("{ip}:9000")));
        assert!(is_turned_away(&end), "{name}: {end:?}");
        let line = line(&lab, "one", &[("direction", "outbound"), ("dst.workload", name)]);
        assert!(line.level == "error" && !line.field("error").is_empty(), "{line:#?}");
        assert!(line.has(&[("dst.addr", &format!("{ip}:15008"))]), "{line:#?}");
        metrics_show(&lab, "one", &format!("closed connection to {name} with {flags:?}"), |metrics| {
            let closed = |flag| {
                let labels =
                    [("reporter", "source"), ("destination_workload", name), ("response_flags", flag)];
                metrics.sum("istio_tcp_connections_closed_total", &labels)
            };
            flags.iter().map(|flag| closed(flag)).sum::<f64>() == 1.0
        });
    }
    let counts: Vec<usize> = servers.into_iter().map(|server| server.finish().unwrap()).collect();
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    // Nobody else has suffered.
    open(&lab, "client", SERVER).unwrap();
}

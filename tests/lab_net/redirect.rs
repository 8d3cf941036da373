use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use warren::lab::{
    hosts::Role,
    net::{
        Namespace,
        redirect::{PROXY_MARK, Redirection},
    },
};

use crate::support::*;

/// A server of the world that neither pod is.
const VIPS: [&str; 2] = ["10.77.200.1", "fd00::200:1"];

fn redirected(name: &str, redirection: Redirection) -> Pair {
    let mut pair = Pair::new();
    pair.hosts.redirect(Role::Pod, name, redirection).unwrap();
    pair
}

pub(crate) fn outbound_connections_arrive_at_15001_with_their_destination() {
    let pair = redirected("a", Redirection::default());
    let proxy = listen(&pair.a, 15001);
    for destination in [at(B[0], 80), at(B[1], 443), at(VIPS[0], 80), at(VIPS[1], 15008)] {
        let client = connect(&pair.a, destination, None, None).unwrap();
        let accepted = accept(&proxy);
        assert_eq!(original_destination(&accepted), destination);
        assert_eq!(peer(&accepted), canonical(client.local_addr().unwrap()));
        talk(&client, &accepted);
    }
}

pub(crate) fn inbound_connections_arrive_at_15006_with_their_destination() {
    let pair = redirected("b", Redirection::default());
    let proxy = listen(&pair.b, 15006);
    let app = listen(&pair.b, 8080);
    for (source, destination) in [(A[0], at(B[0], 8080)), (A[1], at(B[1], 9999))] {
        let client = connect(&pair.a, destination, None, None).unwrap();
        let accepted = accept(&proxy);
        assert_eq!(original_destination(&accepted), destination);
        assert_eq!(peer(&accepted).ip(), at(source, 0).ip());
        talk(&client, &accepted);
    }
    assert!(try_accept(&app, SHORT).is_none());
}

pub(crate) fn hbone_is_not_redirected() {
    let pair = redirected("b", Redirection::default());
    let (hbone, plaintext) = (listen(&pair.b, 15008), listen(&pair.b, 15006));
    for ip in B {
        let client = connect(&pair.a, at(ip, 15008), None, None).unwrap();
        talk(&client, &accept(&hbone));
    }
    assert!(try_accept(&plaintext, SHORT).is_none());
}

pub(crate) fn packets_with_the_proxys_mark_escape() {
    let pair = redirected("a", Redirection::default());
    let proxy = listen(&pair.a, 15001);
    let server = listen(&pair.b, 8080);
    for ip in B {
        let client = connect(&pair.a, at(ip, 8080), Some(PROXY_MARK), None).unwrap();
        talk(&client, &accept(&server));
    }
    assert!(try_accept(&proxy, SHORT).is_none());
}

pub(crate) fn a_spoofed_source_gets_its_answers() {
    let pair = redirected("b", Redirection::default());
    let app = listen(&pair.b, 8080);
    let captured = [listen(&pair.b, 15001), listen(&pair.b, 15006)];
    for (source, own) in [(A[0], B[0]), (A[1], B[1])] {
        // The proxy of b connects to the app as the client.
        let source = at(source, 0).ip();
        let proxy = connect(&pair.b, at(own, 8080), Some(PROXY_MARK), Some(source)).unwrap();
        let accepted = accept(&app);
        assert_eq!(peer(&accepted), canonical(proxy.local_addr().unwrap()));
        assert_eq!(peer(&accepted).ip(), source);
        talk(&proxy, &accepted);
    }
    assert!(captured.iter().all(|listener| try_accept(listener, SHORT).is_none()));
}

pub(crate) fn loopback_and_the_pods_own_address_bypass_the_proxy() {
    let pair = redirected("a", Redirection::default());
    let proxies = [listen(&pair.a, 15001), listen(&pair.a, 15006)];
    let app = listen(&pair.a, 8080);
    for ip in ["127.0.0.1", "::1", A[0], A[1]] {
        let client = connect(&pair.a, at(ip, 8080), None, None).unwrap();
        // To its own address the packet also passes the inbound rules, but as a connection that was accepted
        // on its way out.
        talk(&client, &accept(&app));
    }
    assert!(proxies.iter().all(|listener| try_accept(listener, SHORT).is_none()));
}

pub(crate) fn probes_bypass_the_proxy() {
    let mut pair = redirected("b", Redirection::default());
    let probes = ["169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"];
    let kubelet = pair.hosts.add(Role::Node, "n", &ips(&probes)).unwrap().namespace().clone();
    let app = listen(&pair.b, 8080);
    for ip in B {
        let client = connect(&kubelet, at(ip, 8080), None, None).unwrap();
        talk(&client, &accept(&app));
    }
    let server = listen(&kubelet, 8080);
    for ip in probes {
        let client = connect(&pair.b, at(ip, 8080), None, None).unwrap();
        talk(&client, &accept(&server));
    }
}

pub(crate) fn inbound_capture_can_be_bypassed() {
    let pair = redirected("b", Redirection { bypass_inbound: true, ..Redirection::default() });
    let (app, proxy, server) = (listen(&pair.b, 8080), listen(&pair.b, 15001), listen(&pair.a, 8080));
    for (a, b) in [(A[0], B[0]), (A[1], B[1])] {
        let client = connect(&pair.a, at(b, 8080), None, None).unwrap();
        talk(&client, &accept(&app));
        let client = connect(&pair.b, at(a, 8080), None, None).unwrap();
        talk(&client, &accept(&proxy));
    }
    assert!(try_accept(&server, SHORT).is_none());
}

pub(crate) fn virtual_interfaces_count_as_outbound() {
    let virtual_interfaces = vec!["eth0".to_owned()];
    let pair = redirected("b", Redirection { virtual_interfaces, ..Redirection::default() });
    let (outbound, inbound) = (listen(&pair.b, 15001), listen(&pair.b, 15006));
    for ip in B {
        let client = connect(&pair.a, at(ip, 8080), None, None).unwrap();
        let accepted = accept(&outbound);
        assert_eq!(original_destination(&accepted), at(ip, 8080));
        talk(&client, &accepted);
    }
    assert!(try_accept(&inbound, SHORT).is_none());
}

fn udp(namespace: &Namespace, addr: SocketAddr, mark: Option<u32>) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(addr)).unwrap().unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    if let Some(mark) = mark {
        socket2::SockRef::from(&socket).set_mark(mark).unwrap();
    }
    socket
}

/// Whether what `client` sends to `to` comes to `server`, which answers.
fn asks(client: &UdpSocket, to: SocketAddr, server: &UdpSocket, limit: Duration) -> bool {
    let mut buffer = [0; 16];
    client.send_to(b"name?", to).unwrap();
    server.set_read_timeout(Some(limit)).unwrap();
    let Ok((_, from)) = server.recv_from(&mut buffer) else { return false };
    server.send_to(b"address", from).unwrap();
    let (length, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (b"address".as_slice(), to));
    true
}

pub(crate) fn dns_is_redirected_only_if_asked_for() {
    for dns in [true, false] {
        let pair = redirected("a", Redirection { dns, ..Redirection::default() });
        let server = udp(&pair.b, at(B[0], 53), None);
        let proxy = udp(&pair.a, at("127.0.0.1", 15053), None);
        let client = udp(&pair.a, at("0.0.0.0", 0), None);
        let wanted = if dns { &proxy } else { &server };
        assert!(asks(&client, at(B[0], 53), wanted, LIMIT));
        let own = udp(&pair.a, at("0.0.0.0", 0), Some(PROXY_MARK));
        assert!(asks(&own, at(B[0], 53), &server, LIMIT));
        assert!(asks(&client, at(B[0], 53), wanted, LIMIT));

        let wanted = listen(&pair.a, if dns { 15053 } else { 15001 });
        for ip in B {
            let client = connect(&pair.a, at(ip, 53), None, None).unwrap();
            talk(&client, &accept(&wanted));
        }
    }
}

pub(crate) fn removed_rules_redirect_nothing() {
    for dns in [true, false] {
        let mut pair = redirected("a", Redirection { dns, ..Redirection::default() });
        pair.hosts.release(Role::Pod, "a").unwrap();
        let (server, proxy) = (listen(&pair.b, 8080), listen(&pair.a, 15001));
        for ip in B {
            let client = connect(&pair.a, at(ip, 8080), None, None).unwrap();
            talk(&client, &accept(&server));
        }
        assert!(try_accept(&proxy, SHORT).is_none());
        pair.hosts.redirect(Role::Pod, "a", Redirection::default()).unwrap();
        let client = connect(&pair.a, at(B[0], 8080), None, None).unwrap();
        talk(&client, &accept(&proxy));
    }
}

pub(crate) fn rules_applied_twice_are_refused_by_name() {
    let mut pair = redirected("a", Redirection::default());
    let error = pair.hosts.redirect(Role::Pod, "a", Redirection::default()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("warren-t-pod-a") && text.contains("table 100"), "{text}");
}

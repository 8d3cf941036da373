use std::{fs, net::UdpSocket, time::Instant};

use warren::lab::hosts::{HostError, Role};

use crate::support::*;

pub(crate) fn hosts_of_any_address_reach_each_other() {
    let mut pair = Pair::new();
    let ip = ips(&["203.0.113.5"]);
    let outside = pair.hosts.add(Role::Outside, "world", &ip).unwrap().namespace().clone();
    for (from, listener, to) in
        [(&pair.a, &pair.b, B[0]), (&pair.a, &pair.b, B[1]), (&pair.a, &outside, "203.0.113.5")]
    {
        let listener = listen(listener, 8080);
        let client = connect(from, at(to, 8080), None, None).unwrap();
        let server = accept(&listener);
        assert!(ips(&A).contains(&peer(&server).ip()));
        talk(&client, &server);
    }
}

pub(crate) fn a_host_has_suitable_network_settings() {
    let pair = Pair::new();
    let setting =
        |path: &str| pair.a.run(|| fs::read_to_string(format!("/proc/sys/net/ipv4/{path}")).unwrap());
    let ports: Vec<u32> = setting("ip_local_port_range")
        .unwrap()
        .split_whitespace()
        .map(|port| port.parse().unwrap())
        .collect();
    assert_eq!(ports, [1024, 65535]);
    assert_eq!(setting("ip_local_reserved_ports").unwrap().trim(), "15000-15099");
    assert_eq!(setting("tcp_tw_reuse").unwrap().trim(), "1");
}

pub(crate) fn a_removed_hosts_address_can_be_given_to_another_at_once() {
    let mut pair = Pair::new();
    let listener = listen(&pair.b, 8080);
    let client = connect(&pair.a, at(B[0], 8080), None, None).unwrap();
    talk(&client, &accept(&listener));
    pair.hosts.remove(Role::Pod, "b").unwrap();
    let other = pair.hosts.add(Role::Pod, "c", &ips(&B)).unwrap().namespace().clone();
    let listener = listen(&other, 8080);
    let client = connect(&pair.a, at(B[0], 8080), None, None).unwrap();
    talk(&client, &accept(&listener));
}

pub(crate) fn names_and_addresses_are_unique_and_unknown_ones_are_named() {
    let mut pair = Pair::new();
    let twice = pair.hosts.add(Role::Pod, "a", &ips(&["10.77.9.9"])).unwrap_err();
    assert!(matches!(twice, HostError::Twice { .. }), "{twice}");
    let same = pair.hosts.add(Role::Node, "n", &ips(&[B[0]])).unwrap_err();
    assert_eq!(same.to_string(), "n and b both have the address 10.77.2.1");
    let unknown = pair.hosts.find(Role::Pod, "x").unwrap_err();
    assert_eq!(unknown.to_string(), "there is no pod called x; there are: a, b");
}

pub(crate) fn an_unplugged_host_is_silent_until_it_is_mended() {
    let pair = Pair::new();
    let bind = |ip| UdpSocket::bind(at(ip, 9000)).unwrap();
    let (a, b) = (pair.a.run(|| bind(A[0])).unwrap(), pair.b.run(|| bind(B[0])).unwrap());
    let mut buffer = [0; 8];
    for (connected, limit) in [(true, LIMIT), (false, SHORT), (true, LIMIT)] {
        pair.hosts.set_connected(Role::Pod, "b", connected).unwrap();
        // What was on its way before the change says nothing about it.
        b.set_nonblocking(true).unwrap();
        while b.recv(&mut buffer).is_ok() {}
        b.set_nonblocking(false).unwrap();
        b.set_read_timeout(Some(SHORT)).unwrap();
        // Neither are lone datagrams promised to arrive: the first may be lost while the address is looked up.
        let until = Instant::now() + limit;
        let heard = loop {
            a.send_to(b"x", at(B[0], 9000)).unwrap();
            let heard = b.recv(&mut buffer).is_ok();
            if heard || Instant::now() >= until {
                break heard;
            }
        };
        assert_eq!(heard, connected);
    }
}

//! Who reaches whom, through what, and what both proxies say of it.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use socket2::{Domain, Socket, Type};

use crate::{
    logs::line,
    metrics::{Metrics, all_closed, metrics, metrics_show},
    support::*,
    tunnel::id,
};

/// Bytes of a request and of its answer, and the answer.
struct Fetched {
    up: u64,
    down: u64,
    answer: String,
}

/// One request to the web server of a pod, on a connection of its own.
fn fetch(lab: &Lab, pod: &str, to: &str) -> Fetched {
    let mut stream = dial(lab, pod, to).unwrap();
    let request =
        format!("GET / HTTP/1.1\r\nhost: {to}\r\nx: {}\r\nconnection: close\r\n\r\n", "x".repeat(3000));
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    Fetched { up: request.len() as u64, down: answer.len() as u64, answer }
}

/// Waits until the counters of the connections with these labels are those of the one connection `fetched`.
fn assert_counted(lab: &Lab, node: &str, fetched: &Fetched, labels: &[(&str, &str)]) {
    let counted = |metrics: &Metrics| {
        let sum = |name| metrics.sum(name, labels);
        sum("istio_tcp_connections_opened_total") == 1.0
            && sum("istio_tcp_connections_closed_total") == 1.0
            && sum("istio_tcp_received_bytes_total") == fetched.up as f64
            && sum("istio_tcp_sent_bytes_total") == fetched.down as f64
    };
    let what = format!("{} bytes up and {} down with {labels:?}", fetched.up, fetched.down);
    metrics_show(lab, node, &what, counted);
}

pub(crate) fn captured_to_captured_is_mutual_tls_and_both_proxies_tell_the_same() {
    let lab = raise(MESH);
    for (server, ip, node) in [("server", "10.77.2.1", "two"), ("near", "10.77.1.2", "one")] {
        let fetched = fetch(&lab, "client", &format!("{ip}:8080"));
        assert!(fetched.answer.contains(&format!("pod={server} client=10.77.1.1:")), "{}", fetched.answer);
        let (hbone, authority) = (format!("{ip}:15008"), format!("{ip}:8080"));
        let (client_id, server_id) = (id("client"), id(server));
        let ends = [
            ("src.workload", "client"),
            ("src.namespace", "default"),
            ("src.identity", &client_id),
            ("src.cluster", "Kubernetes"),
            ("dst.addr", &hbone),
            ("dst.hbone_addr", &authority),
            ("dst.workload", server),
            ("dst.namespace", "default"),
            ("dst.identity", &server_id),
            ("dst.cluster", "Kubernetes"),
            ("error", ""),
        ];
        let (up, down) = (fetched.up.to_string(), fetched.down.to_string());
        for (node, direction, sent, received) in
            [("one", "outbound", &up, &down), (node, "inbound", &down, &up)]
        {
            let line = line(&lab, node, &[("direction", direction), ("dst.hbone_addr", &authority)]);
            assert!(line.has(&ends), "{line:#?}");
            assert!(line.has(&[("bytes_sent", sent), ("bytes_recv", received)]), "{line:#?}");
            assert_eq!((line.level.as_str(), line.message.as_str()), ("info", "connection complete"));
            assert!(line.field("src.addr").starts_with("10.77.1.1:"), "{line:#?}");
            assert!(line.field("duration").ends_with("ms"), "{line:#?}");
        }
        let labels = [
            ("source_workload", "client"),
            ("source_canonical_service", "client"),
            ("source_canonical_revision", "v1"),
            ("source_workload_namespace", "default"),
            ("source_principal", &client_id),
            ("source_app", "client"),
            ("source_version", "v1"),
            ("source_cluster", "Kubernetes"),
            ("destination_service", "unknown"),
            ("destination_workload", server),
            ("destination_canonical_service", server),
            ("destination_workload_namespace", "default"),
            ("destination_principal", &server_id),
            ("destination_cluster", "Kubernetes"),
            ("request_protocol", "tcp"),
            ("connection_security_policy", "mutual_tls"),
            ("response_flags", "-"),
        ];
        for (node, reporter) in [("one", "source"), (node, "destination")] {
            let mut labels = labels.to_vec();
            labels.push(("reporter", reporter));
            assert_counted(&lab, node, &fetched, &labels);
        }
    }
}

pub(crate) fn plaintext_from_outside_the_mesh_is_carried_with_its_source() {
    let lab = raise(MESH);
    let fetched = fetch(&lab, "bare", "10.77.2.1:8080");
    assert!(fetched.answer.contains("pod=server client=10.77.2.9:"), "{}", fetched.answer);
    let line = line(&lab, "two", &[("direction", "inbound")]);
    let (up, down) = (fetched.up.to_string(), fetched.down.to_string());
    let wanted = [
        ("src.workload", "bare"),
        ("src.identity", ""),
        ("dst.addr", "10.77.2.1:8080"),
        ("dst.hbone_addr", ""),
        ("dst.workload", "server"),
        ("dst.identity", ""),
        ("bytes_sent", &down),
        ("bytes_recv", &up),
        ("error", ""),
    ];
    assert!(line.has(&wanted), "{line:#?}");
    let server_id = id("server");
    let labels = [
        ("reporter", "destination"),
        ("source_workload", "bare"),
        ("source_principal", "unknown"),
        ("destination_workload", "server"),
        ("destination_principal", &server_id),
        ("connection_security_policy", "unknown"),
        ("response_flags", "-"),
    ];
    assert_counted(&lab, "two", &fetched, &labels);
}

pub(crate) fn an_uncaptured_server_is_reached_in_plaintext() {
    let lab = raise(MESH);
    let fetched = fetch(&lab, "client", "10.77.2.9:8080");
    assert!(fetched.answer.contains("pod=bare client=10.77.1.1:"), "{}", fetched.answer);
    let line = line(&lab, "one", &[("direction", "outbound")]);
    let (up, down) = (fetched.up.to_string(), fetched.down.to_string());
    let wanted = [
        ("src.workload", "client"),
        ("src.identity", ""),
        ("dst.addr", "10.77.2.9:8080"),
        ("dst.hbone_addr", ""),
        ("dst.workload", "bare"),
        ("dst.identity", ""),
        ("bytes_sent", &up),
        ("bytes_recv", &down),
        ("error", ""),
    ];
    assert!(line.has(&wanted), "{line:#?}");
    let bare_id = id("bare");
    let labels = [
        ("reporter", "source"),
        ("source_workload", "client"),
        ("source_principal", "unknown"),
        ("destination_workload", "bare"),
        ("destination_principal", &bare_id),
        ("connection_security_policy", "unknown"),
        ("response_flags", "-"),
    ];
    assert_counted(&lab, "one", &fetched, &labels);
}

pub(crate) fn a_workload_that_has_only_a_name_is_resolved_and_that_is_counted() {
    let named = MESH.replace("captured: false,", "captured: false, announce: {hostname: localhost},");
    let lab = raise(&format!(
        "{named}services:\n  - {{name: hosted, vips: 10.96.0.90, ports: {{80: 9100}}, endpoints: [bare]}}\n"
    ));
    // Every host is its own localhost: from inside the client's pod it is the client's.
    let listener = listen(lab.pod("client").unwrap(), 9100);
    for calls in [1.0, 2.0] {
        let mut client = eventually("connection", || dial(&lab, "client", "10.96.0.90:80").ok());
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        accept(&listener).read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        let counted = metrics(&lab, "one");
        let labels = [
            ("source_workload", "client"),
            ("source_principal", "spiffe://cluster.local/ns/default/sa/client"),
            ("hostname", "localhost"),
        ];
        assert_eq!(counted.sum("istio_on_demand_dns_total", &labels), calls);
    }
}

pub(crate) fn a_service_reaches_its_backends_on_both_nodes() {
    let lab = raise(&format!(
        "{MESH}
services:
  - {{name: web, vips: 10.96.0.80, ports: {{80: 8080}}, endpoints: [near, server]}}
"
    ));
    let mut hit = BTreeSet::new();
    eventually("answer of both backends", || {
        let fetched = fetch(&lab, "client", "10.96.0.80:80");
        assert!(fetched.answer.contains(" client=10.77.1.1:"), "{}", fetched.answer);
        let pod = fetched.answer.split("pod=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        hit.insert(pod);
        (hit.len() == 2).then_some(())
    });
    assert!(hit.contains("near") && hit.contains("server"), "{hit:?}");
    all_closed(&lab, "one");
    for (server, node) in [("near", "one"), ("server", "two")] {
        let service = [
            ("destination_service", "web.default.svc.cluster.local"),
            ("destination_service_name", "web"),
            ("destination_service_namespace", "default"),
            ("destination_workload", server),
            ("response_flags", "-"),
        ];
        for (node, reporter) in [("one", "source"), (node, "destination")] {
            let mut labels = service.to_vec();
            labels.push(("reporter", reporter));
            let counted = metrics(&lab, node).sum("istio_tcp_connections_opened_total", &labels);
            assert!(counted >= 1.0, "{reporter} {server}: {counted}");
        }
        let named = [("dst.service", "web.default.svc.cluster.local"), ("dst.workload", server)];
        line(&lab, node, &[named[0], named[1], ("direction", "inbound")]);
        line(&lab, "one", &[named[0], named[1], ("direction", "outbound")]);
    }
}

pub(crate) fn ports_of_the_proxy_are_refused_and_nothing_loops() {
    // The proxies' own workloads are unknown in this mesh: what is asked of them waits for these.
    let lab = raise_with(MESH, &[("WARREN_WORKLOAD_TIMEOUT", "1s")], Default::default());
    open(&lab, "client", SERVER).unwrap();
    open(&lab, "bare", SERVER).unwrap();
    let before = ["one", "two"].map(|node| metrics(&lab, node));
    let nodes = ["10.77.0.1", "10.77.0.2"];
    let pods = ["10.77.1.1", "10.77.1.2", "10.77.2.1"];
    let mut asked = 0;
    for (from, more) in [("client", &["127.0.0.1"][..]), ("bare", &[])] {
        for ip in nodes.iter().chain(&pods).chain(more) {
            for port in [15001, 15006, 15008, 15053, 15000, 15020, 15021] {
                let end = ask(lab.pod(from).unwrap(), addr(&format!("{ip}:{port}")));
                let text = format!("{from} to {ip}:{port}: {end:?}");
                match (&end, port) {
                    // Anybody may ask for metrics and readiness, though not for this path.
                    (End::Closed(answer), 15020 | 15021) if nodes.contains(ip) => {
                        assert!(answer.starts_with(b"HTTP/1.1 404"), "{text}");
                    }
                    // A TLS alert is an answer of the proxy.
                    (End::Closed(answer), 15008) if answer.first() == Some(&0x15) => {}
                    _ => assert!(is_turned_away(&end), "{text}"),
                }
                asked += 1;
            }
        }
    }
    for (node, before) in ["one", "two"].into_iter().zip(before) {
        all_closed(&lab, node);
        let opened = |metrics: &Metrics| metrics.sum("istio_tcp_connections_opened_total", &[]);
        let loops = opened(&metrics(&lab, node)) - opened(&before);
        assert!(loops <= f64::from(asked), "{asked} connections became {loops} at {node}");
        let files = before.sum("process_open_fds", &[]);
        // Tunnels to pods that were not asked before may stay open: three pods, two ends each.
        metrics_show(&lab, node, &format!("{files} open files again"), |now| {
            now.sum("process_open_fds", &[]) <= files + 8.0
        });
    }
    open(&lab, "client", SERVER).unwrap();
    open(&lab, "bare", SERVER).unwrap();
}

/// Connects from `port` of a pod, whatever else that port is used for, and has one message echoed.
fn open_from(lab: &Lab, (pod, port): (&str, u16), to: &str) -> std::io::Result<TcpStream> {
    let to = addr(to);
    let any = if to.is_ipv6() { addr("[::]:0") } else { addr("0.0.0.0:0") };
    let connect = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any.ip(), port).into())?;
        socket.connect_timeout(&to.into(), LIMIT)?;
        Ok::<_, std::io::Error>(TcpStream::from(socket))
    };
    let mut stream = lab.pod(pod).unwrap().run(connect).unwrap()?;
    stream.set_read_timeout(Some(LIMIT))?;
    echo(&mut stream, b"hello")?;
    Ok(stream)
}

pub(crate) fn one_port_of_a_client_serves_for_connections_to_several_ports_and_servers() {
    let lab = raise(
        "
nodes: {one: 10.77.0.1, two: 10.77.0.2}
pods:
  - {name: client, serviceAccount: client, node: one, ip: 10.77.1.1}
  - {name: near, serviceAccount: near, node: one, ip: 10.77.1.2, run: [echo 9000, echo 9001]}
  - {name: six, serviceAccount: six, node: one, ip: 'fd77::1:3', run: [echo 9000, echo 9001]}
  - {name: server, serviceAccount: server, node: two, ip: 10.77.2.1, run: echo 9000}
  - {name: bare, node: two, ip: 10.77.2.9, captured: false, run: echo 9000}
  - {name: bare-six, node: two, ip: 'fd77::2:9', captured: false}
",
    );
    // Redirected, they differ in nothing: the pod's connection tracking gives the second one another port.
    for (from, to) in [
        ("bare", [NEAR, "10.77.1.2:9001"]),
        ("bare-six", ["[fd77::1:3]:9000", "[fd77::1:3]:9001"]),
        ("client", [SERVER, BARE]),
    ] {
        let mut live = to.map(|to| {
            open_from(&lab, (from, 40_000), to).unwrap_or_else(|error| panic!("{from} to {to}: {error}"))
        });
        for stream in &mut live {
            echo(stream, b"both are open").unwrap();
        }
    }
}
